"""Everything that can be set, with what it means and what it is by default.

A file of `configs/` returns an `ml_collections.ConfigDict` with what differs from these defaults;
`load_config` adds the command line's `--config.section.key=value` and checks it all. Rates are
probabilities of a sample, `*_steps` counts of updates, 0 or "" turns an option off unless it says
otherwise.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

# ------------------------------------------------------------------------------ what is computed


@dataclass(frozen=True)
class ModelConfig:
    """The trained networks: UNet, sketch encoder and reference projection.

    Attributes:
        model_channels: channels of the first level; a multiple of `norm_groups`.
        channel_mult: multiple of them at each level.
        num_res_blocks: res blocks a level in the encoder, one more in the decoder.
        transformer_depth: transformer blocks after each res block, by level.
        norm_groups: groups of channels that the UNet's GroupNorms take statistics of.
        head_dim: channels of the UNet's attention heads.
        context_channels: width of the reference's tokens.
        vector_channels: width of the size and score embedding.
        hint_blocks: input blocks to whose outputs the sketch's four hints are added.
        sketch_head_dim: channels of the sketch encoder's attention heads.
        sketch_strides: strides of its three strided convolutions; their product is the
            autoencoder's downsampling.
        sketch_stem_channels: widths of the seven convolutions in front of its levels.
        context_tokens: tokens of the reference that are kept.
        projection_head_dim: channels of the projection's attention heads.
        loras: (label, rank) of low-rank additions to every cross-attention.
        init_from: folder of weights to start from; "" starts at random.
        dtype: of products and activations, "float32" or "bfloat16"; parameters are float32.
        remat: what the backward pass computes again: "none", "block" (all inside a block) or
            "dots" (all but products with parameters).
        attention: "auto", "blockwise", "cudnn" or "splash".
    """

    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 2
    transformer_depth: tuple[int, ...] = (0, 2, 10)
    norm_groups: int = 32
    head_dim: int = 64
    context_channels: int = 2048
    vector_channels: int = 512
    hint_blocks: tuple[int, ...] = (0, 3, 6, 8)
    sketch_head_dim: int = 128
    sketch_strides: tuple[int, ...] = (2, 2, 2)
    sketch_stem_channels: tuple[int, ...] = (16, 16, 32, 32, 96, 96, 256)
    context_tokens: int = 196
    projection_head_dim: int = 128
    loras: tuple[tuple[str, int], ...] = ()
    init_from: str = ""
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"


@dataclass(frozen=True)
class EncodersConfig:
    """The frozen networks that turn pictures into latents and tokens.

    Attributes:
        autoencoder: "vae" (SDXL's), or "patch": orthonormal space-to-depth without parameters.
        reference: "clip_tagger" (CLIP ViT-bigG and WD tagger), or "patch": patches as they are.
        weights: folders of imported weights of the networks above.
        scaling_factor: what latents are multiplied by.
        patch_size: side of the patch autoencoder's patches, px.
        reference_image_size: side that patch encoders see, px.
        reference_patch_size: side of their patches, px.
        reference_features: what a patch's token says: of "pixels", "mean", "std", "opponent"
            and "region"; see `models.patch`.
        positions: whether it also says where the patch lies, as the published encoders' tokens do.
        dtype: in which encoders are kept and run.
    """

    autoencoder: str = "vae"
    reference: str = "clip_tagger"
    weights: tuple[str, ...] = ()
    scaling_factor: float = 0.13025
    patch_size: int = 4
    reference_image_size: int = 64
    reference_patch_size: int = 8
    reference_features: tuple[str, ...] = ("pixels", "mean", "std")
    positions: bool = True
    dtype: str = "bfloat16"


@dataclass(frozen=True)
class DiffusionConfig:
    """The corruption of latents, the loss, and what a sample may lose.

    Attributes:
        prediction_type: "v" (velocity) or "eps" (noise).
        beta_start, beta_end: of the scaled linear schedule.
        num_timesteps: of the schedule.
        zero_terminal_snr: rescale it so that the last timestep is pure noise.
        offset_noise: deviation of the noise that a channel shares over all places.
        min_snr_gamma: weigh samples by min-SNR-gamma; 0 weighs all alike.
        masked_loss: count errors inside the sketch's mask only.
        reference_dropout: rate of contexts set to zero.
        hint_dropout: rate of each of the four hints set to zero.
        inpaint_rate: rate of references whitened where another sample's mask lies.
    """

    prediction_type: str = "v"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_timesteps: int = 1000
    zero_terminal_snr: bool = False
    offset_noise: float = 0.05
    min_snr_gamma: float = 0.0
    masked_loss: bool = False
    reference_dropout: float = 0.2
    hint_dropout: float = 0.1
    inpaint_rate: float = 0.1


@dataclass(frozen=True)
class GramConfig:
    """The Gram regularization of the second, misaligned branch.

    Attributes:
        maximum: weight of the loss at the end of the run; 0 never runs the branch.
        zero_share: share of the run before the weight leaves zero; from there it grows linearly.
        blocks: transformer blocks by number, from 1, or by name.
        tap: "ff" (a block's output), "attn1" or "attn2" (that attention's output).
        loss: "mse", "kl", "ranking" or "bce".
        standardize: standardize features over tokens first.
        row_l2: scale the rows of Gram matrices to unit length.
        mask_weights: count places inside the sketch's mask only (mse, bce).
        mask_threshold: a place is inside where the mask exceeds it.
        temperature: of kl's softmax.
        ranking_margin: by how much similar places must exceed others.
        ranking_alpha, bce_alpha: similar means so many deviations above a row's mean.
        context_gradient: let the gradient through the misaligned context.
        anchor: folder of weights of a frozen UNet whose Grams are the target; "" takes the
            network's own aligned branch.
    """

    maximum: float = 1.0
    zero_share: float = 0.33
    blocks: tuple[int | str, ...] = (23, 63)
    tap: str = "ff"
    loss: str = "mse"
    standardize: bool = False
    row_l2: bool = False
    mask_weights: bool = False
    mask_threshold: float = 0.05
    temperature: float = 1.0
    ranking_margin: float = 0.1
    ranking_alpha: float = 1.0
    bce_alpha: float = 1.0
    context_gradient: bool = True
    anchor: str = ""

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
class OptimizerConfig:
    """The optimizer and what is around it.

    Attributes:
        name: "adamw", or "muon" for kernels and Adam for the rest.
        trainable: rules, regular expressions searched in parameter paths such as
            "unet/input_blocks_0_0/kernel", that name what is trained.
        learning_rate: after warm-up.
        schedule: "constant" or "cosine".
        warmup_steps: linear warm-up.
        final_share: share of the learning rate at cosine's end.
        b1, b2, eps: Adam's.
        weight_decay: decoupled, times the learning rate.
        no_decay: rules of what does not decay.
        groups: (rule, multiplier of the learning rate); the first that matches counts.
        clip_norm: largest gradient norm.
        accumulation: micro-batches that a batch is computed in.
        moment_dtype: of Adam's first moment and Muon's momentum.
        ema_decay: of the parameters' running average.
    """

    name: str = "adamw"
    trainable: tuple[str, ...] = ("^unet/", "^sketch_encoder/", "^reference_projection/")
    learning_rate: float = 1e-5
    schedule: str = "constant"
    warmup_steps: int = 0
    final_share: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    no_decay: tuple[str, ...] = (r"(^|/)(scale|bias)$",)
    groups: tuple[tuple[str, float], ...] = ()
    clip_norm: float = 1.0
    accumulation: int = 1
    moment_dtype: str = "float32"
    ema_decay: float = 0.9999


# ------------------------------------------------------------------------------ on what and where


@dataclass(frozen=True)
class DataConfig:
    """The examples and how they are loaded.

    Attributes:
        source: "illustrations" (drawn on the fly), "tfds" (the same, stored) or "folder".
        path: of a stored data set.
        index: names of a folder's indices: files in it, or tables in its data_index/; by default
            index.* or all of data_index/.
        seed: of the drawn examples and of the order of any.
        num_examples: how many are drawn.
        batch_size: global batch.
        height, width: of pictures and sketches, px.
        buckets: batches of one aspect each, of about height * width pixels; folders only.
        num_buckets: how many aspects, an odd number; each is a program to compile.
        reference_size: side of the squares that references are squeezed to, px, best the largest
            side that their encoders see; 0 leaves them at their own size.
        same_identity_rate: rate of references that show the same character in another picture
            (folders: where the index lists one, drawn anew in every epoch).
        min_aesthetic_score, min_short_side: pictures of folders below are left out; px. Those
            without a score are not.
        masks: "estimate" a folder's masks that are missing, or "off": no masks at all.
        sketches: "files", or "extract" the lines of a folder's pictures that have no sketch.
        max_skipped_share: share of a folder's pictures that may be unusable; more stop the run.
        margin_rate: rate of sketches whose margins are blanked, by up to 201 px at 1024.
        mask_dilation: side of the kernel that widens reference masks, px at 1024.
        mask_grow_rate, mask_erase_rate: rates of reference masks grown to blocks, partly erased.
        cache: keep records in memory once made; for small pictures.
        num_threads: threads that make records, in every process.
        num_workers: processes that make records; 0 stays in this one.
        prefetch: batches' worth of records made ahead.
    """

    source: str = "illustrations"
    path: str = ""
    index: tuple[str, ...] = ()
    seed: int = 0
    num_examples: int = 100_000
    batch_size: int = 128
    height: int = 1024
    width: int = 1024
    buckets: bool = False
    num_buckets: int = 19
    reference_size: int = 0
    same_identity_rate: float = 0.0
    min_aesthetic_score: float = 0.0
    min_short_side: int = 0
    masks: str = "estimate"
    sketches: str = "files"
    max_skipped_share: float = 0.1
    margin_rate: float = 0.0
    mask_dilation: int = 0
    mask_grow_rate: float = 0.0
    mask_erase_rate: float = 0.0
    cache: bool = False
    num_threads: int = 2
    num_workers: int = 0
    prefetch: int = 4


@dataclass(frozen=True)
class MeshConfig:
    """How devices share the work; -1 means "the rest", on one axis.

    Attributes:
        data: batch split, parameters whole.
        fsdp: batch and parameters split.
        tensor: channels and heads split.
        num_slices: TPU slices (or nodes) whose slow network the data axis crosses.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    num_slices: int = 1


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save, and what to keep.

    Attributes:
        every_steps: save after so many updates, and at the end.
        keep_last: newest checkpoints kept.
        keep_every: keep those at multiples of so many steps for ever.
    """

    every_steps: int = 1000
    keep_last: int = 2
    keep_every: int = 0


@dataclass(frozen=True)
class LoggingConfig:
    """What a run writes while it goes on.

    Attributes:
        every_steps: metrics.
        samples_every: pictures of held-out pairs.
        num_samples: how many.
        tensorboard: write event files beside metrics.jsonl.
    """

    every_steps: int = 50
    samples_every: int = 1000
    num_samples: int = 8
    tensorboard: bool = True


@dataclass(frozen=True)
class SamplingConfig:
    """How pictures are made from noise, during and after training.

    Attributes:
        sampler: one of `diffusion.samplers.SAMPLERS`, e.g. "DPM++ 2M".
        schedule: "automatic" (the sampler's own) or one of `diffusion.samplers.SCHEDULES`.
        num_steps: of the sampler.
        reference_guidance: scale of guidance by the reference; off at 1.
        sketch_guidance: scale of guidance by the sketch; off at 1.
        ema: use the running average.
    """

    sampler: str = "DPM++ 3M SDE"
    schedule: str = "automatic"
    num_steps: int = 20
    reference_guidance: float = 4.0
    sketch_guidance: float = 1.0
    ema: bool = True


@dataclass(frozen=True)
class EvaluationConfig:
    """What `eval.py` measures on.

    Attributes:
        num_pairs: held-out pairs of sketch and reference.
        batch_size: pairs at a time.
        seed: which pairs, and their noise.
    """

    num_pairs: int = 256
    batch_size: int = 32
    seed: int = 0


@dataclass(frozen=True)
class Config:
    """A run.

    Attributes:
        seed: of parameters and of every random number of training.
        total_steps: updates of the run; the Gram ramp and cosine follow it.
    """

    seed: int = 0
    total_steps: int = 70_000
    model: ModelConfig = field(default_factory=ModelConfig)
    encoders: EncodersConfig = field(default_factory=EncodersConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    gram: GramConfig = field(default_factory=GramConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dictionaries, as they go into JSON."""
        return dataclasses.asdict(self)


# Where a resumed run may differ from the one that it continues: nothing here changes its numbers.
RESUMABLE = (
    "mesh",
    "checkpoint",
    "logging",
    "sampling",
    "evaluation",
    "model.remat",
    "model.attention",
    "data.cache",
    "data.max_skipped_share",
    "data.num_threads",
    "data.num_workers",
    "data.prefetch",
)
