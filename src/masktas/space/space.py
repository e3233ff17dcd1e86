"""Search spaces: the choices for every dimension of an architecture, as data."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from masktas.documents import read_document
from masktas.errors import SpaceError
from masktas.space.architecture import (
    Architecture,
    image_size_pair,
    plain_number,
    require_mlp_ratio,
    require_num_classes,
    require_patches,
    require_positive_integer,
)
from masktas.space.tiling import MIN_UNITS, common_unit, patch_sizes_together

CHOICES = ("embed_dim", "depth", "num_heads", "mlp_ratio")
MAX_CHOICES = 256  # of one dimension; published spaces have up to 8


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Choices for patch size, width, depth, and each block's heads and MLP ratio (SPEC 1, 6.1).

    Blocks choose independently. Choices are sorted and deduplicated. The paper's spaces have one
    patch size (MaskTAS 2.2).

    Attributes:
        name: of the space in manifests.
        embed_dim, depth, num_heads, mlp_ratio: the choices.
        patch_size: the choices; a single one may be given as a number.
        head_dim, image_size, in_channels, num_classes: shared by all; see `Architecture`.

    Raises:
        SpaceError: if a choice is empty or out of range, there are too many choices, patches do not
            tile the image, or there are several patch sizes and fewer than 16 units in an image.
    """

    name: str
    embed_dim: tuple[int, ...]
    depth: tuple[int, ...]
    num_heads: tuple[int, ...]
    mlp_ratio: tuple[float, ...]
    head_dim: int = 64
    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, ...] = (16,)
    in_channels: int = 3
    num_classes: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch_size", _as_choices(self.patch_size))
        for field in (*CHOICES, "patch_size"):
            choices = getattr(self, field)
            if not choices:
                raise SpaceError(f"{field} has no choices: give at least one.")
            if len(choices) > MAX_CHOICES:
                raise SpaceError(
                    f"{field} has {len(choices):,} choices: give at most {MAX_CHOICES}."
                )
            for choice in choices:
                if field == "mlp_ratio":
                    require_mlp_ratio(min(self.embed_dim), choice)
                else:
                    require_positive_integer(field, choice)
            ordered = tuple(sorted({plain_number(choice) for choice in choices}))
            object.__setattr__(self, field, ordered)
        for field in ("head_dim", "in_channels"):
            require_positive_integer(field, getattr(self, field))
        for patch_size in self.patch_size:
            require_patches(self.image_size, patch_size)
        _require_units(self)
        require_num_classes(self.num_classes)
        if not isinstance(self.name, str):
            raise SpaceError(f"name is {self.name!r}: give a word.")

    @classmethod
    def preset(cls, name: str) -> SearchSpace:
        """Return a space by name.

        Those of the paper are tiny, small and base (SPEC 1, 224 px); wide has two patch sizes and
        holds networks from ViT-Ti/32 to ViT-B/16 and beyond. For small images there are micro and
        wide-micro (32 px), demo (28 px) and digits (32 px, two patch sizes).
        """
        if name not in PRESETS:
            close = get_close_matches(name, PRESETS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise SpaceError(
                f"Unknown space {name!r}.{hint} Presets are {', '.join(PRESETS)}; "
                "a file of your own (.toml or .json) works too."
            )
        return PRESETS[name]

    @classmethod
    def load(cls, source: str | Path) -> SearchSpace:
        """Read a preset's name or a file, TOML or JSON, with the fields of this class."""
        path = Path(source)
        if path.suffix not in (".toml", ".json"):
            return cls.preset(str(source))
        fields = read_document(path, SpaceError, path.suffix[1:].upper())
        return cls.from_dict(fields, where=str(path))

    @classmethod
    def from_dict(cls, fields: Any, *, where: str = "space") -> SearchSpace:
        """Read what `to_dict` wrote; `where` names the place in the message of a SpaceError."""
        if not isinstance(fields, dict):
            raise SpaceError(f"{where}: expected a table with {', '.join(CHOICES)}.")
        known = [field.name for field in dataclasses.fields(cls)]
        for key in fields:
            if key not in known:
                close = get_close_matches(key, known, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise SpaceError(f"{where}: unknown key {key!r}.{hint}")
        values = {"name": Path(where).stem, **fields}
        for key in CHOICES:
            if key not in values:
                raise SpaceError(f"{where}: {key!r} is missing: list its choices.")
            if not isinstance(values[key], list | tuple):
                raise SpaceError(f"{where}: {key} must be a list of choices.")
            values[key] = tuple(values[key])
        if "image_size" in values:
            values["image_size"] = image_size_pair(values["image_size"], where=where)
        try:
            return cls(**values)
        except SpaceError as error:
            raise SpaceError(f"{where}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types; `from_dict` reads them back to an equal space."""
        fields: dict[str, Any] = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }
        if len(self.patch_size) == 1:
            fields["patch_size"] = self.patch_size[0]
        if fields["num_classes"] is None:
            del fields["num_classes"]
        return fields

    def replace(self, **changes: Any) -> SearchSpace:
        """Return the same space with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def unit(self) -> int:
        """`U`, the smallest side in pixels of a square that patches of every size tile (SPEC 6.1).

        Units tile the image, since all patches do.
        """
        return math.lcm(*self.patch_size)

    def size(self) -> int:
        """Return the number of architectures."""
        block = len(self.num_heads) * len(self.mlp_ratio)
        shapes = len(self.patch_size) * len(self.embed_dim)
        return shapes * sum(int(block**depth) for depth in self.depth)

    def build(
        self,
        embed_dim: int,
        num_heads: tuple[int, ...],
        mlp_ratio: tuple[float, ...],
        *,
        patch_size: int | None = None,
    ) -> Architecture:
        """Return the architecture of this space with these genes; the finest patches if None."""
        return Architecture(
            embed_dim=embed_dim,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            head_dim=self.head_dim,
            image_size=self.image_size,
            patch_size=self.patch_size[0] if patch_size is None else patch_size,
            in_channels=self.in_channels,
            num_classes=self.num_classes,
        )

    def sample(self, rng: random.Random) -> Architecture:
        """Draw one: every dimension uniform over its choices, blocks independent (SPEC 3)."""
        # A single patch size is not drawn: the draws of the paper's spaces stay the same.
        patch_size = rng.choice(self.patch_size) if len(self.patch_size) > 1 else None
        depth = rng.choice(self.depth)
        return self.build(
            rng.choice(self.embed_dim),
            tuple(rng.choice(self.num_heads) for _ in range(depth)),
            tuple(rng.choice(self.mlp_ratio) for _ in range(depth)),
            patch_size=patch_size,
        )

    def uniform(
        self,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        *,
        patch_size: int | None = None,
    ) -> Architecture:
        """Return the architecture whose blocks are all equal; with the finest patches if None."""
        return self.build(
            embed_dim, (num_heads,) * depth, (mlp_ratio,) * depth, patch_size=patch_size
        )

    def uniforms(self) -> Iterator[Architecture]:
        """Yield every architecture whose blocks are all equal, the finest patches first."""
        for patch_size, width, depth, heads, ratio in itertools.product(
            self.patch_size, self.embed_dim, self.depth, self.num_heads, self.mlp_ratio
        ):
            yield self.uniform(width, depth, heads, ratio, patch_size=patch_size)

    @property
    def num_block_shapes(self) -> int:
        """How many shapes blocks have, each patch size by itself: it has other tokens."""
        choices = (self.patch_size, self.embed_dim, self.num_heads, self.mlp_ratio)
        return math.prod(len(values) for values in choices)

    def with_all_blocks(self) -> Iterator[Architecture]:
        """Yield few architectures whose blocks have every shape."""
        shapes = list(itertools.product(self.num_heads, self.mlp_ratio))
        for patch_size, width in itertools.product(self.patch_size, self.embed_dim):
            one = self.uniform(width, self.depth[-1], *shapes[-1], patch_size=patch_size)
            for first in range(0, len(shapes), one.depth):
                part = (shapes[first : first + one.depth] + shapes[:1] * one.depth)[: one.depth]
                heads, ratios = zip(*part, strict=True)
                yield one.replace(num_heads=heads, mlp_ratio=ratios)

    @property
    def smallest(self) -> Architecture:
        """The architecture of the fewest operations: smallest choices, coarsest patches."""
        return self.uniform(
            *(getattr(self, field)[0] for field in CHOICES), patch_size=self.patch_size[-1]
        )

    @property
    def middle(self) -> Architecture:
        """The architecture with the middle choice everywhere; of two the costlier."""
        choices = [getattr(self, field) for field in CHOICES]
        return self.uniform(
            *(values[len(values) // 2] for values in choices),
            patch_size=self.patch_size[(len(self.patch_size) - 1) // 2],
        )

    @property
    def largest(self) -> Architecture:
        """The architecture of the most operations: largest choices, finest patches.

        Its weights contain those of all others of the same patch size.
        """
        return self.uniform(*(getattr(self, field)[-1] for field in CHOICES))

    def check(self, architecture: Architecture) -> str | None:
        """Return why `architecture` is not of this space, or None if it is."""
        for field in ("head_dim", "image_size", "in_channels"):
            mine, its = getattr(self, field), getattr(architecture, field)
            if mine != its:
                return f"{field} is {its}, in space {self.name} it is {mine}"
        for field in ("patch_size", "embed_dim", "depth"):
            choices, its = getattr(self, field), getattr(architecture, field)
            if its not in choices:
                return f"{field} {its} is not one of {_listed(choices)}"
        for index, heads in enumerate(architecture.num_heads):
            if heads not in self.num_heads:
                return f"num_heads {heads} of block {index} is not one of {_listed(self.num_heads)}"
        for index, ratio in enumerate(architecture.mlp_ratio):
            if ratio not in self.mlp_ratio:
                return f"mlp_ratio {ratio} of block {index} is not one of {_listed(self.mlp_ratio)}"
        return None

    def require(self, architecture: Architecture) -> None:
        """Raise SpaceError with the reason unless `architecture` is of this space."""
        reason = self.check(architecture)
        if reason is not None:
            raise SpaceError(
                f"The architecture is not of space {self.name}: {reason}. "
                f"`masktas show {self.name}` prints the choices."
            )


def _as_choices(value: Any) -> tuple[Any, ...]:
    """Return choices as a tuple: of a list, or of a single value."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _require_units(space: SearchSpace) -> None:
    """Raise SpaceError if an image has too few units for several patch sizes."""
    (height, width), unit = space.image_size, space.unit
    if common_unit(space.image_size, space.patch_size) is not None:
        return
    groups = [_listed(group) for group in patch_sizes_together(space.image_size)]
    advice = f"patch sizes from {' or from '.join(groups)}" if groups else "one patch size"
    units = (height // unit) * (width // unit)
    raise SpaceError(
        f"Patches of {_listed(space.patch_size)} pixels together tile units of {unit} x {unit}, "
        f"and an image of {height} x {width} has {units} of these, fewer than {MIN_UNITS}: choose "
        f"{advice}."
    )


def _listed(choices: tuple[float, ...]) -> str:
    return ", ".join(str(choice) for choice in choices)


PRESETS: dict[str, SearchSpace] = {
    space.name: space
    for space in (
        SearchSpace("tiny", (192, 216, 240), (12, 13, 14), (3, 4), (3.5, 4)),
        SearchSpace("small", (320, 384, 448), (12, 13, 14), (5, 6, 7), (3, 3.5, 4)),
        SearchSpace("base", (528, 576, 624), (14, 15, 16), (9, 10), (3, 3.5, 4)),
        SearchSpace(
            "wide", (192, 256, 320, 384, 512, 640, 768), (6, 9, 12, 16), tuple(range(3, 13)),
            tuple(range(1, 7)), patch_size=(16, 32),
        ),
        SearchSpace(
            "micro", (96, 128, 160), (4, 5, 6), (2, 3, 4, 5), (2, 3, 4),
            head_dim=32, image_size=(32, 32), patch_size=(4,), num_classes=10,
        ),
        SearchSpace(
            "wide-micro", tuple(range(64, 257, 32)), tuple(range(2, 13)), tuple(range(1, 9)),
            tuple(range(1, 7)), head_dim=32, image_size=(32, 32), patch_size=(4, 8), num_classes=10,
        ),
        SearchSpace(
            "demo", (48, 64, 80), (3, 4, 5), (2, 3, 4), (2, 3, 4),
            head_dim=16, image_size=(28, 28), patch_size=(4,), in_channels=1, num_classes=10,
        ),
        SearchSpace(
            "digits", (32, 48, 64, 96), (2, 3, 4, 5, 6), (1, 2, 3, 4), (1, 2, 3, 4),
            head_dim=16, image_size=(32, 32), patch_size=(4, 8), in_channels=1, num_classes=10,
        ),
    )
}  # fmt: skip
