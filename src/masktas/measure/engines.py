"""Engines: from an architecture to a call that runs one inference.

Weights are random: speed does not depend on them as long as no activation is denormal.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from masktas.measure.quantize import quantize_dynamic
from masktas.measure.target import Target
from masktas.nn.vit import ViT
from masktas.space import Architecture, cost

INPUT, OUTPUT = "images", "outputs"
# of weights and images; in int8 onnxruntime quantises float32
DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.float32,
}
OPSET = 20  # what TensorRT, OpenVINO and earlier versions of onnxruntime read
MAX_COMPILED = 2**20  # networks in a process: torch would silently run the ninth uncompiled

Run = Callable[[], object]


def with_head(architecture: Architecture) -> Architecture:
    """Return the architecture that is measured: with 1,000 classes if the number is not known."""
    return architecture.replace(num_classes=cost.counted_classes(architecture))


def random_network(architecture: Architecture) -> ViT:
    """Build a network of random weights, for inference."""
    network = ViT(with_head(architecture))
    network.init_weights(torch.Generator().manual_seed(0))
    if network.head is not None:
        network.head.reset_parameters()
    return network.eval().requires_grad_(False)


class Weights:
    """Random weights shared by the networks that are measured in turns.

    Blocks have different weights. Every tensor is a dense view of the start of a buffer as large as
    any network needed so far, so dozens of networks take the memory of one and are built in
    milliseconds.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._flat: dict[str, Tensor] = {}

    def network(self, architecture: Architecture) -> ViT:
        """Build a network on these weights, for inference."""
        with torch.device("meta"):
            network = ViT(with_head(architecture))
        state = {name: self._take(name, t.shape) for name, t in network.state_dict().items()}
        network.load_state_dict(state, assign=True)
        return network.eval().requires_grad_(False)

    def _take(self, name: str, shape: torch.Size) -> Tensor:
        size = shape.numel()
        if name not in self._flat or self._flat[name].numel() < size:
            flat = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 0.02
            if "norm" in name and name.endswith("weight"):
                flat.fill_(1)
            self._flat[name] = flat.to(self._device, self._dtype)
        return self._flat[name][:size].view(shape)


def images_for(architecture: Architecture, batch: int) -> Tensor:
    """Return a batch of random images, `[B, C, H, W]`."""
    shape = (batch, architecture.in_channels, *architecture.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def runner(network: ViT, target: Target, *, folder: Path, images: Tensor | None = None) -> Run:
    """Return a function that runs one inference and returns its output when it is done.

    Args:
        network: for inference; not modified.
        target: an engine of torch, or onnxruntime.
        folder: for files of the engine, of this network only.
        images: `[B, C, H, W]`; random if None.
    """
    device, dtype = target.runtime.device, DTYPES[target.precision]
    images = images_for(network.architecture, target.batch) if images is None else images
    images = images.to(device, dtype)
    if next(network.parameters()).dtype != dtype or next(network.parameters()).device != device:
        network = copy.deepcopy(network).to(device, dtype)
    if target.engine == "onnxruntime":
        path = folder / "network.onnx"
        if not path.exists() and target.precision == "int8":
            _export_int8(network, path)
        elif not path.exists():
            # of any batch size, as `masktas export` ships it; an example of one would fix it
            export_onnx(network, _two(images), path, dynamic_batch=True)
        return onnx_runner(path, images, device, target.threads)
    return _compiled(network, images) if target.engine == "compiled" else _eager(network, images)


def _eager(network: Callable[[Tensor], Tensor], images: Tensor) -> Run:
    cuda = images.device.type == "cuda"

    @torch.inference_mode()
    def run() -> Tensor:
        outputs = network(images)
        if cuda:
            torch.cuda.synchronize(images.device)
        return outputs

    return run


def _compiled(network: ViT, images: Tensor) -> Run:
    """Compile when first called; `forget_compiled` drops what was compiled."""
    import torch._dynamo

    compiled = torch.compile(network, dynamic=False)
    run = _eager(compiled, images)
    limits = {"recompile_limit": MAX_COMPILED, "accumulated_recompile_limit": MAX_COMPILED}
    with torch._dynamo.config.patch(limits):
        run()
    return run


def forget_compiled() -> None:
    """Drop everything that torch has compiled in this process."""
    torch.compiler.reset()


def export_onnx(
    network: nn.Module,
    images: Tensor,
    path: Path,
    *,
    dynamic_batch: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a network as ONNX, its weights in the same file.

    Args:
        network: for inference.
        images: contiguous, of the size that is exported.
        path: the file.
        dynamic_batch: for batches of any size, instead of that of `images` only.
        metadata: texts to store in the file.
    """
    program = torch.onnx.export(
        network,
        (images,),
        dynamo=True,
        opset_version=OPSET,
        external_data=False,
        verbose=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}} if dynamic_batch else None,
    )
    assert program is not None
    program.model.metadata_props.update(metadata or {})
    program.save(path, external_data=False)


def _two(images: Tensor) -> Tensor:
    """Return two of the images, one of them twice if there is no other."""
    return images[:2].contiguous() if len(images) > 1 else images.repeat(2, 1, 1, 1)


def _export_int8(network: ViT, path: Path) -> None:
    """Write a network as the file in 8 bits that `masktas export` ships."""
    with tempfile.TemporaryDirectory() as made:
        whole = Path(made) / "network.onnx"
        export_onnx(network, images_for(network.architecture, 2), whole, dynamic_batch=True)
        quantize_dynamic(whole, path)


def onnx_session(path: Path, device: torch.device, threads: int | None) -> Any:
    """Open an ONNX file in onnxruntime, on a device, with a number of CPU threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    cuda: Any = ("CUDAExecutionProvider", {"device_id": device.index or 0})
    provider = cuda if device.type == "cuda" else "CPUExecutionProvider"
    return onnxruntime.InferenceSession(path, options, providers=[provider])


def onnx_runner(path: Path, images: Tensor, device: torch.device, threads: int | None) -> Run:
    """Return a function that runs an ONNX file on images that are already on the device."""
    import onnxruntime

    kind, index = device.type, device.index or 0
    session = onnx_session(path, device, threads)
    binding = session.io_binding()
    value = onnxruntime.OrtValue.ortvalue_from_numpy(images.cpu().numpy(), kind, index)
    binding.bind_ortvalue_input(INPUT, value)
    binding.bind_output(OUTPUT, kind, index)

    def run() -> Any:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return binding.get_outputs()[0]

    return run
