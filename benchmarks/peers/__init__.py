"""masktas beside AutoFormer, MAE, timm and torchvision: the parts of `beside.py`."""
