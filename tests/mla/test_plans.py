"""Memory, warps, barriers and work units: hand-derived numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mla.arch import SMEM_BYTES_PER_CTA
from mla.causal_mask import TilePhases
from mla.config import MlaDecodeConfig
from mla.page_ring import PageSpan
from mla.pipelines import BarrierPlan, Edge
from mla.plan.memory import MemoryPlan
from mla.plan.paths import NarrowTile, plan_of
from mla.plan.smem import Ring, SmemPlan
from mla.plan.tile import KeySlot, Span, ValuePart
from mla.plan.tmem import TmemPlan
from mla.tile_scheduler import TileScheduler
from mla.warp_schedule import WarpSchedule


def make_plan(**changes) -> MemoryPlan:
    fields = dict(dtype="bf16", num_heads=16, seq_len_q=4, is_causal=True, page_size=64)
    return plan_of(MlaDecodeConfig(**{**fields, **changes}))


def test_narrow_plan_bytes():
    plan = make_plan()
    assert plan.tile.query_bytes == 64 * 576 * 2
    assert list(plan.smem.query_chunks_kept) == [4, 5, 6, 7, 8]
    assert plan.smem.rings["keys"] == Ring(5 * 8192, slot_bytes=64 * 128 * 2, stages=10, tile_slots=4, item_slots=2)
    assert plan.smem.rings["rope"] == Ring(5 * 8192 + 10 * 16384, slot_bytes=64 * 64 * 2, stages=2, tile_slots=1)
    assert plan.smem.probs_offset == 5 * 8192 + 10 * 16384 + 2 * 8192
    assert plan.smem_bytes <= SMEM_BYTES_PER_CTA
    assert plan.tmem.columns_used == 256 + 2 * 32 + 4 * 32


def test_ring_counts():
    """Slots of three work items and five key tiles, then number 3 of the next tile."""
    assert Ring(0, 16384, 12, tile_slots=4, item_slots=2).count(3, 5, 3) == 3 * 2 + 5 * 4 + 3
    assert Ring(0, 16384, 12, tile_slots=4).count(3, 5) == 5 * 4


@pytest.mark.parametrize(
    "page_size, box, per_tile, per_page", [(16, 16, 4, 1), (32, 32, 2, 1), (64, 64, 1, 1), (128, 64, 1, 2)]
)
def test_page_geometry(page_size, box, per_tile, per_page):
    plan = make_plan(page_size=page_size)
    assert (plan.tile.box_tokens, plan.tile.pages_per_tile, plan.tile.tiles_per_page) == (box, per_tile, per_page)


def narrow_plan(key_stages: int, score_stages: int = 2) -> MemoryPlan:
    tile = NarrowTile(MlaDecodeConfig("bf16", 16, 4, True, 64))
    return MemoryPlan(SmemPlan(tile, TmemPlan(tile, score_stages), key_stages, rope_stages=2), WarpSchedule())


def test_a_plan_that_does_not_fit_is_refused_with_the_numbers():
    with pytest.raises(AssertionError, match=r"shared memory: \d+ > 232448"):
        narrow_plan(key_stages=12)
    with pytest.raises(AssertionError, match=r"TMEM: \d+ > 512"):
        narrow_plan(key_stages=4, score_stages=8)
    with pytest.raises(AssertionError, match="2 slots side by side, 5 slots"):
        narrow_plan(key_stages=5)
    with pytest.raises(AssertionError, match="the query's 2 slots, 0 beside a tile's"):
        narrow_plan(key_stages=4)


@pytest.mark.parametrize("dtype, slots", [("fp8", [[0], [1], [2], [3]]), ("bf16", [[0, 1], [2, 3], [4, 5], [6, 7]])])
def test_narrow_slots(dtype, slots):
    """A slot is 16 KiB of the latent part; each half of P*V frees two, in the order in which they are filled. The rope
    span, which only Q*K reads, has a ring of its own.
    """
    plan = make_plan(dtype=dtype)
    latent = [slot for slot in plan.tile.key_slots if slot.edge == "keys"]
    assert [[span for span, _ in slot.spans] for slot in latent] == slots
    assert plan.tile.slot_spans * plan.tile.key_rows * 128 == plan.smem.rings["keys"].slot_bytes
    assert plan.tile.key_slots[-1] == KeySlot("rope", 0, ((len(plan.tile.spans) - 1, 0),))
    assert [part.slots for part in plan.tile.value_parts] == [range(0, 2)] and plan.tile.half_slots == 2


@pytest.mark.parametrize("path", ["narrow", "wide"])
@pytest.mark.parametrize("dtype", ["bf16", "fp8"])
def test_rings_have_as_many_slots_as_fit(dtype, path):
    plan = make_plan(dtype=dtype, path=path)
    for ring in ("key_stages",) if path == "narrow" else ("key_stages", "value_stages"):
        more = 2 if path == "narrow" else 1
        with pytest.raises(AssertionError, match="shared memory"):
            replace(plan, smem=replace(plan.smem, **{ring: getattr(plan.smem, ring) + more}))


def test_buffers_do_not_overlap():
    plan = make_plan()
    starts = [
        plan.smem.query_offset,
        *(ring.offset for ring in plan.smem.rings.values()),
        plan.smem.probs_offset,
        plan.smem.row_exchange_offset,
        plan.smem.scale_offset,
        plan.smem.page_ids_offset,
        plan.smem.work_offset,
        plan.barrier_offset,
        plan.tmem_pointer_offset,
        plan.smem_bytes,
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
    edges = {edge.name: (edge.producer_arrivals, edge.consumer_arrivals) for edge in make_plan().barriers.edges}
    assert edges["score"] == (1, 4) and edges["probs"] == (4, 1)
    assert edges["scale"] == (2, 4) and edges["output"] == (1, 4)
    assert edges["keys"] == (1, 1) and edges["pages"] == (32, 1)
    assert edges["work"] == (1, 11) and edges["query"] == (1, 1)


def test_warp_schedule_fills_twelve_warps():
    warps = WarpSchedule()
    assert warps.threads == 384 and warps.registers_per_thread == 168 and warps.num_workers == 11
    with pytest.raises(AssertionError, match="TMEM group"):
        WarpSchedule(softmax=(1, 2, 3, 4))


def test_roles_share_the_registers_of_the_launch():
    """384 x 168 = 64512 = 256 x 216 + 128 x 72; with 8 more for each of four warps setmaxnreg would never return."""
    assert WarpSchedule(compute_registers=216, issue_registers=72).threads * 168 == 64512
    with pytest.raises(AssertionError, match="65536 registers: a warp would wait for ever"):
        WarpSchedule(compute_registers=216, issue_registers=80)


@pytest.mark.parametrize("num_heads, seq_len_q, tiles", [(1, 1, 1), (16, 4, 1), (16, 8, 2), (40, 5, 4), (128, 8, 16)])
def test_every_row_has_one_row_tile(num_heads, seq_len_q, tiles):
    config = MlaDecodeConfig("bf16", num_heads, seq_len_q, True, 64)
    scheduler = TileScheduler.of(config, 64, 64)
    assert scheduler.row_tiles == tiles
    assert scheduler.request_cost(0) == tiles * (scheduler.gap + 1), "an empty row tile occupies one position"
    assert scheduler.phases(scheduler.seen_keys(0, 0), 0, 1).num_tiles == 0


def test_fp8_plan():
    """Half the bytes a token, twice the tokens a tile; the rope span is 64 bytes wide."""
    plan = make_plan(dtype="fp8")
    assert (plan.tile.tokens, plan.tile.mma_k, plan.tile.spans[-1]) == (128, 32, Span(512, 64))
    assert plan.tmem.score_columns == 64
    assert (plan.smem.rings["keys"].slot_bytes, plan.smem.rings["rope"].slot_bytes) == (128 * 128, 128 * 64)
    assert list(plan.smem.query_chunks_kept) == [4]
    assert plan.smem_bytes <= SMEM_BYTES_PER_CTA


@pytest.mark.parametrize("page_size", [16, 32, 64, 128])
@pytest.mark.parametrize("begin, end", [(0, 0), (0, 1), (1, 2), (3, 40), (5, 300)])
def test_page_spans_name_the_pages_of_their_tiles(page_size, begin, end):
    plan = make_plan(page_size=page_size)
    span = PageSpan.of(plan, TilePhases(end * 64, begin, begin, end, False, begin))
    used = set()
    for tile in range(begin, end):
        stage, position = span.stage(tile), span.position(tile)
        entry = span.first_page + stage * plan.smem.page_ids_per_stage + position
        assert entry * page_size <= tile * 64 < (entry + plan.tile.pages_per_tile) * page_size
        assert position + plan.tile.pages_per_tile <= plan.smem.page_ids_per_stage
        used.add(stage)
    assert used == set(range(span.num_stages))


def test_wide_plans():
    """Tiles of 128 keys, of which a CTA holds 64 as keys, and 256 of the 512 latent dimensions of all as values."""
    bf16, fp8 = make_plan(path="wide"), make_plan(path="wide", dtype="fp8")
    for plan in (bf16, fp8):
        assert (plan.tile.rows, plan.tile.cta_rows, plan.tile.tokens, plan.tile.key_rows) == (128, 64, 128, 64)
        assert plan.smem_bytes <= SMEM_BYTES_PER_CTA and plan.tmem.columns_used == 512
        assert plan.tmem.query_spans == 4
        tile_bytes = sum(ring.tile_slots * ring.slot_bytes for ring in plan.smem.rings.values())
        assert tile_bytes == plan.tile_load_bytes == (64 * 576 + 128 * 256) * plan.config.element_bytes
    assert bf16.tile.value_parts == (ValuePart(0, 64, range(0, 1)), ValuePart(64, 64, range(1, 2)))
    assert fp8.tile.value_parts == (ValuePart(0, 128, range(0, 1)),)
    assert (bf16.tile.half_slots, fp8.tile.half_slots) == (2, 1)


def test_both_ctas_of_a_pair_arrive_where_the_tensor_core_waits():
    edges = {edge.name: edge for edge in make_plan(path="wide").barriers.edges}
    for name in ("query", "keys", "rope", "values"):
        assert (edges[name].producer_arrivals, edges[name].consumer_arrivals) == (2, 1)
    assert edges["probs"].producer_arrivals == edges["output"].consumer_arrivals == 8
    at_leader = {name for name, edge in edges.items() if edge.full_at_leader}
    assert at_leader == {"query", "keys", "rope", "values", "probs"}
    assert {name for name, edge in edges.items() if edge.empty_at_leader} == {"score", "output"}


def test_probabilities_lie_over_scores_where_a_pair_multiplies_16_bits():
    """Nobody frees the buffers of S and P then, nobody takes turns, and one warp less follows the work items."""
    wide, fp8 = (make_plan(path="wide", dtype=dtype) for dtype in ("fp16", "fp8"))
    assert wide.tile.probs_over_scores and not fp8.tile.probs_over_scores and not make_plan().tile.probs_over_scores
    edges, others = ({edge.name: edge for edge in plan.barriers.edges} for plan in (wide, fp8))
    assert set(others) - set(edges) == {"order"} and not set(edges) - set(others)
    assert (edges["score"].consumer_arrivals, others["score"].consumer_arrivals) == (0, 8)
    assert (edges["probs"].consumer_arrivals, others["probs"].consumer_arrivals) == (0, 1)
    assert edges["probs"].stages == edges["score"].stages == 2
    assert others["work"].consumer_arrivals - edges["work"].consumer_arrivals == 1
    assert wide.smem.row_exchange_offset - wide.smem.probs_offset == 128 * 4 * 16


@pytest.mark.parametrize(
    "num_heads, seq_len_q, is_wide", [(64, 1, False), (65, 1, True), (16, 4, False), (16, 5, True)]
)
def test_more_than_64_rows_take_the_wide_path(num_heads, seq_len_q, is_wide):
    assert make_plan(num_heads=num_heads, seq_len_q=seq_len_q).tile.is_paired == is_wide
    assert not make_plan(num_heads=num_heads, seq_len_q=seq_len_q, path="narrow").tile.is_paired
    assert make_plan(num_heads=num_heads, seq_len_q=seq_len_q, path="wide").tile.is_paired
    with pytest.raises(ValueError, match="path='two': must be one of"):
        make_plan(path="two")
