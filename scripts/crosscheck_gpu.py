"""Runs one conformance kernel on the GPU of the machine through the CUDA driver API (cuda-python)."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ptx_emulator.units.tma.tensormap import TensorMap
from scripts.crosscheck_cases import Case, relocate

try:
    from cuda.bindings import driver
except ImportError:  # cuda-python is optional
    driver = None

_DATA_TYPES = {
    "u8": "UINT8", "u16": "UINT16", "u32": "UINT32", "s32": "INT32", "u64": "UINT64", "s64": "INT64", "f16": "FLOAT16",
    "f32": "FLOAT32", "f64": "FLOAT64", "bf16": "BFLOAT16", "tf32": "TFLOAT32",
    "b4x16": "16U4_ALIGN8B", "b4x16_p64": "16U4_ALIGN16B", "b6x16_p32": "16U6_ALIGN16B",
}  # fmt: skip
_SWIZZLES = {"none": "NONE", "32B": "32B", "64B": "64B", "128B": "128B", "128B_atom_32B": "128B_ATOM_32B"}
_PTX_VERSIONS = ("9.0", "8.8", "8.7", "8.4", "8.0")  # of CUDA 13.0, 12.9, 12.8, 12.4, 12.0
_FILLS = {"zero": "NONE", "nan": "NAN_REQUEST_ZERO_FMA"}


class DriverError(RuntimeError):
    """A driver call that did not succeed; the message names it."""


def call(name: str, *arguments: Any) -> Any:
    """Calls a driver function; returns its result, or a tuple of several. Raises DriverError."""
    status, *results = getattr(driver, name)(*arguments)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise DriverError(f"{name}: {status.name}")
    return results[0] if len(results) == 1 else tuple(results)


def why_not() -> str:
    """Why no kernel can be run here; "" if one can."""
    if driver is None:
        return "cuda-python is not installed"
    try:
        call("cuInit", 0)
        if call("cuDeviceGetCount") == 0:
            return "no CUDA GPU"
    except Exception as error:  # without libcuda the bindings raise errors of their own kinds
        return f"no CUDA driver ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    return ""


class Gpu:
    """The first GPU and a context on it. `target`: the PTX target that it runs."""

    def __init__(self):
        call("cuInit", 0)
        self.device = call("cuDeviceGet", 0)
        attributes = driver.CUdevice_attribute
        major, minor = (
            call("cuDeviceGetAttribute", attribute, self.device)
            for attribute in (
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self.capability = (major, minor)
        self.target = f"sm_{major}{minor}a"
        self.name = call("cuDeviceGetName", 256, self.device).decode().rstrip("\0")
        call("cuCtxSetCurrent", call("cuDevicePrimaryCtxRetain", self.device))

    @property
    def has_tcgen05(self) -> bool:
        return self.target in ("sm_100a", "sm_103a", "sm_107a")

    @property
    def num_sms(self) -> int:
        return call(
            "cuDeviceGetAttribute", driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, self.device
        )

    def replay(self, case: Case) -> list[bytes]:
        """Runs a case; returns its buffers' bytes afterwards. Raises DriverError, also where the PTX is refused."""
        with self._placed(case) as (module, buffers, params):
            self._launch(module, case, params, case.kernel or _only_entry(case.ptx))
            if case.dependent:
                self._launch(module, case, params, case.dependent, is_dependent=True)
            call("cuCtxSynchronize")
            return [_download(buffer, len(content)) for buffer, content in zip(buffers, case.before, strict=True)]

    def replays(self, case: Case, launches: int, flush_bytes: int = 0) -> list[bytes]:
        """The first buffer's bytes after each of so many launches of a case, which is loaded once. flush_bytes: so much
        other memory is written before each."""
        found = []
        with self._placed(case) as (module, buffers, params):
            other = call("cuMemAlloc", flush_bytes) if flush_bytes else None
            for _ in range(launches):
                if other is not None:
                    call("cuMemsetD8", other, 0, flush_bytes)
                self._launch(module, case, params, case.kernel or _only_entry(case.ptx))
                call("cuCtxSynchronize")
                found.append(_download(buffers[0], len(case.before[0])))
            if other is not None:
                call("cuMemFree", other)
        return found

    def chain_seconds(
        self, ptx: str, chain: Sequence[tuple[str, bool]], threads: int, warmup: int, repeats: int
    ) -> list[float]:
        """Seconds of replays of a graph of one CTA's kernels without parameters, (entry, whether it may start before the
        last one's end) each, between events."""
        kernels = Case("chain", ptx, None, (1, 1, 1), (threads, 1, 1), (1, 1, 1), 0, (), (), (), ())
        module = self._load(kernels.retargeted(self.target))
        stream = call("cuStreamCreate", driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        call("cuStreamBeginCapture", stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        for entry, is_dependent in chain:
            self._launch(module, kernels, [], entry, is_dependent, stream)
        graph = call("cuGraphInstantiate", call("cuStreamEndCapture", stream), 0)
        begin, end = (call("cuEventCreate", 0) for _ in range(2))
        seconds = []
        for number in range(warmup + repeats):
            call("cuEventRecord", begin, stream)
            call("cuGraphLaunch", graph, stream)
            call("cuEventRecord", end, stream)
            call("cuEventSynchronize", end)
            if number >= warmup:
                seconds.append(call("cuEventElapsedTime", begin, end) * 1e-3)
        return seconds

    @contextmanager
    def _placed(self, case: Case) -> Iterator[tuple[Any, list, list[bytes]]]:
        """The case's module, its buffers on the GPU and its parameters for them; all given back afterwards."""
        module = self._load(case.retargeted(self.target))
        buffers = [call("cuMemAlloc", max(len(content), 1)) for content in case.before]
        try:
            addresses = [int(buffer) for buffer in buffers]
            for buffer, content in zip(buffers, case.contents_at(addresses), strict=True):
                if content:
                    call("cuMemcpyHtoD", buffer, content, len(content))
            yield module, buffers, relocate(case, addresses, encode)
        finally:
            for buffer in buffers:
                driver.cuMemFree(buffer)
            driver.cuModuleUnload(module)

    def _load(self, ptx: str) -> Any:
        """The module, as the newest version of PTX that the driver knows. Raises DriverError."""
        for version in _PTX_VERSIONS:
            text = re.sub(r"^\.version\s+\S+", f".version {version}", ptx, flags=re.M)
            try:
                return call("cuModuleLoadDataEx", text.encode() + b"\0", 0, [], [])
            except DriverError as error:
                if "UNSUPPORTED_PTX_VERSION" not in str(error) or version == _PTX_VERSIONS[-1]:
                    raise
        raise AssertionError("no version of PTX to try")

    def _launch(
        self, module: Any, case: Case, params: list[bytes], entry: str, is_dependent: bool = False, stream: Any = 0
    ) -> None:
        function = call("cuModuleGetFunction", module, entry.encode())
        kinds = driver.CUfunction_attribute
        call("cuFuncSetAttribute", function, kinds.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, case.shared_bytes)
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = case.grid
        config.blockDimX, config.blockDimY, config.blockDimZ = case.block
        config.sharedMemBytes = case.shared_bytes
        config.hStream = stream
        attributes = []
        if case.cluster != (1, 1, 1):
            attributes.append(_attribute("CLUSTER_DIMENSION"))
            value = attributes[-1].value
            value.clusterDim.x, value.clusterDim.y, value.clusterDim.z = case.cluster
            attributes[-1].value = value
        if is_dependent:
            attributes.append(_attribute("PROGRAMMATIC_STREAM_SERIALIZATION"))
            value = attributes[-1].value
            value.programmaticStreamSerializationAllowed = 1
            attributes[-1].value = value
        if attributes:
            config.attrs, config.numAttrs = attributes, len(attributes)
        storage = [ctypes.create_string_buffer(param, len(param)) for param in params]
        pointers = (ctypes.c_void_p * max(len(storage), 1))(*(ctypes.addressof(s) for s in storage))
        call("cuLaunchKernelEx", config, function, ctypes.addressof(pointers), 0)


def _download(buffer: Any, nbytes: int) -> bytes:
    array = np.empty(nbytes, np.uint8)
    if nbytes:
        call("cuMemcpyDtoH", array.ctypes.data, buffer, nbytes)
    return array.tobytes()


def _only_entry(ptx: str) -> str:
    return ptx.split(".entry", 1)[1].split("(", 1)[0].strip()


def _attribute(name: str) -> Any:
    attribute = driver.CUlaunchAttribute()
    attribute.id = getattr(driver.CUlaunchAttributeID, f"CU_LAUNCH_ATTRIBUTE_{name}")
    return attribute


def encode(tensor: TensorMap) -> bytes:
    """The driver's 128 bytes for a tensor map."""
    rank = tensor.rank
    found = call(
        "cuTensorMapEncodeTiled",
        getattr(driver.CUtensorMapDataType, f"CU_TENSOR_MAP_DATA_TYPE_{_DATA_TYPES[tensor.element_type]}"),
        rank,
        tensor.address,
        [driver.cuuint64_t(d) for d in tensor.dims],
        [driver.cuuint64_t(s) for s in tensor.strides],
        [driver.cuuint32_t(b) for b in tensor.box],
        [driver.cuuint32_t(s) for s in tensor.element_strides],
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        getattr(driver.CUtensorMapSwizzle, f"CU_TENSOR_MAP_SWIZZLE_{_SWIZZLES[tensor.swizzle]}"),
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_NONE,
        getattr(driver.CUtensorMapFloatOOBfill, f"CU_TENSOR_MAP_FLOAT_OOB_FILL_{_FILLS[tensor.oob_fill]}"),
    )
    return ctypes.string_at(int(found.getPtr()), 128)
