"""Learned models from ONNX files that users give, each with a small description beside it."""
