"""Race detection for launches with checks: see docs/emulator-hazards.md."""

from pathlib import Path

from ..engine_cache import drop_stale_code

# Before anything here is compiled.
_SOURCES = ("*.py", "../engine_common.py", "../engine_trace.py", "../native*.py", "../state.py", "../tcgen05_layout.py")
drop_stale_code(Path(__file__).parent, {"hazards": (_SOURCES, ("*.py",))})

from .checker import Checker  # noqa: E402
from .groups import HazardGroup, grouped  # noqa: E402
from .report import Hazard  # noqa: E402
from .suppressions import Suppressions  # noqa: E402

__all__ = ["Checker", "Hazard", "HazardGroup", "Suppressions", "grouped"]
