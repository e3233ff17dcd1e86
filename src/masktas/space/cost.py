"""Closed-form costs of an architecture: parameters, multiply-accumulates, bytes.

Parameters and products are sums over blocks, and the cost of a block is the sum of its attention
half and its MLP half; the file size follows from the parameters; memory is a maximum over the same
halves. `space.exact` depends on this.
"""

from __future__ import annotations

from masktas.errors import BudgetError
from masktas.space.architecture import Architecture

CONVENTIONAL_CLASSES = 1000  # of the head that published tables count (ImageNet)
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}  # of a number, by precision

# The longest entry of a safetensors header that a tensor can have, less its name: up to 999,999
# channels, in a file of up to a terabyte.
_ENTRY = '"":{"dtype":"BF16","shape":[999999,999999],"data_offsets":[%s,%s]},' % (("9" * 12,) * 2)
_HALVES = ("norm1", "attn.qkv", "attn.proj", "norm2", "fc1", "fc2")  # a weight and a bias each
_BLOCK_NAMES = [f"blocks.999.{half}.{kind}" for half in _HALVES for kind in ("weight", "bias")]
_STEM_NAMES = [f"{part}.{kind}" for part in ("patch_embed", "norm") for kind in ("weight", "bias")]
_STEM_NAMES += ["cls_token", "pos_embed", "head.weight", "head.bias"]
BLOCK_HEADER = sum(len(_ENTRY) + len(name) for name in _BLOCK_NAMES)
STEM_HEADER = sum(len(_ENTRY) + len(name) for name in _STEM_NAMES) + 256  # the checksum; padding


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

    All `N` patches and the class token are encoded; the head reads one token. This is the number
    that the literature prints as "FLOPs"; true FLOPs are twice as many.
    """
    head = counted_classes(architecture) * architecture.embed_dim
    return encoder_macs(architecture, architecture.num_patches) + head


def encoder_macs(architecture: Architecture, patches: int) -> int:
    """Count the products of encoding `patches` patches and the class token, without a head."""
    width, inner = architecture.embed_dim, architecture.head_dim
    tokens = patches + 1
    return (
        embedding_macs(architecture, patches)
        + sum(attention_macs(tokens, width, inner * heads) for heads in architecture.num_heads)
        + sum(mlp_macs(tokens, width, hidden) for hidden in architecture.mlp_dim)
    )


def training_macs(architecture: Architecture, patches: int, more: int) -> int:
    """Count the products of one image, forward and backward, of an encoder and `more` after it.

    Backward takes two products for each one forward, except in the first layer, whose input needs
    no gradient. What is recomputed (`recompute`) is not counted.
    """
    forward = encoder_macs(architecture, patches) + more
    return 3 * forward - embedding_macs(architecture, patches)


def counted_classes(architecture: Architecture) -> int:
    """Return the number of classes that costs count: 1,000 if it is not known yet."""
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
    """Count the products of embedding `patches` patches."""
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


def number_bytes(precision: str) -> int:
    """Return the bytes of one number.

    Raises:
        BudgetError: if the precision is unknown.
    """
    if precision not in BYTES:
        raise BudgetError(f"Unknown precision {precision!r}: choose one of {', '.join(BYTES)}.")
    return BYTES[precision]


def size(architecture: Architecture, precision: str = "fp32") -> int:
    """Return the bytes of the file of weights, in a precision: safetensors data and header.

    The head is counted as in `params`. The header is counted with the longest possible entry for
    every tensor, so that the size is affine in parameters and depth; the real file is never larger,
    and smaller by a few hundred bytes per block.
    """
    return params(architecture) * number_bytes(precision) + header_bytes(architecture.depth)


def header_bytes(depth: int) -> int:
    """Return the bytes counted for the header of a file of weights."""
    return STEM_HEADER + depth * BLOCK_HEADER


def memory(architecture: Architecture, precision: str = "fp32") -> int:
    """Return the peak bytes of live activations while one image is classified.

    For `nn.vit.ViT` in eager mode without gradients; weights are not counted. The image, its
    patches and the tokens that entered the first block stay live through all blocks; the peak adds
    the costliest moment of a block (`attention_memory`, `mlp_memory`) or the logits, when the
    patches are gone (`logits_memory`).

    Not counted: workspace of kernels, and the 32-bit copies of 16-bit attention on a CPU. If only
    the first block reaches the peak, the true value is one `[T, D]` smaller.
    """
    tokens, width = architecture.num_patches + 1, architecture.embed_dim
    peaks = [
        logits_memory(architecture),
        *(
            attention_memory(tokens, width, architecture.head_dim * heads)
            for heads in architecture.num_heads
        ),
        *(mlp_memory(tokens, width, hidden) for hidden in architecture.mlp_dim),
    ]
    return number_bytes(precision) * (held_memory(architecture) + max(peaks))


def held_memory(architecture: Architecture) -> int:
    """Count the numbers that stay live through all blocks: image, patches, tokens."""
    patches, width = architecture.num_patches, architecture.embed_dim
    pixels = architecture.patch_size**2 * architecture.in_channels
    return 2 * patches * pixels + (patches + 1) * width


def logits_memory(architecture: Architecture) -> int:
    """Count what the logits add to `held_memory` without its patches, which are gone by then."""
    pixels = architecture.patch_size**2 * architecture.in_channels
    return counted_classes(architecture) - architecture.num_patches * pixels


def attention_memory(tokens: int, width: int, inner: int) -> int:
    """Count the numbers live while attention projects back.

    Its input, normalised input and output, of `D` channels; q, k, v and their mix, of `inner`.
    """
    return tokens * (3 * width + 4 * inner)


def mlp_memory(tokens: int, width: int, hidden: int) -> int:
    """Count the most numbers live in the MLP's half of a block.

    The block's input, the output of attention and their sum are live, of `D` channels each; in
    addition the hidden layer before and after GELU, or the output and the sum. (Norm and hidden
    layer together are never the peak.)
    """
    return tokens * max(3 * width + 2 * hidden, 5 * width)
