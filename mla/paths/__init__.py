"""Operand paths: how keys and values get to the tensor core, and which of its instructions multiply them."""

from __future__ import annotations

from types import ModuleType

from mla.memory_plan import MemoryPlan
from mla.paths import narrow, wide


def path_of(plan: MemoryPlan) -> ModuleType:
    """The module of a plan's path. Both offer MMA_M, multiply, commit, begin_item and value_slot."""
    return wide if plan.is_paired else narrow
