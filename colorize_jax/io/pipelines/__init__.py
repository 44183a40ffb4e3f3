"""Folders that PyTorch programs run without us: their names, configs, code, card, and back."""
