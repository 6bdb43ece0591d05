"""Estimates of what a study costs: tokens, operations, memory, hours and money, here and on accelerators elsewhere."""

from vatjax.estimate.costs import costs

__all__ = ["costs"]
