"""The cross-check with a GPU, as far as it can be checked without one: the recorded cases, their relocation, the
comparison, the replaying child process, and the way out where there is no GPU."""

from __future__ import annotations

import dataclasses
import json
import pickle
import struct

import numpy as np
import pytest

from ptx_emulator.units.tma.tensormap import TensorMap
from scripts import crosscheck_device, crosscheck_gpu, crosscheck_ptxas
from scripts.crosscheck_cases import Case, Recorder, compare, load_cases, relocate
from tests.scripts.host_driver import HostDriver

TESTS = ["tests/ptx_emulator/units/test_matrix.py", "tests/ptx_emulator/units/tma/test_rules.py"]
PTX = """.version 9.0
.target sm_100a
.address_size 64
.visible .entry k(.param .u64 out)
{
.reg .b32 %r<4>; .reg .b64 %rd<2>;
ld.param.u64 %rd0, [out];
mov.u32 %r0, 7;
OPERATION
st.global.u32 [%rd0+4], %r0;
ret;
}
"""


def case(operation: str = "", after: tuple[int, ...] = (1, 7, 3)) -> Case:
    before = np.array([1, 2, 3], np.uint32).tobytes()
    one = (1, 1, 1)
    ptx = PTX.replace("OPERATION", operation)
    params = (struct.pack("<Q", 0x1000),)
    results = np.array(after, np.uint32).tobytes()
    return Case("file.py::test", ptx, None, one, one, one, 0, params, (0x1000,), (before,), (results,))


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    file = tmp_path_factory.mktemp("cases") / "cases"
    crosscheck_device.record(TESTS, file)
    return load_cases(file)


def test_the_recorded_kernels_agree_with_the_emulator_at_other_addresses(cases):
    """All of them: pointers and tensor maps among the parameters are found and moved."""
    assert len(cases) >= 30 and any("cp.async.bulk.tensor" in c.ptx for c in cases)
    for recorded in cases:
        row = crosscheck_device.outcome(recorded, crosscheck_device.replay_in_emulator)
        assert row["result"] == "equal", recorded.name


def test_the_gpu_side_hands_over_what_was_recorded(cases, monkeypatch):
    """All that `crosscheck_gpu` does but the device: loading, memory, tensor maps, clusters, parameters, results."""
    stand_in = HostDriver(pytest.importorskip("cuda.bindings.driver"))
    monkeypatch.setattr(crosscheck_gpu, "driver", stand_in)
    gpu = object.__new__(crosscheck_gpu.Gpu)
    gpu.target = "sm_90a"
    rows = [crosscheck_device.outcome(c, gpu.replay) for c in cases if not c.needs_blackwell]
    assert len(rows) >= 30 and {row["result"] for row in rows} == {"equal"}, rows
    assert set(stand_in.versions) == {"9.0", "8.8", "8.7"} and not stand_in.memory
    wrong = dataclasses.replace(cases[0], params=(struct.pack("<Q", 0), *cases[0].params[1:]))
    assert crosscheck_device.outcome(wrong, gpu.replay)["result"] != "equal"


def test_ptxas_accepts_the_recorded_kernels(cases):
    if reason := crosscheck_ptxas.why_not():
        pytest.skip(reason)
    rows = list(crosscheck_ptxas.assemble_all(cases))
    assert [row for row in rows if row["result"] != "assembled"] == []
    refused = crosscheck_ptxas.assemble(PTX.replace("OPERATION", "cvt.sat.u32.u8 %r0, %r0;"))
    assert refused["result"] == "refused" and "case.ptx, line 9" in refused["reason"]


def test_a_kernel_that_differs_is_found(cases, tmp_path, capsys, monkeypatch):
    changed = bytearray(cases[0].after[-1])
    changed[0] ^= 1
    broken = dataclasses.replace(cases[0], after=(*cases[0].after[:-1], bytes(changed)))
    monkeypatch.setattr(crosscheck_device, "record", lambda tests, file: file.write_bytes(pickle.dumps([broken])))
    file = tmp_path / "result.json"
    assert crosscheck_device.main(["--backend", "emulator", "--json", str(file)]) == 1
    (row,) = json.loads(file.read_text())["cases"]
    assert (row["result"], row["bytes_different"]) == ("different", 1)
    assert "different" in capsys.readouterr().out


def test_the_assembler_shows_progress_and_an_interrupted_run_its_rows(cases, tmp_path, capsys, monkeypatch):
    def assemble_all(given):
        yield {"test": given[0].name, "result": "assembled"}
        yield {"test": given[1].name, "result": "refused", "reason": "why"}
        raise KeyboardInterrupt

    monkeypatch.setattr(crosscheck_ptxas, "why_not", lambda: "")
    monkeypatch.setattr(crosscheck_ptxas, "assemble_all", assemble_all)
    monkeypatch.setattr(crosscheck_device, "record", lambda tests, file: file.write_bytes(pickle.dumps(cases[:3])))
    file = tmp_path / "result.json"
    assert crosscheck_device.main(["--backend", "ptxas", "--json", str(file)]) == 130
    shown = capsys.readouterr()
    assert f"[1/3] {cases[0].name}: assembled\n[2/3] {cases[1].name}: refused\n" in shown.err
    assert "why" in shown.out and shown.err.endswith("interrupted: 2 of 3 kernels\n")
    assert [row["result"] for row in json.loads(file.read_text())["cases"]] == ["assembled", "refused"]


def test_wrong_arguments_are_exit_status_2(capsys):
    for arguments in (["--timeout", "0"], ["--timeout", "x"], ["--json", "/nonexistent/x"], ["--backend", "none"]):
        with pytest.raises(SystemExit) as stopped:
            crosscheck_device.main(arguments)
        shown = capsys.readouterr().err
        assert stopped.value.code == 2 and arguments[0] in shown and shown.count("\n") == 1


def test_without_a_gpu_it_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(crosscheck_gpu, "why_not", lambda: "no CUDA GPU")
    file = tmp_path / "result.json"
    assert crosscheck_device.main(["--json", str(file)]) == 0
    assert capsys.readouterr().out == "skipped: no CUDA GPU\n"
    assert json.loads(file.read_text()) == {"skipped": "no CUDA GPU", "cases": []}


def test_a_machine_without_the_driver_has_a_reason(monkeypatch):
    monkeypatch.setattr(crosscheck_gpu, "driver", None)
    assert crosscheck_gpu.why_not() == "cuda-python is not installed"


def test_hung_and_crashed_children(tmp_path):
    """The case in hand is named; the next one gets a new child."""
    file = tmp_path / "cases"
    good = case()
    file.write_bytes(pickle.dumps([good]))
    (row,) = crosscheck_device.replay_all([good], file, "emulator", timeout=0.01)
    assert row == {"test": "file.py::test", "result": "hung"}
    file.write_bytes(b"")
    (row,) = crosscheck_device.replay_all([good], file, "emulator", timeout=60)
    assert row["result"] == "crashed"


def test_outcomes_without_a_gpu():
    """What the driver refuses is not a difference; what fails later is."""

    def refuse(case):
        raise crosscheck_gpu.DriverError("cuModuleLoadDataEx: CUDA_ERROR_INVALID_PTX")

    def fail(case):
        raise crosscheck_gpu.DriverError("cuCtxSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS")

    assert crosscheck_device.outcome(case(), refuse)["result"] == "refused"
    assert crosscheck_device.outcome(case(), fail)["result"] == "crashed"
    assert crosscheck_device.outcome(case("bad %r0;"), crosscheck_device.replay_in_emulator)["result"] == "crashed"
    assert crosscheck_device.outcome(case(), crosscheck_device.replay_in_emulator)["result"] == "equal"


def test_approximate_kernels_report_ulps():
    """One ulp of float32 more in a kernel with an approximate instruction is no difference, but is told."""
    one = int(np.float32(1.0).view(np.uint32))
    found = [np.array([1, one + 3, 3], np.uint32).tobytes()]
    exact, near = case(after=(1, one, 3)), case("rcp.approx.f32 %r0, %r0;", after=(1, one, 3))
    assert crosscheck_device.outcome(exact, lambda c: found)["result"] == "different"
    row = crosscheck_device.outcome(near, lambda c: found)
    assert (row["result"], row["max_ulp"]) == ("approximate", 3)
    across_zero = [np.array([1, 0x80000002, 3], np.uint32).tobytes()]
    assert compare(case(after=(1, 1, 3)), across_zero).max_ulp == 3


def test_unwritten_memory_is_not_compared():
    """A word that became poison may be anything on a GPU; one that was poison before must still be."""
    poison = 0xFFFFFFFF
    other = [np.array([9, 7, 3], np.uint32).tobytes()]
    assert compare(case(after=(poison, 7, 3)), other).different == 0
    before = np.array([poison, 2, 3], np.uint32).tobytes()
    assert compare(dataclasses.replace(case(after=(poison, 7, 3)), before=(before,)), other).different == 4


def test_parameters_are_moved():
    tensor = TensorMap(0x1010, "f32", (8,), (), (8,))
    params = (tensor.to_bytes() + struct.pack("<QQ", 0x1000, 41), struct.pack("<I", 0x1000), struct.pack("<Q", 0x1040))
    original = dataclasses.replace(case(), params=params, before=(bytes(64),))
    moved = relocate(original, [0x5000], TensorMap.to_bytes)
    assert TensorMap.from_bytes(moved[0][:128]).address == 0x5010
    assert struct.unpack("<QQ", moved[0][128:]) == (0x5000, 41)
    assert moved[1] == params[1]  # too short for an address
    assert struct.unpack("<Q", moved[2]) == (0x5040,)  # the end of the buffer


def test_retargeting_and_what_needs_blackwell():
    assert ".target sm_90a\n" in case().retargeted("sm_90a") and "sm_100a" not in case().retargeted("sm_90a")
    assert case("tcgen05.wait::ld.sync.aligned;").needs_blackwell and not case().needs_blackwell


def test_what_is_not_compared(tmp_path):
    file = tmp_path / "cases"
    editing = case("tensormap.replace.tile.rank.global.b1024.b32 [%rd0], 1;")
    printing = case("call (x), vprintf, (y, z);")
    file.write_bytes(pickle.dumps([editing, printing]))
    rows = list(crosscheck_device.replay_all([editing, printing], file, "emulator", timeout=60))
    assert [row["result"] for row in rows] == ["skipped", "skipped"]
    assert "tensor maps" in rows[0]["reason"] and rows[1]["reason"] == "prints"


def test_only_launches_in_order_are_recorded():
    recorder = Recorder(lambda ptx, kernel, **options: "report")
    buffer = np.zeros(2, np.uint32)
    for order in ("in_order", "late"):
        assert recorder(PTX, "k", grid=(2,), block=(32,), buffers=[buffer], params=[b"x"], order=order) == "report"
    (only,) = recorder.cases
    assert (only.grid, only.block, only.cluster, only.kernel) == ((2, 1, 1), (32, 1, 1), (1, 1, 1), "k")
