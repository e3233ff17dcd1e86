"""What a search has found, as a table: the winner beside what it is compared with."""

from __future__ import annotations

from typing import Any

from masktas.console import Console
from masktas.space import QUANTITIES, Budget, format_amount

HEADS = {"macs": "MACs", "measured_latency": "latency", "latency": "predicted latency"}


def show_found(manifest: dict[str, Any], console: Console) -> None:
    """Print winner, others of the best, baselines, and how sure the difference is."""
    winner, rest = manifest["winner"], manifest["top"][1:]
    rows = [("winner", winner)]
    rows += [(f"{place}. best", one) for place, one in enumerate(rest, start=2)]
    if manifest["random_search"]:
        rows.append(("best of random search", manifest["random_search"]))
    if manifest["uniform"]:
        rows.append(("largest uniform", manifest["uniform"]))
    shown = [what for what in QUANTITIES if what in _wanted(manifest)]
    if "measured_latency" in winner:
        shown.insert(shown.index("latency"), "measured_latency")
    console.table(
        f"{Budget(**manifest['budget'])}: {manifest['rated']:,} of {manifest['feasible']:,} "
        f"networks rated" + (f", {manifest['reused']:,} of them before" * bool(manifest["reused"])),
        ("network", "rating", "ahead by", *(HEADS.get(what, what) for what in shown)),
        [
            (name, _rating(one), _ahead(manifest, name), *(_amount(one, what) for what in shown))
            for name, one in rows
        ],
    )
    count = len(manifest["front"])
    many = "1 network is" if count == 1 else f"{count:,} networks are"
    console.say(f"{many} on the front: front.svg, .csv, .json.")


def _wanted(manifest: dict[str, Any]) -> set[str]:
    """Return the quantities that say something: size, and what is limited or an objective."""
    limited = {limit.partition("_")[2] for limit in manifest["budget"]}
    timed = {what for what in ("latency",) if what in manifest["winner"]}
    return {"params", "macs"} | limited | timed | set(manifest["objectives"])


def _rating(one: dict[str, Any]) -> str:
    error = one["error"]
    return f"{one['rating']:.4f}" + (f" ± {error:.4f}" if error else "")


def _ahead(manifest: dict[str, Any], name: str) -> str:
    """Write a difference with its error; both are made image by image."""
    key = {"best of random search": "random_search", "largest uniform": "uniform"}.get(name)
    found = manifest["ahead"].get(key) if key else None
    if not key or not found:
        return ""
    if manifest[key]["architecture"] == manifest["winner"]["architecture"]:
        return "the same"
    error = found["error"]
    return f"{found['difference']:.4f}" + (f" ± {error:.4f}" if error else "")


def _amount(one: dict[str, Any], what: str) -> str:
    return format_amount("latency" if what == "measured_latency" else what, one[what])
