"""The architecture of one Vision Transformer as a frozen value."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktas.documents import read_document
from masktas.errors import SpaceError

POOLS = ("cls", "mean", "mean-norm")
# Keys that an architecture.json may hold besides the architecture itself.
RESULT_KEYS = ("params", "macs", "latency", "size", "memory", "rating")
# Far above any network that is trained: larger numbers are mistakes, and would take hours to count.
MAX_DEPTH = 256
MAX_IMAGE_SIDE = 16_384
MAX_CLASSES = 10_000_000
LARGEST = {
    "embed_dim": 65_536,
    "num_heads": 1_024,
    "depth": MAX_DEPTH,
    "head_dim": 4_096,
    "patch_size": MAX_IMAGE_SIDE,
    "in_channels": 1_024,
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """A plain ViT: width `D`, and for each of its `L` blocks the heads `h_l` and MLP ratio `m_l`.

    The q/k/v width of block `l` is `head_dim * h_l`, independent of `D`; its MLP is
    `int(D * m_l)` wide (MaskTAS 2.2, after AutoFormer).

    Attributes:
        embed_dim: `D`, channels of a token.
        num_heads: `h_1..h_L`.
        mlp_ratio: `m_1..m_L`.
        head_dim: channels of one attention head.
        image_size: `(H, W)` in pixels.
        patch_size: `P`, the side of a square patch in pixels; divides H and W.
        in_channels: `C`, channels of an image.
        num_classes: outputs of the head; 0 for no head; None if not known yet (built without a
            head, but counted with 1,000 classes, as published tables do).
        pool: input of the head: the class token (`cls`), the mean of the patches after the last
            norm (`mean`), or the last norm of their mean (`mean-norm`, as in MAE).

    Raises:
        SpaceError: if the fields do not describe a network.
    """

    embed_dim: int
    num_heads: tuple[int, ...]
    mlp_ratio: tuple[float, ...]
    head_dim: int = 64
    image_size: tuple[int, int] = (224, 224)
    patch_size: int = 16
    in_channels: int = 3
    num_classes: int | None = None
    pool: str = "cls"

    def __post_init__(self) -> None:
        for name in ("embed_dim", "head_dim", "patch_size", "in_channels"):
            require_positive_integer(name, getattr(self, name))
        object.__setattr__(self, "num_heads", tuple(self.num_heads))
        if len(self.num_heads) > MAX_DEPTH:
            raise SpaceError(
                f"num_heads has {len(self.num_heads):,} entries: give at most {MAX_DEPTH} blocks."
            )
        object.__setattr__(self, "image_size", image_size_pair(self.image_size))
        for heads in self.num_heads:
            require_positive_integer("num_heads", heads)
        for ratio in self.mlp_ratio:
            require_mlp_ratio(self.embed_dim, ratio)
        if not self.num_heads or len(self.num_heads) != len(self.mlp_ratio):
            raise SpaceError(
                f"num_heads has {len(self.num_heads)} entries and mlp_ratio {len(self.mlp_ratio)}: "
                "give one of each for every block, and at least one block."
            )
        require_patches(self.image_size, self.patch_size)
        require_num_classes(self.num_classes)
        if self.pool not in POOLS:
            raise SpaceError(f"pool is {self.pool!r}: choose one of {', '.join(POOLS)}.")
        # 4 and 4.0 are the same ratio and must give the same JSON and digest.
        object.__setattr__(self, "mlp_ratio", tuple(plain_number(r) for r in self.mlp_ratio))

    @property
    def depth(self) -> int:
        """Number of transformer blocks `L`."""
        return len(self.num_heads)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def num_patches(self) -> int:
        """`N`, patches of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def patch_dim(self) -> int:
        """`P*P*C`, numbers of a patch."""
        return self.patch_size**2 * self.in_channels

    @property
    def mlp_dim(self) -> tuple[int, ...]:
        """Hidden width of each block's MLP, `int(D * m_l)`."""
        return tuple(int(self.embed_dim * ratio) for ratio in self.mlp_ratio)

    def replace(self, **changes: Any) -> Architecture:
        """Return the same architecture with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of an architecture.json, without results such as `params`."""
        height, width = self.image_size
        fields: dict[str, Any] = {
            "embed_dim": self.embed_dim,
            "depth": self.depth,
            "num_heads": list(self.num_heads),
            "mlp_ratio": list(self.mlp_ratio),
            "head_dim": self.head_dim,
            "image_size": height if height == width else [height, width],
            "patch_size": self.patch_size,
            "in_channels": self.in_channels,
        }
        if self.num_classes is not None:
            fields["num_classes"] = self.num_classes
        if self.pool != "cls":
            fields["pool"] = self.pool
        return fields

    @classmethod
    def from_dict(cls, fields: Any, *, where: str = "architecture") -> Architecture:
        """Read what `to_dict` wrote; `where` names the place in the message of a SpaceError."""
        if not isinstance(fields, dict):
            raise SpaceError(
                f"{where}: expected a JSON object with embed_dim, num_heads, mlp_ratio."
            )
        known = {field.name for field in dataclasses.fields(cls)} | {"depth", *RESULT_KEYS}
        for key in fields:
            if key not in known:
                raise SpaceError(
                    f"{where}: unknown key {key!r}; known are {', '.join(sorted(known))}."
                )
        for key in ("embed_dim", "num_heads", "mlp_ratio"):
            if key not in fields:
                raise SpaceError(f"{where}: {key!r} is missing.")
        values = {key: fields[key] for key in fields if key not in ("depth", *RESULT_KEYS)}
        for key in ("num_heads", "mlp_ratio"):
            if not isinstance(values[key], list | tuple):
                raise SpaceError(f"{where}: {key} must be a list with one entry for each block.")
            values[key] = tuple(values[key])
        if "image_size" in values:
            values["image_size"] = image_size_pair(values["image_size"], where=where)
        try:
            architecture = cls(**values)
        except SpaceError as error:
            raise SpaceError(f"{where}: {error}") from None
        if fields.get("depth", architecture.depth) != architecture.depth:
            raise SpaceError(
                f"{where}: depth is {fields['depth']!r}, but num_heads and mlp_ratio describe "
                f"{architecture.depth} blocks."
            )
        return architecture

    @classmethod
    def load(cls, path: Path) -> Architecture:
        """Read an architecture.json."""
        return cls.from_dict(read_document(Path(path), SpaceError, "JSON"), where=str(path))

    def digest(self) -> str:
        """Return 12 hexadecimal digits that identify this architecture."""
        canonical = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def image_size_pair(value: Any, *, where: str = "image_size") -> tuple[int, int]:
    """Read an image size: one side of a square, or height and width."""
    sides = value if isinstance(value, list | tuple) else (value, value)
    if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
        raise SpaceError(
            f"{where}: image_size is {value!r}: give one side in pixels, or [height, width]."
        )
    if max(sides) > MAX_IMAGE_SIDE:
        raise SpaceError(f"{where}: image_size is above {MAX_IMAGE_SIDE:,}: give fewer pixels.")
    return sides[0], sides[1]


def plain_number(value: float) -> float:
    """Return whole numbers as int, others as float."""
    return int(value) if value == int(value) else float(value)


def require_patches(image_size: tuple[int, int], patch_size: int) -> None:
    """Raise SpaceError unless patches of this size tile the image."""
    height, width = image_size
    if height % patch_size or width % patch_size:
        raise SpaceError(
            f"An image of {height} x {width} pixels does not divide into patches of {patch_size} x "
            f"{patch_size}: choose an image_size whose sides are multiples of {patch_size}, or "
            "another patch_size."
        )


def require_positive_integer(name: str, value: Any) -> None:
    """Raise SpaceError unless `value` is a whole number from 1 to the largest of its kind."""
    if type(value) is not int or value < 1:
        raise SpaceError(f"{name} is {value!r}: give a whole number above 0.")
    if value > LARGEST[name]:
        said = value if value < 10**20 else "too large"
        raise SpaceError(f"{name} is {said}: give a whole number up to {LARGEST[name]:,}.")


def require_num_classes(value: Any) -> None:
    """Raise SpaceError unless `value` is None or a whole number, 0 included."""
    if value is not None and (type(value) is not int or value < 0):
        raise SpaceError(
            f"num_classes is {value!r}: give a whole number, 0 for a network without a head."
        )
    if value is not None and value > MAX_CLASSES:
        raise SpaceError(f"num_classes is above {MAX_CLASSES:,}: give fewer classes.")


def require_mlp_ratio(embed_dim: int, ratio: Any) -> None:
    """Raise SpaceError unless an MLP of `int(embed_dim * ratio)` has at least one channel."""
    number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
    if not number or not 0 < ratio < 1000 or int(embed_dim * ratio) < 1:
        raise SpaceError(f"mlp_ratio is {ratio!r}: give a number above 0, such as 4.")
