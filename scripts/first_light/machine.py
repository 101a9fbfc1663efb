"""What this machine is, and why first light cannot run on it: one line each that says what to do."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts import crosscheck_gpu
from scripts.first_light.isolate import Crashed, isolated
from wrappers.backends import KERNEL_ARCHS

OLDEST_CUDA = {
    (10, 0): 12080,
    (10, 3): 12090,
    (10, 7): 13000,
}  # the first CUDA driver interface that knows the architecture
TOOLS = {
    "nvcc": "nothing here needs it",
    "ptxas": "the conformance kernels are then not assembled (scripts.crosscheck_device --backend ptxas)",
    "compute-sanitizer": "its checks are left out",
}
_SECONDS_OF_A_QUESTION = 120


@dataclass(frozen=True)
class Gpu:
    """The first GPU. cuda: what the driver supports, 1000 * major + 10 * minor. others: "pid name" of who uses it."""

    name: str
    capability: tuple[int, int]
    uuid: str
    cuda: int
    torch_cuda: str | None
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """A line for the user. kind: "no GPU", "architecture", "driver", "torch", "busy" keep first light from running,
    "tool" does not."""

    kind: str
    text: str


# What --anyway runs in spite of.
OVERRIDABLE = ("architecture", "busy")


def ask_driver() -> Gpu | str:
    """The first GPU, or why there is none. Runs in a process of its own: it makes a CUDA context."""
    if reason := crosscheck_gpu.why_not():
        return reason
    call = crosscheck_gpu.call
    gpu = crosscheck_gpu.Gpu()
    uuid = bytes(call("cuDeviceGetUuid", gpu.device).bytes).hex()
    return Gpu(gpu.name, gpu.capability, uuid, call("cuDriverGetVersion"), _cuda_of_torch())


def _cuda_of_torch() -> str | None:
    import torch

    return torch.version.cuda


def find_gpu(ask: Callable[[], Gpu | str] = ask_driver) -> Gpu | str:
    """The GPU with who else uses it; or why there is none."""
    try:
        found = isolated(ask, limit=_SECONDS_OF_A_QUESTION)
    except Crashed as error:
        return f"the CUDA driver does not answer ({error})"
    return found if isinstance(found, str) else Gpu(**{**asdict(found), "others": others_on(found.uuid)})


def others_on(uuid: str) -> tuple[str, ...]:
    """ "pid name" of the processes that compute on a GPU, as far as nvidia-smi tells."""
    rows = query("--query-compute-apps=gpu_uuid,pid,process_name")
    mine = (row for row in rows if len(row) >= 3 and _plain(row[0]) == uuid)
    return tuple(f"{row[1]} {Path(row[2]).name}" for row in mine)


def _plain(uuid: str) -> str:
    """nvidia-smi's name of a GPU as the driver interface's hexadecimal digits."""
    return uuid.removeprefix("GPU-").replace("-", "")


def clocks(uuid: str) -> dict[str, str]:
    """Clocks, power and temperature of a GPU as nvidia-smi prints them; empty without it."""
    names = ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "temperature.gpu")
    rows = query(f"--query-gpu=uuid,{','.join(names)}") if uuid else []
    return next((dict(zip(names, row[1:])) for row in rows if _plain(row[0]) == uuid), {})


def query(what: str) -> list[list[str]]:
    """The rows of an nvidia-smi query; none where it does not work."""
    if not shutil.which("nvidia-smi"):
        return []
    try:
        done = subprocess.run(["nvidia-smi", what, "--format=csv,noheader"], capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return []
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return [[cell.strip() for cell in line.split(",")] for line in lines if line.strip()]


def problems(gpu: Gpu | str) -> list[Problem]:
    """All that is wrong with the machine, in words."""
    tools = [
        Problem("tool", f"{tool} is not on PATH: {lost}; install the CUDA toolkit or add its bin folder to PATH")
        for tool, lost in TOOLS.items()
        if not shutil.which(tool)
    ]
    if isinstance(gpu, str):
        return [
            Problem("no GPU", f"{gpu.split(' (')[0]}: run this on a machine with a B200 or B300, or with --rehearse"),
            *tools,
        ]
    return [*_of_gpu(gpu), *tools]


def _of_gpu(gpu: Gpu) -> list[Problem]:
    found = []
    if gpu.capability not in KERNEL_ARCHS:
        capability = ".".join(map(str, gpu.capability))
        found.append(Problem(
            "architecture",
            f"{gpu.name} has compute capability {capability}, the kernel needs 10.0, 10.3 or 10.7: choose another GPU with "
            "CUDA_VISIBLE_DEVICES, or run the parts that exist there with --anyway",
        ))  # fmt: skip
    elif gpu.cuda < OLDEST_CUDA[gpu.capability]:
        needed = _version(OLDEST_CUDA[gpu.capability])
        found.append(Problem(
            "driver",
            f"the driver supports CUDA {_version(gpu.cuda)}, {gpu.name} needs {needed} or later: install a newer one",
        ))  # fmt: skip
    if gpu.torch_cuda is None:
        found.append(Problem("torch", "torch is a build without CUDA: install one with CUDA (pytorch.org) into .venv"))
    if gpu.others:
        shown = ", ".join(gpu.others[:4])
        found.append(Problem(
            "busy",
            f"other processes compute on the GPU ({shown}): end them, choose another GPU with CUDA_VISIBLE_DEVICES, or "
            "run with --anyway (timings are then worth nothing)",
        ))  # fmt: skip
    return found


def stops(found: Sequence[Problem], anyway: bool) -> list[Problem]:
    """Those that keep first light from running."""
    return [p for p in found if p.kind != "tool" and not (anyway and p.kind in OVERRIDABLE)]


def describe(gpu: Gpu | str) -> dict:
    """The machine for the report; no host name, no user."""
    content = {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()}
    return {**content, "gpu": gpu.split(" (")[0] if isinstance(gpu, str) else _shown(gpu)}


def _shown(gpu: Gpu) -> dict:
    fields = {name: value for name, value in asdict(gpu).items() if name != "uuid"}
    return {**fields, "cuda": _version(gpu.cuda)}


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
