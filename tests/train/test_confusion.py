"""Measures of segmentation against literal loops: IoU, accuracies, the mean over windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from masktas.data.augment import crop
from masktas.data.masks import IGNORED
from masktas.nn.segmenter import Segmenter
from masktas.nn.vit import ViT
from masktas.space import Architecture
from masktas.train.confusion import Confusion, confusion
from masktas.train.input import NetworkInput
from masktas.train.optim.layer_decay import layer_groups, layer_of
from masktas.train.ranks import Ranks
from masktas.train.runtime import Runtime
from masktas.train.segmenters import SegmenterFacts, load_segmenter, save_segmenter
from masktas.train.windows import SlidingRows, Views, class_map, segment_bands, window_starts
from pairs import opened, write_pairs

SHAPE = Architecture(
    embed_dim=16, num_heads=(1, 1), mlp_ratio=(2, 2), head_dim=8, image_size=(16, 16),
    patch_size=8, num_classes=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def network() -> Segmenter:
    generator = torch.Generator().manual_seed(0)
    vit = ViT(SHAPE)
    vit.init_weights(generator)
    made = Segmenter(vit, "linear", 8, 3)
    made.init_weights(generator)
    with torch.no_grad():
        made.decoder.classify.weight.mul_(100)
    return made.eval()


def slide(network: Segmenter, image: Tensor) -> Tensor:
    """Return the logits of an image `[1, C, H, W]` at once, `[K, H, W]`."""
    return SlidingRows(network, image, Runtime.choose("cpu", "fp32")).rows(0, image.shape[2])


def by_loops(true: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, float]:
    """The definitions, pixel by pixel."""
    ious, accuracies, right, labelled = [], [], 0, 0
    for one in range(classes):
        both = either = own = 0
        for t, p in zip(true.ravel().tolist(), predicted.ravel().tolist(), strict=True):
            if t == IGNORED:
                continue
            both += t == one and p == one
            either += t == one or p == one
            own += t == one
        if own:
            ious.append(both / either)
            accuracies.append(both / own)
        right, labelled = right + both, labelled + own
    return {
        "miou": sum(ious) / len(ious),
        "pixel_accuracy": right / labelled,
        "class_accuracy": sum(accuracies) / len(accuracies),
    }


def test_a_hand_made_case_of_4_x_4() -> None:
    """Class 2 is predicted but does not occur; ignored pixels are in no union."""
    true = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [-1, -1, -1, -1]])
    predicted = np.array([[0, 0, 1, 1], [0, 1, 1, 1], [0, 2, 1, 0], [0, 1, 2, 0]])
    counts = np.zeros((3, 3), np.int64)
    for t, p in zip(true.ravel(), predicted.ravel(), strict=True):
        if t >= 0:
            counts[t, p] += 1
    found = Confusion(counts, 0.5)
    assert found.ious[:2].tolist() == [4 / 7, 5 / 7]
    assert found.present.tolist() == [True, True, False]
    measures = found.measures()
    for name, value in by_loops(true, predicted, 3).items():
        assert measures[name] == pytest.approx(value)
    assert measures["miou"] == pytest.approx((4 / 7 + 5 / 7) / 2)
    assert measures["pixel_accuracy"] == pytest.approx(9 / 12)
    assert list(found.per_class(("a", "b", "c"))) == ["a", "b"]


@pytest.mark.parametrize(
    ("whole", "side", "expected"),
    [(16, 16, [0]), (17, 16, [0, 1]), (512, 512, [0]), (683, 512, [0, 171]),
     (1024, 512, [0, 341, 512])],
)  # fmt: skip
def test_windows_cover_a_length(whole: int, side: int, expected: list[int]) -> None:
    assert window_starts(whole, side) == expected


@pytest.mark.parametrize("size", [(32, 48), (10, 21), (16, 16), (37, 12)])
def test_sliding_windows_against_loops(network: Segmenter, size: tuple[int, int]) -> None:
    image = torch.randn(1, 3, *size)
    height, width = max(16, size[0]), max(16, size[1])
    padded = torch.zeros(1, 3, height, width)
    padded[:, :, : size[0], : size[1]] = image
    total, times = torch.zeros(3, height, width), torch.zeros(height, width)
    for top in {*range(0, height - 15, 10), height - 16}:
        for left in {*range(0, width - 15, 10), width - 16}:
            with torch.no_grad():
                logits = network(padded[:, :, top : top + 16, left : left + 16])[0][0]
            total[:, top : top + 16, left : left + 16] += logits
            times[top : top + 16, left : left + 16] += 1
    found = slide(network, image)
    assert found.shape == (3, *size)
    assert torch.allclose(found, (total / times)[:, : size[0], : size[1]], atol=1e-5)


def test_several_views_average_probabilities(network: Segmenter) -> None:
    """Two scales, mirrored too, against the four views one by one."""
    pixels = torch.randint(0, 256, (20, 30, 3), dtype=torch.uint8)
    runtime, scale = Runtime.choose("cpu", "fp32"), {"mean": (0.4,) * 3, "std": (0.2,) * 3}
    views = Views(None, (1.0, 1.5), flip=True)
    found = torch.cat([*segment_bands(network, pixels, views, runtime=runtime, **scale)], dim=2)
    total = torch.zeros(1, 3, 20, 30)
    for factor in (1.0, 1.5):
        size = (round(20 * factor), round(30 * factor))
        for mirrored in (False, True):
            seen = pixels.flip(1) if mirrored else pixels
            box = torch.tensor([[0, 0, 20, 30]])
            mean, std = (torch.tensor(one) for one in scale.values())
            image = crop(seen[None].contiguous(), box, None, size, mean=mean, std=std)
            logits = slide(network, image)[None]
            logits = torch.nn.functional.interpolate(logits, (20, 30), mode="bilinear")
            shares = logits.softmax(dim=1)
            total += shares.flip(3) if mirrored else shares
    assert torch.allclose(found.exp(), total / 4, atol=1e-4)
    assert not torch.allclose(found.exp(), shares, atol=1e-2)
    assert views.windows((20, 30), (16, 16)) == 2 * (2 * 3 + 3 * 4)


@pytest.mark.parametrize(
    "views", [Views(), Views(23), Views(70), Views(40, (0.6, 1.0), flip=True, at_once=2)]
)
def test_bands_of_rows_are_the_whole_and_keep_few_rows(
    network: Segmenter, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small bands against one band, and against logits that are scaled as a whole."""
    pixels = torch.randint(0, 256, (61, 47, 3), dtype=torch.uint8)
    given = {"mean": (0.4,) * 3, "std": (0.2,) * 3, "runtime": Runtime.choose("cpu", "fp32")}
    whole = list(segment_bands(network, pixels, views, **given))
    assert [one.shape for one in whole] == [(1, 3, 61, 47)]
    kept, reach = [], SlidingRows._reach

    def watched(self: SlidingRows, first: int, last: int) -> None:
        reach(self, first, last)
        kept.append(self._total.shape[1] / self.size[0])

    monkeypatch.setattr(SlidingRows, "_reach", watched)
    bands = list(segment_bands(network, pixels, views, **given, entries=3 * 47 * 5))
    assert [one.shape[2] for one in bands] == [5] * 12 + [1]
    assert torch.allclose(torch.cat(bands, dim=2), whole[0], atol=1e-5)
    if views.at_once == 2:
        assert max(kept) < 0.8
    same = class_map(network, pixels, views, **given)
    assert torch.equal(same, whole[0][0].argmax(dim=0).to(torch.int16))
    if len(views.scales) == 1:
        mean, std = (torch.tensor(given[name]) for name in ("mean", "std"))
        box = torch.tensor([[0, 0, 61, 47]])
        image = crop(pixels[None], box, None, views.sizes((61, 47))[0], mean=mean, std=std)
        logits = slide(network, image)[None]
        scaled = torch.nn.functional.interpolate(logits, (61, 47), mode="bilinear")
        assert torch.allclose(whole[0], scaled, atol=1e-4)


@pytest.mark.parametrize("short_side", [None, 20])
def test_every_image_is_counted_at_its_own_size(
    network: Segmenter, tmp_path: Path, short_side: int | None
) -> None:
    images, runtime = opened(write_pairs(tmp_path)), Runtime.choose("cpu", "fp32")
    found = confusion(network, images, "supernet", "test", views=Views(short_side), runtime=runtime)
    rows = images.rows("supernet", "test").tolist()
    true = np.stack([images.mask(row) for row in rows])
    assert found.counts.sum() == (true != IGNORED).sum()
    assert found.counts.sum(axis=1).tolist() == [(true == one).sum() for one in range(3)]
    if short_side is None:
        mean, std = (torch.tensor(one)[:, None, None] for one in (images.mean, images.std))
        predicted, loss = [], 0.0
        for row in rows:
            image = (torch.from_numpy(images.image(row)).permute(2, 0, 1) / 255 - mean) / std
            logits = slide(network, image[None].float())
            predicted.append(logits.argmax(dim=0).numpy())
            log_shares = logits.log_softmax(dim=0)
            for (y, x), label in np.ndenumerate(images.mask(row)):
                loss -= 0 if label == IGNORED else float(log_shares[label, y, x])
        measures = found.measures()
        for name, value in by_loops(true, np.stack(predicted), 3).items():
            assert measures[name] == pytest.approx(value)
        assert measures["loss"] == pytest.approx(loss / (true != IGNORED).sum(), rel=1e-4)


def test_processes_share_the_images(network: Segmenter, tmp_path: Path) -> None:
    class Alone(Ranks):
        def sum(self, tensor: Tensor) -> Tensor:
            return tensor

    images, runtime = opened(write_pairs(tmp_path)), Runtime.choose("cpu", "fp32")
    parts = [
        confusion(network, images, "supernet", views=Views(), runtime=runtime, ranks=Alone(n, 2))
        for n in range(2)
    ]
    whole = confusion(network, images, "supernet", views=Views(), runtime=runtime)
    assert (parts[0].counts + parts[1].counts == whole.counts).all()
    assert all(one.counts.sum() for one in parts)


def test_a_segmenter_on_disk_is_the_same(network: Segmenter, tmp_path: Path) -> None:
    facts = SegmenterFacts("linear", 8, ("a", "b", "c"), (0, 1, 2), None, (255,))
    seen = NetworkInput((16, 16), (16, 16), 3, None, (0.5,) * 3, (0.2,) * 3)
    save_segmenter(tmp_path, network, facts, seen)
    loaded, found = load_segmenter(tmp_path)
    assert found == facts
    pixels = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded(pixels)[0], network(pixels)[0])


def test_the_decoder_has_the_whole_rate_and_the_backbone_decays(network: nn.Module) -> None:
    assert [layer_of(f"backbone.{name}", 2) for name in ("pos_embed", "blocks.1.fc1.weight",
            "norm.weight")] == [0, 2, 3]  # fmt: skip
    assert layer_of("decoder.classify.weight", 2) == 3
    groups = layer_groups(network, weight_decay=0.1, layer_decay=0.5)
    named = {id(one): name for name, one in network.named_parameters()}
    scales = {named[id(one)]: group["lr_scale"] for group in groups for one in group["params"]}
    assert len(scales) == len(named)
    assert scales["decoder.classify.weight"] == 1
    assert scales["backbone.blocks.1.fc1.weight"] == 0.5
    assert scales["backbone.pos_embed"] == 0.125
    decays = {named[id(one)]: g["weight_decay"] for g in groups for one in g["params"]}
    assert decays["backbone.pos_embed"] == decays["backbone.cls_token"] == 0
    assert decays["decoder.classify.weight"] == 0.1
