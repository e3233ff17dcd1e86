"""Plans of segmentations: activations scaled from a small crop, the network of the budget."""

from __future__ import annotations

import pytest

from masktas.config import AllSettings, SegmentSettings, validate
from masktas.console import Console
from masktas.errors import ConfigError
from masktas.space import Architecture
from masktas.stages.common.tasks import Setup
from masktas.stages.plan.estimates import Device
from masktas.stages.plan.segmenting import SegmentTrial, plan_segment
from masktas.stages.plan.trial import TrainingTrial
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime

SHAPE = Architecture(
    embed_dim=16, num_heads=(1, 1, 1), mlp_ratio=(2, 2, 2), head_dim=8, image_size=(96, 128),
    patch_size=4, num_classes=0,
)  # fmt: skip
QUIET = Console(quiet=True)


@pytest.mark.parametrize("decoder", ["linear", "upernet"])
def test_activations_of_a_small_crop_are_those_of_the_whole(decoder: str) -> None:
    settings = SegmentSettings(decoder=decoder, channels=8, batch_size=2)
    setup = Setup(0, Runtime.choose("cpu", "fp32"), ALONE)
    trial = SegmentTrial(10, 1, SHAPE, 5, setup)
    whole = TrainingTrial._activations(trial, settings)
    assert trial._activations(settings) == pytest.approx(whole, rel=0.05)


def test_the_costliest_network_of_the_budget_is_planned() -> None:
    content = {
        "data": {"image_size": 16, "validation_share": 0.1, "test_share": 0.1},
        "supernet": {"space": "demo"},
        "segment": {"decoder": "linear", "batch_size": 4, "epochs": 3},
        "runtime": {"device": "cpu"},
    }
    device = Device(1e12, 0.5)

    def planned(num_images: int = 100, devices: int = 1, **more: object) -> object:
        settings = validate(AllSettings, content | more)
        return plan_segment(
            num_images, settings, num_classes=5, devices=devices, device=device, console=QUIET
        )

    most = planned()
    assert most.images == 3 * 80
    assert most.seconds == pytest.approx(most.flops / 5e11)
    small = planned(search={"max_macs": "50% of largest"})
    assert small.flops < 0.6 * most.flops
    two = planned(devices=2)
    assert two.seconds == pytest.approx(most.seconds / 2)
    assert two.memory_bytes < most.memory_bytes
    with pytest.raises(ConfigError, match="segment: 2 images are fewer than one batch of 4"):
        planned(num_images=3)
