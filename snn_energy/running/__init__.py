"""Shared by every run of a network: module state, eval mode, time mode, processes, accuracy."""
