"""Python functions as teachers: from images and visible patches to tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from masktas.errors import ConfigError
from masktas.nn.teachers.counting import count_macs
from masktas.nn.teachers.teacher import InputSpec

Ask = Callable[[Tensor, Tensor], Tensor]


class FunctionTeacher:
    """A function `f(images [B, C, H, W], ids_keep [B, V]) -> tokens [B, V, D_t]` as a teacher.

    It gets the student's images on the device of the run. A module is frozen and moved to that
    device; any other function has to do that itself.

    Args:
        ask: the function.
        sight: input of the student.
        device: of the images.

    Raises:
        ConfigError: if it does not return tokens of that shape for an image of zeros.
    """

    def __init__(self, ask: Ask, sight: InputSpec, device: torch.device) -> None:
        if isinstance(ask, nn.Module):
            ask.eval().requires_grad_(False).to(device)
        self._ask, self._sight, self._device = ask, sight, device
        self._macs: dict[int, int] = {}
        self.embed_dim = self(*self._zeros(1)).shape[-1]

    @property
    def num_params(self) -> int:
        """Number of parameters of a module; 0 for any other function."""
        if not isinstance(self._ask, nn.Module):
            return 0
        return sum(parameter.numel() for parameter in self._ask.parameters())

    def macs(self, visible: int) -> int:
        """Count multiply-accumulates per image by torch's counter, once per number of patches."""
        if visible not in self._macs:
            self._macs[visible] = count_macs(lambda: self(*self._zeros(visible)))
        return self._macs[visible]

    def to(self, device: torch.device) -> FunctionTeacher:
        """Move to a device."""
        if isinstance(self._ask, nn.Module):
            self._ask.to(device)
        self._device = device
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Return tokens of visible patches; see `Teacher`."""
        tokens = self._ask(images, ids_keep)
        wanted = tuple(ids_keep.shape)
        if not isinstance(tokens, Tensor) or tokens.ndim != 3 or tokens.shape[:2] != wanted:
            found = list(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise ConfigError(
                f"The teacher {name_of(self._ask)} answered with {found}: return tokens "
                f"[images, visible patches, width], here [{wanted[0]}, {wanted[1]}, width]."
            )
        return tokens.detach()

    @property
    def has_class_token(self) -> bool:
        """Always False: a function returns patch tokens only."""
        return False

    def with_class_token(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Raise ConfigError: a function returns patch tokens only."""
        raise ConfigError(
            f"The teacher {name_of(self._ask)} is a function and has no class token to compare "
            "with: leave out --class-token."
        )

    def _zeros(self, visible: int) -> tuple[Tensor, Tensor]:
        shape = (1, self._sight.in_channels, *self._sight.image_size)
        ids = torch.arange(visible, device=self._device)[None]
        return torch.zeros(shape, device=self._device), ids


def name_of(ask: Ask) -> str:
    """Return a function's own name, for messages and manifests."""
    name = getattr(ask, "__qualname__", type(ask).__qualname__)
    return f"{getattr(ask, '__module__', '')}.{name}"
