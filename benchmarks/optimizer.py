"""How long one step of the supernet's optimiser takes, next to torch's.

    .venv/bin/python benchmarks/optimizer.py --spaces micro tiny small base --steps 40 --threads 2

Every step draws an architecture as training does and times, in rotating order:

- ours: `SlicedAdamW` on its slices;
- torch only: the same without its C part, as on a GPU or without a compiler;
- compiled: the same by one compiled update under a mask over the whole store (compiled_adamw.py);
- fused: `torch.optim.AdamW(fused=True)` on the full tensors, which does not freeze: what to beat;
- foreach: torch's foreach AdamW on the slices, moments being views of full ones. It freezes, with
  one count a tensor.

After each step of ours every entry outside the slices (weights, moments, counts) is compared bit
for bit with what it was; the script fails if one differs. `fresh` starts with counts of 0, where
neighbouring tiles differ in their bias correction; `settled` with counts so high that it is 1.

Limits: gradients are random numbers and lie ready; there is no forward or backward pass, whose
traces in the caches would help nobody's optimiser. Every contender has a store of its own, which
for `micro` nearly fits into a large last-level cache. Times depend on what else the machine does:
compare within a row. GB/s counts 28 bytes an entry that is updated; `triad` is `a += s * b` over
256 MB tensors, 12 bytes an entry.

With --batch, whole training steps of the supernet on that many images of noise follow, by ours and
by the two others that freeze, in turns.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from compiled_adamw import MaskedAdamW, compiled
from peers.turns import in_turns, ratio
from torch import Tensor, nn
from torch.optim.adamw import adamw as functional_adamw

from masktas.config import AllSettings, SupernetSettings
from masktas.nn.student import StudentShape
from masktas.nn.supernet import Supernet, leading
from masktas.space import SearchSpace
from masktas.stages.plan.stage import task_on_noise
from masktas.train.optim.cpu import native
from masktas.train.optim.sliced_adamw import SlicedAdamW, adamw, decay_groups
from masktas.train.optim.slices import BETAS, EPS, SETTLED
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.step import train_step

LR, DECAY = 1e-3, 0.05
BYTES = 7 * 4  # weight and two moments read and written, gradient read
FREEZING = ("ours", "torch only", "compiled")
Slices = dict[str, nn.Parameter]


def milliseconds(function: Callable[[], object], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    function()
    wait()
    return 1e3 * (time.perf_counter() - start)


def triad(device: torch.device, entries: int = 1 << 26) -> float:
    """Return the bandwidth of `a += s * b` in GB/s."""
    a, b = torch.ones(entries, device=device), torch.ones(entries, device=device)
    times = [milliseconds(lambda: a.add_(b, alpha=0.5), device) for _ in range(9)]
    return 12 * entries / statistics.median(times) / 1e6


def stepping(optimizer: SlicedAdamW, kind: str) -> Callable[[Slices], None]:
    """Return the update of slices by `ours`, `torch only` or `compiled`."""
    optimizer._native = kind == "ours"
    if kind == "compiled":
        return MaskedAdamW(optimizer, compiled()).step_slices
    return optimizer.step_slices


class Sliced:
    """`SlicedAdamW` on a store of its own, with a copy that knows what must not change."""

    def __init__(self, supernet: Supernet, *, kind: str, count: int) -> None:
        self.supernet = copy.deepcopy(supernet)
        self.optimizer = SlicedAdamW(
            self.supernet.student, supernet.edges(), lr=LR, weight_decay=DECAY
        )
        self.step = stepping(self.optimizer, kind)
        for state in self.optimizer.state.values():
            state["step"].fill_(count)
        self.shadow = [[t.clone() for t in tensors] for tensors in self.tensors().values()]

    def tensors(self) -> dict[str, list[Tensor]]:
        named = self.supernet.student.named_parameters()
        return {name: [p.detach(), *self.optimizer.state[p].values()] for name, p in named}

    def check(self, slices: Slices, edges: dict[str, tuple[tuple[int, ...], ...]]) -> None:
        """Fail unless all outside the slices has the bits of the step before."""
        for (name, tensors), shadows in zip(self.tensors().items(), self.shadow, strict=True):
            counts = tensors[1]
            for tensor, shadow in zip(tensors, shadows, strict=True):
                if name in slices:
                    shape = slices[name].shape
                    if tensor is counts:
                        sizes = zip(edges[name], shape, strict=True)
                        shape = torch.Size([every.index(size) + 1 for every, size in sizes])
                    leading(shadow, shape).copy_(leading(tensor, shape))
                same = torch.equal(tensor.view(torch.int32), shadow.view(torch.int32))
                assert same, f"{name} has changed outside its slice"


class Foreach:
    """Torch's foreach AdamW on views of the weights and of full moments."""

    def __init__(self, supernet: Supernet, *, count: int) -> None:
        self.supernet = copy.deepcopy(supernet)
        groups = decay_groups(self.supernet.student, DECAY)
        decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
        self.state = {
            name: (
                p.detach(), torch.zeros_like(p), torch.zeros_like(p),
                torch.tensor(float(count)), decays[id(p)],
            )
            for name, p in self.supernet.student.named_parameters() if id(p) in decays
        }  # fmt: skip

    def step(self, slices: Slices) -> None:
        for decay in (0.0, DECAY):
            lists: tuple[list[Tensor], ...] = ([], [], [], [], [])
            for name, one in slices.items():
                if name in self.state and self.state[name][4] == decay:
                    *full, step, _ = self.state[name]
                    views = [leading(tensor, one.shape) for tensor in full]
                    for column, tensor in zip(lists, (one.grad, *views, step), strict=True):
                        column.append(tensor)
            grads, weights, exp_avgs, exp_avg_sqs, steps = lists
            functional_adamw(
                weights, grads, exp_avgs, exp_avg_sqs, [], steps, foreach=True, amsgrad=False,
                beta1=BETAS[0], beta2=BETAS[1], lr=LR, weight_decay=decay, eps=EPS, maximize=False,
            )  # fmt: skip


class Fused:
    """Torch's fused AdamW over all of the store."""

    def __init__(self, supernet: Supernet, gradients: dict[str, Tensor]) -> None:
        self.student = copy.deepcopy(supernet.student)
        self.optimizer = adamw(self.student, lr=LR, weight_decay=DECAY)
        for name, parameter in self.student.named_parameters():
            if parameter.requires_grad:
                parameter.grad = gradients[name].clone()
        self.optimizer.step()  # makes its state

    def refresh(self, gradients: dict[str, Tensor]) -> None:
        for name, parameter in self.student.named_parameters():
            if parameter.grad is not None:
                parameter.grad.copy_(gradients[name])

    def step(self) -> None:
        self.optimizer.step()


def measure(name: str, *, steps: int, device: torch.device, count: int) -> dict[str, list[float]]:
    """Return the milliseconds of every step by contender, the share sampled, and the size."""
    space = SearchSpace.load(name)
    shape = StudentShape(
        decoder_dim=128,
        decoder_depth=2,
        teacher_dim=192 if "micro" in name else 768,
        unit=space.unit,
    )
    supernet = Supernet(space, shape)
    supernet.init_weights(torch.Generator().manual_seed(0))
    supernet.to(device)
    named = list(supernet.student.named_parameters())
    gradients = {name: 0.01 * torch.randn_like(parameter) for name, parameter in named}
    total, edges, rng = sum(p.numel() for _, p in named), supernet.edges(), random.Random(0)
    freezing = {kind: Sliced(supernet, kind=kind, count=count) for kind in FREEZING}
    foreach, fused = Foreach(supernet, count=count), Fused(supernet, gradients)
    found: dict[str, list[float]] = {"share": [], "total": [total]}
    for index in range(steps + 3):
        architecture = space.sample(rng)
        drawn = {
            kind: dict(one.supernet.subnet(architecture).named_parameters())
            for kind, one in freezing.items()
        }
        for slices in drawn.values():
            for key, one in slices.items():
                one.grad = leading(gradients[key], one.shape).clone()
        fused.refresh(gradients)
        contenders: dict[str, Callable[[], None]] = {
            **{kind: partial(one.step, drawn[kind]) for kind, one in freezing.items()},
            "fused": fused.step,
            "foreach": partial(foreach.step, drawn["ours"]),
        }
        order = list(contenders)
        at = index % len(order)
        for key in order[at:] + order[:at]:
            spent = milliseconds(contenders[key], device)
            if index >= 3:  # the first are for warming up
                found.setdefault(key, []).append(spent)
        for kind, one in freezing.items():
            one.check(drawn[kind], edges)
        found["share"].append(sum(one.numel() for one in drawn["ours"].values()) / total)
    return found


def whole_steps(name: str, batch: int, steps: int, device: torch.device) -> dict[str, list[float]]:
    """Return the milliseconds of whole training steps of the supernet, by what updates it."""
    settings = AllSettings(supernet=SupernetSettings(space=name))
    runtime = Runtime.choose(str(device), "fp32")
    tasks = {kind: task_on_noise("supernet", settings, runtime, batch) for kind in FREEZING}
    for kind, task in tasks.items():
        task.optimizer.step_slices = stepping(task.optimizer, kind)  # type: ignore[attr-defined]
    found = in_turns(
        {kind: partial(train_step, task, ranks=ALONE) for kind, task in tasks.items()},
        0.0, partial(milliseconds, lambda: None, device), turn_steps=max(1, steps // 2),
    )  # fmt: skip
    return {kind: [1e3 * one for one in times] for kind, times in found.items()}


def spread(times: list[float]) -> str:
    low, middle, high = statistics.quantiles(times, n=4)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def row(name: str, kind: str, found: dict[str, list[float]]) -> str:
    (total,), share = found["total"], statistics.mean(found["share"][3:])
    mean = {key: statistics.mean(found[key]) for key in ("ours", "fused")}
    ratios = {
        key: statistics.median(f / o for f, o in zip(found[key], found["ours"], strict=True))
        for key in ("fused", "foreach")
    }
    speed = [BYTES * total * s / mean[key] / 1e6 for key, s in (("ours", share), ("fused", 1))]
    cells = (
        name, kind, f"{total / 1e6:.2f} M", f"{share:.3f}",
        *(spread(found[key]) for key in ("ours", "fused", "foreach", "torch only", "compiled")),
        f"**{ratios['fused']:.2f}** ({mean['fused'] / mean['ours']:.2f})",
        f"{ratios['foreach']:.1f}",
        f"{BYTES * total * share / 1e6:.0f} / {BYTES * total / 1e6:.0f}",
        f"{speed[0]:.0f} / {speed[1]:.0f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


HEAD = (
    "space", "counts", "params", "share", "ours, ms", "fused full, ms", "foreach views, ms",
    "torch only, ms", "compiled, ms", "fused / ours (of means)", "foreach / ours",
    "MB ours / fused", "GB/s ours / fused",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--spaces", nargs="+", default=["micro", "tiny", "small", "base"])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, help="images of whole steps")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    print(
        f"torch {torch.__version__}, {device}, {arguments.threads} threads, C part: "
        f"{'yes' if native() and device.type == 'cpu' else 'no'}, {arguments.steps} steps, "
        f"triad {triad(device):.0f} GB/s before; milliseconds are medians (quartiles)\n"
    )
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    for name in arguments.spaces:
        for kind, count in (("fresh", 0), ("settled", SETTLED)):
            found = measure(name, steps=arguments.steps, device=device, count=count)
            print(row(name, kind, found), flush=True)
    for name in arguments.spaces if arguments.batch else ():
        whole = whole_steps(name, arguments.batch, arguments.steps, device)
        times = ", ".join(f"{kind} {statistics.median(of):.1f} ms" for kind, of in whole.items())
        ratios = ", ".join(
            f"{kind} {ratio(whole[kind], whole['ours'])[1]:.3f}" for kind in FREEZING[1:]
        )
        print(f"\n{name}, steps of {arguments.batch} images: {times}; over ours: {ratios}")
    print(f"\ntriad {triad(device):.0f} GB/s after; no entry outside a slice changed")


if __name__ == "__main__":
    main()
