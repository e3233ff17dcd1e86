"""What an architecture costs, in closed form: parameters and multiply-accumulates.

Both are sums over blocks, and a block's share splits into what its heads cost and what its MLP
costs. `budget` counts on that.
"""

from __future__ import annotations

from masktas.space.architecture import Architecture

CONVENTIONAL_CLASSES = 1000  # the head that the field's tables count (ImageNet)


def params(architecture: Architecture) -> int:
    """Count the parameters: patch embedding, class token, positions, blocks, norm and head.

    SPEC section 1; equal to the number of elements of the real module's parameters.
    """
    width, inner = architecture.embed_dim, architecture.head_dim
    return (
        stem_params(architecture)
        + sum(attention_params(width, inner * heads) for heads in architecture.num_heads)
        + sum(mlp_params(width, hidden) for hidden in architecture.mlp_dim)
    )


def macs(architecture: Architecture) -> int:
    """Count the multiply-accumulates of one image: matrix products, attention's own included.

    The whole image is seen (`N` patches and the class token), the head by one token. What the
    field prints as "FLOPs" is this number; FLOPs proper are twice as many.
    """
    head = counted_classes(architecture) * architecture.embed_dim
    return encoder_macs(architecture, architecture.num_patches) + head


def encoder_macs(architecture: Architecture, patches: int) -> int:
    """Count the products of encoding that many patches and the class token, without a head."""
    width, inner = architecture.embed_dim, architecture.head_dim
    tokens = patches + 1
    return (
        embedding_macs(architecture, patches)
        + sum(attention_macs(tokens, width, inner * heads) for heads in architecture.num_heads)
        + sum(mlp_macs(tokens, width, hidden) for hidden in architecture.mlp_dim)
    )


def counted_classes(architecture: Architecture) -> int:
    """Return the classes whose head is counted: 1,000 where none have been said."""
    classes = architecture.num_classes
    return CONVENTIONAL_CLASSES if classes is None else classes


def stem_params(architecture: Architecture) -> int:
    """Count everything but the blocks: embedding, class token, positions, last norm, head."""
    width, classes = architecture.embed_dim, counted_classes(architecture)
    pixels = architecture.patch_size**2 * architecture.in_channels
    embedding = pixels * width + width
    class_token_and_positions = width + (architecture.num_patches + 1) * width
    head = classes * width + classes
    return embedding + class_token_and_positions + 2 * width + head


def stem_macs(architecture: Architecture) -> int:
    """Count the products of the patch embedding and of the head."""
    head = counted_classes(architecture) * architecture.embed_dim
    return embedding_macs(architecture, architecture.num_patches) + head


def embedding_macs(architecture: Architecture, patches: int) -> int:
    """Count the products of embedding that many patches."""
    pixels = architecture.patch_size**2 * architecture.in_channels
    return patches * pixels * architecture.embed_dim


def attention_params(width: int, inner: int) -> int:
    """Count a norm, q/k/v of `inner` channels each, and the projection back."""
    return 2 * width + 3 * (inner * width + inner) + inner * width + width


def attention_macs(tokens: int, width: int, inner: int) -> int:
    """Count q/k/v and projection, and the two products between tokens."""
    return tokens * 4 * inner * width + 2 * tokens * tokens * inner


def mlp_params(width: int, hidden: int) -> int:
    """Count a norm and the two layers of an MLP."""
    return 2 * width + 2 * width * hidden + hidden + width


def mlp_macs(tokens: int, width: int, hidden: int) -> int:
    """Count the two products of an MLP."""
    return tokens * 2 * width * hidden
