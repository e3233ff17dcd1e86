"""Teachers that others have trained: read from their files, converted or run as they are.

`official` and `vitmae` become our own ViT, `timm_vit` runs timm's modules on visible patches,
`function` asks any Python function. `released` fits what was read to a student.
"""
