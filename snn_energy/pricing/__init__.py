"""Counts x costs: what a device charges, energy, cycles."""
