"""Bytes of shared memory: what of Q is multiplied from there; the rings; P; then small buffers. Behind them come the
barriers (memory.py).

A ring's slots are freed in the order in which they are filled, so that rope spans, which no P*V reads, have a ring of
their own, and so have the values where they are not the keys read again (wide). A work item's Q passes through the ring
of keys on its way to TMEM.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mla.arch import WARP_SIZE
from mla.config import FLOAT_BYTES, INT_BYTES
from mla.plan.tile import SLOT_BYTES, TilePlan
from mla.plan.tmem import TmemPlan

WORK_RECORD_INTS = 8
PROBS_PARTS = 2  # in which halves of rows of P go from thread to thread where P lies over S: so that a slot more fits


@dataclass(frozen=True)
class Ring:
    """`stages` slots of `slot_bytes` bytes from byte `offset` of shared memory on: `tile_slots` of them to a tile, and
    ahead of its tiles `item_slots` to a work item.
    """

    offset: int
    slot_bytes: int
    stages: int
    tile_slots: int
    item_slots: int = 0

    def count(self, items: Any, tiles: Any, number: Any = 0) -> Any:
        """Where a slot comes: behind those of `items` work items and `tiles` key tiles and `number` of its own."""
        return items * self.item_slots + tiles * self.tile_slots + number


@dataclass(frozen=True)
class SmemPlan:
    """key_stages, rope_stages, value_stages: slots of the rings; the other stages: buffers of P, of row factors, of page
    ids and of work records.
    """

    tile: TilePlan
    tmem: TmemPlan
    key_stages: int
    rope_stages: int
    value_stages: int = 0
    probs_stages: int = 1
    scale_stages: int = 3
    page_stages: int = 2
    work_stages: int = 2
    page_ids_per_stage: int = WARP_SIZE

    @property
    def query_chunks_kept(self) -> range:
        """Chunks of Q that stay in shared memory, from `query_offset` on: those that are not copied to TMEM."""
        return range(self.tmem.query_spans, self.tile.query_chunks)

    @property
    def query_offset(self) -> int:
        return 0

    @cached_property
    def rings(self) -> dict[str, Ring]:
        """By the name of their edge, one behind the other."""
        tile = self.tile
        query_slots = self.tmem.query_spans // tile.query_slot_chunks
        sizes = [
            ("keys", SLOT_BYTES, self.key_stages, len(tile.key_slots) - 1, query_slots),
            ("rope", tile.key_rows * tile.rope_bytes, self.rope_stages, 1, 0),
        ]
        if not tile.keys_are_values:
            sizes.append(("values", SLOT_BYTES, self.value_stages, tile.half_slots * tile.output_halves, 0))
        rings, offset = {}, self.query_offset + len(self.query_chunks_kept) * tile.query_chunk_bytes
        for name, slot_bytes, stages, *slots in sizes:
            rings[name] = Ring(offset, slot_bytes, stages, *slots)
            offset += slot_bytes * stages
        return rings

    @property
    def probs_offset(self) -> int:
        last = list(self.rings.values())[-1]
        return last.offset + last.stages * last.slot_bytes

    @property
    def probs_buffers(self) -> int:
        """Of P: here, or in TMEM those of S."""
        return self.tmem.score_stages if self.tile.probs_over_scores else self.probs_stages

    @property
    def row_exchange_offset(self) -> int:
        """Two buffers of [half][row] floats, through which the two threads of a row share maxima and sums."""
        parts = PROBS_PARTS if self.tile.probs_over_scores else 1
        return self.probs_offset + self.probs_stages * self.tile.probs_bytes // parts

    @property
    def scale_offset(self) -> int:
        """[scale stage][row] floats: what the correction warps multiply O with; behind a work item's last tile, its
        row sums.
        """
        return self.row_exchange_offset + 2 * 2 * self.tile.cta_rows * FLOAT_BYTES

    @property
    def page_ids_offset(self) -> int:
        return self.scale_offset + self.scale_stages * self.tile.cta_rows * FLOAT_BYTES

    @property
    def work_offset(self) -> int:
        """[work stage][record] integers: what the scheduler warp tells the others."""
        return self.page_ids_offset + self.page_stages * self.page_ids_per_stage * INT_BYTES

    @property
    def work_record_told(self) -> int:
        """Integers of a record that are written: batch, row tile, begin, end, slot, seq_len_k; of a ragged query:
        query_begin, seq_len_q; under visible lengths, so that one warp alone reads all of a row tile's: its SeenKeys, end
        and whole_to.
        """
        config = self.tile.config
        return 6 + 2 * config.ragged_query + 2 * config.visible_lens

    @property
    def work_record_ints(self) -> int:
        """Integers that a record takes."""
        return max(self.work_record_told, WORK_RECORD_INTS)

    @property
    def end(self) -> int:
        return self.work_offset + self.work_stages * self.work_record_ints * INT_BYTES
