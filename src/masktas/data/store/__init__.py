"""Images decoded once: parts on disk, and the splits read from them."""
