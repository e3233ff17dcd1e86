"""Open an export in new environments, each with the packages of one form only, and compare classes.

    python benchmarks/fresh_environments.py shipped/ photos/ --num-images 100 --out fresh.json

EXPORT is what `masktas export --to torch,timm,hf,onnx,onnx-int8` wrote of a classifier of square
colour images. The environments are made by uv from the registry that it is configured for, in the
versions of requirements.lock; masktas is installed from a wheel that is built here, and only where
the form needs it. The classes are compared with those of `masktas.load(EXPORT).predict(PHOTOS)` in
this environment.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).parent / "uv"
SUFFIXES = (".jpg", ".jpeg", ".png")

TIMM = """
import json, sys
import timm, torch
from PIL import Image
import masktas.timm
network = timm.create_model(f"local-dir:{sys.argv[1]}", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
names = network.pretrained_cfg["label_names"]
with torch.no_grad():
    found = [
        names[int(network(prepare(Image.open(path).convert("RGB"))[None])[0].argmax())]
        for path in sys.argv[2:]
    ]
print(json.dumps(found))
"""
TRANSFORMERS = """
import json, sys
import transformers
import masktas.timm
classify = transformers.pipeline("image-classification", sys.argv[1])
print(json.dumps([classify(path, top_k=1)[0]["label"] for path in sys.argv[2:]]))
"""
ONNXRUNTIME = """
import json, sys
import numpy as np, onnxruntime
from PIL import Image, ImageOps
session = onnxruntime.InferenceSession(sys.argv[1])
about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
(height, width), (h, w) = about["stored_size"], about["image_size"]
top, left = (height - h) // 2, (width - w) // 2
found = []
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    pixels = np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC))
    x = (pixels[top : top + h, left : left + w] / 255 - about["mean"]) / about["std"]
    [logits] = session.run(None, {"images": x.transpose(2, 0, 1)[None].astype(np.float32)})
    found.append(about["classes"][logits[0].argmax()])
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment, and the program that classifies photos in it.

    Attributes:
        name: of the environment.
        packages: that are installed; `masktas` stands for the wheel.
        file: of the export, which is the program's first argument; empty for the folder.
        program: Python text that prints a JSON list of classes; empty to run the file itself.
    """

    name: str
    packages: tuple[str, ...]
    file: str
    program: str = ""

    def classes(self, python: Path, export: Path, photos: Sequence[Path]) -> list[str]:
        """Classify photos with the Python of the environment, one after the other."""
        program = ["-c", self.program] if self.program else []
        command: list[str | Path] = [python, "-I", *program, export / self.file, *photos]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{self.name} failed:\n{done.stderr}")
        if self.program:
            found: list[str] = json.loads(done.stdout)
            return found
        return [line.split("  ")[1].rpartition(" ")[0] for line in done.stdout.splitlines()]


ENVIRONMENTS = (
    Environment("torch alone: python model.py", ("torch", "pillow"), "model.py"),
    Environment("timm after installing masktas", ("masktas",), "", TIMM),
    Environment("transformers' pipeline", ("masktas", "transformers"), "", TRANSFORMERS),
    Environment(
        "onnxruntime alone", ("onnxruntime", "pillow", "numpy"), "onnx/model.onnx", ONNXRUNTIME
    ),
    Environment(
        "onnxruntime alone, 8 bits",
        ("onnxruntime", "pillow", "numpy"),
        "onnx/model_int8.onnx",
        ONNXRUNTIME,
    ),
    Environment(
        "onnxruntime alone, 8 bits in fixed ranges",
        ("onnxruntime", "pillow", "numpy"),
        "onnx/model_int8_static.onnx",
        ONNXRUNTIME,
    ),
)


def built(folder: Path) -> Path:
    """Build the wheel as `make dist` does."""
    command: list[str | Path] = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    command += ["--directory", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def made(folder: Path, packages: Sequence[str], wheel: Path) -> Path:
    """Make an environment, unless it is there, and return its Python."""
    python = folder / "bin/python"
    if not python.exists():
        subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, folder], check=True)
        given = [str(wheel) if one == "masktas" else one for one in packages]
        install: list[str | Path] = [UV, "pip", "install", "--quiet", "--python", python]
        subprocess.run([*install, "--constraint", ROOT / "requirements.lock", *given], check=True)
    return python


def installed(python: Path) -> list[str]:
    """Return the packages of an environment with their versions."""
    command: list[str | Path] = [UV, "pip", "freeze", "--python", python]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.partition(" @ ")[0] for line in lines]


def compared(found: Sequence[str], expected: Sequence[str]) -> dict[str, Any]:
    """Return on how many photos the classes are the same."""
    return {
        "photos": len(expected),
        "same": sum(a == b for a, b in zip(found, expected, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("export", type=Path, help="folder that masktas export wrote")
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("--num-images", type=int, default=100)
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    parser.add_argument("--environments", type=Path, help="folder that keeps the environments")
    arguments = parser.parse_args()
    files = sorted(one for one in arguments.photos.iterdir() if one.suffix.lower() in SUFFIXES)
    photos = [one.resolve() for one in files[:: max(1, len(files) // arguments.num_images)]]
    photos = photos[: arguments.num_images]
    from masktas.predictor import load_backbone

    export = arguments.export.resolve()
    expected = [one.top[0][0] for one in load_backbone(export).predict(photos, top=1)]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        kept = arguments.environments or Path(temporary)
        wheel = built(Path(temporary) / "dist")
        for one in ENVIRONMENTS:
            if one.file and not (export / one.file).exists():
                continue
            python = made(kept.resolve() / "-".join(one.packages), one.packages, wheel)
            began = time.perf_counter()
            row = compared(one.classes(python, export, photos), expected)
            row |= {"seconds": round(time.perf_counter() - began, 1), "packages": installed(python)}
            rows.append({"environment": one.name, **row})
            print(f"{one.name}: the same class for {row['same']} of {row['photos']} photos")
            if arguments.out is not None:
                arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
