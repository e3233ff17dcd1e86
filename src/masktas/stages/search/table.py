"""The result table of a search, for the terminal and the report. Never imports torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from masktas.console import Console
from masktas.space import QUANTITIES, Architecture, format_amount
from masktas.stages.common.manifest import (
    FinetuneManifest,
    RatingDifference,
    RefineManifest,
    SearchManifest,
)
from masktas.strategies import Evaluated, Score

NONE = "–"
SAME = "same network"
WIDE = 100  # characters of a line that has room for errors beside accuracies
HEADS = {"macs": "MACs", "measured_latency": "latency", "latency": "predicted latency"}
BASELINES = {  # by the name of their file
    "house": "house shape",
    "uniform": "largest uniform",
    "best-uniform": "best uniform",
    "random-search": "best of random search",
}
KEPT = "kept"  # fine-tunings of the network that another run has found; begins their names
KEPT_ROW = "kept architecture"
AHEAD, TOP1, TOP5, OF_CLASSES = "winner ahead by", "top-1 %", "top-5 %", "mean of classes %"


@dataclass(frozen=True, slots=True)
class Row:
    """A network of the table, or several that are averaged.

    Attributes:
        name: what the network is.
        networks: with rating and costs.
        finetuned: fine-tunings of these networks.
        rated: whether there is a rating: weights from scratch, and networks found on other images,
            have none.
        init: initial weights of the fine-tunings.
        ahead: by how much the winner is rated higher, where that is known.
        is_winner: whether the network is the winner, found in another way.
        is_random: whether it is a random baseline, or several.
    """

    name: str
    networks: tuple[Evaluated, ...]
    finetuned: tuple[FinetuneManifest, ...] = ()
    rated: bool = True
    init: str = "inherit"
    ahead: RatingDifference | None = None
    is_winner: bool = False
    is_random: bool = False

    def rating(self, *, error: bool = True) -> str:
        """Write the rating with its standard error, or the mean of several with its deviation."""
        if not self.rated:
            return NONE
        if len(self.networks) == 1:
            return _with_error(self.networks[0].rating, self.networks[0].error if error else None)
        return _mean([one.rating for one in self.networks], "{:.4f}")

    def advantage(self) -> str:
        """Write by how much the winner is rated higher, with the standard error of that."""
        if self.is_winner:
            return SAME
        if self.ahead is None:
            return ""
        return _with_error(self.ahead.difference, self.ahead.error, "+")

    def amount(self, what: str) -> str:
        """Write a cost, or the mean of several."""
        values = [value for one in self.networks if (value := one.amount(what)) is not None]
        mean = statistics.fmean(values) if values else None
        return NONE if mean is None else format_amount(what.removeprefix("measured_"), mean)

    @property
    def top1(self) -> str:
        """Top-1 accuracy on the test split in percent."""
        return _mean([100 * one.top1 for one in self.finetuned], "{:.2f}")

    @property
    def top5(self) -> str:
        """Top-5 accuracy on the test split in percent."""
        return _mean([100 * one.top5 for one in self.finetuned], "{:.2f}")

    @property
    def accuracies(self) -> tuple[str, str, str]:
        """Top-1, top-5 and mean of the classes on the test split in percent."""
        return self.top1, self.top5, self.of_classes

    @property
    def of_classes(self) -> str:
        """Mean over the classes of their top-1 in percent; of earlier versions nothing is known."""
        found = [one.mean_per_class for one in self.finetuned]
        return _mean([100 * one for one in found if one is not None], "{:.2f}")


@dataclass(frozen=True, slots=True)
class ResultTable:
    """The winner of a search beside the other networks that it must be compared with.

    Attributes:
        title: budget and number of rated networks.
        quantities: the costs that are shown, by their key in the manifest.
        rows: the winner first.
        num_front: networks on the front.
    """

    title: str
    quantities: tuple[str, ...]
    rows: tuple[Row, ...]
    num_front: int

    @classmethod
    def of(
        cls,
        search: SearchManifest,
        finetuned: Sequence[FinetuneManifest] = (),
        *,
        kept: Sequence[FinetuneManifest] = (),
        refined: RefineManifest | None = None,
    ) -> ResultTable:
        """Build the table of a search.

        Args:
            search: the search.
            finetuned: fine-tunings of the run, `main` first; those of the shown networks are found
                among them. Only what was trained as the winner was first, by the same recipe and
                from weights of the same stage, is compared with it.
            kept: fine-tunings of the network that another run has found (`is_kept`).
            refined: the refinement of the search, whose winner is the first row.
        """
        title = f"{search.limits}: {search.rated:,} of {search.feasible:,} networks rated"
        if search.reused:
            title += f", {search.reused:,} of them by earlier searches"
        finetuned = alike_to_first(search, finetuned, refined)
        rows = [
            replace(row, finetuned=_of_row(row, finetuned))
            for row in _rows(search, finetuned, refined)
        ]
        return cls(
            title=title,
            quantities=_quantities(search),
            rows=(*rows, *_kept(kept)),
            num_front=len(search.result.front),
        )

    @property
    def has_accuracies(self) -> bool:
        """Whether any of the networks was fine-tuned."""
        return any(row.finetuned for row in self.rows)

    def header(self, *, brief: bool = False) -> list[str]:
        """Return the names of the columns; the brief table leaves out how sure ratings are."""
        costs = [HEADS.get(what, what) for what in self.quantities]
        accuracies = [TOP1, TOP5, OF_CLASSES][: 2 if brief else 3] if self.has_accuracies else []
        return ["network", "rating", *([] if brief else [AHEAD]), *costs, *accuracies]

    def cells(self, *, brief: bool = False) -> list[list[str]]:
        """Return the rows as texts, under `header`."""
        return [
            [
                row.name,
                row.rating(error=not brief),
                *([] if brief else [row.advantage()]),
                *(row.amount(what) for what in self.quantities),
                *(row.accuracies[: 2 if brief else 3] if self.has_accuracies else ()),
            ]
            for row in self.rows
        ]

    def print(self, console: Console) -> None:
        """Print the table, brief where accuracies leave no room on a narrow terminal."""
        brief = self.has_accuracies and console.width < WIDE
        console.table(self.title, self.header(brief=brief), self.cells(brief=brief))
        front = "1 network is" if self.num_front == 1 else f"{self.num_front:,} networks are"
        console.say(f"{front} on the front: front.svg, .csv, .json.")
        for sentence in self.verdicts():
            console.say(sentence)

    def verdicts(self) -> list[str]:
        """Say in words how the winner's accuracy compares with that of each other network.

        The standard error of a difference has two parts: of a share of the test images (as if
        every network had other images, so it is rather too large), and of the mean over
        fine-tunings, where there are several.
        """
        winner, *others = self.rows
        if not winner.finetuned:
            return []
        random = tuple(one for row in others if row.is_random for one in row.finetuned)
        named = [row for row in others if row.finetuned and not row.is_random]
        named = [row for row in named if row.init == "inherit" and not row.is_winner]
        if random:
            named.append(Row("random networks", (), random))
        same = [f"Winner and {row.name} are the same network." for row in others if row.is_winner]
        return [*same, *(_verdict(winner, row) for row in named)]


def _verdict(winner: Row, other: Row) -> str:
    mine, its = ([100 * one.top1 for one in row.finetuned] for row in (winner, other))
    difference = statistics.fmean(mine) - statistics.fmean(its)
    error = math.hypot(*(_error(row) for row in (winner, other)))
    word = "level with" if abs(difference) <= 2 * error else "ahead of"
    if difference < -2 * error:
        word = "behind"
    return (
        f"Winner {word} {other.name}: {statistics.fmean(mine):.1f} against "
        f"{statistics.fmean(its):.1f} % top-1, a difference of {difference:+.1f} ± {error:.1f} "
        f"(standard error; {winner.finetuned[0].num_test:,} test images)."
    )


def _error(row: Row) -> float:
    """Return the standard error of a row's mean accuracy, in percent.

    Over networks where there are several, since fine-tunings of one are not independent.
    """
    by_network: dict[object, list[float]] = {}
    for one in row.finetuned:
        by_network.setdefault(genes(one.architecture), []).append(100 * one.top1)
    values = [100 * one.top1 for one in row.finetuned]
    if len(by_network) > 1:
        values = [statistics.fmean(one) for one in by_network.values()]
    mean, count = statistics.fmean(values), row.finetuned[0].num_test
    of_images = math.sqrt(mean * (100 - mean) / count) if count else math.inf
    if len(values) < 2:
        return of_images
    return math.hypot(of_images, statistics.stdev(values) / len(values) ** 0.5)


def _rows(
    search: SearchManifest,
    finetuned: Sequence[FinetuneManifest],
    refined: RefineManifest | None,
) -> list[Row]:
    result = search.result
    winner = result.winner if refined is None else refined.winner.network
    # a baseline that wins the refinement was written without the standard error of its rating
    rated = (one for one in result.baselines.values() if one.architecture == winner.architecture)
    rows = [Row("winner", (next(rated, winner),))]
    if winner.architecture != result.winner.architecture:
        rows.append(Row("winner of the search", (result.winner,)))
    rows += [Row(f"{place}. best", (one,)) for place, one in enumerate(result.top[1:], start=2)]
    if any(_trained(one, winner, "scratch") for one in finetuned):
        rows.append(Row("winner, from scratch", (winner,), rated=False, init="scratch"))
    rows += [_row_of_baseline(names, search, winner.architecture) for names in _alike(search)]
    if len(result.random) > 1:
        searched = winner.architecture == result.winner.architecture
        name, ahead = f"mean of {len(result.random)} random", result.ahead.get("random")
        ahead = ahead if searched else None
        rows.append(Row(name, result.random, ahead=ahead, is_random=True))
    else:
        rows += [
            Row(f"random {place}", (one,), is_random=True)
            for place, one in enumerate(result.random, start=1)
        ]
    return rows


def alike_to_first(
    search: SearchManifest,
    finetuned: Sequence[FinetuneManifest],
    refined: RefineManifest | None,
) -> list[FinetuneManifest]:
    """Return the fine-tunings that can be averaged and compared with the winner's first one."""
    winner = search.result.winner if refined is None else refined.winner.network
    first = next((one for one in finetuned if _trained(one, winner, "inherit")), None)
    if first is None:
        return list(finetuned)
    return [
        one
        for one in finetuned
        if one.recipe == first.recipe and (one.init == "scratch" or one.refined == first.refined)
    ]


def _alike(search: SearchManifest) -> list[list[str]]:
    """List the names of the baselines, those of the same network together."""
    found: dict[tuple[object, ...], list[str]] = {}
    for name, one in search.result.baselines.items():
        if name in BASELINES:
            found.setdefault(genes(one.architecture), []).append(name)
    return list(found.values())


def _row_of_baseline(names: Sequence[str], search: SearchManifest, winner: Architecture) -> Row:
    """Return the row of a network that is one baseline, or several at once.

    The difference of ratings is known of the winner of the search only.
    """
    result = search.result
    searched = winner == result.winner.architecture
    one = result.baselines[names[0]]
    return Row(
        " = ".join(BASELINES[name] for name in names),
        (one,),
        ahead=result.ahead.get(names[0].replace("-", "_")) if searched else None,
        is_winner=genes(one.architecture) == genes(winner),
    )


def _of_row(row: Row, finetuned: Sequence[FinetuneManifest]) -> tuple[FinetuneManifest, ...]:
    """Return the fine-tunings of the networks of a row."""
    return tuple(
        one for network in row.networks for one in finetuned if _trained(one, network, row.init)
    )


def is_kept(name: str) -> bool:
    """Say whether a fine-tuning is of the network that another run has found, by its name."""
    return name.split("-")[0] == KEPT


def _kept(finetuned: Sequence[FinetuneManifest]) -> list[Row]:
    """Return the row of the network that another run has found; it has no rating here."""
    inherited = tuple(one for one in finetuned if one.init == "inherit")
    if not inherited:
        return []
    costs = {"params": inherited[0].params, "macs": inherited[0].macs}
    unrated = Score(0.0, None, 0)  # not shown: its rating is of other images
    network = Evaluated(inherited[0].architecture, unrated, costs)
    return [Row(KEPT_ROW, (network,), inherited, rated=False)]


def _trained(one: FinetuneManifest, network: Evaluated, init: str) -> bool:
    """Say whether a fine-tuning is of this network; the head is another one."""
    return one.init == init and genes(one.architecture) == genes(network.architecture)


def genes(one: Architecture) -> tuple[object, ...]:
    """Return what makes two networks of a space the same, whatever their heads are."""
    return one.patch_size, one.embed_dim, one.num_heads, one.mlp_ratio


def _quantities(search: SearchManifest) -> tuple[str, ...]:
    """Return size and MACs, and what the search limits, lowers, predicts or measures."""
    winner = search.result.winner
    shown = {"params", "macs", *search.budget.limited(), *search.objectives}
    shown |= {what for what in ("latency", "measured_latency") if winner.amount(what) is not None}
    order = [what for one in QUANTITIES for what in (f"measured_{one}", one)]
    return tuple(what for what in order if what in shown)


def _with_error(value: float, error: float | None, sign: str = "") -> str:
    text = f"{value:{sign}.4f}"
    return f"{text} ± {error:.4f}" if error else text


def _mean(values: Sequence[float], form: str) -> str:
    """Write a mean, and the standard deviation where there is more than one value."""
    if not values:
        return NONE
    text = form.format(statistics.fmean(values))
    return f"{text} ± {form.format(statistics.stdev(values))}" if len(values) > 1 else text
