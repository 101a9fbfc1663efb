"""The decode kernel: skeleton and dispatch. What the warps do is in roles/, how operands move in paths/."""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import AddressSpace, Float32, Int32, Int64
from cutlass.cute.nvgpu import cpasync

from mla import operands, reduction, split_kv
from mla.arch import SMEM_ALIGN, TMEM_COLUMNS
from mla.config import FLOAT_BYTES, INT_BYTES, MlaDecodeConfig
from mla.context import Arguments, Boxes, Context
from mla.pipelines import BARRIER_BYTES, init_barriers
from mla.plan.memory import MemoryPlan
from mla.plan.paths import plan_of
from mla.roles import correction, load, multiply, output, scheduler, scores, softmax
from mla.tile_scheduler import TileScheduler
from mla.varlen import RequestList

LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class MlaDecode:
    """Compile-time description of one decode kernel; call it with traced tensors (see compile.py)."""

    config: MlaDecodeConfig

    @property
    def plan(self) -> MemoryPlan:
        return plan_of(self.config)

    @property
    def scheduler(self) -> TileScheduler:
        return TileScheduler.of(self.config, self.plan.tile.rows, self.plan.tile.tokens)

    @cute.jit
    def __call__(
        self,
        query: cute.Tensor,
        kv_cache: cute.Tensor,
        block_tables: cute.Tensor,
        seq_lens: cute.Tensor,
        out: cute.Tensor,
        lse: cute.Tensor | None,
        workspace: cute.Tensor,
        num_ctas: Int32,
        softmax_scale: Float32 | cute.Tensor,
        output_scale: Float32 | cute.Tensor,
        cu_seqlens_q: cute.Tensor | None,
        tree_mask: cute.Tensor | None,
        dcp_rank: Int32 | None,
        window_left: Int32 | None,
        visible_lens: cute.Tensor | None,
        stream,
    ):
        """Host side: build the TMA descriptors, launch `num_ctas` CTAs (in pairs on the wide path; an odd one stays
        idle) and the merge of split row tiles on `stream`.

        query [B, seq_len_q, num_heads, 576], kv_cache [pages, page_size, 576], block_tables [B, W] int32,
        seq_lens [B] int32, out [B, seq_len_q, num_heads, 512], lse [B, seq_len_q, num_heads] fp32 or None, workspace
        fp32 [split_kv.workspace_bytes(num_units, ...) / 4 or more]; a scale is a number or, where the config says so,
        fp32 [1]. With a ragged query, cu_seqlens_q [B + 1] int32, and query, out and lse are [1, tokens of all
        requests, num_heads, ...]. tree_mask [..., words] int32 and visible_lens [...] int32 over the tokens of query,
        dcp_rank and window_left: where the config has them, else None.
        """
        plan, tile, config = self.plan, self.plan.tile, self.config
        num_units = num_ctas // tile.cluster_size
        query_view = self.query_view(query)
        kv_view = cute.make_tensor(kv_cache.iterator, cute.select(kv_cache.layout, mode=[1, 2, 0]))
        rows, latent, rope = config.query_box_rows(tile.cta_rows), tile.chunk_elements, config.qk_rope_head_dim
        boxes = (
            *operands.make_boxes(query_view, rows, latent, tile.is_paired),
            *operands.make_boxes(kv_view, tile.box_tokens, latent, tile.is_paired),
            *operands.make_boxes(kv_view, tile.box_tokens, rope, tile.is_paired),
            *(operands.make_boxes(kv_view, tile.box_tokens, latent, False) if tile.is_paired else (None, None)),
            *self.boxes_of_avoidance(kv_view),
        )
        partial_out, partial_lse, cuts = self.partials(workspace, num_units)
        self.kernel(
            *boxes,
            block_tables,
            seq_lens,
            out,
            lse,
            partial_out,
            partial_lse,
            cuts,
            softmax_scale,
            output_scale,
            cu_seqlens_q,
            tree_mask,
            dcp_rank,
            window_left,
            visible_lens,
        ).launch(
            grid=[num_units * tile.cluster_size, 1, 1],
            block=[plan.warps.threads, 1, 1],
            cluster=[tile.cluster_size, 1, 1],
            smem=plan.smem_bytes,
            stream=stream,
            use_pdl=True,  # what the CTA sets up is done beside the end of the kernel before
            min_blocks_per_mp=1,  # or ptxas does not know how many registers it starts with, and ignores setmaxnreg
        )
        merge = reduction.MergePartials(config, self.scheduler)
        merge.kernel(out, lse, partial_out, partial_lse, cuts, output_scale).launch(
            grid=[merge.num_ctas(num_units), 1, 1],
            block=[merge.threads, 1, 1],
            smem=merge.smem_bytes,
            stream=stream,
            use_pdl=True,
            min_blocks_per_mp=reduction.CTAS_PER_SM,
            preferred_smem_carveout=100,  # as decode leaves it: an SM that changes its own has to be empty
        )

    @cute.jit
    def partials(self, workspace: cute.Tensor, num_units: Int32):
        """Workspace as partial outputs [slot, row, latent], log-sum-exps in base 2 [slot, row], and cuts [unit, field]."""
        slots, rows, dims = split_kv.num_slots(num_units), self.plan.tile.rows, self.config.kv_lora_rank
        element_bytes = self.config.partial_bytes
        start = cute.recast_ptr(workspace.iterator, dtype=Int32)  # elements of FLOAT_BYTES
        out_layout = cute.make_layout((slots, rows, dims), stride=(rows * dims, dims, 1))
        partial_out = cute.make_tensor(
            cute.recast_ptr(start, dtype=operands.ELEMENT_TYPE[self.config.partial_dtype]), out_layout
        )
        lse_start = start + Int64(slots) * (rows * dims * element_bytes // FLOAT_BYTES)
        lse_layout = cute.make_layout((slots, rows), stride=(rows, 1))
        partial_lse = cute.make_tensor(cute.recast_ptr(lse_start, dtype=Float32), lse_layout)
        cuts_start = start + split_kv.cuts_offset(Int64(num_units), rows, dims, element_bytes) // INT_BYTES
        cuts_layout = cute.make_layout((num_units, split_kv.CUT_INTS), stride=(split_kv.CUT_INTS, 1))
        cuts = cute.make_tensor(cuts_start, cuts_layout)
        return partial_out, partial_lse, cuts

    def boxes_of_avoidance(self, kv_view: cute.Tensor) -> tuple[object, ...]:
        """Of Arguments.rope_tail and Arguments.zeros."""
        tile, config = self.plan.tile, self.config
        rope_tail, zeros = (None, None), (None, None)
        if tile.is_paired and config.avoids("nan_in_keys"):
            rope_tail = operands.make_boxes(kv_view, tile.box_tokens, config.qk_rope_head_dim, False)
        if config.avoids("stores_over_tma"):
            zeros = operands.make_boxes(kv_view, 1, tile.chunk_elements, tile.is_paired)
        return *rope_tail, *zeros

    @cute.jit
    def query_view(self, query: cute.Tensor):
        """[head, dim, token, batch]; a packed query is one token of all of a request's (token, head) rows."""
        if cutlass.const_expr(not self.config.query_packed):
            return cute.make_tensor(query.iterator, cute.select(query.layout, mode=[2, 3, 1, 0]))
        (batch, tokens, heads, dims), head_stride = query.layout.shape, query.layout.stride[2]
        rows = tokens * heads
        layout = cute.make_layout(
            (rows, dims, 1, batch), stride=(head_stride, 1, rows * head_stride, query.layout.stride[0])
        )
        return cute.make_tensor(query.iterator, layout)

    @cute.kernel
    def kernel(
        self,
        query_tma: cute.CopyAtom,
        query: cute.Tensor,
        kv_tma: cute.CopyAtom,
        kv: cute.Tensor,
        kv_rope_tma: cute.CopyAtom,
        kv_rope: cute.Tensor,
        kv_tail_tma: cute.CopyAtom | None,
        kv_tail: cute.Tensor | None,
        rope_tail_tma: cute.CopyAtom | None,
        rope_tail: cute.Tensor | None,
        zeros_tma: cute.CopyAtom | None,
        zeros: cute.Tensor | None,
        block_tables: cute.Tensor,
        seq_lens: cute.Tensor,
        out: cute.Tensor,
        lse: cute.Tensor | None,
        partial_out: cute.Tensor,
        partial_lse: cute.Tensor,
        cuts: cute.Tensor,
        softmax_scale: Float32 | cute.Tensor,
        output_scale: Float32 | cute.Tensor,
        cu_seqlens_q: cute.Tensor | None,
        tree_mask: cute.Tensor | None,
        dcp_rank: Int32 | None,
        window_left: Int32 | None,
        visible_lens: cute.Tensor | None,
    ):
        plan = self.plan
        warps, is_paired = plan.warps, plan.tile.is_paired
        smem = Int32(cute.arch.get_dyn_smem(cutlass.Int8, SMEM_ALIGN).toint())
        barriers = cute.make_ptr(Int64, smem + plan.barrier_offset, AddressSpace.smem, assumed_align=BARRIER_BYTES)
        tmem_holder = cute.make_ptr(Int32, smem + plan.tmem_pointer_offset, AddressSpace.smem, assumed_align=4)
        warp = cute.arch.warp_idx()

        cute.arch.griddepcontrol_launch_dependents()
        of_launch = self.scheduler.of_rank(dcp_rank).of_window(window_left)
        requests = RequestList(seq_lens, cu_seqlens_q, visible_lens, of_launch)
        lengths = requests.no_request.traced
        if warp == warps.scheduler:
            cute.arch.griddepcontrol_wait()
            lengths = scheduler.first_lengths(requests)
        if warp == warps.load:
            for atom in (query_tma, kv_tma, kv_rope_tma):
                cpasync.prefetch_descriptor(atom)
        if warp == warps.scores:
            cute.arch.alloc_tmem(TMEM_COLUMNS, tmem_holder, is_paired)
            cute.arch.relinquish_tmem_alloc_permit(is_paired)
            with cute.arch.elect_one():
                init_barriers(plan.barriers, barriers)
            cute.arch.mbarrier_init_fence()
        self.arrive()
        # The range is found while the other warps, and the other CTA of a pair, set up; before it none can do anything.
        unit_range = scheduler.no_range(requests)
        if warp == warps.scheduler:
            unit_range = scheduler.find_range(requests, lengths, *scheduler.unit_index(plan))
        self.wait()

        # Before it reads or writes what the kernel before this one writes or reads, each thread waits for that one's end.
        cute.arch.griddepcontrol_wait()
        scales = operands.scalar(softmax_scale), operands.scalar(output_scale)
        tmem_pointer = cute.arch.retrieve_tmem_ptr(Float32, 16, tmem_holder)
        args = Arguments(
            Boxes(query_tma, query), Boxes(kv_tma, kv), Boxes(kv_rope_tma, kv_rope),
            Boxes(kv_tail_tma, kv_tail) if is_paired else None, block_tables, seq_lens, out, lse, partial_out,
            partial_lse, cuts, scales[0] * LOG2_E, scales[1], cu_seqlens_q, tree_mask, visible_lens,
            None if rope_tail_tma is None else Boxes(rope_tail_tma, rope_tail),
            None if zeros_tma is None else Boxes(zeros_tma, zeros),
        )  # fmt: skip
        cta_rank = cute.arch.block_idx_in_cluster() if is_paired else Int32(0)
        ctx = Context(self.config, plan, args, smem, Int32(tmem_pointer.toint()), cta_rank, requests.scheduler)
        # Each warpgroup under one branch of its own: ptxas allots registers by what dominates a region.
        if warp < warps.scores:
            cute.arch.setmaxregister_increase(warps.compute_registers)
            if warp < warps.correction[0]:
                softmax.run(ctx)
            else:
                correction.run(ctx)
        else:
            cute.arch.setmaxregister_decrease(warps.issue_registers)
            if warp == warps.scheduler:
                scheduler.run(ctx, unit_range)
            if warp == warps.load:
                load.run(ctx)
            if cutlass.const_expr(plan.tile.probs_over_scores):
                if warp == warps.scores:
                    multiply.run(ctx)
            else:
                if warp == warps.scores:
                    scores.run(ctx)
                if warp == warps.output:
                    output.run(ctx)

        self.arrive()
        self.wait()
        if warp == warps.scores:
            cute.arch.dealloc_tmem(tmem_pointer, TMEM_COLUMNS, is_paired)

    def arrive(self) -> None:
        """First half of a barrier of all threads of the CTA, or of the pair: neither may signal barriers that are not
        initialised yet, nor leave while the other's tensor core or barriers still use it.
        """
        operands.fence_before_sync()
        if self.plan.tile.is_paired:
            cute.arch.cluster_arrive()

    def wait(self) -> None:
        """Second half."""
        if self.plan.tile.is_paired:
            cute.arch.cluster_wait()
        else:
            cute.arch.sync_threads()
        operands.fence_after_sync()
