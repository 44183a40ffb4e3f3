"""How fast, and in how much memory: what `python -m colorize_jax benchmark` measures.

    timing    compile a program, repeat it, describe what it ran on
    step      the training step with one branch and with both: timed, or its FLOPs counted
    sample    pictures from noise: timed
    memory    the programs of the pipeline, compiled for a device that need not be there

Weights and pictures are random: neither says anything of speed.
"""
