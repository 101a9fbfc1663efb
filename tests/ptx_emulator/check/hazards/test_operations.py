"""Asynchronous operations in the shadow: the same hazards whether a handler or its native form carries them out."""

from __future__ import annotations

import pytest

from ptx_emulator.engine import native
from ptx_emulator.units.tma.tensormap import TensorMap

from ...engine.test_native import traps  # noqa: F401  (fixture)
from ...helpers import aligned, kernel, pointer, run, wait
from .test_checker import MISSING, hazards_of, text_of

TENSOR = [(name, edge) for name, edge in MISSING if name in ("fragments", "mma")]


@pytest.mark.parametrize("name, edge", [*TENSOR, ("fragments", ""), ("mma", "")])
def test_tensor_core_and_tensor_memory(name, edge, traps, monkeypatch):  # noqa: F811
    hazards_of(name, edge)  # the first product makes the plan
    traps.clear()
    found = hazards_of(name, edge)
    assert not {"tcgen05.mma", "tcgen05.commit", "tcgen05.ld", "tcgen05.st", "tcgen05.wait::ld"} & set(traps)
    monkeypatch.setattr(native, "LEVELS", {})
    assert hazards_of(name, edge) == found and bool(found) == bool(edge)
    assert ("tcgen05.mma" if name == "mma" else "tcgen05.st") in traps


def load_and_overwrite(waits: bool, columns: int) -> list[tuple]:
    """Races of a TMA load of 8 rows and `columns` of 16-bit elements with a read of what it loads and a write to what
    it reads."""
    data = aligned(160 * 20)
    tensor = TensorMap(data.ctypes.data, "bf16", (64, 20), (160,), (columns, 8), swizzle="none")
    body = f"""
    mov.u32 %r1, smem;
    ld.param.u64 %rd1, [data];
    mbarrier.init.shared.b64 [%r1], 1;
    fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared.b64 _, [%r1], {tensor.box_bytes};
    mov.b64 %rd0, map;
    cvta.param.u64 %rd0, %rd0;
    cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [%r1+1024], [%rd0, {{0, 3}}], [%r1];
    {wait("%r1") if waits else ""}
    ld.shared.b32 %r2, [%r1+{1024 + tensor.box_bytes - 4}];
    st.global.b32 [%rd1+{160 * 10 + 2 * columns - 4}], %r2;
    st.global.b32 [%rd1+{160 * 10 + 2 * columns}], %r2;
    """
    ptx = kernel(".param .align 64 .b8 map[128], .param .u64 data", body)
    found = run(ptx, [tensor.to_bytes(), pointer(data)], [data], block=(1, 1, 1), checks=True).hazards
    return [(h.kind, h.text, h.prior_text, h.count, h.message) for h in found if h.kind == "race"]


@pytest.mark.parametrize("columns", [8, 32])
def test_tensor_loads(columns, traps, monkeypatch):  # noqa: F811
    """The last bytes of the box race on both sides if nobody waits, those behind it do not."""
    assert load_and_overwrite(True, columns) == []
    found = load_and_overwrite(False, columns)
    assert not traps
    assert sorted((kind, text[:9], count) for kind, text, _, count, _ in found) == [
        ("race", "ld.shared", 1), ("race", "st.global", 1),
    ]  # fmt: skip
    assert all("cp.async.bulk.tensor" in prior for _, _, prior, _, _ in found)
    monkeypatch.setattr(native, "LEVELS", {})
    assert load_and_overwrite(False, columns) == found
    assert traps["cp.async.bulk.tensor"] == 1


@pytest.mark.parametrize(
    "store, load",
    [
        ("st.sync.aligned.32x32b.x1.unpack::16b.b32 [%r10], {%r0}", "ld.sync.aligned.32x32b.x1.b32 {%r5}, [%r10+1]"),
        ("st.sync.aligned.32x32b.x1.b32 [%r10+3], {%r0}", "ld.sync.aligned.32x32b.x2.pack::16b.b32 {%r5, %r6}, [%r10]"),
        (
            "st.sync.aligned.32x32b.x1.b32 [%r10+1], {%r0}",
            "ld.red.sync.aligned.32x32b.x2.max.u32 {%r5, %r6}, %r7, [%r10]",
        ),
    ],
)
@pytest.mark.parametrize("native_forms", [True, False])
def test_all_cells_of_a_fragment_count(store, load, native_forms, monkeypatch):
    """The high half of a packed register, and what a reducing load reads, besides the first cell."""
    if not native_forms:
        monkeypatch.setattr(native, "LEVELS", {})

    def kinds(edge: str) -> set[str]:
        text = text_of("fragments", edge)
        old_load = "tcgen05.ld.sync.aligned.32x32b.x1.b32 {%r5}, [%r10]"
        old_store = "tcgen05.st.sync.aligned.32x32b.x1.b32 [%r10], {%r0}"
        assert old_load in text and old_store in text
        text = text.replace(old_load, f"tcgen05.{load}").replace(old_store, f"tcgen05.{store}")
        return {h.kind for h in run(text, [], [], block=(160, 1, 1), checks=True).hazards}

    assert kinds("") == set() and kinds("barrier") == {"race"} and kinds("loaded") == {"tcgen05-wait"}
