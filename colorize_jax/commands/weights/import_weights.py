"""`import`: published checkpoints -> a folder of our weights."""

import argparse

HELP = "convert a PyTorch checkpoint to a folder of weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        metavar="PATH",
        help="colorizer, plugin, SDXL, CLIP, tagger, Inception or LPIPS file (.safetensors, .ckpt, "
        ".pt, .pth, .bin, .index.json), or a pipeline, diffusers or CLIP folder; of LPIPS, the "
        "trunk's file and the heads'",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--as",
        dest="kind",
        metavar="KIND",
        help="what the file must be, such as inception or lpips; what it is shows in its tensors",
    )
    parser.add_argument(
        "--fit",
        action="store_true",
        help="change the label embedding of an SDXL UNet to the colorizer's number of inputs, "
        "to start training from it",
    )
    parser.add_argument(
        "--ema",
        action="store_true",
        help="of a trainer's file that holds both, the running average and not the parameters",
    )
    parser.add_argument(
        "--prediction-type",
        metavar="TYPE",
        help="what the UNet predicts, v or eps, where the file does not say",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="JSON, network -> fields that cannot be seen in the file, such as "
        '{"unet": {"head_dim": 16}}',
    )
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[=SCALE]",
        help="merge a LoRA of diffusers, PEFT or kohya's scripts into the UNet; repeat it for more",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace DIR where it exists")


def run(args: argparse.Namespace) -> int:
    """Convert, and print what was converted."""
    from colorize_jax.commands.files import read_config_file, use_cpu
    from colorize_jax.io.formats.atomic import Reads, check_output
    from colorize_jax.io.formats.weights_folder import KIND
    from colorize_jax.io.open_weights import weights_paths
    from colorize_jax.io.pipelines import loras
    from colorize_jax.io.pipelines.read import open_source
    from colorize_jax.io.published.importing import import_weights

    use_cpu()
    paths = [read for path in args.input for read in weights_paths(path)]
    files = [loras.parse(text)[0] for text in args.lora]
    reads = Reads({"input": paths, "config": [args.config], "lora": files})
    check_output(args.output, kind=KIND, overwrite=args.overwrite, reads=reads)
    first, *beside = args.input
    configs = read_config_file(args.config)
    source = open_source(first, configs, averages=args.ema, beside=beside)
    if args.kind is not None:
        _check_kind(source.kind, args.kind, first)
    source, merged = loras.merge_all(source, args.lora)
    metadata = import_weights(
        source,
        args.output,
        fit=args.fit,
        prediction_type=args.prediction_type,
        overwrite=args.overwrite,
        reads=reads,
    )
    print(f"{' + '.join(args.input)}: {source.kind} ({source.form})")
    for component, table in source.expected().items():
        parameters = sum(source.tensors[name].size for name in table)
        print(f"  {component:<22}{len(table):>6} tensors{parameters:>16,} parameters")
    for line in merged:
        print(f"  {line}")
    if source.averaged is not None:
        print(
            f"  took the {'running average' if source.averaged else 'parameters'} of the UNet; "
            f"{'leave --ema out' if source.averaged else '--ema'} takes the other"
        )
    if metadata.left_out:
        print(f"  not in it: {', '.join(metadata.left_out)}")
    if "unet" in metadata.configs and metadata.prediction_type is None:
        print("  it does not say what the UNet predicts: import again with --prediction-type")
    print(f"wrote {args.output}")
    return 0


def _check_kind(found: str, expected: str, path: str) -> None:
    from colorize_jax.errors import UserError, nearest_hint
    from colorize_jax.io.published.checkpoint import KINDS

    if expected not in KINDS:
        raise UserError(
            f"got --as {expected}, expected one of {', '.join(KINDS)}"
            f"{nearest_hint(expected, KINDS)}; correct it"
        )
    if found != expected:
        raise UserError(
            f"got {path}, which is {found}, expected {expected}; name another file, or leave --as "
            "out"
        )
