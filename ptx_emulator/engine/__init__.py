"""The compiled engine: runs micro-operations on whole warps. `loop.py` schedules; the others are families."""
