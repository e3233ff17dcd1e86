"""A segmenter on disk: its backbone as any network's, beside it the decoder; nothing is pickled."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch

from masktas.artifacts import SEGMENTER
from masktas.errors import ArtifactError
from masktas.files import read_json, write_json
from masktas.nn.segmenter import Segmenter
from masktas.nn.vit import ViT
from masktas.space.decoder import DecoderName
from masktas.train import checkpoint
from masktas.train.input import NetworkInput
from masktas.train.networks import load_network, read_shape, save_network

DECODER = "segmenter.safetensors"
S = TypeVar("S", bound=Segmenter)


@dataclass(frozen=True, slots=True)
class SegmenterFacts:
    """What `segmenter.json` holds.

    Attributes:
        decoder: `upernet` or `linear`.
        channels: of UperNet.
        classes: name of each class, in the order of the logits.
        values: number of each class in the masks it was trained on.
        short_side: shorter side that images are scaled to; None leaves them as they are.
        ignored: numbers of the pixels that were left out.
    """

    decoder: DecoderName
    channels: int
    classes: tuple[str, ...]
    values: tuple[int, ...]
    short_side: int | None
    ignored: tuple[int, ...]


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
    save_decoder(folder, network, facts)


def save_decoder(folder: Path, network: Segmenter, facts: SegmenterFacts) -> None:
    """Write what a segmenter's folder holds besides its backbone; see `save_segmenter`."""
    checkpoint.save(folder / DECODER, network.decoder.state_dict(), {})
    write_json(folder / SEGMENTER, asdict(facts))


def read_facts(folder: Path) -> SegmenterFacts:
    """Read the `segmenter.json` of a folder.

    Raises:
        ArtifactError: if it is missing or damaged.
    """
    content = read_json(folder / SEGMENTER)
    try:
        return SegmenterFacts(
            content["decoder"],
            int(content["channels"]),
            tuple(map(str, content["classes"])),
            tuple(map(int, content["values"])),
            None if content["short_side"] is None else int(content["short_side"]),
            tuple(map(int, content.get("ignored", ()))),  # earlier versions did not write it
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{folder / SEGMENTER}: damaged ({error}). Run the stage that wrote it again with "
            "--overwrite."
        ) from None


def load_segmenter(folder: Path) -> tuple[Segmenter, SegmenterFacts]:
    """Build the segmenter of a folder and fill it strictly, for evaluation.

    Raises:
        ArtifactError: if a file is missing or damaged.
    """
    facts = read_facts(folder)
    with torch.device("meta"):
        network = Segmenter(
            ViT(read_shape(folder)), facts.decoder, facts.channels, len(facts.classes)
        )
    return filled_segmenter(network, folder), facts


def filled_segmenter(network: S, folder: Path) -> S:
    """Load backbone and decoder of a folder into a segmenter without data, strictly.

    Raises:
        ArtifactError: if a file is missing or damaged.
    """
    network.backbone = load_network(folder)
    network.decoder.to_empty(device="cpu")
    tensors, _ = checkpoint.load(folder / DECODER)
    checkpoint.load_strict(network.decoder, tensors, where=str(folder / DECODER))
    network.eval()
    return network
