"""Ask/tell search strategies and their journal. Never imports torch; numpy is imported lazily."""

from masktas.strategies.evolution import Evolution
from masktas.strategies.exhaustive import Exhaustive
from masktas.strategies.local import LocalSearch
from masktas.strategies.nsga2 import NSGA2
from masktas.strategies.pareto import front
from masktas.strategies.random_search import RandomSearch
from masktas.strategies.strategy import Candidate, Evaluated, Score, Strategy
from masktas.strategies.uniforms import Uniforms

__all__ = [
    "NSGA2",
    "Candidate",
    "Evaluated",
    "Evolution",
    "Exhaustive",
    "LocalSearch",
    "RandomSearch",
    "Score",
    "Strategy",
    "Uniforms",
    "front",
]
