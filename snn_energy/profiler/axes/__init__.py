"""What the axes of a tensor hold, and which time steps are needed."""
