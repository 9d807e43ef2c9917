"""What a network is, found by runs on a few samples: neurons, time."""
