import copy
import math
import random
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from examples import examples
from masktas.nn.mae import MaskedAutoencoder, pixel_loss
from masktas.nn.patches import unpatchify
from masktas.nn.student import StudentShape, feature_loss
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.teacher import EncoderTeacher
from masktas.nn.vit import ViT
from masktas.space import Architecture, SearchSpace
from masktas.train.checkpoint import TrainingState
from masktas.train.optim import cpu
from masktas.train.optim.schedule import scaled_lr, warmup_cosine
from masktas.train.optim.sliced_adamw import (
    SlicedAdamW,
    adamw,
    decay_groups,
)
from masktas.train.optim.slices import BETAS, EPS, SETTLED
from worlds import every_entry

SHAPE = StudentShape(decoder_dim=32, decoder_depth=1, teacher_dim=20, unit=2)
STATE = ("step", "exp_avg", "exp_avg_sq")
TEACHER = Architecture(
    embed_dim=20, num_heads=(2,), mlp_ratio=(2,), head_dim=10,
    image_size=(8, 12), patch_size=2, num_classes=0,
)  # fmt: skip


@pytest.fixture(params=["C", "torch"])
def way(request, monkeypatch) -> str:
    """Make `SlicedAdamW` take one of its two ways."""
    if request.param == "C" and cpu.native() is None:
        pytest.skip("needs a C compiler")
    monkeypatch.setattr(SlicedAdamW, "_native", request.param == "C")
    return request.param


both_ways = pytest.mark.usefixtures("way")


@pytest.fixture
def supernet(small_space: SearchSpace, randomize) -> Supernet:
    shared = Supernet(small_space, SHAPE)
    randomize(shared.student, 0)
    return shared


def everything(supernet: Supernet, optimizer: SlicedAdamW) -> dict[str, dict[str, Tensor]]:
    """Copy every weight and its optimiser state."""
    copied = {}
    for name, parameter in supernet.student.named_parameters():
        state = optimizer.state[parameter]
        assert set(state) == set(STATE)
        copied[name] = {key: state[key].clone() for key in STATE} | {
            "weight": parameter.detach().clone()
        }
    return copied


def sampled(supernet: Supernet, architecture: Architecture) -> dict[str, Tensor]:
    """Mark the entries of the store that belong to an architecture."""
    shapes = {name: p.shape for name, p in supernet.subnet(architecture).named_parameters()}
    marks = {}
    for name, parameter in supernet.student.named_parameters():
        mark = torch.zeros(parameter.shape, dtype=torch.bool)
        if name in shapes:
            mark[tuple(slice(size) for size in shapes[name])] = True
        marks[name] = mark
    return marks


def train_step(supernet: Supernet, optimizer: SlicedAdamW, architecture: Architecture, draw):
    """Do one true step of Algorithm 1; `draw` gives patches and masks."""
    teacher = EncoderTeacher(ViT(TEACHER))
    patches, keep, masked = draw
    student = supernet.subnet(architecture)
    predicted, projected = student(patches, keep, masked)
    target = teacher(unpatchify(patches, 2, (4, 6)), keep)
    loss = pixel_loss(predicted, patches, masked) + feature_loss(projected, target)
    loss.backward()
    optimizer.step_slices(dict(student.named_parameters()))


@both_ways
@pytest.mark.parametrize("seed", range(4))
def test_what_is_not_sampled_stays_bit_for_bit(
    supernet, sample_architectures, random_patches, seed: int
):
    optimizer = SlicedAdamW(
        supernet.student, every_entry(supernet.student), lr=1e-2, weight_decay=0.05
    )
    # Moments and counts that plain AdamW would go on applying.
    train_step(supernet, optimizer, supernet.space.largest, random_patches((2, 24, 12), 6, seed))
    for step, architecture in enumerate(sample_architectures(5, seed)):
        marks = sampled(supernet, architecture)
        before = everything(supernet, optimizer)
        draw = random_patches((2, 24, 12), 6, 10 + step)
        train_step(supernet, optimizer, architecture, draw)
        after = everything(supernet, optimizer)
        for name, mark in marks.items():
            for key in (*STATE, "weight"):
                old, new = before[name][key], after[name][key]
                assert torch.equal(new[~mark], old[~mark]), (name, key)
            assert torch.equal(after[name]["step"][mark], before[name]["step"][mark] + 1), name
            if mark.any():
                assert not torch.equal(after[name]["weight"][mark], before[name]["weight"][mark])


@both_ways
def test_blocks_beyond_the_sampled_depth_are_not_touched(supernet, small_space, random_patches):
    optimizer = SlicedAdamW(
        supernet.student, every_entry(supernet.student), lr=1e-2, weight_decay=0.05
    )
    train_step(supernet, optimizer, small_space.largest, random_patches((2, 24, 12), 6, 0))
    before = everything(supernet, optimizer)
    shallow = small_space.uniform(24, 1, 3, 2.75)
    for step in range(3):
        train_step(supernet, optimizer, shallow, random_patches((2, 24, 12), 6, step))
    after = everything(supernet, optimizer)
    beyond = [name for name in after if name.startswith(("encoder.blocks.1.", "encoder.blocks.2."))]
    assert len(beyond) == 24
    for name in beyond:
        for key, tensor in after[name].items():
            assert torch.equal(tensor, before[name][key]), (name, key)
    for name in after.keys() - set(beyond):
        assert not torch.equal(after[name]["weight"], before[name]["weight"]), name


def random_gradients(student: nn.Module, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        for name, p in student.named_parameters()
    }


@both_ways
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)], ids=str
)
def test_with_all_of_it_sampled_at_every_step_it_is_adamw(
    supernet, small_space, dtype: torch.dtype, tolerance: float
):
    supernet.student.to(dtype)
    plain = copy.deepcopy(supernet.student)
    ours = SlicedAdamW(supernet.student, supernet.edges(), lr=1e-2, weight_decay=0.05)
    stock = torch.optim.AdamW(
        decay_groups(plain, 0.05), lr=1e-2, betas=BETAS, eps=EPS, foreach=False, fused=False
    )
    for step in range(12):
        gradients = random_gradients(plain, step)
        student = supernet.subnet(small_space.largest)
        for name, parameter in student.named_parameters():
            parameter.grad = gradients[name].clone()
        for name, parameter in plain.named_parameters():
            parameter.grad = gradients[name].clone()
        lr = 1e-2 / (1 + step)  # a schedule is at work too
        for group in (*ours.param_groups, *stock.param_groups):
            group["lr"] = lr
        ours.step_slices(dict(student.named_parameters()))
        stock.step()
        for (name, one), other in zip(
            supernet.student.named_parameters(), plain.parameters(), strict=True
        ):
            torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance, msg=name)


class Store(nn.Module):
    """A tiny store: one matrix and one bias."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, dtype=dtype))
        self.bias = nn.Parameter(torch.randn(3, dtype=dtype))


def cut(store: Store, rows: int, columns: int) -> dict[str, Tensor]:
    """Return leading views as leaves."""
    return {
        "weight": store.weight.detach()[:rows, :columns].requires_grad_(True),
        "bias": store.bias.detach()[:rows].requires_grad_(True),
    }


@both_ways
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.float64, 1e-11)], ids=str
)
def test_every_entry_is_adamw_by_itself_with_its_own_count_of_steps(
    dtype: torch.dtype, tolerance: float
):
    store, rng = Store(dtype), random.Random(3)
    lr, decay = 3e-2, 0.1
    optimizer = SlicedAdamW(store, every_entry(store), lr=lr, weight_decay=decay)
    beta1, beta2 = BETAS
    # entry -> [value, step, exp_avg, exp_avg_sq], in plain Python floats
    entries: dict[tuple[int, ...], list[float]] = {}
    for row in range(3):
        entries[(row,)] = [store.bias[row].item(), 0, 0.0, 0.0]
        for column in range(4):
            entries[(row, column)] = [store.weight[row, column].item(), 0, 0.0, 0.0]
    for _ in range(25):
        rows, columns = rng.randint(1, 3), rng.randint(1, 4)
        slices = cut(store, rows, columns)
        for tensor in slices.values():
            tensor.grad = torch.randn(tensor.shape, dtype=dtype)
        optimizer.step_slices(slices)
        for place, (value, step, average, square) in entries.items():
            if place[0] >= rows or (len(place) == 2 and place[1] >= columns):
                continue
            matrix = len(place) == 2
            gradient = slices["weight" if matrix else "bias"].grad[place].item()
            value -= lr * (decay if matrix else 0) * value
            step += 1
            average = beta1 * average + (1 - beta1) * gradient
            square = beta2 * square + (1 - beta2) * gradient**2
            corrected = math.sqrt(square / (1 - beta2**step))
            value -= lr * (average / (1 - beta1**step)) / (corrected + EPS)
            entries[place] = [value, step, average, square]
    for place, numbers in entries.items():
        parameter = store.weight if len(place) == 2 else store.bias
        state = optimizer.state[parameter]
        ours = [parameter[place].item(), *(state[key][place].item() for key in STATE)]
        assert ours == pytest.approx(numbers, rel=tolerance, abs=tolerance / 100), place
    assert len({numbers[1] for numbers in entries.values()}) > 3  # seldom and often sampled


@both_ways
def test_what_is_not_named_or_has_no_gradient_is_left():
    store = Store()
    optimizer = SlicedAdamW(store, every_entry(store), lr=0.1, weight_decay=0.5)
    before = copy.deepcopy(store.state_dict())
    slices = cut(store, 2, 2)
    slices["bias"].grad = torch.ones(2)
    optimizer.step_slices(slices)  # weight has no gradient
    assert torch.equal(store.weight, before["weight"])
    assert not optimizer.state[store.weight]["step"].any()
    assert not torch.equal(store.bias[:2], before["bias"][:2])
    between = store.bias.detach().clone()
    slices["weight"].grad = torch.ones(2, 2)
    optimizer.step_slices({"weight": slices["weight"]})  # bias is not named
    assert torch.equal(store.bias, between)
    assert not torch.equal(store.weight[:2, :2], before["weight"][:2, :2])
    optimizer.step_slices({})
    assert optimizer.state[store.weight]["step"].max() == 1


@both_ways
def test_a_gradient_of_zero_still_counts_as_sampled():
    store = Store()
    optimizer = SlicedAdamW(store, every_entry(store), lr=0.1, weight_decay=0.5)
    before = store.weight.detach().clone()
    slices = cut(store, 2, 3)
    for tensor in slices.values():
        tensor.grad = torch.zeros_like(tensor)
    optimizer.step_slices(slices)
    torch.testing.assert_close(store.weight[:2, :3], before[:2, :3] * (1 - 0.1 * 0.5))
    assert torch.equal(store.weight[2:], before[2:])
    assert torch.equal(store.weight[:, 3:], before[:, 3:])


@pytest.mark.parametrize("stock", [torch.optim.AdamW, torch.optim.Adam], ids=["AdamW", "Adam"])
def test_premise_stock_adamw_drifts_on_zero_gradients(stock: Callable[..., torch.optim.Optimizer]):
    """Why `SlicedAdamW` is there: a gradient of zero is not freezing."""
    weight = nn.Parameter(torch.randn(4, 4))
    optimizer = stock([weight], lr=1e-2, betas=BETAS, weight_decay=0.0)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    frozen, average = weight.detach().clone(), optimizer.state[weight]["exp_avg"].clone()
    for _ in range(10):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    assert (weight - frozen).abs().min() > 0.01  # momentum
    assert not torch.equal(optimizer.state[weight]["exp_avg"], average)

    fresh = nn.Parameter(torch.ones(4, 4))
    optimizer = torch.optim.AdamW([fresh], lr=1e-2, weight_decay=0.5)
    fresh.grad = torch.zeros_like(fresh)
    optimizer.step()
    assert (fresh < 1).all()  # weight decay


def linear_weights(module: nn.Module) -> set[str]:
    return {
        f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Linear)
    }


@both_ways
def test_only_matrices_are_decayed_by_the_supernets_optimiser(supernet, small_space):
    optimizer = SlicedAdamW(
        supernet.student, every_entry(supernet.student), lr=0.1, weight_decay=0.5
    )
    before = everything(supernet, optimizer)
    student = supernet.subnet(small_space.largest)
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step_slices(dict(student.named_parameters()))
    matrices = linear_weights(supernet.student)
    assert {"encoder.patch_embed.weight", "projection.fc2.weight"} <= matrices
    exempt = ("encoder.cls_token", "encoder.pos_embed", "decoder.mask_token", "encoder.norm.weight")
    assert not matrices.intersection(exempt)
    for name, parameter in supernet.student.named_parameters():
        was = before[name]["weight"]
        if name in matrices:
            torch.testing.assert_close(parameter, was * (1 - 0.1 * 0.5), msg=name)
        else:
            assert torch.equal(parameter, was), name


def test_only_matrices_are_decayed_by_adamw_and_fixed_positions_not_trained(randomize):
    model = randomize(MaskedAutoencoder(TEACHER, decoder_dim=32, decoder_depth=1), 1)
    optimizer = adamw(model, lr=0.1, weight_decay=0.5)
    names = {id(p): name for name, p in model.named_parameters()}
    grouped = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(set(names.values()) - {"encoder.pos_embed"})
    before = copy.deepcopy(model.state_dict())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, tensor in model.state_dict().items():
        if name in linear_weights(model):
            torch.testing.assert_close(tensor, before[name] * (1 - 0.1 * 0.5), msg=name)
        else:
            assert torch.equal(tensor, before[name]), name


def test_adamw_is_torchs_with_the_papers_settings():
    optimizer = adamw(nn.Linear(3, 2), lr=0.1, weight_decay=0.05)
    assert isinstance(optimizer, torch.optim.AdamW)
    for group in optimizer.param_groups:
        assert group["betas"] == (0.9, 0.95)
        assert group["lr"] == 0.1
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0, 0.05}


def rates(total: int, share: float, steps: list[int], base: float = 0.5) -> list[float]:
    """Return the rates that `step_update` sets at these steps, in this order."""
    optimizer = adamw(nn.Linear(3, 2), lr=base, weight_decay=0.05)
    schedule = warmup_cosine(optimizer, total_steps=total, warmup_share=share)
    found = []
    for step in steps:
        schedule.step_update(step)
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        found.append(rate)
    return found


@pytest.mark.parametrize(("total", "share", "warmup"), [(50, 0.2, 10), (7, 0.5, 4), (30, 0, 0)])
def test_rate_rises_in_a_line_then_falls_as_a_cosine(total: int, share: float, warmup: int):
    wanted = []
    for step in range(total):
        if step < warmup:
            wanted.append(1e-6 + (0.5 - 1e-6) * step / warmup)
        else:
            share_done = (step - warmup) / (total - warmup)
            wanted.append(0.5 * 0.5 * (1 + math.cos(math.pi * share_done)))
    assert rates(total, share, list(range(total))) == pytest.approx(wanted, rel=1e-9)


def test_rate_hangs_on_the_step_alone():
    through = rates(40, 0.2, list(range(40)))
    order = list(range(40))
    random.Random(0).shuffle(order)
    assert rates(40, 0.2, order) == [through[step] for step in order]
    for step in (0, 3, 8, 25, 39):
        assert rates(40, 0.2, [step]) == [through[step]]


@pytest.mark.parametrize(("total", "share"), [(1, 0.2), (2, 0.9), (3, 1.0), (5, 1.0)])
def test_short_trainings_have_a_rate_above_zero(total: int, share: float):
    found = rates(total, share, list(range(total)))
    assert all(rate > 0 for rate in found)
    assert max(found) == pytest.approx(0.5)


@both_ways
def test_the_schedule_drives_the_supernets_optimiser():
    store = Store()
    optimizer = SlicedAdamW(store, every_entry(store), lr=0.5, weight_decay=0.0)
    schedule = warmup_cosine(optimizer, total_steps=10, warmup_share=0.4)
    schedule.step_update(2)
    before = store.bias.detach().clone()
    slices = cut(store, 3, 4)
    for tensor in slices.values():
        tensor.grad = torch.ones_like(tensor)
    optimizer.step_slices(slices)
    # the first step of Adam is the rate itself, whatever the gradient
    moved = (before - store.bias).detach()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.25), atol=1e-5, rtol=0)


def test_rate_is_scaled_to_the_batch():
    assert scaled_lr(1.5e-4, 256) == 1.5e-4
    assert scaled_lr(1.5e-4, 64) == pytest.approx(1.5e-4 / 4)
    assert scaled_lr(1.5e-4, 2048) == pytest.approx(1.2e-3)


@both_ways
def test_counts_by_tile_are_counts_by_entry(
    small_space, sample_architectures, random_patches, randomize
):
    """The space's edges and edges around every entry train to the same weights, bit for bit."""
    ends = []
    for edges_of in (Supernet.edges, lambda shared: every_entry(shared.student)):
        shared = Supernet(small_space, SHAPE)
        randomize(shared.student, 0)
        optimizer = SlicedAdamW(shared.student, edges_of(shared), lr=1e-2, weight_decay=0.05)
        for number, one in enumerate(sample_architectures(6, 3)):
            torch.manual_seed(number)  # the same teacher for both
            train_step(shared, optimizer, one, random_patches((2, 24, 12), 6, number))
        ends.append(dict(shared.student.named_parameters()))
    assert len(ends[0]) == len(ends[1])
    for name, parameter in ends[0].items():
        assert torch.equal(parameter, ends[1][name]), name


def test_edges_hold_every_size_a_slice_can_have(supernet, small_space, sample_architectures):
    edges = supernet.edges()
    assert set(edges) == {name for name, _ in supernet.student.named_parameters()}
    for name, parameter in supernet.student.named_parameters():
        assert tuple(sizes[-1] for sizes in edges[name]) == tuple(parameter.shape)
    for one in sample_architectures(20, 5):
        for name, parameter in supernet.subnet(one).named_parameters():
            for sizes, size in zip(edges[name], parameter.shape, strict=True):
                assert size in sizes, name
    counted = sum(math.prod(len(sizes) for sizes in dims) for dims in edges.values())
    assert counted < sum(p.numel() for p in supernet.student.parameters()) / 10


class EveryEntry:
    """The slow literal reference: AdamW for each entry by itself, in float64, for any shape."""

    def __init__(self, store: nn.Module, *, lr: float, weight_decay: float) -> None:
        self.lr = lr
        self.decays = {
            id(p): group["weight_decay"]
            for group in decay_groups(store, weight_decay)
            for p in group["params"]
        }
        self.of = {
            name: {"weight": p.detach().double()}
            | {key: torch.zeros_like(p, dtype=torch.float64) for key in STATE}
            | {"decay": torch.tensor(self.decays[id(p)], dtype=torch.float64)}
            for name, p in store.named_parameters()
            if id(p) in self.decays
        }

    def step(self, gradients: dict[str, Tensor]) -> None:
        beta1, beta2 = BETAS
        for name, grad in gradients.items():
            one, place = self.of[name], tuple(slice(size) for size in grad.shape)
            g = grad.double()
            t = one["step"][place] = one["step"][place] + 1
            m = one["exp_avg"][place] = beta1 * one["exp_avg"][place] + (1 - beta1) * g
            v = one["exp_avg_sq"][place] = beta2 * one["exp_avg_sq"][place] + (1 - beta2) * g**2
            w = one["weight"][place] * (1 - self.lr * one["decay"])
            m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
            one["weight"][place] = w - self.lr * m_hat / (v_hat.sqrt() + EPS)


def by_entry(step: Tensor, edges: tuple[tuple[int, ...], ...]) -> Tensor:
    """Give every entry the count of its tile."""
    for dim, sizes in enumerate(edges):
        lengths = torch.tensor(sizes).diff(prepend=torch.tensor([0]))
        step = step.repeat_interleave(lengths, dim=dim)
    return step


def require_equal(store: nn.Module, optimizer: SlicedAdamW, edges, reference: EveryEntry) -> None:
    """Compare all weights, moments and counts with the reference; counts exactly."""
    for name, wanted in reference.of.items():
        parameter = store.get_parameter(name)
        state = optimizer.state[parameter]
        assert torch.equal(by_entry(state["step"], edges[name]).double(), wanted["step"]), name
        found = {"weight": parameter.detach(), **{key: state[key] for key in STATE[1:]}}
        for key, tensor in found.items():
            torch.testing.assert_close(
                tensor.double(), wanted[key], atol=2e-6, rtol=2e-6, msg=f"{name} {key}"
            )


def frozen_bits(
    store: nn.Module, optimizer: SlicedAdamW, edges, shapes: dict[str, torch.Size]
) -> Iterator[Tensor]:
    """Yield the bits of everything outside slices of these shapes."""
    for name, parameter in store.named_parameters():
        if parameter not in optimizer.state:
            continue
        state, shape = optimizer.state[parameter], shapes.get(name)
        outside = torch.ones(parameter.shape, dtype=torch.bool)
        if shape is not None:
            outside[tuple(slice(size) for size in shape)] = False
        for tensor in (parameter.detach(), state["exp_avg"], state["exp_avg_sq"]):
            yield tensor[outside].view(torch.int32)
        yield by_entry(state["step"], edges[name])[outside]


@both_ways
@pytest.mark.parametrize("name", ["demo", "micro", "small test"])
def test_random_architectures_of_a_space_train_like_the_reference(small_space, name: str):
    space = small_space if name == "small test" else SearchSpace.preset(name)
    shared = Supernet(space, SHAPE)
    shared.init_weights(torch.Generator().manual_seed(0))
    edges, rng = shared.edges(), random.Random(1)
    optimizer = SlicedAdamW(shared.student, edges, lr=1e-2, weight_decay=0.1)
    reference = EveryEntry(shared.student, lr=1e-2, weight_decay=0.1)
    for _ in range(8):
        student = shared.subnet(space.sample(rng))
        trained = {n: p for n, p in student.named_parameters() if p.requires_grad}
        for parameter in trained.values():
            parameter.grad = torch.randn(parameter.shape)
        shapes = {n: p.shape for n, p in trained.items()}
        before = [t.clone() for t in frozen_bits(shared.student, optimizer, edges, shapes)]
        optimizer.step_slices(trained)
        after = list(frozen_bits(shared.student, optimizer, edges, shapes))
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        reference.step({n: p.grad for n, p in trained.items()})
    require_equal(shared.student, optimizer, edges, reference)


class Odd(nn.Module):
    """A store of tensors of given shapes."""

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        super().__init__()
        for number, shape in enumerate(shapes):
            setattr(self, f"p{number}", nn.Parameter(torch.randn(shape)))


sizes = st.lists(st.integers(1, 40), min_size=1, max_size=5, unique=True).map(sorted).map(tuple)
edges_of_one = st.one_of(
    st.tuples(sizes),
    st.tuples(sizes, sizes),
    st.tuples(st.just((1,)), sizes, sizes),
    st.tuples(st.just((1,)), st.just((1,)), sizes),
    st.tuples(st.just((1, 2)), st.just((2, 3)), sizes),  # no matrix: torch's way in any case
)


@pytest.mark.parametrize("native", [True, False], ids=["C", "torch"])
@examples(60)
@given(
    every=st.lists(edges_of_one, min_size=1, max_size=4),
    rng=st.randoms(use_true_random=False),
    counted=st.sampled_from([0, 0, 3, SETTLED - 2]),
    threads=st.sampled_from([1, 2, 3, 7]),
)
def test_any_edges_and_any_slices(native: bool, every, rng, counted: int, threads: int):
    torch.manual_seed(rng.randrange(2**31))
    store = Odd([tuple(sizes[-1] for sizes in dims) for dims in every])
    edges = {f"p{number}": dims for number, dims in enumerate(every)}
    optimizer = SlicedAdamW(store, edges, lr=3e-2, weight_decay=0.1)
    optimizer._native = native
    reference = EveryEntry(store, lr=3e-2, weight_decay=0.1)
    for name, parameter in store.named_parameters():
        optimizer.state[parameter]["step"].fill_(counted)
        reference.of[name]["step"].fill_(counted)
    was = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for _ in range(5):
            slices = {}
            for name, parameter in store.named_parameters():
                place = tuple(slice(rng.choice(dim)) for dim in edges[name])
                slices[name] = parameter.detach()[place].requires_grad_(True)
                if rng.random() < 0.8:  # the others have no gradient
                    slices[name].grad = torch.randn(slices[name].shape)
            trained = {name: p for name, p in slices.items() if p.grad is not None}
            shapes = {name: p.shape for name, p in trained.items()}
            before = [t.clone() for t in frozen_bits(store, optimizer, edges, shapes)]
            optimizer.step_slices(slices)
            after = list(frozen_bits(store, optimizer, edges, shapes))
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
            reference.step({name: p.grad for name, p in trained.items()})
    finally:
        torch.set_num_threads(was)
    require_equal(store, optimizer, edges, reference)


def random_run(space: SearchSpace, steps: range, state: TrainingState | None = None):
    """Train a fresh state, or resume one, on gradients that depend on the step alone."""
    shared = Supernet(space, SHAPE)
    shared.init_weights(torch.Generator().manual_seed(0))
    optimizer = SlicedAdamW(shared.student, shared.edges(), lr=1e-2, weight_decay=0.05)
    own = TrainingState(shared.student, optimizer)
    if state is not None:
        own.fill({name: tensor.clone() for name, tensor in state.tensors().items()})
    for step in steps:
        student = shared.subnet(space.sample(random.Random(step)))
        generator = torch.Generator().manual_seed(step)
        for parameter in student.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step_slices(dict(student.named_parameters()))
    return own


def require_same_bits(one: TrainingState, other: TrainingState) -> None:
    tensors, others = one.tensors(), other.tensors()
    assert set(tensors) == set(others)
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name


@both_ways
def test_two_runs_agree_bit_for_bit_and_so_does_one_that_was_interrupted(small_space):
    straight = random_run(small_space, range(12))
    require_same_bits(straight, random_run(small_space, range(12)))
    half = random_run(small_space, range(5))
    require_same_bits(straight, random_run(small_space, range(5, 12), half))


def test_both_ways_agree_and_can_be_changed_midway(small_space, monkeypatch):
    """A run may go on on another machine."""
    ends = []
    for ways in ((True, True), (False, False), (True, False)):
        monkeypatch.setattr(SlicedAdamW, "_native", ways[0])
        half = random_run(small_space, range(5))
        monkeypatch.setattr(SlicedAdamW, "_native", ways[1])
        ends.append(random_run(small_space, range(5, 12), half).tensors())
    for name, tensor in ends[0].items():
        for other in ends[1:]:
            torch.testing.assert_close(tensor, other[name], atol=2e-6, rtol=2e-6, msg=name)


def test_the_number_of_threads_changes_no_bit_of_what_c_does(small_space):
    if cpu.native() is None:
        pytest.skip("needs a C compiler")
    was, ends = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            ends.append(random_run(small_space, range(6)))
    finally:
        torch.set_num_threads(was)
    require_same_bits(ends[0], ends[1])
    require_same_bits(ends[0], ends[2])


@both_ways
def test_gradients_need_not_be_contiguous():
    stores = [Store(), Store()]
    stores[1].load_state_dict(stores[0].state_dict())
    gradient = torch.randn(3, 2)
    for store, grad in zip(stores, (gradient, gradient.t().contiguous().t()), strict=True):
        optimizer = SlicedAdamW(store, every_entry(store), lr=0.1, weight_decay=0.5)
        slices = {"weight": cut(store, 3, 2)["weight"]}
        slices["weight"].grad = grad
        optimizer.step_slices(slices)
    torch.testing.assert_close(stores[0].weight, stores[1].weight, atol=2e-6, rtol=2e-6)


@both_ways
def test_a_state_loaded_the_way_of_torch_is_used():
    """`load_state_dict` puts other tensors in the place of the moments."""
    stores, ends = [Store(), Store()], []
    stores[1].load_state_dict(stores[0].state_dict())
    for store in stores:
        optimizer = SlicedAdamW(store, every_entry(store), lr=0.1, weight_decay=0.5)
        for step in range(4):
            slices = cut(store, 2 + step % 2, 3)
            for tensor in slices.values():
                tensor.grad = torch.full_like(tensor, step + 1)
            optimizer.step_slices(slices)
            if store is stores[1]:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        ends.append(TrainingState(store, optimizer))
    require_same_bits(*ends)


def test_from_the_settled_count_on_corrections_are_one():
    for beta in BETAS:
        assert 1 - beta**SETTLED == 1
    assert 1 - max(BETAS) ** (SETTLED - 25) < 1


@pytest.mark.parametrize("compiler", ["/nowhere/cc", "false"])
def test_without_a_compiler_torch_does_it(compiler: str, monkeypatch, small_space):
    monkeypatch.setenv("CC", compiler)
    assert cpu.native.__wrapped__() is None
    monkeypatch.setattr("masktas.train.optim.sliced_adamw.native", lambda: None)
    without = random_run(small_space, range(3))
    monkeypatch.undo()
    monkeypatch.setattr(SlicedAdamW, "_native", False)
    require_same_bits(without, random_run(small_space, range(3)))


def test_float32_on_the_cpu_is_done_in_c(monkeypatch):
    if cpu.native() is None:
        pytest.skip("needs a C compiler")
    done: list[int] = []
    monkeypatch.setattr(
        "masktas.train.optim.sliced_adamw.fused_step", lambda pieces: done.append(len(pieces))
    )
    for dtype, left_to_torch in ((torch.float32, 0), (torch.float64, 2)):
        store = Store(dtype)
        optimizer = SlicedAdamW(store, every_entry(store), lr=0.1, weight_decay=0.5)
        slices = cut(store, 2, 2)
        for tensor in slices.values():
            tensor.grad = torch.ones_like(tensor)
        optimizer.step_slices(slices)
        assert done.pop() == left_to_torch


@pytest.mark.gpu
def test_on_a_gpu_it_is_the_same_and_waits_for_nothing(small_space):
    states = []
    for device in ("cpu", "cuda"):
        shared = Supernet(small_space, SHAPE)
        shared.init_weights(torch.Generator().manual_seed(0))
        shared.to(torch.device(device))
        optimizer = SlicedAdamW(shared.student, shared.edges(), lr=1e-2, weight_decay=0.05)
        for step in range(8):
            student = shared.subnet(small_space.sample(random.Random(step)))
            generator = torch.Generator().manual_seed(step)
            for parameter in student.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(device)
            slices = dict(student.named_parameters())
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("error")
            try:
                optimizer.step_slices(slices)
            finally:
                if device == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
        states.append(TrainingState(shared.student, optimizer).tensors())
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name].cpu(), atol=2e-6, rtol=2e-6, msg=name)
