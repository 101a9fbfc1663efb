"""Hazards in words."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...units.tcgen05.layout import TMEM_COLUMNS
from . import shadow as sh
from .names import NamedArray, global_place, shared_place

WARNINGS = {
    sh.PROXY_READ, sh.TENSOR_FENCE, sh.LANES, sh.ELECTED, sh.INIT_FENCE, sh.OVERRUN, sh.WAIT_LD, sh.EXITED_COMMIT,
    sh.ASYNC_LANES, sh.PROXY_LANES, sh.ABSENT, sh.BETWEEN_ROWS,
}  # fmt: skip

KINDS = {
    sh.RACE: "race", sh.INCOMPLETE: "race", sh.PROXY: "proxy", sh.PROXY_READ: "proxy-read",
    sh.TENSOR_FENCE: "tcgen05-fence",
    sh.LANES: "lanes", sh.ELECTED: "elected-arrive", sh.UNWRITTEN: "uninitialised", sh.PHASE: "mbarrier-phase",
    sh.INIT: "mbarrier-init", sh.INIT_FENCE: "mbarrier-init-fence", sh.OVERRUN: "mbarrier-overrun",
    sh.EXITED: "exited-peer", sh.EXITED_WORK: "exited-work", sh.EXITED_COMMIT: "exited-commit",
    sh.WAIT_LD: "tcgen05-wait", sh.CROSS_CTA: "grid-race",
    sh.PREREQUISITE: "grid-dependency", sh.TX_LEFT: "mbarrier-tx", sh.NAMED_LEFT: "named-barrier",
    sh.MAP_FENCE: "tensormap-fence", sh.SCOPE: "scope", sh.NOT_CONSTANT: "not-constant",
    sh.ASYNC_LANES: "lanes", sh.PROXY_LANES: "proxy-lanes", sh.NOT_STARTED: "unstarted-peer",
    sh.OTHER_LANE: "other-lane", sh.ABSENT: "absent-lanes", sh.OUTSIDE: "box-outside", sh.BETWEEN_ROWS: "row-overrun",
    sh.DIVERGED: "diverged-warp",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hazard:
    """severity  "error": wrong by the ISA and, as far as is known, on hardware; "warning": wrong by the ISA's text
              only, hardware is known or believed to be laxer; "note": right, but hardly meant
    kind      a word for the class, as in docs/emulator-hazards.md
    message   both accesses and the missing edge
    line, text, prior_line, prior_text  PTX of the later and of the earlier access; None where there is none
    launch    number of the launch, from 0; count: how often the same pair of instructions was found
    kernel    its entry's name
    place     what memory or barrier it is about, by name where one is known
    edge      what is missing; accesses: the kinds of the two accesses, without their warps
    """

    severity: str
    kind: str
    message: str
    line: int | None
    text: str | None
    prior_line: int | None
    prior_text: str | None
    launch: int
    count: int
    kernel: str = ""
    place: str = ""
    edge: str = ""
    accesses: str = ""

    def __str__(self) -> str:
        where = "" if self.line is None else f"\n    line {self.line}: {self.text}"
        before = "" if self.prior_line is None else f"\n    after line {self.prior_line}: {self.prior_text}"
        times = f" ({self.count} times)" if self.count > 1 else ""
        return f"{self.severity} [{self.kind}] {self.message}{times}{where}{before}"


def describe(checker, row: list[int]) -> Hazard:
    """The Hazard of a row of findings."""
    code, prior, inst, launch = row[sh.F_CODE], row[sh.F_PRIOR], row[sh.F_INST], row[sh.F_LAUNCH]
    kernel = checker.kernels[launch]
    instruction = kernel.instructions[inst] if inst >= 0 else None
    record = before = None
    if prior > sh.FORGOTTEN:
        record = checker.records[prior].tolist()
        before = checker.kernels[record[sh.R_LAUNCH]].instructions[record[sh.R_INST]]
    place = _place(row, kernel, checker.names[launch])
    if code in _OF_BARRIERS and before is not None and code not in (sh.OVERRUN, sh.TX_LEFT):
        place += f", initialised at line {before.line}"
    if code in (sh.OVERRUN, sh.TX_LEFT):
        instruction, before = before, None
    accesses, edge = _explain(code, row, record)
    return Hazard(
        "note" if code == sh.OUTSIDE else "warning" if code in WARNINGS else "error",
        KINDS[code],
        ": ".join(part for part in (place, accesses, edge) if part),
        instruction and instruction.line,
        instruction and instruction.text,
        before and before.line,
        before and before.text,
        launch,
        row[sh.F_COUNT],
        kernel.name,
        place,
        edge,
        re.sub(r"( of| issued by) warp \d+", "", re.sub(r"what warp \d+", "what a warp", accesses)),
    )


_OF_BARRIERS = {sh.INIT, sh.INIT_FENCE, sh.PHASE, sh.OVERRUN, sh.TX_LEFT}


def _place(row: list[int], kernel, arrays: list[NamedArray]) -> str:
    code, space, rank, cell = row[sh.F_CODE], row[sh.F_SPACE], row[sh.F_RANK], row[sh.F_CELL]
    if code in (sh.EXITED_WORK, sh.EXITED_COMMIT):
        return f"exit of CTA {rank}"
    if code in (sh.OTHER_LANE, sh.ABSENT, sh.OUTSIDE, sh.DIVERGED):
        return f"CTA {rank}"
    if code in (sh.NOT_STARTED, sh.EXITED):
        return f"shared memory of CTA {rank}"
    if space == sh.SHARED:
        return f"{shared_place(kernel.symbols, cell)} of CTA {rank} (offset {cell:#x})"
    if space == sh.TMEM:
        return f"Tensor Memory of CTA {rank}, lane {cell // TMEM_COLUMNS}, column {cell % TMEM_COLUMNS}"
    if space == sh.GLOBAL:
        return global_place(arrays, cell)
    if code == sh.NAMED_LEFT:
        return f"named barrier {cell} of CTA {rank}"
    return f"mbarrier {shared_place(kernel.symbols, cell)} of CTA {rank}"


_AGENTS = (
    "", "tcgen05.ld", "tcgen05.st", "tensor core operation", "bulk store's read", "bulk store's write", "cp.async",
)  # fmt: skip


def _who(dim: int, warp: int, warps: int) -> str:
    kind = dim // warps
    if kind == sh.A_THREADS:
        return f"warp {dim}"
    if kind < len(_AGENTS):
        return f"{_AGENTS[kind]} of warp {warp}"
    return f"copy issued by warp {warp}"


def _explain(code: int, row: list[int], record: list[int] | None) -> tuple[str, str]:
    """(the accesses, what is missing) in words."""
    warps = max(row[sh.F_WARPS], 1)
    now = _who(row[sh.F_DIM], row[sh.F_WARP], warps)
    if code == sh.ABSENT:
        return now, f"lanes {row[sh.F_CELL]:#010x} that should take part have exited"
    if code == sh.DIVERGED:
        return now, f"only lanes {row[sh.F_CELL]:#010x} come here, the others wait for them elsewhere"
    if code in (sh.EXITED_WORK, sh.EXITED_COMMIT, sh.NOT_STARTED, sh.OTHER_LANE, sh.OUTSIDE, sh.BETWEEN_ROWS):
        return now, _TEXTS[code]
    if record is None or row[sh.F_SPACE] == sh.BARRIER:
        return "", _TEXTS[code]
    then = _who(record[sh.R_DIM], record[sh.R_WARP], warps)
    verbs = ("reads", "writes")
    accesses = f"{now} {verbs[row[sh.F_WRITE]]} what {then} {verbs[record[sh.R_WRITE]]}"
    return accesses, _TEXTS.get(code) or _missing(record[sh.R_DIM] // warps)


def _missing(kind: int) -> str:
    """What the completion of asynchronous work lacks, by the kind of its agent; its issue is ordered."""
    if kind == sh.A_ST:
        return "no tcgen05.wait::st before the barrier between"
    if kind == sh.A_PIPE:
        return "no tcgen05.commit to an mbarrier whose phase was waited for between"
    if kind == sh.A_BULK_READ:
        return "no cp.async.bulk.wait_group(.read) before the barrier between"
    if kind == sh.A_BULK_WRITE:
        return "no cp.async.bulk.wait_group before the barrier between"
    if kind == sh.A_CP:
        return "no cp.async.wait_group or mbarrier arrival, then wait, between"
    return "the mbarrier phase that the copy completes was not waited for"


_TEXTS = {
    sh.RACE: "no barrier (arrive, then wait) between",
    sh.PROXY: "no fence.proxy.async between the ordinary write and the async proxy",
    sh.PROXY_READ: "no fence.proxy.async between the ordinary read and the async proxy's write",
    sh.TENSOR_FENCE: "no tcgen05.fence::before_thread_sync before the arrival, or ::after_thread_sync after the wait",
    sh.LANES: "different lanes of one warp, no bar.warp.sync between",
    sh.ELECTED: "one lane arrived for the warp, no bar.warp.sync before",
    sh.UNWRITTEN: "reads what nobody has written",
    sh.PHASE: "changes an mbarrier without knowing that its previous phase is complete: it may count in that phase",
    sh.INIT: "uses an mbarrier that is not ordered after its initialisation",
    sh.INIT_FENCE: "remote or asynchronous use of an mbarrier without fence.mbarrier_init after its initialisation",
    sh.OVERRUN: "a phase ended before anybody had waited for the one before it",
    sh.EXITED: "the CTA may exit before this access by another CTA of the cluster",
    sh.EXITED_WORK: "no warp of the CTA knows before its exit that this use of its shared memory is complete",
    sh.EXITED_COMMIT: "no warp of the CTA has waited for the phase of its mbarrier that the commit arrives for",
    sh.WAIT_LD: "no tcgen05.wait::ld between (right only if registers that it loads were used before)",
    sh.CROSS_CTA: "different clusters of the grid, without a release (or fence, then write) by one and an acquire (or "
    "read, then fence) of what it wrote by the other",
    sh.SCOPE: "both are atomic or volatile, but the scope of one does not reach the other's CTA",
    sh.ASYNC_LANES: "one lane issued it, no bar.warp.sync after the accesses of the warp's other lanes",
    sh.PROXY_LANES: "one lane executed the fence.proxy.async, no bar.warp.sync after the other lanes' writes",
    sh.NOT_STARTED: "the CTA is not known to have started: no barrier.cluster (or other news of it) before",
    sh.OTHER_LANE: "commits or waits for operations of its own thread only, and another lane of the warp issued them",
    sh.BETWEEN_ROWS: "a row of the array is overrun: no element of it is there",
    sh.OUTSIDE: "no element of the box lies within the tensor",
    sh.NOT_CONSTANT: "ld.global.nc needs memory that nobody writes as long as the grid runs",
    sh.PREREQUISITE: "the grid that this one depends on, no griddepcontrol.wait before",
    sh.MAP_FENCE: "no fence.proxy.tensormap::generic.release (or tensormap.cp_fenceproxy) after the change of the "
    "map, or no .acquire of the map before the copy",
    sh.TX_LEFT: "bytes are outstanding (tx-count is not 0) when the cluster ends",
    sh.NAMED_LEFT: "threads that arrived still wait for others when the cluster ends",
}
