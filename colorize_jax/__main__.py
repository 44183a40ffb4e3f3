"""Entry point of `python -m colorize_jax`."""

from colorize_jax.commands.cli import main
from colorize_jax.errors import leave

if __name__ == "__main__":
    leave(main())
