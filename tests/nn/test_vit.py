import math
import random

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from masktas.nn.patches import patchify, sincos_positions, take
from masktas.nn.vit import Attention, Block, ViT, attend, run_blocks, stochastic_depth
from masktas.space import Architecture, SearchSpace, macs, params

NARROW = SearchSpace(
    "narrow", (20, 33), (1, 3), (1, 2), (0.3, 1.7, 4),
    head_dim=7, image_size=(6, 15), patch_size=3, in_channels=1, num_classes=0,
)  # fmt: skip
TALL = SearchSpace(
    "tall", (17, 48), (2, 4), (3, 5), (2, 2.49),
    head_dim=8, image_size=(40, 8), patch_size=4, in_channels=4, num_classes=11,
)  # fmt: skip
SPACES = [*(SearchSpace.preset(name) for name in ("tiny", "small", "base", "micro", "demo")),
          NARROW, TALL]  # fmt: skip
ONE = Architecture(
    embed_dim=18, num_heads=(3, 1, 2), mlp_ratio=(2, 1.5, 3), head_dim=4,
    image_size=(8, 12), patch_size=2, num_classes=5,
)  # fmt: skip


def counted_params(architecture: Architecture) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in ViT(architecture).parameters())


def counted_macs(architecture: Architecture, device: str = "meta") -> float:
    """Count the matrix products of one image as they are run, attention unfused."""
    with torch.device(device):
        network = ViT(architecture)
        image = torch.zeros(1, architecture.in_channels, *architecture.image_size)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_closed_form_cost_equals_what_the_network_has_and_does(space: SearchSpace):
    rng = random.Random(3)
    for classes in (0, 7):
        architecture = space.sample(rng).replace(num_classes=classes)
        assert params(architecture) == counted_params(architecture)
        assert macs(architecture) == counted_macs(architecture)


@pytest.mark.parametrize("space", [NARROW, TALL], ids=lambda space: space.name)
def test_macs_equal_those_counted_on_real_tensors(space: SearchSpace):
    rng = random.Random(4)
    for _ in range(3):
        architecture = space.sample(rng)
        assert macs(architecture) == counted_macs(architecture, "cpu")


def test_a_head_not_said_is_counted_with_a_thousand_classes_but_not_built():
    unsaid = ONE.replace(num_classes=None)
    assert ViT(unsaid).head is None
    assert params(unsaid) == counted_params(unsaid) + 1000 * unsaid.embed_dim + 1000
    assert macs(unsaid) == counted_macs(unsaid) + 1000 * unsaid.embed_dim
    assert params(unsaid) == params(ONE.replace(num_classes=1000))


@pytest.mark.parametrize(
    ("width", "heads", "ratios", "published_params", "published_macs"),
    [
        (192, "3333333333433", "3.5 3.5 3 3.5 3 3 4 4 3.5 4 3.5 4 3.5", 5_768_104, 1_283_236_352),
        (384, "6657555667767", "3 3.5 3 3.5 4 4 4 4 4 4 4 3.5 4", 22_791_592, 4_773_931_776),
        (192, "3" * 12, "4 " * 12, 5_717_416, 1_253_683_200),
        (384, "6" * 12, "4 " * 12, 22_050_664, 4_598_882_304),
    ],
    ids=["T", "S", "DeiT-T", "DeiT-S"],
)
def test_published_networks_have_their_published_size(
    width: int, heads: str, ratios: str, published_params: int, published_macs: int
):
    published = Architecture(
        embed_dim=width,
        num_heads=tuple(int(one) for one in heads),
        mlp_ratio=tuple(float(one) for one in ratios.split()),
        num_classes=1000,
    )
    assert counted_params(published) == params(published) == published_params
    assert counted_macs(published) == macs(published) == published_macs


def test_the_published_base_network_has_its_published_size():
    published = Architecture(
        embed_dim=576,
        num_heads=(9, 9, 9, 9, 9, 10, 9, 9, 10, 9, 10, 9, 9, 10),
        mlp_ratio=(3.5, 3.5, 4, 3.5, 4, 3.5, 3.5, 3, 4, 4, 3, 4, 3, 3.5),
        num_classes=1000,
    )
    assert counted_params(published) == params(published) == 53_584_168
    assert counted_macs(published) == macs(published) == 11_045_397_248


def literal_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rows = []
    for row in x:
        mean = sum(row) / len(row)
        variance = sum((one - mean) ** 2 for one in row) / len(row)
        rows.append((row - mean) / (variance + 1e-6) ** 0.5 * weight + bias)
    return torch.stack(rows)


def literal_attention(x: Tensor, state: dict[str, Tensor], heads: int, dim: int) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V head by head; head h owns 3d rows of qkv: its q, its k, its v."""
    outputs = []
    for head in range(heads):
        first = head * 3 * dim
        q, k, v = (
            x @ state["qkv.weight"][start : start + dim].T + state["qkv.bias"][start : start + dim]
            for start in (first, first + dim, first + 2 * dim)
        )
        mixed = []
        for query in q:
            scores = [math.exp((query @ key).item() / math.sqrt(dim)) for key in k]
            mixed.append(sum(s / sum(scores) * value for s, value in zip(scores, v, strict=True)))
        outputs.append(torch.stack(mixed))
    return torch.cat(outputs, dim=1) @ state["proj.weight"].T + state["proj.bias"]


def literal_gelu(x: Tensor) -> Tensor:
    return x.clone().apply_(lambda one: one * 0.5 * (1 + math.erf(one / math.sqrt(2))))


def literal_tokens(network: ViT, patches: Tensor, ids: list[int]) -> Tensor:
    """Encode the patches `ids` of one image `[N, S]`, as SPEC 1 and the ViT paper say."""
    state, shape = network.state_dict(), network.architecture
    rows = [state["cls_token"][0, 0] + state["pos_embed"][0, 0]]
    for patch in ids:
        embedded = state["patch_embed.weight"] @ patches[patch] + state["patch_embed.bias"]
        rows.append(embedded + state["pos_embed"][0, 1 + patch])
    x = torch.stack(rows)
    for index, heads in enumerate(shape.num_heads):
        start = f"blocks.{index}."
        s = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
        attention = {k.removeprefix("attn."): v for k, v in s.items() if k.startswith("attn.")}
        normed = literal_norm(x, s["norm1.weight"], s["norm1.bias"])
        x = x + literal_attention(normed, attention, heads, shape.head_dim)
        normed = literal_norm(x, s["norm2.weight"], s["norm2.bias"])
        hidden = literal_gelu(normed @ s["fc1.weight"].T + s["fc1.bias"])
        x = x + hidden @ s["fc2.weight"].T + s["fc2.bias"]
    return literal_norm(x, state["norm.weight"], state["norm.bias"])


def test_tokens_equal_a_literal_transformer(randomize):
    network = randomize(ViT(ONE), 0).double()
    patches = torch.randn(2, 24, 12, dtype=torch.float64)
    ids = torch.tensor([[3, 23, 0, 7], [10, 1, 2, 20]])
    tokens = network.forward_features(take(patches, ids), ids)
    assert tokens.dtype == torch.float64
    for image in range(2):
        literal = literal_tokens(network, patches[image], ids[image].tolist())
        torch.testing.assert_close(tokens[image], literal, atol=1e-10, rtol=1e-10)


def test_attention_equals_a_literal_loop_over_heads(randomize):
    attention = randomize(Attention(10, num_heads=3, head_dim=6), 1)
    x = torch.randn(2, 5, 10)
    mixed = attention(x)
    assert mixed.shape == (2, 5, 10)
    for image in range(2):
        literal = literal_attention(x[image], attention.state_dict(), 3, 6)
        torch.testing.assert_close(mixed[image], literal, atol=1e-5, rtol=1e-5)


def test_first_heads_of_attention_are_its_first_rows(randomize):
    wide = randomize(Attention(10, num_heads=4, head_dim=6), 2)
    narrow = Attention(10, num_heads=2, head_dim=6)
    narrow.load_state_dict(
        {
            "qkv.weight": wide.qkv.weight[: 2 * 3 * 6],
            "qkv.bias": wide.qkv.bias[: 2 * 3 * 6],
            "proj.weight": wide.proj.weight[:, : 2 * 6],
            "proj.bias": wide.proj.bias,
        }
    )
    x = torch.randn(2, 5, 10)
    with torch.no_grad():
        wide.proj.weight[:, 2 * 6 :] = 0  # nothing of the last two heads gets out
    torch.testing.assert_close(narrow(x), wide(x), atol=1e-6, rtol=1e-5)


def test_attend_in_bfloat16_is_close_to_float32():
    query, key, value = (torch.randn(2, 3, 9, 8).bfloat16() for _ in range(3))
    exact = attend(query.float(), key.float(), value.float())
    torch.testing.assert_close(
        attend(query, key, value).float(), exact, atol=1e-2, rtol=2**-7, check_dtype=False
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_attend_keeps_precision_and_type(dtype: torch.dtype):
    query, key, value = (torch.randn(1, 2, 6, 4, dtype=torch.float64).to(dtype) for _ in range(3))
    mixed = attend(query, key, value)
    assert mixed.dtype == dtype
    scores = query.double() @ key.double().transpose(-1, -2) / 2
    literal = scores.softmax(dim=-1) @ value.double()
    tolerance = 1e-12 if dtype == torch.float64 else 2e-2
    torch.testing.assert_close(mixed.double(), literal, atol=tolerance, rtol=tolerance)


def test_a_block_under_bfloat16_autocast_is_close_to_float32_with_its_gradients(randomize):
    block = randomize(Block(16, 2, 8, 32), 5)
    x = torch.randn(2, 7, 16)
    exact = block(x)
    exact.square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in block.named_parameters()}
    block.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        rough = block(x)
    rough.float().square().mean().backward()
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.05)
    for name, p in block.named_parameters():
        gap = (p.grad - gradients[name]).norm() / gradients[name].norm()
        assert gap < 0.05, name


def test_a_permutation_of_all_patches_permutes_the_tokens(randomize):
    network = randomize(ViT(ONE), 6)
    patches = torch.randn(2, 24, 12)
    ids = torch.stack([torch.randperm(24), torch.randperm(24)])
    plain = network.forward_features(patches)
    shuffled = network.forward_features(take(patches, ids), ids)
    torch.testing.assert_close(shuffled[:, 0], plain[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shuffled[:, 1:], take(plain[:, 1:], ids), atol=1e-5, rtol=1e-5)
    in_order = torch.arange(24).repeat(2, 1)
    assert torch.equal(network.forward_features(patches, in_order), plain)


def test_the_class_token_comes_first_and_sees_no_pixel_by_itself(randomize):
    # With a block that adds nothing, a token is its own embedding, normalised.
    network = randomize(ViT(ONE.replace(num_heads=(1,), mlp_ratio=(1,))), 7)
    with torch.no_grad():
        for name in ("attn.proj", "fc2"):
            layer = network.blocks[0].get_submodule(name)
            layer.weight.zero_()
            layer.bias.zero_()
    patches = torch.randn(1, 24, 12)
    ids = torch.tensor([[5, 2]])
    tokens = network.forward_features(take(patches, ids), ids)
    assert tokens.shape == (1, 3, 18)
    torch.testing.assert_close(
        tokens[0, 0], network.norm(network.cls_token + network.pos_embed[:, :1])[0, 0]
    )
    for at, patch in ((1, 5), (2, 2)):
        embedded = network.patch_embed(patches[0, patch]) + network.pos_embed[0, 1 + patch]
        torch.testing.assert_close(tokens[0, at], network.norm(embedded), atol=1e-6, rtol=1e-5)


def test_the_head_looks_at_the_class_token_or_at_the_mean_of_the_patches(randomize):
    images = torch.randn(2, 3, 8, 12)
    network = randomize(ViT(ONE), 8)
    tokens = network.forward_features(patchify(images, 2))
    torch.testing.assert_close(network(images), network.head(tokens[:, 0]))
    mean = ViT(ONE.replace(pool="mean"))
    mean.load_state_dict(network.state_dict())
    average = sum(tokens[:, 1 + patch] for patch in range(24)) / 24
    torch.testing.assert_close(mean(images), mean.head(average), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(mean(images), network(images))
    first = ViT(ONE.replace(pool="mean-norm"))
    first.load_state_dict(network.state_dict())
    raw = run_blocks(network.blocks, network.embed_patches(patchify(images, 2)), recompute=False)
    pooled = network.norm(sum(raw[:, 1 + patch] for patch in range(24)) / 24)
    torch.testing.assert_close(first(images), first.head(pooled), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(first(images), mean(images), atol=1e-3)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_without_a_head_features_come_out(randomize, pool: str):
    network = randomize(ViT(ONE.replace(num_classes=0, pool=pool)), 9)
    images = torch.randn(2, 3, 8, 12)
    tokens = network.forward_features(patchify(images, 2))
    wanted = tokens[:, 0] if pool == "cls" else tokens[:, 1:].mean(1)
    assert torch.equal(network(images), wanted)
    assert network(images).shape == (2, 18)


def test_starting_weights(randomize):
    network = randomize(ViT(ONE), 10)  # so that what is not drawn again would show
    network.init_weights(torch.Generator().manual_seed(0))
    assert not network.pos_embed[0, 0].any()
    assert torch.equal(network.pos_embed[:, 1:], sincos_positions(18, (4, 6)))
    assert 0.005 < network.cls_token.std() < 0.04
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            assert torch.equal(module.weight, torch.ones(18))
            assert not module.bias.any()
        elif isinstance(module, torch.nn.Linear):
            assert not module.bias.any()
            bound = math.sqrt(6 / (module.in_features + module.out_features))
            largest = module.weight.abs().max()
            assert 0.8 * bound < largest <= bound, name  # the head too


def test_starting_weights_hang_on_the_generator_alone():
    one, other, third = ViT(ONE), ViT(ONE), ViT(ONE)
    state = torch.get_rng_state()
    for network, seed in ((one, 1), (other, 1), (third, 2)):
        network.init_weights(torch.Generator().manual_seed(seed))
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    assert not torch.equal(one.patch_embed.weight, third.patch_embed.weight)


def test_stochastic_depth_grows_with_depth_and_keeps_the_expectation():
    scales = stochastic_depth(3, 0.8, 40_000, seed=1)
    assert scales.shape == (3, 2, 40_000)
    for block, rate in enumerate((0, 0.4, 0.8)):
        assert scales[block].unique().tolist() == pytest.approx(
            [1] if rate == 0 else [0, 1 / (1 - rate)]
        )
        torch.testing.assert_close(scales[block].mean(1), torch.ones(2), atol=0.03, rtol=0)
    assert not torch.equal(scales[1, 0], scales[1, 1])
    assert torch.equal(scales, stochastic_depth(3, 0.8, 40_000, seed=1))
    assert not torch.equal(scales, stochastic_depth(3, 0.8, 40_000, seed=2))
    assert torch.equal(stochastic_depth(1, 0.8, 5, seed=1), torch.ones(1, 2, 5))


def test_branches_scale_attention_and_mlp_of_each_image(randomize):
    network = randomize(ViT(ONE), 11)
    images = torch.randn(2, 3, 8, 12)
    depth = len(network.blocks)
    assert torch.equal(network(images, torch.ones(depth, 2, 2)), network(images))
    scales = torch.rand(depth, 2, 2)
    mixed = network(images, scales)
    for image in (0, 1):  # an image's scales are its own
        alone = network(images[image : image + 1], scales[..., image : image + 1])
        torch.testing.assert_close(mixed[image : image + 1], alone)
    x = torch.randn(2, 5, ONE.embed_dim)
    block = network.blocks[0]
    by_hand = x + 0.5 * block.attn(block.norm1(x))
    by_hand = by_hand + 3 * block.fc2(F.gelu(block.fc1(block.norm2(by_hand))))
    torch.testing.assert_close(block(x, torch.tensor([[0.5, 0.5], [3.0, 3.0]])), by_hand)


def test_recomputing_changes_memory_not_numbers(randomize):
    images, scales = torch.randn(4, 3, 8, 12), stochastic_depth(3, 0.5, 4, seed=3)
    gradients, kept = [], []
    for recompute in (False, True):
        network = randomize(ViT(ONE), 13)
        sizes: list[int] = []

        def pack(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = network(images, scales, recompute=recompute).square().sum()
        kept.append(sum(sizes))
        loss.backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_of_another_type_computes_in_it(randomize, dtype: torch.dtype):
    network = randomize(ViT(ONE), 12)
    images = torch.randn(2, 3, 8, 12)
    exact = network(images)
    logits = network.to(dtype)(images.to(dtype))
    assert logits.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float64 else 0.1
    torch.testing.assert_close(logits.float(), exact, atol=tolerance, rtol=tolerance)
