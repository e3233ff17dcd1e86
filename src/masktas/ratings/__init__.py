"""Ratings of architectures: label-free and labelled scores, fusion, and their evaluation."""
