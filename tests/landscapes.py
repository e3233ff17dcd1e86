"""Small spaces, ratings that need no images, and a search run to its end."""

import random

from masktas.space import Budget, BudgetedSpace, SearchSpace, params
from masktas.strategies import NSGA2, Evolution, Exhaustive, LocalSearch, RandomSearch, Score

MICRO = BudgetedSpace(SearchSpace.preset("micro"), Budget(max_params=900_000))
FEW = SearchSpace("few", (8, 16), (1, 2), (1, 2), (1, 2), head_dim=4)
SMALL = BudgetedSpace(FEW, Budget())
ALL = [Evolution, RandomSearch, LocalSearch, Exhaustive, NSGA2]
ENDLESS = [Evolution, RandomSearch, LocalSearch, NSGA2]


def smooth(one):
    """Rate by genes that have nothing to do with each other, some good and some bad."""
    rng = random.Random("smooth")
    genes = (*one.num_heads, *one.mlp_ratio)
    return one.embed_dim / 100 + sum(rng.gauss(0, 1) * gene for gene in genes)


def rough(one):
    """Rate without any order."""
    return random.Random(one.digest()).gauss(0, 1)


def larger(one):
    """Rate the larger higher, and not quite by size."""
    return params(one) / 1e5 + 0.3 * rough(one)


def run(search, rate):
    while not search.done:
        search.tell([Score(rate(candidate.architecture)) for candidate in search.ask()])
    return search


def architectures(search):
    return [rated.architecture for rated in search.history]
