"""`export`: our weights -> safetensors or a diffusers folder."""

import argparse

HELP = "write weights as safetensors under their published names, or as a diffusers folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="folder of weights, or of a training run (its newest complete checkpoint)",
    )
    parser.add_argument(
        "--output", required=True, metavar="PATH", help="file to make; a folder of shards"
    )
    parser.add_argument(
        "--format",
        choices=["safetensors", "diffusers"],
        default="safetensors",
        help="diffusers: UNet and VAE for UNet2DConditionModel and AutoencoderKL",
    )
    parser.add_argument(
        "--only",
        choices=["plugin"],
        help="of a plugin's weights, what it adds to a colorizer: `colorize` takes it beside that "
        "colorizer's",
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "float16", "bfloat16"],
        help="of all tensors; each keeps its own by default",
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
    parser.add_argument("--overwrite", action="store_true", help="replace PATH where it exists")


def run(args: argparse.Namespace) -> int:
    """Export, and print what was written."""
    from colorize_jax.commands.files import parse_size, use_cpu
    from colorize_jax.io.formats.atomic import Reads, check_output
    from colorize_jax.io.formats.safetensors_writer import SHARDS
    from colorize_jax.io.open_weights import open_weights, weights_paths
    from colorize_jax.io.published import diffusers_folder
    from colorize_jax.io.published.export import PluginAlone, export_diffusers, export_safetensors

    use_cpu()
    max_shard_bytes = None if args.max_shard_size is None else parse_size(args.max_shard_size)
    kind = None if max_shard_bytes is None else SHARDS
    kind = diffusers_folder.KIND if args.format == "diffusers" else kind
    place = {
        "overwrite": args.overwrite,
        "reads": Reads({"checkpoint": weights_paths(args.checkpoint)}),
    }
    check_output(args.output, kind=kind, **place)
    options = {"dtype": args.dtype, "max_shard_bytes": max_shard_bytes, **place}
    weights = open_weights(args.checkpoint, raw=args.raw)
    if args.only:
        weights = PluginAlone(weights)
    if args.format == "diffusers":
        left_out = export_diffusers(weights, args.output, **options)
        print(f"wrote {args.output}" + (f" without {', '.join(left_out)}" if left_out else ""))
    else:
        counts = export_safetensors(weights, args.output, **options)
        print(f"wrote {sum(counts.values())} tensors of {', '.join(counts)} to {args.output}")
    return 0
