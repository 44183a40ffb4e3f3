"""The measurements of `python -m colorize_jax benchmark`: speed and memory.

    timing    compile a program, repeat it, describe what it ran on
    step      the training step with one branch and with both: timed, or its FLOPs counted
    sample    pictures from noise: timed
    memory    the programs of the pipeline, compiled for a device that need not be there
    kernels   products, copies and attention one by one: timed
    suite     all of that on whatever is there, within a budget of time; parts, its processes
    filled    the weights of all of them

Weights and pictures are made up: speed does not depend on them.
"""
