"""The commands of `python -m colorize_jax`, one module each; see `colorize_jax.commands.cli`."""
