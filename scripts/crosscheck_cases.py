"""The conformance kernels as data: every in-order launch that the emulator's tests make, recorded and replayable.

As a pytest plugin (`-p scripts.crosscheck_cases --crosscheck-record FILE`) it records; there is no second list of
kernels. A case can be replayed with its buffers at other addresses, so that a GPU, or the emulator again, can run it.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ptx_emulator
from ptx_emulator.machine.memory import as_bytes
from ptx_emulator.units.tma.tensormap import TENSOR_MAP_BYTES, TensorMap

POISON = 0xFFFFFFFF  # what the emulator's memory holds before anything is written
APPROXIMATE = re.compile(r"\.approx|\btanh\.|\bex2\.|\blg2\.|\brsqrt\.|\brcp\.")
_MAP_ALIGN = 64


@dataclass(frozen=True)
class Case:
    """One launch. addresses, before, after: host address and bytes of each buffer then, and its bytes afterwards.

    dependent: an entry of the module that is launched behind it, in the same way, and may begin before it has ended
    (programmatic dependent launch). holds_pointers: words of a buffer that are addresses in it move with it.
    """

    name: str
    ptx: str
    kernel: str | None
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    cluster: tuple[int, int, int]
    shared_bytes: int
    params: tuple[bytes, ...]
    addresses: tuple[int, ...]
    before: tuple[bytes, ...]
    after: tuple[bytes, ...]
    dependent: str | None = None
    holds_pointers: bool = False

    def contents_at(self, addresses: Sequence[int]) -> list[bytes]:
        """The bytes of each buffer before the launch, with the buffers at other addresses."""
        if not self.holds_pointers:
            return list(self.before)
        return [_moved_words(*given) for given in zip(self.before, self.addresses, addresses, strict=True)]

    @property
    def needs_blackwell(self) -> bool:
        return "tcgen05." in self.ptx or ".cta_group::" in self.ptx

    @property
    def why_not(self) -> str:
        """Why it cannot be compared between machines; "" if it can."""
        if "tensormap.replace" in self.ptx:
            return "tensor maps in memory, whose format is each machine's own"
        return "prints" if "vprintf" in self.ptx else ""

    @property
    def approximate(self) -> bool:
        return bool(APPROXIMATE.search(self.ptx))

    def retargeted(self, target: str) -> str:
        """The PTX for another target, e.g. "sm_90a"."""
        return re.sub(r"^\.target\s+\S+", f".target {target}", self.ptx, flags=re.M)


def _moved_words(content: bytes, old: int, new: int) -> bytes:
    words = np.frombuffer(content[: len(content) // 8 * 8], np.uint64).copy()
    words[(words >= old) & (words < old + len(content))] += np.uint64((new - old) % (1 << 64))
    return words.tobytes() + content[len(content) // 8 * 8 :]


def relocate(case: Case, addresses: Sequence[int], encode: Callable[[TensorMap], bytes]) -> list[bytes]:
    """The case's parameters for buffers at other addresses. `encode` makes the 128 bytes of a tensor map.

    A 64-bit word of a parameter that is an address in a buffer, or just past its end, is taken for one.
    """
    return [_relocated(param, case, addresses, encode) for param in case.params]


def _relocated(param: bytes, case: Case, addresses: Sequence[int], encode: Callable[[TensorMap], bytes]) -> bytes:
    result = bytearray(param)
    start = 0
    while start + 8 <= len(param):
        record = param[start : start + TENSOR_MAP_BYTES]
        if start % _MAP_ALIGN == 0 and len(record) == TENSOR_MAP_BYTES and (tensor := _tensor_map(record)) is not None:
            moved = moved_address(tensor.address, case, addresses)
            result[start : start + TENSOR_MAP_BYTES] = encode(_at_address(tensor, moved))
            start += TENSOR_MAP_BYTES
            continue
        (word,) = struct.unpack_from("<Q", param, start)
        struct.pack_into("<Q", result, start, moved_address(word, case, addresses))
        start += 8
    return bytes(result)


def moved_address(address: int, case: Case, addresses: Sequence[int]) -> int:
    """Where an address in (or at the end of) one of the case's buffers now is; other numbers stay."""
    for old, content, new in zip(case.addresses, case.before, addresses, strict=True):
        if old <= address <= old + len(content):
            return new + address - old
    return address


def _tensor_map(record: bytes) -> TensorMap | None:
    try:
        return TensorMap.from_bytes(record)
    except ValueError:
        return None


def _at_address(tensor: TensorMap, address: int) -> TensorMap:
    fields = ("element_type", "dims", "strides", "box", "element_strides", "swizzle", "oob_fill")
    return TensorMap(address, **{field: getattr(tensor, field) for field in fields})


@dataclass(frozen=True)
class Comparison:
    """different: bytes that differ; ignored: bytes of words that became poison, the emulator's unwritten memory, which
    are not compared; max_ulp: the largest distance between differing 32-bit words read as float32, None without."""

    different: int
    ignored: int
    max_ulp: int | None


def compare(case: Case, found: Sequence[bytes]) -> Comparison:
    """What a replay left in the buffers, against what the emulator's recorded launch left there."""
    different = ignored = 0
    max_ulp = None
    for before, after, other in zip(case.before, case.after, found, strict=True):
        start, expected, actual = (np.frombuffer(x, np.uint8) for x in (before, after, other))
        words = len(expected) // 4 * 4
        wrong = expected != actual
        never = (expected[:words].view(np.uint32) == POISON) & (start[:words].view(np.uint32) != POISON)
        wrong[:words] &= ~np.repeat(never, 4)
        different += int(wrong.sum())
        ignored += 4 * int(never.sum())
        touched = wrong[:words].reshape(-1, 4).any(axis=1)
        if touched.any():
            pair = [x[:words].view(np.int32)[touched] for x in (expected, actual)]
            max_ulp = max(max_ulp or 0, int(np.abs(_ordered(pair[0]) - _ordered(pair[1])).max()))
    return Comparison(different, ignored, max_ulp)


def _ordered(bits: np.ndarray) -> np.ndarray:
    """float32 patterns as integers whose differences count the floats between them."""
    wide = bits.astype(np.int64)
    return np.where(wide < 0, -(wide & 0x7FFFFFFF), wide)


def placed(case: Case) -> tuple[list[np.ndarray], list[bytes]]:
    """The case's buffers in memory of this process, and its parameters for them."""
    arrays = []
    for content, old in zip(case.before, case.addresses, strict=True):
        raw = np.zeros(len(content) + 2048, np.uint8)
        start = (old - raw.ctypes.data) % 1024  # as aligned as it was
        arrays.append(raw[start : start + len(content)])
    addresses = [array.ctypes.data for array in arrays]
    for array, content in zip(arrays, case.contents_at(addresses), strict=True):
        array[:] = np.frombuffer(content, np.uint8)
    return arrays, relocate(case, addresses, TensorMap.to_bytes)


def replay_in_emulator(case: Case, **options: Any) -> list[bytes]:
    """Runs a case with buffers of its own; returns their bytes afterwards. options: of `ptx_emulator.launch`."""
    arrays, params = placed(case)
    for entry in (case.kernel, case.dependent) if case.dependent else (case.kernel,):
        ptx_emulator.launch(
            case.ptx,
            entry,
            grid=case.grid,
            block=case.block,
            cluster=case.cluster,
            shared_bytes=case.shared_bytes,
            params=params,
            buffers=arrays,
            **options,
        )
    return [a.tobytes() for a in arrays]


def load_cases(file: Path) -> list[Case]:
    with file.open("rb") as stream:
        return pickle.load(stream)


class Recorder:
    """Stands in for `ptx_emulator.launch` while tests run; keeps the launches that succeed in order."""

    def __init__(self, launch: Callable[..., Any]):
        self.launch = launch
        self.cases: list[Case] = []
        self.test = ""

    def __call__(self, ptx: Any, kernel: str | None = None, **options: Any) -> Any:
        buffers = [as_bytes(buffer) for buffer in options.get("buffers", ())]
        before = tuple(b.tobytes() for b in buffers)
        report = self.launch(ptx, kernel, **options)
        if isinstance(ptx, str) and options.get("order", "in_order") == "in_order":
            self.cases.append(
                Case(
                    self.test,
                    ptx,
                    kernel,
                    *(_three(options.get(name, (1,))) for name in ("grid", "block", "cluster")),
                    options.get("shared_bytes", 0),
                    tuple(bytes(p) for p in options.get("params", ())),
                    tuple(b.ctypes.data for b in buffers),
                    before,
                    tuple(b.tobytes() for b in buffers),
                )
            )
        return report


def _three(dims: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (*(int(d) for d in dims), 1, 1)[:3]
    return x, y, z


_recorders: list[Recorder] = []


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--crosscheck-record", metavar="FILE", help="record the emulator launches of the tests")


def pytest_configure(config: Any) -> None:
    if config.getoption("--crosscheck-record"):
        _recorders.append(Recorder(ptx_emulator.launch))
        ptx_emulator.launch = _recorders[0]


def pytest_runtest_setup(item: Any) -> None:
    for recorder in _recorders:
        recorder.test = item.nodeid


def pytest_unconfigure(config: Any) -> None:
    for recorder in _recorders:
        with open(config.getoption("--crosscheck-record"), "wb") as stream:
            pickle.dump(recorder.cases, stream)
