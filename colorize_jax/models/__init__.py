"""The networks.

Modules repeat the fields of the modules that they are made of: Flax modules are dataclasses, and a
field is declared, with its own default, wherever it is passed on.
"""
