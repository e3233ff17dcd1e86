"""Search over architectures by ask and tell, and its journal. No torch here, nor numpy at first."""

from masktas.strategies.evolution import Evolution
from masktas.strategies.exhaustive import Exhaustive
from masktas.strategies.local import LocalSearch
from masktas.strategies.nsga2 import NSGA2
from masktas.strategies.pareto import front
from masktas.strategies.random_search import RandomSearch
from masktas.strategies.strategy import Candidate, Rated, Score, Strategy

__all__ = [
    "NSGA2",
    "Candidate",
    "Evolution",
    "Exhaustive",
    "LocalSearch",
    "RandomSearch",
    "Rated",
    "Score",
    "Strategy",
    "front",
]
