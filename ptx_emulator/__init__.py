"""Executes sm_100a PTX, as CuTe DSL emits it, on a CPU. See `launch`."""

from .decode import Program
from .grid import launch
from .observers import Report

__all__ = ["Program", "Report", "launch"]
