"""The networks: neurons, Spikformer, its non-spiking twin, and the registry of their names."""
