"""Merge of split row tiles: partial outputs and log-sum-exps of several units (CTAs or pairs) to one result.

out = sum_i 2^(lse_i - max) out_i / sum_i 2^(lse_i - max), added in an order that depends on the number of parts alone,
so that the result does not depend on which unit finished first. Row tiles that one unit computed alone are left
untouched.

A row tile of p parts is cut at p - 1 places, so a grid of a few CTAs to each cut of the line has enough of them for
any lengths: those of a tile's cuts share its rows. Few parts take one warp a row; of many parts up to eight warps, each
with neighbouring parts, share a band of a row's dimensions, as many as a warp loads at once, 16 bytes a lane.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from mla import operands, softmax, split_kv
from mla.arch import WARP_SIZE
from mla.causal_mask import quotient, quotient_up
from mla.config import ELEMENT_BYTES, FLOAT_BYTES, MlaDecodeConfig
from mla.tile_scheduler import TileScheduler
from mla.varlen import Request

WARPS = 8
# Up to here a row's parts are one warp's, and up to PARTS_PER_WARP a band's: CTAs of a second wave wait for the first.
# Modelled us of the merge with 4 and 8 / 10 and 16 / 20 and 16 (python -m bench.predict): bf16 h16 q8 2K b10 2.0 / 1.6 /
# 1.6, bf16 h16 q4 16K b8 2.5 / 2.3 / 3.3; with 4 and 8 / 10 and 16: fp8 h128 q1 8K b1 1.9 / 0.9.
FEW_PARTS = 10
LOADS_IN_FLIGHT = 5  # of partial results, LOAD_BYTES each, by one thread
LOAD_BYTES = 16
LOAD_WORDS = LOAD_BYTES // 4
PARTS_PER_WARP = 16
CTAS_PER_SM = 4  # for which registers are allotted


def parts_of(parts: Any, member: Any, log2_members: Any) -> tuple[Any, Any]:
    """Parts [begin, end) of `parts` that member `member` of 2^log2_members warps adds."""
    return parts * member >> log2_members, parts * (member + 1) >> log2_members


def log2_members(parts: Any) -> Any:
    """Warps that share the parts of a row's band, as a power of two."""
    shift = Int32(0)
    for members in (1, 2, 4):
        shift = shift + Int32(parts > members * PARTS_PER_WARP)
    return shift


@dataclass(frozen=True)
class Sums:
    """What a warp has added of a row's parts, relative to 2^highest; some neighbouring dimensions per lane and band.

    values: registers. total: of the weights.
    """

    values: Any
    highest: Any
    total: Any


@dataclass(frozen=True)
class Partials:
    """Partial results [slot, row, latent], in `dtype`, and their log-sum-exps [slot, row], base 2."""

    out: Any
    lse: Any
    dtype: str

    @property
    def element_bytes(self) -> int:
        return ELEMENT_BYTES[self.dtype]

    @property
    def vector(self) -> int:
        """Dimensions that a lane loads at once."""
        return LOAD_BYTES // self.element_bytes

    @property
    def later_bytes(self) -> int:
        """Distance of neighbouring parts of a row tile, but for the first."""
        return split_kv.SLOTS_PER_UNIT * self.out.stride[0] * self.element_bytes

    def address(self, slot: Any, row: Any) -> Any:
        return self.out[slot, row, None].iterator.toint()


@dataclass(frozen=True)
class Result:
    """Where the merged rows go."""

    out: Any
    lse: Any
    scale: Any


@dataclass(frozen=True)
class MergePartials:
    """CTAs of 8 warps; `ctas_per_cut` of them to a cut."""

    config: MlaDecodeConfig
    scheduler: TileScheduler

    @property
    def threads(self) -> int:
        return WARPS * WARP_SIZE

    @property
    def band_dims(self) -> int:
        """Latent dimensions of a row that a warp loads at once."""
        return WARP_SIZE * LOAD_BYTES // self.config.partial_bytes

    @property
    def bands(self) -> int:
        return self.config.kv_lora_rank // self.band_dims

    @property
    def smem_bytes(self) -> int:
        """Per warp: a band, the maximum, the sum of weights."""
        return WARPS * (self.band_dims + 2) * FLOAT_BYTES

    @property
    def ctas_per_cut(self) -> int:
        return self.scheduler.tile_rows // WARPS

    def num_ctas(self, num_units: Any) -> Any:
        return split_kv.maximum(num_units - 1, 1) * self.ctas_per_cut

    @cute.kernel
    def kernel(
        self,
        out: cute.Tensor,
        lse: cute.Tensor | None,
        partial_out: cute.Tensor,
        partial_lse: cute.Tensor,
        cuts: cute.Tensor,
        output_scale: Float32 | cute.Tensor,
    ):
        block = cute.arch.block_idx()[0]
        unit = quotient(block, self.ctas_per_cut) + 1
        partials = Partials(partial_out, partial_lse, self.config.partial_dtype)
        result = Result(out, lse, operands.scalar(output_scale) * 2.0**-self.config.partial_scale_log2)
        cute.arch.griddepcontrol_wait()
        if unit < cute.size(cuts, mode=[0]):
            cut = read_cut(cuts[unit, None])
            number = block - cut.first_unit * self.ctas_per_cut
            if number < ctas_of(cut, self.bands):
                self.merge(partials, result, cut, number)

    @cute.jit
    def merge(
        self,
        partials: cutlass.Constexpr,
        result: cutlass.Constexpr,
        cut: cutlass.Constexpr,
        number: Int32,
    ):
        """What CTA `number` of a row tile does."""
        warp = cute.arch.warp_idx()
        if cut.parts <= FEW_PARTS:
            row = number * WARPS + warp
            if row < cut.rows:
                sums = gather(partials, cut, row, Int32(0), Int32(0), cut.parts, self.bands)
                self.write(result, cut, row, Int32(0), sums, self.bands)
        else:
            self.merge_band(partials, result, cut, number, warp)

    @cute.jit
    def merge_band(
        self,
        partials: cutlass.Constexpr,
        result: cutlass.Constexpr,
        cut: cutlass.Constexpr,
        number: Int32,
        warp: Int32,
    ):
        """2^log2_members neighbouring warps share a band of a row. All warps of the CTA must come here."""
        shift = log2_members(cut.parts)
        member = warp & ((Int32(1) << shift) - 1)
        unit = number * WARPS + warp >> shift
        row = quotient(unit, self.bands)
        first_dim = (unit - row * self.bands) * self.band_dims
        smem = cute.arch.get_dyn_smem(Float32, 16)
        if row < cut.rows:
            begin, end = parts_of(cut.parts, member, shift)
            put(smem, warp, gather(partials, cut, row, first_dim, begin, end, 1))
        cute.arch.sync_threads()
        if (row < cut.rows) & (member == 0):
            self.write(result, cut, row, first_dim, combine(smem, warp, Int32(1) << shift, partials.vector), 1)

    @cute.jit
    def write(
        self,
        result: cutlass.Constexpr,
        cut: cutlass.Constexpr,
        row: Int32,
        first_dim: Int32,
        sums: cutlass.Constexpr,
        bands: cutlass.Constexpr,
    ):
        """A row's dimensions from `first_dim` on, and, with the first ones, its log-sum-exp."""
        config, lane = self.config, cute.arch.lane_idx()
        request = Request(cut.query_begin if config.ragged_query else 0, 0, 0)
        row_coord = request.row_coord(cut.batch, cut.row_tile * self.scheduler.tile_rows + row, config.num_heads)
        is_empty = sums.total == Float32(0.0)
        factor = result.scale / sums.total
        target = result.out[(*row_coord, None)]
        vector = len(sums.values) // bands
        for band in cutlass.range_constexpr(bands):
            values = sums.values[band * vector : (band + 1) * vector]
            values = [cutlass.select_(is_empty, Float32(0.0), value * factor) for value in values]
            words = operands.converted_words(values, config.output_dtype)
            dim = first_dim + band * self.band_dims + lane * vector
            operands.store_row(target, dim * config.output_bytes, words)
        if cutlass.const_expr(config.lse_base is not None):
            if (lane == 0) & (first_dim == 0):
                merged = softmax.reference_maximum(sums.highest) + cute.math.log2(sums.total, fastmath=True)
                merged = cutlass.select_(is_empty, Float32(softmax.NEG_INF), merged)
                result.lse[row_coord] = softmax.in_base(merged, config.lse_base)


def read_cut(fields: cute.Tensor) -> split_kv.Cut:
    """What the unit has told, as `scheduler.write_cut` wrote it."""
    return split_kv.Cut(*(cute.arch.make_warp_uniform(fields[i]) for i in range(len(dataclasses.fields(split_kv.Cut)))))


def ctas_of(cut: split_kv.Cut, bands: int) -> Any:
    """CTAs that merge a row tile; never more than `ctas_per_cut` for each of its cuts."""
    of_few = quotient_up(cut.rows, WARPS)
    of_many = quotient_up(cut.rows * bands << log2_members(cut.parts), WARPS)
    return cutlass.select_(cut.parts <= FEW_PARTS, of_few, of_many)


@cute.jit
def gather(
    partials: cutlass.Constexpr,
    cut: cutlass.Constexpr,
    row: Int32,
    first_dim: Int32,
    begin: Int32,
    end: Int32,
    bands: cutlass.Constexpr,
):
    """A warp's Sums of parts [begin, end) of a row: `bands` bands, from `first_dim` on.

    Log-sum-exps are a part to a lane, 32 at a time. The loads of partial results depend on none of them.
    """
    lane = cute.arch.lane_idx()
    step, vector = LOADS_IN_FLIGHT // bands, partials.vector
    highest, total = Float32(softmax.NEG_INF), Float32(0.0)
    values = [Float32(0.0) for _ in range(bands * vector)]
    for block in cutlass.range(begin, end, WARP_SIZE, unroll=1):
        block_end = cutlass.min(block + WARP_SIZE, end)
        lse = Float32(softmax.NEG_INF)
        if block + lane < end:
            lse = partials.lse[cut.slot(block + lane), row]
        loaded = load_parts(partials, cut, row, first_dim, block, block_end, bands)
        previous, highest = highest, cute.arch.fmax(highest, warp_maximum(lse))
        reference = softmax.reference_maximum(highest)
        weight, faded = exp2(lse - reference), exp2(previous - reference)
        total, values = total * faded, [value * faded for value in values]
        for first in cutlass.range(block, block_end, step, unroll=1):
            for i in cutlass.range_constexpr(step):
                of_part = cute.arch.shuffle_sync(weight, first - block + i)  # of any lane, from block_end on
                words = loaded[i * bands * LOAD_WORDS : (i + 1) * bands * LOAD_WORDS]
                if first + i < block_end:
                    total = total + of_part
                    values = weighted_sum(values, of_part, operands.floats_of_words(words, partials.dtype))
            loaded = load_parts(partials, cut, row, first_dim, first + step, block_end, bands)
    return Sums(values, highest, total)


@cute.jit
def load_parts(
    partials: cutlass.Constexpr,
    cut: cutlass.Constexpr,
    row: Int32,
    first_dim: Int32,
    first: Int32,
    end: Int32,
    bands: cutlass.Constexpr,
):
    """The lane's 32-bit words of parts first, first + 1 .. of a row, LOADS_IN_FLIGHT loads; undefined from `end` on:
    words that were set there would take registers of their own, and wait for the loads.

    Behind a row tile's first part they lie at equal distances: one address and constants, which saves registers.
    """
    lane = cute.arch.lane_idx()
    start = first_dim * partials.element_bytes + lane * LOAD_BYTES
    addresses = [partials.address(slot, row) + start for slot in (cut.slot(first), cut.later_slot(first))]
    loaded = []
    for i in cutlass.range_constexpr(LOADS_IN_FLIGHT // bands):
        fragment = cute.make_rmem_tensor(bands * LOAD_WORDS, Int32)
        if first + i < end:
            address = addresses[min(i, 1)] + i * partials.later_bytes
            for band in cutlass.range_constexpr(bands):
                words = operands.load_unit(address + band * (WARP_SIZE * LOAD_BYTES))
                for j in cutlass.range_constexpr(LOAD_WORDS):
                    fragment[band * LOAD_WORDS + j] = words[j]
        loaded += [fragment[j] for j in range(bands * LOAD_WORDS)]
    return loaded


@cute.jit
def put(smem: cutlass.Constexpr, warp: Int32, sums: cutlass.Constexpr):
    """A warp's Sums of one band to shared memory, for `combine`."""
    lane, vector = cute.arch.lane_idx(), len(sums.values)
    words = operands.register_words(sums.values)
    target = cute.recast_ptr(smem + (warp * WARP_SIZE + lane) * vector, dtype=Int32)
    for first in cutlass.range_constexpr(0, vector, LOAD_WORDS):
        operands.store_words(target + first, words, first, LOAD_WORDS)
    if lane == 0:
        statistics = warp_statistics(smem, vector)
        statistics[warp, 0] = sums.highest
        statistics[warp, 1] = sums.total


def warp_statistics(smem: Any, vector: int) -> Any:
    """[warp, (maximum, sum of weights)] behind the values."""
    return cute.make_tensor(smem + WARPS * WARP_SIZE * vector, cute.make_layout((WARPS, 2), stride=(2, 1)))


@cute.jit
def combine(smem: cutlass.Constexpr, warp: Int32, members: Int32, vector: cutlass.Constexpr):
    """The Sums of the `members` warps from `warp` on, in their order; `vector` dimensions per lane."""
    lane = cute.arch.lane_idx()
    statistics = warp_statistics(smem, vector)
    of_lane = warp + cutlass.min(lane, members - 1)
    lane_highest = statistics[of_lane, 0]
    highest = warp_maximum(lane_highest)
    weight = exp2(lane_highest - softmax.reference_maximum(highest))
    lane_total = weight * statistics[of_lane, 1]
    total, values = Float32(0.0), [Float32(0.0) for _ in range(vector)]
    for i in cutlass.range(members, unroll=1):
        of_warp = cute.arch.shuffle_sync(weight, i)
        total = total + cute.arch.shuffle_sync(lane_total, i)
        dims = cute.make_tensor(smem + ((warp + i) * WARP_SIZE + lane) * vector, cute.make_layout(vector))
        values = weighted_sum(values, of_warp, [dims[j] for j in range(vector)])
    return Sums(values, highest, total)


def weighted_sum(values: list[Any], weight: Any, others: list[Any]) -> list[Any]:
    return [value + weight * other for value, other in zip(values, others)]


def exp2(value: Any) -> Any:
    return cute.math.exp2(value, fastmath=True)


def warp_maximum(value: Any) -> Any:
    """Largest value of the lanes of a warp, in every lane."""
    return cute.arch.warp_redux_sync(value, "fmax")
