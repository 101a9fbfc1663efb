"""CTAs per SM, against what CUDA's occupancy calculator gives, and kernels that start beside the one before."""

import dataclasses

import pytest

from ptx_emulator.grid import prepare_launch
from ptx_emulator.timing import Constants, Footprint, time_launch
from ptx_emulator.timing.residency import resident


@pytest.mark.parametrize(
    ("cta", "expected"),
    [
        (Footprint(256, 0, 80), 3),  # 6 warps of 2560 registers in a sub-partition
        (Footprint(256, 0, 32), 8),  # 2048 threads
        (Footprint(256, 0, 33), 6),  # registers come by 8 a thread
        (Footprint(32, 0, 16), 32),  # CTAs
        (Footprint(128, 50 << 10, 32), 4),  # 51 KB each of 228
        (Footprint(384, 0, 168), 1),
        (Footprint(256, 0), 8),  # registers unknown
        (Footprint(256, 0, least=2), 2),
        (Footprint(1024, 227 << 10, 64), 1),
        (Footprint(96, 0, 255), 2),  # 8 warps
    ],
)
def test_ctas_of_an_sm(cta, expected):
    assert resident(cta) == expected


def test_beside_another_kernel():
    merge, decode = Footprint(256, 4096, 80), Footprint(384, 200 << 10, 168)
    assert resident(merge, decode, 1) == 0  # 384 x 168 registers leave 1024
    assert resident(merge, dataclasses.replace(decode, registers=64), 1) == 2
    assert resident(merge, Footprint(256, 227 << 10, 32), 1) == 0  # shared memory


COUNT = 200
SLOW = "\n".join(["fma.rn.f32 %f0, %f0, %f0, %f0;"] * COUNT)


def kernel(directives: str, body: str, block: int = 128, **options):
    ptx = f""".version 9.0
.target sm_100a
.address_size 64
.visible .entry k() {directives}
{{
.reg .f32 %f<4>; .reg .pred %p<2>;
mov.f32 %f0, 0f3F800000;
AGAIN:
{body}
setp.eq.f32 %p0, %f0, 0f00000000;
@%p0 bra AGAIN;
ret;
}}
"""
    settings = {
        "grid": (592, 1, 1),
        "block": (block, 1, 1),
        "cluster": (1, 1, 1),
        "shared_bytes": 0,
        "params": [],
        "buffers": [],
    }
    return prepare_launch(ptx, "k", **{**settings, **options})


def test_directives_tell_registers_where_nobody_else_does():
    constants = Constants.of()
    for directives, registers, expected in (
        ("", None, 16),
        (".maxnreg 128", None, 4),
        (".minnctapersm 3", None, 3),
        (".minnctapersm 1", None, 16),
        (".minnctapersm 3", 64, 8),
    ):
        timing = time_launch(kernel(directives, SLOW), constants, clusters=[0], registers=registers)
        assert timing.resident == expected, directives


def test_registers_decide_how_many_waves_there_are():
    cycles = [time_launch(kernel("", SLOW), Constants.of(), clusters=[0], registers=n).cycles for n in (64, 128, 255)]
    assert cycles == pytest.approx([cycles[0], cycles[0], 2 * cycles[0]])  # 592 CTAs; eight, four, two an SM


def test_a_dependent_kernel_that_fits_beside_has_its_prologue_behind_it():
    constants = Constants.of()
    body = f"{SLOW}\ngriddepcontrol.wait;\n{SLOW}"
    cycles = {}
    for registers in (64, 255):
        before = time_launch(
            kernel("", "griddepcontrol.launch_dependents;"), constants, clusters=[0], registers=registers
        )
        after = kernel("", body, grid=(148, 1, 1), dependent=True)
        found = time_launch(after, constants, clusters=[0], registers=128, before=before)
        cycles[registers] = found.cycles
        # Four CTAs of 128 x 64 registers leave half; two of 128 x 255 leave nothing.
        assert found.early == (2 if registers == 64 else 0)
    # The wait does not hold up what stands within the window before it.
    assert 4 * (COUNT - 96) <= cycles[255] - cycles[64] <= 4 * COUNT
    untold = dataclasses.replace(before, triggers=False, footprint=Footprint(128, 0, 64))
    assert time_launch(after, constants, clusters=[0], registers=128, before=untold).early == 0
