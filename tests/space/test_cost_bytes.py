"""Bytes in closed form, against files that are written and memory that is counted."""

import random
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from masktas.errors import BudgetError
from masktas.nn.vit import ViT
from masktas.space import PRESETS, Architecture, memory, params, size
from masktas.space.cost import BLOCK_HEADER, STEM_HEADER, header_bytes
from masktas.train import checkpoint
from masktas.train.networks import WEIGHTS, save_network

ODD = Architecture(
    33, (2, 5, 1), (1.1, 3, 0.4), head_dim=8, image_size=(32, 48), patch_size=8, in_channels=1,
    num_classes=3,
)  # fmt: skip
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def drawn(seed, names=("micro", "demo")):
    """Draw an architecture of a small preset, with or without a head."""
    rng = random.Random(seed)
    one = PRESETS[rng.choice(names)].sample(rng)
    return one.replace(num_classes=rng.choice((0, 1, 10, 1000)))


# --- the file


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("seed", range(8))
def test_no_file_is_larger_than_its_size_and_few_bytes_smaller(tmp_path, seed, precision):
    one = drawn(seed)
    network = ViT(one).to(DTYPES[precision])
    save_network(tmp_path, network)
    slack = size(one, precision) - (tmp_path / WEIGHTS).stat().st_size
    assert 0 <= slack <= 350 * (one.depth + 2)


@pytest.mark.parametrize("one", [ODD, PRESETS["tiny"].largest, PRESETS["small"].smallest])
def test_files_of_published_shapes(tmp_path, one):
    network = ViT(one.replace(num_classes=1000)).to(torch.bfloat16)
    checkpoint.save(tmp_path / "weights.safetensors", network.state_dict(), {})
    real = (tmp_path / "weights.safetensors").stat().st_size
    assert 0 <= size(one.replace(num_classes=1000), "bf16") - real <= 350 * (one.depth + 2)


def test_size_is_affine_in_parameters_and_depth():
    one = ODD.replace(num_heads=ODD.num_heads * 2, mlp_ratio=ODD.mlp_ratio * 2)
    for precision, number in (("fp32", 4), ("fp16", 2), ("bf16", 2)):
        more = size(one, precision) - size(ODD, precision)
        assert more == number * (params(one) - params(ODD)) + 3 * BLOCK_HEADER
    assert header_bytes(3) == STEM_HEADER + 3 * BLOCK_HEADER
    assert size(ODD) == size(ODD, "fp32")


@pytest.mark.parametrize("count", [size, memory])
@pytest.mark.parametrize("precision", ["int8", "", "FP32", None])
def test_unknown_precisions_are_refused(count, precision):
    with pytest.raises(BudgetError, match=r"Unknown precision .* fp32, fp16, bf16"):
        count(ODD, precision)


# --- the memory


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, by the lifetime of their storages."""

    def __init__(self, kept):
        super().__init__()
        self._kept = {tensor.untyped_storage()._cdata for tensor in kept}
        self._live = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage):
        key = storage._cdata
        if key not in self._kept and key not in self._live:
            self._live[key] = storage.nbytes()
            weakref.finalize(storage, self._live.pop, key)
            self.peak = max(self.peak, sum(self._live.values()))


def measured_memory(one):
    """Return the peak bytes of one inference, the image included and the weights not."""
    network = ViT(one).eval()
    with torch.no_grad(), Live(network.parameters()) as live:
        image = torch.zeros(1, one.in_channels, *one.image_size)
        network(image)
    return live.peak


@pytest.mark.parametrize(
    "one",
    [
        Architecture(192, (3, 4), (3.5, 4), num_classes=10),  # the last MLP is the costliest
        Architecture(64, (2, 12), (1, 1), num_classes=10),  # attention is
        Architecture(64, (1, 1), (0.25, 0.25), num_classes=0, head_dim=8),  # the last sum is
        Architecture(64, (1, 1), (1, 1), num_classes=10, pool="mean"),
        ODD,
        PRESETS["demo"].largest,
        PRESETS["micro"].smallest,
    ],
)
def test_memory_is_what_is_alive_at_the_peak(one):
    assert measured_memory(one) == memory(one)


def test_many_logits_can_be_the_peak():
    # The class token is gone by then, but counted.
    one = Architecture(16, (1, 1), (1, 1), head_dim=8, image_size=(16, 16), patch_size=8)
    many = one.replace(num_classes=4000)
    assert memory(many) - 4 * 16 <= measured_memory(many) <= memory(many)
    assert memory(many) > memory(one.replace(num_classes=10))


@pytest.mark.parametrize("seed", range(12))
def test_memory_of_random_networks(seed):
    # Exact, but where the first block alone is the costliest: then one [T, D] more than true.
    one = drawn(seed, ("micro", "demo", "tiny")).replace(num_classes=10)
    later = one.replace(num_heads=one.num_heads[1:], mlp_ratio=one.mlp_ratio[1:])
    tokens = 4 * (one.num_patches + 1) * one.embed_dim
    if memory(later) == memory(one):
        assert measured_memory(one) == memory(one)
    else:
        assert memory(one) - tokens <= measured_memory(one) <= memory(one)


def test_memory_halves_with_the_bytes_of_a_number():
    assert memory(ODD, "bf16") == memory(ODD, "fp16") == memory(ODD, "fp32") // 2
