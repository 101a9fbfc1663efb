"""cvt and cvt.pack (PTX ISA 9.7.9.21)."""

from __future__ import annotations

from ...engine import microcode as mc
from ...engine.convert import SATFINITE
from ...registry import lower, unsupported
from .floating import f32_source, finish_f32
from .modifiers import Modifiers, expect_operands

INTEGER_BITS = {f"{s}{b}": b for s in "su" for b in (8, 16, 32, 64)}
FLOAT_BITS = {"f16": 16, "bf16": 16, "f32": 32, "f64": 64, "tf32": 32}
PAIRS = ("f16x2", "bf16x2", "e4m3x2", "e5m2x2", "e2m1x2", "ue8m0x2")
ROUNDINGS = ("rn", "rz", "rm", "rp", "rna")
INTEGRAL = ("rni", "rzi", "rmi", "rpi")


@lower("cvt")
def _cvt(e, inst):
    m = Modifiers(inst)
    source = m.kind()
    target = m.kind()
    rounding = m.choice(*ROUNDINGS, *INTEGRAL, default="")
    flags = {name: m.flag(name) for name in ("ftz", "sat", "satfinite", "relu")}
    m.done()
    if target in PAIRS or source in PAIRS:
        _pairs(e, inst, target, source, rounding, flags)
        return
    if target not in INTEGER_BITS and target not in FLOAT_BITS:
        raise unsupported(inst, f"cvt: type .{target} is not implemented")
    if source not in INTEGER_BITS and source not in FLOAT_BITS:
        raise unsupported(inst, f"cvt: type .{source} is not implemented")
    expect_operands(inst, 2)
    d, a = inst.operands
    if target in INTEGER_BITS:
        if flags["satfinite"] or flags["relu"]:
            raise unsupported(inst, "cvt: .satfinite and .relu need a floating-point destination")
        if source in INTEGER_BITS:
            if flags["sat"] and _contains(target, source):
                raise unsupported(inst, f"cvt.sat does not exist from .{source} to .{target}, which holds all of it")
            _integer_to_integer(e, target, source, d, a, flags["sat"])
        else:
            _float_to_integer(e, inst, target, source, d, a, rounding, flags["ftz"])
    elif source in INTEGER_BITS:
        _integer_to_float(e, inst, target, source, d, a, rounding)
    else:
        _float_to_float(e, inst, target, source, d, a, rounding, flags)


def _store_integer(e, target: str, d, row: int) -> None:
    """Writes a 32-bit row holding a value of integer type `target` to the register `d`, extended to its width
    (PTX ISA 9.7.9.21: results narrower than the register are sign- or zero-extended)."""
    if getattr(d, "is64", False):
        e.emit(mc.SEXT64 if target.startswith("s") else mc.ZEXT64, e.d64(d), row)
    elif getattr(d, "type", "")[1:] == "16":
        e.emit(mc.ZEXT16, e.d32(d), row)
    else:
        e.emit(mc.MOV, e.d32(d), row)


def _narrow(e, target: str, row: int) -> int:
    """The row cut to `target`'s width, then extended to 32 bits by its sign."""
    op = {"s8": mc.SEXT8, "u8": mc.ZEXT8, "s16": mc.SEXT16, "u16": mc.ZEXT16}.get(target)
    if op is None:
        return row
    t = e.temp32()
    e.emit(op, t, row)
    return t


def _integer_source(e, source: str, a) -> int:
    """A 32-bit row with the operand extended from `source`, or a 64-bit row for 64-bit types."""
    if source.endswith("64"):
        return e.r64(a)
    if getattr(a, "is64", False):
        t = e.temp32()
        e.emit(mc.LOW32, t, e.r64(a))
        return _narrow(e, source, t)
    return _narrow(e, source, e.r32(a))


def _bounds(target: str) -> tuple[int, int]:
    bits = INTEGER_BITS[target]
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if target.startswith("s") else (0, (1 << bits) - 1)


def _contains(target: str, source: str) -> bool:
    """Whether every value of integer type `source` is one of `target`: there is no .sat then (9.7.9.21)."""
    (low, high), (first, last) = _bounds(target), _bounds(source)
    return low <= first and last <= high


def _integer_to_integer(e, target: str, source: str, d, a, saturate: bool) -> None:
    row = _integer_source(e, source, a)
    if saturate:
        row = _clamp(e, target, source, row)
        source = "s64"
    if target.endswith("64"):
        if source.endswith("64"):
            e.emit(mc.XMOV, e.d64(d), row)
        else:
            e.emit(mc.SEXT64 if source.startswith("s") else mc.ZEXT64, e.d64(d), row)
        return
    if source.endswith("64"):
        t = e.temp32()
        e.emit(mc.LOW32, t, row)
        row = t
    _store_integer(e, target, d, _narrow(e, target, row))


def _clamp(e, target: str, source: str, row: int) -> int:
    """A 64-bit row with the value clamped to `target`'s range."""
    if not source.endswith("64"):
        t = e.temp64()
        e.emit(mc.SEXT64 if source.startswith("s") else mc.ZEXT64, t, row)
        row, source = t, "s64"
    low, high = _bounds(target)
    t = e.temp64()
    if source == "u64":
        e.emit(mc.XCLAMP_U, t, row, e.const64(min(high, (1 << 64) - 1)))
    elif target == "u64":
        e.emit(mc.XMAX_S, t, row, e.const64(0))
    else:
        e.emit(mc.XCLAMP_S, t, row, e.const64(low), e.const64(high))
    return t


def _float_to_f32(e, source: str, a, ftz: bool) -> int:
    """An fp32 row with the value of an fp16, bf16 or fp32 operand."""
    if source in ("f32", "tf32"):
        return f32_source(e, a, ftz)
    t = e.temp32()
    e.emit(mc.BF16_F32 if source == "bf16" else mc.F16_F32, t, e.r32(a))
    return t


def _float_to_integer(e, inst, target: str, source: str, d, a, rounding: str, ftz: bool) -> None:
    if rounding not in INTEGRAL:
        raise unsupported(inst, "cvt from float to integer needs .rni, .rzi, .rmi or .rpi")
    mode = INTEGRAL.index(rounding)
    name = ("F64" if source == "f64" else "F32") + "_"
    row = e.r64(a, f64=True) if source == "f64" else _float_to_f32(e, source, a, ftz)
    if target.endswith("64"):
        e.emit(getattr(mc, name + target.upper()), e.d64(d), row, mode)
        return
    t = e.temp32()
    if target in ("s32", "u32"):
        e.emit(getattr(mc, name + target.upper()), t, row, mode)
    else:
        e.emit(getattr(mc, name + "S32"), t, row, mode)
        low, high = _bounds(target)
        e.emit(mc.CLAMP_S, t, t, e.const32(low), e.const32(high))
    _store_integer(e, target, d, t)


def _integer_to_float(e, inst, target: str, source: str, d, a, rounding: str) -> None:
    if rounding not in ROUNDINGS[:4]:
        raise unsupported(inst, "cvt from integer to float needs .rn, .rz, .rm or .rp")
    mode = ROUNDINGS.index(rounding)
    row = _integer_source(e, source, a)
    wide = source.endswith("64")
    kind = f"{'S' if source.startswith('s') else 'U'}{'64' if wide else '32'}"
    if target == "f64":
        e.emit(getattr(mc, f"{kind}_F64"), e.d64(d), row, *([mode] if wide else []))
    elif target == "f32" and not wide and mode == 0:
        e.emit(getattr(mc, f"CVT_{kind}_F32"), e.d32(d), row)
    elif target == "f32":
        e.emit(getattr(mc, f"{kind}_F32"), e.d32(d), row, mode)
    elif target in ("f16", "bf16"):
        if wide:
            raise unsupported(inst, f"cvt from .{source} to .{target} is not implemented")
        # Exact in fp64, then rounded once.
        t = e.temp64()
        e.emit(getattr(mc, f"{kind}_F64"), t, row)
        e.emit(mc.F64_F16 if target == "f16" else mc.F64_BF16, e.d32(d), t, mode)
    else:
        raise unsupported(inst, f"cvt from .{source} to .{target} does not exist")


def _float_to_float(e, inst, target: str, source: str, d, a, rounding: str, flags: dict[str, bool]) -> None:
    ftz, saturate = flags["ftz"], flags["sat"]
    if source == "f64":
        if target == "f64":
            if rounding not in INTEGRAL:
                raise unsupported(inst, "cvt.f64.f64 needs .rni, .rzi, .rmi or .rpi")
            e.emit(mc.DRND, e.d64(d), e.r64(a, f64=True), INTEGRAL.index(rounding))
            return
        op = {"f32": mc.F64_F32, "f16": mc.F64_F16, "bf16": mc.F64_BF16}.get(target)
        if op is None or rounding not in ROUNDINGS[:4] or flags["relu"] or flags["satfinite"]:
            raise unsupported(inst, f"cvt from .f64 to .{target}: form is not implemented")
        row = e.d32(d)
        if target == "f32" and rounding == "rn":
            e.emit(mc.CVT_F64_F32, row, e.r64(a, f64=True))
        else:
            e.emit(op, row, e.r64(a, f64=True), ROUNDINGS.index(rounding))
        if target == "f32":
            finish_f32(e, row, ftz, saturate)
        return
    row = _float_to_f32(e, source, a, ftz)
    if saturate:
        t = e.temp32()
        e.emit(mc.FSAT, t, row)
        row = t
    if target == "f64":
        e.emit(mc.F32_F64, e.d64(d), row)
    elif target == "f32":
        if rounding in INTEGRAL:
            e.emit(mc.FRND, e.d32(d), row, INTEGRAL.index(rounding))
        elif rounding:
            raise unsupported(inst, f"cvt.{rounding} from .{source} to .f32 does not exist")
        else:
            e.emit(mc.MOV, e.d32(d), row)
    else:
        _to_small(e, inst, target, e.d32(d), row, rounding, flags)


def _to_small(e, inst, target: str, row_d: int, row: int, rounding: str, flags: dict[str, bool]) -> None:
    """fp32 row to fp16, bf16 or tf32."""
    if rounding in INTEGRAL and target in ("f16", "bf16"):
        t = e.temp32()
        e.emit(mc.FRND, t, row, INTEGRAL.index(rounding))
        row, rounding = t, "rn"
    allowed = ("rn", "rz", "rna") if target == "tf32" else ("rn", "rz", "rm", "rp")
    if rounding not in allowed:
        raise unsupported(inst, f"cvt to .{target} needs one of {', '.join('.' + r for r in allowed)}")
    if flags["relu"]:
        t = e.temp32()
        e.emit(mc.FRELU, t, row)
        row = t
    mode = ROUNDINGS.index(rounding) | (SATFINITE if flags["satfinite"] else 0)
    if mode == 0 and target != "tf32":
        e.emit(mc.CVT_F16 if target == "f16" else mc.CVT_BF16, row_d, row)
        return
    op = {"f16": mc.F32_F16, "bf16": mc.F32_BF16, "tf32": mc.F32_TF32}[target]
    e.emit(op, row_d, row, mode)


def _pairs(e, inst, target: str, source: str, rounding: str, flags: dict[str, bool]) -> None:
    """Packed forms. With two sources the first becomes the upper half."""
    d, *sources = inst.operands
    if flags["sat"] or flags["ftz"]:
        raise unsupported(inst, "cvt: .sat and .ftz are not implemented for packed types")
    if source == "f32" and len(sources) == 2:
        halves = []
        for operand in sources:
            t = e.temp32()
            if target in ("f16x2", "bf16x2"):
                _to_small(e, inst, target[:-2], t, e.r32(operand, f32=True), rounding, flags)
            else:
                _to_byte(e, inst, target, t, e.r32(operand, f32=True), rounding, flags)
            halves.append(t)
        upper, lower_half = halves
        if target in ("f16x2", "bf16x2"):
            e.emit(mc.PACK16, e.d32(d), lower_half, upper)
        else:
            bits = 4 if target == "e2m1x2" else 8
            e.emit(mc.SHL, upper, upper, e.const32(bits))
            e.emit(mc.OR, e.d32(d), upper, lower_half)
        return
    if target == "f16x2" and source in ("e4m3x2", "e5m2x2", "e2m1x2"):
        if rounding != "rn" or flags["satfinite"]:
            raise unsupported(inst, f"cvt to .f16x2 from .{source} needs .rn")
        bits = 4 if source == "e2m1x2" else 8
        op = {"e4m3x2": mc.E4M3_F16, "e5m2x2": mc.E5M2_F16, "e2m1x2": mc.E2M1_F16}[source]
        low, high, shifted = e.temp32(), e.temp32(), e.temp32()
        row = e.r32(sources[0])
        masked = e.temp32()
        e.emit(mc.AND, masked, row, e.const32((1 << bits) - 1))
        e.emit(op, low, masked)
        e.emit(mc.SHR_U, shifted, row, e.const32(bits))
        e.emit(mc.AND, shifted, shifted, e.const32((1 << bits) - 1))
        e.emit(op, high, shifted)
        e.emit(mc.PACK16, e.d32(d), low, high)
        if flags["relu"]:
            e.emit(mc.HRELU, e.d32(d), e.d32(d), 4)
        return
    if source in ("f16x2", "bf16x2") and target in ("e4m3x2", "e5m2x2") and len(sources) == 1:
        row, halves = e.r32(sources[0]), []
        widen = mc.F16_F32 if source == "f16x2" else mc.BF16_F32
        for high in (False, True):
            part, t = e.temp32(), e.temp32()
            e.emit(mc.HIGH16 if high else mc.ZEXT16, part, row)
            e.emit(widen, part, part)
            _to_byte(e, inst, target, t, part, rounding, flags)
            halves.append(t)
        e.emit(mc.SHL, halves[1], halves[1], e.const32(8))
        e.emit(mc.OR, e.d32(d), halves[0], halves[1])
        return
    raise unsupported(inst, f"cvt from .{source} to .{target} is not implemented")


def _to_byte(e, inst, target: str, row_d: int, row: int, rounding: str, flags: dict[str, bool]) -> None:
    """fp32 row to an 8-bit or 4-bit format."""
    if not flags["satfinite"]:
        raise unsupported(inst, f"cvt to .{target} needs .satfinite")
    if flags["relu"]:
        t = e.temp32()
        e.emit(mc.FRELU, t, row)
        row = t
    if target == "ue8m0x2":
        if rounding not in ("rz", "rp"):
            raise unsupported(inst, "cvt to .ue8m0x2 needs .rz or .rp")
        e.emit(mc.F32_UE8M0, row_d, row, ROUNDINGS.index(rounding))
        return
    if rounding != "rn":
        raise unsupported(inst, f"cvt to .{target} needs .rn")
    op = {"e4m3x2": mc.F32_E4M3, "e5m2x2": mc.F32_E5M2, "e2m1x2": mc.F32_E2M1}.get(target)
    if op is None:
        raise unsupported(inst, f"cvt to .{target} is not implemented")
    e.emit(op, row_d, row)
