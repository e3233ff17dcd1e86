"""Images on which the ranges of activations are found (`--calibrate`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktas.console import Console
from masktas.data.decode.pool import Decoded, DecodePool, DecodeWorker
from masktas.data.reading import as_source, decode_whole, left_out, nothing_read
from masktas.data.sources import Item, Source
from masktas.data.sources.base import contents_digest
from masktas.formats import shown
from masktas.seeding import seed_for
from masktas.stages.export.held_out import middle_window
from masktas.train.input import NetworkInput
from masktas.train.segmenters import SegmenterFacts

MOST = 256  # images; more change the ranges little


@dataclass(frozen=True, slots=True)
class CalibrationImages:
    """Images of a user.

    Attributes:
        source: where they are.
        name: a short name, without the folders that lead to it.
        console: where unreadable images are named.
    """

    source: Source
    name: str
    console: Console

    @staticmethod
    def of(images: Any, console: Console) -> CalibrationImages:
        """Open images as `masktas predict` takes them.

        Raises:
            DataError: if there are none.
        """
        source, _ = as_source(images)
        return CalibrationImages(source, shown(Path(source.location).name), console)

    def to_dict(self) -> dict[str, str]:
        """Return what tells these images from others, as JSON types."""
        return {"images": self.name, "digest": contents_digest(self.source)}

    def read(self, seen: NetworkInput, facts: SegmenterFacts | None = None) -> NDArray[np.uint8]:
        """Decode up to `MOST` images for a network: `[n, H, W, C]` of its `stored_size`.

        They are a random selection, or the first ones of what can only be read in order. A
        segmenter, of which there are facts, sees the window in the middle of each.

        Raises:
            DataError: if none of them could be read.
        """
        if facts is None:
            with DecodePool() as decoders:
                found = list(decoders.each(self._items(), seen.decode_spec))
        else:
            with closing(DecodeWorker()) as decoder:
                whole = decode_whole(self._items(), decoder, seen.in_channels, seen.white)
                found = [(item, _cut(one, seen, facts)) for item, one in whole]
        problems = [(item.name, one.problem) for item, one in found if one.pixels is None]
        if problems and len(problems) == len(found):
            raise nothing_read(self.source, len(found), *problems[0])
        if problems:
            self.console.warn(left_out(problems, len(found)))
        return np.stack([one.pixels for _, one in found if one.pixels is not None])

    def _items(self) -> Iterator[Item]:
        shards = range(self.source.num_shards)
        sizes = self.source.sizes()
        if sizes is None:
            return islice(chain.from_iterable(map(self.source.stream, shards)), MOST)
        places = [(shard, index) for shard in shards for index in range(sizes[shard])]
        rng = np.random.default_rng(seed_for(0, "calibrate"))
        chosen = np.sort(rng.permutation(len(places))[:MOST])
        return (self.source.read(*places[number]) for number in chosen)


def _cut(one: Decoded, seen: NetworkInput, facts: SegmenterFacts) -> Decoded:
    """Return the middle of a decoded image, as large as a crop."""
    if one.pixels is None:
        return one
    return replace(one, pixels=middle_window(one.pixels, facts.short_side, seen.image_size))
