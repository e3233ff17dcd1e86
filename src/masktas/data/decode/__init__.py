"""Decoding of image files, in worker processes."""
