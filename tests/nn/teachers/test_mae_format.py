"""Official MAE files: shapes are read off the tensors, and no code in a file is run."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path

import pytest
import torch

from masktas.errors import ArtifactError, ConfigError
from masktas.nn.teachers.files import read_tensors
from masktas.nn.teachers.mae_format import convert
from released import SMALL, official_mae, write_official

# --- shapes, read off the tensors


@pytest.mark.parametrize(
    ("width", "heads"), [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16)]
)
def test_heads_of_released_widths_are_known(width: int, heads: int) -> None:
    state = official_mae(width=width, depth=1, patch=4, side=2, decoder=None, ratio=1)
    encoder, decoder = convert(state, where="test", num_heads=None, partial=False)
    assert encoder.architecture.num_heads == (heads,)
    assert encoder.architecture.head_dim == width // heads
    assert decoder is None


@pytest.mark.parametrize("ratio", [4, 3.5, 6144 / 1408, 1.01])
def test_hidden_widths_are_met_exactly(ratio: float) -> None:
    state = official_mae(width=64, depth=1, patch=4, side=2, decoder=None, ratio=ratio)
    encoder, _ = convert(state, where="test", num_heads=2, partial=False)
    assert encoder.architecture.mlp_dim == (state["blocks.0.mlp.fc1.weight"].shape[0],)


@pytest.mark.parametrize(
    ("change", "heads", "error", "words"),
    [
        (lambda s: s.pop("pos_embed"), 2, ArtifactError, "not in the public MAE format"),
        (lambda s: s.pop("norm.weight"), 2, ArtifactError, r"1 tensors .* \(norm.weight\)"),
        (lambda s: s.update({"head.weight": torch.zeros(9, 64)}), 2, ArtifactError,
         r"1 tensors are not used \(head.weight\)"),
        (lambda s: s.update({f"blocks.1.ls{n}.gamma": torch.ones(64) for n in range(12)}), 2,
         ArtifactError, r"12 tensors are not used \(blocks.1.ls0.gamma.*, \.\.\.\)"),
        (lambda s: s.update({"blocks.1.mlp.fc1.bias": torch.zeros(3)}), 2, ArtifactError,
         r"blocks.1.mlp.fc1.bias has shape \[3\]"),
        (lambda s: s.update({"norm.bias": torch.tensor(1.0)}), 2, ArtifactError, "norm.bias has"),
        (lambda s: s["decoder_pos_embed"].fill_(1), 2, ArtifactError, "decoder_pos_embed"),
        (lambda s: s.update({"decoder_embed.weight": torch.zeros(48, 64)}), 2, ArtifactError,
         "heads 32 wide"),
        (lambda s: s.update({"pos_embed": torch.zeros(1, 19, 64)}), 2, ArtifactError, "square"),
        (lambda s: None, None, ConfigError, "--teacher-heads"),
        (lambda s: None, 5, ConfigError, "does not divide into 5 heads"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_a_list(change, heads, error, words) -> None:
    state = official_mae(**SMALL)
    change(state)
    with pytest.raises(error, match=words) as refused:
        convert(state, where="file.pth", num_heads=heads, partial=False)
    assert str(refused.value).startswith("file.pth")
    assert "\n" not in str(refused.value)


def test_partial_takes_what_fits_and_nothing_else() -> None:
    state = official_mae(**SMALL)
    missing = {n: t for n, t in state.items() if n != "norm.weight"} | {"more": torch.zeros(2)}
    encoder, _ = convert(missing, where="test", num_heads=2, partial=True)
    assert torch.equal(encoder.norm.weight, torch.ones(64))
    assert torch.equal(encoder.norm.bias, state["norm.bias"])


# --- files


def test_files_of_all_kinds_hold_the_same(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = official_mae(**SMALL)
    write_official(tmp_path / "a.pth", state)
    torch.save(state, tmp_path / "b.pth")
    torch.save({"model": state, "args": argparse.Namespace(lr=1.0), "epoch": 3}, tmp_path / "c.pth")
    torch.save({"state_dict": {n: t.half() for n, t in state.items()}}, tmp_path / "d.pth")
    save_file(state, tmp_path / "e.safetensors")
    save_file(state, tmp_path / "f.pth")  # what counts is what is in it
    for path in sorted(tmp_path.iterdir()):
        read = read_tensors(path)
        assert read.keys() == state.keys()
        close = {"atol": 1e-3, "rtol": 1e-2} if path.name == "d.pth" else {"atol": 0, "rtol": 0}
        for name, tensor in read.items():
            torch.testing.assert_close(tensor, state[name], **close)


class Evil:
    """What runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_code_in_a_file_is_refused_and_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    torch.save({"model": official_mae(**SMALL), "more": Evil(mark)}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"model": Evil(mark)}))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(ArtifactError, match=r"never unpickled|not a weight file") as refused:
            read_tensors(tmp_path / name)
        assert "\n" not in str(refused.value)
    assert not mark.exists()


def test_damaged_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(official_mae(**SMALL), tmp_path / "whole.safetensors")
    write_official(tmp_path / "whole.pth", official_mae(**SMALL))
    whole = {n: (tmp_path / n).read_bytes() for n in ("whole.safetensors", "whole.pth")}
    contents = {
        "empty.pth": b"",
        "text.pth": b"this is not a checkpoint\n" * 20,
        "short": b"{",
        "json": b'{"model": 3}',
        "zip": b"PK\x03\x04" + bytes(100),
        "header.safetensors": (10**15).to_bytes(8, "little") + b"{}",
    }
    for name, content in whole.items():
        contents |= {
            f"{share}-{name}": content[: int(len(content) * share)] for share in (0.1, 0.9)
        }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtifactError) as refused:
            read_tensors(tmp_path / name)
        assert str(tmp_path / name) in str(refused.value), name
        assert "\n" not in str(refused.value), name
    for content in (
        3,
        {"model": 3},
        {"model": {"a": 1}},
        {1: torch.zeros(2)},
        {},
        [torch.zeros(2)],
    ):
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(ArtifactError):
            read_tensors(tmp_path / "odd.pth")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_tensors(tmp_path / "missing.pth")
