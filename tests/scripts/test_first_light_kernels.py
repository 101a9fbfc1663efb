"""First light's micro-kernels: PTX to NVIDIA's assembler, free of races, wrong when what they check is; and how they
are run: in processes of their own, on a GPU through the driver."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from ptx_emulator import launch as ptx_emulator_launch
from scripts import crosscheck_cases, crosscheck_gpu, crosscheck_ptxas
from scripts.crosscheck_cases import Case, replay_in_emulator
from scripts.first_light import assumptions, move, multiply, replay
from scripts.first_light.assumptions import Row, check, check_all, difference
from scripts.first_light.isolate import Crashed, isolated
from scripts.first_light.ptx import bits_of
from tests.scripts.host_driver import HostDriver

CASES = [make() for row in assumptions.ROWS for make in row.kernels]
SPIN = """.version 9.0
.target sm_100a
.address_size 64
.visible .entry k(.param .align 64 .b8 maps[128], .param .u64 out)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd0, [out];
AGAIN:
    add.u32 %r0, %r0, 1;
    st.global.b32 [%rd0], %r0;
    bra AGAIN;
}
"""


def names(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", CASES, ids=names)
def test_the_assembler_accepts_it_for_both_architectures(case):
    if reason := crosscheck_ptxas.why_not():
        pytest.skip(reason)
    targets = ("sm_100a", "sm_103a") if case.needs_blackwell else ("sm_100a", "sm_103a", "sm_90a")
    assert {crosscheck_ptxas.assemble(case.retargeted(target))["result"] for target in targets} == {"assembled"}


@pytest.mark.parametrize("order", ["late", "random", "adversarial"])
@pytest.mark.parametrize("case", CASES, ids=names)
def test_its_result_does_not_depend_on_the_schedule(case, order, monkeypatch):
    """And nothing in it races: what it shows is the hardware's doing, not its own."""
    hazards = []

    def launch(*arguments, **options):
        hazards.extend(ptx_emulator_launch(*arguments, **options).hazards)

    monkeypatch.setattr(crosscheck_cases.ptx_emulator, "launch", launch)
    assert difference(case.after, replay_in_emulator(case, order=order, seed=3, checks=True)) == ""
    assert [str(hazard) for hazard in hazards] == []


def test_the_driver_is_given_what_the_emulator_is(monkeypatch):
    """The device's side but for the device: a module, memory, tensor maps, clusters, a dependent launch."""
    stand_in = HostDriver(pytest.importorskip("cuda.bindings.driver"))
    monkeypatch.setattr(crosscheck_gpu, "driver", stand_in)
    gpu = object.__new__(crosscheck_gpu.Gpu)
    gpu.target = "sm_100a"
    monkeypatch.setattr(replay.crosscheck_gpu, "Gpu", lambda: gpu)
    for case in CASES:
        assert difference(case.after, replay.on_gpu(case)) == "", case.name
    assert stand_in.dependents == ["dependent"] and not stand_in.memory
    gpu.target = "sm_90a"
    answers = [replay.on_gpu(case) for case in CASES if case.needs_blackwell]
    assert set(answers) == {"needs tcgen05 and CTA pairs, the GPU is sm_90a"} and len(answers) == len(CASES) - 6


BROKEN = [
    (multiply.cleared_rows, "st.shared.b32 [%r42+", "ld.shared.b32 %r43, [%r42+", ", %r41;", ";"),
    (multiply.query_in_tensor_memory, "warpx2::02_13", "warpx2::01_23", "", ""),
    (multiply.commit_without_work, "setp.ne.u32 %p8, %r0, 32;", "setp.ne.u32 %p8, %r0, 999;", "", ""),
    (lambda: move.bytes_announced(True), ".b64 _, [%r40], 2048;", ".b64 _, [%r40], 2064;", "", ""),
    (move.dynamic_shared_memory, "and.b32 %r4, %r1, 1023;", "and.b32 %r4, %r1, 2047;", "", ""),
]


@pytest.mark.parametrize("make,old,new,tail,new_tail", BROKEN)
def test_a_kernel_without_what_it_checks_does_not_hold(make, old, new, tail, new_tail):
    """Rows not cleared, another multicast, a commit left out, a wrong number of bytes, another modulus."""
    case = make()
    assert old in case.ptx
    lines = [
        line.replace(old, new).replace(tail, new_tail) if tail and old in line else line.replace(old, new)
        for line in case.ptx.splitlines()
    ]
    row = check(dataclasses.replace(case, ptx="\n".join(lines)), replay.on_emulator, 60)
    assert row["result"] in ("differs", "crashed") and row["about"].startswith("emulator: ")


def tampered() -> Case:
    """Row 7's kernel with one bit of the expected result changed."""
    case = move.dynamic_shared_memory()
    words = np.frombuffer(case.after[0], np.uint32).copy()
    words[130] ^= 4
    return dataclasses.replace(case, after=(words.tobytes(),))


def hanging() -> Case:
    return dataclasses.replace(move.dynamic_shared_memory(), name="spins", ptx=SPIN)


def test_one_that_differs_and_one_that_hangs_do_not_end_the_run():
    limit = 8
    made = [
        Row(1, "tampered", (tampered, move.dynamic_shared_memory)),
        Row(2, "hangs", (hanging,)),
        assumptions.ROWS[6],
    ]
    began = time.monotonic()
    differs, crashed, holds = check_all(made, True, limit)
    assert time.monotonic() - began < 5 * limit
    assert differs["result"] == "differs" and [k["result"] for k in differs["kernels"]] == ["differs", "holds"]
    assert differs["kernels"][0]["about"] == (
        "emulator: 1 of 384 words of out, the first is word 130: expected 0x00000004, found 0x00000000"
    )
    assert (crashed["result"], crashed["kernels"][0]["about"]) == ("crashed", "emulator: no answer within 8 s")
    assert holds["result"] == "holds"


def another_device(case: Case) -> list[bytes]:
    """A device on which the second row of boxes is not swizzled."""
    found = replay_in_emulator(case)
    return [found[0][:128] + case.before[1][128:256] + found[0][256:], *found[1:]]


def missing(case: Case) -> str:
    return "needs something"


def kill_me(case: Case) -> list[bytes]:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSEGV)
    return []


def test_what_the_device_does_decides():
    case = move.small_boxes(16)
    row = check(case, another_device, 60)
    assert row["result"] == "differs" and row["about"].startswith(
        "device: 32 of 2048 words of out, the first is word 32:"
    )
    assert check(case, missing, 60)["result"] == "not applicable here"
    assert check(case, kill_me, 60)["about"] == "device: the process died (SIGSEGV)"


def test_an_error_in_the_process_is_one_line():
    with pytest.raises(Crashed, match="^ValueError: could not convert string to float: 'x'$"):
        isolated(float, "x", limit=60)
    assert isolated(float, "2", limit=60) == 2.0


def test_bits_of_small_integers():
    torch = pytest.importorskip("torch")
    values = np.array([*range(-8, 9), np.nan], np.float32)
    for name, dtype, view in (("e4m3", torch.float8_e4m3fn, torch.uint8), ("bf16", torch.bfloat16, torch.uint16)):
        expected = torch.from_numpy(values).to(dtype).view(view).numpy()
        np.testing.assert_array_equal(bits_of(values, name)[:-1], expected[:-1])
    assert bits_of(values, "e4m3")[-1] == 0x7F
