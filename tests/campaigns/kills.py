"""Kill what writes, at random moments; nothing may be lost, and the end must be the same.

    python -m tests.campaigns.kills --kind run --count 100 --seed 0

Everything is killed with SIGKILL. The last lines say how it went; the status is 1 where anything
went wrong. A piece of a campaign is its kind and seed: long ones are made of several.
"""

import argparse
import json
import random
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests.campaigns import kill_commands, kill_runs, kill_saves
from tests.campaigns.processes import prepare

KINDS = {
    "saves": kill_saves.campaign,
    "run": kill_runs.campaign,
    "two": partial(kill_runs.campaign, processes=2),
    "export": kill_commands.replaced,
    "import": partial(kill_commands.replaced, importing=True),
    "colorize": kill_commands.colorize,
}


def main() -> int:
    """Run a piece of the campaign; 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kind", choices=KINDS, default="saves", help="what is killed")
    parser.add_argument("--count", type=int, default=100, metavar="N", help="kills")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments")
    parser.add_argument("--seconds", type=float, default=1e9, metavar="S", help="stop after")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        folder = Path(name) / options.kind
        folder.mkdir()
        rng = random.Random(f"{options.kind} {options.seed}")
        report = KINDS[options.kind](options.count, rng, options.seconds, folder)
    print(json.dumps({"kind": options.kind, "seed": options.seed, **report}, indent=1))
    return 1 if report["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
