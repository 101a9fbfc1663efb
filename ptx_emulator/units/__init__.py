"""Instructions of hardware units, carried out by Python handlers. Importing this package registers them."""

from . import async_copy, call, launch_control, matrix, warp_mma
from .tcgen05 import block_scaled, load_reduce, load_store, mma
from .tma import rules, tensormap_replace

__all__ = [
    "async_copy",
    "block_scaled",
    "call",
    "launch_control",
    "load_reduce",
    "load_store",
    "matrix",
    "mma",
    "rules",
    "tensormap_replace",
    "warp_mma",
]
