"""A cluster that is executed with time."""

from __future__ import annotations

from .. import registry
from ..engine import state as st
from ..machine.cluster import Cluster
from ..machine.diagnostics import deadlock, engine_error
from ..units.tma.rules import _tensor_map
from . import engine, operations
from . import tables as tb
from .constants import Constants
from .traffic import ALIKE, Traffic

MOST_TIMEOUTS = 1000


class TimedCluster(Cluster):
    """See Cluster. tables: its times (tables.py)."""

    def __init__(
        self,
        grid,
        constants: Constants,
        busy_sms: int,
        trace_rows: int = 0,
        code_bytes: int | None = None,
        traffic: Traffic = ALIKE,
    ):
        super().__init__(grid)
        shared = self.ctas[0].shared.nbytes
        self.tables = tb.make_tables(
            self.kernel, constants, len(self.ctas), len(self.warps), shared, grid.buffers.table, trace_rows,
            busy_sms, code_bytes, traffic,
        )  # fmt: skip
        self._maps: dict = {}

    def start(self, clusterid) -> None:
        super().start(clusterid)
        tb.reset(self.tables)

    def tensor_map(self, warp, operand, lane: int, inst, copy):
        """(tensor map, coordinates) of a copy. Maps that were read once are kept: kernels that change them are rare,
        and their shapes stay."""
        address = operations.lane_address(warp, operand, lane)
        if address not in self._maps:
            self._maps[address] = _tensor_map(warp, operand, lane, inst, copy)[0]
        words = (operations.lane_word(warp, element, lane) for element in operand.extra[0].elements)
        return self._maps[address], [(word ^ 1 << 31) - (1 << 31) for word in words]

    @property
    def steps(self) -> int:
        return int(self.tables.misc[tb.STEPS])  # H_CLOCK is the time

    def pause_at(self, steps: int) -> None:
        self.tables.misc[tb.PAUSE_AT] = steps

    def run(self) -> bool:
        """Runs the cluster to its end. Raises EmulationError, LimitExceeded among them."""
        head, address, watchdog = self.header, self.header.ctypes.data, self.grid.watchdog
        retried = -1
        watchdog.arm(self)
        while True:
            if self.steps >= self.tables.misc[tb.PAUSE_AT]:
                watchdog.check(self)
                watchdog.arm(self)
            stop = engine.run(self.tables, address)
            head[st.H_RETRY] = 0
            if stop == engine.STOP_TIMED:
                w, _, pc, mask = self._stop.tolist()
                inst = self.kernel.handlers[self.kernel.code[pc, 2]][1]
                operations.account_for(self, self.warps[w], w, inst, mask)
                self.tables.misc[tb.APPROVED] = 1
            elif stop == st.STOP_HANDLER:
                self._handle()
            elif stop == st.STOP_DONE:
                break
            elif stop == st.STOP_PAUSE:
                continue
            elif stop == st.STOP_ERROR:
                raise engine_error(self)
            elif head[st.H_PROGRESS] != retried and st.PYTHON in self._statuses():
                retried = int(head[st.H_PROGRESS])
                head[st.H_RETRY] = 1
            else:
                raise deadlock(self)
        watchdog.check(self)
        for cta in self.ctas:
            for check in registry.cta_exits():
                check(cta)
        return True

    @property
    def cycles(self) -> float:
        """From the cluster's start to its end."""
        return float(self.tables.warps[:, tb.ENDED].max())
