"""How many CTAs of a kernel an SM holds, alone or beside those of another: by registers, shared memory and threads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine import state as st
from ..grid import Grid

# Limits of an SM of compute capability 10.x (CUDA C++ Programming Guide, technical specifications).
SM_REGISTERS, SM_THREADS, SM_CTAS, SM_SHARED = 65536, 2048, 32, 228 << 10
SUB_PARTITIONS = 4
REGISTER_UNIT = 256  # registers of a warp come in such units
RESERVED_SHARED, SHARED_UNIT = 1 << 10, 128  # of a CTA, bytes; the first belongs to the system
WARP = 32


@dataclass(frozen=True)
class Footprint:
    """What a CTA takes of its SM. registers: of a thread at its launch, 0 where nobody told. shared_bytes: static and
    dynamic. least: CTAs per SM that ptxas was told to make room for (.minnctapersm); more than one limit registers."""

    threads: int
    shared_bytes: int
    registers: int = 0
    least: int = 0

    @property
    def warps(self) -> int:
        return -(-self.threads // WARP)

    @property
    def warp_registers(self) -> int:
        return -(-self.registers * WARP // REGISTER_UNIT) * REGISTER_UNIT

    @property
    def shared(self) -> int:
        return -(-(self.shared_bytes + RESERVED_SHARED) // SHARED_UNIT) * SHARED_UNIT


def footprint_of(grid: Grid, registers: int | None = None) -> Footprint:
    """Of a prepared launch. registers: those of the assembled kernel (`cubin.register_counts`); else `.maxnreg` tells
    the most that there can be, and `.minnctapersm` the CTAs that must fit."""
    function = grid.kernel.function
    return Footprint(
        threads=int(np.prod(grid.block)),
        shared_bytes=grid.shared_bytes + grid.kernel.static_shared - st.SHARED_START,
        registers=registers or function.max_registers or 0,
        least=0 if registers else function.min_resident or 0,
    )


def resident(cta: Footprint, beside: Footprint | None = None, count: int = 0) -> int:
    """CTAs that an SM holds, beside `count` CTAs of another footprint. Alone at least 1: it is launched, after all."""
    other = beside if count and beside else Footprint(0, -RESERVED_SHARED)
    threads = SM_THREADS - count * other.warps * WARP
    limits = [
        SM_CTAS - count,
        threads // (cta.warps * WARP),
        (SM_SHARED - count * other.shared) // cta.shared,
    ]
    if cta.registers:
        # Warps are dealt out to the sub-partitions, each of which has a quarter of the registers.
        part = SM_REGISTERS // SUB_PARTITIONS - -(-count * other.warps // SUB_PARTITIONS) * other.warp_registers
        limits.append(max(part, 0) // cta.warp_registers * SUB_PARTITIONS // cta.warps)
    elif cta.least > 1 and not count:
        limits.append(cta.least)
    fits = max(min(limits), 0)
    return fits if count else max(fits, 1)
