"""Questions to energies: compare, sweep, break-even, ranges, audit, early exit."""
