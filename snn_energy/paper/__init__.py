"""The published record: every published figure next to ours."""
