"""Race detection for launches with checks: see docs/emulator-hazards.md."""

from .checker import Checker
from .groups import HazardGroup, grouped
from .report import Hazard
from .suppressions import Suppressions

__all__ = ["Checker", "Hazard", "HazardGroup", "Suppressions", "grouped"]
