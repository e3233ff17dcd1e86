"""`SlicedAdamW` in C, in torch and on a GPU: repeatable, and the same in any of them."""

import copy
import random

import pytest
import torch

from masktas.nn.supernet import Supernet
from masktas.space import SearchSpace
from masktas.train.checkpoint import TrainingState
from masktas.train.optim import cpu
from masktas.train.optim.sliced_adamw import SlicedAdamW
from masktas.train.optim.slices import BETAS, SETTLED
from masktas.train.optim.triton import available
from sliced import SHAPE, Store, both_ways, cut
from worlds import every_entry


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
    assert available(torch.device("cuda", torch.cuda.current_device()))  # its first launch waits
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
