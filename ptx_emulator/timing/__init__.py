"""The timed mode: what a kernel would cost on sm_100, modelled from its PTX while it is executed.

Every warp has a clock, and asynchronous work carries the time of its completion into the mbarrier, Tensor Memory or
register that somebody waits for. Nothing here was measured on a GPU: all numbers are modelled, from the constants of
constants.py. Knows PTX; knows nothing of any kernel.
"""

from .constants import CONSTANTS, Constants
from .launch import CtaTiming, LaunchTiming, chain_seconds, time_host_function, time_launch
from .residency import Footprint

__all__ = [
    "CONSTANTS",
    "Constants",
    "CtaTiming",
    "Footprint",
    "LaunchTiming",
    "chain_seconds",
    "time_host_function",
    "time_launch",
]
