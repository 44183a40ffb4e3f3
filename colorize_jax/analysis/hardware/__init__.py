"""TPU chips, GPU cards and their topologies; `topology.describe` needs none of them present."""
