"""Counts x costs: the charged actions, energy and cycles of a device."""
