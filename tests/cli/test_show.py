"""`masktas show` on the architectures of SPEC 1, on spaces, and without loading torch."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from masktas.cli.show import describe, show
from masktas.errors import BudgetError
from masktas.space import Architecture, SearchSpace, memory, size
from measured import latency_model

T = ([3] * 10 + [4, 3, 3], [3.5, 3.5, 3, 3.5, 3, 3, 4, 4, 3.5, 4, 3.5, 4, 3.5])
S = ([6, 6, 5, 7, 5, 5, 5, 6, 6, 7, 7, 6, 7], [3, 3.5, 3, 3.5, 4, 4, 4, 4, 4, 4, 4, 3.5, 4])
B = (
    [9, 9, 9, 9, 9, 10, 9, 9, 10, 9, 10, 9, 9, 10],
    [3.5, 3.5, 4, 3.5, 4, 3.5, 3.5, 3, 4, 4, 3, 4, 3, 3.5],
)


@pytest.mark.parametrize(
    ("embed_dim", "num_heads", "mlp_ratio", "params", "macs"),
    [
        (192, *T, 5_768_104, 1_283_236_352),
        (384, *S, 22_791_592, 4_773_931_776),
        (576, *B, 53_584_168, 11_045_397_248),
        (192, [3] * 12, [4] * 12, 5_717_416, 1_253_683_200),
        (384, [6] * 12, [4] * 12, 22_050_664, 4_598_882_304),
    ],
)
def test_published_architectures_cost_what_the_spec_says(
    tmp_path: Path,
    embed_dim: int,
    num_heads: list[int],
    mlp_ratio: list[float],
    params: int,
    macs: int,
) -> None:
    path = tmp_path / "architecture.json"
    path.write_text(
        json.dumps({"embed_dim": embed_dim, "num_heads": num_heads, "mlp_ratio": mlp_ratio})
    )
    shown = describe(str(path))
    assert (shown["params"], shown["macs"]) == (params, macs)
    assert sum(block["params"] for block in shown["blocks"]) < params
    assert len(shown["blocks"]) == shown["depth"] == len(num_heads)


@pytest.mark.parametrize("tokens", [["show", "small", "--json"], ["--help"], ["run", "--help"]])
def test_show_and_help_load_neither_torch_nor_matplotlib(tokens: list[str]) -> None:
    code = (
        "import sys\n"
        "from masktas.cli import main\n"
        "try:\n"
        f"    main({tokens!r})\n"
        "except SystemExit as ended:\n"
        "    assert not ended.code, ended.code\n"
        "slow = {'torch', 'timm', 'matplotlib', 'pandas', 'PIL'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_space_tells_its_size_and_range() -> None:
    shown = describe("micro")
    assert shown["kind"] == "space"
    assert shown["size"] == 9_766_656
    assert shown["params"][0] < shown["params"][1]


def test_a_space_file_is_told_from_an_architecture(tmp_path: Path) -> None:
    space = {"embed_dim": [64], "depth": [2], "num_heads": [1], "mlp_ratio": [2, 4]}
    (tmp_path / "mine.json").write_text(json.dumps(space))
    (tmp_path / "mine.toml").write_text(
        "embed_dim = [64]\ndepth = [2]\nnum_heads = [1]\nmlp_ratio = [2, 4]\n"
    )
    for name in ("mine.json", "mine.toml"):
        shown = describe(str(tmp_path / name))
        assert (shown["kind"], shown["name"], shown["size"]) == ("space", "mine", 4)


def test_a_space_tells_its_patch_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"embed_dim": [64], "depth": [2], "num_heads": [1], "mlp_ratio": [2, 4]}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**fields, "patch_size": [32, 16]}))
    assert (describe(str(path))["patch_size"], describe(str(path))["size"]) == ([16, 32], 8)
    assert describe("micro")["patch_size"] == 4
    show(str(path))
    assert "  patch_size   16, 32\n" in capsys.readouterr().out


def test_an_architecture_tells_its_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "architecture.json"
    fields = {"embed_dim": 192, "num_heads": [3] * 12, "mlp_ratio": [4] * 12}
    path.write_text(json.dumps(fields))
    one = Architecture.load(path)
    shown = describe(str(path))
    assert (shown["size"], shown["memory"]) == (size(one), memory(one))
    show(str(path))
    printed = capsys.readouterr().out
    assert "22.9 MB (the file of fp32 weights)" in printed
    assert f"{memory(one) / 1e6:.3g} MB (peak of the activations" in printed
    show("tiny")
    assert "file_size    21.1 MB to 41.7 MB" in capsys.readouterr().out
    # An architecture.json may say what it costs.
    path.write_text(json.dumps(fields | {key: shown[key] for key in ("size", "memory")}))
    assert Architecture.load(path) == one


def test_a_latency_model_tells_its_target_its_size_and_its_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = latency_model(SearchSpace.preset("tiny"), random.Random(0))
    path = tmp_path / "latency.json"
    path.write_text(json.dumps(model.to_dict()))
    shown = describe(str(path))
    assert shown["kind"] == "latency"
    assert shown["entries"] == {"stem": 3, "attention": 6, "mlp": 6}
    show(str(path))
    printed = capsys.readouterr().out
    for words in ("cpu", "threads", "15 (3 of stem, 6 of attention", "mean_error   0.02", "8"):
        assert words in printed
    show(str(path), json=True)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(shown))


@pytest.mark.parametrize("change", [{"schema": 99}, {"mlp": 3}, {"stem": [["x", 1]]}])
def test_a_file_that_is_nearly_a_latency_model_is_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    fields = latency_model(SearchSpace.preset("tiny"), random.Random(0)).to_dict()
    path = tmp_path / "latency.json"
    path.write_text(json.dumps(fields | change))
    with pytest.raises(BudgetError, match=r"latency\.json: not a latency model"):
        describe(str(path))
