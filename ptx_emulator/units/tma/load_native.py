"""Native form of TMA loads into one CTA (see rules.py, which has the rules)."""

from __future__ import annotations

import numpy as np
from numba import njit

from ...engine import mbarrier
from ...engine import native as nat
from ...engine import state as st
from ...engine import trace as et
from ...engine.common import OPTIONS, cell_u8, int32s, int64s
from ...engine.memory import find_buffer
from ..swizzle import Swizzle
from .tensormap import MAX_RANK, SWIZZLES, TENSOR_MAP_BYTES, TensorMap, box_extent, copy_box

_LOAD_BYTES, _LOADS = nat.COUNTERS.index("tma_load_bytes"), nat.COUNTERS.index("tma_loads")

# A tensor map that was seen: where, its bytes then, and what they say. Addresses are host addresses.
_ADDRESS, _RECORD, _RANK, _GLOBAL, _BOX_BYTES, _TABLE, _FILL, _FILL_BYTES = range(8)
_BITS, _SOURCE, _TARGET = 8, 9, 10  # the swizzle
_ROW = 16
_CAPACITY = 63


class TensorMaps:
    """The tensor maps that a launch has used. `rows`: int64, the number of maps, then from `_ROW` on a row for each."""

    def __init__(self):
        self.rows = np.zeros(_ROW * (1 + _CAPACITY), np.int64)
        self._places: dict[int, int] = {}
        self._kept: list = []

    def at(self, row: int) -> tuple[TensorMap, int]:
        """The map whose row is at host address `row`, and its address."""
        number = (row - self.rows.ctypes.data) // (8 * _ROW)
        return self._kept[number - 1][1], int(self.rows[number * _ROW + _ADDRESS])

    def add_all(self, memory: np.ndarray) -> None:
        """Notes the maps that lie in `memory` (uint8), where maps may lie: at host addresses that are multiples of
        64."""
        first = memory.ctypes.data
        for offset in range(-first % 64, memory.size - TENSOR_MAP_BYTES + 1, 64):
            record = memory[offset : offset + TENSOR_MAP_BYTES].tobytes()
            try:
                self.add(first + offset, record, TensorMap.from_bytes(record))
            except ValueError:
                continue  # not a tensor map

    def add(self, address: int, record: bytes, tensor: TensorMap) -> None:
        """Notes that the map at host address `address` has the bytes `record` and says `tensor`. Maps whose loads
        change or pack the elements are left to the handler."""
        if tensor.element_type == "tf32" or tensor.packing.elements > 1:
            return
        place = self._places.get(address)
        if place is None:
            if len(self._places) == _CAPACITY:
                return
            place = self._places[address] = _ROW * (1 + len(self._places))
        kept = np.frombuffer(record, np.uint8)
        if self.rows[place + _RECORD] and self._kept[place // _ROW - 1][0].tobytes() == record:
            return
        self._kept[place // _ROW - 1 : place // _ROW] = [(kept, tensor)]
        swizzle: Swizzle = SWIZZLES[tensor.swizzle]
        self.rows[place : place + _TARGET + 1] = [
            address,
            kept.ctypes.data,
            tensor.rank,
            tensor.address,
            tensor.box_bytes,
            tensor.table.ctypes.data,
            tensor.fill.ctypes.data,
            tensor.fill.size,
            swizzle.bits,
            swizzle.source,
            swizzle.target,
        ]
        self.rows[0] = len(self._places)


@njit(**OPTIONS)
def _find(p_maps, address):
    """Host address of the row of the map at `address`, 0 if it was not seen or has changed since."""
    maps = int64s(p_maps)
    for i in range(1, maps[0] + 1):
        p_row = p_maps + 8 * _ROW * i
        if int64s(p_row)[_ADDRESS] == address:
            now, then = int64s(address), int64s(int64s(p_row)[_RECORD])
            for k in range(TENSOR_MAP_BYTES // 8):
                if now[k] != then[k]:
                    return np.int64(0)
            return p_row
    return np.int64(0)


# Arguments: number, level, codes of destination, map and mbarrier, rank, whether the destination may be another CTA's,
# whether the barrier may be in the other CTA of the pair, codes of the coordinates.
_TO, _MAP, _BARRIER, _DIMENSIONS, _CLUSTER, _PAIR, _COORDINATES = 2, 4, 6, 8, 9, 10, 11
_ALIGN = 128
# Further columns of the trace's row.
TO, BYTES, MAP, BOX = range(4)


def load_arguments(inst, symbols) -> list[int] | None:
    """The arguments for a tensor load whose `data` is an ops.tma.Copy."""
    copy = inst.data
    if copy.destination == "global" or copy.gather or copy.multicast:
        return None
    to, source, barrier = inst.operands[:3]
    codes = nat.operand_codes(symbols, to, source, barrier)
    coordinates = nat.operand_codes(symbols, *source.extra[0].elements)
    if codes is None or coordinates is None:
        return None
    flags = [copy.rank, int(copy.destination == "shared::cluster"), int(copy.pair)]
    return [load.number, nat.IN_ORDER, *codes, *flags, *coordinates]


@nat.native
def load(p_head, p_warp, p_arguments, lanes):
    if lanes & (lanes - 1):
        return 0
    head, arguments, lane = int64s(p_head), int32s(p_arguments), nat.leader(lanes)
    p_map = _find(head[st.H_TENSOR_MAPS], nat.operand_value(p_warp, p_arguments + 4 * _MAP, lane))
    if p_map == 0:
        return 0
    tensor = int64s(p_map)
    if tensor[_RANK] != arguments[_DIMENSIONS]:
        return 0
    box = np.zeros(MAX_RANK, np.int64)
    for i in range(tensor[_RANK]):
        word = nat.operand_value(p_warp, p_arguments + 4 * (_COORDINATES + 2 * i), lane)
        box[i] = np.int64(np.int32(word))
    nbytes = tensor[_BOX_BYTES]
    to = nat.operand_value(p_warp, p_arguments + 4 * _TO, lane)
    place = nat.shared_place(p_head, p_warp, to, nbytes, _ALIGN, arguments[_CLUSTER] != 0)
    barrier = nat.operand_value(p_warp, p_arguments + 4 * _BARRIER, lane)
    p_barrier = nat.live_mbarrier(p_head, p_warp, barrier)
    apart = (barrier ^ to) >> st.RANK_SHIFT
    if place == 0 or p_barrier == 0 or not (apart == 0 or (apart == 1 and arguments[_PAIR] != 0)):
        return 0
    if not mbarrier.tx_fits(p_barrier, -nbytes):
        return 0
    table = int64s(tensor[_TABLE])[: 4 * MAX_RANK].reshape((4, MAX_RANK))
    low, high = box_extent(box, table)
    if high > low and find_buffer(p_head, tensor[_GLOBAL] + low, high - low, False) != st.ERR_NONE:
        return 0
    offset = to & st.OFFSET_MASK
    fill = cell_u8(tensor[_FILL])[: tensor[_FILL_BYTES]]
    copy_box(
        cell_u8(tensor[_GLOBAL] + low),
        -low,
        cell_u8(place - offset),
        offset,
        box,
        table,
        tensor[_BITS],
        tensor[_SOURCE],
        tensor[_TARGET],
        fill,
        False,
    )
    phases = int64s(p_barrier)[st.B_PHASE]
    ended = mbarrier.change_tx(p_head, p_barrier, -nbytes)
    more = nat.trace(p_head, p_warp, et.COPY, lanes, barrier, phases, np.int64(ended))
    if more != 0:
        told = int64s(more)
        told[TO], told[BYTES], told[MAP] = to, nbytes, p_map
        for i in range(MAX_RANK):
            told[BOX + i] = box[i]
    nat.count(p_head, _LOAD_BYTES, nbytes)
    nat.count(p_head, _LOADS, 1)
    return 1
