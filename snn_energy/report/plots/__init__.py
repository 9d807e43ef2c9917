"""Figures, one module each kind."""
