"""`tags`: what the tagger sees in a picture."""

import argparse
import json

HELP = "name the tags of pictures, by a tagger's weights and its list of labels"
KINDS = {"9": "rating", "0": "tag", "4": "character"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("image", nargs="+", metavar="IMAGE", help="pictures")
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="the tagger: folder of imported weights, or published file",
    )
    parser.add_argument(
        "--labels",
        required=True,
        metavar="CSV",
        help="the tagger's labels in the order of its classes, with columns name and category "
        "(selected_tags.csv beside its weights)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.35,
        metavar="P",
        help="least probability (default: 0.35)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a picture")


def run(args: argparse.Namespace) -> int:
    """Print the tags of each picture, most probable first; of ratings only the first."""
    from colorize_jax.setup.checkpoints import open_tagger

    tagger = open_tagger(args.checkpoint, args.labels)
    for path in args.image:
        tags = tagger(path, args.threshold)
        if args.json:
            print(json.dumps({"image": path, "tags": {t.name: round(t.score, 4) for t in tags}}))
            continue
        print(path)
        for tag in tags:
            print(f"  {tag.score:6.3f}  {tag.name:<32}{KINDS.get(tag.category, tag.category)}")
    return 0
