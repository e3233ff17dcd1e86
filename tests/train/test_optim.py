import copy
import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from masktas.nn.distill import EncoderTeacher, StudentShape, feature_loss
from masktas.nn.mae import MaskedAutoencoder, pixel_loss
from masktas.nn.patches import take
from masktas.nn.supernet import Supernet
from masktas.nn.vit import ViT
from masktas.space import Architecture, SearchSpace
from masktas.train.optim import (
    BETAS,
    EPS,
    SlicedAdamW,
    adamw,
    decay_groups,
    scaled_lr,
    warmup_cosine,
)
from worlds import every_entry

SHAPE = StudentShape(decoder_dim=32, decoder_depth=1, teacher_dim=20)
STATE = ("step", "exp_avg", "exp_avg_sq")
TEACHER = Architecture(
    embed_dim=20, num_heads=(2,), mlp_ratio=(2,), head_dim=10,
    image_size=(8, 12), patch_size=2, num_classes=0,
)  # fmt: skip


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
    target = teacher(take(patches, keep), keep)
    loss = pixel_loss(predicted, patches, masked) + feature_loss(projected, target)
    loss.backward()
    optimizer.step_slices(dict(student.named_parameters()))


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
    """A tiny store: one matrix and one bias, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(3, dtype=torch.float64))


def cut(store: Store, rows: int, columns: int) -> dict[str, Tensor]:
    """Return leading views as leaves."""
    return {
        "weight": store.weight.detach()[:rows, :columns].requires_grad_(True),
        "bias": store.bias.detach()[:rows].requires_grad_(True),
    }


def test_every_entry_is_adamw_by_itself_with_its_own_count_of_steps():
    store, rng = Store(), random.Random(3)
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
            tensor.grad = torch.randn(tensor.shape, dtype=torch.float64)
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
        assert ours == pytest.approx(numbers, rel=1e-11, abs=1e-13), place
    assert len({numbers[1] for numbers in entries.values()}) > 3  # seldom and often sampled


def test_what_is_not_named_or_has_no_gradient_is_left():
    store = Store()
    optimizer = SlicedAdamW(store, every_entry(store), lr=0.1, weight_decay=0.5)
    before = copy.deepcopy(store.state_dict())
    slices = cut(store, 2, 2)
    slices["bias"].grad = torch.ones(2, dtype=torch.float64)
    optimizer.step_slices(slices)  # weight has no gradient
    assert torch.equal(store.weight, before["weight"])
    assert not optimizer.state[store.weight]["step"].any()
    assert not torch.equal(store.bias[:2], before["bias"][:2])
    between = store.bias.detach().clone()
    slices["weight"].grad = torch.ones(2, 2, dtype=torch.float64)
    optimizer.step_slices({"weight": slices["weight"]})  # bias is not named
    assert torch.equal(store.bias, between)
    assert not torch.equal(store.weight[:2, :2], before["weight"][:2, :2])
    optimizer.step_slices({})
    assert optimizer.state[store.weight]["step"].max() == 1


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
