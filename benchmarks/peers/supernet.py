"""P2: a step of the supernet beside what one builds of AutoFormer and MAE, on ready images.

The peer: AutoFormer's slices of a supernet embed all patches, and encode the visible ones; MAE's
decoder behind AutoFormer's sliced linear layer predicts the pixels; MAE's encoder is the frozen
teacher of the same masks; AdamW updates everything.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masktas.config import SupernetSettings, TeacherSettings
from masktas.config.derived import teacher_for
from masktas.nn.patches import num_visible
from masktas.nn.student import StudentShape, feature_loss
from masktas.nn.supernet import SharedStudent, Supernet, leading
from masktas.nn.teachers.teacher import EncoderTeacher
from masktas.nn.units import units_of
from masktas.space import Architecture, SearchSpace
from masktas.stages.common.tasks import teacher_architecture
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.step import train_step
from masktas.train.tasks.mae import MaskedBatches
from masktas.train.tasks.supernet import MaskedDistillation
from peers.autoencoder import RECIPE, Ready, noise_of
from peers.networks import (
    apart,
    autoformer_supernet,
    config_of,
    fill_autoformer,
    mae_network,
    ours_of_mae,
)
from peers.turns import Step
from peers.work import Work, training


class Peer(nn.Module):
    """The student of the peers' parts.

    Args:
        work: has their code.
        shape: of our students: decoder and teacher width.
        teacher: MAE's autoencoder, of which the encoder teaches.
        mask_ratio: share of the patches that is masked.
    """

    def __init__(self, work: Work, shape: StudentShape, teacher: nn.Module, ratio: float) -> None:
        super().__init__()
        assert work.autoformer is not None
        linear = work.autoformer.LinearSuper
        self.encoder = autoformer_supernet(work.autoformer, work.space, 1, relative=False)
        width = self.encoder.super_embed_dim
        self.mae = mae_network(
            work.mae, work.space.largest.replace(embed_dim=width, num_heads=(1,), mlp_ratio=(4.0,)),
            decoder_dim=shape.decoder_dim, decoder_depth=shape.decoder_depth,
        )  # fmt: skip
        self.mae.decoder_embed = linear(width, shape.decoder_dim)
        self.fc1 = linear(width, shape.teacher_dim)
        self.fc2 = nn.Linear(shape.teacher_dim, shape.teacher_dim)
        self.shape, self.ratio = shape, ratio
        self.teacher = [teacher]  # not a part of what is trained

    def forward(self, one: Architecture, images: Tensor, seed: int) -> Tensor:
        """Return the loss (9) of an architecture; the masks are MAE's, drawn by the seed."""
        with torch.no_grad():
            torch.manual_seed(seed)
            target, _, _ = self.teacher[0].forward_encoder(images, self.ratio)
        self.encoder.set_sample_config(config_of(one))
        self.mae.decoder_embed.set_sample_config(one.embed_dim, self.shape.decoder_dim)
        self.fc1.set_sample_config(one.embed_dim, self.shape.teacher_dim)
        torch.manual_seed(seed)
        tokens, mask, ids_restore = self._encoded(one.embed_dim, images)
        predicted = self.mae.forward_decoder(tokens, ids_restore)
        pixel = self.mae.forward_loss(images, predicted.float(), mask)
        projected = self.fc2(F.gelu(self.fc1(tokens[:, 1:])))
        return pixel + feature_loss(projected, target[:, 1:])  # type: ignore[no-any-return]

    def _encoded(self, width: int, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        encoder = self.encoder
        positions = encoder.pos_embed[..., :width]
        x = encoder.patch_embed_super(images) + positions[:, 1:]
        x, mask, ids_restore = self.mae.random_masking(x, self.ratio)
        token = encoder.cls_token[..., :width] + positions[:, :1]
        x = torch.cat([token.expand(len(x), -1, -1), x], dim=1)
        for block in encoder.blocks:
            x = block(x)
        return encoder.norm(x), mask, ids_restore


def teacher_shape(space: SearchSpace) -> Architecture:
    """Return the shape of the default teacher."""
    settings, largest = teacher_for(space, TeacherSettings()), space.largest
    return teacher_architecture(settings, largest.image_size, largest.in_channels)


def measure(work: Work) -> dict[str, Any]:
    """Compare, at the supernet's default mask ratio and the default teacher's shape."""
    space, settings, frozen = work.space, SupernetSettings(), teacher_shape(work.space)
    units = units_of(space.image_size, space.unit)
    ratio = settings.ratio_for(units.total)
    shape = StudentShape(settings.decoder_dim, settings.decoder_depth, frozen.embed_dim, units.size)
    torch.manual_seed(0)
    mae = mae_network(work.mae, frozen, decoder_dim=32, decoder_depth=1).requires_grad_(False)
    teacher = EncoderTeacher(ours_of_mae(mae, frozen.num_heads[0]).encoder)
    images = work.images()
    batches = MaskedBatches(Ready(images), units.size, num_visible(units.total, ratio), seed=0)  # type: ignore[arg-type]
    supernet = Supernet(space, shape)
    supernet.init_weights(torch.Generator().manual_seed(0))

    def task(runtime: Runtime) -> MaskedDistillation:
        own = Supernet(space, shape)
        own.student.load_state_dict(supernet.store)
        return MaskedDistillation(
            own, teacher, batches, RECIPE, runtime, beta=1.0,
            draw=lambda rng: [rng.choice(work.drawn)], seed=0,
        )  # fmt: skip

    counted = task(Runtime.choose("cpu", "fp32"))  # says which architectures the steps have

    def ours(runtime: Runtime) -> Step:
        made = task(runtime)
        return lambda number: train_step(made, number, ALONE)

    def theirs(runtime: Runtime) -> Step:
        own = Peer(work, shape, mae, ratio)
        return training(own, lambda step: own(counted.sampled(step)[0], images, step), runtime)

    peer = Peer(work, shape, mae, ratio)
    _make_equal(counted.module, peer)
    return work.compared(
        "step of the supernet",
        work.contenders(masktas=ours, AutoFormer_and_MAE=theirs),
        lambda step: 2.0 * work.batch * counted.macs(step),
        far=_apart(counted, peer, images),
    )


@torch.no_grad()
def _make_equal(student: nn.Module, peer: Peer) -> None:
    """Give our store and the peer equal weights: the peer's decoder, all else from ours."""
    assert isinstance(student, SharedStudent)
    decoder = ours_of_mae(peer.mae, 1).decoder.state_dict()
    for name, tensor in student.decoder.state_dict().items():
        tensor.copy_(leading(decoder[name], tensor.shape))
    largest = student.encoder.architecture
    fill_autoformer(peer.encoder, student.encoder.state_dict(), largest)
    for name in ("fc1", "fc2"):
        for kind in ("weight", "bias"):
            tensor = getattr(getattr(student.projection, name), kind)
            leading(getattr(getattr(peer, name), kind), tensor.shape).copy_(tensor)


@torch.no_grad()
def _apart(task: MaskedDistillation, peer: Peer, images: Tensor) -> float:
    """Return how far the losses of equal weights are apart under the same masks."""
    inputs = task.inputs(0, slice(None))
    noise = noise_of(inputs.ids_keep, inputs.ids_masked)
    with mock.patch.object(torch, "rand", return_value=noise):
        theirs = peer(task.sampled(0)[0], images, 0)
    return apart(task.losses(task.networks(0)[0], inputs)["loss"][None], theirs[None])
