"""SDXL's UNet with a size embedding of its own and hints of the sketch on its encoder side.

    prefix  latents (B,h,w,4), timesteps, hints -> UNetState: all before the first transformer
    body    UNetState, keys and values of the context -> prediction (B,h,w,4), features of stacks

The prefix is blind to the context, so whatever shares latents, timesteps and hints shares its
UNetState: the branches of a training step, and the guided and unguided halves of a sampling step.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp

from colorize_jax.errors import UserError
from colorize_jax.models.unet_stages import (
    Stage,
    decoder_stages,
    encoder_stages,
    make_module,
    middle_stages,
)
from colorize_jax.nn.layers import Conv, Dense, group_norm, near_zero_init, sinusoid
from colorize_jax.nn.resize import resize_bicubic
from colorize_jax.nn.transformer import (
    Attention,
    Bank,
    KeysValues,
    LoRAs,
    Regions,
    SpatialTransformer,
)
from colorize_jax.sharding import constrain_batch
from colorize_jax.types import Array

Features = dict[tuple[str, str], Array]  # (stack, feature) -> (L, B, N, C)


@flax.struct.dataclass
class UNetState:
    """A forward that has come as far as a transformer, and goes on from there.

    Attributes:
        x: (B, h', w', C) input of the transformer.
        skips: outputs of the input blocks that the decoder has not taken yet.
        embedding: (B, 4 * model_channels) float32 embedding of timestep and size.
        tokens: (B, N, C) behind the transformer's blocks that have run; None: it has not begun.
    """

    x: Array
    skips: tuple[Array, ...]
    embedding: Array
    tokens: Array | None = None


@flax.struct.dataclass
class Controls:
    """What steers a forward beside its conditions; every part may be left out.

    Attributes:
        reference_strength: () or (number of transformer blocks,) factor of cross-attention.
        regions: split cross-attention; its mask is (B, h, w, 1) at the latents' resolution.
        banks: transformer stack -> foreign tokens of its self-attention; masks (B, h, w, 1).
        lora_scales: label -> scale, 1 where a label is not named.
        foreground: (B, h, w, C) latent that `conv_fg` adds after the first convolution.
        injection: features for the decoder's skips.
    """

    reference_strength: Array | None = None
    regions: Regions | None = None
    banks: Mapping[str, Bank] | None = None
    lora_scales: Mapping[str, Array] | None = None
    foreground: Array | None = None
    injection: "Injection | None" = None


@flax.struct.dataclass
class Injection:
    """Features that the decoder's skips attend to.

    Attributes:
        foreground: one (B, N_i, C_i) a decoder block, for pixels inside the mask; or None.
        background: the same for pixels outside; or None.
        mask: (B, h, w, 1) at the latents' resolution.
        threshold: () or (B,) what the mask is compared with.
    """

    foreground: tuple[Array, ...] | None
    background: tuple[Array, ...] | None
    mask: Array
    threshold: Array | float = 0.05


class UNet(nn.Module):
    """The denoiser; see `spec: UNet`. Defaults are the published colorizer's.

    Attributes:
        model_channels: channels of the first level; a multiple of `norm_groups`.
        channel_mult: multiple of them at each level.
        num_res_blocks: res blocks a level in the encoder, one more in the decoder.
        transformer_depth: transformer blocks after each res block, by level; the last one is also
            that of the middle.
        norm_groups: groups of channels that a GroupNorm takes statistics of.
        head_dim: D of the attention heads.
        context_channels: width of the context's tokens; 0 leaves cross-attention out.
        vector_channels: width of the size embedding; 0 leaves it out.
        in_channels: channels of the input.
        out_channels: channels of the prediction.
        hint_blocks: input blocks to whose outputs the hints are added.
        loras: (label, rank) of the low-rank additions of every cross-attention.
        foreground_channels: channels of the latent that `conv_fg` takes; 0 leaves it out.
        map_modules: whether skips can attend to foreground features.
        warp_modules: whether skips can attend to background features.
        num_output_blocks: decoder blocks that exist; None: all of them and the output layers.
        remat: rematerialization policy of res and transformer blocks (`jax.checkpoint_policies`);
            None keeps every intermediate.
        dtype: of products and activations; parameters, statistics and softmax stay in float32.
        implementation: of attention, see `nn.attention`.
    """

    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 2
    transformer_depth: tuple[int, ...] = (0, 2, 10)
    norm_groups: int = 32
    head_dim: int = 64
    context_channels: int = 2048
    vector_channels: int = 512
    in_channels: int = 4
    out_channels: int = 4
    hint_blocks: tuple[int, ...] = (0, 3, 6, 8)
    loras: LoRAs = ()
    foreground_channels: int = 0
    map_modules: bool = False
    warp_modules: bool = False
    num_output_blocks: int | None = None
    remat: Callable[..., bool] | None = None
    dtype: Any = jnp.float32
    implementation: str = "auto"

    def setup(self) -> None:
        width = 4 * self.model_channels
        self.time_embed_0, self.time_embed_2 = Dense(width), Dense(width)
        if self.vector_channels:
            self.label_emb_0_0, self.label_emb_0_2 = Dense(width), Dense(width)
        for stage in self.stages():
            setattr(self, stage.name, self._module(stage))
        if self.foreground_channels:
            self.conv_fg = Conv(self.model_channels, dtype=self.dtype)
        for prefix, wanted in (("map", self.map_modules), ("warp", self.warp_modules)):
            for i, channels in enumerate(self._skip_channels() if wanted else ()):
                reader = Attention(
                    channels, self.head_dim, dtype=self.dtype, implementation=self.implementation
                )
                setattr(self, f"{prefix}_modules_{i}_0", reader)
                setattr(self, f"{prefix}_modules_{i}_1", Dense(channels, dtype=self.dtype))
        if self.num_output_blocks is None:
            self.out_0 = group_norm(1e-5, self.dtype, self.norm_groups)
            self.out_2 = Conv(self.out_channels, kernel_init=near_zero_init, dtype=self.dtype)

    def _module(self, stage: Stage) -> nn.Module:
        if stage.kind == "transformer":
            return SpatialTransformer(
                stage.channels,
                stage.depth,
                self.norm_groups,
                self.head_dim,
                self.context_channels,
                self.loras,
                self.remat,
                self.dtype,
                self.implementation,
            )
        return make_module(stage, self.remat, self.dtype, self.norm_groups)

    # ----------------------------------------------------------------- what the UNet is made of

    def stages(self) -> list[Stage]:
        """List the modules in order of execution."""
        shape = (
            self.model_channels,
            self.channel_mult,
            self.num_res_blocks,
            self.transformer_depth,
        )
        middle = middle_stages(
            self.channel_mult[-1] * self.model_channels, self.transformer_depth[-1]
        )
        decoder = decoder_stages(*shape)
        if self.num_output_blocks is not None:
            kept = {f"output_blocks_{i}" for i in range(self.num_output_blocks)}
            decoder = [stage for stage in decoder if stage.block in kept]
        return encoder_stages(*shape) + middle + decoder

    def stacks(self) -> dict[str, int]:
        """Transformer stack -> depth, in order of execution."""
        return {stage.name: stage.depth for stage in self.stages() if stage.depth}

    def locate(self, block: int | str) -> tuple[str, int]:
        """Where a transformer block is: its stack, and its index in there.

        Args:
            block: 1-based number, depth first, or published name, e.g.
                "input_blocks.8.1.transformer_blocks.8".

        Raises:
            UserError: there is no such block.
        """
        names = [(stack, i) for stack, depth in self.stacks().items() for i in range(depth)]
        if isinstance(block, str):
            stack, _, index = block.replace(".", "_").rpartition("_transformer_blocks_")
            if index.isdigit() and (stack, int(index)) in names:
                return stack, int(index)
        elif 1 <= block <= len(names):
            return names[block - 1]
        raise UserError(
            f"got transformer block {block!r}, expected 1..{len(names)} or a published name such "
            "as input_blocks.8.1.transformer_blocks.8; change the block"
        )

    def _first_transformer(self) -> int:
        kinds = [stage.kind for stage in self.stages()]
        return kinds.index("transformer") if "transformer" in kinds else len(kinds)

    def _skip_channels(self) -> list[int]:
        """Channels of the skips in the order in which the decoder takes them."""
        encoder = [p for p in self.stages() if p.block.startswith("input_blocks")]
        return [stage.channels for stage in encoder if stage.name.endswith("_0")][::-1]

    # ------------------------------------------------------------------------------- the forward

    def embed(self, timesteps: Array, vector: Array | None) -> Array:
        """(B,) timesteps 0..999 and (B, E) size embedding -> (B, 4 * model_channels), float32."""
        x = self.time_embed_0(sinusoid(timesteps, self.model_channels))
        x = self.time_embed_2(nn.silu(x))
        if self.vector_channels:
            x = x + self.label_emb_0_2(nn.silu(self.label_emb_0_0(vector)))
        return x

    def prefix(
        self,
        latents: Array,
        timesteps: Array,
        vector: Array | None = None,
        hints: tuple[Array, ...] | None = None,
        foreground: Array | None = None,
    ) -> UNetState:
        """Run what does not see the context: everything before the first transformer.

        Args:
            latents: (B, h, w, in_channels) noisy latents.
            timesteps: (B,) 0..999, may be fractional.
            vector: (B, vector_channels) size embedding.
            hints: one (B, h_i, w_i, C_i) for each of `hint_blocks`.
            foreground: (B, h, w, foreground_channels) for `conv_fg`.
        """
        embedding = self.embed(timesteps, vector)
        x, skips = latents.astype(self.dtype), []
        for stage in self.stages()[: self._first_transformer()]:
            x = self._run(stage, x, embedding, hints, skips, foreground)
        return UNetState(x, tuple(skips), embedding)

    def _run(
        self,
        stage: Stage,
        x: Array,
        embedding: Array,
        hints: tuple[Array, ...] | None,
        skips: list[Array],
        foreground: Array | None = None,
        stack: Callable[[Array], Array] | None = None,
    ) -> Array:
        """Run one module; where it ends an input block, add its hint and keep the skip."""
        module = getattr(self, stage.name)
        if stage.kind == "res":
            x = module(x, embedding)
        elif stage.kind == "transformer":
            x = stack(x)
        else:
            x = module(x)
        x = constrain_batch(x)
        if foreground is not None and stage.name == "input_blocks_0_0":
            x = x + self.conv_fg(foreground.astype(self.dtype))
        ends = [p.name for p in self.stages() if p.block == stage.block][-1] == stage.name
        if stage.block.startswith("input_blocks") and ends:
            index = int(stage.block.rsplit("_", 1)[1])
            if hints is not None and index in self.hint_blocks:
                hint = hints[self.hint_blocks.index(index)]
                _check_hint(hint, x, index)
                x = x + hint.astype(self.dtype)
            skips.append(x)
        return x

    def project_context(
        self, context: Array, lora_scales: Mapping[str, Array] | None = None
    ) -> dict[str, KeysValues]:
        """(B, S, context_channels) -> transformer stack -> keys and values (L, B, S, K, D)."""
        return {
            name: getattr(self, name).project_context(context, lora_scales)
            for name in self.stacks()
        }

    def project_banks(self, banks: Mapping[str, Array]) -> dict[str, KeysValues]:
        """Stack -> (L, B, M, C) normed tokens, to stack -> keys and values (L, B, M, K, D)."""
        return {name: getattr(self, name).project_bank(bank) for name, bank in banks.items()}

    def body(
        self,
        unet_state: UNetState,
        context: Mapping[str, KeysValues] | None,
        hints: tuple[Array, ...] | None = None,
        *,
        controls: Controls | None = None,
        collect: tuple[tuple[str, str], ...] = (),
        since: tuple[str, int] | None = None,
        until: tuple[str, int] | None = None,
    ) -> tuple[Array | UNetState | None, Features]:
        """Run everything from the first transformer on, or a part of it.

        Args:
            unet_state: from `prefix`, or from the body that ran `until` if this one runs `since`.
            context: from `project_context`, batch B' <= B: rows past B' have no reference. None:
                no row has one.
            hints: those of `prefix`.
            controls: what steers this forward.
            collect: (stack, feature) pairs to return; features are those of `nn.transformer`.
            since: (stack, number of its blocks) that have run already.
            until: (stack, number of its blocks) to run last; nothing behind is computed.

        Returns:
            (B, h, w, out_channels) float32, None where there are no output layers, or with `until`
            the UNetState there; and (stack, feature) -> (L, B, N, C), of the blocks that ran.
        """
        controls = controls or Controls()
        x, skips = unet_state.x, list(unet_state.skips)
        features: Features = {}
        stages = self.stages()[self._first_transformer() :]
        if since:
            stages = stages[[stage.name for stage in stages].index(since[0]) :]
        block = stages[0].block if since else None  # its skip has been taken
        for stage in stages:
            if stage.block.startswith("output_blocks") and stage.block != block:
                skip = self._inject(
                    stage.block, skips.pop(), unet_state.embedding, controls.injection
                )
                x = jnp.concatenate([x, skip], axis=-1)
            block = stage.block

            def stack(x: Array, name: str = stage.name, stop: int | None = None) -> Array:
                names = tuple(feature for wanted, feature in collect if wanted == name)
                begun = (since[1], unet_state.tokens) if since and name == since[0] else None
                x, found = getattr(self, name)(
                    x,
                    None if context is None else context[name],
                    collect=names,
                    begun=begun,
                    stop=stop,
                    **self._stack_options(name, controls, x),
                )
                features.update({(name, feature): found[feature] for feature in names})
                return x

            if until and stage.name == until[0]:
                tokens = stack(x, stop=until[1])
                return UNetState(x, tuple(skips), unet_state.embedding, tokens), features
            x = self._run(stage, x, unet_state.embedding, hints, skips, stack=stack)
        if self.num_output_blocks is not None:
            return None, features
        x = self.out_2(nn.silu(self.out_0(x)))
        return x.astype(jnp.float32), features

    def __call__(
        self,
        latents: Array,
        timesteps: Array,
        context: Array | None = None,
        hints: tuple[Array, ...] | None = None,
        vector: Array | None = None,
        *,
        controls: Controls | None = None,
        collect: tuple[tuple[str, str], ...] = (),
        until: tuple[str, int] | None = None,
    ) -> tuple[Array | None, Features]:
        """The whole forward; arguments and results as in `prefix` and `body`.

        Args:
            context: (B, S, context_channels) tokens, or None for "no reference".
        """
        foreground = None if controls is None else controls.foreground
        unet_state = self.prefix(latents, timesteps, vector, hints, foreground)
        scales = None if controls is None else controls.lora_scales
        kv = None if context is None else self.project_context(context, scales)
        if self.is_initializing():
            self._touch_injectors(unet_state)
        return self.body(unet_state, kv, hints, controls=controls, collect=collect, until=until)

    # -------------------------------------------------------------------------------- controls

    def _stack_options(self, name: str, controls: Controls, x: Array) -> dict[str, Any]:
        """What one stack gets of the controls, masks at its own resolution."""
        height, width = x.shape[1:3]

        def tokens(mask: Array | None) -> Array | None:
            if mask is None:
                return None
            return resize_bicubic(mask, height, width).reshape(mask.shape[0], height * width, 1)

        strength = controls.reference_strength
        if strength is not None:
            starts = list(self.stacks())
            depths = list(self.stacks().values())
            start = sum(depths[: starts.index(name)])
            strength = jnp.broadcast_to(strength, (sum(depths),))
            strength = strength[start : start + self.stacks()[name]]
        bank = (controls.banks or {}).get(name)
        if bank is not None:
            bank = bank.replace(mask=tokens(bank.mask))
        regions = controls.regions
        if regions is not None:
            regions = regions.replace(mask=tokens(regions.mask))
        return {
            "strength": strength,
            "bank": bank,
            "regions": regions,
            "lora_scales": controls.lora_scales,
        }

    def _inject(
        self, block: str, skip: Array, embedding: Array, injection: Injection | None
    ) -> Array:
        """Let a skip attend to foreground features inside the mask, to background ones outside."""
        if injection is None:
            return skip
        index = int(block.rsplit("_", 1)[1])
        batch, height, width, channels = skip.shape
        tokens = skip.reshape(batch, height * width, channels)

        def read(kind: str, features: tuple[Array, ...] | None) -> Array:
            if features is None:
                return tokens
            shift = getattr(self, f"{kind}_modules_{index}_1")(embedding)[:, None, :]
            reader = getattr(self, f"{kind}_modules_{index}_0")
            return tokens + reader(tokens, features[index].astype(self.dtype) + shift)

        mask = resize_bicubic(injection.mask, height, width).reshape(batch, height * width, 1)
        threshold = jnp.reshape(jnp.asarray(injection.threshold, mask.dtype), (-1, 1, 1))
        foreground = read("map", injection.foreground)
        background = read("warp", injection.background)
        return jnp.where(mask > threshold, foreground, background).reshape(skip.shape)

    def _touch_injectors(self, unet_state: UNetState) -> None:
        """Create the parameters that an ordinary forward does not use, for `init` alone."""
        if self.foreground_channels:
            self.conv_fg(jnp.zeros((1, 1, 1, self.foreground_channels), self.dtype))
        for kind, wanted in (("map", self.map_modules), ("warp", self.warp_modules)):
            for i, channels in enumerate(self._skip_channels() if wanted else ()):
                tokens = jnp.zeros((1, 1, channels), self.dtype)
                getattr(self, f"{kind}_modules_{i}_0")(tokens, tokens)
                getattr(self, f"{kind}_modules_{i}_1")(unet_state.embedding)


def touch(module: UNet, height: int = 8, width: int = 8) -> tuple[Any, ...]:
    """Arguments with which `module.init(key, *touch(module))` makes every parameter."""
    levels = len(module.channel_mult)
    size = max(height, width, 2 ** (levels - 1))
    latents = jnp.zeros((1, size, size, module.in_channels))
    context = jnp.zeros((1, 2, module.context_channels)) if module.context_channels else None
    vector = jnp.zeros((1, module.vector_channels)) if module.vector_channels else None
    return latents, jnp.zeros((1,)), context, None, vector


def _check_hint(hint: Array, features: Array, block: int) -> None:
    got, expected = hint.shape[1:], features.shape[1:]
    if got != expected:
        raise UserError(
            f"got a hint of {'x'.join(map(str, got))} for input block {block}, expected "
            f"{'x'.join(map(str, expected))}, what the block puts out; give hint_blocks blocks at "
            "which the sketch encoder's levels have the size and width of the UNet's"
        )
