"""Optimisers: AdamW on slices, on the CPU, by Triton, or by torch."""
