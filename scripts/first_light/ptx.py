"""The text of micro-kernels: one CTA, or a pair, of 128 threads that loads boxes by TMA and writes words to `out`.

%r0 thread, %r1 shared memory, %r2 warp, %r3 Tensor Memory, %r5 that of the warp's lanes, %r6 rank in the cluster, %rd6
where the thread or the CTA writes. Barrier i is the i-th 64-bit word of shared memory; data starts at DATA.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ptx_emulator.units.tma.tensormap import TensorMap
from scripts.crosscheck_cases import Case

HEADER = ".version 9.0\n.target sm_100a\n.address_size 64\n.extern .shared .align 1024 .b8 smem[];\n"
THREADS = 128
TMEM_WORD = 256  # byte of shared memory where the address of Tensor Memory is
DATA = 1024
LANES = 128
UNTOUCHED = 0xA5A5A5A5  # what `out` holds before
SWIZZLE_CODE = {"128B": 2, "64B": 4}
ROW_BYTES = {"128B": 128, "64B": 64}
FORMATS = {"bf16": (1, "bf16", 2), "e4m3": (0, "u8", 1)}  # code in the instruction descriptor, TMA type, bytes
KINDS = {"bf16": "f16", "e4m3": "f8f6f4"}
_OUT_ADDRESS, _TENSOR_ADDRESS, _ADDRESS_STEP = 0x100000, 0x1000000, 0x1000000  # stand-ins, moved before every launch


@dataclass(frozen=True)
class Tensor:
    """A matrix of element bits [rows, elements] in global memory, and the boxes [box_rows, row of the swizzle] that TMA
    takes of it."""

    bits: np.ndarray
    dtype: str
    box_rows: int
    swizzle: str = "128B"

    @property
    def box_elements(self) -> int:
        return ROW_BYTES[self.swizzle] // FORMATS[self.dtype][2]

    @property
    def box_bytes(self) -> int:
        return ROW_BYTES[self.swizzle] * self.box_rows

    def map_at(self, address: int) -> TensorMap:
        rows, elements = self.bits.shape
        return TensorMap(
            address, FORMATS[self.dtype][1], (elements, rows), (elements * self.bits.itemsize,),
            (self.box_elements, self.box_rows), swizzle=self.swizzle,
        )  # fmt: skip


@dataclass(frozen=True)
class Load:
    """Tensor number `tensor`'s box from (element, row) on, to `offset` bytes into the shared memory. row: a number or
    the register that holds it."""

    tensor: int
    element: int
    row: int | str
    offset: int


def chunks(tensor: int, of: Tensor, offset: int) -> list[Load]:
    """A whole tensor, one column of boxes behind the other: where its next chunk of a row begins is rows * bytes on."""
    rows, elements = of.bits.shape
    step = ROW_BYTES[of.swizzle] * rows
    return [
        Load(tensor, chunk * of.box_elements, row, offset + chunk * step + row * ROW_BYTES[of.swizzle])
        for chunk in range(elements // of.box_elements)
        for row in range(0, rows, of.box_rows)
    ]


def case(
    name: str, ptx: str, expected: np.ndarray, tensors: Sequence[Tensor] = (), *, ctas: int = 1, blocks: int = 0,
    shared_bytes: int,
) -> Case:  # fmt: skip
    """The launch as data: `blocks` CTAs in clusters of `ctas`, one cluster unless said. expected: uint32, what `out`
    must hold afterwards; the tensors stay as they are."""
    addresses = [_OUT_ADDRESS, *(_TENSOR_ADDRESS + i * _ADDRESS_STEP for i in range(len(tensors)))]
    contents = [tensor.bits.tobytes() for tensor in tensors]
    maps = b"".join(t.map_at(a).to_bytes() for t, a in zip(tensors, addresses[1:], strict=True)) or bytes(128)
    out = np.ascontiguousarray(expected, np.uint32)
    before = np.full(out.shape, UNTOUCHED, np.uint32).tobytes()
    return Case(
        name, ptx, "k", (blocks or ctas, 1, 1), (THREADS, 1, 1), (ctas, 1, 1), shared_bytes,
        (maps, struct.pack("<Q", _OUT_ADDRESS)), tuple(addresses), (before, *contents), (out.tobytes(), *contents),
    )  # fmt: skip


def kernel(body: str, num_maps: int = 1) -> str:
    return (
        f"{HEADER}.visible .entry k(.param .align 64 .b8 maps[{128 * max(num_maps, 1)}], .param .u64 out)\n{{\n"
        f".reg .pred %p<16>;\n.reg .b16 %rs<4>;\n.reg .b32 %r<100>;\n.reg .b64 %rd<40>;\n"
        f"mov.u32 %r0, %tid.x;\nmov.u32 %r1, smem;\nshr.u32 %r2, %r0, 5;\nmov.u32 %r6, %cluster_ctarank;\n"
        f"ld.param.u64 %rd6, [out];\nmov.b64 %rd0, maps;\ncvta.param.u64 %rd0, %rd0;\n"
        f"setp.ne.u32 %p0, %r2, 0;\nsetp.ne.u32 %p1, %r0, 0;\n{body}\nret;\n}}\n"
    )


def init(counts: Sequence[int]) -> str:
    """Barriers 0.. with these numbers of arrivals. One thread."""
    lines = [f"mbarrier.init.shared.b64 [%r1+{8 * i}], {count};" for i, count in enumerate(counts)]
    return "\n".join([*lines, "fence.mbarrier_init.release.cluster;"])


def wait(barrier: int, label: str, parity: str = "0") -> str:
    return f"{label}:\nmbarrier.try_wait.parity.shared.b64 %p15, [%r1+{8 * barrier}], {parity};\n@!%p15 bra {label};"


def expect(barrier: int, nbytes: int) -> str:
    return f"mbarrier.arrive.expect_tx.shared.b64 _, [%r1+{8 * barrier}], {nbytes};"


def tma(load: Load, barrier: str, group: str = "") -> str:
    """One box; barrier: the address expression of what counts its bytes. One thread."""
    return (
        f"add.u64 %rd1, %rd0, {128 * load.tensor};\n"
        f"cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes{group} [%r1+{load.offset}], "
        f"[%rd1, {{{load.element}, {load.row}}}], [{barrier}];"
    )


def dump(start: int, nbytes: int, label: str = "DUMP") -> str:
    """Shared memory from byte `start` on to %rd6, which is the CTA's."""
    return f"""shl.b32 %r90, %r0, 2;
{label}:
setp.ge.u32 %p14, %r90, {nbytes};
@%p14 bra {label}_END;
add.u32 %r91, %r1, %r90;
ld.shared.b32 %r92, [%r91+{start}];
cvt.u64.u32 %rd30, %r90;
add.u64 %rd31, %rd6, %rd30;
st.global.b32 [%rd31], %r92;
add.u32 %r90, %r90, {4 * THREADS};
bra {label};
{label}_END:"""


def instruction_descriptor(dtype: str, m: int, n: int, b_is_mn_major: bool = False) -> int:
    """fp32 D[m, n], A K-major (PTX ISA 9.7.16.4.2)."""
    code = FORMATS[dtype][0]
    return 1 << 4 | code << 7 | code << 10 | b_is_mn_major << 16 | n >> 3 << 17 | m >> 4 << 24


def descriptor(register: str, offset: int | str, leading: int = 0, swizzle: str = "128B") -> str:
    """The shared-memory descriptor (PTX ISA 9.7.16.4.1) of atoms of 8 rows, `offset` bytes into the shared memory."""
    rest = leading >> 4 << 16 | 8 * ROW_BYTES[swizzle] >> 4 << 32 | 1 << 46 | SWIZZLE_CODE[swizzle] << 61
    return (
        f"add.u32 %r20, %r1, {offset};\nand.b32 %r20, %r20, 0x3FFFF;\nshr.u32 %r20, %r20, 4;\n"
        f"cvt.u64.u32 {register}, %r20;\nor.b64 {register}, {register}, {rest};"
    )


def mma_ws(dtype: str, column: int, a: str, b: str, idesc: int, accumulate: bool | str, tmem: str = "%r3") -> str:
    """D at `column`; a, b: the text that leaves their descriptors in %rd20 and %rd21, or a's column: "[column]"."""
    return mma(dtype, column, a, b, idesc, accumulate, tmem, ".ws")


def mma(
    dtype: str, column: int, a: str, b: str, idesc: int, accumulate: bool | str, tmem: str = "%r3", form: str = ""
) -> str:
    """As mma_ws, without `.ws` unless that is the form."""
    in_tmem = a.startswith("[")
    take_a = f"add.u32 %r23, {tmem}, {a[1:-1]};" if in_tmem else a
    flag = accumulate if isinstance(accumulate, str) else f"{int(accumulate)}"
    return (
        f"{take_a}\n{b}\nadd.u32 %r21, {tmem}, {column};\nmov.b32 %r22, {idesc};\nmov.b32 %r24, {flag};\n"
        f"setp.ne.u32 %p3, %r24, 0;\ntcgen05.mma{form}.cta_group::1.kind::{KINDS[dtype]} [%r21], "
        f"{'[%r23]' if in_tmem else '%rd20'}, %rd21, %r22, %p3;"
    )


def commit(barrier: int) -> str:
    return (
        f"add.u32 %r25, %r1, {8 * barrier};\n"
        "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r25];"
    )


def read_tmem(columns: int, canonical_nan: bool = False) -> str:
    """The first columns of each lane to out[lane, column]; with canonical_nan every NaN becomes the same one."""
    nan = "setp.nan.f32 %p5, %r30, %r30;\nselp.b32 %r30, 0x7FFFFFFF, %r30, %p5;" if canonical_nan else ""
    return f"""bar.warp.sync 0xFFFFFFFF;
tcgen05.fence::after_thread_sync;
mul.wide.u32 %rd8, %r0, {4 * columns};
add.u64 %rd7, %rd6, %rd8;
mov.u32 %r32, 0;
READ:
add.u32 %r31, %r5, %r32;
tcgen05.ld.sync.aligned.32x32b.x1.b32 {{%r30}}, [%r31];
tcgen05.wait::ld.sync.aligned;
{nan}
st.global.b32 [%rd7], %r30;
add.u64 %rd7, %rd7, 4;
add.u32 %r32, %r32, 1;
setp.lt.u32 %p4, %r32, {columns};
@%p4 bra READ;"""


def tensor_core(
    loads: Sequence[Load],
    tensors: Sequence[Tensor],
    roles: str,
    columns: int,
    *,
    done: Sequence[int],
    counts: Sequence[int] = (1, 1),
    before: str = "",
    loaded: str | None = None,
    canonical_nan: bool = False,
) -> str:
    """A kernel around `roles`, the text that every warp runs and in which some thread multiplies.

    Thread 0 loads everything to barrier 0 (or runs `loaded`); all threads wait for it, run `before`, then the roles,
    and wait for the barriers `done`; then the first columns of Tensor Memory are written out.
    """  # fmt: skip
    nbytes = sum(tensors[load.tensor].box_bytes for load in loads)
    given = "\n".join([expect(0, nbytes), *(tma(load, "%r1") for load in loads)])
    waits = "\n".join(wait(barrier, f"DONE{barrier}") for barrier in done)
    body = f"""@%p0 bra ALLOCATED;
tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1+{TMEM_WORD}], 512;
ALLOCATED:
@%p1 bra READY;
{init(counts)}
{given if loaded is None else loaded}
READY:
bar.sync 0;
tcgen05.fence::after_thread_sync;
ld.shared.b32 %r3, [%r1+{TMEM_WORD}];
and.b32 %r4, %r2, 3;
shl.b32 %r4, %r4, 21;
add.u32 %r5, %r3, %r4;
{wait(0, "LOADED") if loaded is None else ""}
{before}
{roles}
{waits}
{read_tmem(columns, canonical_nan)}
tcgen05.fence::before_thread_sync;
bar.sync 0;
tcgen05.fence::after_thread_sync;
@%p0 bra FREED;
tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r3, 512;
FREED:"""
    return kernel(body, len(tensors))


def by_thread_0(text: str) -> str:
    return f"@%p1 bra ISSUED;\n{text}\nISSUED:"


def integers(seed: int, shape: tuple[int, int], low: int = -4, high: int = 5) -> np.ndarray:
    """float32 [shape] of small integers: products and sums are exact."""
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.float32)


def bits_of(values: np.ndarray, dtype: str) -> np.ndarray:
    """The element bits of small integers and NaN."""
    if dtype == "bf16":
        return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    mantissa, exponent = np.frexp(np.abs(np.nan_to_num(values)))
    code = ((exponent + 6) << 3 | ((2 * mantissa - 1) * 8).astype(np.int64)) * (mantissa > 0)
    code = np.where(np.isnan(values), 0x7F, code | (values < 0) << 7)
    return code.astype(np.uint8)


def folded(product: np.ndarray) -> np.ndarray:
    """uint32 [128, n / 2]: where Tensor Memory holds D[64, n] of an M = 64 .ws instruction (PTX ISA 9.7.16.10.5): the
    second half of the columns in lanes 64 and up."""
    bits = np.ascontiguousarray(product, np.float32).view(np.uint32)
    return np.concatenate(np.split(bits, 2, axis=1), axis=0)


def swizzled(rows: np.ndarray, offset: int = 0) -> np.ndarray:
    """uint8 [rows, 128] at `offset` bytes from a multiple of 1024, as the 128-byte swizzle places them: bits 4 to 6 of
    the address XORed with bits 7 to 9 (PTX ISA 5.5.7)."""
    flat = rows.reshape(-1).view(np.uint8)
    place = offset + np.arange(flat.size)
    result = np.empty_like(flat)
    result[(place ^ (place >> 7 & 7) << 4) - offset] = flat
    return result
