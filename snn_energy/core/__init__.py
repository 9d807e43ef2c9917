"""Shared by all stages: errors, files, YAML, vocabulary, kinds of values. No torch, no pandas."""
