"""Deliberately wrong kernels. Every one must fail validation: they show that the checks can fail.

A mutant replaces one function of the kernel's source while it is traced; nothing of it is in the kernels themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest import mock

import cutlass
import cutlass.cute as cute

from mla import causal_mask, decode, operands, reduction, softmax, split_kv
from mla.causal_mask import CausalMask, KeyShard, SeenKeys, TilePhases
from mla.compile import CompiledDecode, compile_kernel
from mla.config import MlaDecodeConfig
from mla.context import Context
from mla.decode import MlaDecode
from mla.paths import accumulator
from mla.pipelines import Pipeline
from mla.reduction import MergePartials
from mla.roles import clear, correction, load, scheduler
from mla.roles import softmax as softmax_role
from mla.tile_scheduler import TileScheduler
from mla.varlen import Request, RequestList


def _no_mtp_mask(mask: Any, row: Any, seq_len_k: Any) -> Any:
    return seq_len_k


def _top_left_mask(mask: Any, row: Any, seq_len_k: Any) -> Any:
    return causal_mask.minimum(mask.query_token(row) + 1, seq_len_k)


def _late_bound(mask: Any, row: Any, seq_len_k: Any) -> Any:
    return causal_mask.minimum(seq_len_k - (mask.seq_len_q - 1) + mask.query_token(row) + 1, seq_len_k)


def _no_mask(values: list[Any], visible: Any) -> list[Any]:
    return values


def _one_query_length(requests: RequestList, index: Any) -> Request:
    request = _REQUEST(requests, index)
    return replace(request, seq_len_q=requests.scheduler.mask.seq_len_q)


def _first_query(request: Request, batch: Any, row: Any, num_heads: int) -> tuple[Any, Any, Any]:
    return _ROW_COORD(replace(request, query_begin=cutlass.Int32(0)), batch, row, num_heads)


def _every_world_th_key(shard: KeyShard, count: Any) -> Any:
    return (count + (shard.world - 1 - shard.rank)) // shard.world


def _bound_of_local_keys(mask: CausalMask, row: Any, seq_len_k: Any) -> Any:
    local = seq_len_k if mask.shard is None else mask.shard.local_keys(seq_len_k)
    return _K_BOUND(replace(mask, shard=None), row, local)


def _next_rank(scheduler: TileScheduler, dcp_rank: Any) -> TileScheduler:
    return _OF_RANK(scheduler, dcp_rank + 1)


def _all_drafts(word_of: Any, first: Any, seq_len_q: Any) -> Any:
    return _DRAFT_WINDOW(lambda index: cutlass.Int64(causal_mask.WORD_BITS), first, seq_len_q)


def _first_words(word_of: Any, first: Any, seq_len_q: Any) -> Any:
    return _DRAFT_WINDOW(lambda index: word_of(cutlass.Int32(0)), first, seq_len_q)


def _next_draft(word_of: Any, first: Any, seq_len_q: Any) -> Any:
    return _DRAFT_WINDOW(word_of, first + 1, seq_len_q)


def _early_window(mask: CausalMask, row: Any, seq_len_k: Any) -> Any:
    start = _WINDOW_START(mask, row, seq_len_k)
    return start if isinstance(start, int) else causal_mask.maximum(start - 1, 0)


def _late_window(mask: CausalMask, row: Any, seq_len_k: Any) -> Any:
    start = _WINDOW_START(mask, row, seq_len_k)
    return start if isinstance(start, int) else causal_mask.minimum(start + 1, seq_len_k)


def _window_from_whole_tiles(seen: SeenKeys, *arguments: Any) -> TilePhases:
    phases = _PHASES(seen, *arguments)
    return replace(phases, window_end=phases.begin)


def _whole_tiles_of_the_window(seen: SeenKeys, tile_tokens: int, begin: Any, end: Any) -> TilePhases:
    rounded_up = causal_mask.quotient_up(seen.first, tile_tokens) * tile_tokens
    return _PHASES(replace(seen, first=causal_mask.minimum(rounded_up, seen.end)), tile_tokens, begin, end)


def _one_key_more(length: Any, seq_len_k: Any) -> Any:
    return causal_mask.minimum(_CLAMPED(length, seq_len_k) + 1, seq_len_k)


def _last_token(visible_lens: Any, begin: Any, end: Any, seq_len_k: Any) -> tuple[Any, Any]:
    length = causal_mask.clamped(visible_lens[end - 1], seq_len_k)
    return _EXTREMES(visible_lens, begin, end, seq_len_k)[0], length


def _first_token(visible_lens: Any, begin: Any, end: Any, seq_len_k: Any) -> tuple[Any, Any]:
    length = causal_mask.clamped(visible_lens[begin], seq_len_k)
    return length, _EXTREMES(visible_lens, begin, end, seq_len_k)[1]


def _unread_scalar(value: Any) -> Any:
    return cutlass.Float32(1.0) if isinstance(value, cute.Tensor) else value


def _one_draft_more(phases: TilePhases) -> tuple[Any, Any]:
    return phases.whole_from, phases.whole_to + 1


def _only_ragged_tiles(pages: load.TilePages, mma_k: int) -> Any:
    return pages.visible % mma_k != 0


def _no_rows(*_: Any) -> tuple[Any, Any]:
    return cutlass.Int32(0), cutlass.Int32(0)


def _nothing(*arguments: Any) -> None:
    return None


def _short_take(first: Any, cost: Any, range_begin: Any, range_end: Any) -> split_kv.Split:
    return _TAKE(first, cost, range_begin, range_end - 1)


def _first_stage_pages(ctx: Context, batch: Any, phases: Any, entry: Any) -> Any:
    return _TABLE_ENTRY(ctx, batch, phases, entry % ctx.plan.smem.page_ids_per_stage)


def _all_but_the_last(parts: Any, member: Any, log2_members: Any) -> tuple[Any, Any]:
    begin, end = _PARTS_OF(parts, member, log2_members)
    return begin, end - 1


def _one_member(smem: Any, warp: Any, members: Any, vector: int) -> Any:
    return _COMBINE(smem, warp, cutlass.Int32(1), vector)


def _skip_probs_wait(pipeline: Pipeline, count: Any) -> None:
    if pipeline.edge.name != "probs":
        _WAIT_FULL(pipeline, count)


def _skip_product_wait(pipeline: Pipeline, count: Any) -> None:
    if pipeline.edge.name != "output":
        _WAIT_FULL(pipeline, count)


def _skip_correction_wait(pipeline: Pipeline, count: Any) -> None:
    if pipeline.edge.name != "output":
        _WAIT_EMPTY(pipeline, count)


def _own_half(ctx: Context, lane: Any, words: Any) -> Any:
    return words


def _first_buffer(ctx: Context, count: Any) -> Any:
    return _SCORE_ADDRESS(ctx, 0)


_WAIT_FULL = Pipeline.wait_full
_SCORE_ADDRESS = accumulator.score_address
_WAIT_EMPTY = Pipeline.wait_empty
_TAKE = split_kv.take
_TABLE_ENTRY = scheduler.table_entry
_PARTS_OF = reduction.parts_of
_COMBINE = reduction.combine
_REQUEST = RequestList.request
_ROW_COORD = Request.row_coord
_K_BOUND = CausalMask.k_bound
_OF_RANK = TileScheduler.of_rank
_DRAFT_WINDOW = causal_mask.draft_window
_WINDOW_START = CausalMask.window_start
_PHASES = SeenKeys.phases
_CLAMPED = causal_mask.clamped
_EXTREMES = causal_mask.extremes

MUTANTS: dict[str, tuple[str, Callable[[], AbstractContextManager[Any]]]] = {
    "no-mtp-mask": (
        "every query token sees all keys, as in TokenSpeed-MLA's bf16 kernel before pull request 469",
        lambda: mock.patch.object(causal_mask.CausalMask, "k_bound", _no_mtp_mask),
    ),
    "top-left-mask": (
        "causal bound aligned with the first key instead of the last",
        lambda: mock.patch.object(causal_mask.CausalMask, "k_bound", _top_left_mask),
    ),
    "off-by-one-mask": (
        "every query token but the last sees one key too many",
        lambda: mock.patch.object(causal_mask.CausalMask, "k_bound", _late_bound),
    ),
    "no-tile-mask": (
        "tiles that straddle a bound are not masked",
        lambda: mock.patch.object(softmax, "masked", _no_mask),
    ),
    "natural-scale": (
        "softmax_scale is not converted to base 2",
        lambda: mock.patch.object(decode, "LOG2_E", 1.0),
    ),
    "no-rescale": (
        "the accumulated output is not rescaled when a row's maximum grows",
        lambda: mock.patch.object(correction, "multiply_columns", _nothing),
    ),
    "no-tail-clear": (
        "unused slots of the last page reach the tensor core",
        lambda: mock.patch.object(clear, "rows_behind", _no_rows),
    ),
    "split-off-by-one": (
        "a CTA stops one key tile short of its range",
        lambda: mock.patch.object(split_kv, "take", _short_take),
    ),
    "no-merge": (
        "the parts of a split row tile are not merged",
        lambda: mock.patch.object(MergePartials, "merge", _nothing),
    ),
    "same-pages": (
        "the page ids of a work item's first ring stage are taken for all of its stages",
        lambda: mock.patch.object(scheduler, "table_entry", _first_stage_pages),
    ),
    "merge-skips-part": (
        "of the parts of a split row tile that a warp merges, the last one is left out",
        lambda: mock.patch.object(reduction, "parts_of", _all_but_the_last),
    ),
    "merge-first-warp": (
        "of the warps that share the parts of a row, the first one's sum is taken for all",
        lambda: mock.patch.object(reduction, "combine", _one_member),
    ),
    "unscaled-probs": (
        "probabilities are rounded to e4m3 as they are, in [0, 1]; the same kernel for fp16 and bf16",
        lambda: mock.patch.object(MlaDecodeConfig, "probs_scale_log2", 0),
    ),
    "ragged-longest": (
        "every request of a ragged query counts as having the most tokens that one may have",
        lambda: mock.patch.object(RequestList, "request", _one_query_length),
    ),
    "ragged-first": (
        "the results of all requests of a ragged query are written to the first one's tokens",
        lambda: mock.patch.object(Request, "row_coord", _first_query),
    ),
    "dcp-no-interleave": (
        "every world-th key is taken for the rank's, whatever the interleave",
        lambda: mock.patch.object(KeyShard, "local_keys", _every_world_th_key),
    ),
    "dcp-local-mask": (
        "the causal bound is taken among the rank's keys instead of all ranks'",
        lambda: mock.patch.object(CausalMask, "k_bound", _bound_of_local_keys),
    ),
    "dcp-next-rank": (
        "a rank takes its keys for those of the next",
        lambda: mock.patch.object(TileScheduler, "of_rank", _next_rank),
    ),
    "no-tree-mask": (
        "every draft token sees all of them",
        lambda: mock.patch.object(softmax_role, "draft_window", _all_drafts),
    ),
    "tree-first-word": (
        "only the first 32 draft tokens have bits of their own",
        lambda: mock.patch.object(softmax_role, "draft_window", _first_words),
    ),
    "tree-off-by-one": (
        "every bit of the tree mask counts for the draft token before its own",
        lambda: mock.patch.object(softmax_role, "draft_window", _next_draft),
    ),
    "drafts-not-cleared": (
        "with isolate_drafts, values that are not finite reach rows that do not see their key",
        lambda: mock.patch.object(clear, "clear_not_finite", _nothing),
    ),
    "drafts-last-tile": (
        "they do where the drafts' tile is whole, as the one before the last is",
        lambda: mock.patch.object(load.TilePages, "needs_clearing", _only_ragged_tiles),
    ),
    "drafts-off-by-one": (
        "they do where all query tokens but the first see the draft",
        lambda: mock.patch.object(load, "keys_of_all_rows", _one_draft_more),
    ),
    "window-early": (
        "every query token sees one key before its window",
        lambda: mock.patch.object(CausalMask, "window_start", _early_window),
    ),
    "window-late": (
        "no query token sees the first key of its window",
        lambda: mock.patch.object(CausalMask, "window_start", _late_window),
    ),
    "window-unmasked": (
        "tiles that straddle the start of a window are taken for whole ones",
        lambda: mock.patch.object(SeenKeys, "phases", _window_from_whole_tiles),
    ),
    "window-no-clear": (
        "keys before the window, in the tile that it starts in, reach the tensor core",
        lambda: mock.patch.object(clear, "rows_before", _no_rows),
    ),
    "window-skips-tile": (
        "the tile that a window starts in is not read",
        lambda: mock.patch.object(SeenKeys, "phases", _whole_tiles_of_the_window),
    ),
    "visible-off-by-one": (
        "every query token sees one key more than its visible length",
        lambda: mock.patch.object(causal_mask, "clamped", _one_key_more),
    ),
    "visible-last-token": (
        "a row tile is as long as its last query token's visible length",
        lambda: mock.patch.object(causal_mask, "extremes", _last_token),
    ),
    "visible-first-token": (
        "all query tokens of a row tile are taken to see the keys that the first one sees",
        lambda: mock.patch.object(causal_mask, "extremes", _first_token),
    ),
    "unread-scales": (
        "scales that are tensors count as 1",
        lambda: mock.patch.object(operands, "scalar", _unread_scalar),
    ),
    "no-multicast": (
        "commits arrive in the leading CTA only",
        lambda: mock.patch.object(operands, "PAIR_MASK", 0b01),
    ),
    "no-query-copy": (
        "the part of Q that the tensor core reads from Tensor Memory is never copied there",
        lambda: mock.patch.object(operands, "copy_rows_to_tmem", _nothing),
    ),
    "same-rows": (
        "both CTAs of a pair work on the first 64 rows",
        lambda: mock.patch.object(Context, "first_cta_row", 0),
    ),
    "one-half-of-probs": (
        "the half of a row of P that its other thread has is taken to be like one's own",
        lambda: mock.patch.object(softmax_role, "other_half", _own_half),
    ),
    "scores-over-scores": (
        "all tiles' scores go to one buffer, over the P that the tile before is multiplied with",
        lambda: mock.patch.object(accumulator, "score_address", _first_buffer),
    ),
    "no-probs-wait": (
        "the tensor core does not wait for the probabilities",
        lambda: mock.patch.object(Pipeline, "wait_full", _skip_probs_wait),
    ),
    "no-product-wait": (
        "halves of the output are rescaled before P*V has completed them",
        lambda: mock.patch.object(Pipeline, "wait_full", _skip_product_wait),
    ),
    "no-correction-wait": (
        "the tensor core does not wait for the halves of the output to be given back",
        lambda: mock.patch.object(Pipeline, "wait_empty", _skip_correction_wait),
    ),
}


# What only a pair of CTAs has, of bf16 and fp16; on the narrow path these are the kernel itself.
WIDE_MUTANTS = ("no-multicast", "same-rows", "one-half-of-probs")


@functools.cache
def compile_mutant(config: MlaDecodeConfig, name: str) -> CompiledDecode:
    """The named mutant of the kernel that `config` describes. Raises ValueError for an unknown name."""
    if name not in MUTANTS:
        raise ValueError(f"mutant={name!r}: must be one of {sorted(MUTANTS)}")
    with MUTANTS[name][1]():
        return compile_kernel(MlaDecode(config))
