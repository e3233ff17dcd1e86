"""Search over architectures: evolution by ask and tell, and its journal. No torch here."""

from masktas.evolve.evolution import Candidate, Evolution, Rated

__all__ = ["Candidate", "Evolution", "Rated"]
