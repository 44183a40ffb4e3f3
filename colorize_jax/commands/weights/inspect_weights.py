"""`inspect`: what a checkpoint is."""

import argparse

HELP = "say what a checkpoint is, its parts, and what is missing (exit status 1: it is incomplete)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("path", metavar="FILE", help="anything that `import` or `export` reads")
    parser.add_argument(
        "--scan", action="store_true", help="read every tensor and name those with NaN or infinity"
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="JSON, network -> fields that cannot be seen in the file",
    )


def run(args: argparse.Namespace) -> int:
    """Print a page about the checkpoint; 0 where it is complete and sound, 1 otherwise."""
    from colorize_jax.commands.files import read_config_file, use_cpu
    from colorize_jax.io.pipelines.read import is_pipeline, open_source
    from colorize_jax.io.published.inspection import inspect_path, inspect_source

    use_cpu()
    configs = read_config_file(args.config)
    if is_pipeline(args.path):
        page = inspect_source(open_source(args.path, configs), args.scan)
    else:
        page = inspect_path(args.path, configs, scan=args.scan)
    print("\n".join(page.lines()))
    return 0 if page.sound else 1
