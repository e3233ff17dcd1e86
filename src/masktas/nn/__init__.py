"""The paper's networks: patches and masking, the ViT, MAE, distillation, the supernet, ratings."""
