"""`masktas doctor`: check the installation and measure this machine."""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any

from cyclopts import Parameter

from masktas.artifacts import versions
from masktas.errors import MasktasError
from masktas.native import compile_c

NO_COMPILER = (
    "none that works: on the CPU, the supernet's optimizer and crops use slower torch code. "
    "Install gcc, or correct the environment variable CC."
)


def doctor(
    *, json: Annotated[bool, Parameter(negative="", help="Print the result as JSON.")] = False
) -> None:
    """Print what `examine` finds."""
    found = examine()
    if json:
        print(json_module.dumps(found, indent=2))
        return
    for name, version in found["versions"].items():
        print(f"  {name:12} {version}")
    for device in found["devices"]:
        speed = ", ".join(f"{kind} {rate:,.0f}" for kind, rate in device["gflops"].items())
        print(f"  {device['device']:12} {device['name']}: matrix products {speed} GFLOP/s")
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
