"""Native forms against the handlers that they stand for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numba import njit

from ptx_emulator.engine import native
from ptx_emulator.errors import TmemError
from ptx_emulator.front.parser import Variable
from ptx_emulator.ir import Address, Imm, Not, Reg, Symbol
from ptx_emulator.machine.cluster import Cluster
from ptx_emulator.units.tcgen05 import mma_native
from ptx_emulator.units.tma import load_native
from ptx_emulator.units.tma.tensormap import TensorMap

from ..helpers import aligned, random_bytes
from ..units.tcgen05.test_load_store import SHAPES, execute, fill, program, registers, write_registers
from ..units.tcgen05.test_mma import multiply
from ..units.tma.test_rules import load, shift


@pytest.fixture
def traps(monkeypatch):
    """Counts the instructions for which the engine left."""
    found = Counter()
    handle = Cluster._handle

    def counting(cluster):
        _, inst = cluster.kernel.handlers[cluster.kernel.code[cluster._stop.tolist()[2], 2]]
        found[inst.name] += 1
        handle(cluster)

    monkeypatch.setattr(Cluster, "_handle", counting)
    return found


@pytest.mark.parametrize("shape,repeat", SHAPES)
def test_loads_and_stores_do_as_their_handlers(shape, repeat, traps, monkeypatch):
    count = repeat * {"16x128b": 2, "16x256b": 4}.get(shape, 1)
    split = ", 8" if shape == "16x32bx2" else ""
    body = (
        fill(32)
        + f"tcgen05.ld.sync.aligned.{shape}.x{repeat}.b32 {registers(20, count)}, [%r5]{split};\n"
        + "tcgen05.wait::ld.sync.aligned;\nadd.u32 %r9, %r5, 3;\n"
        + f"tcgen05.st.sync.aligned.{shape}.x{repeat}.b32 [%r9]{split}, {registers(20, count)};\n"
        + "tcgen05.wait::st.sync.aligned;\nbar.sync 0;\n"
        + "tcgen05.ld.sync.aligned.32x32b.x32.b32 " + registers(20, 32) + ", [%r5];\n"
        + write_registers(20, 32)
    )  # fmt: skip
    found = execute(program(body), 128 * 32)
    assert not traps["tcgen05.ld"] and not traps["tcgen05.st"] and not traps["tcgen05.wait::st"]
    monkeypatch.setattr(native, "LEVELS", {})
    np.testing.assert_array_equal(execute(program(body), 128 * 32), found)
    assert traps["tcgen05.ld"] == 2 * 4 and traps["tcgen05.st"] == 33 * 4 and traps["tcgen05.wait::st"] == 2 * 4


def test_what_is_wrong_is_left_to_the_handler(traps):
    """The error names the line, which only the handler knows."""
    ptx = program("add.u32 %r9, %r5, 60;\n" + "tcgen05.ld.sync.aligned.32x32b.x8.b32 " + registers(20, 8) + ", [%r9];")
    with pytest.raises(TmemError, match="columns 60 to 67") as error:
        execute(ptx, 128)
    assert "tcgen05.ld" in error.value.text and traps["tcgen05.ld"] == 1


def test_products_are_native_once_their_plan_is_known(traps):
    mma_native.PLANS.clear()
    arguments = (64, 128, True, ("K", "128B"), ("MN", "128B"))
    first, expected = multiply(np.random.default_rng(1), *arguments)
    np.testing.assert_array_equal(first, expected)
    assert traps["tcgen05.mma.ws"] == 4 and not traps["tcgen05.commit"]


def test_tensor_loads_are_native(traps):
    data = random_bytes(4096, 2)
    tensor = shift(TensorMap(0, "bf16", (64, 20), (160,), (64, 8), swizzle="128B"), data)
    _, report = load(tensor, (0, 3), buffers=[data])
    assert not traps["cp.async.bulk.tensor"]
    assert report.counters["tma_loads"] == 1 and report.counters["tma_load_bytes"] == 1024


def test_a_tensor_map_that_changed_is_not_used():
    find = njit(lambda maps, address: load_native._find(maps, address))
    old, new = (TensorMap(0, "f32", (8, width), (32,), (8, 2)) for width in (4, 5))
    memory = aligned(192)
    memory[64:] = np.frombuffer(old.to_bytes(), np.uint8)
    maps, where = load_native.TensorMaps(), memory.ctypes.data + 64
    maps.add_all(memory)
    assert maps.rows[0] == 1
    row = find(maps.rows.ctypes.data, where)
    assert row != 0 and find(maps.rows.ctypes.data, where - 64) == 0
    memory[64:] = np.frombuffer(new.to_bytes(), np.uint8)
    assert find(maps.rows.ctypes.data, where) == 0
    maps.add(where, new.to_bytes(), new)
    assert maps.rows[0] == 1 and find(maps.rows.ctypes.data, where) == row


def test_plans_with_one_slot_are_told_apart():
    """Keys that hash alike sit in neighbouring rows; a full table is emptied."""

    class Plan:
        def __init__(self):
            self.row = np.zeros(mma_native.P_SIZE, np.int64)

    table, found = mma_native.PlanTable(), {}
    for form in range(500):
        key = (form << 32 | 7, (1 << 64) - form, form * form)
        table.add(key, found.setdefault(key, Plan()))
    for key, plan in found.items():
        slot = mma_native._slot(table.rows.ctypes.data, *mma_native._signed(key))
        assert table.rows[slot, 3] == plan.row.ctypes.data and table.get(key) is plan
    slots = Counter(mma_native._slot(np.zeros_like(table.rows).ctypes.data, *mma_native._signed(key)) for key in found)
    assert max(slots.values()) > 1
    for form in range(1000, 1000 + mma_native._CAPACITY * 3 // 4):
        table.add((form, 0, 0), found.setdefault((form, 0, 0), Plan()))
    assert table.get(key) is None and np.count_nonzero(table.rows[:, 3]) <= mma_native._CAPACITY * 3 // 4


def test_operand_codes():
    narrow, wide = Reg("%r1", "b32", slot=5), Reg("%rd1", "b64", slot=6)
    symbols = {
        "smem": Variable("smem", "shared", 16, 64, offset=0x400),
        "table": Variable("table", "global", 16, 64),
    }
    assert native.operand_code(narrow, symbols) == [5, 0]
    assert native.operand_code(Address(wide, -8), symbols) == [-8, -8]
    assert native.operand_code(Imm(-3), symbols) == [-1, -3]
    assert native.operand_code(Address(Symbol("smem"), 16), symbols) == [native._OWN_SHARED, 0x410]
    for operand in (Symbol("table"), Imm(1 << 31), Not(narrow), Reg("%q", "b128", slot=2)):
        assert native.operand_code(operand, symbols) is None
        assert native.operand_codes(symbols, narrow, operand) is None
