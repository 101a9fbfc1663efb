"""Whether the warps of a cluster go round in circles: exactly, by their states, not by how long it takes."""

from __future__ import annotations

from collections import defaultdict

from ..engine import microcode as mc
from ..engine import state as st

_GOES_ON = (st.RUN, st.YIELDED)


class Spins:
    """The states of a cluster's warps since something last changed that a warp could be waiting for.

    A warp whose registers, lanes and place in the program are as they were before, with memory as it was, will do the
    same again. Kernels that read a clock are not judged so: time changes for them.
    """

    def __init__(self, cluster):
        self._cluster = cluster
        operations = cluster.kernel.code[:, 0]
        self._timeless = not ((operations == mc.CLOCK) | (operations == mc.CLOCK64)).any()
        self._progress = -1
        self._seen: dict[int, dict[int, int]] = defaultdict(dict)  # warp -> state -> its turns at that time
        self._certain: set[int] = set()

    def forget(self) -> None:
        self._progress = -1

    def closed(self) -> bool:
        """Looks at every warp that could run. Whether all of them are in states that they have been in before."""
        head, warps = self._cluster.header, self._cluster.warps
        if not self._timeless:
            return False
        if head[st.H_PROGRESS] != self._progress:
            self._progress = int(head[st.H_PROGRESS])
            self._seen.clear()
            self._certain.clear()
        for w, warp in enumerate(warps):
            if w in self._certain or not _runs(warp):
                continue
            row, turns = warp.row, int(warp.row[st.W_TURNS])
            parts = row[: st.W_STALLED], row[st.W_LOADS : st.W_TURNS], row[st.W_GROUP0 :], warp.r32, warp.r64
            state = hash(tuple(part.tobytes() for part in parts))
            if self._seen[w].setdefault(state, turns) != turns:
                self._certain.add(w)
        return all(w in self._certain for w, warp in enumerate(warps) if _runs(warp))


def _runs(warp) -> bool:
    """Whether a group of the warp's lanes spins rather than waits."""
    groups = range(int(warp.row[st.W_GROUPS]))
    return warp.live != 0 and any(warp.row[st.W_GROUP0 + g * st.G_SIZE + st.G_STATUS] in _GOES_ON for g in groups)
