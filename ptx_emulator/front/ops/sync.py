"""Control flow, synchronisation and warp-level instructions (PTX ISA 9.7.12, 9.7.13, 9.7.9.6, 9.7.19)."""

from __future__ import annotations

from ...engine import barrier as eb
from ...engine import microcode as mc
from ...engine import state as st
from ...engine.warp import ABS, NAN, REDUCTIONS, SHUFFLES, VOTES
from ...ir import Address, Imm, Pair, Reg, Sink, Symbol
from ...registry import lower, unsupported
from ..emitter import BRANCH_AROUND
from .modifiers import Modifiers, expect_operands

BRANCH_AROUND |= {
    "shfl.sync", "vote.sync", "match.any.sync", "match.all.sync", "redux.sync", "elect.sync", "bar.sync",
    "bar.warp.sync", "barrier.sync", "barrier.cta.sync", "bar.cta.sync", "bar.red", "barrier.red", "bar.cta.red",
    "barrier.cta.red", "bar.arrive", "barrier.arrive", "bar.cta.arrive", "barrier.cta.arrive",
    "barrier.cluster.arrive", "barrier.cluster.wait", "mbarrier.test_wait", "mbarrier.try_wait", "nanosleep",
    "setmaxnreg.inc", "setmaxnreg.dec",
}  # fmt: skip


# Control flow.


@lower("bra")
def _bra(e, inst):
    m = Modifiers(inst)
    m.flag("uni")
    m.done()
    expect_operands(inst, 1)
    target = inst.operands[0]
    if type(target) is not Symbol or target.space != "label":
        raise unsupported(inst, "bra: the target must be a label")
    e.branch(target.name)


@lower("exit", "ret")
def _exit(e, inst):
    m = Modifiers(inst)
    m.flag("uni")
    m.done()
    e.emit(mc.EXIT)


@lower("trap")
def _trap(e, inst):
    Modifiers(inst).done()
    e.emit(mc.TRAP)


# Warp-level instructions.


def _converge(e, inst, members) -> None:
    """The lanes of `members` must all be here."""
    e.emit(mc.CONVERGE, e.r32(members))


@lower("shfl.sync")
def _shfl(e, inst):
    m = Modifiers(inst)
    m.kind("b32")
    mode = m.choice(*SHUFFLES)
    m.done()
    expect_operands(inst, 5)
    d, a, b, c, members = inst.operands
    first, second = (d.first, d.second) if type(d) is Pair else (d, Sink())
    _converge(e, inst, members)
    e.emit(mc.SHFL, e.d32(first), e.d32(second), e.r32(a), e.r32(b), e.r32(c), SHUFFLES.index(mode))


@lower("vote.sync")
def _vote(e, inst):
    m = Modifiers(inst)
    kind = m.kind("pred", "b32")
    mode = m.choice(*VOTES)
    m.done()
    if (kind == "b32") != (mode == "ballot"):
        raise unsupported(inst, f"vote.sync.{mode}.{kind} does not exist")
    expect_operands(inst, 3)
    d, a, members = inst.operands
    source = e.r32(a)
    _converge(e, inst, members)
    e.emit(mc.VOTE, e.d32(d), source, VOTES.index(mode))


@lower("match.any.sync", "match.all.sync")
def _match(e, inst):
    m = Modifiers(inst)
    kind = m.kind("b32", "b64")
    m.done()
    expect_operands(inst, 3)
    d, a, members = inst.operands
    _converge(e, inst, members)
    prefix, row = ("XMATCH", e.r64(a)) if kind == "b64" else ("MATCH", e.r32(a))
    if "any" in inst.name:
        e.emit(getattr(mc, prefix + "_ANY"), e.d32(d), row)
    else:
        first, second = (d.first, d.second) if type(d) is Pair else (d, Sink())
        e.emit(getattr(mc, prefix + "_ALL"), e.d32(first), e.d32(second), row)


@lower("redux.sync")
def _redux(e, inst):
    m = Modifiers(inst)
    kind = m.kind("u32", "s32", "b32", "f32")
    operation = m.choice("add", "min", "max", "and", "or", "xor")
    flags = (ABS if m.flag("abs") else 0) | (NAN if m.flag("NaN") else 0)
    m.done()
    if operation in ("min", "max"):
        operation += "_" + kind[0]
    elif (kind == "b32") != (operation != "add"):
        raise unsupported(inst, f"redux.sync.{operation}.{kind} does not exist")
    if operation not in REDUCTIONS or (flags and kind != "f32"):
        raise unsupported(inst, f"{inst.opcode} does not exist")
    expect_operands(inst, 3)
    d, a, members = inst.operands
    source = e.r32(a)
    _converge(e, inst, members)
    e.emit(mc.REDUX, e.d32(d), source, REDUCTIONS.index(operation), flags)


@lower("elect.sync")
def _elect(e, inst):
    Modifiers(inst).done()
    expect_operands(inst, 2)
    d, members = inst.operands
    if type(d) is not Pair:
        raise unsupported(inst, "elect.sync: the destination must be d|p")
    _converge(e, inst, members)
    e.emit(mc.ELECT, e.d32(d.first), e.d32(d.second))


@lower("activemask")
def _activemask(e, inst):
    Modifiers(inst).kind("b32")
    e.emit(mc.ACTIVE, e.d32(inst.operands[0]))


# Barriers of threads.


@lower("bar.warp.sync")
def _bar_warp(e, inst):
    Modifiers(inst).done()
    expect_operands(inst, 1)
    _converge(e, inst, inst.operands[0])
    e.emit(mc.FENCE, 0)


def _named_operands(e, inst, operands, aligned: bool) -> tuple[int, int, int]:
    """(barrier row, count row, flags)."""
    if aligned:
        e.emit(mc.CONVERGE_ALL)
    if len(operands) > 1:
        return e.r32(operands[0]), e.r32(operands[1]), 0
    return e.r32(operands[0]), e.const32(0), eb.AUTO_COUNT


@lower("bar.sync", "bar.cta.sync", "barrier.sync", "barrier.cta.sync")
def _bar_sync(e, inst):
    m = Modifiers(inst)
    # `bar` is short for `barrier.aligned`.
    aligned = m.flag("aligned") or inst.parts[0] == "bar"
    m.done()
    expect_operands(inst, 1, 2)
    number, count, flags = _named_operands(e, inst, inst.operands, aligned)
    e.emit(mc.BAR_SYNC, number, count, flags)


@lower("bar.arrive", "bar.cta.arrive", "barrier.arrive", "barrier.cta.arrive")
def _bar_arrive(e, inst):
    m = Modifiers(inst)
    aligned = m.flag("aligned") or inst.parts[0] == "bar"
    m.done()
    expect_operands(inst, 2)
    number, count, flags = _named_operands(e, inst, inst.operands, aligned)
    e.emit(mc.BAR_ARRIVE, number, count, flags)


@lower("bar.red", "bar.cta.red", "barrier.red", "barrier.cta.red")
def _bar_red(e, inst):
    m = Modifiers(inst)
    kind = m.kind("pred", "u32")
    aligned = m.flag("aligned") or inst.parts[0] == "bar"
    operation = m.choice("and", "or", "popc")
    m.done()
    if (kind == "u32") != (operation == "popc"):
        raise unsupported(inst, f"{inst.opcode} does not exist")
    expect_operands(inst, 3, 4)
    d, *rest, p = inst.operands
    source = e.r32(p)
    number, count, flags = _named_operands(e, inst, rest, aligned)
    flags |= ("and", "or", "popc").index(operation) << 4
    e.emit(mc.BAR_RED, e.d32(d), source, number, count, flags)


@lower("barrier.cluster.arrive")
def _cluster_arrive(e, inst):
    m = Modifiers(inst)
    semantics = m.choice("release", "relaxed", default="release")
    aligned = m.flag("aligned")
    m.done()
    if aligned:
        e.emit(mc.CONVERGE_ALL)
    e.emit(mc.CLUSTER_ARRIVE, int(semantics == "relaxed"))


@lower("barrier.cluster.wait")
def _cluster_wait(e, inst):
    m = Modifiers(inst)
    m.flag("acquire")
    aligned = m.flag("aligned")
    m.done()
    if aligned:
        e.emit(mc.CONVERGE_ALL)
    e.emit(mc.CLUSTER_WAIT)


# mbarriers.

SHARED = ("shared", "shared::cta", "shared::cluster")


def barrier_row(e, inst, space: str, address) -> int:
    """A row with the 32-bit shared address of a barrier given in `space` ("" is generic)."""
    if type(address) is not Address or address.extra:
        raise unsupported(inst, f"{inst.name}: expected an address [register+offset]")
    base = address.base
    if base is None:
        return e.const32(address.offset)
    if type(base) is Reg and base.is64:
        t, narrow = e.temp64(), e.temp32()
        # Outside the shared window a generic address gives a shared address that no check lets through.
        e.emit(mc.XSUB, t, e.r64(base), e.const64(0 if space else st.SHARED_WINDOW))
        e.emit(mc.XADD, t, t, e.const64(address.offset))
        if not space:
            e.emit(mc.XMIN_U, t, t, e.const64(0xFFFFFFFF))
        e.emit(mc.LOW32, narrow, t)
        return narrow
    if not space:
        raise unsupported(inst, f"{inst.name}: a generic address needs a 64-bit register")
    row = e.r32(base)
    if not address.offset:
        return row
    t = e.temp32()
    e.emit(mc.ADD, t, row, e.const32(address.offset))
    return t


def _space_flag(space: str) -> int:
    """Without a state space the address is generic, which may reach the whole cluster."""
    return eb.CLUSTER_SPACE if space in ("shared::cluster", "") else 0


def _mbarrier(inst, *extra: str) -> tuple[Modifiers, str]:
    """Modifiers with type and state space read."""
    m = Modifiers(inst)
    if m.left and m.left[-1] == "b64":
        m.left.pop()
    elif "b64" not in extra:
        raise unsupported(inst, f"{inst.name}: the type .b64 is missing")
    return m, m.choice(*SHARED, default=" ").strip()


@lower("mbarrier.init", "mbarrier.inval")
def _mbarrier_init(e, inst):
    m, space = _mbarrier(inst)
    m.done()
    row = barrier_row(e, inst, space, inst.operands[0])
    if inst.name == "mbarrier.inval":
        expect_operands(inst, 1)
        e.emit(mc.MB_INVAL, row)
    else:
        expect_operands(inst, 2)
        e.emit(mc.MB_INIT, row, e.r32(inst.operands[1]))


@lower("mbarrier.expect_tx", "mbarrier.complete_tx")
def _mbarrier_tx(e, inst):
    m, space = _mbarrier(inst)
    m.flag("relaxed")
    m.choice("cta", "cluster", default=" ")
    m.done()
    expect_operands(inst, 2)
    op = mc.MB_EXPECT if inst.name == "mbarrier.expect_tx" else mc.MB_COMPLETE
    row = barrier_row(e, inst, space, inst.operands[0])
    e.emit(op, row, e.r32(inst.operands[1]), _space_flag(space))


@lower("mbarrier.arrive", "mbarrier.arrive_drop")
def _mbarrier_arrive(e, inst):
    m, space = _mbarrier(inst)
    expects = m.flag("expect_tx")
    no_complete = m.flag("noComplete")
    m.choice("release", "relaxed", default=" ")
    m.choice("cta", "cluster", default=" ")
    m.done()
    operands = list(inst.operands)
    # A remote arrival has no result; any other may leave it out or sink it.
    result = operands.pop(0) if type(operands[0]) is not Address else Sink()
    if space == "shared::cluster" and type(result) is not Sink:
        raise unsupported(inst, "an arrival at .shared::cluster returns no state")
    if not 1 <= len(operands) <= 2 or (expects or no_complete) and len(operands) != 2:
        raise unsupported(inst, f"{inst.opcode}: {len(inst.operands)} operands")
    row = barrier_row(e, inst, space, operands[0])
    flags = _space_flag(space) | (eb.DROP if inst.name.endswith("_drop") else 0)
    flags |= eb.NO_COMPLETE if no_complete else 0
    count = e.const32(1)
    if expects:
        e.emit(mc.MB_EXPECT, row, e.r32(operands[1]), flags & eb.CLUSTER_SPACE)
    elif len(operands) == 2:
        count = e.r32(operands[1])
    e.emit(mc.MB_ARRIVE, e.d64(result), row, count, flags)


@lower("mbarrier.pending_count")
def _mbarrier_pending(e, inst):
    Modifiers(inst).kind("b64")
    expect_operands(inst, 2)
    e.emit(mc.MB_COUNT, e.d32(inst.operands[0]), e.r64(inst.operands[1]))


@lower("mbarrier.test_wait", "mbarrier.try_wait")
def _mbarrier_wait(e, inst):
    m, space = _mbarrier(inst)
    parity = m.flag("parity")
    m.choice("acquire", "relaxed", default=" ")
    m.choice("cta", "cluster", default=" ")
    m.done()
    if space == "shared::cluster":
        raise unsupported(inst, f"{inst.name} waits on barriers of the own CTA only")
    tries = inst.name == "mbarrier.try_wait"
    expect_operands(inst, 3, *([4] if tries else []))
    done, address, phase = inst.operands[:3]
    if len(inst.operands) == 4 and type(inst.operands[3]) not in (Imm, Reg):
        raise unsupported(inst, "mbarrier.try_wait: the time hint must be a register or number")
    row = barrier_row(e, inst, space, address)
    kind = "MB_TRY" if tries else "MB_TEST"
    if parity:
        e.emit(getattr(mc, kind), e.d32(done), row, e.r32(phase))
    else:
        e.emit(getattr(mc, kind + "_STATE"), e.d32(done), row, e.r64(phase))


# Fences and hints: a warp's accesses are in order but for what it does in other CTAs (machine/remote.py), which must
# be done before a fence is; else they change nothing but what a trace shows. Their modifiers are checked.

FENCES = {
    "fence": {"acq_rel", "sc", "acquire", "release", "cta", "cluster", "gpu", "sys", "sync_restrict::shared::cta",
              "sync_restrict::shared::cluster"},
    "fence.proxy": {"alias", "async", "async.global", "async.shared::cta", "async.shared::cluster", "global",
                    "shared::cta", "shared::cluster"},
    "fence.proxy.async::generic": {"acquire", "release", "sync_restrict::shared::cta",
                                   "sync_restrict::shared::cluster", "cluster"},
    "fence.mbarrier_init": {"release", "cluster"},
    "membar": {"cta", "gl", "sys"},
    "membar.proxy": {"alias"},
    "griddepcontrol": {"launch_dependents"},
    "applypriority": {"global", "L2::evict_normal"},
    "discard": {"global", "L2"},
}  # fmt: skip


@lower(*FENCES)
def _fence(e, inst):
    for mod in inst.mods:
        if mod not in FENCES[inst.name]:
            raise unsupported(inst, f"{inst.name}: modifier .{mod} is not implemented")
    e.emit(mc.FENCE, int(inst.parts[0] in ("fence", "membar") and inst.name != "fence.mbarrier_init"))


@lower("setmaxnreg.inc", "setmaxnreg.dec")
def _setmaxnreg(e, inst):
    m = Modifiers(inst)
    m.kind("u32")
    if not (m.flag("sync") and m.flag("aligned")):
        raise unsupported(inst, "setmaxnreg needs .sync.aligned")
    m.done()
    expect_operands(inst, 1)
    count = inst.operands[0]
    if type(count) is not Imm or not 24 <= count.value <= 256 or count.value % 8:
        raise unsupported(inst, "setmaxnreg: the count must be a multiple of 8 from 24 to 256")
    e.emit(mc.CONVERGE_ALL)


@lower("pmevent")
def _pmevent(e, inst):
    Modifiers(inst).flag("mask")
    e.emit(mc.NOP)
