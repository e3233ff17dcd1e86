"""Sources of images behind one interface; `docs/data.md` lists all kinds."""

from masktas.data.sources.base import (
    IMAGE_SUFFIXES,
    Item,
    Source,
    class_index,
)
from masktas.data.sources.cifar import PixelSource
from masktas.data.sources.files import FileSource
from masktas.data.sources.hub import HubSource
from masktas.data.sources.open import canonical, open_image, open_source
from masktas.data.sources.python import PythonSource
from masktas.data.sources.tables import ParquetSource
from masktas.data.sources.tars import TarSource
from masktas.data.sources.zips import ZipSource

__all__ = [
    "IMAGE_SUFFIXES",
    "FileSource",
    "HubSource",
    "Item",
    "ParquetSource",
    "PixelSource",
    "PythonSource",
    "Source",
    "TarSource",
    "ZipSource",
    "canonical",
    "class_index",
    "open_image",
    "open_source",
]
