"""Architectures, search spaces, costs and budgets. Never imports torch."""

from masktas.space.architecture import Architecture
from masktas.space.budget import Budget
from masktas.space.budgeted import BudgetedSpace
from masktas.space.cost import macs, memory, params, size
from masktas.space.costs import QUANTITIES, Costs
from masktas.space.latency import LatencyModel
from masktas.space.limits import (
    Limit,
    format_amount,
    format_quantity,
    parse_limit,
    parse_quantity,
)
from masktas.space.space import PRESETS, SearchSpace
from masktas.space.vary import crossover, mutate

__all__ = [
    "PRESETS",
    "QUANTITIES",
    "Architecture",
    "Budget",
    "BudgetedSpace",
    "Costs",
    "LatencyModel",
    "Limit",
    "SearchSpace",
    "crossover",
    "format_amount",
    "format_quantity",
    "macs",
    "memory",
    "mutate",
    "params",
    "parse_limit",
    "parse_quantity",
    "size",
]
