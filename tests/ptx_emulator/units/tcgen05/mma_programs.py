"""PTX programs around tcgen05.mma: operands get into shared memory by TMA, products out of Tensor Memory by tcgen05.ld.

Descriptors, swizzles and TMA's placement are so checked against each other.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import torch

from ptx_emulator.units.tma.tensormap import TensorMap

from ...helpers import aligned, kernel, pointer, run, wait

K = 64  # elements of K of every 16-bit problem: four K steps
A_BASE, B_BASE = 0x800, 0x800 + 32768  # absolute shared offsets
CODES = {"none": 0, "128B_atom_32B": 1, "128B": 2, "64B": 4, "32B": 6}
SPANS = {"none": 16, "32B": 32, "64B": 64, "128B": 128, "128B_atom_32B": 128}
TYPES = {
    "f16": (0, "f16", 2),
    "bf16": (1, "bf16", 2),
    "tf32": (2, "f32", 4),
    "e4m3": (0, "u8", 1),
    "e5m2": (1, "u8", 1),
    "e2m3": (3, "u8", 1),
    "e3m2": (4, "u8", 1),
    "e2m1": (5, "u8", 1),
    "u8": (0, "u8", 1),
    "s8": (1, "u8", 1),
}
KINDS = {"f16": "f16", "bf16": "f16", "tf32": "tf32", "e4m3": "f8f6f4", "e5m2": "f8f6f4"}
TORCH = {
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "tf32": torch.float32,
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}


def to_bits(values: np.ndarray, name: str) -> np.ndarray:
    """Container bits of float values, rounded to nearest."""
    tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(TORCH[name])
    width = TYPES[name][2]
    return tensor.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[width]).numpy().view(f"u{width}")


@dataclass
class Placed:
    """An operand [rows, K] in shared memory: the tensor map, its boxes (coordinates, offset), descriptors by step."""

    data: np.ndarray
    tensor: TensorMap
    copies: list
    descriptors: list
    keep: object = field(default=None, repr=False)


def place(bits: np.ndarray, name: str, base: int, mn_major: bool, swizzle: str) -> Placed:
    """Boxes of one swizzle span (or one 16-byte column) laid out one after the other from `base`."""
    rows, k = bits.shape
    size = TYPES[name][2]
    span = SPANS[swizzle]
    per_span = span // size
    content = np.ascontiguousarray(bits.T if mn_major else bits)
    data = aligned(content.nbytes)
    data[:] = content.reshape(-1).view(np.uint8)
    outer, inner = content.shape
    tensor = TensorMap(
        data.ctypes.data, TYPES[name][1], (inner, outer), (inner * size,), (per_span, outer), swizzle=swizzle
    )
    box = span * outer
    copies = [((i * per_span, 0), base + i * box) for i in range(inner // per_span)]
    step = 32 // size
    descriptors = []
    for first in range(0, k, step):
        if mn_major:
            group = 4 if swizzle == "128B_atom_32B" else 8
            start, along_k, along_mn = base + first * span, group * span, box
            lbo, sbo = (along_k, along_mn) if swizzle == "none" else (along_mn, along_k)
        elif swizzle == "none":
            start, lbo, sbo = base + first // per_span * box, box, 8 * span
        else:
            start = base + first // per_span * box + first % per_span * size
            lbo, sbo = 0, 8 * span
        descriptors.append(start >> 4 | lbo >> 4 << 16 | sbo >> 4 << 32 | 1 << 46 | CODES[swizzle] << 61)
    return Placed(data, tensor, copies, descriptors)


def idesc(m, n, a, b=None, d="f32", a_mn=False, b_mn=False, negate=(False, False)):
    b = b or a
    return (
        {"f16": 0, "f32": 1, "s32": 2}[d] << 4
        | TYPES[a][0] << 7
        | TYPES[b][0] << 10
        | negate[0] << 13
        | negate[1] << 14
        | a_mn << 15
        | b_mn << 16
        | n >> 3 << 17
        | m >> 4 << 24
    )


def program(
    a, b, descriptor, kind, *, ws=False, group=1, columns=256, a_words=0, extra="", tail=None, first="0", scale=""
):
    """Load the operands, multiply all steps, and write the first `columns` of Tensor Memory to out[CTA, lane].

    With `a_words`, Tensor Memory columns 256.. are first filled from a_tmem[CTA, lane]; without `a`, A is there.
    `descriptor` and `tail` (the operands after it): one of each, or lists with one for every step.
    """
    steps = len(b.descriptors)
    name = f"tcgen05.mma{'.ws' if ws else ''}.cta_group::{group}.kind::{kind}{extra}"
    lines = []
    tails = tail if isinstance(tail, list) else [tail or ""] * steps
    descriptors = descriptor if isinstance(descriptor, list) else [descriptor] * steps
    for step in range(steps):
        lines.append(f"mov.b32 %r21, {descriptors[step]};")
        lines.append(f"mov.b64 %rd10, {b.descriptors[step]};")
        if a is None:
            lines.append(f"add.u32 %r20, %r3, {256 + 8 * step};")
            operand = "[%r20]"
        else:
            lines.append(f"mov.b64 %rd11, {a.descriptors[step]};")
            operand = "%rd11"
        lines.append(f"setp.ne.u32 %p3, {first if step == 0 else 1}, 0;")
        lines.append(f"{name} [%r3], {operand}, %rd10, %r21{tails[step]}, %p3{scale};")
    loads = []
    for register, placed in (("%rd4", a), ("%rd5", b)):
        for coordinates, offset in placed.copies if placed else ():
            loads.append(
                f"cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1+"
                f"{offset - 0x400}], [{register}, {{{coordinates[0]}, {coordinates[1]}}}], [%r1];"
            )
    nbytes = sum(p.tensor.box_bytes * len(p.copies) for p in (a, b) if p)
    fill = ""
    if a_words:
        words = [
            f"ld.global.b32 %r{100 + i}, [%rd7+{4 * i}];\nadd.u32 %r20, %r5, {256 + i};\n"
            f"tcgen05.st.sync.aligned.32x32b.x1.b32 [%r20], {{%r{100 + i}}};"
            for i in range(a_words)
        ]
        words.append("tcgen05.wait::st.sync.aligned;\n")
        fill = f"mad.wide.u32 %rd7, %r9, {4 * a_words}, %rd7;\n" + "\n".join(words)
    pair = group == 2
    commit = "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r8];"
    if pair:
        commit = (
            "mov.u16 %rs1, 3;\ntcgen05.commit.cta_group::2.mbarrier::arrive::one.shared::cluster"
            ".multicast::cluster.b64 [%r8], %rs1;"
        )
    cluster_sync = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" if pair else "bar.sync 0;"
    reads = f"""
    add.u32 %r31, %r5, {columns};
READ:
    tcgen05.ld.sync.aligned.32x32b.x1.b32 {{%r30}}, [%r5];
    tcgen05.wait::ld.sync.aligned;
    st.global.b32 [%rd6], %r30;
    add.u64 %rd6, %rd6, 4;
    add.u32 %r5, %r5, 1;
    setp.lt.u32 %p4, %r5, %r31;
    @%p4 bra READ;"""
    return kernel(
        ".param .align 64 .b8 map_a[256], .param .align 64 .b8 map_b[256], .param .u64 out, .param .u64 a_tmem",
        f"""
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, smem;
    mov.u32 %r6, %cluster_ctarank;
    mov.b64 %rd4, map_a;
    cvta.param.u64 %rd4, %rd4;
    mov.b64 %rd5, map_b;
    cvta.param.u64 %rd5, %rd5;
    mul.wide.u32 %rd8, %r6, 128;
    add.u64 %rd4, %rd4, %rd8;
    add.u64 %rd5, %rd5, %rd8;
    ld.param.u64 %rd6, [out];
    ld.param.u64 %rd7, [a_tmem];
    mad.lo.u32 %r9, %r6, 128, %r0;
    mad.wide.u32 %rd6, %r9, {4 * columns}, %rd6;
    add.u32 %r8, %r1, 8;
    shr.u32 %r2, %r0, 5;
    setp.ne.u32 %p0, %r2, 0;
    setp.ne.u32 %p1, %r0, 0;
    @%p0 bra ALLOCATED;
    tcgen05.alloc.cta_group::{group}.sync.aligned.shared::cta.b32 [%r1+16], 512;
ALLOCATED:
    @%p1 bra READY;
    mbarrier.init.shared.b64 [%r1], 1;
    mbarrier.init.shared.b64 [%r8], 1;
    fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared.b64 _, [%r1], {nbytes};
    {chr(10).join(loads)}
READY:
    bar.sync 0;
    ld.shared.b32 %r3, [%r1+16];
    and.b32 %r4, %r2, 3;
    shl.b32 %r4, %r4, 21;
    add.u32 %r5, %r3, %r4;
    {fill}
    {wait("%r1")}
    {cluster_sync}
    setp.ne.u32 %p2, %r6, 0;
    or.pred %p2, %p2, %p1;
    @%p2 bra ISSUED;
    {chr(10).join(lines)}
    {commit}
ISSUED:
    {wait("%r8", label="DONE")}
    {reads}
    {cluster_sync}
    @%p0 bra FREED;
    tcgen05.dealloc.cta_group::{group}.sync.aligned.b32 %r3, 512;
FREED:""",
        words=480,
    )


def execute(ptx, a, b, *, columns=256, a_tmem=None, order="in_order"):
    """a, b: one Placed (or None) per CTA. Returns uint32 [CTAs, 128, columns].

    An in-order launch is repeated: the second one finds what the first has learnt about the descriptors, and must come
    to the same result without the handler.
    """
    result = execute_once(ptx, a, b, columns, a_tmem, order)
    if order == "in_order":
        np.testing.assert_array_equal(execute_once(ptx, a, b, columns, a_tmem, order), result)
    return result


def execute_once(ptx, a, b, columns, a_tmem, order):
    ctas = len(b)
    out = aligned(ctas * 128 * columns * 4, np.uint32)
    out[:] = 0xDEADBEEF
    words = aligned(a_tmem.nbytes, np.uint32) if a_tmem is not None else aligned(16, np.uint32)
    if a_tmem is not None:
        words[:] = a_tmem.reshape(-1)
    maps = [b"".join(p.tensor.to_bytes() if p else bytes(128) for p in operand).ljust(256, b"\0") for operand in (a, b)]
    buffers = [out, words] + [p.data for p in (*a, *b) if p]
    run(
        ptx,
        [*maps, pointer(out), pointer(words)],
        buffers,
        order=order,
        grid=(ctas, 1, 1),
        cluster=(ctas, 1, 1),
        shared_bytes=100 * 1024,
        seed=5,
    )
    return out.reshape(ctas, 128, columns)


def integers(rng, shape):
    return rng.integers(-4, 5, shape).astype(np.float32)


def expected_tmem(d, m, n, ws, columns=256):
    """uint32 [128, columns]: the bits of D where 9.7.16.10.5 places them in one CTA; poison elsewhere."""
    memory = np.full((128, columns), 0xFFFFFFFF, np.uint32)
    bits = d.astype(np.float32).view(np.uint32)
    for i, j in itertools.product(range(d.shape[0]), range(n)):
        if m == 64 and not ws:
            lane, column = i // 16 * 32 + i % 16, j
        else:
            part = n // (128 // d.shape[0])
            lane, column = i + d.shape[0] * (j // part), j % part
        memory[lane, column] = bits[i, j]
    return memory


ELEMENT_BITS = {"e4m3": 8, "e5m2": 8, "e2m3": 6, "e3m2": 6, "e2m1": 4}


def shared_bytes(codes: np.ndarray, name: str) -> np.ndarray:
    """Element codes [rows, K] as they lie in shared memory: 16 elements without gaps, then padding to 16 bytes."""
    bits = ELEMENT_BITS[name]
    if bits == 8:
        return codes
    rows, k = codes.shape
    groups = codes.reshape(rows, k // 16, 16)
    streams = np.unpackbits(groups[..., None], axis=-1, bitorder="little")[..., :bits].reshape(rows, k // 16, -1)
    packed = np.packbits(streams, axis=-1, bitorder="little")
    result = np.full((rows, k // 16, 16), 0xAA, np.uint8)  # whatever lies in the padding
    result[..., : packed.shape[-1]] = packed
    return result.reshape(rows, k)


def containers(codes: np.ndarray, name: str) -> np.ndarray:
    """The bytes in which MMA-Sim holds the codes: 4-bit elements in bits 5:2."""
    return codes << 2 if ELEMENT_BITS[name] == 4 else codes


def in_tmem(codes: np.ndarray, name: str) -> np.ndarray:
    """The bytes in which Tensor Memory holds A: the elements in the middle."""
    return codes << (8 - ELEMENT_BITS[name]) // 2


def random_codes(rng, rows: int, name: str, k: int = 64) -> np.ndarray:
    """Random element codes [rows, k], without infinities and NaNs."""
    codes = rng.integers(0, 1 << ELEMENT_BITS[name], (rows, k), dtype=np.uint8)
    codes[codes & 0x7F >= 0x7C] = 1
    return codes
