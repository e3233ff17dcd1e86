"""Image files to pixels, in worker processes."""
