"""The published record: every published figure, ours beside it."""
