"""The options of the method: networks, encoders, noise, losses and the optimizer."""

from dataclasses import dataclass
from typing import Any

from colorize_jax.config.checks import (
    Choice,
    Either,
    Flag,
    Items,
    Location,
    Pair,
    Pattern,
    Real,
    Text,
    Whole,
)
from colorize_jax.config.fields import Options, option

PLUGIN_LORA = "background"  # label of the plugin's low-rank additions

RATE = Real(0, 1)
SEED = Whole(0, 2**32 - 1)
SIDE = Whole(1, 2**14)  # px
_WIDTH = Whole(1, 2**16)
_DTYPE = Choice(("float32", "bfloat16"))


@dataclass(frozen=True)
class ModelConfig(Options):
    """The trained networks: UNet, sketch encoder and reference projection."""

    section = "model."

    model_channels: int = option(
        320, _WIDTH, "channels of the first level; a multiple of `norm_groups`"
    )
    channel_mult: tuple[int, ...] = option(
        (1, 2, 4), Items(Whole(1, 64)), "multiple of them at each level"
    )
    num_res_blocks: int = option(
        2, Whole(1, 64), "res blocks a level in the encoder, one more in the decoder"
    )
    transformer_depth: tuple[int, ...] = option(
        (0, 2, 10), Items(Whole(0, 256)), "transformer blocks after each res block, by level"
    )
    norm_groups: int = option(
        32, _WIDTH, "groups of channels that the UNet's GroupNorms take statistics of"
    )
    head_dim: int = option(64, _WIDTH, "channels of the UNet's attention heads")
    context_channels: int = option(2048, _WIDTH, "width of the reference's tokens")
    vector_channels: int = option(
        512, _WIDTH, "width of the size and score embedding; a multiple of 4"
    )
    hint_blocks: tuple[int, ...] = option(
        (0, 3, 6, 8),
        Items(Whole(0, 2**10)),
        "input blocks to whose outputs the sketch's four hints are added",
    )
    sketch_head_dim: int = option(
        128, _WIDTH, "channels of the sketch encoder's attention heads; a multiple of 4"
    )
    sketch_strides: tuple[int, ...] = option(
        (2, 2, 2),
        Items(Whole(1, 64), 3),
        "strides of its three strided convolutions; their product is the autoencoder's "
        "downsampling",
    )
    sketch_stem_channels: tuple[int, ...] = option(
        (16, 16, 32, 32, 96, 96, 256),
        Items(_WIDTH, 7),
        "widths of the seven convolutions in front of its levels",
    )
    hints: bool = option(
        False, Flag(), "take hints of colour with the sketch, trained as `color_hints` says"
    )
    context_tokens: int = option(196, _WIDTH, "tokens of the reference that are kept")
    projection_head_dim: int = option(128, _WIDTH, "channels of the projection's attention heads")
    loras: tuple[tuple[str, int], ...] = option(
        (),
        Items(Pair(Text(), Whole(1, 2**12)), empty=True),
        "(label, rank) of low-rank additions to every cross-attention",
    )
    init_from: str = option(
        "", Location(empty=True), 'folder of weights to start from; "" starts at random'
    )
    init_changes: tuple[str, ...] = option(
        (),
        Items(Choice(("prediction_type", "schedule", "scaling_factor")), empty=True),
        "facts of an SDXL base that this run trains otherwise, such as its prediction of noise",
    )
    foreground_channels: int = option(
        0,
        Whole(0, 2**10),
        "channels of the latent that the published plugin's `conv_fg` takes; 0 leaves it out",
    )
    dtype: str = option("float32", _DTYPE, "of products and activations; parameters are float32")
    frozen_dtype: str = option(
        "float32", _DTYPE, "in which parameters of these networks are kept that are not trained"
    )
    remat: str = option(
        "none",
        Choice(("auto", "none", "norms", "elementwise", "wide", "dots", "block")),
        "what the backward pass computes again: as little as the devices have memory for; nothing; "
        "norms; norms and activations; those and the widest products; all but products with "
        "parameters; all inside a block",
    )
    attention: str = option(
        "auto",
        Choice(("auto", "auto:cpu", "auto:gpu", "auto:tpu", "blockwise", "cudnn", "splash")),
        'which attention kernel runs; "auto:" as on a platform that need not be there',
    )
    block_loop: str = option(
        "auto",
        Choice(("auto", "auto:cpu", "auto:gpu", "auto:tpu", "loop", "unrolled")),
        "how transformer blocks of a stack run: in a loop, which compiles faster, or unrolled, "
        "which copies less; auto: unrolled on GPUs",
    )
    products: str = option(
        "dtype",
        Choice(("dtype", "float8", "int8")),
        "of the UNet's transformers, where they read a norm's output: in `dtype`, or of 8 bits "
        "(float8 for GPUs from Hopper on, int8 for TPUs)",
    )


@dataclass(frozen=True)
class EncodersConfig(Options):
    """The frozen networks that turn pictures into latents and tokens."""

    section = "encoders."

    autoencoder: str = option(
        "vae",
        Choice(("vae", "patch")),
        "SDXL's, or patch: orthonormal space-to-depth without parameters",
    )
    reference: str = option(
        "clip_tagger",
        Choice(("clip_tagger", "patch")),
        "CLIP ViT-bigG and WD tagger, or patch: patches as they are",
    )
    weights: tuple[str, ...] = option(
        (), Items(Location(), empty=True), "folders of imported weights of the networks above"
    )
    scaling_factor: float = option(0.13025, Real(0, 1e3, "low"), "what latents are multiplied by")
    patch_size: int = option(
        4,
        Whole(1, 64),
        "side of the patch autoencoder's patches, px",
        only={"autoencoder": "patch"},
    )
    reference_image_size: int = option(
        64, SIDE, "side that patch encoders see, px", only={"reference": "patch"}
    )
    reference_patch_size: int = option(
        8, SIDE, "side of their patches, px", only={"reference": "patch"}
    )
    reference_features: tuple[str, ...] = option(
        ("pixels", "mean", "std"),
        Items(Text()),
        'what a patch\'s token says: of "pixels", "mean", "std", "opponent" and "region"; see '
        "`models.patch`",
        only={"reference": "patch"},
    )
    positions: bool = option(
        True,
        Flag(),
        "whether it also says where the patch lies, as the published encoders' tokens do",
        only={"reference": "patch"},
    )
    dtype: str = option("bfloat16", _DTYPE, "in which encoders are kept and run")


@dataclass(frozen=True)
class DiffusionConfig(Options):
    """The corruption of latents, the loss, and what a sample may lose."""

    section = "diffusion."

    prediction_type: str = option(
        "v", Choice(("v", "eps")), "what the UNet predicts: velocity or noise"
    )
    beta_start: float = option(
        0.00085, Real(0, 1, "both"), "first beta of the scaled linear schedule"
    )
    beta_end: float = option(0.012, Real(0, 1, "both"), "its last beta, not below the first")
    num_timesteps: int = option(1000, Whole(2, 100_000), "timesteps of the schedule")
    zero_terminal_snr: bool = option(
        False, Flag(), "rescale the schedule so that the last timestep is pure noise; with v only"
    )
    offset_noise: float = option(
        0.05, Real(0, 10), "deviation of the noise that a channel shares over all places"
    )
    min_snr_gamma: float = option(
        0.0, Real(0, 1e6), "weigh samples by min-SNR-gamma; 0 weighs all alike"
    )
    masked_loss: bool = option(False, Flag(), "count errors inside the sketch's mask only")
    reference_dropout: float = option(0.2, RATE, "rate of contexts set to zero")
    hint_dropout: float = option(0.1, RATE, "rate of each of the four hints set to zero")
    inpaint_rate: float = option(
        0.1, RATE, "rate of references whitened where another sample's mask lies"
    )


@dataclass(frozen=True)
class ColorHintsConfig(Options):
    """The hints of colour that training draws from its own pictures, with `model.hints`."""

    section = "color_hints."

    dropout: float = option(0.25, RATE, "rate of samples without any")
    maximum: int = option(30, Whole(1, 256), "most hints of a picture; few are as likely as many")
    stroke_rate: float = option(0.5, RATE, "rate of strokes; the others are points")
    max_length: float = option(0.3, Real(0, 1), "longest stroke, share of the shorter side")
    min_radius: float = option(
        0.01, Real(0, 1, "low"), "least radius of points and strokes, share of the shorter side"
    )
    max_radius: float = option(0.05, Real(0, 1, "low"), "their largest, not below the least")
    recolor_rate: float = option(
        0.5,
        RATE,
        "rate of hinted pictures in which all that looks like the first hint gets a colour that "
        "the reference does not have",
    )


@dataclass(frozen=True)
class GramConfig(Options):
    """The Gram regularization of the second, misaligned branch."""

    section = "gram."

    maximum: float = option(
        1.0, Real(0, 1e6), "weight of the loss at the end of the run; 0 never runs the branch"
    )
    zero_share: float = option(
        0.33,
        RATE,
        "share of the run before the weight leaves zero; from there it grows linearly",
    )
    blocks: tuple[int | str, ...] = option(
        (23, 63),
        Items(Either((Whole(1, 2**12), Text())), empty=True),
        "transformer blocks by number, from 1, or by name",
    )
    tap: str = option(
        "ff",
        Choice(("ff", "attn1", "attn2", "stack")),
        "features that are compared: a block's output, that attention's output, or (ours) the "
        "output of the block's stack, behind the residual around it",
    )
    loss: str = option("mse", Choice(("mse", "kl", "ranking", "bce")), "how Grams are compared")
    standardize: bool = option(False, Flag(), "standardize features over tokens first")
    row_l2: bool = option(False, Flag(), "scale the rows of Gram matrices to unit length")
    mask_weights: bool = option(
        False,
        Flag(),
        "count places inside the sketch's mask only",
        only={"loss": ("mse", "bce")},
    )
    mask_threshold: float = option(
        0.05, RATE, "a place is inside where the mask exceeds it", only={"mask_weights": True}
    )
    temperature: float = option(1.0, Real(0, 1e6, "low"), "of kl's softmax", only={"loss": "kl"})
    ranking_margin: float = option(
        0.1, Real(0, 1e6), "by how much similar places must exceed others", only={"loss": "ranking"}
    )
    ranking_alpha: float = option(
        1.0,
        Real(-100, 100),
        "similar means so many deviations above a row's mean",
        only={"loss": "ranking"},
    )
    bce_alpha: float = option(1.0, Real(-100, 100), "likewise, of bce", only={"loss": "bce"})
    context_gradient: bool = option(True, Flag(), "let the gradient through the misaligned context")
    anchor: str = option(
        "",
        Location(empty=True),
        'folder of weights of a frozen UNet whose Grams are the target; "" takes the network\'s '
        "own aligned branch",
    )

    def loss_options(self) -> dict[str, Any]:
        """The keywords of `training.losses.gram.gram_loss`, mask excepted."""
        names = (
            "standardize",
            "row_l2",
            "temperature",
            "ranking_margin",
            "ranking_alpha",
            "bce_alpha",
            "mask_threshold",
        )
        return {"kind": self.loss} | {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class RefineConfig(Options):
    """The second stage: the plugin, trained on a colorizer that is frozen.

    `model.init_from` names the colorizer, `model.loras` has the label "background", and
    `optimizer.trainable` names the plugin's parameters.
    """

    section = "refine."

    enabled: bool = option(False, Flag(), "train the plugin instead of the colorizer")
    vector_channels: int = option(
        1024,
        _WIDTH,
        "width of the background encoder's embedding of four crop numbers; a multiple of 8",
        only={"enabled": True},
    )
    bleach_rate: float = option(
        0.1, RATE, "rate of samples that learn a white background", only={"enabled": True}
    )
    init_from_unet: bool = option(
        False,
        Flag(),
        "start the background encoder from the colorizer's UNet where shapes fit",
        only={"enabled": True},
    )


@dataclass(frozen=True)
class OptimizerConfig(Options):
    """The optimizer and what is around it."""

    section = "optimizer."

    name: str = option(
        "adamw", Choice(("adamw", "muon")), "Adam, or Muon for kernels and Adam for the rest"
    )
    trainable: tuple[str, ...] = option(
        ("^unet/", "^sketch_encoder/", "^reference_projection/"),
        Items(Pattern()),
        "rules, regular expressions searched in parameter paths such as "
        '"unet/input_blocks_0_0/kernel", that name what is trained',
    )
    learning_rate: float = option(1e-5, Real(0, 100), "after warm-up")
    schedule: str = option(
        "constant", Choice(("constant", "cosine")), "of the learning rate after warm-up"
    )
    warmup_steps: int = option(0, Whole(0, 10**8), "updates of linear warm-up")
    final_share: float = option(
        0.0, RATE, "share of the learning rate at cosine's end", only={"schedule": "cosine"}
    )
    b1: float = option(0.9, Real(0, 1, "high"), "Adam's first decay")
    b2: float = option(0.999, Real(0, 1, "high"), "Adam's second decay")
    eps: float = option(1e-8, Real(0, 1, "low"), "Adam's epsilon")
    weight_decay: float = option(0.01, Real(0, 100), "decoupled, times the learning rate")
    no_decay: tuple[str, ...] = option(
        (r"(^|/)(scale|bias)$",), Items(Pattern(), empty=True), "rules of what does not decay"
    )
    groups: tuple[tuple[str, float], ...] = option(
        (),
        Items(Pair(Pattern(), Real(0, 1e6)), empty=True),
        "(rule, multiplier of the learning rate); the first that matches counts",
    )
    clip_norm: float = option(1.0, Real(0, 1e9), "largest gradient norm; 0 clips nothing")
    accumulation: int = option(1, Whole(1, 2**16), "micro-batches that a batch is computed in")
    max_skipped_updates: int = option(
        0,
        Whole(0, 10**6),
        "updates of a start that may be left out because a loss or gradient is not finite; 0: the "
        "first one stops the run",
    )
    moment_dtype: str = option("float32", _DTYPE, "of Adam's first moment and Muon's momentum")
    ema_decay: float = option(
        0.9999,
        Real(0, 1, "high"),
        "of the parameters' running average; 0 keeps none",
    )
