"""Write a folder of photos as a person has them: every format, size and mode, and some damage.

    python benchmarks/mixed_folder.py photos [--table images.parquet] [--count 600]
    masktas run photos --out RUN --space SPACE --max-params N

Two folders, `even` and `odd`, so that there are labels; about one file in 15 cannot be read.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import tifffile
from PIL import Image

TABLE = Path(__file__).parents[2] / "shared" / "data" / "imagenet1000" / "sample.parquet"
KINDS = (
    "jpg", "png", "webp", "avif", "bmp", "gif", "palette", "grey", "cmyk", "alpha", "turned",
    "deep", "progressive", "small", "wide", "npy", "cut", "empty", "text",
)  # fmt: skip


def written(image: Image.Image, content: bytes, kind: str, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    match kind:
        case "jpg":
            path.with_suffix(".JPG").write_bytes(content)
        case "png" | "webp" | "avif" | "bmp" | "gif":
            image.save(path.with_suffix(f".{kind}"))
        case "palette":
            image.quantize(64).save(path.with_suffix(".png"))
        case "grey":
            image.convert("L").save(path.with_suffix(".jpeg"))
        case "cmyk":
            image.convert("CMYK").save(path.with_suffix(".jpg"))
        case "alpha":
            image.putalpha(image.convert("L"))
            image.save(path.with_suffix(".png"))
        case "turned":
            image.rotate(90, expand=True).save(path.with_suffix(".jpg"), exif=exif)
        case "deep":
            deep = np.asarray(image).astype(np.uint16) * 257
            tifffile.imwrite(path.with_suffix(".tif"), deep, photometric="rgb")
        case "progressive":
            image.save(path.with_suffix(".jpg"), progressive=True)
        case "small":
            image.resize((24, 31)).save(path.with_suffix(".png"))
        case "wide":
            image.resize((900, 60)).save(path.with_suffix(".jpg"))
        case "npy":
            np.save(path.with_suffix(".npy"), np.asarray(image))
        case "cut":
            path.with_suffix(".jpg").write_bytes(content[: len(content) // 2])
        case "empty":
            path.with_suffix(".jpg").touch()
        case "text":
            path.with_suffix(".jpg").write_text("this is no image\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--count", type=int, default=600)
    given = parser.parse_args()
    rows = parquet.read_table(given.table, columns=["image"])["image"].to_pylist()
    for number in range(given.count):
        # damage is rare: the last three kinds in every third round only
        kind = KINDS[number % len(KINDS)]
        if kind in KINDS[-3:] and number // len(KINDS) % 3:
            kind = "jpg"
        content = rows[number % len(rows)]["bytes"]
        path = given.folder / ("even", "odd")[number % 2] / f"{number:04d}-{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        written(Image.open(io.BytesIO(content)).convert("RGB"), content, kind, path)


if __name__ == "__main__":
    main()
