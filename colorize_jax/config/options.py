"""Everything that can be set, with its default, its range and its meaning at the field.

A file of `configs/` returns an `ml_collections.ConfigDict` with what differs from these defaults;
`load_config` adds the command line's `--config.section.key=value` and checks it all. Rates are
probabilities of a sample, `*_steps` counts of updates, 0 or "" turns an option off unless its range
excludes it. `config/method.py` has the sections of what is computed.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from colorize_jax.config.checks import (
    Choice,
    Either,
    Flag,
    Items,
    Location,
    Named,
    Pair,
    Real,
    Text,
    Whole,
)
from colorize_jax.config.fields import Options, option
from colorize_jax.config.method import (
    RATE,
    SEED,
    SIDE,
    ColorHintsConfig,
    DiffusionConfig,
    EncodersConfig,
    GramConfig,
    ModelConfig,
    OptimizerConfig,
    RefineConfig,
)

MAX_SAMPLER_STEPS = 1000
GUIDANCE = Real(0, 100)
STEPS = Whole(1, 10**8)
_STEPS_OR_OFF = Whole(0, 10**8)
_BATCH = Whole(1, 2**16)
_DEVICES = Either((Whole(1, 2**16), Whole(-1, -1)))
# Of encodings, what pictures they were made of is compared with what a run says of them.
_DRAWN, _FOLDER = {"source": ("illustrations", "encoded")}, {"source": ("folder", "encoded")}
_READ = {"source": ("tfds", "folder", "encoded")}
_CHOSEN = {"source": ("illustrations", "folder", "encoded")}


def sampler_name(name: str) -> str:
    """The sampler of this name, as it is written in `diffusion.samplers`; see `find_sampler`."""
    # Samplers import jax, which help pages need not wait for.
    from colorize_jax.diffusion.samplers import find_sampler

    return find_sampler(name).name


def schedule_name(name: str) -> str:
    """The schedule of this name, as it is written in `diffusion.samplers`; see `find_schedule`."""
    from colorize_jax.diffusion.samplers import find_schedule

    return find_schedule(name)


@dataclass(frozen=True)
class DataConfig(Options):
    """The examples and how they are loaded."""

    section = "data."

    source: str = option(
        "illustrations",
        Choice(("illustrations", "tfds", "folder", "encoded")),
        "drawn on the fly, the same stored, a folder of pictures, or the encodings of any of them",
    )
    path: str = option(
        "", Location(empty=True), "of a stored data set, a folder or encodings", only=_READ
    )
    sources: tuple[tuple[str, float], ...] = option(
        (),
        Items(Pair(Location(), Real(1e-6, 1e6)), empty=True),
        "(folder, weight) of several, in the place of path; an epoch shows a folder weight times",
        only=_FOLDER,
    )
    index: tuple[str, ...] = option(
        (),
        Items(Text(), empty=True),
        "a folder's indices: files in it, or names of tables in data_index/; by default index.* "
        "or all of data_index/",
        only=_FOLDER,
    )
    seed: int = option(0, SEED, "of the drawn examples and of the order of any")
    num_examples: int = option(100_000, Whole(1, 2**31), "how many are drawn", only=_DRAWN)
    batch_size: int = option(128, _BATCH, "global batch")
    height: int = option(1024, SIDE, "of pictures and sketches, px")
    width: int = option(1024, SIDE, "of pictures and sketches, px")
    buckets: bool = option(
        False,
        Flag(),
        "batches of one aspect each, of about height * width pixels",
        only=_FOLDER,
    )
    num_buckets: int = option(
        19,
        Whole(1, 19),
        "how many aspects, an odd number; each is a program to compile",
        only=_FOLDER | {"buckets": True},
    )
    reference_size: int = option(
        0,
        Whole(0, 2**14),
        "side of the squares that references are squeezed to, px, best the largest side that "
        "their encoders see; 0 leaves them at their own size",
        only=_CHOSEN,
    )
    reference_background: bool = option(
        False,
        Flag(),
        "draw every picture in front of its reference's own background",
        only=_DRAWN,
    )
    same_identity_rate: float = option(
        0.0,
        RATE,
        "rate of references that show the same character in another picture (folders: where the "
        "index lists one, drawn anew in every epoch)",
        only=_CHOSEN,
    )
    min_aesthetic_score: float = option(
        0.0,
        Real(0, 10),
        "pictures below are left out, those without a score are not; 0 takes all",
        only=_FOLDER,
    )
    min_short_side: int = option(
        0, Whole(0, 2**16), "pictures below are left out, px; 0 takes all", only=_FOLDER
    )
    masks: str = option(
        "estimate",
        Choice(("estimate", "off")),
        "those that a folder lacks are estimated, or there are none at all",
        only=_FOLDER,
    )
    sketches: str = option(
        "files",
        Choice(("files", "extract")),
        "pictures without a sketch are left out, or their lines are extracted",
        only=_FOLDER,
    )
    heldout_share: float = option(
        0.0,
        Real(0, 0.5),
        "share of the pictures that training never sees, by a hash of their names",
        only=_FOLDER,
    )
    max_skipped_share: float = option(
        0.1, RATE, "share of the pictures that may be unusable; more stop the run", only=_FOLDER
    )
    margin_rate: float = option(
        0.0, RATE, "rate of sketches whose margins are blanked, by up to 201 px at 1024"
    )
    mask_dilation: int = option(
        0,
        Whole(0, 2**10),
        "side of the square that widens reference masks that are not altered otherwise, px at 1024",
    )
    mask_box_rate: float = option(0.0, RATE, "rate of reference masks grown to their bounding box")
    mask_grow_rate: float = option(0.0, RATE, "rate of reference masks grown to blocks")
    mask_erase_rate: float = option(0.0, RATE, "rate of reference masks partly erased")
    whole_reference: bool = option(
        False,
        Flag(),
        "take all of a reference, whatever window the picture has of it; the second stage's way",
        only=_FOLDER,
    )
    cache: bool = option(False, Flag(), "keep records in memory once made; for small pictures")
    num_threads: int = option(2, Whole(1, 1024), "threads that make records, in every process")
    num_workers: int = option(0, Whole(0, 1024), "processes that make records; 0 stays in this one")
    prefetch: int = option(4, Whole(1, 2**12), "batches' worth of records made ahead")


@dataclass(frozen=True)
class MeshConfig(Options):
    """How devices share the work; -1 means "the rest", on one axis."""

    section = "mesh."

    data: int = option(-1, _DEVICES, "batch split, parameters whole")
    fsdp: int = option(1, _DEVICES, "batch and parameters split")
    tensor: int = option(1, _DEVICES, "channels and heads split")
    num_slices: int = option(
        1, Whole(1, 2**12), "TPU slices (or nodes) whose slow network the data axis crosses"
    )


@dataclass(frozen=True)
class CheckpointConfig(Options):
    """When to save, and what to keep."""

    section = "checkpoint."

    every_steps: int = option(1000, STEPS, "save after so many updates, and at the end")
    keep_last: int = option(2, Whole(1, 2**20), "newest checkpoints kept")
    keep_every: int = option(
        0, _STEPS_OR_OFF, "keep those at multiples of so many steps for ever; 0 keeps none"
    )


TRACKERS = ("tensorboard", "wandb", "trackio", "none")


@dataclass(frozen=True)
class LoggingConfig(Options):
    """What a run writes while it goes on."""

    section = "logging."

    every_steps: int = option(50, STEPS, "metrics after so many updates")
    samples_every: int = option(
        1000,
        _STEPS_OR_OFF,
        "pictures of held-out pairs after so many updates, and at the end; 0: none",
    )
    validation_every: int = option(
        0, _STEPS_OR_OFF, "loss on held-out pictures after so many updates, and at the end; 0: none"
    )
    validation_batches: int = option(4, Whole(1, 10**4), "how many of data.batch_size it takes")
    num_samples: int = option(8, Whole(1, 1024), "how many")
    tracker: str = option(
        "tensorboard",
        Choice(TRACKERS),
        "what receives numbers and pictures beside metrics.jsonl; wandb and trackio are extras",
    )


@dataclass(frozen=True)
class SamplingConfig(Options):
    """How pictures are made from noise, during and after training."""

    section = "sampling."

    sampler: str = option("DPM++ 3M SDE", Named(sampler_name), "which sampler")
    schedule: str = option(
        "automatic", Named(schedule_name), "which noise levels; automatic is the sampler's own"
    )
    num_steps: int = option(20, Whole(1, MAX_SAMPLER_STEPS), "of the sampler")
    reference_guidance: float = option(
        4.0, GUIDANCE, "scale of guidance by the reference; off at 1 or less"
    )
    sketch_guidance: float = option(
        1.0, GUIDANCE, "scale of guidance by the sketch; off at 1 or less"
    )
    ema: bool = option(True, Flag(), "use the running average")


@dataclass(frozen=True)
class EvaluationConfig(Options):
    """What a run measures of itself on held-out pairs; `eval.py` has flags of its own."""

    section = "evaluation."

    every_steps: int = option(
        0, Whole(0, 10**8), "colour and score held-out pairs; 0: not while training"
    )
    num_pairs: int = option(16, Whole(1, 2**20), "held-out pairs of sketch and reference")
    batch_size: int = option(8, _BATCH, "pairs at a time")
    seed: int = option(0, SEED, "which pairs, and their noise")


@dataclass(frozen=True)
class Config:
    """A run.

    Raises:
        UserError: a value that its rule does not allow.
    """

    seed: int = option(0, SEED, "of parameters and of every random number of training")
    total_steps: int = option(
        70_000, STEPS, "updates of the run; the Gram ramp and cosine follow it"
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    encoders: EncodersConfig = field(default_factory=EncodersConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    color_hints: ColorHintsConfig = field(default_factory=ColorHintsConfig)
    gram: GramConfig = field(default_factory=GramConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            if "check" in one.metadata:
                value = one.metadata["check"](one.name, getattr(self, one.name))
                object.__setattr__(self, one.name, value)

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dictionaries, as they go into JSON."""
        return dataclasses.asdict(self)


# Where things lie: only whether these are set belongs to a run, see `claim_workdir`.
PLACES = ("data.path", "model.init_from", "encoders.weights", "gram.anchor")
# Options that may change when a run is resumed: they do not affect its numbers.
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
