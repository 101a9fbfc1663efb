"""A case of a small kernel, for the commands: 64 threads reverse their numbers through shared memory."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ptx_emulator.__main__ import main

from ..helpers import aligned, kernel, pointer

BODY = """
    ld.param.u64 %rd1, [p];
    mov.u32 %r0, %tid.x;
    shl.b32 %r1, %r0, 2;
    mov.u32 %r2, smem;
    add.u32 %r3, %r2, %r1;
    st.shared.b32 [%r3], %r0;
    SYNC
    xor.b32 %r4, %r1, 252;
    add.u32 %r5, %r2, %r4;
    ld.shared.b32 %r6, [%r5];
    cvt.u64.u32 %rd2, %r1;
    add.u64 %rd3, %rd1, %rd2;
    st.global.b32 [%rd3], %r6;
"""
FILE = "from tests.ptx_emulator.tool.cases import arguments, check\n"


def arguments(sync: str = "bar.sync 0;"):
    out = aligned(256, np.uint32)
    ptx = kernel(".param .u64 p", BODY.replace("SYNC", sync))
    launch = {"kernel": "k", "grid": (1,), "block": (64,), "shared_bytes": 256}
    return None, ptx, {**launch, "params": [pointer(out)], "buffers": {"out": out}}


def check(given) -> None:
    assert (given["buffers"]["out"] == np.arange(64)[::-1]).all(), "not reversed"


class Command:
    """Runs `python -m ptx_emulator` in this process."""

    def __init__(self, case: str, capsys: pytest.CaptureFixture):
        self.case, self.capsys = case, capsys

    def __call__(self, name: str, *options: str) -> tuple[int, str, str]:
        """(exit status, standard output, standard error)."""
        try:
            status = main([name, self.case, *options])
        except SystemExit as end:
            status = end.code
        printed = self.capsys.readouterr()
        return status, printed.out, printed.err

    def json(self, name: str, *options: str) -> tuple[int, dict]:
        status, out, _ = self(name, *options, "--json")
        return status, json.loads(out)
