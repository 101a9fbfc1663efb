"""Race detection for launches with checks: see docs/emulator-hazards.md."""

from pathlib import Path

from ..engine_cache import ENGINE, SHARED_SOURCES, drop_stale_code

# Before anything here is compiled.
drop_stale_code(
    Path(__file__).parent, "", *SHARED_SOURCES, ENGINE / "engine_common.py", ENGINE / "engine_trace.py"
)

from .checker import Checker  # noqa: E402
from .report import Hazard  # noqa: E402

__all__ = ["Checker", "Hazard"]
