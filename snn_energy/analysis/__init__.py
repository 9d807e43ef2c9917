"""Analyses of energies: comparison, sweep, break-even, ranges, audit, early exit."""
