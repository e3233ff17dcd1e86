"""`SlicedAdamW`: what is not sampled keeps every bit; what is sampled is trained by AdamW."""

import copy
import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from masktas.nn.mae import MaskedAutoencoder
from masktas.nn.supernet import Supernet
from masktas.space import Architecture
from masktas.train.optim.sliced_adamw import SlicedAdamW, adamw, decay_groups
from masktas.train.optim.slices import BETAS, EPS
from sliced import STATE, TEACHER, Store, both_ways, cut, train_step
from worlds import every_entry

# --- what is not sampled


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


# --- AdamW


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


# --- weight decay


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
