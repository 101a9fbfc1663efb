"""Memory, warps, barriers and work units: hand-derived numbers."""

from __future__ import annotations

import pytest

from mla.arch import SMEM_BYTES_PER_CTA
from mla.config import MlaDecodeConfig
from mla.causal_mask import TilePhases
from mla.memory_plan import NarrowPlan
from mla.page_ring import PageSpan
from mla.pipelines import BarrierPlan, Edge
from mla.tile_scheduler import TileScheduler
from mla.warp_schedule import WarpSchedule


def plan_of(**changes) -> NarrowPlan:
    fields = dict(dtype="bf16", num_heads=16, seq_len_q=4, is_causal=True, page_size=64)
    return NarrowPlan(MlaDecodeConfig(**{**fields, **changes}), WarpSchedule())


def test_narrow_plan_bytes():
    plan = plan_of()
    assert plan.query_bytes == 64 * 576 * 2
    assert plan.kv_stage_bytes == 64 * 576 * 2
    assert plan.kv_offset == 73728 and plan.probs_offset == 3 * 73728
    assert plan.smem_bytes <= SMEM_BYTES_PER_CTA
    assert plan.tmem_columns_used == 256 + 2 * 32


@pytest.mark.parametrize("page_size, box, per_tile, per_page", [(16, 16, 4, 1), (32, 32, 2, 1), (64, 64, 1, 1), (128, 64, 1, 2)])
def test_page_geometry(page_size, box, per_tile, per_page):
    plan = plan_of(page_size=page_size)
    assert (plan.box_tokens, plan.pages_per_tile, plan.tiles_per_page) == (box, per_tile, per_page)
    assert plan.tiles_per_page_stage * 64 == 32 * page_size


def test_a_plan_that_does_not_fit_is_refused_with_the_numbers():
    with pytest.raises(AssertionError, match=r"shared memory: \d+ > 232448"):
        NarrowPlan(MlaDecodeConfig("bf16", 16, 4, True, 64), WarpSchedule(), kv_stages=3)
    with pytest.raises(AssertionError, match=r"TMEM: \d+ > 512"):
        NarrowPlan(MlaDecodeConfig("bf16", 16, 4, True, 64), WarpSchedule(), score_stages=16)


def test_buffers_do_not_overlap():
    plan = plan_of()
    starts = [
        plan.query_offset, plan.kv_offset, plan.probs_offset, plan.row_exchange_offset, plan.scale_offset,
        plan.page_ids_offset, plan.work_offset, plan.barrier_offset, plan.tmem_pointer_offset, plan.smem_bytes,
    ]
    assert starts == sorted(set(starts))
    assert plan.barrier_offset % 8 == 0


def test_barrier_offsets():
    barriers = BarrierPlan((Edge("a", 2, 1, 4), Edge("b", 1, 1, 0), Edge("c", 1, 3, 1)))
    assert [barriers.offset(name) for name in "abc"] == [0, 32, 40]
    assert barriers.bytes == 8 * 7
    with pytest.raises(KeyError, match="d: not an edge"):
        barriers.offset("d")


def test_arrival_counts_follow_from_the_warps():
    edges = {edge.name: (edge.producer_arrivals, edge.consumer_arrivals) for edge in plan_of().barriers.edges}
    assert edges["score"] == (1, 128) and edges["probs"] == (128, 1)
    assert edges["scale"] == (128, 128) and edges["rescaled"] == (128, 0)
    assert edges["kv"] == (1, 1) and edges["pages"] == (32, 1)
    assert edges["work"] == (1, 11) and edges["query"] == (1, 1)


def test_warp_schedule_fills_twelve_warps():
    warps = WarpSchedule()
    assert warps.threads == 384 and warps.registers_per_thread == 168 and warps.num_workers == 11
    with pytest.raises(AssertionError, match="TMEM group"):
        WarpSchedule(softmax=(1, 2, 3, 4))


@pytest.mark.parametrize("num_heads, seq_len_q, tiles", [(1, 1, 1), (16, 4, 1), (16, 8, 2), (40, 5, 4), (128, 8, 16)])
def test_every_row_has_one_row_tile(num_heads, seq_len_q, tiles):
    config = MlaDecodeConfig("bf16", num_heads, seq_len_q, True, 64)
    scheduler = TileScheduler.of(config, 64, 64)
    assert scheduler.row_tiles == tiles
    assert scheduler.request_cost(0) == tiles, "an empty row tile occupies one position"
    assert scheduler.phases(0, 0, 0, 1).num_tiles == 0


def test_fp8_plan():
    """Half the bytes a token, twice the tokens a tile; the rope half of the last chunk is padded to 128 bytes."""
    plan = plan_of(dtype="fp8")
    assert (plan.tile_tokens, plan.mma_k, plan.chunks) == (128, 32, 5)
    assert plan.kv_stage_bytes == 5 * 128 * 128 and plan.score_columns == 64
    assert plan.smem_bytes <= SMEM_BYTES_PER_CTA


@pytest.mark.parametrize("page_size", [16, 32, 64, 128])
@pytest.mark.parametrize("begin, end", [(0, 0), (0, 1), (1, 2), (3, 40), (5, 300)])
def test_page_spans_name_the_pages_of_their_tiles(page_size, begin, end):
    plan = plan_of(page_size=page_size)
    span = PageSpan.of(plan, TilePhases(end * 64, begin, begin, end, False))
    used = set()
    for tile in range(begin, end):
        stage, position = span.stage(tile), span.position(tile)
        entry = span.first_page + stage * plan.page_ids_per_stage + position
        assert entry * page_size <= tile * 64 < (entry + plan.pages_per_tile) * page_size
        assert position + plan.pages_per_tile <= plan.page_ids_per_stage
        used.add(stage)
    assert used == set(range(span.num_stages))
