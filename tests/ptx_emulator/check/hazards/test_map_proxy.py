"""Tensor maps that a kernel changes: a copy that uses one needs a release and an acquire of the tensormap proxy."""

from __future__ import annotations

from functools import partial

import pytest

from ptx_emulator.check import mutation
from ptx_emulator.engine import native
from ptx_emulator.units.tma.tensormap import TensorMap

from ...helpers import ORDERS, aligned, kernel, pointer, run, wait
from .patterns import Pattern

START = """
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, smem;
    add.u32 %r3, %r1, 128;
    ld.param.u64 %rd2, [place];
    ld.param.u64 %rd3, [data];
    setp.eq.u32 %p0, %r0, 0;
    setp.lt.u32 %p1, %r0, 32;
    setp.eq.u32 %p2, %r0, 32;
    @%p0 mbarrier.init.shared.b64 [%r1], 1;
    @%p0 fence.mbarrier_init.release.cluster;
"""
# Warp 0 gives a copy of `map`, of which it takes the first 64 bytes, another address.
CHANGED = "\n".join(
    f"@%p0 ld.param.v2.b64 {{%rd20, %rd21}}, [map+{i}];\n@%p0 st.shared.v2.b64 [%r3+{i}], {{%rd20, %rd21}};"
    for i in range(0, 64, 16)
) + """
    @%p0 tensormap.replace.tile.global_address.shared::cta.b1024.b64 [%r3], %rd3;
    bar.warp.sync -1;
    @%p1 tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%rd2], [%r3], 128;
"""  # fmt: skip
LOAD = """
    @{thread} mbarrier.arrive.expect_tx.shared.b64 _, [%r1], 256;
    @{thread} cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [%r1+1024], [%rd2, {{0, 0}}], [%r1];
"""  # noqa: E501
ACQUIRE = "@{thread} fence.proxy.tensormap::generic.acquire.gpu [%rd2], 128; //@acquire\n"
FENCED = {"release": "tensormap-fence", "acquire": "tensormap-fence"}
# The map in global memory is changed where it lies.
IN_PLACE = """
    @%p0 tensormap.replace.tile.global_address.global.b1024.b64 [%rd2], %rd3;
    @%p0 fence.proxy.tensormap::generic.release.gpu; //@release
"""
AGAIN = "@%p0 tensormap.replace.tile.global_dim.global.b1024.b32 [%rd2], 0, 16;\n"

PATTERNS = {
    "copied": Pattern(
        CHANGED + ACQUIRE.format(thread="%p0") + LOAD.format(thread="%p0") + "bar.sync 1;\n" + wait("%r1"),
        {"acquire": "tensormap-fence"},
    ),
    "copied, other warp": Pattern(
        CHANGED
        + "bar.sync 1; //@barrier\n"
        + ACQUIRE.format(thread="%p2")
        + LOAD.format(thread="%p2")
        + "bar.sync 2;\n"
        + wait("%r1"),
        {"barrier": "race", "acquire": "tensormap-fence"},
    ),
    "in place": Pattern(
        IN_PLACE + ACQUIRE.format(thread="%p0") + LOAD.format(thread="%p0") + "bar.sync 1;\n" + wait("%r1"), FENCED
    ),
    # Another thread of the CTA acquires for the one that copies.
    "acquired for another": Pattern(
        IN_PLACE
        + ACQUIRE.format(thread="%p0")
        + "bar.sync 1; //@barrier\n"
        + LOAD.format(thread="%p2")
        + "bar.sync 2;\n"
        + wait("%r1"),
        FENCED | {"barrier": "race"},
    ),
    # The map is changed again while the copy may still read it.
    "used": Pattern(
        IN_PLACE + ACQUIRE.format(thread="%p0") + LOAD.format(thread="%p0") + "bar.sync 1;\n" + wait("%r1") + AGAIN,
        FENCED,
    ),
}
MISSING = [(name, edge) for name, pattern in PATTERNS.items() for edge in pattern.edges]


def text_of(name: str, without: str = "") -> str:
    lines = (START + "bar.sync 0;\n" + PATTERNS[name].body).splitlines()
    kept = [line for line in lines if not without or line.partition("//@")[2].strip() != without]
    return kernel(".param .align 64 .b8 map[128], .param .u64 place, .param .u64 data", "\n".join(kept))


def hazards_of(name: str, without: str = "", *, ptx: str = "", **options):
    data, place = aligned(1024), aligned(128)
    tensor = TensorMap(data.ctypes.data + 256, "u8", (32, 8), (32,), (32, 8))
    place[:] = bytearray(tensor.to_bytes())
    params = [tensor.to_bytes(), pointer(place), pointer(data)]
    text = ptx or text_of(name, without)
    return run(text, params, [place, data], block=(64, 1, 1), checks=True, **options).hazards


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", PATTERNS)
def test_right_kernels_are_silent(name, order):
    for seed in range(3):
        assert [str(h) for h in hazards_of(name, order=order, seed=seed)] == []


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name, edge", MISSING)
def test_missing_edge_is_named(name, edge, order):
    found = hazards_of(name, edge, order=order)
    kind = PATTERNS[name].edges[edge]
    assert kind in {h.kind for h in found} <= {kind, "race"}, [str(h) for h in found]
    named = next(h for h in found if h.kind == kind)
    texts = named.text + named.prior_text
    assert named.severity == "error" and "cp.async.bulk.tensor" in texts and "tensormap." in texts


def test_a_change_while_the_copy_reads_the_map():
    ptx = "\n".join(line for line in text_of("used").splitlines() if "WAIT" not in line and "try_wait" not in line)
    race = next(h for h in hazards_of("used", ptx=ptx) if h.kind == "race")
    assert "tensormap.replace" in race.text and "cp.async.bulk.tensor" in race.prior_text


def test_each_map_is_acquired_by_itself():
    """A fence of another map is none."""
    ptx = text_of("in place").replace("acquire.gpu [%rd2], 128", "acquire.gpu [%rd3], 128")
    assert {h.kind for h in hazards_of("in place", ptx=ptx)} == {"tensormap-fence"}


def test_a_release_before_the_change_covers_nothing():
    lines = text_of("in place").splitlines()
    i = next(i for i, line in enumerate(lines) if "generic.release" in line)
    lines[i - 1 : i + 1] = lines[i], lines[i - 1]
    assert {h.kind for h in hazards_of("in place", ptx="\n".join(lines))} == {"tensormap-fence"}


@pytest.mark.parametrize("name, edge", [("in place", ""), ("in place", "acquire")])
def test_native_forms_are_observed_too(name, edge, monkeypatch):
    def found() -> list[tuple]:
        return [(h.kind, h.line, h.prior_line, h.count) for h in hazards_of(name, edge)]

    expected = found()
    monkeypatch.setattr(native, "LEVELS", {})
    assert found() == expected and bool(expected) == bool(edge)


def test_mutants_are_detected():
    """Each fence dropped from the text, as the mutation score does."""
    ptx = text_of("acquired for another")
    mutants = [m for m in mutation.mutants(ptx, "k") if "tensormap" in m.text]
    assert [m.change for m in mutants] == ["dropped", "dropped"]

    def execute(text: str, **options):
        found = hazards_of("", ptx=text, **options)
        return (found[0].kind, str(found[0])) if found else None

    verdicts = mutation.score(mutants, [partial(execute, order="in_order")])
    assert [(v.outcome, v.by) for v in verdicts] == [(mutation.DETECTED, "tensormap-fence")] * 2
