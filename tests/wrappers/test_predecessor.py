"""Decode behind another kernel of its stream: as a programmatic dependent launch it may start before that one's end, and
must neither read what that one writes nor write what that one reads before its griddepcontrol.wait.
"""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
import torch

from mla.compile import CompiledDecode, compile_decode
from ptx_emulator.check.hazards import Checker
from ptx_emulator.errors import Deadlock
from ptx_emulator.grid import Grid, prepare_launch
from tests.wrappers.emulation import same
from wrappers import emulated, kernel
from wrappers.backends import EMULATED_ARCH
from wrappers.testing import assert_matches, make_problem

# Lets its dependents start, then copies a word from every first to every second address of a table, whose end is a 0.
COPY = """
.version 8.7
.target sm_100a
.address_size 64
.visible .entry copy(.param .b64 table)
{
.reg .pred %p<2>;
.reg .b32 %r<2>;
.reg .b64 %rd<4>;
griddepcontrol.launch_dependents;
ld.param.b64 %rd1, [table];
LOOP:
ld.global.b64 %rd2, [%rd1];
setp.eq.b64 %p1, %rd2, 0;
@%p1 ret;
ld.global.b64 %rd3, [%rd1+8];
ld.global.b32 %r1, [%rd2];
st.global.b32 [%rd3], %r1;
add.s64 %rd1, %rd1, 16;
bra LOOP;
}
"""


def first_word(x: torch.Tensor) -> torch.Tensor:
    """A view of a tensor's first four bytes, int32 [1]."""
    return x.as_strided((4 // x.element_size(),), (1,)).view(torch.int32)


def writer(tensors: list[torch.Tensor], read: list[torch.Tensor], order: str, checker: Checker) -> tuple[Grid, list]:
    """A launch that writes the first word of `tensors`, in which until then stands another, and reads that of `read`;
    and what it needs for as long as it runs.
    """
    true_words = torch.stack([first_word(x) for x in tensors]).clone()
    for x in tensors:
        first_word(x).fill_(1)
    sink = torch.zeros(1, dtype=torch.int32)
    pairs = [(true_words[i].data_ptr(), x.data_ptr()) for i, x in enumerate(tensors)]
    pairs += [(x.data_ptr(), sink.data_ptr()) for x in read]
    table = np.array([*pairs, (0, 0)], np.uint64)
    buffers = [table, true_words.numpy(), sink.numpy(), *(first_word(x).numpy() for x in [*tensors, *read])]
    grid = prepare_launch(
        COPY, "copy", grid=(1, 1, 1), block=(1, 1, 1), cluster=(1, 1, 1), shared_bytes=0,
        params=[struct.pack("<Q", table.ctypes.data)], buffers=buffers, order=order, checks=checker,
    )  # fmt: skip
    return grid, buffers


def without_wait(compiled: CompiledDecode, number: int) -> CompiledDecode:
    """The decode kernel without one of its two griddepcontrol.wait: the scheduler's, and then everybody's."""
    decode, merge = sorted(compiled.ptx.split(".visible .entry ")[1:], key=lambda text: "tcgen05" not in text)
    texts = decode.split("griddepcontrol.wait;")
    assert (len(texts), merge.count("griddepcontrol.wait;")) == (3, 1)
    texts[number : number + 2] = [texts[number] + texts[number + 1]]
    return replace(compiled, ptx=compiled.ptx.replace(decode, "griddepcontrol.wait;".join(texts)))


def launched(compiled: CompiledDecode, problem, order: str):
    """(result, tensors used too early) of a decode whose inputs the kernel before it has not all written when it starts."""
    problem = replace(
        problem, **{name: getattr(problem, name).clone() for name in ("query", "block_tables", "seq_lens")}
    )
    call = problem.decode_call(workspace=torch.zeros(1 << 22, dtype=torch.uint8))
    checker = Checker()
    inputs, read = [call.query, call.block_tables, call.seq_lens], [call.workspace, call.out, call.lse]
    before, _kept = writer(inputs, read, order, checker)
    emulated.launch(compiled, call, num_ctas=4, order=order, checks=checker, before=[before])
    early = [hazard for hazard in checker.hazards if hazard.kind == "grid-dependency"]
    return (call.out, call.lse), {hazard.place.split("[")[0] for hazard in early}


@pytest.mark.parametrize(
    "num_heads, seq_len_q, page_size, dtype, is_causal",
    [(1, 8, 16, torch.float8_e4m3fn, False), (40, 2, 32, torch.bfloat16, True)],
)
def test_decode_waits_for_the_kernel_before_it(num_heads, seq_len_q, page_size, dtype, is_causal):
    """One CTA to a row tile, and a pair; so short that nothing is left to merge."""
    shape = (2, num_heads, seq_len_q, (130, 65))
    problem = make_problem(*shape, dtype=dtype, page_size=page_size, is_causal=is_causal)
    compiled = compile_decode(kernel.decode_config(problem.decode_call(), EMULATED_ARCH))
    results = []
    for order in ("in_order", "adversarial"):
        result, early = launched(compiled, problem, order)
        assert early == set()
        results.append(result)
    assert_matches(problem, *results[0])
    assert same(*results)

    for number, places in ((0, ("seq_lens",)), (1, ("query", "out", "lse"))):
        try:
            assert launched(without_wait(compiled, number), problem, "adversarial")[1] >= set(places)
        except Deadlock:
            assert number == 0, "the CTAs of a pair may have read different lengths"
