"""Objects that live while a network runs: what is known of tensors, scopes, records, calls of the batch before."""
