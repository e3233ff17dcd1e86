"""The three trainings: masked autoencoder, supernet, classifier."""
