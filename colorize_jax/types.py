"""The pytrees that are passed between packages, and the letters of their axes.

    B batch            H W pixels           h w latents        N query tokens    S context tokens
    K attention heads  D channels a head    C channels         L transformer blocks of one stack

Images are NHWC float32 in [-1, 1]; masks are (B, H, W, 1) float32 in [0, 1]; a sketch has lines at
+1 on paper at -1. Loaders yield uint8 pictures; `training.augment.to_batch` alone converts them.
"""

from typing import Any

import flax.struct
import jax

Array = jax.Array
Params = Any  # nested dict of arrays


@flax.struct.dataclass
class Batch:
    """One batch of training or evaluation examples, after conversion to floats.

    Attributes:
        sketch: (B, H, W, 3) in [-1, 1], line = +1, paper = -1.
        size: (B,) first input of the size embedding, px: the square root of the picture's area.
        aesthetic_score: (B,) second input of the size embedding, about 0..10.
        image: (B, H, W, 3) in [-1, 1]; None where `moments` is given.
        reference: (B, H', W', 3) in [-1, 1]; None where the tokens are given.
        sketch_mask: (B, H, W, 1) foreground of the sketch.
        reference_mask: (B, H', W', 1) foreground of the reference.
        crop: (B, 4) top, left, height, width of the image in the whole picture, as shares of it;
            None: it is the whole.
        moments: (B, h, w, 2C) precomputed autoencoder mean and log variance.
        clip_tokens: (B, S1, C1) precomputed CLIP tokens of the reference.
        tagger_tokens: (B, S2, C2) precomputed tagger tokens of the reference.
    """

    sketch: Array
    size: Array
    aesthetic_score: Array
    image: Array | None = None
    reference: Array | None = None
    sketch_mask: Array | None = None
    reference_mask: Array | None = None
    crop: Array | None = None
    moments: Array | None = None
    clip_tokens: Array | None = None
    tagger_tokens: Array | None = None


@flax.struct.dataclass
class Encoded:
    """The frozen encoders' outputs for a batch.

    Attributes:
        latents: (B, h, w, C) scaled latents of the image, float32.
        clip_tokens: (B, S1, C1) all CLIP tokens of the reference, class token first.
        tagger_tokens: (B, S2, C2) tagger tokens, row-major grid.
    """

    latents: Array
    clip_tokens: Array
    tagger_tokens: Array


@flax.struct.dataclass
class Conditions:
    """The inputs that condition the denoiser.

    Attributes:
        context: (B, S, C) reference tokens; all zero, or None, means "no reference".
        hints: four (B, h_i, w_i, C_i) sketch features, finest first.
        vector: (B, 2E) size and score embedding.
    """

    context: Array | None
    hints: tuple[Array, ...]
    vector: Array
