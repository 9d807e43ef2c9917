"""Counting: a mode that is given every call of a network, rules by name, what is known of tensors, time and kinds."""
