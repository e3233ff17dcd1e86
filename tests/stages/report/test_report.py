"""The report's numbers, from manifests alone; no torch is needed to write it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from manifests import (
    finetune_content,
    history_lines,
    rated_networks,
    search_content,
    write_lines,
    write_stage,
)
from masktas.artifacts import Stage
from masktas.cli.show import show
from masktas.errors import ArtifactError, ConfigError
from masktas.stages.common import charts
from masktas.stages.common.manifest import FinetuneManifest
from masktas.stages.report.page import PNG_SIGNATURE
from masktas.stages.report.stage import report
from masktas.stages.report.twins_section import accuracies_from


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rated = rated_networks(6)
    write_stage(tmp_path / "teacher", {}, [{"step": 1, "epoch": 1.0, "pixel_loss": 0.9}])
    write_stage(tmp_path / "search/main", search_content(), None)
    write_lines(tmp_path / "search/main/history.jsonl", history_lines(rated))
    tuned = (("main", 0, 0.9), ("largest", 4, 0.8), ("one", 1, 0.6), ("another", 2, 0.7))
    for name, index, top1 in tuned:
        write_stage(
            tmp_path / "finetune" / name,
            finetune_content(rated[index], top1),
            [{"step": 1, "epoch": 1.0, "loss": 2.0, "validation_top1": 0.5}],
        )
    return tmp_path


def test_report_puts_the_winner_beside_its_baselines(run: Path) -> None:
    page = report(run).read_text()
    assert "90.00" in page
    assert "80.00" in page
    assert "65.00 ± 7.07" in page  # mean and deviation of the two random networks measured
    assert "-2.2000 ± 0.1000" in page  # of the three that were rated
    assert "200K" in page
    assert "1,000" in page
    assert "<li>Winner level with largest uniform: 90.0 against 80.0 % top-1" in page


def test_captions_say_what_to_see(run: Path) -> None:
    lines = [
        {"step": step, "epoch": step / 1, "loss": 3.0 - step, "validation_top1": share}
        for step, share in ((1, 0.25), (2, 0.75), (3, 0.5))
    ]
    log = run / "finetune/main/metrics.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = report(run).read_text()
    for words in (
        "rated -2.0000 with 51.4K parameters: above 5 of the 6 networks",
        "The best rating rose from -2.0000 to -2.0000, which was reached after 1 of 6 networks.",
        "Pixel loss is 0.9.",
        "Loss goes from 2 to 0; validation top1 is highest at epoch 2: 75.0%.",
    ):
        assert words in page, words
    assert page.count("<figcaption>") == page.count("<svg") + page.count('"full explorer"')


@pytest.mark.parametrize("logged", ["", '{"step": 1, "epoch": 1.0, "lr": 0.1}\n'])
def test_a_training_without_losses_has_a_sentence_and_no_chart(run: Path, logged: str) -> None:
    charts_before = report(run).read_text().count("<svg")
    (run / "finetune/main/metrics.jsonl").write_text(logged)
    page = report(run).read_text()  # matplotlib's warning of an empty legend would be an error
    assert "Fine-tuning: main: metrics.jsonl holds no losses." in page
    assert page.count("<svg") == charts_before - 1


@pytest.mark.slow
def test_a_search_of_latency_shows_what_was_measured_and_how_sure_it_is(run: Path) -> None:
    path = run / "search/main/manifest.json"
    content = json.loads(path.read_text())
    for number, one in enumerate([content["winner"], content["uniform"], *content["random"]]):
        one |= {
            "error": 0.0123,
            "latency": 4.5,
            "measured_latency": 4.75 + number,
            "measured_latency_range": [4.5, 5.0],
            "size": 9e6,
        }
    error = {"difference": 0.4, "error": 0.0321}
    target = {"engine": "command", "command": "ask <phone>", "batch": 1}
    content |= {
        "top": [content["winner"], content["random"][0]],
        "front": [content["winner"]],
        "random_search": content["random"][1],
        "ahead": {"uniform": error, "random_search": error | {"difference": 0.2}},
        "objectives": ["params", "latency"],
        "latency_target": target,
    }
    content["budget"] |= {"max_latency": 5.0}
    path.write_text(json.dumps(content))
    page = report(run).read_text()
    for words in (
        "-2.0000 ± 0.0123", "4.75 ms", "4.5 ms", "at most 5 ms latency",
        '<th scope="col">predicted latency</th>',
        "<td>largest uniform</td>", "+0.4000 ± 0.0321", "+0.2000 ± 0.0321",
        "2. best", "best of random search", "front.csv", "ask &lt;phone&gt;",
    ):  # fmt: skip
        assert words in page, words
    assert "9 MB" not in page, "size was not limited"
    assert "same network" not in page
    content["random_search"] = content["winner"]
    path.write_text(json.dumps(content))
    assert "<td>same network</td>" in report(run).read_text()


def test_ratings_with_labels_are_said_to_use_them(run: Path) -> None:
    path = run / "search/main/manifest.json"
    content = json.loads(path.read_text())
    before = report(run).read_text().count("<td>yes</td>")
    content["settings"]["settings"] = {"rating": "knn"}
    path.write_text(json.dumps(content))
    page = report(run).read_text()
    assert page.count("<td>yes</td>") == before + 1
    assert "nearest neighbours" in page


def test_what_racing_has_dropped_is_never_the_best(run: Path) -> None:
    path = run / "search/main/history.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["complete"] = False
    lines[1]["origin"] = "neighbour"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "neighbour" in report(run).read_text()
    rest = max(line["rating"] for line in lines[1:])
    assert charts.best_so_far(lines)[-1] == rest < lines[0]["rating"]


def test_report_escapes_what_the_user_named(run: Path) -> None:
    page = report(run).read_text()
    assert "&lt;photos &amp; more&gt;" in page
    assert "<photos" not in page


def test_accuracies_of_another_network_are_not_claimed(run: Path) -> None:
    """Whatever a fine-tuning is called: only one of the very same network counts."""
    manifest = run / "finetune/main/manifest.json"
    content = json.loads(manifest.read_text())
    content["settings"]["architecture"]["embed_dim"] = 80
    manifest.write_text(json.dumps(content))
    page = report(run).read_text()
    assert "90.00" not in page
    assert "80.00" in page


def probed(offset: float) -> list[dict[str, Any]]:
    """Return the log of a supernet with probes at two epochs."""
    networks = ("smallest", "middle", "largest", "random-1")
    return [
        {"step": epoch, "epoch": float(epoch), "loss": 1.0}
        | {
            f"probe/{network}/{measure}": offset + number / epoch
            for number, network in enumerate(networks)
            for measure in ("pixel_loss", "feature_loss", "rating")
        }
        for epoch in (1, 2)
    ]


def write_supernet(run: Path, offset: float) -> None:
    networks = {name: {"params": 1_500_000} for name in ("smallest", "middle", "largest")}
    write_stage(run / "supernet", {"probes": networks, "reconstructions": []}, probed(offset))


def test_report_draws_how_the_supernet_converges(run: Path) -> None:
    assert "How the supernet converges" not in report(run).read_text()
    write_supernet(run, 0.5)
    page = report(run).read_text()
    assert "How the supernet converges" in page
    assert "smallest (1.5M parameters)" in page
    assert ">pixel loss</text>" in page.replace("\n", "")


@pytest.mark.slow
def test_report_draws_two_supernets_beside_each_other(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other & run $x^{"
    for none in (other, run):
        with pytest.raises(ConfigError, match="give another run folder"):
            report(run, beside=none)
    other.mkdir()
    with pytest.raises(ArtifactError, match="no finished supernet with probes"):
        report(run, beside=other)
    write_supernet(run, 0.5)
    write_supernet(other, 0.7)
    page = report(run, beside=other).read_text()
    assert "dashed: other &amp; run $x^{" in page
    assert "largest, other &amp; run $x^{" in page  # the chart's legend


@pytest.mark.slow
def test_curves_of_two_supernets_that_measure_nothing_alike_are_not_mixed(
    run: Path, tmp_path: Path
) -> None:
    write_supernet(run, 0.5)
    write_supernet(tmp_path / "other", 0.7)
    log = tmp_path / "other/supernet/metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    names = {name: f"{name.rpartition('/')[0]}/top1" for line in lines for name in line
             if name.startswith("probe/")}  # fmt: skip
    renamed = [{names.get(name, name): one for name, one in line.items()} for line in lines]
    log.write_text("".join(json.dumps(line) + "\n" for line in renamed))
    page = " ".join(report(run, beside=tmp_path / "other").read_text().split())
    assert "The curves of other are not drawn" in page
    assert "pixel loss</text>" in page.replace("> ", ">")
    assert "dashed: other" not in page


def test_report_tells_what_it_took(run: Path) -> None:
    page = report(run).read_text()
    for words in ("3:20 min in 3 attempts", "4.2 PFLOP", "14.0%", "2 x cpu (fp32)"):
        assert words in page, words


def test_report_counts_all_files_that_could_not_be_read(run: Path) -> None:
    path = run / "teacher/manifest.json"
    content = json.loads(path.read_text())
    listed = [{"name": f"{number}.jpg", "reason": "truncated"} for number in range(100)]
    content["images"] |= {"num_skipped": 150, "skipped": listed}
    path.write_text(json.dumps(content))
    assert "150 files could not be read" in report(run).read_text()


def test_the_chart_shows_the_cost_that_the_budget_limits(run: Path) -> None:
    assert "multiply-accumulates</text>" not in report(run).read_text()
    manifest = run / "search/main/manifest.json"
    content = json.loads(manifest.read_text())
    content["budget"] = {"max_macs": 10_000_000}
    manifest.write_text(json.dumps(content))
    assert "multiply-accumulates</text>" in report(run).read_text()


def write_validation(run: Path, name: str, *, probe: str | None) -> None:
    rows = [["consistency", "0.29\n[0.05, 0.51]", "0.41", "–", "–", "1.00"]]
    table = {"title": f"30 <{name}> networks", "header": list("abcdef"), "rows": rows}
    settings = {"split": "test", "rating": "consistency"}
    content = {
        "verdict": "consistency ranks 30 networks & more.",
        "difference": probe and "Networks of this size differ by 2.1 points & more.",
        "probe_images": probe and 2000,
        "tables": [table],
        "agreement": probe and {"consistency": {"tau": {"value": 0.29}}},
        "probe": probe,
        "num_networks": 30,
        "settings": {"settings": settings},
    }
    write_stage(run / "validate" / name, content, None)
    (run / "validate" / name / "settings.json").write_text("{}")


def test_report_shows_what_validations_found(run: Path) -> None:
    words = "<h2>Do ratings rank networks as accuracy does?"
    page = report(run).read_text()
    assert words not in page
    assert "<td>final test of fine-tuning</td>" in page
    write_validation(run, "band", probe="linear")
    (run / "validate/band/scatter.png").write_bytes(PNG_SIGNATURE + b"a picture")
    write_validation(run, "flat", probe=None)
    page = report(run).read_text()
    assert page.count(words) == 2
    assert "consistency ranks 30 networks &amp; more." in page
    assert page.count("Networks of this size differ by 2.1 points &amp; more.") == 1
    assert "30 &lt;band&gt; networks" in page
    assert '<td data-value="0.29">0.29\n[0.05, 0.51]</td>' in page
    assert page.count(base64.b64encode(PNG_SIGNATURE + b"a picture").decode()) == 1
    assert "2,000 labelled images, measured on the test split" in page
    # which was read by one of them
    assert "<td>final test of fine-tuning, validate/band</td>" in page
    assert "<td>search, fine-tuning, validate/band, validate/flat</td>" in page
    rows = [row for row in page.split("<tr>") if row.startswith("<td>validate/")]
    assert ["<td>yes</td>" in row for row in rows] == [True, False]


def test_show_lists_validations(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_validation(run, "band", probe="linear")
    write_validation(run, "flat", probe=None)
    for stage in ("teacher", "search", "finetune"):
        (run / stage).rename(run / f"not-{stage}")
    show(str(run))
    out = capsys.readouterr().out
    assert "validate/band             finished  200 s  30 networks, consistency tau 0.29" in out
    assert "30 networks, without labels" in out


def test_show_prints_a_stage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_validation(run, "band", probe="linear")
    (run / "validate/band/settings.json").write_text("{}")
    show(str(run / "validate/band"))
    assert "30 networks, consistency tau 0.29" in capsys.readouterr().out


def test_twins_are_not_averaged_over_recipes(tmp_path: Path) -> None:
    start, finetuned = tmp_path / "refine/main", []
    for name, top1, recipe in (("linear", 0.4, "linear"), ("main", 0.9, "x"), ("main-2", 0.8, "x")):
        content = finetune_content(rated_networks(1)[0], top1)
        content["settings"]["settings"]["recipe"] = recipe
        content["parents"] = {"weights": {"file": "../../refine/main/weights.safetensors"}}
        write_stage(tmp_path / "finetune" / name, content)
        stage = Stage("finetune", tmp_path / "finetune" / name)
        finetuned.append((stage.folder, FinetuneManifest.read(stage)))
    assert accuracies_from(finetuned, start) == (0.9, 0.8)
    assert accuracies_from(finetuned, tmp_path / "refine/other") == ()


def test_report_of_a_run_that_has_only_begun(tmp_path: Path, run: Path) -> None:
    for stage in ("search", "finetune"):
        (run / stage).rename(tmp_path / f"not-{stage}")
    assert "Teacher" in report(run).read_text()
    with pytest.raises(ArtifactError, match="no finished stage"):
        report(tmp_path / "nothing")


def test_report_needs_no_torch(run: Path) -> None:
    code = (
        "import sys\n"
        "from masktas.stages.report.stage import report\n"
        f"report({str(run)!r})\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
