"""Images as batches: sources, splits, the decode-once store, crops. Knows nothing of models."""
