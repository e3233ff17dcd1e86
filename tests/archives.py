"""Archives with given members, and what reading a source gives."""

from __future__ import annotations

import io
import tarfile
import zipfile

from masktas.errors import DataError


def items_of(source):
    return [item for shard in range(source.num_shards) for item in source.stream(shard)]


def until_error(source, shard=0):
    """Return the items that come before a shard breaks off, and what it says then."""
    items = []
    try:
        for item in source.stream(shard):
            items.append(item)
    except DataError as error:
        said = str(error)
    assert "\n" not in said
    return items, said


def tar_of(members, **options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(path, members, kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path
