"""The command line: ``snn-energy``."""
