"""launch: argument checks, reports, orders."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from ptx_emulator import launch

from .lanes import program, run

STORE = "mad.wide.u32 %rd1, %thread, 4, %ptr0; st.global.u32 [%rd1], %thread;"


def arguments(**changes):
    y = np.zeros(64, np.uint32)
    settings = {"grid": (2,), "block": (32,), "params": [struct.pack("<Q", y.ctypes.data)], "buffers": [y]} | changes
    return y, settings


def test_report_counts_every_executed_instruction():
    y, settings = arguments()
    report = launch(program(STORE, 1), **settings)
    np.testing.assert_array_equal(y, np.arange(64))
    assert report.by_opcode()["st.global.u32"] == 2
    assert report.warp_instructions == 2 * len(report.instructions) and report.ctas == 2
    assert report.by_line()[report.instructions[-2].line] == 2
    assert report.unexecuted() == [] and report.wall_seconds > 0
    assert report.counts.shape == (1, len(report.instructions))


def test_report_separates_warps_and_shows_what_never_ran():
    y, settings = arguments(block=(64,), grid=(1,))
    report = launch(
        program("setp.lt.u32 %p1, %thread, 32; @%p1 bra END; add.u32 %r1, %r1, 1; END:" + STORE, 1), **settings
    )
    row = [i.text for i in report.instructions].index("add.u32 %r1, %r1, 1")
    assert report.counts[:, row].tolist() == [0, 1]
    assert report.by_opcode([0])["add.u32"] == report.by_opcode([1])["add.u32"] - 1
    report = launch(program("bra END; trap; END:" + STORE, 1), **settings)
    assert [i.text for i in report.unexecuted()] == ["trap"]


def test_launches_do_not_see_each_others_state():
    body = """.shared .align 4 .b32 cell; ld.shared.u32 %r1, [cell]; st.shared.u32 [cell], 3; add.u32 %r2, %r9, 1;
        mov.u32 %r9, 3; add.u32 %r1, %r1, %r2; mad.wide.u32 %rd1, %thread, 4, %ptr0; st.global.u32 [%rd1], %r1;"""
    for _ in range(2):
        y, settings = arguments()
        launch(program(body, 1), **settings)
        assert (y == 0xFFFFFFFF).all()


def test_tensors_are_buffers():
    y = torch.zeros(80, dtype=torch.int32)
    view = y[16:]
    launch(program(STORE, 1), grid=(2,), block=(32,), params=[struct.pack("<Q", view.data_ptr())], buffers=[view])
    assert y.tolist() == [0] * 16 + list(range(64))


def test_random_order_is_reproducible_and_seeds_differ():
    body = """atom.global.add.u32 %r1, [%ptr0], 1; mov.u32 %r3, 0;
        LOOP: add.u32 %r3, %r3, 1; setp.lt.u32 %p1, %r3, 200; @%p1 bra LOOP;
        atom.global.add.u32 %r2, [%ptr0], 1; mad.wide.u32 %rd1, %thread, 4, %ptr0; st.global.u32 [%rd1+4], %r2;"""
    results = []
    for seed in (1, 1, 2, 3, 4):
        y = np.zeros(129, np.uint32)
        run(program(body, 1), [y], block=(128,), order="random", seed=seed)
        assert y[0] == 256
        results.append(y.tolist())
    assert results[0] == results[1]
    assert any(r != results[0] for r in results[2:])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"grid": (0,)}, "grid="),
        ({"grid": (1, 2, 3, 4)}, "grid="),
        ({"block": (2048,)}, "1024 threads"),
        ({"cluster": (32,), "grid": (32,)}, "16 CTAs"),
        ({"cluster": (2,), "grid": (3,)}, "multiple of cluster"),
        ({"params": []}, "0 given, the kernel declares 1"),
        ({"params": [b"1234"]}, r"params\[0\]: 4 bytes, p0 has 8"),
        ({"order": "fast"}, "order='fast'"),
        ({"shared_bytes": 300000}, "shared_bytes=300000"),
        ({"kernel": "other"}, "kernel='other'"),
    ],
)
def test_wrong_arguments(changes, message):
    y, settings = arguments(**changes)
    with pytest.raises(ValueError, match=message):
        launch(program(STORE, 1), **settings)
    assert (y == 0).all()


@pytest.mark.parametrize(
    "directives, changes, message",
    [
        (".reqntid 64, 1, 1", {}, r"\.reqntid"),
        (".maxntid 16", {}, r"\.maxntid"),
        (".reqnctapercluster 2, 1, 1", {}, r"\.reqnctapercluster"),
    ],
)
def test_launch_must_fit_the_kernels_directives(directives, changes, message):
    _, settings = arguments(**changes)
    with pytest.raises(ValueError, match=message):
        launch(program(STORE, 1, directives=directives), **settings)


def test_buffers_must_be_contiguous_and_apart():
    y = np.zeros((8, 8), np.uint32)
    with pytest.raises(ValueError, match="C-contiguous"):
        launch(program("", 0), grid=(1,), block=(32,), buffers=[y[:, ::2]])
    with pytest.raises(ValueError, match="overlap"):
        launch(program("", 0), grid=(1,), block=(32,), buffers=[y, y[2:4]])
    with pytest.raises(TypeError, match="list"):
        launch(program("", 0), grid=(1,), block=(32,), buffers=[[1, 2]])


def test_straight_line_code_runs_at_speed():
    """The engine's design target is 5 million warp instructions a second and core; a tenth must hold anywhere."""
    loop = "".join(
        f"fma.rn.f32 %r{2 + i % 20}, %r{2 + i % 20}, %r1, 0f3F800000; add.u32 %r{30 + i % 9}, %r30, {i};"
        for i in range(200)
    )
    text = program(
        f"""mov.u32 %r1, 0; mov.u32 %r29, 0; LOOP: {loop} add.u32 %r29, %r29, 1;
        setp.lt.u32 %p1, %r29, 500;
        @%p1 bra LOOP;""",
        0,
    )
    run(text, [])
    report = run(text, [])
    assert report.warp_instructions > 200_000
    assert report.warp_instructions / report.wall_seconds > 500_000
