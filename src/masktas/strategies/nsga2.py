"""NSGA-II over the rating and any costs at once; the algorithm itself is pymoo's."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from masktas.errors import ConfigError
from masktas.space import Architecture, BudgetedSpace, SearchSpace
from masktas.strategies.strategy import Strategy

Costs = Callable[[Architecture], Mapping[str, float]]
MATINGS = 10  # how often parents are mated for a generation before it is filled at random


class NSGA2(Strategy):
    """Look for the whole front: a high rating and low costs at once (Deb et al. 2002).

    Survivors are chosen by rank of dominance and crowding; children come of binary tournaments,
    uniform crossover, and a gene drawn anew here and there. Children outside the budget, or rated
    before, are replaced by those of further matings, and what is then still missing is drawn at
    random within the budget.

    The next move hangs on every rating, however low: `keeps` is `total`.

    Args:
        candidates, population, generations, seed: see `Strategy`.
        objectives: names of the costs that are to be low.
        costs: what an architecture costs, by name; `candidates.costs.of` if None.
        patience: see `Strategy`; it looks at the best rating, not at the front.

    Raises:
        ConfigError: if there is no objective, or `costs` does not know one.
    """

    def __init__(
        self,
        candidates: BudgetedSpace,
        *,
        objectives: Sequence[str] = ("params",),
        costs: Costs | None = None,
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
        self._costs = costs or candidates.costs.of
        _require_known(self.objectives, self._costs(candidates.space.smallest))
        self._genome = Genome(candidates.space)
        self._algorithm: Any = None
        self._genes: list[list[int]] = []  # of the generation that was asked

    def _draw(self, rng: random.Random) -> dict[Architecture, str]:
        import numpy as np

        if self._algorithm is None:
            self._algorithm = _nsga2(self._genome, 1 + len(self.objectives), self.population)
        chosen: dict[Architecture, str] = {}
        genes: list[list[int]] = []
        if self.history:
            self._algorithm.random_state = np.random.default_rng(rng.getrandbits(64))
            self._survive()
            for _ in range(MATINGS):
                if len(chosen) < self.population:
                    self._mate(chosen, genes)
        self._collect_random(chosen, rng)
        genes += [self._genome.encode(one, rng) for one in list(chosen)[len(genes) :]]
        self._genes = genes
        return chosen

    def _survive(self) -> None:
        """Tell pymoo what the last generation is worth: it minimises."""
        import numpy as np
        from pymoo.core.population import Population

        told = self.history[-len(self._genes) :]
        costs = [self._costs(rated.architecture) for rated in told]
        values = [
            [-rated.rating, *(cost[name] for name in self.objectives)]
            for rated, cost in zip(told, costs, strict=True)
        ]
        born = Population.new("X", np.array(self._genes), "F", np.array(values, dtype=float))
        self._algorithm.tell(infills=born)

    def _mate(self, chosen: dict[Architecture, str], genes: list[list[int]]) -> None:
        """Add those children of one mating that may be asked for."""
        for child in self._algorithm.ask().get("X").tolist():
            one = self._genome.decode(child)
            if len(chosen) < self.population and one not in chosen and self._is_new(one):
                chosen[one] = "child"
                genes.append(child)


class Genome:
    """Architectures of a space as lists of whole numbers, all of one length.

    Indices of the choices: width, depth, then heads of every block of the deepest network, then
    their MLP ratios. Genes of blocks that a network does not have rest: they say nothing until a
    child is deeper.

    Attributes:
        counts: of how many choices each gene is the index.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._deepest = space.depth[-1]
        self.counts = (
            [len(space.embed_dim), len(space.depth)]
            + [len(space.num_heads)] * self._deepest
            + [len(space.mlp_ratio)] * self._deepest
        )

    def encode(self, one: Architecture, rng: random.Random) -> list[int]:
        """Return the genes of an architecture; those that rest are drawn."""
        space, missing = self.space, self._deepest - one.depth
        return [
            space.embed_dim.index(one.embed_dim),
            space.depth.index(one.depth),
            *(space.num_heads.index(heads) for heads in one.num_heads),
            *(rng.randrange(len(space.num_heads)) for _ in range(missing)),
            *(space.mlp_ratio.index(ratio) for ratio in one.mlp_ratio),
            *(rng.randrange(len(space.mlp_ratio)) for _ in range(missing)),
        ]

    def decode(self, genes: Sequence[int]) -> Architecture:
        """Return the architecture of these genes."""
        space = self.space
        width, depth = space.embed_dim[genes[0]], space.depth[genes[1]]
        heads, ratios = genes[2 : 2 + self._deepest], genes[2 + self._deepest :]
        return space.build(
            width,
            tuple(space.num_heads[gene] for gene in heads[:depth]),
            tuple(space.mlp_ratio[gene] for gene in ratios[:depth]),
        )


def _nsga2(genome: Genome, num_objectives: int, population: int) -> Any:
    """Return pymoo's algorithm, set up to be asked and told; it prints nothing and never ends."""
    from pymoo.config import Config

    Config.warnings["not_compiled"] = False  # it would print

    from pymoo.algorithms.moo.nsga2 import NSGA2 as Algorithm
    from pymoo.core.problem import Problem
    from pymoo.core.termination import NoTermination
    from pymoo.core.variable import Integer
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.rm import ChoiceRandomMutation

    genes = {str(at): Integer(bounds=(0, count - 1)) for at, count in enumerate(genome.counts)}
    algorithm = Algorithm(
        pop_size=population,
        crossover=UniformCrossover(),
        mutation=ChoiceRandomMutation(),
        eliminate_duplicates=False,  # we know better: genes that rest make no difference
    )
    problem = Problem(vars=genes, n_obj=num_objectives)
    algorithm.setup(problem, termination=NoTermination(), verbose=False)
    return algorithm


def _require_known(objectives: Sequence[str], known: Mapping[str, float]) -> None:
    """Raise ConfigError unless there is an objective and each is the name of a cost."""
    choices = ", ".join(known)
    if not objectives:
        raise ConfigError(f"No objective beside the rating is given: choose among {choices}.")
    for name in objectives:
        if name not in known:
            raise ConfigError(f"Objective {name!r} is not a cost: choose among {choices}.")
