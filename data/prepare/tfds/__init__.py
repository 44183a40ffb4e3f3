"""Prepared folders as TFDS sets."""
