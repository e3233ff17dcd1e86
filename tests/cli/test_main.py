"""What the command line makes of errors that are not its own."""

from __future__ import annotations

import pytest
import torch

from masktas.cli.failure import is_out_of_memory


def test_torch_out_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as too_large:
        torch.empty(2**55)  # more than any machine can address
    assert is_out_of_memory(too_large.value)
    with pytest.raises(RuntimeError) as other:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not is_out_of_memory(other.value)
