from pathlib import Path

import pytest
import torch

from masktas.config import RuntimeSettings
from masktas.console import Console
from masktas.errors import ConfigError
from masktas.stages.common.stage import Context
from masktas.train import runtime
from masktas.train.runtime import Runtime, matmul_flops, processor_name


@pytest.mark.parametrize(
    "device",
    ["gpu", "tpu", "", " ", "CPU", "cuda:", "cuda:x", "cuda:-1", "cpu:x", "meta", "mps", "auto:0",
     "cuda,cpu"],
)  # fmt: skip
def test_a_device_that_is_none_is_refused_with_what_can_be_chosen(device: str):
    with pytest.raises(ConfigError, match=r"--device.*choose auto, cpu, cuda or cuda:N"):
        Runtime.choose(device, "auto")


def test_a_gpu_that_is_not_there_is_refused():
    missing = f"cuda:{torch.cuda.device_count() + 7}"
    with pytest.raises(ConfigError, match=f"--device {missing}.*--device cpu works everywhere"):
        Runtime.choose(missing, "auto")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_is_refused_and_auto_is_the_cpu():
    with pytest.raises(ConfigError, match=r"--device cuda.*torch can use 0 CUDA devices"):
        Runtime.choose("cuda", "auto")
    assert Runtime.choose("auto", "auto") == Runtime(torch.device("cpu"), bf16=False)


@pytest.mark.gpu
def test_with_a_gpu_auto_is_the_gpu_in_bfloat16():
    chosen = Runtime.choose("auto", "auto")
    assert chosen.device.type == "cuda"
    assert chosen.bf16
    assert not Runtime.choose("cuda:0", "fp32").bf16
    assert not Runtime.choose("cpu", "auto").bf16


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)],
)
def test_precision_is_that_of_matrix_products(precision: str, dtype: torch.dtype):
    runtime = Runtime.choose("cpu", precision)
    assert runtime.device == torch.device("cpu")
    x = torch.randn(3, 3)
    with runtime.autocast():
        assert (x @ x).dtype == dtype
    assert (x @ x).dtype == torch.float32
    described = runtime.describe()
    assert described["device"] == "cpu"
    assert described["precision"] == ("bf16" if dtype == torch.bfloat16 else "fp32")
    assert described["name"] == processor_name()
    assert described["threads"] == torch.get_num_threads()


def test_the_processor_has_a_name():
    assert processor_name().strip() == processor_name() != ""


def test_tests_use_one_thread():
    assert torch.get_num_threads() == 1


def test_of_several_processes_each_would_take_its_own_gpu(monkeypatch):
    """What is refused here names the GPU that this process of its machine was to take."""
    missing = torch.cuda.device_count() + 7
    monkeypatch.setenv("WORLD_SIZE", "99")
    monkeypatch.setenv("RANK", "50")
    monkeypatch.setenv("LOCAL_RANK", str(missing))
    with pytest.raises(ConfigError, match=f"--device cuda:{missing}"):
        Runtime.choose("cuda", "auto")
    assert Runtime.choose("cpu", "auto").device == torch.device("cpu")
    monkeypatch.setenv("WORLD_SIZE", "1")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="--device cuda: "):
            Runtime.choose("cuda", "auto")


def test_activations_are_kept_unless_asked_otherwise():
    assert not Runtime.choose("cpu", "auto").recompute
    assert Runtime.choose("cpu", "auto", recompute=True).recompute


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_is_the_most_that_was_in_use_in_bytes():
    measured = Runtime.choose("cpu", "auto").memory()
    status = Path("/proc/self/status").read_text()
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    assert measured == pytest.approx(int(peak) * 1024, rel=0.05)


@pytest.mark.parametrize(("half", "single", "warns"), [(2e9, 4e10, True), (4e10, 4e10, False)])
def test_bf16_without_hardware_for_it_is_warned_about_once(
    half: float, single: float, warns: bool, tmp_path, monkeypatch, capsys
):
    speeds = {torch.bfloat16: half, torch.float32: single}
    monkeypatch.setattr(runtime, "matmul_flops", lambda device, dtype, **_: speeds[dtype])
    console = Console()
    for _ in range(2):
        Context(tmp_path, RuntimeSettings(precision="bf16", device="cpu"), console)
    Context(tmp_path, RuntimeSettings(precision="fp32", device="cpu"), console)
    said = capsys.readouterr().err
    assert said.count("at 2 GFLOP/s in bf16 and at 40 in fp32: --precision fp32 is") == warns
    assert said.count("Warning") == warns


def test_only_bf16_on_a_cpu_is_measured(monkeypatch):
    monkeypatch.delattr(runtime, "matmul_flops")
    assert Runtime(torch.device("cpu"), bf16=False).slow_bf16() == ""
    assert Runtime(torch.device("cuda"), bf16=True).slow_bf16() == ""


def test_the_best_of_matrix_products_is_measured_once():
    found = matmul_flops(torch.device("cpu"), torch.float32, 0.02)
    assert 1e8 < found < 1e15
    assert matmul_flops(torch.device("cpu"), torch.float32, 0.02) == found
