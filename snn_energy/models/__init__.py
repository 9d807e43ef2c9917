"""The networks: neurons, Spikformer, its non-spiking twin, CNNs, and the registry of their names."""
