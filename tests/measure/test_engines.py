"""Every engine runs the same network, and leaves it as it is."""

from __future__ import annotations

import onnx
import pytest
import torch

from masktas.measure.engines import (
    Weights,
    forget_compiled,
    images_for,
    random_network,
    runner,
)
from masktas.measure.meter import Meter
from masktas.measure.target import Target
from masktas.nn.vit import ViT
from masktas.stages.export import int8_form, onnx_form
from masktas.stages.export.form import Subject
from masktas.stages.export.int8_form import INT8
from masktas.train.input import NetworkInput


def run_on(target, network, images, folder):
    outputs = runner(network, target, folder=folder, images=images)()
    if not isinstance(outputs, torch.Tensor):
        outputs = torch.from_numpy(outputs.numpy())  # of onnxruntime
    return outputs.float()


@pytest.mark.parametrize(
    ("engine", "precision", "tolerance"),
    [
        ("eager", "fp32", 1e-6),
        ("eager", "bf16", 5e-2),
        ("eager", "fp16", 1e-2),
        ("onnxruntime", "fp32", 1e-5),
        ("onnxruntime", "int8", 0.2),
        pytest.param(
            "onnxruntime",
            "fp16",
            1e-2,
            marks=pytest.mark.skipif(
                torch.__version__.startswith("2.11."),
                reason="what torch 2.11 exports in fp16 is not finite",
            ),
        ),
    ],
)
def test_an_engine_computes_the_same(
    small_space, randomize, tmp_path, engine, precision, tolerance
):
    network = randomize(ViT(small_space.middle), 0).eval()
    images = images_for(network.architecture, 3)
    with torch.no_grad():
        expected = network(images)
    found = run_on(Target(engine, precision=precision), network, images, tmp_path)
    assert found.shape == (3, 5)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    if precision == "int8":
        assert (found - expected).abs().max() > 1e-4
    assert next(network.parameters()).dtype == torch.float32


@pytest.mark.slow
@pytest.mark.e2e
def test_compiled_networks_are_the_same_too_however_many(small_space, randomize, tmp_path):
    target, fallen_back = Target("compiled", batch=2), []
    networks = [randomize(ViT(one), 0).eval() for one in list(small_space.uniforms())[:2]]
    runs = [runner(one, target, folder=tmp_path) for one in networks]
    for network, run in zip(networks, runs, strict=True):
        with torch.no_grad():
            expected = network(images_for(network.architecture, 2))
        torch.testing.assert_close(run(), expected, atol=1e-5, rtol=1e-5)
        before = dict(torch._dynamo.utils.counters["stats"])
        run()
        fallen_back.append(torch._dynamo.utils.counters["stats"] != before)
    assert not any(fallen_back)
    forget_compiled()


def test_onnxruntime_is_measured_with_the_file_that_an_export_ships(
    small_space, randomize, tmp_path
):
    network = randomize(ViT(small_space.middle), 0).eval()
    shape = network.architecture
    run_on(Target("onnxruntime"), network, images_for(shape, 1), tmp_path)
    size, scale = shape.image_size, (0.5,) * shape.in_channels
    seen = NetworkInput(size, size, shape.in_channels, None, scale, scale)
    onnx_form.form().write(Subject(network, seen), tmp_path / "shipped")
    measured, shipped = (
        onnx.load(path).graph
        for path in (tmp_path / "network.onnx", tmp_path / "shipped" / onnx_form.ONNX)
    )
    assert [one.op_type for one in measured.node] == [one.op_type for one in shipped.node]
    assert [graph.input[0].type.tensor_type.shape.dim[0].dim_param for graph in (measured, shipped)]


@pytest.mark.slow
def test_int8_is_the_file_that_an_export_ships(small_space, randomize, tmp_path):
    network = randomize(ViT(small_space.middle), 0).eval()
    images = images_for(network.architecture, 3)
    with torch.no_grad():
        expected = network(images)
    target = Target("onnxruntime", precision="int8")
    found = run_on(target, network, images, tmp_path)
    assert 1e-4 < (found - expected).abs().max() < 0.2 * expected.abs().max()
    shape = network.architecture
    scale = (0.5,) * shape.in_channels
    size = shape.image_size
    seen = NetworkInput(size, size, shape.in_channels, None, scale, scale)
    int8_form.form().write(Subject(network, seen), tmp_path / "shipped")
    measured, shipped = (
        onnx.load(path).graph for path in (tmp_path / "network.onnx", tmp_path / "shipped" / INT8)
    )
    assert [one.op_type for one in measured.node] == [one.op_type for one in shipped.node]
    weights = [
        {one.name: one.raw_data for one in graph.initializer} for graph in (measured, shipped)
    ]
    assert weights[0] == weights[1]
    assert onnx.TensorProto.INT8 in {one.data_type for one in shipped.initializer}


def test_a_network_without_classes_is_measured_with_a_head_of_1000(small_space):
    open_space = small_space.replace(num_classes=None)
    weights = Weights(torch.device("cpu"), torch.float32)
    for classes, size in ((None, 1000), (7, 7), (0, 24)):
        architecture = open_space.largest.replace(num_classes=classes)
        for network in (weights.network(architecture), random_network(architecture)):
            assert network(images_for(architecture, 2)).shape == (2, size)


def test_weights_are_shared_between_networks_but_not_between_blocks(small_space):
    weights = Weights(torch.device("cpu"), torch.float32)
    large, small = weights.network(small_space.largest), weights.network(small_space.smallest)
    assert all(parameter.is_contiguous() for parameter in small.parameters())
    own = [parameter.data_ptr() for parameter in large.parameters()]
    assert len(set(own)) == len(own)
    assert {parameter.data_ptr() for parameter in small.parameters()} <= set(own)
    assert sum(p.numel() for p in small.parameters()) == sum(
        p.numel() for p in ViT(small_space.smallest).parameters()
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_activations_are_finite_and_not_denormal(small_space, precision):
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[precision]
    network = Weights(torch.device("cpu"), dtype).network(small_space.largest)
    outputs = network(images_for(small_space.largest, 4).to(dtype))
    assert torch.isfinite(outputs).all()
    assert outputs.abs().median() > torch.finfo(dtype).tiny


def test_a_meter_gives_turns_and_puts_threads_back(small_space):
    before = torch.get_num_threads()
    with Meter(Target(threads=before + 1)) as meter:
        turn = meter.turn(small_space.smallest)
    assert len(turn) >= 3
    assert all(ms > 0 for ms in turn)
    assert torch.get_num_threads() == before


@pytest.mark.gpu
def test_cuda_waits_for_the_device(small_space, tmp_path):
    target = Target(device="cuda", batch=4)
    network = random_network(small_space.largest)
    images = images_for(small_space.largest, 4)
    found = runner(network, target, folder=tmp_path, images=images)()
    torch.testing.assert_close(found.cpu(), network(images), atol=1e-3, rtol=1e-3)
    with Meter(target) as meter:
        assert min(meter.turn(small_space.largest)) > 0
