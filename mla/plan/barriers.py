"""The edges between the warps of a CTA, or of a pair, and with them the mbarriers in shared memory."""

from __future__ import annotations

from mla.arch import WARP_SIZE
from mla.pipelines import BarrierPlan, Edge
from mla.plan.smem import SmemPlan
from mla.warp_schedule import WarpSchedule

# Halves of O by which Q*K is issued sooner than where its S buffer is read for P*V: scores, softmax and P take longer than
# a tile. Modelled (bench.predict, 1.93 GHz) of fp8 h128 q1 8K b64: without order 52.7 us; 0: 52.7, 1: 51.6, 2: 52.4.
ORDER_LAG = 1


def barriers_of(smem: SmemPlan, warps: WarpSchedule) -> BarrierPlan:
    """Edges: producer -> consumer. What the tensor core waits for lies in the leading CTA, see pipelines.Edge.

    work: scheduler -> all roles, which release it warp by warp.  query, keys, rope: load -> scores (commit frees).
    values: load -> output (commit frees); on the narrow path output frees the slots of keys.  tail: load's own wait
    for all value slots of a ragged tile, or, as config.avoid may ask, for each ragged slot, which nobody frees: the warp that fills them waits before it goes on.
    pages: scheduler -> load.  score: scores (commit) -> softmax.
    probs: softmax -> output (commit frees).  scale: softmax -> correction.  output: the output role (commit, half by
    half) -> correction, which gives a half of O back rescaled or written.  order: output (each half issued) ->
    scores. Nobody frees it: P V of tile t waits for its scores, which wait for half (t - score_stages) *
    output_halves - ORDER_LAG, so that the last one issued, of tile t - 1, is in a stage of its own.

    Where P lies over S, one thread is scores and output (roles/multiply.py): there is no `order`, and nobody frees `score`
    and `probs`. Scores go to a buffer behind the P V that was the last to read it, which had waited for all threads that
    read S and wrote P.
    """
    tile, tmem = smem.tile, smem.tmem
    pair, softmax, correction = tile.cluster_size, len(warps.softmax), len(warps.correction)
    over_scores = tile.probs_over_scores
    slot_by_slot = tile.config.avoids("nan_in_keys", "stores_over_tma")
    edges = [
        Edge("work", smem.work_stages, 1, warps.num_workers - over_scores),
        Edge("query", 1, pair, 1, full_at_leader=True),
        *(Edge(name, ring.stages, pair, 1, full_at_leader=True) for name, ring in smem.rings.items()),
        Edge("tail", 1, 1 if slot_by_slot else smem.rings[tile.value_edge].tile_slots, 0),
        Edge("pages", smem.page_stages, WARP_SIZE, 1),
        Edge("score", tmem.score_stages, 1, 0 if over_scores else pair * softmax, empty_at_leader=True),
        Edge("probs", smem.probs_buffers, pair * softmax, 0 if over_scores else 1, full_at_leader=True),
        Edge("scale", smem.scale_stages, softmax // 2, correction),
        *([] if over_scores else [Edge("order", tmem.score_stages * tile.output_halves + ORDER_LAG, 1, 0)]),
        Edge("output", tile.output_halves, 1, pair * correction, empty_at_leader=True),
    ]
    return BarrierPlan(tuple(edges))
