"""Modules that spike: which they are, and what one call of theirs does."""
