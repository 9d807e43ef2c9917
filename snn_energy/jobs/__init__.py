"""A complete profile from the command line: inputs by name or reference, partial results, resuming."""
