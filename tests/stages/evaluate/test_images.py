"""Images of an evaluation have names, whatever source they are from."""

from __future__ import annotations

from types import SimpleNamespace

from masktas.errors import DataError
from masktas.stages.evaluate.images import RunImages


def test_a_mistake_has_a_name_where_images_are_read_in_order_only() -> None:
    class Once:
        location = "once"

        def read(self, shard: int, index: int) -> None:
            raise DataError("they must fit the cache")

    store = SimpleNamespace(images=lambda _: [])
    images = RunImages(store, "test", Once(), [], [])  # type: ignore[arg-type]
    assert images.name((2, 7)) == "shard 2, image 7"
