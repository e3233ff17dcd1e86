"""From settings to the network and the task of a segmentation."""

from __future__ import annotations

from dataclasses import asdict

from masktas.config import SegmentSettings
from masktas.data.joint import JointAugment, JointBatches
from masktas.nn.segmenter import Segmenter
from masktas.nn.teachers.pretrained import resize_encoder
from masktas.nn.vit import ViT
from masktas.space import Architecture
from masktas.space.decoder import Decoder
from masktas.stages.common.tasks import Setup, recipe
from masktas.train.tasks.segment import Segmentation, SegmenterRecipe

BETA2 = 0.999  # as in published settings


def joint_augment(settings: SegmentSettings, crop_size: tuple[int, int]) -> JointAugment:
    """Return how images and masks are augmented together."""
    return JointAugment(
        crop_size,
        settings.scale,
        settings.short_side,
        settings.max_class_share,
        settings.flip,
        settings.color,
    )


def segmenter_network(
    settings: SegmentSettings,
    backbone: Architecture,
    num_classes: int,
    start: ViT | None,
    setup: Setup,
) -> Segmenter:
    """Return a segmenter with its first weights, on the device.

    Args:
        settings: of the segmentation.
        backbone: for images of the size of a crop, without a head.
        num_classes: of the decoder.
        start: weights of the backbone; random ones if None.
        setup: seed and device.
    """
    generator = setup.generator("segment")
    vit = ViT(backbone)
    vit.init_weights(generator)
    if start is not None:
        resized = resize_encoder(start, backbone.image_size).state_dict()
        vit.load_state_dict(
            {name: one for name, one in resized.items() if not name.startswith("head.")}
        )
    network = Segmenter(vit, settings.decoder, settings.channels, num_classes)
    network.init_weights(generator)
    return network.to(setup.runtime.device)


def segmenter_task(
    settings: SegmentSettings,
    network: Segmenter,
    num_classes: int,
    batches: JointBatches,
    setup: Setup,
) -> Segmentation:
    """Return the training of a segmenter."""
    optimised = SegmenterRecipe(
        **asdict(recipe(settings, batches)), beta2=BETA2, layer_decay=settings.layer_decay
    )
    decoder = Decoder(settings.decoder, settings.channels, num_classes)
    return Segmentation(
        network,
        batches,
        optimised,
        setup.runtime,
        drop_path=settings.drop_path,
        decoder_macs=decoder.macs(network.architecture),
        seed=setup.seed,
        ranks=setup.ranks,
    )
