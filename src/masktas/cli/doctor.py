"""`masktas doctor`: check the installation and measure this machine."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from masktas.artifacts import versions
from masktas.cli.options import Config, Json, settings_of_all, without_none
from masktas.config import RuntimeSettings, resolve
from masktas.errors import ConfigError, MasktasError
from masktas.native import compile_c

if TYPE_CHECKING:
    from masktas.stages.plan.profile import StepProfile

NO_COMPILER = (
    "none that works: on the CPU, the supernet's optimizer and crops use slower torch code. "
    "Install gcc, or correct the environment variable CC."
)


def doctor(
    *,
    profile: Annotated[
        Literal["teacher", "supernet", "finetune"] | None,
        Parameter(
            help="Stage of which a training step is profiled, on images of noise: teacher, "
            "supernet or finetune.",
        ),
    ] = None,
    config: Config = None,
    space: Annotated[
        str | None, Parameter(group="Profile", help="Search space of the profiled stage.")
    ] = None,
    batch_size: Annotated[
        int | None, Parameter(group="Profile", help="Number of images in the profiled step.")
    ] = None,
    device: Annotated[
        str | None,
        Parameter(group="Profile", help="Device to profile on: auto, cpu, cuda or cuda:N."),
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"] | None,
        Parameter(group="Profile", help="Precision of the profiled step's matrix products."),
    ] = None,
    json: Json = False,
) -> None:
    """Print what `examine` finds, or the profile of a step."""
    machine = without_none(device=device, precision=precision)
    if profile is not None:
        _profile(profile, config, space, batch_size, machine, json=json)
        return
    if config or space or batch_size or machine:
        raise ConfigError(
            "--config, --space, --batch-size, --device and --precision say what is profiled: name "
            "the stage with --profile teacher, supernet or finetune."
        )
    found = examine()
    if json:
        print(json_module.dumps(found, indent=2))
        return
    for name, version in found["versions"].items():
        print(f"  {name:12} {version}")
    for one in found["devices"]:
        speed = ", ".join(f"{kind} {rate:,.0f}" for kind, rate in one["gflops"].items())
        print(f"  {one['device']:12} {one['name']}: matrix products {speed} GFLOP/s")
    print(f"  {'C compiler':12} {'yes' if found['c_compiler'] else NO_COMPILER}")
    print("  A training step works: the installation is complete.")


def examine() -> dict[str, Any]:
    """Return versions and devices with measured matrix speed; MasktasError if a step fails."""
    import torch

    from masktas.train.runtime import Runtime, matmul_flops

    names = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    devices = []
    for name in names:
        runtime = Runtime.choose(name, "fp32")
        devices.append(
            {
                **runtime.describe(),
                "gflops": {
                    "fp32": matmul_flops(runtime.device, torch.float32) / 1e9,
                    "bf16": matmul_flops(runtime.device, torch.bfloat16) / 1e9,
                },
            }
        )
        _try_step(runtime.device)
    compiled = compile_c("int one(void) { return 1; }") is not None
    return {"versions": versions(), "devices": devices, "c_compiler": compiled}


def _try_step(device: Any) -> None:
    """Train one step of a tiny ViT, so that a broken torch is found before a long run."""
    import torch

    from masktas.nn.vit import ViT
    from masktas.space import SearchSpace

    network = ViT(SearchSpace.preset("demo").smallest).to(device)
    network.init_weights(torch.Generator(device=device).manual_seed(0))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    network(torch.randn(2, 1, 28, 28, device=device)).square().sum().backward()
    optimizer.step()
    if not all(torch.isfinite(p).all() for p in network.parameters()):
        raise MasktasError(
            f"A training step on {device} gave numbers that are not finite: this installation of "
            "torch does not work on that device, install another version."
        )


def _profile(
    stage: str,
    config: Path | None,
    space: str | None,
    batch_size: int | None,
    machine: dict[str, Any],
    *,
    json: bool,
) -> None:
    """Profile a training step of a stage and print the table."""
    settings = settings_of_all(
        config,
        None,
        resolve(RuntimeSettings, machine),
        training=without_none(batch_size=batch_size),
        space=without_none(space=space),
        costs=(),
    )
    from masktas.stages.plan.profile import profile_stage
    from masktas.train.runtime import Runtime

    given = settings.runtime
    runtime = Runtime.choose(given.device, given.precision, recompute=given.recompute)
    found = profile_stage(stage, settings, runtime, getattr(settings, stage).batch_size)
    if json:
        print(json_module.dumps(found.to_dict(), indent=2))
        return
    for line in _lines(found):
        print(line)


def _lines(found: StepProfile) -> list[str]:
    """Format a profile: one line a kind, then what the step reaches."""
    lines = [
        f"A step of {found.stage}, {found.batch_size} images, {found.precision}:",
        f"  {'kind':18}{'ms':>10}{'share':>8}",
    ]
    for kind, spent in found.kinds.items():
        lines.append(f"  {kind:18}{spent * 1e3:>10.2f}{spent / found.profiled_seconds:>8.1%}")
    return [
        *lines,
        f"  {'all':18}{found.profiled_seconds * 1e3:>10.2f}{1:>8.0%}",
        f"Without the profiler the step takes {found.seconds * 1e3:.2f} ms: "
        f"{found.share_of_peak:.1%} of the peak of matrix products, "
        f"{found.peak_flops / 1e9:,.0f} GFLOP/s here; products and attention reach "
        f"{found.products_share_of_peak:.1%} of it while they run.",
    ]
