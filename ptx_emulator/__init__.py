"""Executes sm_100a PTX, as CuTe DSL emits it, on a CPU. See `launch`."""

from .front.decode import Program
from .grid import launch as _launch
from .report import Report
from .turns import takes_turns

launch = takes_turns(_launch)

__all__ = ["Program", "Report", "launch"]
