"""Executes sm_100a PTX, as CuTe DSL emits it, on a CPU. See `launch`; `emulate` for scripts that compile and launch.

What it offers is loaded when it is asked for: a pytest run that only has the plugin installed does not load numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .front.decode import Program
    from .grid import launch
    from .report import Report
    from .tool.capture import emulate

__all__ = ["Program", "Report", "emulate", "launch"]
_HOMES = {"Program": ".front.decode", "Report": ".report", "emulate": ".tool.capture", "launch": ".grid"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = found = getattr(import_module(_HOMES[name], __name__), name)
    return found
