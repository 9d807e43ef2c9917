"""A whole profile from the command line: inputs by name or reference, parts, resuming."""
