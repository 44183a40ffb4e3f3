"""CLIP's vision tower (Radford et al. 2021); all its tokens are used, not the class token alone."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from colorize_jax.models.frozen.clip_layers import Layers, check_heads
from colorize_jax.nn.layers import Conv, Dense, LayerNorm
from colorize_jax.nn.resize import resize_antialiased
from colorize_jax.types import Array

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of RGB in [0, 1] in CLIP's training data
STD = (0.26862954, 0.26130258, 0.27577711)


def preprocess_clip(images: Array, size: int) -> Array:
    """Resize and normalize images for CLIP; the aspect is not kept.

    Args:
        images: (B, H, W, 3) RGB in [-1, 1].
        size: side of the result in pixels.

    Returns:
        (B, size, size, 3) float32.
    """
    resized = resize_antialiased(images.astype(jnp.float32), size, size)
    return ((resized + 1) / 2 - jnp.asarray(MEAN)) / jnp.asarray(STD)


class ClipVision(nn.Module):
    """The vision tower with its projection; ViT-bigG/14 by default.

    Attributes:
        hidden_size: C of the tower.
        intermediate_size: width inside the MLPs.
        num_layers: L, stacked and scanned.
        num_heads: K.
        image_size: side of the preprocessed image in pixels.
        patch_size: side of a patch in pixels.
        projection_dim: C of the tokens.
        dtype: of the products; norms and softmax stay in float32.
        implementation: see `nn.attention`.
    """

    hidden_size: int = 1664
    intermediate_size: int = 8192
    num_layers: int = 48
    num_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    projection_dim: int = 1280
    dtype: Any = jnp.float32
    implementation: str = "auto"

    def __post_init__(self) -> None:
        check_heads(self.hidden_size, self.num_heads)
        super().__post_init__()

    def setup(self) -> None:
        self.vision_model = VisionTower(
            self.hidden_size,
            self.intermediate_size,
            self.num_layers,
            self.num_heads,
            self.patch_size,
            self.dtype,
            self.implementation,
        )
        self.visual_projection = Dense(self.projection_dim, use_bias=False, dtype=self.dtype)

    def __call__(self, images: Array) -> Array:
        """Encode images (B, image_size, image_size, 3) of `preprocess_clip`.

        Returns:
            (B, 1 + patches, projection_dim) tokens, the class token first.
        """
        return self.project(self.last_hidden_state(images))

    def last_hidden_state(self, images: Array) -> Array:
        """The last layer's output for preprocessed images: (B, 1 + patches, hidden_size)."""
        return self.vision_model(images)

    def project(self, hidden: Array) -> Array:
        """Tokens of a last hidden state."""
        return self.visual_projection(self.vision_model.post_layernorm(hidden))

    def tokens(self, images: Array) -> Array:
        """Tokens of images (B, H, W, 3) in [-1, 1] of any size."""
        return self(preprocess_clip(images, self.image_size))


class VisionTower(nn.Module):
    """Patches and a class token through the layers; fields as in `ClipVision`."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    patch_size: int
    dtype: Any = jnp.float32
    implementation: str = "auto"

    def setup(self) -> None:
        self.embeddings = Embeddings(self.hidden_size, self.patch_size, self.dtype)
        # The misspelling is the published one.
        self.pre_layrnorm = LayerNorm(self.dtype)
        self.encoder = Layers(
            self.intermediate_size,
            self.num_layers,
            self.num_heads,
            self.dtype,
            self.implementation,
        )
        self.post_layernorm = LayerNorm(self.dtype)

    def __call__(self, images: Array) -> Array:
        hidden = self.encoder(self.pre_layrnorm(self.embeddings(images)))
        if self.is_initializing():
            self.post_layernorm(hidden)
        return hidden


class Embeddings(nn.Module):
    """Patch, class and position embeddings: (B, H, W, 3) -> (B, 1 + patches, C)."""

    hidden_size: int
    patch_size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        init = nn.initializers.normal(0.02)
        class_token = self.param("class_embedding", init, (self.hidden_size,))
        patches = Conv(
            self.hidden_size,
            self.patch_size,
            stride=self.patch_size,
            padding=(0, 0),
            use_bias=False,
            dtype=self.dtype,
            name="patch_embedding",
        )(images)
        patches = patches.reshape(images.shape[0], -1, self.hidden_size)
        first = jnp.broadcast_to(class_token.astype(self.dtype), (len(images), 1, len(class_token)))
        x = jnp.concatenate([first, patches], axis=1)
        positions = nn.Embed(
            x.shape[1], self.hidden_size, dtype=self.dtype, name="position_embedding"
        )
        return x + positions(jnp.arange(x.shape[1]))
