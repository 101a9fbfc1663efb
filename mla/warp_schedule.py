"""Which warps of the CTA play which role."""

from __future__ import annotations

from dataclasses import dataclass

from mla.arch import REGISTERS_PER_SM, WARP_SIZE


@dataclass(frozen=True)
class WarpSchedule:
    """Warp ids by role. A TMEM warp reads lanes 32 * (warp % 4) .. + 31, so softmax and correction are each one
    aligned group of four warps (PTX ISA 9.7.16.2.3.1). The last group is whole too: setmaxnreg (PTX ISA 9.7.20.5) hands
    registers out by groups of four warps.

    compute_registers, issue_registers: per thread of the first two groups, and of the last, once the roles begin.
    """

    softmax: tuple[int, ...] = (0, 1, 2, 3)
    correction: tuple[int, ...] = (4, 5, 6, 7)
    scores: int = 8
    load: int = 9
    scheduler: int = 10
    output: int = 11
    compute_registers: int = 216
    issue_registers: int = 72

    def __post_init__(self) -> None:
        for group in (self.softmax, self.correction):
            assert len(group) == 4 and group[0] % 4 == 0, f"{group}: a TMEM group is four warps from a multiple of 4"
        assert self.threads * self.registers_per_thread <= REGISTERS_PER_SM, (self.threads, self.registers_per_thread)
        compute, issue = self.softmax_threads + self.correction_threads, self.num_warps - 8
        allotted = compute * self.compute_registers + issue * WARP_SIZE * self.issue_registers
        assert allotted <= self.threads * self.registers_per_thread, f"{allotted} registers: a warp would wait for ever"

    @property
    def num_warps(self) -> int:
        return 1 + max(*self.softmax, *self.correction, self.scores, self.load, self.scheduler, self.output)

    @property
    def num_workers(self) -> int:
        """Warps that follow the scheduler's work items."""
        return len((*self.softmax, *self.correction, self.scores, self.output, self.load))

    @property
    def threads(self) -> int:
        return self.num_warps * WARP_SIZE

    @property
    def registers_per_thread(self) -> int:
        """What a launch gives each thread: the most (a multiple of 8) at which all warps of one CTA fit an SM."""
        return min(255, REGISTERS_PER_SM // self.threads // 8 * 8)

    @property
    def softmax_threads(self) -> int:
        return len(self.softmax) * WARP_SIZE

    @property
    def correction_threads(self) -> int:
        return len(self.correction) * WARP_SIZE
