"""`export`: our weights -> safetensors, or folders that PyTorch programs run."""

import argparse
from typing import Any

HELP = "write weights as safetensors under their published names, or for PyTorch programs"
DTYPES = ("float32", "float16", "bfloat16")
EIGHT_BITS = ("float8_e4m3fn", "int8")
PIPELINES = ("pipeline", "comfyui")  # formats of whole systems


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        action="append",
        metavar="PATH",
        help="folder of weights or of a training run (its newest complete checkpoint), a file that "
        "was exported or published, or demo; for a pipeline as often as needed: each network is "
        "taken from the first that has it",
    )
    parser.add_argument(
        "--output", required=True, metavar="PATH", help="file to make; a folder of shards"
    )
    parser.add_argument(
        "--format",
        choices=["safetensors", "diffusers", "pipeline", "comfyui"],
        default="safetensors",
        help="diffusers: UNet and VAE for UNet2DConditionModel and AutoencoderKL; pipeline: a "
        "folder that colours with diffusers and transformers alone; comfyui: a pack of nodes on it",
    )
    parser.add_argument(
        "--only",
        choices=["plugin"],
        help="of a plugin's weights, what it adds to a colorizer: `colorize` takes it beside that "
        "colorizer's",
    )
    parser.add_argument(
        "--dtype",
        choices=[*DTYPES, *EIGHT_BITS],
        help="of all tensors; each keeps its own by default. 8 bits, of a pipeline's linear "
        "layers, with scales",
    )
    parser.add_argument(
        "--max-shard-size",
        metavar="SIZE",
        help="write shards of at most this size and an index, e.g. 5GB or 500MB",
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="of a training run, the parameters themselves and not their running average",
    )
    card = parser.add_argument_group("the card of a pipeline")
    card.add_argument("--title", metavar="TEXT", help="by default the folder's name")
    card.add_argument(
        "--license", metavar="ID", default="other", help="of the weights, as the Hub calls it"
    )
    card.add_argument("--base-model", metavar="NAME", help="what the model was trained from")
    card.add_argument(
        "--picture", metavar="FILE", help="a PNG to show; of a run, by default its newest samples"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace PATH where it exists")


def run(args: argparse.Namespace) -> int:
    """Export, and print what was written."""
    from colorize_jax.commands.files import parse_size, use_cpu
    from colorize_jax.io.formats.atomic import Reads, check_output
    from colorize_jax.io.formats.safetensors_writer import SHARDS
    from colorize_jax.io.open_weights import weights_paths
    from colorize_jax.io.pipelines import comfyui, write
    from colorize_jax.io.published import diffusers_folder
    from colorize_jax.io.published.export import PluginAlone, export_diffusers, export_safetensors
    from colorize_jax.setup.checkpoints import open_checkpoint

    use_cpu()
    _check(args)
    max_shard_bytes = None if args.max_shard_size is None else parse_size(args.max_shard_size)
    kind = None if max_shard_bytes is None else SHARDS
    folders = {"diffusers": diffusers_folder.KIND, "pipeline": write.KIND, "comfyui": comfyui.KIND}
    kind = folders.get(args.format, kind)
    read = [path for one in args.checkpoint for path in weights_paths(one)]
    reads = Reads({"checkpoint": read, "picture": [args.picture]})
    place = {"overwrite": args.overwrite, "reads": reads}
    check_output(args.output, kind=kind, **place)
    options = {"dtype": args.dtype, "max_shard_bytes": max_shard_bytes, **place}
    if args.format in PIPELINES:
        return _export_pipeline(args, options)
    weights = open_checkpoint(args.checkpoint[0], raw=args.raw)
    if args.only:
        weights = PluginAlone(weights)
    if args.format == "diffusers":
        left_out = export_diffusers(weights, args.output, **options)
        print(f"wrote {args.output}" + (f" without {', '.join(left_out)}" if left_out else ""))
    else:
        counts = export_safetensors(weights, args.output, **options)
        print(f"wrote {sum(counts.values())} tensors of {', '.join(counts)} to {args.output}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise UserError for options of another format than the one that was asked for."""
    from colorize_jax.errors import UserError

    if args.format in PIPELINES:
        if args.only:
            raise UserError(
                "got --only plugin for a pipeline, expected whole networks; leave it out, and name "
                "plugin and colorizer with --checkpoint each"
            )
        return
    if len(args.checkpoint) > 1:
        raise UserError(
            f"got {len(args.checkpoint)} checkpoints for --format {args.format}, expected one; "
            "several make a pipeline"
        )
    if args.dtype in EIGHT_BITS:
        raise UserError(
            f"got --dtype {args.dtype} for --format {args.format}, expected one of "
            f"{', '.join(DTYPES)}; only a pipeline's modules read 8 bits"
        )


def _export_pipeline(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from pathlib import Path

    from colorize_jax.io.pipelines.comfyui import write_comfyui
    from colorize_jax.io.pipelines.write import write_pipeline
    from colorize_jax.setup.exporting import describe_system, open_system

    joined, networks, opened = open_system(args.checkpoint, raw=args.raw)
    suggestions, card = describe_system(
        networks,
        opened,
        title=args.title or Path(args.output).name,
        licence=args.license,
        base_model=args.base_model,
        picture=args.picture,
    )
    export = write_comfyui if args.format == "comfyui" else write_pipeline
    sizes = export(joined, args.output, suggestions, card, **options)
    total = sum(sizes.values()) / 1e9
    print(f"wrote {', '.join(sizes)} ({total:.2f} GB) to {args.output}")
    return 0
