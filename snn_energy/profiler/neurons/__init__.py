"""Spiking modules: which they are, and how one of their calls is counted."""
