"""Entry point of `python -m colorize_jax`."""

import sys

from colorize_jax.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
