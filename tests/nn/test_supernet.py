import copy

import pytest
import torch
from torch import Tensor, nn

from masktas.errors import SpaceError
from masktas.nn.mae import pixel_loss
from masktas.nn.patches import take
from masktas.nn.student import MaskedStudent, StudentShape, feature_loss
from masktas.nn.supernet import Supernet, leading
from masktas.nn.vit import ViT
from masktas.space import Architecture, SearchSpace

SHAPE = StudentShape(decoder_dim=32, decoder_depth=1, teacher_dim=20, unit=2)
SEEDS = range(6)


@pytest.fixture
def supernet(small_space: SearchSpace, randomize) -> Supernet:
    """A supernet whose every tensor, norms, biases and tokens too, is random."""
    shared = Supernet(small_space, SHAPE)
    randomize(shared.student, 0)
    return shared


def literal_slices(store: dict[str, Tensor], a: Architecture) -> dict[str, Tensor]:
    """SPEC 1, written out: which rows and columns of each weight are the architecture's own."""
    width, dim = a.embed_dim, a.head_dim
    channels = list(range(width))
    own = {
        "patch_embed.weight": store["encoder.patch_embed.weight"][channels, :],
        "patch_embed.bias": store["encoder.patch_embed.bias"][channels],
        "cls_token": store["encoder.cls_token"][:, :, channels],
        "pos_embed": store["encoder.pos_embed"][:, :, channels],
        "norm.weight": store["encoder.norm.weight"][channels],
        "norm.bias": store["encoder.norm.bias"][channels],
    }
    for block in range(a.depth):
        heads = range(a.num_heads[block])
        hidden = list(range(int(width * a.mlp_ratio[block])))
        qkv = [(head * 3 + part) * dim + c for head in heads for part in range(3)
               for c in range(dim)]  # fmt: skip
        mixed = [head * dim + c for head in heads for c in range(dim)]
        of = {
            name.removeprefix(f"encoder.blocks.{block}."): tensor
            for name, tensor in store.items()
            if name.startswith(f"encoder.blocks.{block}.")
        }
        cut = {
            "norm1.weight": of["norm1.weight"][channels],
            "norm1.bias": of["norm1.bias"][channels],
            "attn.qkv.weight": of["attn.qkv.weight"][qkv][:, channels],
            "attn.qkv.bias": of["attn.qkv.bias"][qkv],
            "attn.proj.weight": of["attn.proj.weight"][channels][:, mixed],
            "attn.proj.bias": of["attn.proj.bias"][channels],
            "norm2.weight": of["norm2.weight"][channels],
            "norm2.bias": of["norm2.bias"][channels],
            "fc1.weight": of["fc1.weight"][hidden][:, channels],
            "fc1.bias": of["fc1.bias"][hidden],
            "fc2.weight": of["fc2.weight"][channels][:, hidden],
            "fc2.bias": of["fc2.bias"][channels],
        }
        own |= {f"blocks.{block}.{name}": tensor for name, tensor in cut.items()}
    own = {f"encoder.{name}": tensor for name, tensor in own.items()}
    for name, tensor in store.items():  # the decoder and M serve every subnet whole...
        if not name.startswith("encoder."):
            own[name] = tensor
    for name in ("decoder.embed.weight", "projection.fc1.weight"):  # ... behind its own width
        own[name] = store[name][:, channels]
    return own


def test_leading_is_a_view_of_the_first_entries():
    tensor = torch.arange(24).reshape(2, 3, 4)
    view = leading(tensor, torch.Size((1, 2, 3)))
    assert view.tolist() == [[[0, 1, 2], [4, 5, 6]]]
    view[0, 0, 0] = -1
    assert tensor[0, 0, 0] == -1


@pytest.mark.parametrize("seed", SEEDS)
def test_subnet_holds_the_slices_written_out_by_hand(supernet, sample_architectures, seed: int):
    for architecture in sample_architectures(5, seed):
        literal = literal_slices(supernet.store, architecture)
        own = supernet.subnet(architecture).state_dict()
        assert own.keys() == literal.keys()
        for name, tensor in own.items():
            assert torch.equal(tensor, literal[name]), name


def test_subnet_shares_the_stores_memory_and_is_made_of_leaves(supernet, sample_architectures):
    store = supernet.store
    for architecture in sample_architectures(6, 1):
        student = supernet.subnet(architecture)
        trained = dict(student.named_parameters())
        for name, tensor in student.state_dict().items():
            assert tensor.data_ptr() == store[name].data_ptr(), name
            assert tensor.stride() == store[name].stride(), name
        assert all(p.is_leaf and p.requires_grad for p in trained.values())
        with torch.no_grad():
            trained["encoder.patch_embed.weight"][0, 0] = 77
        assert store["encoder.patch_embed.weight"][0, 0] == 77


def test_the_largest_subnet_is_the_whole_store(supernet, small_space):
    own = supernet.subnet(small_space.largest).state_dict()
    assert own.keys() == supernet.store.keys()
    for name, tensor in supernet.store.items():
        assert torch.equal(own[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", SEEDS)
def test_extract_equals_subnet(
    supernet, sample_architectures, random_patches, dtype: torch.dtype, seed: int
):
    supernet.student.to(dtype)
    tolerance = 1e-13 if dtype == torch.float64 else 1e-5
    patches, keep, _ = random_patches((3, 24, 12), 6, seed)
    visible = take(patches, keep).to(dtype)
    for architecture in sample_architectures(3, 10 + seed):
        student, network = supernet.subnet(architecture), supernet.extract(architecture)
        state = student.encoder.state_dict()
        for name, tensor in network.state_dict().items():
            if not name.startswith("head."):
                assert torch.equal(tensor, state.pop(name)), name
        assert not state
        tokens = network.forward_features(visible, keep)
        assert tokens.dtype == dtype
        # The same numbers in the same arithmetic, but a product over rows that lie apart in memory
        # may round its sums in another order: equal to the bit once they lie together.
        views = (student.encoder, supernet.encoder(architecture))
        for encoder in views:
            torch.testing.assert_close(
                encoder.forward_features(visible, keep), tokens, atol=tolerance, rtol=tolerance
            )
            dense = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
            encoder.load_state_dict(dense, assign=True)
            assert torch.equal(encoder.forward_features(visible, keep), tokens)


def test_extract_equals_a_network_filled_with_the_slices_written_out_by_hand(
    supernet, sample_architectures
):
    images = torch.randn(2, 3, 8, 12)
    for architecture in sample_architectures(5, 20):
        plain = ViT(architecture.replace(num_classes=0))
        literal = literal_slices(supernet.store, architecture)
        plain.load_state_dict(
            {name.removeprefix("encoder."): tensor for name, tensor in literal.items()
             if name.startswith("encoder.")}
        )  # fmt: skip
        network = supernet.extract(architecture.replace(num_classes=0))
        torch.testing.assert_close(network(images), plain(images), atol=1e-6, rtol=1e-6)


def test_extract_copies(supernet, small_space):
    before = copy.deepcopy(supernet.store)
    network = supernet.extract(small_space.largest)
    with torch.no_grad():
        for parameter in network.parameters():
            assert parameter.is_leaf
            assert parameter.requires_grad
            parameter.fill_(9)
    for name, tensor in supernet.store.items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_extract_gives_the_head_asked_for_at_zero(supernet, small_space, pool: str):
    images = torch.randn(2, 3, 8, 12)
    architecture = small_space.smallest.replace(pool=pool)
    assert supernet.extract(architecture)(images).tolist() == [[0.0] * 5] * 2
    seven = supernet.extract(architecture.replace(num_classes=7))
    assert seven.architecture.num_classes == 7
    assert seven(images).tolist() == [[0.0] * 7] * 2
    assert supernet.extract(architecture.replace(num_classes=0)).head is None
    assert supernet.extract(architecture.replace(num_classes=None)).head is None


def test_extract_puts_the_head_where_the_weights_are(supernet, small_space):
    supernet.student.double()
    network = supernet.extract(small_space.smallest)
    assert {p.dtype for p in network.parameters()} == {torch.float64}
    assert network(torch.randn(2, 3, 8, 12).double()).dtype == torch.float64


def losses(student: nn.Module, drawn: tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
    predicted, projected = student(*drawn)
    return pixel_loss(predicted, drawn[0], drawn[2]) + feature_loss(projected, target)


@pytest.mark.parametrize("start", ["random", "init_weights"])
def test_every_parameter_of_the_largest_subnet_gets_a_gradient(
    supernet, small_space, random_patches, start: str
):
    if start == "init_weights":
        supernet.init_weights(torch.Generator().manual_seed(0))
    student = supernet.subnet(small_space.largest)
    losses(student, random_patches((4, 24, 12), 6, 3), torch.randn(4, 6, 20)).backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.shape == supernet.store[name].shape, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in supernet.student.parameters())


def test_gradients_of_a_subnet_are_those_of_a_network_of_its_own(
    supernet, sample_architectures, random_patches
):
    drawn, target = random_patches((2, 24, 12), 6, 4), torch.randn(2, 6, 20)
    for architecture in sample_architectures(4, 30):
        shared, own = supernet.subnet(architecture), MaskedStudent(architecture, SHAPE)
        own.load_state_dict(literal_slices(supernet.store, architecture))
        losses(shared, drawn, target).backward()
        losses(own, drawn, target).backward()
        for (name, one), other in zip(shared.named_parameters(), own.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_heads_of_a_subnet_are_the_first_heads_of_the_largest(supernet, small_space):
    """With the output of every other head cut off, the largest attention does what one head does.

    Were q, k and v not head by head, a prefix would mix the queries of one with others' keys.
    """
    wide = small_space.largest
    few = small_space.build(wide.embed_dim, (1,) * wide.depth, wide.mlp_ratio)
    images = torch.randn(2, 3, 8, 12)
    narrow = supernet.extract(few.replace(num_classes=0))(images)
    with torch.no_grad():
        for block in supernet.student.encoder.blocks:
            block.attn.proj.weight[:, small_space.head_dim :] = 0
    all_heads = supernet.extract(wide.replace(num_classes=0))(images)
    torch.testing.assert_close(narrow, all_heads, atol=1e-5, rtol=1e-5)


OUTSIDE = {
    "width": {"embed_dim": 20},
    "depth": {"num_heads": (1,) * 4, "mlp_ratio": (2,) * 4},
    "heads": {"num_heads": (4,)},
    "ratio": {"mlp_ratio": (2.5,)},
    "head width": {"head_dim": 8},
    "image": {"image_size": (12, 8)},
    "patch": {"patch_size": 4},
    "channels": {"in_channels": 1},
}


@pytest.mark.parametrize("what", OUTSIDE)
def test_an_architecture_outside_the_space_is_refused(supernet, small_space, what: str):
    stranger = small_space.smallest.replace(**OUTSIDE[what])
    for build in (supernet.subnet, supernet.encoder, supernet.extract):
        with pytest.raises(SpaceError, match="not of space small-test"):
            build(stranger)


def test_starting_weights_hang_on_the_generator_alone(small_space):
    one, other = Supernet(small_space, SHAPE), Supernet(small_space, SHAPE)
    for shared in (one, other):
        shared.init_weights(torch.Generator().manual_seed(5))
    for name, tensor in one.store.items():
        assert torch.equal(tensor, other.store[name]), name


def test_building_a_subnet_draws_no_random_numbers_and_changes_no_weight(supernet, small_space):
    before, state = copy.deepcopy(supernet.store), torch.get_rng_state()
    supernet.subnet(small_space.smallest)
    supernet.encoder(small_space.largest)
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in supernet.store.items():
        assert torch.equal(tensor, before[name]), name


def test_to_moves_the_store_and_returns_the_supernet(supernet):
    assert supernet.to(torch.device("meta")) is supernet
    assert {tensor.device.type for tensor in supernet.store.values()} == {"meta"}
