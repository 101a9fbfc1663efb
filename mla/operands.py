"""How operands reach the tensor core: TMA atoms, shared-memory and instruction descriptors, TMEM access.

Sources: PTX ISA 9.7.16.4.1 (shared memory descriptor), 9.7.16.4.2 (instruction descriptor), 9.7.16.10.9 (mma.ws).
"""

from __future__ import annotations

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64
from cutlass._mlir import ir
from cutlass._mlir.dialects import llvm, vector
from cutlass.cute.nvgpu import cpasync, tcgen05
from cutlass.experimental import primitives as prims

from mla.context import Boxes
from mla.plan.tile import CHUNK_BYTES

DESCRIPTOR_VERSION = 0b001  # bits 46-48, sm_100
ATOM_ROWS = 8  # rows of a swizzle atom
DESCRIPTOR_SWIZZLE = {128: 2, 64: 4}  # by bytes of a row; bits 61-63
SWIZZLE_BITS = {128: 3, 64: 2}  # bits of the 16-byte unit number that are XORed
PAIR_MASK = 0b11  # both CTAs of the pair
MMA_KIND = {
    "fp16": prims.Tcgen05MMAKind.F16,
    "bf16": prims.Tcgen05MMAKind.F16,
    "fp8": prims.Tcgen05MMAKind.F8F6F4,
}
OPERAND_FORMAT = {"fp16": 0, "bf16": 1, "fp8": 0}  # e4m3 is format 0 of kind::f8f6f4
ELEMENT_TYPE = {
    "fp32": cutlass.Float32,
    "fp16": cutlass.Float16,
    "bf16": cutlass.BFloat16,
    "fp8": cutlass.Float8E4M3FN,
}
# Of the elements in a 32-bit word: the bits that are all ones in NaN and Inf (e4m3 has NaN only), and their lowest.
NOT_FINITE_BITS = {
    "fp16": (0x7C007C00, 0x04000400),
    "bf16": (0x7F807F80, 0x00800080),
    "fp8": (0x7F7F7F7F, 0x01010101),
}
TMEM_ADDRESS_SPACE = 6
SECTOR_BYTES = 32  # of L2


def instruction_descriptor(dtype: str, m: int, n: int, b_is_mn_major: bool) -> int:
    """32-bit descriptor of D[m, n] fp32 = A[m, k] (K-major) * B; B K-major or MN-major."""
    fmt = OPERAND_FORMAT[dtype]
    return (1 << 4) | (fmt << 7) | (fmt << 10) | (int(b_is_mn_major) << 16) | ((n >> 3) << 17) | ((m >> 4) << 24)


def smem_descriptor(address: Any, leading_bytes: int = 0, row_bytes: int = CHUNK_BYTES) -> Any:
    """64-bit descriptor of an operand in rows of `row_bytes` bytes, swizzled over them, atoms of 8 rows one behind the
    other.

    address: shared-memory byte address of the operand's first atom, Int32.
    leading_bytes: distance of 128-byte chunks along MN of an MN-major operand; K-major operands ignore it.
    """
    low = ((address & 0x3FFFF) >> 4) | (((leading_bytes & 0x3FFFF) >> 4) << 16)
    high = (ATOM_ROWS * row_bytes >> 4) | (DESCRIPTOR_VERSION << 14) | (DESCRIPTOR_SWIZZLE[row_bytes] << 29)
    return Int64(low) | (Int64(high) << 32)


def advance(descriptor: Any, byte_offset: int) -> Any:
    """The descriptor of the same layout `byte_offset` further; the 14-bit start field must not overflow."""
    return descriptor + (byte_offset >> 4)


def tmem_pointer(address: Any) -> Any:
    """LLVM pointer to Tensor Memory from lane << 16 | column."""
    return llvm.inttoptr(llvm.PointerType.get(TMEM_ADDRESS_SPACE), Int32(address).ir_value())


def mma_ws(dtype: str, accumulator: Any, a: Any, b: Any, idesc: int, accumulate: Any) -> None:
    """One tcgen05.mma.ws. A: descriptor, or pointer to Tensor Memory. Issued by one thread."""
    prims.tcgen05_mma_ws(MMA_KIND[dtype], tmem_pointer(accumulator), a, b, Int32(idesc), cutlass.Boolean(accumulate))


def mma_pair(dtype: str, accumulator: Any, a: Any, b: Any, idesc: int, accumulate: Any) -> None:
    """One tcgen05.mma.cta_group::2. A: descriptor, or pointer to Tensor Memory. Issued by one thread of the leader."""
    prims.tcgen05_mma(
        MMA_KIND[dtype], "cta_2", tmem_pointer(accumulator), a, b, Int32(idesc), cutlass.Boolean(accumulate)
    )


def commit(barrier: Any) -> None:
    """Arrive once on `barrier` when every tcgen05.mma this thread has issued so far has completed."""
    prims.tcgen05_commit(barrier.to_llvm_ptr(), group="cta_1")


def commit_pair(barrier: Any) -> None:
    """As commit, on the barriers at the same place in both CTAs of the pair."""
    prims.tcgen05_commit(barrier.to_llvm_ptr(), group="cta_2", multicast_mask=PAIR_MASK)


def copy_rows_to_tmem(target: Any, source: Any, group: str) -> None:
    """16 bytes of each of 64 rows (K-major descriptor) to 4 columns: row r to lanes r and r + 64, where an M=64 .ws
    instruction and a cta_group::2 M=128 one read their A. One thread issues; group "cta_2": the leader's, in both CTAs.
    """
    prims.tcgen05_cp("shape_64x128b", tmem_pointer(target), source, group=group, multicast="warpx2_02_13")


def make_boxes(tensor: cute.Tensor, box_rows: int, box_elements: int, is_paired: bool) -> Any:
    """(atom, tensor of coordinates) that load [box_rows, box_elements] boxes of tensor's first two modes, swizzled
    over their rows. is_paired: the barrier of a copy is the leading CTA's, at the address given.
    """
    group = tcgen05.CtaGroup.TWO if is_paired else tcgen05.CtaGroup.ONE
    row_bytes = box_elements * tensor.element_type.width // 8
    layout = cute.make_composed_layout(
        swizzle(row_bytes), 0, cute.make_layout((box_rows, box_elements), stride=(box_elements, 1))
    )
    return cpasync.make_tiled_tma_atom(cpasync.CopyBulkTensorTileG2SOp(group), tensor, layout, (box_rows, box_elements))


def swizzle(row_bytes: int) -> Any:
    """16-byte units of a row, XORed with the row number."""
    return cute.make_swizzle(SWIZZLE_BITS[row_bytes], 4, 3)


def int_vector(words: list[Any]) -> Any:
    """MLIR vector of 32-bit words (Int32), the operand form of tcgen05.st."""
    return vector.from_elements(ir.VectorType.get([len(words)], Int32.mlir_type), [word.ir_value() for word in words])


def load_box(
    ctx: Any, boxes: Boxes, box_rows: int, box_elements: int, coordinate: tuple[Any, ...], offset: Any, barrier: Any
) -> None:
    """TMA of the box at `coordinate`, counted in boxes, to `offset` bytes into dynamic shared memory. A whole warp."""
    shape = (box_rows, box_elements)
    pointer = ctx.smem_pointer(ELEMENT_TYPE[ctx.config.dtype], offset, CHUNK_BYTES)
    pointer = cute.recast_ptr(pointer, swizzle(box_elements * ctx.config.element_bytes))
    target = cute.make_tensor(pointer, cute.make_layout(shape, stride=(box_elements, 1)))
    source = cute.local_tile(boxes.tensor, shape, (None,) * len(coordinate))
    to, tiles = cpasync.tma_partition(
        boxes.atom, 0, cute.make_layout(1), cute.group_modes(target, 0, 2), cute.group_modes(source, 0, 2)
    )
    cute.copy(boxes.atom, tiles[(None, *coordinate)], to, tma_bar_ptr=barrier)


def scalar(value: Any) -> Any:
    """A scale as a number: itself, or the element of a one-element tensor."""
    return value[0] if isinstance(value, cute.Tensor) else value


def register_words(values: list[Any]) -> Any:
    """fp32 values as a register tensor of 32-bit words."""
    fragment = cute.make_rmem_tensor(len(values), cutlass.Float32)
    for i, value in enumerate(values):
        fragment[i] = value
    return cute.recast_tensor(fragment, Int32)


def converted_words(values: list[Any], dtype: str) -> Any:
    """fp32 values rounded to `dtype`, as a register tensor of 32-bit words (element 0 in the low half)."""
    fragment = cute.recast_tensor(register_words(values), cutlass.Float32)
    narrow = cute.make_rmem_tensor(len(values), ELEMENT_TYPE[dtype])
    narrow.store(fragment.load().to(ELEMENT_TYPE[dtype]))
    return cute.recast_tensor(narrow, Int32)


def not_finite(word: Any, dtype: str) -> Any:
    """0 iff every element of a 32-bit word is finite: adding their lowest bit to bits that are all ones carries into
    the bit above, of which the element has no other. word: an int or Uint32.
    """
    bits, lowest = NOT_FINITE_BITS[dtype]
    return ((word & bits) + lowest) & (bits + lowest)


def store_words(pointer: Any, words: Any, first: int, count: int) -> None:
    """Store words [first, first + count) of a register tensor contiguously. `pointer`: Int32, aligned as it says."""
    layout = cute.make_layout(count)
    cute.autovec_copy(cute.make_tensor(words.iterator + first, layout), cute.make_tensor(pointer, layout))


def load_words(pointer: Any, words: Any, first: int, count: int) -> None:
    """Counterpart of store_words."""
    layout = cute.make_layout(count)
    cute.autovec_copy(cute.make_tensor(pointer, layout), cute.make_tensor(words.iterator + first, layout))


def fence_before_sync() -> None:
    """Order this thread's Tensor Memory accesses before its next arrive or barrier (PTX ISA 9.7.16.6.4)."""
    prims.tcgen05_fence("before_thread_sync")


def fence_after_sync() -> None:
    """Order this thread's Tensor Memory accesses after the wait or barrier it has just passed."""
    prims.tcgen05_fence("after_thread_sync")


def store_row(row: Any, byte_offset: Any, words: Any) -> None:
    """A register tensor of 32-bit words to `byte_offset` of a row in global memory, aligned to what is stored, up to 16
    bytes.
    """
    store_aligned(row.iterator.toint() + byte_offset, words, min(16, 4 * cute.size(words)))


@cute.jit
def store_sectors(address: Int64, words: cutlass.Constexpr, is_aligned: cutlass.Boolean):
    """A register tensor of 32-bit words, whole sectors, to a global address, a multiple of 16: each sector in one
    instruction where `is_aligned`, which says that the address is a multiple of 32.
    """
    if is_aligned:
        store_aligned(address, words, SECTOR_BYTES)
    else:
        store_aligned(address, words, 16)


def store_aligned(address: Any, words: Any, align: int) -> None:
    """A register tensor of 32-bit words to a global address, a multiple of `align` bytes."""
    pointer = cute.make_ptr(Int32, address, cutlass.AddressSpace.gmem, assumed_align=align)
    store_words(pointer, words, 0, cute.size(words))


def load_unit(address: Any) -> list[Any]:
    """16 bytes from a global address, a multiple of 16, as 32-bit words."""
    source = cute.make_ptr(Int32, address, cutlass.AddressSpace.gmem, assumed_align=16)
    fragment = cute.make_rmem_tensor(4, Int32)
    cute.autovec_copy(cute.make_tensor(source, cute.make_layout(4)), fragment)
    return [fragment[i] for i in range(4)]


def floats_of_words(words: list[Any], dtype: str) -> list[Any]:
    """Counterpart of `register_words` and `converted_words`: the fp32 values of 32-bit words in `dtype`."""
    fragment = cute.make_rmem_tensor(len(words), Int32)
    for i, word in enumerate(words):
        fragment[i] = word
    values = cute.recast_tensor(fragment, ELEMENT_TYPE[dtype])
    wide = cute.make_rmem_tensor(cute.size(values), cutlass.Float32)
    wide.store(values.load().to(cutlass.Float32))
    return [wide[i] for i in range(cute.size(values))]
