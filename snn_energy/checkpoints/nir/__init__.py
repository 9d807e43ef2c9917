"""Networks from NIR files."""
