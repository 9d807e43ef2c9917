"""State of a counting run: tensor traces, module scopes, operation records, calls of the previous batch."""
