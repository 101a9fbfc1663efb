"""Operand paths: how keys and values get to the tensor core, and which of its instructions multiply them."""

from __future__ import annotations

from types import ModuleType

from mla.paths import narrow, wide
from mla.plan.memory import MemoryPlan


def path_of(plan: MemoryPlan) -> ModuleType:
    """The module of a plan's path. Both offer MMA_M, multiply, commit, copy_to_tmem and value_slot."""
    return wide if plan.tile.is_paired else narrow
