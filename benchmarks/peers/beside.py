"""masktas beside AutoFormer, MAE, timm and torchvision on this machine's processor.

Command   python benchmarks/peers/beside.py --autoformer CREAM/AutoFormer --mae MAE --photos FILE
          with clones of microsoft/Cream and facebookresearch/mae, and a parquet file of JPEGs;
          what needs one that is not given is left out. --threads 2 on two idle cores.
Shows     P1 encoders of random subnets, P2 a step of the supernet, P5 of the masked autoencoder,
          P6 batches of photos, P7 the search's loop over candidates, P8 the network of fine-tuning:
          all in turns in one process, in fp32, and in bf16 where the processor multiplies it. First
          equal networks of equal weights must give equal outputs, so the work is the same. Peers
          get torch's fused AdamW. They return freed memory to the system, as torch does by itself
          on a CPU, and as a second contender of ours does. Medians (quartiles) of the turns; their
          time over ours, in the same precision, and over ours in the precision that `--precision
          auto` chooses here; the share of the peak of matrix products that the work's own products
          reach.
Writes    --out FILE: all of it as JSON, after every part.
Limit     exit code 1 if the outputs of a part are apart. Ratios mean something on an idle machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).parents[1])

from masktas.artifacts import versions
from masktas.files import write_json
from masktas.space import SearchSpace
from masktas.train.runtime import processor_name
from peers import autoencoder, classifier, clones, encoder, search, supernet
from peers.turns import OURS
from peers.work import NotEqual, Work

HEAD = ("part", "contender", "precision", "ms", "images/s", "share of the peak", "time / masktas",
        "time / masktas by default")  # fmt: skip
AUTOFORMER_HEAD_DIM = 64
Part = Callable[[], dict[str, Any]]


def parts_of(work: Work, given: argparse.Namespace) -> dict[str, Part]:
    """Return the parts that the clones suffice for."""
    found: dict[str, Part] = {}
    if work.autoformer is not None:
        found["p1"] = lambda: encoder.measure(work)
    if work.autoformer is not None and work.mae is not None:
        found["p2"] = lambda: supernet.measure(work)
    if work.mae is not None:
        found["p5"] = lambda: autoencoder.measure(work)
    if given.photos is not None:
        found["p6"] = lambda: _photos(given)
    if work.autoformer is not None:
        found["p7"] = lambda: search.measure(work, given.candidates, given.images)
    return found | {"p8": lambda: classifier.measure(work)}


def _photos(given: argparse.Namespace) -> dict[str, Any]:
    from peers import photos  # needs torchvision and pyarrow

    return photos.measure(given.photos, given.workers, given.rounds)


def lines_of(part: str, found: dict[str, Any]) -> list[str]:
    """Format a part: a line of the table for each contender."""
    lines = []
    for row in found["rows"]:
        low, middle, high = (1e3 * one for one in row["seconds"])
        share = row["share_of_peak"]
        cells = (
            part, row["name"], row["precision"], f"{middle:.4g} ({low:.4g} to {high:.4g})",
            f"{row['images_per_second']:,.4g}", "" if share is None else f"{share:.0%}",
            *("" if row["name"] == OURS and one[1] == 1 else
              f"{one[1]:.2f} ({one[0]:.2f} to {one[2]:.2f})"
              for one in (row["ratio"], row["ratio_to_default"])),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--autoformer", type=Path, help="folder AutoFormer of a clone of Cream")
    parser.add_argument("--mae", type=Path, help="clone of facebookresearch/mae")
    parser.add_argument("--photos", type=Path, help="parquet file of JPEGs, for p6")
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts to run")
    parser.add_argument("--space", default="tiny", help="of the networks")
    parser.add_argument("--batch", type=int, default=16, help="images of a step")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of each part, at least 3 turns"
    )
    parser.add_argument("--turn-steps", type=int, default=1, help="steps of a turn")
    parser.add_argument("--candidates", type=int, default=20, help="of a generation, for p7")
    parser.add_argument("--images", type=int, default=64, help="each is rated on, for p7")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="of torchvision")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each contender of p6")
    parser.add_argument("--compile", action="store_true", help="compile the networks of p8 too")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    given = parsed(words)
    torch.set_num_threads(given.threads)
    space = SearchSpace.load(given.space)
    if given.autoformer is not None and space.head_dim != AUTOFORMER_HEAD_DIM:
        raise SystemExit(f"AutoFormer's heads are {AUTOFORMER_HEAD_DIM} wide: choose --space tiny.")
    work = Work(
        space, given.batch, given.seconds, given.turn_steps,
        None if given.autoformer is None else clones.autoformer(given.autoformer.resolve()),
        None if given.mae is None else clones.mae(given.mae.resolve()), given.compile,
    )  # fmt: skip
    parts = parts_of(work, given)
    if unknown := set(given.only or parts) - set(parts):
        raise SystemExit(f"No part {', '.join(sorted(unknown))} without its clone: {list(parts)}.")
    found: dict[str, Any] = {
        "machine": processor_name(), "threads": given.threads, "versions": versions(),
        "space": given.space, "default_precision": work.default, "parts": {},
    }  # fmt: skip
    print(
        f"{processor_name()}, {given.threads} threads, torch {torch.__version__}, space "
        f"{given.space}, {given.batch} images a step; --precision auto is {work.default} here\n"
    )
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    failed = False
    for name in given.only or parts:
        try:
            found["parts"][name] = parts[name]()
        except NotEqual as wrong:
            failed = True
            print(f"{name}: {wrong}", file=sys.stderr)
            continue
        print("\n".join(lines_of(name, found["parts"][name])), flush=True)
        if given.out is not None:
            write_json(given.out, found | {"peaks": work.peaks})
    peaks = ", ".join(f"{one / 1e9:,.0f} GFLOP/s in {name}" for name, one in work.peaks.items())
    print(f"\nPeak of matrix products: {peaks}.")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
