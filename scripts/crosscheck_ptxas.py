"""Hands the conformance kernels to NVIDIA's assembler: it refuses what is not PTX, the emulator must not need it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.crosscheck_cases import Case


def why_not() -> str:
    """Why nothing can be assembled here; "" if it can."""
    return "" if shutil.which("ptxas") else "no ptxas on the path (CUDA toolkit, 13.0 or later)"


def assemble_all(cases: Sequence[Case]) -> Iterator[dict]:
    """A row for every case: "assembled" or "refused", with the assembler's first message. Each text once, for the
    target that it names."""
    known: dict[str, dict] = {}
    for case in cases:
        if case.ptx not in known:
            known[case.ptx] = assemble(case.ptx)
        yield {"test": case.name, **known[case.ptx]}


def assemble(ptx: str) -> dict:
    target = re.search(r"^\.target\s+(\w+)", ptx, re.M).group(1)
    with TemporaryDirectory(prefix="crosscheck-") as folder:
        file = Path(folder) / "case.ptx"
        file.write_text(ptx)
        command = ["ptxas", "--gpu-name", target, "--output-file", str(Path(folder) / "case.cubin"), str(file)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return {"result": "assembled"}
    message = (done.stdout + done.stderr).strip().splitlines() or [f"exit status {done.returncode}"]
    return {"result": "refused", "reason": message[0].replace(str(file), "case.ptx")}
