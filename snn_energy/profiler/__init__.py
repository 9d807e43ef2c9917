"""Counting: a torch function mode on every call of a network, counting rules by function name, tensor tracking."""
