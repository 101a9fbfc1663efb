"""What a launch reports: instruction counts and totals."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from .ir import Instruction


@dataclass(slots=True)
class Report:
    """Result of a launch.

    counts        int64[warps per CTA, instructions]: executions by warps of that index, over all CTAs
    instructions  the kernel's PTX instructions, in order
    counters      totals that operations keep (`tma_load_bytes`, ...)
    wall_seconds  time spent, decoding not included
    hazards       what checks found (hazards.Hazard), errors first; of all launches so far that share a checker
    notes         what checks found that is right, but hardly meant
    by_cluster    the counters of each cluster, by their number in the grid (x fastest, then y, z)
    """

    kernel: str
    counts: np.ndarray = field(repr=False)
    instructions: list[Instruction] = field(repr=False)
    counters: Counter = field(default_factory=Counter)
    wall_seconds: float = 0.0
    ctas: int = 0
    hazards: list = field(default_factory=list)
    by_cluster: list[Counter] = field(default_factory=list, repr=False)
    notes: list = field(default_factory=list)

    def grouped(self) -> list:
        """The hazards by root cause (hazards.HazardGroup), errors first."""
        from .check.hazards import grouped  # compiled code that launches without checks do not load

        return grouped(self.hazards)

    @property
    def warp_instructions(self) -> int:
        """PTX instructions executed, counted once per warp (or per group of a diverged warp)."""
        return int(self.counts.sum())

    def by_opcode(self, warps: slice | list[int] | None = None) -> Counter:
        """Executions per opcode, of all warps or of those given."""
        counts = self.counts if warps is None else self.counts[warps]
        result: Counter = Counter()
        for inst, n in zip(self.instructions, counts.sum(axis=0), strict=True):
            if n:
                result[inst.opcode] += int(n)
        return result

    def by_line(self) -> dict[int, int]:
        """Executions per line of the PTX text."""
        total = self.counts.sum(axis=0)
        return {inst.line: int(n) for inst, n in zip(self.instructions, total, strict=True)}

    def unexecuted(self) -> list[Instruction]:
        """Instructions that no warp executed."""
        total = self.counts.sum(axis=0)
        return [inst for inst, n in zip(self.instructions, total, strict=True) if n == 0]
