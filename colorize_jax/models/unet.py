"""SDXL's UNet with a size embedding of its own and hints of the sketch on its encoder side.

A forward has two parts, both of them slices of the same tuple of stages (`unet_stages`):

    prefix  latents, timesteps, hints -> UNetState: all stages before the first transformer
    body    UNetState, keys and values of the context -> prediction, features

The prefix does not see the context, so that forwards of equal latents, timesteps and hints share
it: the branches of a training step, and the guided and unguided rows of a sampling step.

Shapes of the published UNet at 1024 px:

    stages               modules                                  output (B, h, w, C)
    input blocks  0      conv                     + hint, skip    128 128  320      prefix
                  1-2    res                      skips           128 128  320      |
                  3      down                     + hint, skip     64  64  320      |
                  4      res                                       64  64  640      |
                         2 transformer blocks     skip             64  64  640      body
                  5      res, 2 blocks            skip             64  64  640
                  6      down                     + hint, skip     32  32  640
                  7-8    res, 10 blocks           8: + hint, skips 32  32 1280
    middle block         res, 10 blocks, res                       32  32 1280
    output blocks 0-1    res of [x, skip], 10 blocks               32  32 1280
                  2      the same, up                              64  64 1280
                  3-4    res of [x, skip], 2 blocks                64  64  640
                  5      the same, up                             128 128  640
                  6-8    res of [x, skip]                         128 128  320
    out                  norm, SiLU, conv                         128 128    4
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp

from colorize_jax.errors import UserError
from colorize_jax.models.unet_controls import Controls, add_hint, transformer_controls
from colorize_jax.models.unet_injection import SkipInjector
from colorize_jax.models.unet_stages import Stage, make_module, unet_stages
from colorize_jax.nn.attention_layer import LoRAs
from colorize_jax.nn.layers import Conv, Dense, group_norm, near_zero_init, sinusoid
from colorize_jax.nn.quantized import WIDE
from colorize_jax.nn.regions import KeysValues
from colorize_jax.nn.transformer import SpatialTransformer
from colorize_jax.sharding import constrain_batch
from colorize_jax.types import Array

Features = dict[tuple[str, str], Array]  # (stack, feature) -> (L, B, N, C)


@flax.struct.dataclass
class UNetState:
    """A forward that has run some of the stages, and can go on from there.

    Attributes:
        x: (B, h', w', C) input of the next stage.
        skips: outputs of the input blocks that the decoder has not taken yet.
        embedding: (B, 4 * model_channels) float32 embedding of timestep and size.
        tokens: (B, N, C) after the blocks of that stage that have run; None: it has not begun.
        stage: static; index of the next stage.
        blocks: static; number of its transformer blocks that have run.
    """

    x: Array
    skips: tuple[Array, ...]
    embedding: Array
    tokens: Array | None = None
    stage: int = flax.struct.field(pytree_node=False, default=0)
    blocks: int = flax.struct.field(pytree_node=False, default=0)

    def begun(self) -> tuple[int, Array] | None:
        """The number of blocks of the next stage that have run, and the tokens after them."""
        return None if self.tokens is None else (self.blocks, self.tokens)


class UNet(nn.Module):
    """The denoiser. Defaults are the published colorizer's.

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
        num_output_blocks: decoder blocks that exist, in a network that is read at the norms of its
            transformers and ends with the last one; None: all of them and the output layers.
        remat: rematerialization policy of res and transformer blocks (`jax.checkpoint_policies`);
            None keeps every intermediate.
        dtype: of products and activations; parameters, statistics and softmax stay in float32.
        implementation: of attention, see `nn.attention`.
        block_loop: how stacks of transformer blocks run, see `nn.transformer`.
        products: of the transformers that read a norm's output, one of `nn.quantized.PRODUCTS`.
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
    block_loop: str = "auto"
    products: str = WIDE

    def setup(self) -> None:
        width = 4 * self.model_channels
        self.time_embed_0, self.time_embed_2 = Dense(width), Dense(width)
        if self.vector_channels:
            self.label_emb_0_0, self.label_emb_0_2 = Dense(width), Dense(width)
        self.stages = tuple((stage, self._module(stage)) for stage in self.plan())
        if self.foreground_channels:
            # Zero, as in the published model: a foreground changes nothing until it is trained.
            zeros = nn.initializers.zeros
            self.conv_fg = Conv(self.model_channels, kernel_init=zeros, dtype=self.dtype)
        self.injector = SkipInjector(
            tuple(stage.channels for stage in self.plan() if stage.stores_skip)[::-1],
            self.head_dim,
            self.map_modules,
            self.warp_modules,
            self.dtype,
            self.implementation,
        )
        nn.share_scope(self, self.injector)
        if self.num_output_blocks is None:
            self.out_0 = group_norm(1e-5, self.dtype, self.norm_groups)
            self.out_2 = Conv(self.out_channels, kernel_init=near_zero_init, dtype=self.dtype)

    def _module(self, stage: Stage) -> nn.Module:
        if stage.kind != "transformer":
            return make_module(stage, self.remat, self.dtype, self.norm_groups)
        return SpatialTransformer(
            stage.channels,
            stage.depth,
            self.norm_groups,
            self.head_dim,
            self.context_channels,
            self.loras,
            self.num_output_blocks is not None and stage == self.plan()[self._last_transformer()],
            self.remat,
            self.dtype,
            self.implementation,
            self.block_loop,
            self.products,
            name=stage.name,
        )

    # ----------------------------------------------------------------------------- the forward

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
    ) -> tuple[Array | UNetState | None, Features]:
        """The whole forward; arguments and results as in `prefix` and `body`.

        Args:
            context: (B, S, context_channels) tokens, or None for "no reference".
        """
        controls = controls or Controls()
        state = self.prefix(latents, timesteps, vector, hints, controls.foreground)
        if self.is_initializing():
            self._initialize_optional(state)
        kv = None if context is None else self.project_context(context, controls.lora_scales)
        return self.body(state, kv, hints, controls=controls, collect=collect, until=until)

    def prefix(
        self,
        latents: Array,
        timesteps: Array,
        vector: Array | None = None,
        hints: tuple[Array, ...] | None = None,
        foreground: Array | None = None,
    ) -> UNetState:
        """Run what does not see the context: every stage before the first transformer.

        Args:
            latents: (B, h, w, in_channels) noisy latents.
            timesteps: (B,) 0..999, may be fractional.
            vector: (B, vector_channels) size embedding.
            hints: one (B, h_i, w_i, C_i) for each of `hint_blocks`.
            foreground: (B, h, w, foreground_channels) for `conv_fg`.
        """
        kinds = [stage.kind for stage, _ in self.stages]
        end = kinds.index("transformer") if "transformer" in kinds else len(kinds)
        state = UNetState(latents.astype(self.dtype), (), self.embed(timesteps, vector))
        state, _ = self._run(state, end, None, hints, Controls(foreground=foreground), ())
        return state

    def body(
        self,
        state: UNetState,
        context: Mapping[str, KeysValues] | None,
        hints: tuple[Array, ...] | None = None,
        *,
        controls: Controls | None = None,
        collect: tuple[tuple[str, str], ...] = (),
        until: tuple[str, int] | None = None,
    ) -> tuple[Array | UNetState | None, Features]:
        """Run the rest of the stages, or as far as `until`.

        Args:
            state: from `prefix`, or from a body that ran `until` somewhere.
            context: from `project_context`, batch B' <= B: rows past B' have no reference. None:
                no row has one.
            hints: those of `prefix`.
            controls: what steers this forward.
            collect: (stack, feature) pairs to return; features are those of `nn.transformer`.
            until: (stack, number of its blocks) to stop after; nothing later is computed.

        Returns:
            (B, h, w, out_channels) float32, None where there are no output layers, or with `until`
            the state there; and (stack, feature) -> (L, B, N, C), of the blocks that ran.
        """
        controls = controls or Controls()
        if until is not None:
            end = [stage.name for stage, _ in self.stages].index(until[0])
            state, features = self._run(state, end, context, hints, controls, collect)
            tokens, found = self._transform(
                *self.stages[end], state.x, context, controls, collect, state.begun(), until[1]
            )
            return state.replace(tokens=tokens, blocks=until[1]), features | found
        ends_in_norm = self.num_output_blocks is not None
        # Later stages of a network that ends in a norm have parameters, but never run.
        end = self._last_transformer() + 1 if ends_in_norm and not self.is_initializing() else None
        state, features = self._run(state, end, context, hints, controls, collect)
        if ends_in_norm:
            return None, features
        return self.out_2(nn.silu(self.out_0(state.x))).astype(jnp.float32), features

    def _run(
        self,
        state: UNetState,
        end: int | None,
        context: Mapping[str, KeysValues] | None,
        hints: tuple[Array, ...] | None,
        controls: Controls,
        collect: tuple[tuple[str, str], ...],
    ) -> tuple[UNetState, Features]:
        """Run the stages from the state's next one up to number `end`, exclusive; None: all."""
        x, skips, features = state.x, list(state.skips), {}
        begun = state.begun()
        for stage, module in self.stages[state.stage : end]:
            if stage.takes_skip:
                skip = skips.pop()
                if controls.injection is not None:
                    skip = self.injector(skip, stage.block, state.embedding, controls.injection)
                x = jnp.concatenate([x, skip], axis=-1)
            if stage.kind == "transformer":
                x, found = self._transform(stage, module, x, context, controls, collect, begun)
                features |= found
                begun = None
            elif stage.kind == "res":
                x = module(x, state.embedding)
            else:
                x = module(x)
            x = constrain_batch(x)
            if stage.kind == "conv" and controls.foreground is not None:
                x = x + self.conv_fg(controls.foreground.astype(self.dtype))
            if stage.stores_skip:
                if hints is not None and stage.block in self.hint_blocks:
                    x = add_hint(x, hints[self.hint_blocks.index(stage.block)], stage.block)
                skips.append(x)
        tokens, end = state.tokens if begun else None, len(self.stages) if end is None else end
        return state.replace(x=x, skips=tuple(skips), tokens=tokens, stage=end), features

    def _transform(
        self,
        stage: Stage,
        module: SpatialTransformer,
        x: Array,
        context: Mapping[str, KeysValues] | None,
        controls: Controls,
        collect: tuple[tuple[str, str], ...],
        begun: tuple[int, Array] | None,
        stop: int | None = None,
    ) -> tuple[Array, Features]:
        """Run a transformer, or a part of its blocks: with `stop` returns the tokens there."""
        wanted = tuple(feature for stack, feature in collect if stack == stage.name)
        num_blocks = sum(self.stacks().values())
        y, found = module(
            x,
            None if context is None else context[stage.name],
            collect=wanted,
            begun=begun,
            stop=stop,
            **transformer_controls(controls, stage, num_blocks, *x.shape[1:3]),
        )
        features = {(stage.name, feature): found[feature] for feature in wanted}
        return x if y is None else y, features  # a stack that ends in its norm has no output

    # --------------------------------------------------------- what is computed before the stages

    def embed(self, timesteps: Array, vector: Array | None) -> Array:
        """(B,) timesteps 0..999 and (B, E) size embedding -> (B, 4 * model_channels), float32."""
        x = self.time_embed_0(sinusoid(timesteps, self.model_channels))
        x = self.time_embed_2(nn.silu(x))
        if self.vector_channels:
            x = x + self.label_emb_0_2(nn.silu(self.label_emb_0_0(vector)))
        return x

    def project_context(
        self, context: Array, lora_scales: Mapping[str, Array] | None = None
    ) -> dict[str, KeysValues]:
        """(B, S, context_channels) -> transformer stack -> keys and values (L, B, S, K, D)."""
        return {
            stage.name: module.project_context(context, lora_scales)
            for stage, module in self.stages
            if stage.depth
        }

    def project_banks(self, banks: Mapping[str, Array]) -> dict[str, KeysValues]:
        """Stack -> (L, B, M, C) normed tokens, to stack -> keys and values (L, B, M, K, D)."""
        modules = {stage.name: module for stage, module in self.stages}
        return {name: modules[name].project_bank(bank) for name, bank in banks.items()}

    def _initialize_optional(self, state: UNetState) -> None:
        """Create the parameters that an ordinary forward does not use, for `init` alone."""
        if self.foreground_channels:
            self.conv_fg(jnp.zeros((1, 1, 1, self.foreground_channels), self.dtype))
        self.injector.initialize(state.embedding)

    # ------------------------------------------------------------------- known without parameters

    def plan(self) -> tuple[Stage, ...]:
        """The stages in order of execution."""
        return unet_stages(
            self.model_channels,
            self.channel_mult,
            self.num_res_blocks,
            self.transformer_depth,
            self.num_output_blocks,
        )

    def _last_transformer(self) -> int:
        return max(i for i, stage in enumerate(self.plan()) if stage.depth)

    def stacks(self) -> dict[str, int]:
        """Transformer stack -> depth, in order of execution."""
        return {stage.name: stage.depth for stage in self.plan() if stage.depth}

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


def touch(module: UNet, height: int = 8, width: int = 8) -> tuple[Any, ...]:
    """Arguments with which `module.init(key, *touch(module))` makes every parameter."""
    levels = len(module.channel_mult)
    size = max(height, width, 2 ** (levels - 1))
    latents = jnp.zeros((1, size, size, module.in_channels))
    context = jnp.zeros((1, 2, module.context_channels)) if module.context_channels else None
    vector = jnp.zeros((1, module.vector_channels)) if module.vector_channels else None
    return latents, jnp.zeros((1,)), context, None, vector
