"""From recorded operations to rows: time steps, totals, parts, merging."""
