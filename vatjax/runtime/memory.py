"""Running out of memory, on the host or on a device."""

from __future__ import annotations


def is_out_of_memory(error: BaseException) -> bool:
    """Returns True if an error means that the host or a device has no memory left; JAX names it by a status alone."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
