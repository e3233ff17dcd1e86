"""Compiled blocks: one graph for each shape, what they compute, and that none is left out.

Most tests use dynamo's backend `eager`, which traces a block and runs the same operations as
without it: results are equal bit for bit, and nothing has to be compiled.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from masktas.errors import MasktasError
from masktas.nn import compiled
from masktas.nn.compiled import CompiledBlocks, applied, plainly
from masktas.nn.student import StudentShape
from masktas.nn.supernet import Supernet
from masktas.nn.vit import Block, run_blocks, stochastic_depth
from masktas.space import SearchSpace

SPACE = SearchSpace(
    name="few", embed_dim=(16,), depth=(2, 3), num_heads=(1, 2), mlp_ratio=(2, 3), head_dim=8,
    image_size=(16, 16), patch_size=(2, 4), in_channels=3, num_classes=3,
)  # fmt: skip
IMAGES = 2


@pytest.fixture(autouse=True)
def graphs() -> Any:
    """Count the graphs of this test."""
    torch._dynamo.reset()
    counters.clear()
    return lambda: counters["stats"]["unique_graphs"]


def blocks_of(count: int, **more: int) -> torch.nn.ModuleList:
    shape = {"embed_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32} | more
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.ModuleList(Block(**shape) for _ in range(count)).train()


def trained(blocks: torch.nn.ModuleList, apply: CompiledBlocks | None, **more: Any) -> list[Any]:
    """Return output and gradients of a pass."""
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    blocks.zero_grad()
    if apply:
        with apply.used():
            y = run_blocks(blocks, x, **more)
    else:
        y = run_blocks(blocks, x, **more)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in blocks.parameters())]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dropped", [False, True])
def test_blocks_of_one_shape_share_a_graph_with_the_same_results(graphs, recompute, dropped):
    branches = stochastic_depth(3, 0.5, 3, seed=0) if dropped else None
    blocks, apply = blocks_of(3), CompiledBlocks("eager")
    plain = trained(blocks, None, branches=branches, recompute=recompute)
    found = trained(blocks, apply, branches=branches, recompute=recompute)
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
    assert apply.num_graphs == graphs() == 1
    assert apply.seconds > 0


def test_more_shapes_than_dynamo_keeps_of_a_function_are_all_compiled(graphs):
    """Its limit of eight graphs of a function would leave the others uncompiled."""
    apply = CompiledBlocks("eager")
    for times in range(2):
        for mlp_dim in range(16, 16 + 9):
            trained(blocks_of(1, mlp_dim=mlp_dim), apply, recompute=False)
        assert apply.num_graphs == graphs() == 9, times


def test_what_a_graph_depends_on_has_graphs_of_its_own(graphs):
    apply, x = CompiledBlocks("eager"), torch.zeros(3, 5, 16)
    (block,) = blocks_of(1)
    apply(block, x, None)
    apply(block, x.requires_grad_(), None)
    apply(block, x, torch.ones(2, 3))
    apply(block, torch.zeros(2, 5, 16), None)
    apply(block, torch.zeros(3, 16, 5).transpose(1, 2), None)
    with torch.no_grad():
        apply(block, x, None)
    with torch.autocast("cpu", torch.bfloat16):
        apply(block, x, None)
    apply(block.eval(), x, None)
    assert apply.num_graphs == graphs() == 8


def test_only_what_runs_within_it_is_compiled(graphs):
    apply, blocks = CompiledBlocks("eager"), blocks_of(2)
    with apply.used():
        assert applied() is apply
    assert applied() is plainly
    with pytest.raises(ZeroDivisionError), apply.used():
        raise ZeroDivisionError
    trained(blocks, None, recompute=False)
    assert apply.num_graphs == graphs() == 0


def test_what_cannot_be_compiled_is_refused_and_not_run_without(monkeypatch):
    def fail(graph: Any, inputs: Any) -> Any:
        raise ValueError("no compiler here\nand more")

    (block,) = blocks_of(1)
    with pytest.raises(
        MasktasError, match=r"torch\.compile cannot .*no compiler here.*: --compile off"
    ):
        CompiledBlocks(fail)(block, torch.zeros(1, 2, 16), None)  # type: ignore[arg-type]

    def full(*given: Any, **named: Any) -> Any:
        raise torch.OutOfMemoryError("not enough")

    monkeypatch.setattr(compiled.torch, "compile", lambda *given, **named: full)
    with pytest.raises(torch.OutOfMemoryError):
        CompiledBlocks()(block, torch.zeros(1, 2, 16), None)


def masked(supernet: Supernet) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return units and the indices of visible and masked ones."""
    total, generator = supernet.units.total, torch.Generator().manual_seed(2)
    units = torch.randn(IMAGES, total, SPACE.unit**2 * 3, generator=generator)
    ids = torch.stack([torch.randperm(total, generator=generator) for _ in range(IMAGES)])
    return units, ids[:, :1], ids[:, 1:]


@pytest.mark.parametrize(
    ("bf16", "networks"), [(True, 20), pytest.param(False, 200, marks=pytest.mark.slow)]
)
def test_after_a_cover_of_the_space_random_networks_compile_nothing(graphs, bf16, networks):
    shape = StudentShape(decoder_dim=32, decoder_depth=1, teacher_dim=20, unit=SPACE.unit)
    supernet = Supernet(SPACE, shape)
    supernet.init_weights(torch.Generator().manual_seed(0))
    apply, inputs = CompiledBlocks("eager"), masked(supernet)

    def step(one: Any) -> None:
        with apply.used(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            predicted, projected = supernet.subnet(one).train()(*inputs)
        (predicted.float().sum() + projected.float().sum()).backward()

    for one in SPACE.with_all_blocks():
        step(one)
    decoders = len(SPACE.patch_size)  # which have as many tokens as patches
    assert apply.num_graphs == graphs() == SPACE.num_block_shapes + decoders == 8 + 2
    rng = random.Random(0)
    for _ in range(networks):
        step(SPACE.sample(rng))
    assert apply.num_graphs == graphs() == 10


@pytest.mark.slow
def test_by_inductor_a_step_is_close_to_one_without():
    blocks, apply = blocks_of(2), CompiledBlocks()
    for more in ({"recompute": False}, {"branches": stochastic_depth(2, 0.5, 3, seed=0)}):
        more = {"recompute": True} | more
        plain, found = trained(blocks, None, **more), trained(blocks, apply, **more)
        for a, b in zip(plain, found, strict=True):
            torch.testing.assert_close(a, b)
        again = trained(blocks, apply, **more)
        assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
