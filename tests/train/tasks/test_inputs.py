"""Images, masks, targets and dropped branches of a step: by its number alone, row for row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from masktas.nn.patches import patchify
from masktas.nn.vit import ViT, stochastic_depth
from masktas.seeding import seed_for
from masktas.train.tasks.mae import MaskedBatches
from small_tasks import BATCH, TEACHER, VISIBLE, batches_of, classification, distillation, masked

CUTS = [
    [slice(0, 6)],
    [slice(0, 2), slice(2, 6)],
    [slice(0, 3), slice(3, 6)],
    [slice(at, at + 1) for at in range(6)],
]


def assert_same_pixels(parts: list[Tensor], whole: Tensor) -> None:
    """Compare bit for bit; torch crops an image that is alone with other sums, so nearly then."""
    close = {"rtol": 0, "atol": 1e-6 if len(parts) == BATCH else 0}
    torch.testing.assert_close(torch.cat(parts), whole, **close)


@pytest.mark.parametrize("cuts", CUTS, ids=["1", "2+4", "3+3", "6"])
def test_masked_rows_are_those_of_the_whole_batch_bit_for_bit(cuts):
    for step in (0, 1, 5):
        pixels, *ids = masked()(step, slice(None))
        of_pixels, *of_ids = zip(*[masked()(step, rows) for rows in cuts], strict=True)
        assert_same_pixels(of_pixels, pixels)
        for tensor, of_parts in zip(ids, of_ids, strict=True):
            assert torch.equal(tensor, torch.cat(of_parts))


def test_masks_hang_on_seed_and_step_alone():
    one = masked()
    patches, keep, hidden = one(4, slice(None))
    one(0, slice(1, 3))
    assert all(torch.equal(a, b) for a, b in zip(one(4, slice(None)), (patches, keep, hidden),
                                                 strict=True))  # fmt: skip
    assert keep.shape == (BATCH, VISIBLE)
    every = torch.cat([keep, hidden], dim=1).sort(dim=1).values
    assert torch.equal(every, torch.arange(16).expand(BATCH, -1))
    assert torch.equal(patches, patchify(batches_of().train(4)[0], 2))
    assert not torch.equal(one(3, slice(None))[1], keep)
    assert not torch.equal(MaskedBatches(batches_of(), 2, VISIBLE, 1)(4, slice(None))[1], keep)
    assert len({tuple(row) for row in keep.tolist()}) == BATCH  # each image its own


@pytest.mark.parametrize("cuts", CUTS, ids=["1", "2+4", "3+3", "6"])
def test_rows_of_a_classifier_are_those_of_the_whole_batch_bit_for_bit(randomize, cuts):
    task = classification(randomize)
    for step in (0, 1, 5):
        pixels, target, branches = task.inputs(step, slice(None))
        parts = [task.inputs(step, rows) for rows in cuts]
        assert_same_pixels([part[0] for part in parts], pixels)
        assert torch.equal(target, torch.cat([part[1] for part in parts]))
        assert torch.equal(branches, torch.cat([part[2] for part in parts], dim=2))
        numbers = batches_of().indices(step)
        assert target.tolist() == [number % 5 for number in numbers]
        drawn = stochastic_depth(3, 0.3, BATCH, seed_for(0, "drop", step))
        assert torch.equal(branches, drawn)


def test_what_is_dropped_is_dropped(randomize):
    """Scales of a half of the branches reach the network, and none without drop path."""
    task, plain = classification(randomize, drop_path=0.9), classification(randomize, drop_path=0.0)
    pixels, target, branches = task.inputs(0, slice(None))
    assert (branches == 0).any()
    (network,) = task.networks(0)
    wanted = nn.functional.cross_entropy(network(pixels, branches), target, label_smoothing=0.1)
    assert task.losses(network, (pixels, target, branches))["loss"].item() == wanted.item()
    wanted = nn.functional.cross_entropy(network(pixels), target, label_smoothing=0.1)
    assert plain.losses(network, plain.inputs(0, slice(None)))["loss"].item() == wanted.item()


def test_inputs_of_a_distillation_hold_the_teachers_tokens(randomize):
    task = distillation(randomize)
    teacher = randomize(ViT(TEACHER), 1).eval()
    whole = task.inputs(2, slice(None))
    patches, keep, hidden = masked()(2, slice(None))
    assert torch.equal(whole.units, patches)
    assert torch.equal(whole.ids_masked, hidden)
    visible = torch.stack([patches[row, keep[row]] for row in range(BATCH)])
    torch.testing.assert_close(whole.target, teacher.forward_features(visible, keep)[:, 1:])
    assert not whole.target.requires_grad
