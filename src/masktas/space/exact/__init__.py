"""The mathematics of exact budgets: cells of equal cost. Imported by `masktas.space` only."""
