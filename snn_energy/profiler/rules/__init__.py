"""Counting rules for torch functions, by name. Importing this package registers all of them."""

from snn_energy.profiler.rules import attention, convolution, elementwise, moves, pooling, products, unknown

__all__ = ["attention", "convolution", "elementwise", "moves", "pooling", "products", "unknown"]
