"""Search and fine-tuning on other images, with the supernet of a finished run."""
