import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masktas.data.batches import Augment, Batches
from masktas.data.store.image_store import Images, InMemory
from masktas.train.metrics import EVALUATION_BATCH, accuracy
from masktas.train.runtime import Runtime

CPU = Runtime(torch.device("cpu"), bf16=False)


def logits_as_images(logits: Tensor) -> Batches:
    """Return images of 3 x 3 pixels whose brightness are the logits `[n, 9]` of nine classes."""
    pixels = logits.to(torch.uint8).reshape(-1, 3, 3, 1).numpy()
    rows = np.arange(len(pixels))
    return Batches(
        Images(InMemory(pixels), rows, "test"), image_size=(3, 3), mean=[0.0], std=[1 / 255],
        batch_size=1, seed=0, device=CPU.device, augment=Augment((1.0, 1.0), True),
    )  # fmt: skip


class Read(nn.Module):
    """Reads its answer off the image."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (1, 3, 3)
        return self.scale * images.flatten(1)


def test_a_hand_made_example():
    logits = torch.tensor(
        [
            [90, 10, 20, 30, 40, 50, 60, 70, 80],  # right is first
            [90, 10, 20, 30, 40, 50, 60, 70, 80],  # right is second
            [90, 10, 20, 30, 40, 50, 60, 70, 80],  # right is fifth
            [90, 10, 20, 30, 40, 50, 60, 70, 80],  # right is sixth
            [0, 0, 0, 7, 0, 0, 0, 0, 0],  # right is first
            [90, 10, 20, 30, 40, 50, 60, 70, 80],  # right is last
        ]
    )
    labels = torch.tensor([0, 8, 5, 4, 3, 1])
    measured = accuracy(Read(0.1), logits_as_images(logits), labels, CPU)
    assert measured["top1"] == pytest.approx(2 / 6)
    assert measured["top5"] == pytest.approx(4 / 6)
    wanted = -sum((0.1 * logits[i]).log_softmax(0)[labels[i]].item() for i in range(6)) / 6
    assert measured["loss"] == pytest.approx(wanted, rel=1e-5)
    assert set(measured) == {"top1", "top5", "mean_per_class", "loss"}


@pytest.mark.parametrize("count", [1, EVALUATION_BATCH, 2 * EVALUATION_BATCH + 13])
def test_every_image_counts_once_whatever_the_batches(count: int):
    logits = torch.stack([torch.randperm(250)[:9] for _ in range(count)])  # no two alike
    labels = torch.randint(9, (count,))
    measured = accuracy(Read(0.02), logits_as_images(logits), labels, CPU)
    top1 = top5 = 0
    of_class: dict[int, list[bool]] = {}
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        ranking = sorted(range(9), key=lambda k: -row[k])
        top1 += label == ranking[0]
        top5 += label in ranking[:5]
        of_class.setdefault(label, []).append(label == ranking[0])
    mean = np.mean([np.mean(one) for one in of_class.values()])
    assert measured["mean_per_class"] == pytest.approx(mean)
    assert measured["top1"] == pytest.approx(top1 / count)
    assert measured["top5"] == pytest.approx(top5 / count)
    loss = F.cross_entropy(0.02 * logits.double(), labels)
    assert measured["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_a_network_that_says_the_same_of_every_class_knows_nothing():
    """With ties for it, an untrained network would be perfect."""
    labels = torch.arange(9).repeat(10)
    measured = accuracy(Read(0.0), logits_as_images(torch.ones(90, 9)), labels, CPU)
    assert measured["top1"] <= 1 / 9 + 1e-9
    assert measured["top5"] <= 5 / 9 + 1e-9
    assert measured["loss"] == pytest.approx(np.log(9), rel=1e-5)


def test_a_network_whose_answers_are_no_numbers_is_never_right():
    labels = torch.arange(9)
    measured = accuracy(Read(float("nan")), logits_as_images(torch.ones(9, 9)), labels, CPU)
    assert measured["top1"] == 0
    assert measured["top5"] == 0


def test_with_fewer_than_six_classes_top5_is_all():
    class First(Read):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images)[:, :3]

    logits = torch.stack([torch.randperm(250)[:9] for _ in range(20)])
    measured = accuracy(First(), logits_as_images(logits), torch.randint(3, (20,)), CPU)
    assert measured["top5"] == 1
    assert measured["top1"] < 1


@pytest.mark.parametrize("training", [True, False])
def test_a_network_is_measured_in_evaluation_and_given_back_as_it_was(training: bool):
    logits = torch.stack([torch.randperm(250)[:9] for _ in range(50)])
    labels = torch.randint(9, (50,))
    network = nn.Sequential(nn.Dropout(0.9), Read()).train(training)
    plain = accuracy(Read(), logits_as_images(logits), labels, CPU)
    assert accuracy(network, logits_as_images(logits), labels, CPU) == plain
    assert network.training is training
    assert network[0].training is training


def test_nothing_is_recorded_for_gradients():
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    seen = []
    network.register_forward_hook(lambda module, given, output: seen.append(output.requires_grad))
    accuracy(network, logits_as_images(torch.ones(5, 9)), torch.zeros(5, dtype=torch.long), CPU)
    assert seen == [False]


def test_in_bfloat16_the_loss_is_still_summed_finely():
    logits = torch.stack([torch.randperm(250)[:9] for _ in range(600)])
    labels = torch.randint(9, (600,))
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 9, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.eye(9) / 64)  # exact in bfloat16, as are numbers below 256
    exact = accuracy(network, logits_as_images(logits), labels, CPU)
    rough = accuracy(
        network, logits_as_images(logits), labels, Runtime(torch.device("cpu"), bf16=True)
    )
    assert rough["top1"] == exact["top1"]
    assert rough["loss"] == pytest.approx(exact["loss"], rel=1e-5)
