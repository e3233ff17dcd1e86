"""The trainings: what they draw, what they cost, in which precision, killed and resumed."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from masktas.console import Console
from masktas.data.batches import Augment, Batches
from masktas.data.mix import Mixed
from masktas.data.store.image_store import Images, InMemory
from masktas.nn.mae import MaskedAutoencoder
from masktas.nn.patches import patchify
from masktas.nn.student import StudentShape
from masktas.nn.supernet import Supernet
from masktas.nn.supervised import SupervisedSupernet
from masktas.nn.teachers.teacher import EncoderTeacher
from masktas.nn.vit import ViT, stochastic_depth
from masktas.seeding import seed_for
from masktas.space import PRESETS, Architecture, Budget, BudgetedSpace, SearchSpace, macs, params
from masktas.stopping import Stopping
from masktas.train.checkpoint import TrainingState
from masktas.train.log import Ledger
from masktas.train.loop import Environment, LoopConfig, Training
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.step import train_step
from masktas.train.task import OptimRecipe, Task
from masktas.train.tasks.classify import Classification, ClassifierRecipe
from masktas.train.tasks.mae import MaskedAutoencoding, MaskedBatches
from masktas.train.tasks.supernet import MaskedDistillation, focus_space, sampler
from masktas.train.tasks.supervised import SupervisedSharing

BATCH = 6
CPU = Runtime(torch.device("cpu"), bf16=False)
ROUGH = Runtime(torch.device("cpu"), bf16=True)
RECIPE = OptimRecipe(1e-2, 0.05, 8, 0.2)
CLASSIFIER = ClassifierRecipe(1e-2, 0.05, 8, 0.2)
SPACE = SearchSpace(
    "square-test", (12, 18, 24), (1, 2, 3), (1, 2, 3), (1.5, 2, 2.75),
    head_dim=4, image_size=(8, 8), patch_size=2, num_classes=5,
)  # fmt: skip
TEACHER = Architecture(
    embed_dim=20, num_heads=(2, 1), mlp_ratio=(2, 3), head_dim=10,
    image_size=(8, 8), patch_size=2, num_classes=0,
)  # fmt: skip
VISIBLE = 5


def batches_of(seed: int = 0) -> Batches:
    pixels = np.random.default_rng(0).integers(0, 256, (15, 10, 10, 3), dtype=np.uint8)
    return Batches(
        Images(InMemory(pixels), np.arange(15), "supernet"), image_size=(8, 8), mean=[0.5] * 3,
        std=[0.25] * 3, batch_size=BATCH, seed=seed, device=CPU.device,
        augment=Augment((0.2, 1), True),
    )  # fmt: skip


def masked(seed: int = 0) -> MaskedBatches:
    return MaskedBatches(batches_of(seed), 2, VISIBLE, seed)


def autoencoding(randomize, runtime: Runtime = CPU) -> MaskedAutoencoding:
    model = randomize(MaskedAutoencoder(TEACHER, decoder_dim=32, decoder_depth=2), 2)
    return MaskedAutoencoding(model, masked(), RECIPE, runtime)


def distillation(
    randomize, runtime: Runtime = CPU, kind: str = "uniform", beta: float = 1.0, seed: int = 0
) -> MaskedDistillation:
    shared = Supernet(SPACE, StudentShape(32, 1, 20, SPACE.unit))
    randomize(shared.student, 0)
    return MaskedDistillation(
        shared, EncoderTeacher(randomize(ViT(TEACHER), 1)), masked(seed), RECIPE, runtime,
        beta=beta, draw=sampler(kind, SPACE), seed=seed,
    )  # fmt: skip


def classification(
    randomize, runtime: Runtime = CPU, drop_path: float = 0.3, pool: str = "mean", seed: int = 0
) -> Classification:
    network = randomize(ViT(SPACE.largest.replace(pool=pool)), 3)
    return Classification(
        network, batches_of(seed), torch.arange(15) % 5, CLASSIFIER, runtime,
        drop_path=drop_path, label_smoothing=0.1, seed=seed,
    )  # fmt: skip


def supervised(randomize, runtime: Runtime = CPU, space: SearchSpace = SPACE) -> SupervisedSharing:
    shared = SupervisedSupernet(space, 4)
    randomize(shared.student, 0)
    return SupervisedSharing(
        shared, batches_of(), torch.arange(15) % 4, RECIPE, runtime,
        draw=sampler("uniform", space), seed=0,
    )  # fmt: skip


MADE: dict[str, Callable[..., Any]] = {
    "autoencoding": autoencoding,
    "uniform": distillation,
    "sandwich": lambda r, runtime=CPU: distillation(r, runtime, "sandwich"),
    "budget": lambda r, runtime=CPU: distillation(r, runtime, "budget"),
    "classification": classification,
    "supervised": supervised,
}


@pytest.fixture(params=MADE)
def make(request: pytest.FixtureRequest, randomize) -> Callable[..., Task[Any]]:
    """Return a function that makes a task afresh, always alike."""
    return lambda runtime=CPU: MADE[request.param](randomize, runtime)


# --- cost


def counted_flops(task: Task[Any], step: int) -> int:
    """Count the products of a step as torch does them, attention's own included."""
    plain = isinstance(task, Classification | SupervisedSharing)
    inputs = task._batches.train if plain else task._batches
    whole = slice(None)
    with sdpa_kernel(SDPBackend.MATH):  # the fused one is not counted on a CPU
        with FlopCounterMode(display=False) as of_step:
            train_step(task, step, ALONE)
        with FlopCounterMode(display=False) as of_crops:  # which are products too
            inputs(step, whole)
    return of_step.get_total_flops() - of_crops.get_total_flops()


def test_macs_are_what_torch_counts(make):
    task = make()
    for step in range(2):
        assert 2 * task.macs(step) * BATCH == counted_flops(task, step)


@pytest.mark.parametrize("kind", ["uniform", "sandwich"])
def test_macs_of_a_projection_that_is_only_watched(randomize, kind: str):
    task = distillation(randomize, kind=kind, beta=0.0)
    assert 2 * task.macs(1) * BATCH == counted_flops(task, 1)
    assert task.macs(1) < distillation(randomize, kind=kind).macs(1)


@pytest.mark.parametrize("pool", ["mean", "mean-norm", "cls"])
@pytest.mark.parametrize("drop_path", [0.0, 0.3])
def test_macs_of_a_classifier(randomize, pool: str, drop_path: float):
    task = classification(randomize, drop_path=drop_path, pool=pool)
    assert 2 * task.macs(0) * BATCH == counted_flops(task, 0)


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
def test_beta_weighs_the_feature_loss(randomize, beta: float):
    task = distillation(randomize, beta=beta)
    losses = task.losses(task.networks(0)[0], task.inputs(0, slice(None)))
    weighed = losses["pixel_loss"] + beta * losses["feature_loss"]
    assert losses["loss"].item() == pytest.approx(weighed.item())
    assert losses["feature_loss"] > 0


def test_macs_hang_on_the_sampled_networks(randomize):
    task = distillation(randomize)
    assert len({task.macs(step) for step in range(8)}) > 3
    assert autoencoding(randomize).macs(0) == autoencoding(randomize).macs(7)


# --- what is sampled


def test_uniform_is_one_network_of_the_space(randomize):
    draw = sampler("uniform", SPACE)
    rng, same = random.Random(1), random.Random(1)
    for _ in range(50):
        (one,) = draw(rng)
        assert one == SPACE.sample(same)


def test_sandwich_is_largest_smallest_and_two_random_ones(randomize):
    task = distillation(randomize, kind="sandwich")
    rest = set()
    for step in range(10):
        sampled = task.sampled(step)
        assert sampled[:2] == [SPACE.largest, SPACE.smallest]
        assert len(sampled) == 4
        rest |= set(sampled[2:])
        largest, *others = (dict(net.named_parameters()) for net in task.networks(step))
        store = dict(task.module.named_parameters())
        assert {n: p.shape for n, p in largest.items()} == {n: p.shape for n, p in store.items()}
        for other in others:
            for name, parameter in other.items():
                assert all(a <= b for a, b in zip(parameter.shape, store[name].shape, strict=True))
                assert parameter.data_ptr() == store[name].data_ptr()
                assert parameter.is_leaf
                assert parameter.requires_grad
    assert len(rest) > 15


def spread(draw: Callable[[random.Random], list[Architecture]], space: SearchSpace) -> list[int]:
    """Draw 2,000 networks; return how many fall into each tenth of the range of parameters."""
    rng, low, high = random.Random(0), params(space.smallest), params(space.largest)
    tenths = Counter[int]()
    for _ in range(2000):
        (one,) = draw(rng)
        assert space.check(one) is None
        tenths[min(9, 10 * (params(one) - low) // (high - low))] += 1
    return [tenths[tenth] for tenth in range(10)]


def test_budget_draws_all_sizes_alike_and_uniform_does_not():
    space = PRESETS["demo"]

    def chi_square(counts: list[int]) -> float:
        return sum((count - 200) ** 2 / 200 for count in counts)

    assert chi_square(spread(sampler("budget", space), space)) < 28  # 1 in 1,000, 9 degrees
    uniform = spread(sampler("uniform", space), space)
    assert chi_square(uniform) > 500
    assert uniform[-1] < 50


MIXED = SPACE.replace(patch_size=(1, 2), image_size=(8, 8))


def test_focus_stays_near_the_limits_and_trains_uniform_networks_in_half_of_the_steps() -> None:
    budget = Budget(max_macs=3 * macs(MIXED.middle) // 2, max_params=10**9)
    near = focus_space(BudgetedSpace(MIXED, budget))
    draw, rng = sampler("focus", MIXED, near), random.Random(0)
    drawn = [draw(rng) for _ in range(1000)]
    assert {len(step) for step in drawn} == {1}
    networks = [step[0] for step in drawn]
    largest = params(MIXED.largest)
    for one in networks:
        assert MIXED.check(one) is None
        assert macs(one) <= 1.15 * budget.max_macs
        # Parameters are hardly limited: enough of them is 0.6 / 1.15 of what is reached.
        assert macs(one) >= 0.59 * budget.max_macs or params(one) >= 0.45 * largest
    alike = [one for one in networks if len({*one.num_heads}) == len({*one.mlp_ratio}) == 1]
    assert 450 < len(alike) < 800
    assert {one.patch_size for one in networks} == {1, 2}
    assert set(near.uniforms()) <= set(alike)


def test_focus_on_one_limit_is_between_its_ends() -> None:
    most = params(SPACE.middle)
    draw = sampler("focus", SPACE, focus_space(BudgetedSpace(SPACE, Budget(max_params=most))))
    sizes = [params(draw(random.Random(seed))[0]) for seed in range(500)]
    assert 0.57 * most <= min(sizes) < 0.75 * most
    assert most < max(sizes) <= 1.15 * most


def test_a_sandwich_is_of_one_patch_size_and_the_largest_contains_the_others() -> None:
    draw = sampler("sandwich", MIXED)
    drawn = [draw(random.Random(seed)) for seed in range(200)]
    for step in drawn:
        assert len(step) == 4
        assert len({one.patch_size for one in step}) == 1
        assert step[0] == MIXED.largest.replace(patch_size=step[0].patch_size)
        assert step[1] == MIXED.smallest.replace(patch_size=step[0].patch_size)
    assert 60 < sum(step[0].patch_size == 1 for step in drawn) < 140
    rng, same = random.Random(3), random.Random(3)
    expected = [SPACE.largest, SPACE.smallest, SPACE.sample(same), SPACE.sample(same)]
    assert sampler("sandwich", SPACE)(rng) == expected


@pytest.mark.parametrize("kind", ["uniform", "sandwich", "budget"])
def test_what_is_sampled_hangs_on_seed_and_step_alone(randomize, kind: str):
    task = distillation(randomize, kind=kind)
    straight = [task.sampled(step) for step in range(12)]
    again = distillation(randomize, kind=kind)
    order = random.Random(0).sample(range(12), 12)
    assert {step: again.sampled(step) for step in order} == dict(enumerate(straight))
    other = distillation(randomize, kind=kind, seed=1)
    assert [other.sampled(step) for step in range(12)] != straight
    assert len({str(one) for one in straight}) > 6
    for step in range(3):
        built = [net.encoder.architecture.replace(num_classes=5) for net in task.networks(step)]
        assert built == straight[step]


def test_what_is_said_about_a_step_names_its_networks(randomize):
    task = distillation(randomize, kind="sandwich")
    largest = SPACE.largest
    said = task.about(3).split("; ")
    assert len(said) == 4
    assert (
        said[0] == f"patch size 2, width 24, heads [3, 3, 3], MLP ratios {list(largest.mlp_ratio)}"
    )
    assert autoencoding(randomize).about(3) == classification(randomize).about(3) == ""


@pytest.mark.parametrize("space", [SPACE, MIXED], ids=["one patch size", "two"])
def test_a_supervised_step_changes_the_sampled_slices_and_nothing_else(
    randomize, space: SearchSpace
) -> None:
    """Bit for bit, the shared head and the optimiser's moments included; and it does change."""
    task, changed = supervised(randomize, space=space), 0
    for step in range(6):
        (one,) = task.sampled(step)
        before = {name: tensor.clone() for name, tensor in weights(task).items()}
        train_step(task, step, ALONE)
        named = {
            task._shared.stored_name(name, one.patch_size): p.shape
            for name, p in task._shared.plain(one).named_parameters()
        }
        stored = dict(task.module.named_parameters())
        head = stored["encoder.head.weight"]
        assert named["encoder.head.weight"] == (4, one.embed_dim)
        for name, tensor in weights(task).items():
            matching = [stored_name for stored_name in named if name.endswith(stored_name)]
            inside = torch.zeros(tensor.shape, dtype=torch.bool)
            if matching and tensor.shape == stored[matching[0]].shape:
                inside[tuple(slice(0, size) for size in named[matching[0]])] = True
            elif matching:
                continue  # step counts, one for each tile
            was = before.get(name, torch.zeros_like(tensor))
            assert torch.equal(tensor[~inside], was[~inside]), (step, name)
            changed += not torch.equal(tensor, was)
        assert head.shape == (4, 24)
    assert changed > 100


def test_a_supervised_subnet_is_the_plain_classifier_of_its_slice(randomize) -> None:
    task = supervised(randomize)
    pixels, target = task.inputs(1, slice(None))
    assert target.tolist() == [number % 4 for number in batches_of().indices(1)]
    (one,) = task.sampled(1)
    plain = ViT(one.replace(num_classes=4, pool="mean"))
    store = {n.removeprefix("encoder."): t for n, t in task.module.state_dict().items()}
    for name, tensor in plain.state_dict().items():
        tensor.copy_(store[name][tuple(slice(0, size) for size in tensor.shape)])
    wanted = nn.functional.cross_entropy(plain(pixels), target)
    loss = task.losses(task.networks(1)[0], (pixels, target))["loss"]
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    extracted = task._shared.extract(one)
    assert extracted.architecture == plain.architecture
    assert torch.equal(extracted(pixels), plain(pixels))
    store_before = task.module.state_dict()["encoder.head.weight"].clone()
    with torch.no_grad():
        extracted.head.weight.zero_()
    assert torch.equal(task.module.state_dict()["encoder.head.weight"], store_before)


# --- rows


CUTS = [
    [slice(0, 6)],
    [slice(0, 2), slice(2, 6)],
    [slice(0, 3), slice(3, 6)],
    [slice(at, at + 1) for at in range(6)],
]


def assert_same_pixels(parts: list[Tensor], whole: Tensor) -> None:
    """Compare bit for bit; torch crops an image that is alone with other sums, so nearly then."""
    close = {"rtol": 0, "atol": 1e-6 if len(parts) == BATCH else 0}
    torch.testing.assert_close(torch.cat(parts), whole, **close)


@pytest.mark.parametrize("cuts", CUTS, ids=["1", "2+4", "3+3", "6"])
def test_masked_rows_are_those_of_the_whole_batch_bit_for_bit(cuts):
    for step in (0, 1, 5):
        pixels, *ids = masked()(step, slice(None))
        of_pixels, *of_ids = zip(*[masked()(step, rows) for rows in cuts], strict=True)
        assert_same_pixels(of_pixels, pixels)
        for tensor, of_parts in zip(ids, of_ids, strict=True):
            assert torch.equal(tensor, torch.cat(of_parts))


def test_masks_hang_on_seed_and_step_alone():
    one = masked()
    patches, keep, hidden = one(4, slice(None))
    one(0, slice(1, 3))
    assert all(torch.equal(a, b) for a, b in zip(one(4, slice(None)), (patches, keep, hidden),
                                                 strict=True))  # fmt: skip
    assert keep.shape == (BATCH, VISIBLE)
    every = torch.cat([keep, hidden], dim=1).sort(dim=1).values
    assert torch.equal(every, torch.arange(16).expand(BATCH, -1))
    assert torch.equal(patches, patchify(batches_of().train(4)[0], 2))
    assert not torch.equal(one(3, slice(None))[1], keep)
    assert not torch.equal(MaskedBatches(batches_of(), 2, VISIBLE, 1)(4, slice(None))[1], keep)
    assert len({tuple(row) for row in keep.tolist()}) == BATCH  # each image its own


@pytest.mark.parametrize("cuts", CUTS, ids=["1", "2+4", "3+3", "6"])
def test_rows_of_a_classifier_are_those_of_the_whole_batch_bit_for_bit(randomize, cuts):
    task = classification(randomize)
    for step in (0, 1, 5):
        pixels, target, branches = task.inputs(step, slice(None))
        parts = [task.inputs(step, rows) for rows in cuts]
        assert_same_pixels([part[0] for part in parts], pixels)
        assert torch.equal(target, torch.cat([part[1] for part in parts]))
        assert torch.equal(branches, torch.cat([part[2] for part in parts], dim=2))
        numbers = batches_of().indices(step)
        assert target.tolist() == [number % 5 for number in numbers]
        drawn = stochastic_depth(3, 0.3, BATCH, seed_for(0, "drop", step))
        assert torch.equal(branches, drawn)


def test_what_is_dropped_is_dropped(randomize):
    """Scales of a half of the branches reach the network, and none without drop path."""
    task, plain = classification(randomize, drop_path=0.9), classification(randomize, drop_path=0.0)
    pixels, target, branches = task.inputs(0, slice(None))
    assert (branches == 0).any()
    (network,) = task.networks(0)
    wanted = nn.functional.cross_entropy(network(pixels, branches), target, label_smoothing=0.1)
    assert task.losses(network, (pixels, target, branches))["loss"].item() == wanted.item()
    wanted = nn.functional.cross_entropy(network(pixels), target, label_smoothing=0.1)
    assert plain.losses(network, plain.inputs(0, slice(None)))["loss"].item() == wanted.item()


def test_inputs_of_a_distillation_hold_the_teachers_tokens(randomize):
    task = distillation(randomize)
    teacher = randomize(ViT(TEACHER), 1).eval()
    whole = task.inputs(2, slice(None))
    patches, keep, hidden = masked()(2, slice(None))
    assert torch.equal(whole.units, patches)
    assert torch.equal(whole.ids_masked, hidden)
    visible = torch.stack([patches[row, keep[row]] for row in range(BATCH)])
    torch.testing.assert_close(whole.target, teacher.forward_features(visible, keep)[:, 1:])
    assert not whole.target.requires_grad


# --- precision


class Watched(TorchDispatchMode):
    """Remembers in which precision what is done."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [one for one in (*args, *(out if isinstance(out, tuple) else (out,)))
                   if isinstance(one, Tensor) and one.is_floating_point()]  # fmt: skip
        if name == "native_layer_norm":  # of which the last two are mean and deviation
            tensors = tensors[-2:]
        self.seen.setdefault(name, set()).update(one.dtype for one in tensors)
        return out


@pytest.mark.parametrize("runtime", [CPU, ROUGH], ids=["fp32", "bf16"])
def test_losses_norms_and_softmax_are_in_float32(make, runtime: Runtime):
    task = make(runtime)
    inputs = task.inputs(0, slice(None))
    with Watched() as watched:
        for network in task.networks(0):
            losses = task.losses(network, inputs)
            next(iter(losses.values())).backward()
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in network.parameters())
    products = {torch.bfloat16} if runtime.bf16 else {torch.float32}
    assert watched.seen["addmm"] == products
    attention = [name for name in watched.seen if name.startswith("_scaled_dot_product")]
    assert attention  # with its softmax
    assert {dtype for name in attention for dtype in watched.seen[name]} == {torch.float32}
    assert watched.seen["native_layer_norm"] == {torch.float32}
    assert {p.dtype for p in task.module.parameters()} == {torch.float32}


def test_tokens_of_the_encoder_are_added_up_in_float32(randomize):
    task = classification(randomize, ROUGH)
    entered: list[torch.dtype] = []
    for name, part in task.module.named_modules():
        if "norm" in name:
            part.register_forward_pre_hook(lambda _, given: entered.append(given[0].dtype))
    task.losses(task.module, task.inputs(0, slice(None)))
    assert len(entered) == 2 * 3 + 1
    assert set(entered) == {torch.float32}


def test_bf16_is_near_fp32(make):
    fine, rough = (train_step(make(runtime), 0, ALONE) for runtime in (CPU, ROUGH))
    for name in fine:
        assert rough[name].item() == pytest.approx(fine[name].item(), rel=0.05)
        assert rough[name].item() != fine[name].item()


# --- in the loop


class Killed(BaseException):
    pass


@contextmanager
def dying(task: Any, at: int) -> Iterator[None]:
    networks = task.networks

    def die(step: int) -> list[nn.Module]:
        if step == at:
            raise Killed
        return networks(step)

    task.networks = die
    yield
    task.networks = networks


def training(task: Task[Any], folder: Path) -> Training:
    plan = LoopConfig("x", 2, 3, BATCH, checkpoint_seconds=0)
    console = Console(quiet=True)
    return Training(
        task, plan, folder, Environment(CPU, ALONE, Stopping(), console, Ledger(folder))
    )


def weights(task: Task[Any]) -> dict[str, Tensor]:
    return TrainingState(task.module, task.optimizer).tensors()


def test_killed_and_resumed_every_task_ends_as_the_uninterrupted_one(make, tmp_path: Path):
    straight = make()
    cost = training(straight, tmp_path / "straight").run()
    assert cost["flops"] == 2 * BATCH * sum(straight.macs(step) for step in range(6))
    task = make()
    with dying(task, 4), pytest.raises(Killed):
        training(task, tmp_path / "killed").run()
    task = make()
    training(task, tmp_path / "killed").run()
    for name, tensor in weights(straight).items():
        assert torch.equal(weights(task)[name], tensor), name
    lines = [(tmp_path / of / "metrics.jsonl").read_text() for of in ("straight", "killed")]
    assert lines[0] == lines[1]


def test_a_training_changes_weights(make):
    task = make()
    before = copy.deepcopy(task.module.state_dict())
    for step in range(3):
        train_step(task, step, ALONE)
    changed = [not torch.equal(before[n], tensor) for n, tensor in task.module.state_dict().items()]
    assert sum(changed) > len(before) / 2


def test_in_parts_a_step_has_the_same_losses(make):
    whole, parts = make(), make()
    a, b = (train_step(one, 1, ALONE, accumulate=n) for one, n in ((whole, 1), (parts, 4)))
    for name, value in a.items():
        assert b[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_recomputing_changes_no_bit(make):
    again = make(Runtime(CPU.device, bf16=False, recompute=True))
    plain = make()
    for step in range(2):
        a, b = (train_step(one, step, ALONE) for one in (plain, again))
        assert {n: v.item() for n, v in a.items()} == {n: v.item() for n, v in b.items()}
    for name, tensor in weights(plain).items():
        assert torch.equal(weights(again)[name], tensor), name


# --- recipes of fine-tuning


def learning(randomize, *, recipe=CLASSIFIER, augment=None, batches=None, **more) -> Classification:
    """A classifier with other options, on images that may be mixed."""
    batches = batches or batches_of()
    if augment is not None:
        batches.augment = augment
    network = randomize(ViT(SPACE.largest.replace(pool="mean")), 3)
    options = {"drop_path": 0.0, "label_smoothing": 0.1, "seed": 0} | more
    return Classification(network, batches, torch.arange(15) % 5, recipe, CPU, **options)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_mixed_images_is_timms(randomize, smoothing: float, monkeypatch):
    share = 0.3
    pairs = batches_of()

    def mixed(step: int, rows: slice) -> Mixed:
        pixels, numbers = pairs.train(step, rows)  # timm mixes the first with the last
        shares = np.full(len(numbers), share, dtype=np.float32)
        return Mixed(pixels, numbers, numbers[::-1].copy(), shares)

    monkeypatch.setattr(pairs, "mixed", mixed)
    task = learning(randomize, augment=Augment(mixup=0.8), batches=pairs, label_smoothing=smoothing)
    inputs = task.inputs(1, slice(None))
    wanted = mixup_target(torch.arange(15)[pairs.indices(1)] % 5, 5, lam=share, smoothing=smoothing)
    loss = SoftTargetCrossEntropy()(task.module(inputs[0]), wanted)
    torch.testing.assert_close(task.losses(task.module, inputs)["loss"], loss)
    smoothed = inputs[1] * (1 - smoothing) + smoothing / 5
    torch.testing.assert_close(smoothed, wanted.to(smoothed))


def test_without_mixing_targets_are_classes(randomize):
    target = learning(randomize).inputs(0, slice(None))[1]
    assert target.dtype == torch.int64
    assert target.tolist() == (batches_of().indices(0) % 5).tolist()


def test_only_the_head_of_a_frozen_network_changes(randomize):
    task = learning(randomize, freeze=True, recipe=replace(CLASSIFIER, optimizer="sgd"))
    before = {name: tensor.clone() for name, tensor in task.module.state_dict().items()}
    assert 2 * task.macs(0) * BATCH == counted_flops(task, 0)
    train_step(task, 1, ALONE)
    for name, tensor in task.module.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not name.startswith("head.")), name


def test_the_average_is_what_is_evaluated(randomize):
    task = learning(randomize, ema=0.5)
    trained = task.networks(0)[0]
    assert task.evaluated is not trained
    train_step(task, 0, ALONE)
    assert torch.equal(task.evaluated.head.weight, trained.head.weight)  # the first one copies
    first = trained.head.weight.detach().clone()
    train_step(task, 1, ALONE)
    keeps = 1 - 2 ** (-2 / 3)
    wanted = keeps * first + (1 - keeps) * trained.head.weight.detach()
    torch.testing.assert_close(task.evaluated.head.weight, wanted)
    plain = learning(randomize)
    assert plain.evaluated is plain.module
