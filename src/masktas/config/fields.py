"""Types of settings: numbers and texts with a range, parsed from what users write."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from masktas.errors import BudgetError, ConfigError
from masktas.formats import format_size, parse_bytes, parse_size
from masktas.space.limits import parse_limit
from masktas.stopping import parse_duration

N = TypeVar("N", int, float)
FIT = "fit"  # as a temperature: the network's own for each image


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, and instances are immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the default of every setting, as JSON."""
        return cls().model_dump(mode="json")


def _crop_scale(value: tuple[float, float]) -> tuple[float, float]:
    low, high = value
    if not 0 < low <= high <= 1:
        raise ValueError("give two shares of the image's area, 0 < least <= most <= 1")
    return value


def _limit(what: str) -> BeforeValidator:
    def read(value: object) -> str:
        try:
            parse_limit(what, str(value))
        except BudgetError as error:
            raise ValueError(str(error)) from None
        return str(value)

    return BeforeValidator(read)


def _duration(value: object) -> str:
    try:
        parse_duration(str(value))
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return str(value)


def _image_size(value: object) -> int | str:
    return format_size(parse_size("" if isinstance(value, bool) else str(value)))


def _numbers(value: object, kind: type[N]) -> list[N]:
    """Read numbers between commas, or a list of them; none if any is not a number."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        return [kind(str(part)) for part in parts]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return []


def _per_channel(value: object) -> object:
    numbers = _numbers(value, float)
    if not numbers:
        raise ValueError("give a number for each channel: 0.5,0.5,0.5")
    if not all(0 <= number <= 1 for number in numbers):
        raise ValueError("give numbers in [0, 1], where 1 is white")
    short = [f"{number:.10g}" for number in numbers]
    return ",".join(
        text if float(text) == number else repr(number)
        for text, number in zip(short, numbers, strict=True)
    )


def _bytes(value: object) -> str:
    parse_bytes(str(value))
    return str(value)


def _temperature(value: object) -> float | str:
    """Read a temperature, or `fit`."""
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if text != FIT and not 0 < number < math.inf:
        raise ValueError(f"give a number above 0, or {FIT}")
    return text if text == FIT else number


def _epochs_of_rounds(value: object) -> str:
    epochs = _numbers(value, int)
    if not epochs or min(epochs) < 1:
        raise ValueError("give the epochs of each round between commas: 1,1,2,4")
    return ",".join(map(str, epochs))


def _scales(value: object) -> str:
    scales = _numbers(value, float)
    if not scales or not all(0 < one <= 10 for one in scales):
        raise ValueError("give factors above 0 and at most 10 between commas: 0.75,1,1.25")
    return ",".join(f"{one:g}" for one in scales)


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("input should be a whole number")
    return value


Share = Annotated[float, Field(ge=0, lt=1)]
Temperature = Annotated[float | str, BeforeValidator(_temperature)]
Count = Annotated[int, BeforeValidator(_not_bool), Field(gt=0)]
Ratio = Annotated[float, Field(gt=0, lt=1)]
ImageSize = Annotated[int | str, BeforeValidator(_image_size)]
Channels = Annotated[int, BeforeValidator(_not_bool), Field(gt=0, le=1024)]
PerChannel = Annotated[str, BeforeValidator(_per_channel)]
Bytes = Annotated[str, BeforeValidator(_bytes)]
CropScale = Annotated[tuple[float, float], AfterValidator(_crop_scale)]
Params = Annotated[str, _limit("params")]
Macs = Annotated[str, _limit("macs")]
Latency = Annotated[str, _limit("latency")]
Size = Annotated[str, _limit("size")]
Memory = Annotated[str, _limit("memory")]
Scales = Annotated[str, BeforeValidator(_scales)]
EpochsOfRounds = Annotated[str, BeforeValidator(_epochs_of_rounds)]
Duration = Annotated[str, BeforeValidator(_duration)]
