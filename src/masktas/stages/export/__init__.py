"""Export a network: one folder for other programs, and the proof that it computes the same."""
