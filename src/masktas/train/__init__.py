"""The one loop, optimisers, checkpoints, devices."""
