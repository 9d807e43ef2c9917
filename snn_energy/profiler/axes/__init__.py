"""What a tensor's axes hold, and which time steps are needed. No torch."""
