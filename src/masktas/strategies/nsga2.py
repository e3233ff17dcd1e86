"""NSGA-II: search for the front of rating and costs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from masktas.errors import ConfigError
from masktas.space import Architecture, BudgetedSpace, SearchSpace, crossover, mutate
from masktas.strategies.pareto import front
from masktas.strategies.strategy import Evaluated, Strategy

CostsOf = Callable[[Architecture], Mapping[str, float]]
DEPTH_PROBABILITY = 0.1  # of redrawing a child's depth, and of redrawing its width


class NSGA2(Strategy):
    """Multi-objective search: high rating and low costs at once (Deb et al. 2002).

    Parents are the `population` best of all candidates rated so far, by front and then by crowding
    distance. A child is crossed from the winners of two binary tournaments, with the depth of the
    first one, and mutated. If no new children are found, candidates are drawn at random.

    Every rating may influence the next generation, however low: `keeps` is `total`.

    Args:
        candidates, population, generations, seed: see `Strategy`.
        objectives: names of the costs to minimise.
        costs: returns the costs of an architecture by name; `candidates.costs.of` if None.
        simple_shapes: begin with uniform networks and ramps, not with random networks only.
        patience: see `Strategy`; it considers the best rating, not the front.

    Raises:
        ConfigError: if there is no objective, or `costs` does not know one.
    """

    def __init__(
        self,
        candidates: BudgetedSpace,
        *,
        objectives: Sequence[str] = ("params",),
        costs: CostsOf | None = None,
        simple_shapes: bool = False,
        population: int = 50,
        generations: int = 20,
        patience: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            candidates,
            population=population,
            generations=generations,
            patience=patience,
            seed=seed,
        )
        self.objectives = tuple(objectives)
        self.simple_shapes = simple_shapes
        self._costs = costs or candidates.costs.of
        _require_known(self.objectives, self._costs(candidates.space.smallest))
        self._points: list[tuple[float, ...]] = []  # one for each entry of the history

    def _draw(self, rng: random.Random) -> dict[Architecture, str]:
        chosen: dict[Architecture, str] = {}
        if self.history:
            self._points += [self._point(one) for one in self.history[len(self._points) :]]
            best = survivors(self._points, self.population)
            parents = [self.history[index].architecture for index in best]
            self._collect(chosen, "child", self.population, lambda: self._child(parents, rng))
        elif self.simple_shapes:
            self._collect_simple(chosen, rng)
        self._collect_random(chosen, rng)
        return chosen

    def _point(self, evaluated: Evaluated) -> tuple[float, ...]:
        """Return the coordinates of a candidate, larger is better."""
        costs = self._costs(evaluated.architecture)
        return evaluated.rating, *(-costs[name] for name in self.objectives)

    def _child(self, parents: Sequence[Architecture], rng: random.Random) -> Architecture:
        """Cross the winners of two tournaments and mutate the result."""
        space = self.candidates.space
        first, second = _tournament(parents, rng), _tournament(parents, rng)
        child = crossover(first, with_depth_of(first, second, space), space, rng)
        return mutate(
            child,
            space,
            rng,
            depth_probability=DEPTH_PROBABILITY,
            block_probability=1 / (2 * child.depth),  # one gene of all blocks on average
        )


def survivors(points: Sequence[Sequence[float]], count: int) -> list[int]:
    """Return the indices of the `count` best points, best first.

    Non-dominated sorting: front by front, and within a front by crowding distance, largest first.
    Larger coordinates are better.
    """
    chosen: list[int] = []
    rest = list(range(len(points)))
    while rest and len(chosen) < count:
        found = [rest[place] for place in front([points[index] for index in rest])]
        distances = crowding_distances([points[index] for index in found])
        order = sorted(range(len(found)), key=distances.__getitem__, reverse=True)
        chosen += [found[place] for place in order]
        rest = sorted(set(rest).difference(found))
    return chosen[:count]


def crowding_distances(points: Sequence[Sequence[float]]) -> list[float]:
    """Return for each point of a front how far apart its two neighbours are.

    Summed over coordinates, each relative to its range; infinite for both ends of a coordinate.
    """
    distances = [0.0] * len(points)
    for values in zip(*points, strict=True):
        order = sorted(range(len(points)), key=values.__getitem__)
        span = values[order[-1]] - values[order[0]]
        distances[order[0]] = distances[order[-1]] = float("inf")
        for before, here, after in zip(order, order[1:], order[2:], strict=False):
            distances[here] += (values[after] - values[before]) / span if span else 0.0
    return distances


def with_depth_of(first: Architecture, second: Architecture, space: SearchSpace) -> Architecture:
    """Return `second` with the depth of `first`: cut, or continued with the blocks of `first`."""
    return space.build(
        second.embed_dim,
        (second.num_heads + first.num_heads[second.depth :])[: first.depth],
        (second.mlp_ratio + first.mlp_ratio[second.depth :])[: first.depth],
        patch_size=second.patch_size,
    )


def _tournament(ranked: Sequence[Architecture], rng: random.Random) -> Architecture:
    """Draw two, best first in `ranked`, and return the better one."""
    return ranked[min(rng.randrange(len(ranked)), rng.randrange(len(ranked)))]


def _require_known(objectives: Sequence[str], known: Mapping[str, float]) -> None:
    """Raise ConfigError unless there is an objective and each is the name of a cost."""
    choices = ", ".join(known)
    if not objectives:
        raise ConfigError(f"No objective beside the rating is given: choose among {choices}.")
    for name in objectives:
        if name not in known:
            raise ConfigError(f"Objective {name!r} is not a cost: choose among {choices}.")
