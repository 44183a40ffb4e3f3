"""The three networks that are trained together, as one set of pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from colorize_jax.models.reference_projection import ReferenceProjection
from colorize_jax.models.sketch_encoder import SketchEncoder
from colorize_jax.models.unet import Features, UNet, UNetState, touch
from colorize_jax.models.unet_controls import Controls
from colorize_jax.nn.layers import size_embedding
from colorize_jax.nn.quantized import round_kernels
from colorize_jax.nn.regions import KeysValues
from colorize_jax.nn.transformer import runs_unrolled, unstack
from colorize_jax.types import Array, Conditions, Params

# The networks that training changes, by the names of their parameters.
TRAINED_NETWORKS = ("unet", "sketch_encoder", "reference_projection")


@dataclass(frozen=True)
class Colorizer:
    """UNet, sketch encoder and reference projection; hashable, its methods are pure.

    Their parameters travel as {"unet": ..., "sketch_encoder": ..., "reference_projection": ...}.
    """

    unet: UNet
    sketch_encoder: SketchEncoder
    reference_projection: ReferenceProjection

    def init(self, key: Array, clip_tokens: Array, tagger_tokens: Array) -> Params:
        """Random parameters.

        Args:
            key: of the run.
            clip_tokens: (B, S1, C1) like the encoder's; arrays or shapes.
            tagger_tokens: (B, S2, C2) likewise.
        """
        keys = jax.random.split(key, 3)
        sketch = jnp.zeros((1, 64, 64, 3))
        tokens = (jnp.zeros((1, *tokens.shape[1:])) for tokens in (clip_tokens, tagger_tokens))
        return {
            "unet": self.unet.init(keys[0], *touch(self.unet))["params"],
            "sketch_encoder": self.sketch_encoder.init(keys[1], sketch)["params"],
            "reference_projection": self.reference_projection.init(keys[2], *tokens)["params"],
        }

    def context(self, params: Params, clip_tokens: Array, tagger_tokens: Array) -> Array:
        """Project encoder tokens (B, S1, C1), (B, S2, C2) to context tokens (B, S, C)."""
        own = {"params": params["reference_projection"]}
        return self.reference_projection.apply(own, clip_tokens, tagger_tokens)

    def hints(
        self, params: Params, sketch: Array, color_hints: Array | None = None
    ) -> tuple[Array, ...]:
        """Encode a sketch (B, H, W, 3), line = +1, to hints (B, h_i, w_i, C_i), finest first.

        With hints of colour (B, H, W, 4), see `SketchEncoder`.
        """
        own = {"params": params["sketch_encoder"]}
        return self.sketch_encoder.apply(own, sketch, color_hints)

    def vector(self, size: Array, aesthetic_score: Array) -> Array:
        """Embed size (B,) px and score (B,) to (B, vector_channels)."""
        return size_embedding(size, aesthetic_score, self.unet.vector_channels // 2)

    def for_loop(self, params: Params) -> Params:
        """Parameters as a loop around the UNet reads them best, made before it.

        These are copies, of stacks that run unrolled and of kernels that are rounded; where blocks
        are told to run in loops (`block_loop="loop"`) there are none.
        """
        if self.unet.block_loop == "loop":
            return params
        unet = round_kernels(params["unet"], self.unet.products)
        return params | {"unet": unstack(unet) if runs_unrolled(self.unet.block_loop) else unet}

    def prefix(
        self, params: Params, latents: Array, timesteps: Array, conditions: Conditions, **options
    ) -> UNetState:
        """See `UNet.prefix`."""
        return self.unet.apply(
            {"params": params["unet"]},
            latents,
            timesteps,
            conditions.vector,
            conditions.hints,
            method="prefix",
            **options,
        )

    def project_context(
        self, params: Params, context: Array, lora_scales: Mapping[str, Array] | None = None
    ) -> dict[str, KeysValues]:
        """See `UNet.project_context`."""
        own = {"params": params["unet"]}
        return self.unet.apply(own, context, lora_scales, method="project_context")

    def body(
        self,
        params: Params,
        unet_state: UNetState,
        keys_values: Mapping[str, KeysValues] | None,
        hints: tuple[Array, ...],
        **options,
    ) -> tuple[Array | None, Features]:
        """See `UNet.body`."""
        own = {"params": params["unet"]}
        return self.unet.apply(own, unet_state, keys_values, hints, method="body", **options)

    def denoise(
        self,
        params: Params,
        latents: Array,
        timesteps: Array,
        conditions: Conditions,
        controls: Controls | None = None,
    ) -> Array:
        """Predict velocity or noise (B, h, w, C) of noisy latents at timesteps (B,)."""
        prediction, _ = self.unet.apply(
            {"params": params["unet"]},
            latents,
            timesteps,
            conditions.context,
            conditions.hints,
            conditions.vector,
            controls=controls,
        )
        return prediction
