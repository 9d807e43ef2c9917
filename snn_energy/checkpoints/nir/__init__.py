"""Networks out of NIR files."""
