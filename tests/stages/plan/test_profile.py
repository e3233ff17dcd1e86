"""Profiles of a training step: every operation has one kind, and the kinds add up."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from masktas.config import AllSettings, SupernetSettings, TeacherSettings
from masktas.stages.plan.profile import OTHER, OVERHEAD, ROWS, kind_of, profile_stage
from masktas.train.runtime import Runtime

SETTINGS = AllSettings(
    supernet=SupernetSettings(space="demo"),
    teacher=TeacherSettings(embed_dim=32, depth=1, num_heads=2, decoder_dim=32, decoder_depth=1),
)


@dataclass
class Event:
    name: str
    cpu_parent: Event | None = None


def called(*names: str) -> Event:
    """Return the event of the last name, which the others have called in turn."""
    event = None
    for name in names:
        event = Event(name, event)
    assert event is not None
    return event


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("aten::linear", "aten::addmm"), "matrix products"),
        (("autograd::engine::evaluate_function: MmBackward0", "aten::mm"), "matrix products"),
        (("aten::linear", "aten::to", "aten::_to_copy", "aten::copy_"), "copies"),
        (("aten::scaled_dot_product_attention", "aten::bmm"), "attention"),
        (("aten::_scaled_dot_product_flash_attention_for_cpu_backward",), "attention"),
        (("aten::layer_norm", "aten::native_layer_norm"), "norms"),
        (("aten::gelu_backward",), "activations"),
        (("aten::cat",), "copies"),
        (("aten::add_",), OTHER),
        (("GeluBackward0",), OVERHEAD),
        (("masktas: input", "aten::linear", "aten::addmm"), "matrix products"),  # a teacher's
        (("masktas: input", "aten::layer_norm"), "input"),
        (("masktas: optimiser", "aten::addmm"), "optimiser"),
        (("masktas: optimiser", "aten::copy_"), "optimiser"),
        (("masktas: optimiser",), "optimiser"),
    ],
)
def test_an_operation_has_one_kind(names: tuple[str, ...], kind: str) -> None:
    assert kind_of(called(*names)) == kind  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", ["teacher", "supernet", "finetune"])
def test_the_kinds_of_a_step_add_up(stage: str) -> None:
    found = profile_stage(stage, SETTINGS, Runtime.choose("cpu", "fp32"), 4)
    assert tuple(found.kinds) == ROWS
    assert sum(found.kinds.values()) == pytest.approx(found.profiled_seconds)
    for kind in ROWS:
        assert found.kinds[kind] > 0, kind
    assert found.to_dict()["share_of_peak"] == found.share_of_peak > 0
    assert found.products_share_of_peak > found.share_of_peak
