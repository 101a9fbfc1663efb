"""The happens-before checker: silent on right kernels in every order, and each missing edge found and named."""

from __future__ import annotations

import gc
import re
import struct
import weakref

import numpy as np
import pytest

from ptx_emulator import launch
from ptx_emulator.check.hazards import Checker
from ptx_emulator.errors import Deadlock, EmulationError
from ptx_emulator.grid import prepare_launch, run_grids

from ...helpers import ORDERS, aligned, kernel, pointer, run
from .patterns import PATTERNS

MISSING = [(name, edge) for name, pattern in PATTERNS.items() for edge in pattern.edges]


def text_of(name: str, without: str = "") -> str:
    pattern = PATTERNS[name]
    lines = []
    for line in pattern.body.splitlines():
        tag = line.partition("//@")[2].strip()
        if without and tag == without:
            wait = re.search(r"try_wait\S* (%p\d+)", line)
            line = f"setp.eq.u32 {wait.group(1)}, 0, 0;" if wait else ""
        lines.append(line)
    return kernel(pattern.params, "\n".join(lines))


def hazards_of(name: str, without: str = "", **options):
    pattern = PATTERNS[name]
    buffers = [aligned(256), aligned(256)]
    params = [pointer(b) for b in buffers][: pattern.params.count(".param")]
    options = pattern.options | options
    try:
        return run(text_of(name, without), params, buffers, checks=True, **options).hazards
    except Deadlock as error:
        return error.hazards


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", PATTERNS)
def test_right_kernels_are_silent(name, order):
    for seed in range(3):
        assert [str(h) for h in hazards_of(name, order=order, seed=seed)] == []


@pytest.mark.parametrize("name, edge", MISSING)
def test_missing_edge_is_named(name, edge):
    found = hazards_of(name, edge)
    assert PATTERNS[name].edges[edge] in {h.kind for h in found}, [str(h) for h in found]
    named = next(h for h in found if h.kind == PATTERNS[name].edges[edge])
    assert named.line is not None and named.text in text_of(name, edge).splitlines()[named.line - 1]


def test_a_race_report_names_both_accesses_and_the_edge():
    (race,) = hazards_of("warps", "after-write")
    assert race.severity == "error" and race.kind == "race"
    assert "st.shared.b32 [%r4], %r0" in race.prior_text and "ld.shared.b32" in race.text
    assert "offset 0x400" in race.message and "no barrier" in race.message
    assert "after line" in str(race)


@pytest.mark.parametrize("edge, words", [
    ("stored", "tcgen05.wait::st"), ("loaded", "tcgen05.wait::ld"), ("before", "before_thread_sync"),
])  # fmt: skip
def test_tensor_memory_edges_are_named(edge, words):
    assert any(words in h.message for h in hazards_of("fragments", edge))


def test_severities():
    """What hardware is known to be laxer about is a warning."""
    warnings = {"tcgen05-fence", "tcgen05-wait", "lanes", "elected-arrive", "mbarrier-init-fence", "exited-commit"}
    for name, edge in MISSING:
        for hazard in hazards_of(name, edge):
            assert (hazard.severity == "warning") == (hazard.kind in warnings), str(hazard)


def test_checks_do_not_change_results():
    ptx = kernel(".param .b64 out", "ld.param.b64 %rd1, [out];\nst.global.b32 [%rd1], 7;")
    results = []
    for checks in (False, True):
        out = aligned(16)
        report = run(ptx, [pointer(out)], [out], block=(1, 1, 1), checks=checks)
        results.append((out.tobytes(), report.warp_instructions))
    assert results[0] == results[1]


def test_uninitialised_shared_memory():
    ptx = kernel("", "mov.u32 %r0, smem;\nld.shared.b32 %r1, [%r0];")
    (hazard,) = run(ptx, [], [], block=(1, 1, 1), checks=True).hazards
    assert hazard.kind == "uninitialised" and "ld.shared" in hazard.text


GRID = """
    ld.param.b64 %rd1, [out];
    mov.u32 %r0, %ctaid.x;
    {store}
"""


@pytest.mark.parametrize("store, kinds", [
    ("st.global.b32 [%rd1], %r0;", ["grid-race"]),
    ("atom.global.add.u32 %r1, [%rd1], %r0;", []),
    ("mul.wide.u32 %rd2, %r0, 4;\nadd.u64 %rd2, %rd2, %rd1;\nst.global.b32 [%rd2], %r0;", []),
])  # fmt: skip
def test_clusters_of_a_grid_race_in_global_memory(store, kinds):
    out = aligned(64)
    ptx = kernel(".param .b64 out", GRID.format(store=store))
    report = run(ptx, [pointer(out)], [out], grid=(4, 1, 1), block=(1, 1, 1), checks=True)
    assert [h.kind for h in report.hazards] == kinds


def test_a_flag_orders_clusters():
    """Release by one cluster, acquire by the next: what was written before the flag may be read after it."""
    body = """
    ld.param.b64 %rd1, [out];
    mov.u32 %r0, %ctaid.x;
    setp.eq.u32 %p0, %r0, 0;
    @!%p0 bra READ;
    st.global.b32 [%rd1], 5;
    st.release.gpu.global.b32 [%rd1+64], 1;
    bra DONE;
READ:
    {load} %r1, [%rd1+64];
    ld.global.b32 %r2, [%rd1];
DONE:
"""
    for load, kinds in (("ld.acquire.gpu.global.b32", []), ("ld.global.b32", ["grid-race"] * 2)):
        out = aligned(128)
        ptx = kernel(".param .b64 out", body.format(load=load))
        report = run(ptx, [pointer(out)], [out], grid=(2, 1, 1), block=(1, 1, 1), checks=True)
        assert [h.kind for h in report.hazards] == kinds


def dependent_pair(wait: str, order: str, seed: int = 0):
    """A grid that writes 7, and one that depends on it and copies that; returns (what was copied, hazards)."""
    first = ".param .b64 out", "griddepcontrol.launch_dependents;\nld.param.b64 %rd1, [out];\nst.global.b32 [%rd1], 7;"
    second = (
        ".param .b64 out",
        (f"{wait}\nld.param.b64 %rd1, [out];\nld.global.b32 %r1, [%rd1];\nst.global.b32 [%rd1+64], %r1;"),
    )
    out, checker = aligned(128, np.uint32), Checker()
    grids = [
        prepare_launch(
            kernel(*text), "k", grid=(1, 1, 1), block=(1, 1, 1), cluster=(1, 1, 1), shared_bytes=0,
            params=[struct.pack("<Q", out.ctypes.data)], buffers=[out], order=order, seed=seed, checks=checker,
            dependent=number == 1,
        )
        for number, text in enumerate((first, second))
    ]  # fmt: skip
    run_grids(grids)
    return int(out[16]), [h.kind for h in checker.hazards]


@pytest.mark.parametrize("order", ORDERS)
def test_dependent_grids(order):
    assert dependent_pair("griddepcontrol.wait;", order) == (7, [])
    copied, kinds = dependent_pair("", order)
    assert kinds == ["grid-dependency"] * len(kinds) and kinds
    assert copied == (0 if order == "adversarial" else 7)


def test_bytes_left_on_a_barrier():
    body = """
    mov.u32 %r0, smem;
    mbarrier.init.shared.b64 [%r0], 2;
    mbarrier.arrive.expect_tx.shared.b64 %rd0, [%r0], 16;
"""
    (hazard,) = run(kernel("", body), [], [], block=(1, 1, 1), checks=True).hazards
    assert hazard.kind == "mbarrier-tx" and "mbarrier.init" in hazard.text


def test_threads_left_at_a_named_barrier():
    (hazard,) = run(kernel("", "bar.arrive 3, 64;"), [], [], block=(32, 1, 1), checks=True).hazards
    assert hazard.kind == "named-barrier"


def test_history_that_is_full_is_forgotten_not_wrong():
    """Reads of one place by ever new clocks fill the sets; nothing false is reported, and the launch goes on."""
    body = """
    mov.u32 %r0, smem;
    mov.u32 %r3, %tid.x;
    setp.eq.u32 %p1, %r3, 0;
    @%p1 st.shared.b32 [%r0], 1;
    bar.sync 0;
    mov.u32 %r1, 0;
LOOP:
    ld.shared.b32 %r2, [%r0];
    bar.warp.sync -1;
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p0, %r1, 40000;
    @%p0 bra LOOP;
"""
    assert run(kernel("", body), [], [], block=(64, 1, 1), checks=True).hazards == []


def test_checks_cost_nothing_when_off():
    """No trace is kept. The native forms of instructions are in use with checks too."""
    from ptx_emulator.engine import state as st
    from ptx_emulator.machine.cluster import Cluster

    headers = []
    original = Cluster.run

    def watched(self, patience):
        headers.append((int(self.header[st.H_TRACE]), int(self.header[st.H_NATIVE])))
        return original(self, patience)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cluster, "run", watched)
        for checks in (False, True):
            run(kernel("", "mov.u32 %r0, 0;"), [], [], block=(32, 1, 1), checks=checks)
    (trace_off, native_off), (trace_on, native_on) = headers
    assert trace_off == 0 and native_off > 0 and trace_on != 0 and native_on == native_off


def test_the_tables_of_a_launch_go_with_it(monkeypatch):
    """They are large and few objects hold them: Python would not look for cycles there for hundreds of launches."""
    made, original = [], Checker.observer

    def watched(self, *arguments):
        observer = original(self, *arguments)
        made.append(weakref.ref(observer))
        return observer

    monkeypatch.setattr(Checker, "observer", watched)
    checker, bad = Checker(), kernel("", "trap;")
    gc.disable()
    try:
        run(kernel("", "mov.u32 %r0, 0;"), [], [], block=(32, 1, 1), checks=checker)
        with pytest.raises(EmulationError):
            run(bad, [], [], block=(32, 1, 1), checks=checker)
        assert [observer() for observer in made] == [None, None]
    finally:
        gc.enable()


def test_leaked_tensor_memory_is_an_error():
    body = "mov.u32 %r0, smem;\ntcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r0], 32;"
    with pytest.raises(EmulationError, match="still allocated"):
        run(kernel("", body), [], [], block=(32, 1, 1), checks=True)


def test_wrong_checks_argument():
    with pytest.raises(TypeError, match="checks="):
        launch(kernel("", ""), "k", grid=(1,), block=(1,), checks="all")


@pytest.mark.parametrize("wait, kinds", [("", {"exited-work"}), ("cp.async.bulk.wait_group.read 0;", set())])
def test_the_source_of_a_bulk_store_outlives_it(wait, kinds):
    """In order, where the store itself is done at once. That its source was read is enough."""
    start, end = text_of("bulk").split("cp.async.bulk.wait_group.read 0;")
    ptx = f"{start}{wait}\nDONE:{end.split('DONE:')[1]}"
    buffers = [aligned(256), aligned(256)]
    hazards = run(ptx, [pointer(b) for b in buffers], buffers, checks=True, **PATTERNS["bulk"].options).hazards
    assert {hazard.kind for hazard in hazards} == kinds


def test_operands_of_a_product_that_nobody_waited_for():
    """With neither commit waited for, the exit also races with the product's reads of shared memory."""
    ptx = re.sub(r"mbarrier.try_wait\S* (%p\d+), \[%r3\+10(32|40)\], 0;", r"setp.eq.u32 \1, 0, 0;", text_of("own_exit"))
    memory = aligned(256)
    hazards = run(ptx, [pointer(memory)], [memory], checks=True).hazards
    found = {(h.kind, h.severity, h.text.split(".")[1]) for h in hazards}
    assert ("exited-work", "error", "mma") in found and ("exited-commit", "warning", "commit") in found
