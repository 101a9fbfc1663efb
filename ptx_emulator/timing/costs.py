"""Cost classes: what each PTX instruction takes of the SM, worked out once per kernel.

ptxas is not modelled but for what changes counts most: moves, packing, address-space conversions and changes of integer
width take no issue slot; predicate logic folds into comparisons; short forward skips and elections are if-converted, so
that they stall nobody; integer work on values that are the same in all lanes runs on the uniform datapath.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..engine import microcode as mc
from ..engine import native as nat
from ..errors import UnsupportedInstruction
from ..front.decode import Kernel
from ..ir import Address, Instruction, Vector, registers

# Kinds: what account.py does for a micro-operation.
NOTHING, PIPE, MEMORY, BRANCH, SKIP, BARRIER = range(6)
TMEM_LOAD, TMEM_STORE, TMEM_WAIT_LOAD, TMEM_WAIT_STORE, MMA, PYTHON, STALL, CLOCK = range(6, 14)

# Pipes of a sub-partition.
NO_PIPE, ALU, FMA, MUFU = range(4)

# What a load or fence means to the L1 cache: nothing, it may hit and allocates, all lines are dropped first.
L1_PAST, L1_CACHED, L1_DROPPED = 0.0, 1.0, 2.0
DEPENDENT = 3.0

CODE_LINE_BYTES = 128  # of the instruction cache: measured on B200, GB202 and H100 (constants.py, SD)
INSTRUCTION_BYTES = 16

SHORT_SKIP = 24  # micro-operations of a forward branch that ptxas turns into predicates
MMA_8_BIT, MMA_WS, MMA_PAIR, MMA_TMEM_A = 1, 2, 4, 8  # flags, in `operands[pc, 2]`

_FREE = {
    "mov", "cvta", "mapa", "isspacep", "getctarank", "createpolicy", "griddepcontrol", "elect.sync", "activemask",
    "bar.warp.sync", "setmaxnreg.inc", "setmaxnreg.dec", "pmevent", "prefetch", "prefetchu", "prefetch.tensormap",
    "prefetch.param.tensormap", "cp.async.bulk.prefetch", "cp.async.bulk.prefetch.tensor", "applypriority", "discard",
    "tcgen05.relinquish_alloc_permit", "call", "mbarrier.pending_count",
    "clusterlaunchcontrol.query_cancel.is_canceled", "clusterlaunchcontrol.query_cancel.get_first_ctaid",
    "clusterlaunchcontrol.query_cancel.get_first_ctaid::x", "clusterlaunchcontrol.query_cancel.get_first_ctaid::y",
    "clusterlaunchcontrol.query_cancel.get_first_ctaid::z",
}  # fmt: skip
_ALU_OPS = {
    "add", "addc", "sub", "subc", "and", "or", "xor", "not", "cnot", "shl", "shr", "shf.l", "shf.r", "lop3", "prmt", "bfe",
    "bfi", "bmsk", "setp", "set", "selp", "slct", "min", "max", "neg", "abs", "sad", "testp", "copysign", "cvt", "bfind",
    "brev", "clz", "popc",
}  # fmt: skip
_MUFU_OPS = {"ex2", "lg2", "rcp", "rsqrt", "sqrt", "sin", "cos", "tanh"}
_MULTIPLIES = {"mul", "mul.lo", "mul.hi", "mul.wide", "mad", "mad.lo", "mad.hi", "mad.wide", "fma", "dp4a"}
_BARRIERS = {
    "bar.sync", "bar.cta.sync", "barrier.sync", "barrier.cta.sync", "bar.arrive", "bar.cta.arrive", "barrier.arrive",
    "barrier.cta.arrive", "bar.red", "bar.cta.red", "barrier.red", "barrier.cta.red", "barrier.cluster.arrive",
    "barrier.cluster.wait", "mbarrier.init", "mbarrier.inval", "mbarrier.arrive", "mbarrier.arrive_drop",
    "mbarrier.expect_tx", "mbarrier.complete_tx", "mbarrier.test_wait", "mbarrier.try_wait",
}  # fmt: skip
_FENCES = {
    "fence": "gpu_fence", "membar": "gpu_fence", "fence.proxy": "proxy_fence", "fence.proxy.async::generic": "proxy_fence",
    "fence.proxy.tensormap::generic": "proxy_fence", "membar.proxy": "proxy_fence", "fence.mbarrier_init": "tcgen_fence",
    "tcgen05.fence::before_thread_sync": "tcgen_fence", "tcgen05.fence::after_thread_sync": "tcgen_fence",
    "tcgen05.alloc": "tmem_alloc", "tcgen05.dealloc": "tmem_alloc", "cp.async.bulk.commit_group": "tcgen_fence",
    "cp.async.commit_group": "tcgen_fence", "nanosleep": "gpu_fence", "griddepcontrol.wait": "tcgen_fence",
}  # fmt: skip
_BY_HAND = {  # done by Python code of operations.py
    "cp.async.bulk.tensor", "cp.reduce.async.bulk.tensor", "cp.async.bulk", "cp.reduce.async.bulk",
    "cp.async.bulk.wait_group", "tcgen05.commit", "tcgen05.cp", "cp.async", "cp.async.wait_group", "cp.async.wait_all",
    "cp.async.mbarrier.arrive",
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """slots: issue slots. pipe, cycles: how long the pipe is taken. latency: name of the constant, and factor."""

    kind: int = PIPE
    slots: float = 1.0
    pipe: int = NO_PIPE
    cycles: str = ""  # the constant whose inverse a warp instruction takes of the pipe
    times: float = 1.0
    latency: str = "alu_latency"


def cost_of(inst: Instruction, uniform: bool) -> Cost:
    """The cost class of an instruction. Raises UnsupportedInstruction, naming it, if it has none."""
    name, mods, types = inst.name, inst.mods, inst.parts
    kind = types[-1]
    is_float = kind in ("f32", "f32x2", "f16x2", "bf16x2", "f16", "bf16")
    wide = 2.0 if kind in ("s64", "u64", "b64", "f64") else 1.0
    if name == "griddepcontrol.wait" or name in _FENCES:
        return Cost(STALL, latency=_FENCES[name])
    if name in _FREE or kind == "pred" and name in ("and", "or", "xor", "not"):
        return Cost(NOTHING, 0.0)
    if name == "ld" and "param" in mods:
        return Cost(NOTHING, 0.0)
    if name in ("ld", "ldu", "st", "atom", "red"):
        return Cost(MEMORY)
    if name in ("bra", "exit", "ret", "trap"):
        return Cost(BRANCH)
    if name in _BARRIERS:
        return Cost(BARRIER)
    if name == "cvt":
        return _conversion(inst)
    if name in _MUFU_OPS:
        return Cost(pipe=MUFU, cycles="mufu", latency="mufu_latency", times=2.0 if kind == "f64" else 1.0)
    if name in ("div", "rem"):
        # Subroutines: a reciprocal and about so many further instructions.
        slots = 12.0 if kind == "f32" else 22.0 * wide * wide
        return Cost(slots=slots, pipe=MUFU, cycles="mufu", latency="mufu_latency", times=2.0)
    if name in _MULTIPLIES or (is_float and name in ("add", "sub")):
        times = 2.0 if kind == "f32x2" or not is_float and name != "fma" else 1.0
        return Cost(slots=wide, pipe=FMA, cycles="fma", times=times * wide * wide, latency="fma_latency")
    if name in ("min", "max") and is_float:
        return Cost(pipe=ALU, cycles="minmax")
    if name in _ALU_OPS:
        if name in ("popc", "clz", "brev", "bfind"):
            return Cost(pipe=MUFU, cycles="mufu", times=0.5)
        if uniform:
            return Cost(slots=wide)
        return Cost(slots=wide, pipe=ALU, cycles="alu", times=wide)
    if name in ("shfl.sync", "redux.sync", "vote.sync", "match.any.sync", "match.all.sync"):
        return Cost(pipe=ALU, cycles="alu", latency="shuffle_latency")
    if name == "tcgen05.ld" or name == "tcgen05.ld.red":
        return Cost(TMEM_LOAD, latency="tmem_load_latency")
    if name == "tcgen05.st":
        return Cost(TMEM_STORE, latency="tmem_store_latency")
    if name == "tcgen05.wait::ld":
        return Cost(TMEM_WAIT_LOAD, latency="tmem_wait")
    if name == "tcgen05.wait::st":
        return Cost(TMEM_WAIT_STORE, latency="tmem_wait")
    if name in ("tcgen05.mma", "tcgen05.mma.ws"):
        return Cost(MMA)
    if name in _BY_HAND:
        return Cost(PYTHON)
    raise UnsupportedInstruction(
        f"{inst.opcode}: has no cost class in the timed mode (timing/costs.py)", line=inst.line, text=inst.text
    )


def _conversion(inst: Instruction) -> Cost:
    integers = [p for p in inst.parts[1:] if p[:1] in "sub" and p[1:].isdigit()]
    if len(integers) == 2:
        return Cost(NOTHING, 0.0)
    if any("x2" in p for p in inst.parts) or not integers:
        return Cost(pipe=ALU, cycles="alu")
    return Cost(pipe=MUFU, cycles="mufu", times=1.0, latency="mufu_latency")


class CostTable(NamedTuple):
    """Per micro-operation, in arrays that account.py reads.

    kind, pipe  int32[n]
    cost        float64[n, 4]: issue slots, pipe cycles, latency, amount (columns of a Tensor Memory access; what a load or
                fence means to the L1 cache, L1_*; DEPENDENT for griddepcontrol.wait)
    sources, targets  CSR of register rows (r64 rows behind r32's): starts int32[n + 1], rows int32
    operands    int32[n, 3]: code of the instruction descriptor of an MMA (native.operand_code), and its flags
    """

    kind: np.ndarray
    pipe: np.ndarray
    cost: np.ndarray
    source_starts: np.ndarray
    sources: np.ndarray
    target_starts: np.ndarray
    targets: np.ndarray
    operands: np.ndarray


def cost_table(kernel: Kernel, constant) -> CostTable:
    """`constant(name)` -> value."""
    n = len(kernel.code)
    kind, pipe = np.zeros(n, np.int32), np.zeros(n, np.int32)
    cost, operands = np.zeros((n, 4)), np.zeros((n, 3), np.int32)
    uniform = uniform_instructions(kernel)
    charged = _charged(kernel)
    for pc in range(n):
        index = int(kernel.origin[pc]) if pc < len(kernel.origin) else -1
        operation = int(kernel.code[pc, 0])
        if operation == mc.BRA or operation == mc.EXIT:
            kind[pc] = _branch_kind(kernel, pc)
            cost[pc, 0] = 1.0
            continue
        if operation in (mc.CLOCK, mc.CLOCK64):
            kind[pc] = CLOCK
            continue
        if index < 0:
            continue
        inst = kernel.instructions[index]
        found = cost_of(inst, bool(uniform[index]))
        if found.kind in (MEMORY, BARRIER):
            if _does_the_work(operation):
                kind[pc], cost[pc, 0], cost[pc, 3] = found.kind, found.slots, l1_use(inst)
            continue
        if not charged[pc]:
            continue
        kind[pc], pipe[pc] = found.kind, found.pipe
        taken = found.times / constant(found.cycles) if found.cycles else 0.0
        cost[pc, :3] = found.slots, taken, constant(found.latency) if found.kind != NOTHING else 0.0
        if found.kind in (TMEM_LOAD, TMEM_STORE):
            cost[pc, 3] = _columns(inst)
        if found.kind == STALL:
            cost[pc, 3] = DEPENDENT if inst.name == "griddepcontrol.wait" else l1_use(inst)
        if found.kind == MMA:
            operands[pc] = _mma_operands(inst, kernel)
    rows = kernel.rows32
    sources, targets = [], []
    for pc in range(n):
        read, written = _rows(kernel, pc, rows)
        sources.append(read)
        targets.append(written)
    return CostTable(kind, pipe, cost, *_csr(sources), *_csr(targets), operands)


def code_lines(costs: CostTable, code_bytes: int | None) -> np.ndarray:
    """float64[n]: the line of code, from 1, in which each micro-operation lies. Issue slots in the order of the PTX,
    spread over the kernel's assembled size, `code_bytes`, or 16 bytes each where nobody tells it."""
    slots = costs.cost[:, 0]
    before, total = np.cumsum(slots) - slots, float(slots.sum())
    slot_bytes = code_bytes / total if code_bytes and total else float(INSTRUCTION_BYTES)
    return np.floor(before * slot_bytes / CODE_LINE_BYTES) + 1


def _charged(kernel: Kernel) -> np.ndarray:
    """bool[n]: the one micro-operation of each instruction that takes its cost: the last that does its work."""
    n = len(kernel.code)
    charged = np.zeros(n, bool)
    last: dict[int, int] = {}
    for pc, index in enumerate(kernel.origin):
        if kernel.code[pc, 0] != mc.BRA or kernel.instructions[index].name == "bra":
            last[int(index)] = pc
    for pc in last.values():
        charged[pc] = True
    return charged


def _does_the_work(operation: int) -> bool:
    """Whether a micro-operation of a memory or barrier instruction is the one that accesses, arrives or waits."""
    family = operation >> mc.FAMILY_SHIFT
    return family == mc.BARRIER or (family == mc.MEMORY and operation not in (mc.ADDR32, mc.ADDR64))


def _branch_kind(kernel: Kernel, pc: int) -> int:
    """BRANCH if the warp must know where it goes; SKIP for an if-converted forward skip."""
    row = kernel.code[pc]
    if row[0] == mc.EXIT:
        return BRANCH
    if row[1] == 0:
        return SKIP if row[2] > pc else BRANCH
    return SKIP if pc < row[2] <= pc + SHORT_SKIP else BRANCH


def l1_use(inst: Instruction) -> float:
    """L1_* of a load or fence: weak loads of global memory use the L1 cache, but for those that name another level or
    pass it by; what acquires beyond the CTA drops it."""
    mods = set(inst.mods)
    orders = {"acquire", "acq_rel", "sc"} & mods or inst.name == "membar" or inst.name == "fence"
    if orders and "cta" not in mods and inst.name in ("ld", "fence", "membar", "atom"):
        return L1_DROPPED
    past = {"cg", "cs", "lu", "cv", "volatile", "relaxed", "mmio", "acquire", "L1::no_allocate", "shared", "shared::cta",
            "shared::cluster", "local", "param", "const"}  # fmt: skip
    return L1_CACHED if inst.name == "ld" and not past & mods else L1_PAST


def _columns(inst: Instruction) -> int:
    data = inst.operands[0 if inst.name.startswith("tcgen05.ld") else -1]
    return len(data.elements) if isinstance(data, Vector) else 1


def _mma_operands(inst: Instruction, kernel: Kernel) -> list[int]:
    code = nat.operand_code(inst.operands[3], kernel.symbols)
    if code is None:
        raise UnsupportedInstruction("instruction descriptor in an unknown operand", line=inst.line, text=inst.text)
    flags = MMA_WS if inst.name == "tcgen05.mma.ws" else 0
    flags |= MMA_PAIR if "cta_group::2" in inst.mods else 0
    flags |= 0 if {"kind::f16", "kind::tf32"} & set(inst.mods) else MMA_8_BIT
    return [*code, flags | (MMA_TMEM_A if isinstance(inst.operands[1], Address) else 0)]


def copy_bytes(inst: Instruction) -> int:
    """Bytes that a tcgen05.cp reads from each CTA's shared memory."""
    return inst.data.rows * inst.data.row_bytes


def _rows(kernel: Kernel, pc: int, offset: int) -> tuple[list[int], list[int]]:
    """(rows read, rows written) by a micro-operation, constants and special registers left out."""
    code, aux = kernel.code[pc], kernel.aux
    operation = int(code[0])
    read, written = [], []
    fixed32, fixed64 = len(kernel.fixed32), len(kernel.fixed64)

    def add(rows: list[int], row: int, wide: bool) -> None:
        if row >= (fixed64 if wide else fixed32):
            rows.append(row + offset if wide else row)

    if code[1]:
        add(read, abs(int(code[1])) - 1, False)
    for letter, value in zip(mc.SIGNATURES.get(operation, ""), code[2:], strict=False):
        value = int(value)
        if letter in "dD":
            add(written, value, letter == "D")
        elif letter in "rR":
            add(read, value, letter == "R")
        elif letter in "vVsS":
            for k in range(value + 1, value + 1 + int(aux[value])):
                if aux[k] >= 0:
                    add(written if letter in "vV" else read, int(aux[k]), letter in "VS")
    return read, written


def _csr(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    starts = np.zeros(len(lists) + 1, np.int32)
    starts[1:] = np.cumsum([len(rows) for rows in lists])
    return starts, np.array([row for rows in lists for row in rows] or [0], np.int32)


_VARYING = ("%tid", "%laneid", "%lanemask")


def uniform_instructions(kernel: Kernel) -> np.ndarray:
    """bool[instructions]: results that are the same in every lane, by the flow of values alone (control is ignored, as
    a branch on a varying value rarely surrounds integer work that others share)."""
    varying: set[int] = set()
    results = []
    for inst in kernel.instructions:
        results.append([id(r) for o in inst.operands[:1] for r in registers(o)] if _has_result(inst) else [])
    changed = True
    while changed:
        changed = False
        for inst, targets in zip(kernel.instructions, results, strict=True):
            if not targets or targets[0] in varying or not _varies(inst, varying):
                continue
            varying.update(targets)
            changed = True
    return np.array([bool(t) and t[0] not in varying for t in results])


def _has_result(inst: Instruction) -> bool:
    return inst.name not in ("st", "red", "bra", "exit", "ret") and bool(inst.operands)


def _varies(inst: Instruction, varying: set[int]) -> bool:
    if inst.name in ("elect.sync", "tcgen05.ld", "atom", "ldmatrix", "mma.sync"):
        return True
    if inst.name == "shfl.sync" and "idx" in inst.mods:
        return False
    if inst.name in ("vote.sync", "redux.sync", "activemask"):
        return False
    for operand in inst.operands[1:]:
        for reg in registers(operand):
            if id(reg) in varying or reg.name.startswith(_VARYING):
                return True
    return inst.guard is not None and id(inst.guard[0]) in varying
