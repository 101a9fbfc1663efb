"""What the units of a decode call read of HBM: their keys, once, as far as L2 keeps what another row tile reads again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from bench.counts import WorkItem, work_items
from bench.workloads import Workload
from mla.config import ELEMENT_BYTES, HEAD_DIM, MlaDecodeConfig
from mla.decode import MlaDecode
from ptx_emulator.timing.traffic import Traffic
from wrappers.kernel import EMULATED_CTAS

# Chips and Cheese: 126.5 MB in two halves. Half of it: what SMs of both sides read may stand in both.
L2_BYTES = 63e6


def traffic_of(config: MlaDecodeConfig, workload: Workload) -> Traffic:
    """Of the decode kernel at EMULATED_CTAS CTAs; idle units read nothing."""
    tile = MlaDecode(config).plan.tile
    items = work_items(config, workload.kv_lens, EMULATED_CTAS)
    token_bytes = HEAD_DIM * ELEMENT_BYTES[workload.dtype]
    by_unit = [0.0] * (EMULATED_CTAS // tile.cluster_size)
    share = first_reads(items, tile.tokens * token_bytes)
    for item in items:
        by_unit[item.unit] += share * item.keys * token_bytes
    return Traffic(tuple(by_unit), share)


def first_reads(items: Sequence[WorkItem], tile_bytes: int) -> float:
    """The share of the key tiles that are read, of all units in step, which L2 does not hold from an earlier read: it
    drops what was not read for longest."""
    held: OrderedDict[tuple[int, int], None] = OrderedDict()
    reads = missed = 0
    for key in _in_step(items):
        reads += 1
        if key in held:
            held.move_to_end(key)
            continue
        missed += 1
        held[key] = None
        if len(held) * tile_bytes > L2_BYTES:
            held.popitem(last=False)
    return missed / reads if reads else 1.0


def _in_step(items: Sequence[WorkItem]) -> Iterator[tuple[int, int]]:
    """(request, key tile) as the units read them: the first of each, the second of each, and so on."""
    of_units: dict[int, list[tuple[int, int]]] = {}
    for item in items:
        tiles = ((item.batch, tile) for tile in range(item.phases.begin, item.phases.end))
        of_units.setdefault(item.unit, []).extend(tiles)
    for step in range(max(map(len, of_units.values()), default=0)):
        for tiles in of_units.values():
            if step < len(tiles):
                yield tiles[step]
