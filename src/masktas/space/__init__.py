"""Architectures, spaces of them, what they cost and how they vary. No torch here."""

from masktas.space.architecture import Architecture
from masktas.space.budget import Budget, BudgetedSpace, format_quantity, parse_quantity
from masktas.space.cost import macs, params
from masktas.space.space import PRESETS, SearchSpace
from masktas.space.vary import crossover, mutate

__all__ = [
    "PRESETS",
    "Architecture",
    "Budget",
    "BudgetedSpace",
    "SearchSpace",
    "crossover",
    "format_quantity",
    "macs",
    "mutate",
    "params",
    "parse_quantity",
]
