"""Loads, stores, atomics, address conversions and prefetches (PTX ISA 9.7.9)."""

from __future__ import annotations

from ...engine import microcode as mc
from ...engine import state as st
from ...engine.atomic import ATOMICS
from ...engine.memory import GENERIC, HOST, LOCAL, SHARED_CLUSTER, SHARED_CTA
from ...ir import Address, Imm, Reg, Sink, Symbol, Vector, type_bytes
from ...registry import lower, unsupported
from ..emitter import SINK_ROW
from .modifiers import Modifiers, expect_operands

SPACES = {
    "global": HOST,
    "param": HOST,
    "param::entry": HOST,
    "param::func": LOCAL,
    "const": HOST,
    "shared": SHARED_CTA,
    "shared::cta": SHARED_CTA,
    "shared::cluster": SHARED_CLUSTER,
    "local": LOCAL,
    "": GENERIC,
}
SEMANTICS = ("weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "mmio")
SCOPES = ("cta", "cluster", "gpu", "sys")
# Modifiers that only steer caches.
CACHE = {
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "nc",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
    "L2::evict_normal",
    "L2::evict_last",
    "L2::evict_first",
    "L2::cache_hint",
    "L2::64B",
    "L2::128B",
    "L2::256B",
    "unified",
}
ELEMENTS = ("b8", "b16", "b32", "b64", "b128", "u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "f32", "f64")


def resolve(e, inst, space: str, address, nbytes: int, *, write: bool) -> None:
    """Emits the address check of an access of `nbytes`, naturally aligned, in `space` ("" is generic)."""
    if type(address) is not Address or address.extra:
        raise unsupported(inst, f"{inst.name}: expected an address [register+offset]")
    access = nbytes | nbytes << 8 | int(write) << 16
    code = SPACES[space]
    base, offset = address.base, address.offset
    if type(base) is Symbol:
        declared = e.symbols[base.name].space if base.name in e.symbols else None
        if declared == "param::func" and space == "param":
            space, code = declared, LOCAL
        wanted = {"": declared, "shared::cta": "shared", "shared::cluster": "shared", "param::entry": "param"}
        if (
            declared is None
            or declared != wanted.get(space, space)
            or (space == "" and code == GENERIC and declared in ("shared", "local"))
        ):
            raise unsupported(inst, f"{base.name} is not a variable of space .{space or 'generic'}")
    elif base is not None and type(base) is not Reg:
        raise unsupported(inst, f"{inst.name}: address base {base!r} is not implemented")
    if base is None:
        e.emit(mc.ADDR64, e.const64(offset), 0, code, access)
    elif type(base) is Symbol or base.is64:
        e.emit(mc.ADDR64, e.r64(base), offset, code, access)
    elif code in (HOST, GENERIC):
        raise unsupported(inst, f"{inst.name}: a 32-bit register cannot hold a .{space or 'generic'} address")
    else:
        e.emit(mc.ADDR32, e.r32(base), offset, code, access)


def _qualifiers(inst, keep: tuple[str, ...] = ()) -> tuple[str, list[str]]:
    """(state space, parts that are neither semantics, scope, space nor cache qualifier)."""
    space, rest = "", []
    for part in inst.mods:
        if part in SPACES:
            if space:
                raise unsupported(inst, f"{inst.name}: two state spaces")
            space = part
        elif part not in SEMANTICS and part not in SCOPES and part not in CACHE or part in keep:
            rest.append(part)
    return space, rest


def _vector_type(inst, rest: list[str]) -> tuple[int, str]:
    """(elements, element type) from what is left of the opcode."""
    count = 1
    if rest and rest[0] in ("v2", "v4", "v8"):
        count = int(rest.pop(0)[1:])
    if len(rest) != 1 or rest[0] not in ELEMENTS:
        raise unsupported(inst, f"{inst.name}: .{'.'.join(rest)} is not implemented")
    return count, rest[0]


def _elements(inst, operand, count: int) -> tuple:
    elements = operand.elements if type(operand) is Vector else (operand,)
    if len(elements) != count:
        raise unsupported(inst, f"{inst.name}: a vector of {len(elements)}, expected {count}")
    return elements


def _check_size(inst, count: int, kind: str) -> int:
    nbytes = count * type_bytes(kind)
    if nbytes > 32:
        raise unsupported(inst, f"{inst.name}: an access of {nbytes} bytes")
    return nbytes


def _release(e, inst) -> None:
    """What the warp did in other CTAs' shared memory comes first."""
    if "release" in inst.mods or "acq_rel" in inst.mods:
        e.emit(mc.FENCE, 1)


@lower("ld", "ldu")
def _ld(e, inst):
    space, rest = _qualifiers(inst)
    count, kind = _vector_type(inst, rest)
    _cache_policy(inst, 2)
    d, address = inst.operands[:2]
    nbytes = _check_size(inst, count, kind)
    elements = _elements(inst, d, count)
    resolve(e, inst, space, address, nbytes, write=False)
    if kind == "b128":
        rows = []
        for element in elements:
            rows += [SINK_ROW] * 2 if type(element) is Sink else [e.row(element), e.row(element) + 1]
        e.emit(mc.LDX, e.vector(rows), 8)
        return
    size, signed = type_bytes(kind), int(kind in ("s8", "s16", "s32"))
    registers = [el for el in elements if type(el) is not Sink]
    wide = any(r.is64 for r in registers)
    if any(r.is64 != wide for r in registers):
        raise unsupported(inst, f"{inst.name}: registers of different widths in one vector")
    if size == 8 and not wide and registers:
        raise unsupported(inst, f"{inst.name}: {registers[0].name} is too narrow for .{kind}")
    rows = [SINK_ROW if type(el) is Sink else (e.d64(el) if wide else e.d32(el)) for el in elements]
    if signed and not wide and any(r.type.endswith("16") for r in registers):
        signed = 2
    if wide:
        e.emit(mc.LDX, e.vector(rows), size | (1 if signed else 0) << 8)
    else:
        e.emit(mc.LD, e.vector(rows), size | (signed if size < 4 else 0) << 8)


def _cache_policy(inst, count: int) -> None:
    """A cache-policy operand may follow, exactly when .L2::cache_hint is there."""
    expected = count + ("L2::cache_hint" in inst.mods)
    if len(inst.operands) != expected:
        raise unsupported(inst, f"{inst.name}: {len(inst.operands)} operands, expected {expected}")


@lower("st")
def _st(e, inst):
    space, rest = _qualifiers(inst)
    count, kind = _vector_type(inst, rest)
    _cache_policy(inst, 2)
    address, values = inst.operands[:2]
    of_call = type(address) is Address and type(address.base) is Symbol and address.base.space == "param::func"
    if space in ("const", "param", "param::entry") and not (space == "param" and of_call):
        raise unsupported(inst, f"st.{space} of an entry's memory is read-only")
    _release(e, inst)
    nbytes = _check_size(inst, count, kind)
    elements = _elements(inst, values, count)
    if kind == "b128":
        rows = [e.row(el) + half for el in elements for half in (0, 1)]
        resolve(e, inst, space, address, nbytes, write=True)
        e.emit(mc.STX, e.vector(rows), 8)
        return
    size = type_bytes(kind)
    wide = size == 8 or any(type(el) is Reg and el.is64 for el in elements)
    if wide:
        rows = [e.r64(el, f64=kind == "f64") for el in elements]
    else:
        rows = [e.r32(el, f32=kind == "f32") for el in elements]
    resolve(e, inst, space, address, nbytes, write=True)
    e.emit(mc.STX if wide else mc.ST, e.vector(rows), size)


ATOM_TYPES = ("b16", "b32", "b64", "b128", "u32", "s32", "u64", "s64", "f16", "f16x2", "bf16", "bf16x2", "f32", "f64")


def _atomic_kind(inst, operation: str, kind: str) -> str:
    if operation in ("and", "or", "xor", "exch", "cas"):
        if kind not in ("b32", "b64", "b16"):
            raise unsupported(inst, f"{inst.name}.{operation} of .{kind} is not implemented")
        return operation
    if operation in ("inc", "dec"):
        return operation
    if kind in ("u32", "s32", "u64", "s64"):
        return operation if operation == "add" else f"{operation}_{kind[0]}"
    return f"{operation}_{kind}"


@lower("atom", "red")
def _atomic(e, inst):
    returns = inst.name == "atom"
    space, rest = _qualifiers(inst)
    if space not in ("", "global", "shared", "shared::cta", "shared::cluster"):
        raise unsupported(inst, f"{inst.name}.{space} does not exist")
    _release(e, inst)
    kind = rest.pop() if rest else ""
    operation = rest.pop(0) if rest else ""
    if "noftz" in rest:
        rest.remove("noftz")
    count = int(rest.pop(0)[1:]) if rest and rest[0] in ("v2", "v4", "v8") else 1
    if rest or kind not in ATOM_TYPES:
        raise unsupported(inst, f"{inst.name}: .{'.'.join([*rest, kind])} is not implemented")
    name = _atomic_kind(inst, operation, kind)
    if name not in ATOMICS:
        raise unsupported(inst, f"{inst.name}.{operation} of .{kind} is not implemented")
    size, wide = type_bytes(kind), type_bytes(kind) == 8
    if wide and operation in ("inc", "dec"):
        raise unsupported(inst, f"{inst.name}.{operation} needs .u32")
    operands = list(inst.operands)
    destinations = operands.pop(0) if returns else None
    address, values = operands[0], operands[1]
    third = operands[2] if operation == "cas" else values
    _cache_policy(inst, 2 + returns + (operation == "cas"))
    read = (lambda o: e.r64(o, f64=kind == "f64")) if wide else (lambda o: e.r32(o, f32=kind == "f32"))
    sources = [
        (read(b), read(c)) for b, c in zip(_elements(inst, values, count), _elements(inst, third, count), strict=True)
    ]
    results = _elements(inst, destinations, count) if returns else (Sink(),) * count
    resolve(e, inst, space, address, _check_size(inst, count, kind), write=True)
    for i, (result, (b, c)) in enumerate(zip(results, sources, strict=True)):
        row = e.d64(result) if wide else e.d32(result)
        e.emit(mc.XATOM if wide else mc.ATOM, row, b, c, ATOMICS.index(name), size | i * size << 8)


@lower("cvta")
def _cvta(e, inst):
    m = Modifiers(inst)
    m.kind("u64")
    to = m.flag("to")
    space = m.choice("global", "shared", "shared::cta", "shared::cluster", "local", "param", "param::entry", "const")
    m.done()
    expect_operands(inst, 2)
    d, a = inst.operands
    window = st.SHARED_WINDOW if space.startswith("shared") else st.LOCAL_WINDOW if space == "local" else 0
    if not window:
        e.emit(mc.XMOV, e.d64(d), e.r64(a))
    elif to:
        e.emit(mc.XSUB, e.d64(d), e.r64(a), e.const64(window))
    else:
        e.emit(mc.XADD, e.d64(d), e.r64(a), e.const64(window))


@lower("isspacep")
def _isspacep(e, inst):
    m = Modifiers(inst)
    space = m.choice("global", "shared", "shared::cta", "shared::cluster", "local", "const", "param", "param::entry")
    m.done()
    expect_operands(inst, 2)
    p, a = inst.operands
    row, t = e.r64(a), e.temp64()
    if space == "global":
        e.emit(mc.XSLT_U, e.d32(p), row, e.const64(st.SHARED_WINDOW))
    elif space in ("shared", "shared::cta"):
        rank = e.temp64()
        e.emit(mc.ZEXT64, rank, e.special32("%cluster_ctarank"))
        e.emit(mc.XSUB, t, row, e.const64(st.SHARED_WINDOW))
        e.emit(mc.XSHR_U, t, t, e.const32(st.RANK_SHIFT))
        e.emit(mc.XSEQ, e.d32(p), t, rank)
    elif space in ("shared::cluster", "local"):
        e.emit(mc.XSUB, t, row, e.const64(st.LOCAL_WINDOW if space == "local" else st.SHARED_WINDOW))
        e.emit(mc.XSLT_U, e.d32(p), t, e.const64(st.WINDOW_BYTES))
    else:
        raise unsupported(inst, f"isspacep.{space} is not implemented: such addresses are global here")


@lower("mapa")
def _mapa(e, inst):
    m = Modifiers(inst)
    kind = m.kind("u32", "u64")
    shared = m.flag("shared::cluster")
    m.done()
    expect_operands(inst, 3)
    d, a, b = inst.operands
    if kind == "u32":
        if not shared:
            raise unsupported(inst, "mapa.u32 needs .shared::cluster: generic addresses have 64 bits")
        offset, rank = e.temp32(), e.temp32()
        e.emit(mc.AND, offset, e.r32(a), e.const32(st.OFFSET_MASK))
        e.emit(mc.SHL, rank, e.r32(b), e.const32(st.RANK_SHIFT))
        e.emit(mc.OR, e.d32(d), offset, rank)
        return
    kept, rank = e.temp64(), e.temp64()
    e.emit(mc.XAND, kept, e.r64(a), e.const64(~(0xFF << st.RANK_SHIFT)))
    e.emit(mc.ZEXT64, rank, e.r32(b))
    e.emit(mc.XSHL, rank, rank, e.const32(st.RANK_SHIFT))
    e.emit(mc.XOR64, e.d64(d), kept, rank)


@lower("getctarank")
def _getctarank(e, inst):
    m = Modifiers(inst)
    kind = m.kind("u32", "u64")
    m.flag("shared::cluster")
    m.done()
    expect_operands(inst, 2)
    d, a = inst.operands
    if kind == "u32":
        e.emit(mc.SHR_U, e.d32(d), e.r32(a), e.const32(st.RANK_SHIFT))
        return
    t, narrow = e.temp64(), e.temp32()
    e.emit(mc.XSHR_U, t, e.r64(a), e.const32(st.RANK_SHIFT))
    e.emit(mc.LOW32, narrow, t)
    e.emit(mc.AND, e.d32(d), narrow, e.const32(0xFF))


@lower("prefetch", "prefetchu")
def _prefetch(e, inst):
    m = Modifiers(inst)
    m.choice("global", "local", default=" ")
    m.choice("L1", "L2", "L2::evict_last", "L2::evict_normal")
    m.done()
    if type(inst.operands[0]) is not Address:
        raise unsupported(inst, "prefetch: expected an address")
    e.emit(mc.NOP)


@lower("createpolicy")
def _createpolicy(e, inst):
    """A cache policy has no effect here; its register holds 0."""
    known = {"fractional", "range", "b64", "global"} | {x for x in CACHE if x.startswith("L2::")}
    known |= {"L2::evict_unchanged"}
    for mod in inst.mods:
        if mod not in known:
            raise unsupported(inst, f"createpolicy: modifier .{mod} is not implemented")
    e.emit(mc.XMOV, e.d64(inst.operands[0]), e.const64(0))


@lower("nanosleep")
def _nanosleep(e, inst):
    Modifiers(inst).kind("u32")
    if type(inst.operands[0]) not in (Imm, Reg):
        raise unsupported(inst, "nanosleep: expected a register or number")
    e.emit(mc.YIELD)
