"""Colouring over HTTP and in the browser; `python -m colorize_jax studio`."""
