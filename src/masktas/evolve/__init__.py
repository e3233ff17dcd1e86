"""Search over architectures by ask and tell, and its journal. No torch here, nor numpy at first."""

from masktas.evolve.drawn import RandomSearch
from masktas.evolve.evolution import Evolution
from masktas.evolve.exhaustive import Exhaustive
from masktas.evolve.local import LocalSearch
from masktas.evolve.nsga import NSGA2
from masktas.evolve.pareto import front
from masktas.evolve.strategy import Candidate, Rated, Score, Strategy

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
