"""`encode`: a run's pictures through the frozen encoders once, into shards to train from."""

import argparse

HELP = "encode a run's training pictures once, for data.source=encoded"
EPILOG = (
    "Started again with the same options, it goes on with the shards that are missing. On several "
    "machines the same command runs on each, which takes its share. --config.section.key=value "
    "overrides the config."
)
DEFAULT_SHARD = 2048


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="the run's, with its pictures and encoders"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the shards")
    parser.add_argument(
        "--precision",
        choices=["float32", "bfloat16", "float16", "int8"],
        default="bfloat16",
        help="of what is stored; int8 with a scale a token (default: bfloat16)",
    )
    parser.add_argument(
        "--crops",
        type=int,
        default=1,
        metavar="N",
        help="how often a picture is encoded, each time with another window, style of sketch and "
        "reference, as epochs 0 to N-1 of training would have them (default: 1)",
    )
    parser.add_argument(
        "--without_masks",
        action="store_true",
        help="leave out the sketches' masks, which masked losses need",
    )
    parser.add_argument(
        "--shard_size",
        type=int,
        default=DEFAULT_SHARD,
        metavar="N",
        help=f"pictures a shard; what a kill loses at most (default: {DEFAULT_SHARD})",
    )
    parser.add_argument(
        "--batch_size", type=int, metavar="N", help="of this machine's devices (default: 8 each)"
    )
    parser.add_argument(
        "--estimate", action="store_true", help="say how much disk the set takes, and stop"
    )
    several = parser.add_argument_group("several processes, as of train.py")
    several.add_argument("--coordinator", metavar="HOST:PORT", help="of the first process")
    several.add_argument("--num_processes", type=int, metavar="N")
    several.add_argument("--process_id", type=int, metavar="I", help="of this one, from 0")
    parser.set_defaults(overrides=[])


def run(args: argparse.Namespace) -> int:
    """Encode what is missing."""
    from colorize_jax.config.load import load_config
    from colorize_jax.setup import encode
    from colorize_jax.setup.machine import distributed, platform

    options = encode.EncodeOptions(
        args.precision, args.crops, not args.without_masks, args.shard_size, args.batch_size
    )
    config = load_config(args.config, args.overrides)
    for line in platform.configure():
        print(line)
    distributed.initialize(args.coordinator, args.num_processes, args.process_id)
    encode.encode_set(config, args.output, options, only_estimate=args.estimate)
    return 0
