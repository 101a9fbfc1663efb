"""What the clusters of a launch read of HBM, all of them, of which a few are executed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

UNEVEN = 1.05  # clusters that differ by less read alike: it cannot change a launch by more


@dataclass(frozen=True)
class Traffic:
    """hbm_bytes: of each cluster of the grid; empty: alike. Of clusters that all run at the same time.
    first_reads: of what a cluster reads in buffers that L2 cannot hold as a whole, the share that no other cluster has
    brought there before; blocks of 16 KB are the one or the other.
    """

    hbm_bytes: tuple[float, ...] = ()
    first_reads: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.first_reads <= 1:
            raise ValueError(f"first_reads={self.first_reads}: must be above 0, at most 1")
        if any(not 0 <= amount < float("inf") for amount in self.hbm_bytes):
            raise ValueError(f"hbm_bytes={self.hbm_bytes}: must be amounts of bytes")

    def shares(self, busy_sms: int, cluster_size: int) -> np.ndarray:
        """float64 rows (bytes that an SM has had, how many SMs share HBM until then). HBM serves all that ask alike, so
        when an SM has had so many, those that need no more have had theirs."""
        amounts = np.sort(np.array(self.hbm_bytes, float)) / cluster_size
        levels, counts = np.unique(amounts[amounts > 0], return_counts=True)
        if len(levels) < 2:
            return np.array([[np.inf, float(busy_sms)]])
        left = busy_sms * (1 - (np.cumsum(counts) - counts) / counts.sum())
        levels[-1] = np.inf
        return np.stack([levels, left], axis=1)

    @classmethod
    def of_executed(cls, total: int, executed: Sequence[tuple[int, float]]) -> Traffic:
        """Of `total` clusters, from (number, bytes) of some: the others as their neighbours."""
        numbers, amounts = zip(*executed, strict=True)
        if max(amounts) <= UNEVEN * min(amounts):
            return ALIKE
        return cls(tuple(np.interp(np.arange(total), numbers, amounts)))


ALIKE = Traffic()
