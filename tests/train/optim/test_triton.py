"""The kernel for GPUs, without one: by Triton's interpreter on the CPU. With one, there too."""

from __future__ import annotations

import random
import runpy
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from masktas.train.optim import triton as sliced_triton
from masktas.train.optim.fallback import fused_step
from masktas.train.optim.slices import BETAS, EPS, SETTLED, Piece
from masktas.train.optim.triton import OneLaunch, available

Edges = tuple[tuple[int, ...], ...]
SPACES: dict[str, list[Edges]] = {
    "odd": [
        ((5, 9, 13), (4, 11, 21)),
        ((1, 2, 3), (1, 2)),  # around every entry
        ((3, 7, 9),),
        ((1,),),
        ((1,), (5,), (6, 13)),  # positions
        ((1,), (1,), (6, 13)),  # a token
    ],
    "fours": [
        ((4, 12), (8, 20)),
        ((50, 52), (44, 48)),  # a tile of more than one block
        ((8, 12, 32),),
        ((1,), (7,), (8, 20)),
    ],
}


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch) -> torch.device:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1" if request.param == "interpreter" else "0")
    return torch.device("cpu" if request.param == "interpreter" else "cuda")


def store_of(space: str, device: torch.device) -> list[Piece]:
    """Make whole parameters with moments and counts that are at work already."""
    generator = torch.Generator().manual_seed(5)
    store = []
    for number, edges in enumerate(SPACES[space]):
        shape = [sizes[-1] for sizes in edges]
        weight, exp_avg, exp_avg_sq = (
            torch.randn(shape, generator=generator).mul(scale).to(device) for scale in (1, 0.1, 0.3)
        )
        step = torch.zeros([len(sizes) for sizes in edges])
        decay = (0.0, 0.1)[number % 2]
        store.append(Piece(weight, weight, exp_avg, exp_avg_sq.square(), step, edges, 0.0, decay))
    return store


def drawn(store: list[Piece], rng: random.Random, *, lr: float, shift: int = 0) -> list[Piece]:
    """Sample a leading slice of most parameters; gradients lie in one buffer, as after a sum."""
    pieces = []
    flat = torch.randn(20_000, generator=torch.Generator().manual_seed(rng.randrange(10**6)))
    flat, start = flat.to(store[0].weight.device), shift
    for whole in store:
        shape = [rng.choice(sizes) for sizes in whole.edges]
        if rng.random() < 0.2:
            continue
        weight = whole.weight[tuple(slice(size) for size in shape)]
        grad = flat[start : start + weight.numel()].view(shape)
        start += weight.numel()
        pieces.append(whole._replace(weight=weight, grad=grad, lr=lr))
    return pieces


def copied(store: list[Piece]) -> list[Piece]:
    return [
        Piece(*(t.clone() for t in (one.weight, one.grad, *one[2:5])), *one[5:]) for one in store
    ]


def in_float64(store: list[Piece]) -> list[list[Tensor]]:
    """Return weight, both moments and the count of every entry."""
    return [
        [*(t.double().cpu() for t in (one.weight, one.exp_avg, one.exp_avg_sq)),
         torch.zeros(one.weight.shape, dtype=torch.float64)]
        for one in store
    ]  # fmt: skip


def literal_step(entries: list[Tensor], piece: Piece) -> None:
    """Do AdamW on the sampled entries as the paper writes it, each with its own count."""
    w, m, v, t = (whole[tuple(slice(size) for size in piece.grad.shape)] for whole in entries)
    g = piece.grad.double().cpu()
    t += 1
    m.copy_(BETAS[0] * m + (1 - BETAS[0]) * g)
    v.copy_(BETAS[1] * v + (1 - BETAS[1]) * g**2)
    m_hat, v_hat = m / (1 - BETAS[0] ** t), v / (1 - BETAS[1] ** t)
    w.copy_(w - piece.lr * piece.decay * w - piece.lr * m_hat / (v_hat.sqrt() + EPS))


@pytest.mark.parametrize(("space", "shift"), [("odd", 0), ("fours", 0), ("fours", 1)])
def test_slices_are_updated_as_the_formulas_say_and_the_rest_is_frozen(device, space, shift):
    store = store_of(space, device)
    other, exact = copied(store), in_float64(store)
    kernel, rng = OneLaunch(store), random.Random(space)
    for step in range(5):
        state = rng.getstate()
        before = copied(store)
        pieces = drawn(store, rng, lr=0.02 / (1 + step), shift=shift)
        assert kernel.update(pieces) == []
        rng.setstate(state)
        fused_step(drawn(other, rng, lr=0.02 / (1 + step), shift=shift))
        sampled = {piece.exp_avg.data_ptr(): piece for piece in pieces}
        for whole, was, entries in zip(store, before, exact, strict=True):
            piece = sampled.get(whole.exp_avg.data_ptr())
            mark = torch.zeros(whole.weight.shape, dtype=torch.bool)
            if piece is not None:
                mark[tuple(slice(size) for size in piece.grad.shape)] = True
                literal_step(entries, piece)
            for name in ("weight", "exp_avg", "exp_avg_sq"):
                changed = (getattr(whole, name) != getattr(was, name)).cpu()
                assert torch.equal(changed, mark), name
    for whole, fused, (*entries, count) in zip(store, other, exact, strict=True):
        assert torch.equal(whole.step, fused.step)
        corner = tuple(torch.tensor(sizes) - 1 for sizes in whole.edges)
        assert torch.equal(whole.step.double(), count[torch.meshgrid(*corner, indexing="ij")])
        for name, entry in zip(("weight", "exp_avg", "exp_avg_sq"), entries, strict=True):
            one = getattr(whole, name)
            torch.testing.assert_close(one, getattr(fused, name), atol=2e-6, rtol=2e-6)
            torch.testing.assert_close(one.cpu().double(), entry, atol=2e-6, rtol=2e-6)
    assert max(len(whole.step.unique()) for whole in store) > 2  # seldom and often sampled


def test_the_same_bits_every_time_however_gradients_lie(device):
    ends = []
    for shift in (0, 0, 1):  # from 1 on, no gradient can be read four entries at once
        store = store_of("fours", device)
        kernel = OneLaunch(store)
        for step in range(2):
            pieces = drawn(store, random.Random(step), lr=0.02)
            if shift:
                flat = torch.cat([torch.zeros(1, device=device), *(p.grad.ravel() for p in pieces)])
                parts = flat[1:].split([piece.grad.numel() for piece in pieces])
                grads = [part.view_as(p.grad) for part, p in zip(parts, pieces, strict=True)]
                pieces = [p._replace(grad=grad) for p, grad in zip(pieces, grads, strict=True)]
                assert any(grad.data_ptr() % 16 for grad in grads)
            assert kernel.update(pieces) == []
        ends.append(store)
    for first, *others in zip(*ends, strict=True):
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(first[:5], other[:5], strict=True))


def test_a_gradient_that_is_not_dense_is_read_right(device):
    (whole, *_), (other, *_) = store_of("odd", device), store_of("odd", device)
    grad = torch.randn(21, 13, device=device).t()
    assert OneLaunch([whole]).update([whole._replace(grad=grad, lr=0.1)]) == []
    assert OneLaunch([other]).update([other._replace(grad=grad.contiguous(), lr=0.1)]) == []
    assert torch.equal(whole.weight, other.weight)
    assert whole.step.min() == 1


def test_what_it_cannot_do_is_left_and_given_back(device):
    store = store_of("odd", device)
    double = [one.double() for one in (store[2].weight, *store[2][1:4])]
    store[2] = Piece(*double, *store[2][4:])
    kernel = OneLaunch(store[:3])
    matrix, vector = store[0], store[2]
    others = [
        vector,  # of another type
        store[3],  # not of these parameters
        matrix._replace(weight=matrix.weight[5:], grad=matrix.weight[5:]),  # not leading
        matrix._replace(weight=matrix.weight[::2], grad=matrix.weight[::2]),
        matrix._replace(grad=matrix.grad.double()),
    ]
    before = copied(store)
    assert kernel.update([]) == []
    left = kernel.update(others)
    assert [id(piece) for piece in left] == [id(piece) for piece in others]
    for now, was in zip(store, before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(now[:5], was[:5], strict=True))
    left = kernel.update([*others, matrix._replace(lr=0.1)])
    assert len(left) == len(others)
    assert not torch.equal(matrix.weight, before[0].weight)
    assert len(OneLaunch([vector]).update([vector])) == 1


def test_counts_that_no_longer_matter_go_on(device):
    ends = []
    for count in (SETTLED, 12_345):
        whole = store_of("odd", device)[0]
        whole.step.fill_(count)
        assert OneLaunch([whole]).update([whole._replace(lr=0.1)]) == []
        assert torch.equal(whole.step, torch.full_like(whole.step, count + 1))
        ends.append(whole.weight)
    assert torch.equal(*ends)


@pytest.mark.usefixtures("device")
def test_four_entries_are_read_at_once_only_where_all_addresses_allow_it():
    wide, odd = (OneLaunch(store_of(name, torch.device("cpu"))) for name in ("fours", "odd"))
    addresses = np.array([[0, 0, 0, 0], [4096, 1, 0, 0], [16, 1, 0, 0]])
    assert wide._wide(addresses)
    assert not wide._wide(addresses + np.array([4, 0, 0, 0]))
    assert not odd._wide(addresses)


@pytest.mark.parametrize("aligned", [True, False])
def test_it_compiles_for_a_gpu(monkeypatch, tmp_path, aligned: bool):
    """What the interpreter does not see: types, wide loads, products not fused with sums."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if "nvidia" not in triton.backends.backends:
        pytest.skip("Triton for other GPUs")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pointers = {"blocks": "*i32", "tiles": "*i64", "now": "*i64", "rates": "*fp32"}
    fixed = {
        "beta2": BETAS[1], "new1": 1 - BETAS[0], "new2": 1 - BETAS[1], "eps": EPS,
        "aligned": aligned, "size": sliced_triton.BLOCK,
    }  # fmt: skip
    signature = pointers | dict.fromkeys(fixed, "constexpr")
    source = ASTSource(sliced_triton._compiler(), signature=signature, constexprs=fixed)
    target = GPUTarget("cuda", 90, 32)
    made = triton.compile(source, target=target, options=sliced_triton.OPTIONS)
    code = made.asm["ptx"]
    loads, stores = code.count("ld.global.v4.b32"), code.count("st.global.v4.b32")
    per_thread = sliced_triton.BLOCK // sliced_triton.OPTIONS["num_warps"] // 32
    assert (loads, stores) == ((4 * per_thread // 4, 3 * per_thread // 4) if aligned else (0, 0))
    assert "fma." not in code
    assert "div.rn.f32" in code
    assert "sqrt.rn.f32" in code
    assert "sqrt.approx" not in code


def test_it_is_for_gpus_and_for_machines_with_triton(monkeypatch):
    assert not available(torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "triton", None)
    again = runpy.run_path(sliced_triton.__file__)  # imports nothing that is not there
    assert not again["available"](torch.device("cuda"))


@pytest.mark.gpu
def test_it_is_available_on_this_gpu_and_does_not_wait_for_it():
    pytest.importorskip("triton")
    device = torch.device("cuda")
    assert available(device)
    store = store_of("odd", device)
    kernel = OneLaunch(store)
    pieces = [drawn(store, random.Random(step), lr=0.1) for step in range(4)]
    kernel.update(pieces[0])  # compiled, or read from Triton's cache
    torch.cuda.set_sync_debug_mode("error")
    try:
        for one in pieces[1:]:
            assert kernel.update(one) == []
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert all(whole.weight.isfinite().all() for whole in store)
