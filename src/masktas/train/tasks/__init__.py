"""The trainings: masked autoencoder, supernet (distilled or with labels), cohort, classifier."""
