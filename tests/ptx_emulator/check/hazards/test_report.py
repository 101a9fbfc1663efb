"""Reports: names, groups by root cause, suppressions, JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ptx_emulator import launch
from ptx_emulator.check.hazards import Checker, Suppressions, grouped
from ptx_emulator.check.hazards.names import global_place, named_arrays
from ptx_emulator.errors import OutOfBounds
from ptx_emulator.grid import prepare_launch, run_grids

from ...helpers import aligned, kernel, pointer, run, wait
from .patterns import ALLOC, START, inits
from .test_checker import hazards_of

# Every CTA stores to the same row of a table, twice.
RACE = """
    ld.param.b64 %rd1, [out];
    mov.u32 %r0, %ctaid.x;
    st.global.b32 [%rd1+40], %r0;
    st.global.b32 [%rd1+44], %r0;
"""


def race(buffers, **options):
    table = buffers if isinstance(buffers, np.ndarray) else next(iter(buffers.values()))
    given = [buffers] if isinstance(buffers, np.ndarray) else buffers
    options = {"grid": (2,), "block": (1,), "checks": True} | options
    return launch(kernel(".param .b64 out", RACE), params=[pointer(table)], buffers=given, **options)


def table() -> np.ndarray:
    return aligned(64, np.uint32).reshape(2, 8)


def test_arrays_are_named_by_element():
    assert {h.place for h in race({"lengths": table()}).hazards} == {"lengths[1, 2]", "lengths[1, 3]"}
    assert all(h.message.startswith("lengths[1, ") for h in race({"lengths": table()}).hazards)
    assert {h.place for h in race(table()).hazards} == {"buffers[0][1, 2]", "buffers[0][1, 3]"}


def test_memory_that_is_out_of_bounds_is_named():
    lengths, text = table(), RACE.replace("+44", "+64")
    with pytest.raises(OutOfBounds, match="past the end of lengths"):
        options = {"params": [pointer(lengths)], "buffers": {"lengths": lengths}, "grid": (1,), "block": (1,)}
        launch(kernel(".param .b64 out", text), **options)


def test_strided_views_and_views_of_views():
    storage = np.zeros((4, 8), np.float32)
    left, none = storage[:, :3], storage[:0]
    arrays = named_arrays({"all": storage, "left": left, "turned": storage.T, "scalar": 3, "none": none})
    assert [array.name for array in arrays] == ["all", "left", "turned"]
    all_, left, turned = arrays
    at = storage.ctypes.data
    assert left.describe(at + 32 + 8) == "left[1, 2]" and left.describe(at + 32 + 9) == "left[1, 2]"
    assert left.describe(at + 32 + 12) == "left, byte 44, between its rows"
    assert turned.describe(at + 32 + 8) == "turned[2, 1]" and all_.describe(at + 127) == "all[3, 7]"
    assert global_place([all_, left], at + 4) == "left[0, 1]"
    assert global_place([all_], at - 1) == f"global memory at {at - 1:#x}"


@pytest.mark.parametrize("name, edge, words", [
    ("warps", "after-write", "smem+0x0 of CTA 0 (offset 0x400)"),
    ("mbarrier", "init", "mbarrier smem+0x400 of CTA 0, initialised at line "),
    ("bulk", "initfence", "mbarrier smem+0x400 of CTA 0, initialised at line "),
    ("fragments", "before", "Tensor Memory of CTA 0, lane 0, column 0"),
])  # fmt: skip
def test_places_are_named(name, edge, words):
    places = [hazard.place for hazard in hazards_of(name, edge)]
    assert any(place.startswith(words) for place in places), places


def test_named_barriers_are_named():
    (hazard,) = run(kernel("", "bar.arrive 3, 64;"), [], [], block=(32, 1, 1), checks=True).hazards
    assert hazard.place == "named barrier 3 of CTA 0"


# Warp 4 loads, line after line, what warp 0 has stored: one barrier lacks its fences.
MANY = (
    START
    + "setp.eq.u32 %p4, %r1, 4;\n"
    + ALLOC
    + "\n".join(f"@%p2 tcgen05.st.sync.aligned.32x32b.x1.b32 [%r10+{i}], {{%r0}};" for i in range(8))
    + "\n@%p2 tcgen05.wait::st.sync.aligned;\nbar.sync 0;\n"
    + "\n".join(f"@%p4 tcgen05.ld.sync.aligned.32x32b.x1.b32 {{%r5}}, [%r10+{i}];" for i in range(8))
    + """
    @%p4 tcgen05.wait::ld.sync.aligned;
    tcgen05.fence::before_thread_sync;
    bar.sync 0;
    tcgen05.fence::after_thread_sync;
    @%p2 tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r10, 64;
"""
)


def many(**options):
    return run(kernel("", MANY), [], [], **({"block": (160, 1, 1), "checks": True} | options))


def test_one_cause_is_one_group():
    hazards = many().hazards
    assert len(hazards) == 8 and {h.kind for h in hazards} == {"tcgen05-fence"}
    (group,) = grouped(hazards)
    assert group.pairs == 8 and group.count == sum(h.count for h in hazards) and group.kernel == "k"
    assert group.accesses == "tcgen05.ld reads what tcgen05.st writes" and "before_thread_sync" in group.edge
    assert "8 pairs of instructions" in str(group) and len(str(group).splitlines()) <= 6
    assert many().grouped() == [group]


def test_different_causes_are_different_groups():
    hazards = [*many().hazards, *race({"lengths": table()}).hazards, *hazards_of("warps", "after-read")]
    groups = grouped(hazards)
    found = [(group.severity, group.kind) for group in groups]
    assert found == [("error", "grid-race"), ("error", "race"), ("warning", "tcgen05-fence")]
    assert sum(g.pairs for g in groups) == len(hazards)


def test_json():
    text = json.dumps([group.as_dict() for group in many().grouped()])
    (group,) = json.loads(text)
    assert group["kind"] == "tcgen05-fence" and group["pairs"] == 8 == len(group["hazards"])
    first = group["hazards"][0]
    assert first["line"] > first["prior_line"] and first["text"].startswith("@%p4 tcgen05.ld")
    assert first["place"] in group["places"]


RULES = """
# what is known
[tcgen05-fence loads]
text = *tcgen05.ld*[[]%r10+?]*
place = Tensor Memory*
kernel = k
reason = the loads come late

[race]
prior = nothing
reason = gone long ago
"""


def written(tmp_path, text: str):
    path = tmp_path / "known.ini"
    path.write_text(text)
    return path


def test_known_hazards_are_suppressed(tmp_path):
    path = written(tmp_path, RULES)
    assert many(suppress=path).hazards == [] and many(suppress=str(path)).hazards == []
    assert race({"lengths": table()}, suppress=path).hazards != []
    checker = Checker(Suppressions.read(path))
    many(checks=checker)
    assert checker.hazards == [] and len(checker.suppressed) == 8 and checker.suppressions.unused == ["race"]


@pytest.mark.parametrize("text, words", [
    ("[rcae]\nreason = x", "no kind of hazard is called 'rcae'"),
    ("[race]\ntext = st.*", r"section \[race\]: a reason must be given"),
    ("[race]\nlines = 3\nreason = x", "key 'lines' is not one of text, prior, kernel, place, reason"),
    ("text = x", "cannot be read"),
])  # fmt: skip
def test_wrong_suppressions(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        many(suppress=written(tmp_path, text))


def test_suppressions_need_checks_and_a_file(tmp_path):
    with pytest.raises(ValueError, match="needs checks=True"):
        many(checks=False, suppress=written(tmp_path, ""))
    with pytest.raises(ValueError, match="absent.ini"):
        many(suppress=tmp_path / "absent.ini")


@pytest.mark.parametrize("entries, step, expected", [
    (3, 8, []), (4, 8, ["row-overrun"]), (8, 8, ["row-overrun"]), (8, 3, []),
])  # fmt: skip
def test_rows_that_are_overrun(entries, step, expected):
    """Reads of `entries` of a row of 3 in a table whose rows are `step` apart; without a gap nothing can be told."""
    storage = np.zeros((4, step), np.uint32)
    loads = "\n".join(f"ld.global.b32 %r1, [%rd1+{4 * (step + i)}];" for i in range(entries))
    body = "ld.param.b64 %rd1, [out];\n" + loads
    options = {"params": [pointer(storage)], "buffers": [storage], "grid": (1,), "block": (1,), "checks": True}
    prepared = prepare_launch(
        kernel(".param .b64 out", body), "k", **options, cluster=(1,), shared_bytes=0, names={"tables": storage[:, :3]}
    )
    (report,) = run_grids([prepared])
    assert sorted({h.kind for h in report.hazards}) == expected
    assert all(h.place.startswith("tables, byte ") for h in report.hazards)


@pytest.mark.parametrize("first, count, expected", [
    (0, 16, []), (0, 32, ["row-overrun"]), (16, 16, ["row-overrun"]), (0, 64, []), (0, 80, []), (48, 32, ["row-overrun"]),
])  # fmt: skip
@pytest.mark.parametrize("copy", ["bulk load", "bulk store", "cp.async"])
def test_rows_that_are_overrun_by_copies(copy, first, count, expected):
    """Rows of 12 bytes, 64 apart. A copy of 16 bytes takes a row and what fills them up; one of several rows takes what
    lies between them; it neither begins nor ends there."""
    storage = aligned(256, np.uint32).reshape(4, 16)
    moves = {
        "bulk load": "@%p0 mbarrier.arrive.expect_tx.shared.b64 %rd0, [%r3+1024], {count};\n"
        "@%p0 cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r3], [%rd1], {count}, [%r3+1024];\n"
        + wait("%r3+1024"),
        "bulk store": "fence.proxy.async.shared::cta;\n@%p0 cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r3], "
        "{count};\n@%p0 cp.async.bulk.commit_group;\n@%p0 cp.async.bulk.wait_group 0;\n",
        "cp.async": "".join(
            f"@%p0 cp.async.cg.shared.global [%r3+{i}], [%rd1+{i}], 16;\n" for i in range(0, count, 16)
        )
        + "cp.async.wait_all;\n",
    }[copy].replace("{count}", str(count))  # fmt: skip
    if copy == "cp.async":  # each copies for itself, and only the first of a row's holds elements
        expected = ["row-overrun"] if any((first + i) % 64 for i in range(0, count, 16)) else []
    fill = "".join(f"@%p0 st.shared.b32 [%r3+{i}], 0;\n" for i in range(0, count, 4)) if copy == "bulk store" else ""
    body = START + inits(1) + fill + f"ld.param.b64 %rd1, [out];\nadd.u64 %rd1, %rd1, {64 + first};\n" + moves
    options = {"params": [pointer(storage)], "buffers": [storage], "grid": (1,), "block": (32,), "checks": True}
    prepared = prepare_launch(
        kernel(".param .b64 out", body), "k", **options, cluster=(1,), shared_bytes=2048, names={"x": storage[:, :3]}
    )
    (report,) = run_grids([prepared])
    assert sorted({hazard.kind for hazard in report.hazards}) == expected


def test_rows_of_views():
    storage = np.zeros((4, 6, 8), np.int32)
    rows = [one.rows() and one.rows()[1:] for one in named_arrays(
        {"all": storage, "gap": storage[:, :, :3], "planes": storage[:, :2], "turned": storage[:, :, :3].T,
         "uneven": np.lib.stride_tricks.as_strided(storage, (3, 2, 2), (100, 32, 4))}
    )]  # fmt: skip
    assert rows == [None, (32, 12), (192, 64), (32, 12), None]
