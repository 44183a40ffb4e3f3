"""The frozen encoders: from pictures to latents and reference tokens, outside the gradient."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from colorize_jax.errors import UserError
from colorize_jax.models.frozen.clip_vision import ClipVision
from colorize_jax.models.frozen.patch import PatchAutoencoder, PatchReferenceEncoder
from colorize_jax.models.frozen.tagger import Tagger
from colorize_jax.models.frozen.vae import Vae
from colorize_jax.types import Array, Batch, Encoded, Params

# The networks that training never changes, by the names of their parameters.
FROZEN_NETWORKS = ("vae", "clip_vision", "tagger")


@dataclass(frozen=True)
class FrozenEncoders:
    """Autoencoder and reference encoders; hashable, its methods are pure and can be jitted.

    Their parameters travel as {"vae": ..., "clip_vision": ..., "tagger": ...} in any float dtype;
    an encoder without weights needs no entry. Each one computes in its `dtype`.

    Attributes:
        autoencoder: encodes images to moments and decodes latents.
        clip: reference -> tokens, class token first.
        tagger: reference -> tokens of a row-major grid.
        scaling_factor: factor from the autoencoder's latents to those of the UNet.
    """

    autoencoder: Vae | PatchAutoencoder
    clip: ClipVision | PatchReferenceEncoder
    tagger: Tagger | PatchReferenceEncoder
    scaling_factor: float = 0.13025

    def init(self, key: Array) -> Params:
        """Random parameters, for tests and abstract evaluation."""
        keys = jax.random.split(key, 3)
        side = self.autoencoder.pixels_per_latent
        modules = {
            "vae": (self.autoencoder, side),
            "clip_vision": (self.clip, self.clip.image_size),
            "tagger": (self.tagger, self.tagger.image_size),
        }
        params = {}
        for (name, (module, size)), key in zip(modules.items(), keys, strict=True):
            variables = module.init(key, jnp.zeros((1, size, size, 3)))
            params[name] = variables.get("params", {})
        return params

    def encode(self, params: Params, batch: Batch, key: Array | None) -> Encoded:
        """Encode a batch; precomputed moments and tokens are taken where the batch has them.

        Args:
            params: parameters of the encoders.
            batch: with an image or moments, and with a reference or both sorts of tokens.
            key: draws from the autoencoder's posterior; None takes its mean.

        Raises:
            UserError: neither of such a pair is there.
        """
        clip_tokens, tagger_tokens = batch.clip_tokens, batch.tagger_tokens
        if batch.reference is None and (clip_tokens is None or tagger_tokens is None):
            raise UserError(
                "got a batch without a reference, expected one or CLIP and tagger tokens; give it"
            )
        if clip_tokens is None:
            clip_tokens = _apply(self.clip, params, "clip_vision", "tokens", batch.reference)
        if tagger_tokens is None:
            tagger_tokens = _apply(self.tagger, params, "tagger", "tokens", batch.reference)
        if batch.moments is not None:
            mean, logvar = jnp.split(batch.moments.astype(jnp.float32), 2, axis=-1)
        elif batch.image is not None:
            mean, logvar = self.moments(params, batch.image)
        else:
            raise UserError("got a batch without an image, expected one or moments; give it")
        return Encoded(self._scaled(mean, logvar, key), clip_tokens, tagger_tokens)

    def encode_image(self, params: Params, images: Array, key: Array | None = None) -> Array:
        """Scaled latents (B, h, w, C) float32 of images (B, H, W, 3) in [-1, 1]; see `encode`."""
        mean, logvar = self.moments(params, images)
        return self._scaled(mean, logvar, key)

    def moments(self, params: Params, images: Array) -> tuple[Array, Array]:
        """Posterior mean and log variance of images, unscaled, each (B, h, w, C) float32."""
        return _apply(self.autoencoder, params, "vae", "encode", images)

    def encode_reference(self, params: Params, reference: Array) -> tuple[Array, Array]:
        """Tokens of a reference.

        Args:
            params: parameters of the encoders; "vae" is not needed.
            reference: (B, H, W, 3) in [-1, 1], any size.

        Returns:
            CLIP tokens (B, S1, C1) and tagger tokens (B, S2, C2).
        """
        return self.encode_resized(params, reference, reference)

    def encode_resized(
        self, params: Params, clip_images: Array, tagger_images: Array
    ) -> tuple[Array, Array]:
        """Like `encode_reference`, of references that may have been resized for each encoder.

        Resizing to the side that a picture has changes nothing, so that pictures resized before
        (bicubically, antialiased, corners aligned) give the same tokens, at one shape for all.
        """
        return (
            _apply(self.clip, params, "clip_vision", "tokens", clip_images),
            _apply(self.tagger, params, "tagger", "tokens", tagger_images),
        )

    def decode(self, params: Params, latents: Array) -> Array:
        """Decode scaled latents (B, h, w, C) to images (B, H, W, 3) float32, not clamped."""
        unscaled = latents.astype(jnp.float32) / self.scaling_factor
        return _apply(self.autoencoder, params, "vae", "decode", unscaled)

    def _scaled(self, mean: Array, logvar: Array, key: Array | None) -> Array:
        if key is None:
            return self.scaling_factor * mean
        noise = jax.random.normal(key, mean.shape, jnp.float32)
        return self.scaling_factor * (mean + jnp.exp(0.5 * logvar) * noise)


def _apply(module: Any, params: Params, name: str, method: str, images: Array) -> Any:
    """Apply a method of one encoder to its own part of the parameters."""
    own: Mapping[str, Any] = params.get(name, {})
    return module.apply({"params": own}, images, method=method)
