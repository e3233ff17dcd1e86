"""Measured latency: networks timed on a target, and latency models fitted to the times."""
