"""One module per framework: what its classes say of themselves."""
