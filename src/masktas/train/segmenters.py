"""A segmenter on disk: its backbone as any network's, beside it the decoder; nothing is pickled."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from masktas.errors import ArtifactError
from masktas.files import read_json, write_json
from masktas.nn.segmenter import DecoderName, Segmenter
from masktas.nn.vit import ViT
from masktas.train import checkpoint
from masktas.train.input import NetworkInput
from masktas.train.networks import load_network, read_shape, save_network

SEGMENTER = "segmenter.json"
DECODER = "segmenter.safetensors"


@dataclass(frozen=True, slots=True)
class SegmenterFacts:
    """What `segmenter.json` holds.

    Attributes:
        decoder: `upernet` or `linear`.
        channels: of UperNet.
        classes: name of each class, in the order of the logits.
        values: number of each class in the masks it was trained on.
        short_side: shorter side that images are scaled to; None leaves them as they are.
    """

    decoder: DecoderName
    channels: int
    classes: tuple[str, ...]
    values: tuple[int, ...]
    short_side: int | None


def save_segmenter(
    folder: Path, network: Segmenter, facts: SegmenterFacts, seen: NetworkInput
) -> None:
    """Write the backbone with its `input.json`, the decoder, and what it tells apart.

    Args:
        folder: where the files are written.
        network: the segmenter.
        facts: its decoder and classes.
        seen: how images become its input.
    """
    save_network(folder, network.backbone, seen=seen)
    checkpoint.save(folder / DECODER, network.decoder.state_dict(), {})
    write_json(folder / SEGMENTER, asdict(facts))


def load_segmenter(folder: Path) -> tuple[Segmenter, SegmenterFacts]:
    """Build the segmenter of a folder and fill it strictly, for evaluation.

    Raises:
        ArtifactError: if a file is missing or damaged.
    """
    content = read_json(folder / SEGMENTER)
    try:
        facts = SegmenterFacts(
            content["decoder"],
            int(content["channels"]),
            tuple(map(str, content["classes"])),
            tuple(map(int, content["values"])),
            None if content["short_side"] is None else int(content["short_side"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{folder / SEGMENTER}: damaged ({error}). Run the stage that wrote it again with "
            "--overwrite."
        ) from None
    with torch.device("meta"):
        network = Segmenter(
            ViT(read_shape(folder)), facts.decoder, facts.channels, len(facts.classes)
        )
    network.backbone = load_network(folder)
    network.decoder.to_empty(device="cpu")
    tensors, _ = checkpoint.load(folder / DECODER)
    checkpoint.load_strict(network.decoder, tensors, where=str(folder / DECODER))
    network.eval()
    return network, facts
