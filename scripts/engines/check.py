"""vLLM and SGLang on a CPU with these kernels as their attention backend, against transformers in fp32: a table.

bash scripts/test_engines.sh

Every run's tokens must be those of transformers. Where they part, it must be at a near tie of transformers' own, and
up to there every chosen token's log-probability within the bound. Every decode call is checked against the reference
as well, and counted. The mutants, which read one key too few, must fail. Exit status 1 where something is not so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.engines.model import write_model

# Largest difference of a token's log-probability from fp32, by the cache's dtype: rounding, amplified by two layers.
BOUNDS = {"bf16": 0.2, "fp8": 0.8}
MINUTES_PER_RUN = 10
VLLM, SGLANG = "scripts.engines.vllm_on_cpu", "scripts.engines.sglang_on_cpu"
KEY, CPU_MLA = "transformers", "vLLM, its own CPU_MLA"


@dataclass(frozen=True)
class Run:
    """One engine run; `needs` is the package without which it is skipped."""

    name: str
    module: str
    options: tuple[str, ...] = ()
    backend: str = "torch"
    cache: str = "bf16"
    needs: str = "vllm"

    @property
    def is_mutant(self) -> bool:
        return "--mutant" in self.options

    @property
    def is_ours(self) -> bool:
        return self.name not in (KEY, CPU_MLA)


OURS = ("--attention", "blackwell")
RUNS = (
    Run(KEY, "scripts.engines.with_transformers", needs="transformers"),
    Run(CPU_MLA, VLLM, ("--attention", "cpu_mla")),
    Run("vLLM", VLLM, OURS),
    Run("vLLM, n-gram speculation", VLLM, (*OURS, "--speculate"), "emulator"),
    Run("vLLM, n-gram speculation", VLLM, (*OURS, "--speculate", "--kv-cache-dtype", "fp8"), "emulator", "fp8"),
    Run("vLLM, mutant", VLLM, (*OURS, "--mutant")),
    Run("SGLang", SGLANG, (), "emulator", needs="sglang"),
    Run("SGLang, mutant", SGLANG, ("--mutant",), needs="sglang"),
)


@dataclass(frozen=True)
class Agreement:
    """tokens: how many are the other's, per prompt; largest: difference of a log-probability among these; faults: in
    words, none where it is within the bound."""

    tokens: tuple[int, ...]
    largest: float
    faults: tuple[str, ...]


def compare(found: dict[str, Any], other: dict[str, Any], margins: list[list[float]], bound: float) -> Agreement:
    """`margins`: per prompt and token, by how much fp32 prefers its first choice to its second."""
    counts, largest, faults = [], 0.0, []
    for prompt, (mine, theirs) in enumerate(zip(found["tokens"], other["tokens"], strict=True)):
        same = next((at for at, pair in enumerate(zip(mine, theirs, strict=True)) if len(set(pair)) > 1), len(mine))
        pairs = zip(found["logprobs"][prompt][:same], other["logprobs"][prompt][:same], strict=True)
        largest = max([largest, *(abs(a - b) for a, b in pairs)])
        counts.append(same)
        if same < len(mine) and margins[prompt][same] > 2 * bound:
            faults.append(f"prompt {prompt} parts at token {same}, where fp32 is sure by {margins[prompt][same]:.2f}")
    if largest > bound:
        faults.append(f"a log-probability differs by {largest:.2f}")
    return Agreement(tuple(counts), largest, tuple(faults))


def faults_of(run: Run, found: dict[str, Any], key: dict[str, Any]) -> list[str]:
    faults = list(compare(found, key, key["margins"], BOUNDS[run.cache]).faults)
    if run.is_ours:
        if not found["calls"]:
            faults.append("the backend was never called")
        if found["failed"]:
            faults.append(f"{found['failed']} of {found['calls']} calls are wrong")
        if run.backend == "emulator" and found["launches"] != found["calls"]:
            faults.append(f"{found['launches']} kernels ran in {found['calls']} calls")
        if "--speculate" in run.options and not found["ragged"]:
            faults.append("no call was ragged")
    return faults


def execute(run: Run, folder: Path, number: int) -> dict[str, Any] | str:
    """What the run wrote, and its seconds; or why there is nothing."""
    if importlib.util.find_spec(run.needs) is None:
        return f"skipped: {run.needs} is not installed"
    out, begin = folder / f"{number}.json", time.monotonic()
    command = [sys.executable, "-m", run.module, "--model", str(folder / "model"), "--out", str(out), *run.options]
    environment = {**os.environ, "BLACKWELL_MLA_BACKEND": run.backend}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60 * MINUTES_PER_RUN, check=False
        )
    except subprocess.TimeoutExpired:
        return f"failed: no result in {MINUTES_PER_RUN} minutes"
    if done.returncode or not out.is_file():
        return "failed: " + "\n".join(done.stderr.strip().splitlines()[-15:])
    return {**json.loads(out.read_text()), "seconds": time.monotonic() - begin}


def row(run: Run, found: dict[str, Any], key: dict[str, Any], baseline: dict[str, Any] | str) -> tuple[list[str], bool]:
    """The table's cells, and whether the run is as it should be."""
    faults = faults_of(run, found, key)
    length, against = len(found["tokens"][0]), compare(found, key, key["margins"], BOUNDS[run.cache])
    same = " ".join(f"{count}/{length}" for count in against.tokens)
    cpu_mla = "-"
    if run.is_ours and run.needs == "vllm" and isinstance(baseline, dict):
        both = compare(found, baseline, key["margins"], BOUNDS[run.cache])
        cpu_mla = " ".join(f"{count}/{length}" for count in both.tokens)
        if not run.is_mutant:
            faults += [f"against CPU_MLA: {fault}" for fault in both.faults]
    good = bool(faults) if run.is_mutant else not faults
    verdict = ("fails, as it must" if good else "PASSES") if run.is_mutant else ("passed" if good else "FAILED")
    counts = [str(found[name]) for name in ("calls", "ragged", "launches")] if run.is_ours else ["-"] * 3
    lowest = f"{found['lowest_db']:.1f}" if run.is_ours and found["lowest_db"] is not None else "-"
    cells = [run.name, found["engine"], run.backend if run.is_ours else "-", run.cache if run.is_ours else "-", same]
    cells += [f"{against.largest:.3f}", cpu_mla, *counts, lowest, f"{found['seconds']:.0f}", verdict]
    return cells, good if not faults or run.is_mutant else print_faults(run, faults)


def print_faults(run: Run, faults: list[str]) -> bool:
    for fault in faults:
        print(f"{run.name} ({run.cache}): {fault}", file=sys.stderr)
    return False


HEAD = ["run", "engine", "kernel by", "cache", "tokens as fp32", "largest difference of a log-probability"]
HEAD += ["tokens as CPU_MLA", "calls", "ragged", "kernels run", "lowest dB of a call", "s", "verdict"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.engines.check")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    options = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="engines-") as name:
        folder = Path(name)
        write_model(folder / "model")
        with ThreadPoolExecutor(options.jobs) as pool:
            found = list(pool.map(lambda at: execute(RUNS[at], folder, at), range(len(RUNS))))
    key, baseline, status = found[0], found[1], 0
    for line in (HEAD, ["---"] * len(HEAD)):
        print("| " + " | ".join(line) + " |")
    for run, each in zip(RUNS, found, strict=True):
        if isinstance(each, str) or isinstance(key, str):
            why = each if isinstance(each, str) else "skipped: there is no answer key"
            print(f"{run.name} ({run.cache}): {why}", file=sys.stderr)
            status |= why.startswith("failed")
            continue
        cells, good = row(run, each, key, baseline)
        print("| " + " | ".join(cells) + " |")
        status |= not good
    print(f"{time.monotonic() - begin:.0f} s in all, {options.jobs} runs at a time", file=sys.stderr)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
