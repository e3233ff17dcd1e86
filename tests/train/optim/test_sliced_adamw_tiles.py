"""Counts of steps by tile: for any edges and slices those of the literal reference by entry."""

import math
import random
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from examples import examples
from masktas.nn.supernet import Supernet
from masktas.space import SearchSpace
from masktas.train.optim.sliced_adamw import SlicedAdamW, decay_groups
from masktas.train.optim.slices import BETAS, EPS, SETTLED
from sliced import SHAPE, STATE, both_ways, train_step
from worlds import every_entry

# --- edges


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


# --- the literal reference


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
