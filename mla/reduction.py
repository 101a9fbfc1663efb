"""Merge of split row tiles: partial outputs and log-sum-exps of several units (CTAs or pairs) to one result.

out = sum_i 2^(lse_i - max) out_i / sum_i 2^(lse_i - max), added in the order of the key tiles, so that the result does
not depend on which unit finished first. Row tiles that one unit computed alone are left untouched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from mla import operands, softmax, split_kv
from mla.arch import WARP_SIZE
from mla.config import MlaDecodeConfig
from mla.line import RequestList, line_length
from mla.tile_scheduler import TileScheduler

ROWS_PER_CTA = 8


@dataclass(frozen=True)
class MergePartials:
    """One warp per row, `ROWS_PER_CTA` rows a CTA."""

    config: MlaDecodeConfig
    scheduler: TileScheduler

    @property
    def threads(self) -> int:
        return ROWS_PER_CTA * WARP_SIZE

    @property
    def ctas_per_tile(self) -> int:
        return self.scheduler.tile_rows // ROWS_PER_CTA

    def num_ctas(self, batch_size: Any) -> Any:
        return batch_size * (self.scheduler.row_tiles * self.ctas_per_tile)

    @cute.kernel
    def kernel(
        self,
        seq_lens: cute.Tensor,
        cu_seqlens_q: cute.Tensor | None,
        dcp_rank: Int32 | None,
        out: cute.Tensor,
        lse: cute.Tensor | None,
        partial_out: cute.Tensor,
        partial_lse: cute.Tensor,
        num_units: Int32,
        output_scale: Float32 | cute.Tensor,
    ):
        block = cute.arch.block_idx()[0]
        tile = block // self.ctas_per_tile
        batch, row_tile = tile // self.scheduler.row_tiles, tile % self.scheduler.row_tiles
        row = block % self.ctas_per_tile * ROWS_PER_CTA + cute.arch.make_warp_uniform(cute.arch.warp_idx())
        position = row_tile * self.scheduler.tile_rows + row
        requests = RequestList(seq_lens, cu_seqlens_q, self.scheduler.of_rank(dcp_rank))
        request = requests.request(batch)
        first, cost, share = self.position(requests, request, batch, row_tile, num_units)
        first_unit, last_unit = first // share, (first + cost - 1) // share
        cute.arch.griddepcontrol_wait()
        if (first_unit != last_unit) & (position < request.seq_len_q * self.config.num_heads):
            factor, place = operands.scalar(output_scale), request.place(batch, position, self.config.num_heads)
            self.merge_row(out, lse, partial_out, partial_lse, place, row, first, share, last_unit, factor)

    @cute.jit
    def position(
        self,
        requests: cutlass.Constexpr,
        request: cutlass.Constexpr,
        batch: Int32,
        row_tile: Int32,
        num_units: Int32,
    ):
        """(first position, positions) of a row tile in the line of work, and the share of a unit."""
        total = line_length(requests, requests.count)
        first = line_length(requests, batch)
        scheduler = requests.scheduler.of_request(request.seq_len_q)
        for earlier in cutlass.range(row_tile, unroll=1):
            first = first + scheduler.cost(earlier, request.seq_len_k)
        return first, scheduler.cost(row_tile, request.seq_len_k), split_kv.share_tiles(total, num_units)

    @cute.jit
    def merge_row(
        self,
        out: cute.Tensor,
        lse: cute.Tensor | None,
        partial_out: cute.Tensor,
        partial_lse: cute.Tensor,
        place: cutlass.Constexpr,
        row: Int32,
        first: Int32,
        share: Int32,
        last_unit: Int32,
        output_scale: Float32,
    ):
        """One warp's row, to (batch, token, head) `place`: 16 of the 512 latent dimensions per lane, in groups of 4."""
        config, lane = self.config, cute.arch.lane_idx()
        first_unit = first // share
        highest = Float32(softmax.NEG_INF)
        for unit in cutlass.range(first_unit, last_unit + 1, unroll=1):
            slot = split_kv.partial_slot(unit, cutlass.max(unit * share - first, 0))
            highest = cute.arch.fmax(highest, partial_lse[slot, row])
        reference = softmax.reference_maximum(highest)
        groups = config.kv_lora_rank // (4 * WARP_SIZE)
        total = Float32(0.0)
        sums = cute.make_rmem_tensor(4 * groups, Float32)
        sums.fill(0.0)
        for unit in cutlass.range(first_unit, last_unit + 1, unroll=1):
            slot = split_kv.partial_slot(unit, cutlass.max(unit * share - first, 0))
            weight = cute.math.exp2(partial_lse[slot, row] - reference, fastmath=True)
            total = total + weight
            for group in cutlass.range_constexpr(groups):
                values = operands.load_floats(partial_out[slot, row, None], (group * WARP_SIZE + lane) * 4)
                for i in cutlass.range_constexpr(4):
                    sums[4 * group + i] = sums[4 * group + i] + weight * values[i]
        is_empty = total == Float32(0.0)
        factor = output_scale / total
        target = out[(*place, None)]
        for group in cutlass.range_constexpr(groups):
            values = [cutlass.select_(is_empty, Float32(0.0), sums[4 * group + i] * factor) for i in range(4)]
            words = operands.converted_words(values, config.output_dtype)
            operands.store_row(target, (group * WARP_SIZE + lane) * (4 * config.output_bytes), words)
        if cutlass.const_expr(config.lse_base is not None):
            if lane == 0:
                merged = reference + cute.math.log2(total, fastmath=True)
                merged = cutlass.select_(is_empty, Float32(softmax.NEG_INF), merged)
                lse[place] = softmax.in_base(merged, config.lse_base)
