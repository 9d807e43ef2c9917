"""Determines neurons and time mode of a network by runs on a few samples."""
