"""Settings of a validation: which networks are compared, and how accuracy is measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from masktas.config.fields import (
    Count,
    Settings,
)
from masktas.config.searching import CostSettings, RatingSettings
from masktas.errors import BudgetError, ConfigError
from masktas.space import QUANTITIES
from masktas.space.limits import parse_limit


def _band(value: object) -> str:
    """Read a share: 5%, 5 % or 0.05."""
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise ValueError("give a share such as 5% or 0.05")
    return f"{100 * share:.10g}%"


class ComparisonSettings(Settings):
    """Which networks are compared, and how their accuracy is measured."""

    num_networks: Count = Field(30, description="Number of networks to compare.")
    band: Annotated[str, BeforeValidator(_band)] | None = Field(
        None,
        description="Compare networks within this share of --center: 5%. By default numbers of "
        "parameters are spread evenly.",
    )
    center: Annotated[str, BeforeValidator(str)] | None = Field(
        None,
        description="Middle of the band: 6M, 1.3G, 5ms. By default that of search/main's winner, "
        "or the middle of what is feasible.",
    )
    of: Literal["params", "macs", "latency", "size", "memory"] | None = Field(
        None,
        description="Quantity of the band. By default the one that has an upper limit, or "
        "parameters.",
    )
    variants: bool = Field(
        False,
        description="Also try consistency with other rows, temperatures, class token and masks.",
    )
    against: str | None = Field(
        None,
        description="Another run folder: its supernet of the same space rates the same networks, "
        "to see whether two supernets agree.",
    )
    probe: Literal["finetune", "linear", "knn"] = Field(
        "finetune",
        description="Measure of accuracy: fine-tuning by the run's recipe, or a linear classifier "
        "or the 20 nearest neighbours on frozen features.",
    )
    probe_images: Count | None = Field(
        None,
        description="Number of labelled images to learn from. By default 5,000 for linear and knn, "
        "and all for fine-tuning.",
    )
    epochs: Count | None = Field(
        None, description="Number of epochs of fine-tuning. By default that of the recipe."
    )
    split: Literal["validation", "test"] = Field(
        "validation", description="Split that accuracy is measured on."
    )
    seeds: Annotated[int, Field(gt=0, le=100)] = Field(
        2, description="Number of times that each network's accuracy is measured, by another seed."
    )
    bootstrap: Annotated[int, Field(ge=0, le=100_000)] = Field(
        5000, description="Number of resamples for intervals and p values."
    )

    @property
    def share(self) -> float | None:
        """Half the width of the band over its center."""
        return None if self.band is None else float(self.band.removesuffix("%")) / 100


class ValidateSettings(CostSettings, RatingSettings, ComparisonSettings):
    """Whether ratings rank networks as accuracy does; the verdict is about `rating` (SPEC 4)."""

    @property
    def quantity(self) -> str:
        """The quantity of the band: `of`, or the only one with an upper limit, or params."""
        limited = [what for what in QUANTITIES if getattr(self, f"max_{what}") is not None]
        return self.of or (limited[0] if len(limited) == 1 else "params")

    def _require_together(self) -> None:
        """Raise ConfigError unless a band's center and quantity go with its width and costs."""
        self.require_counted(self.quantity)
        for name in ("center", "of"):
            if getattr(self, name) is not None and self.band is None:
                raise ConfigError(f"--{name} describes a band: give --band 5% as well.")
        if self.center is not None:
            try:
                parse_limit(self.quantity, self.center)
            except BudgetError as error:
                raise ConfigError(f"--center: {error}") from None
