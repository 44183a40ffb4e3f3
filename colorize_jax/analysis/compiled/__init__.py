"""Compiled programs, read as text: their loops, exchanges, kernels, and how long they take."""
