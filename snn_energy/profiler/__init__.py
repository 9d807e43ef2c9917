"""One walker over a network, a table of counting rules, kinds of values, time and skipping."""
