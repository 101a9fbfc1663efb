"""Runs one conformance kernel on the GPU of the machine through the CUDA driver API (cuda-python)."""

from __future__ import annotations

import ctypes
import re
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
        return self.target in ("sm_100a", "sm_103a")

    def replay(self, case: Case) -> list[bytes]:
        """Runs a case; returns its buffers' bytes afterwards. Raises DriverError, also where the PTX is refused."""
        module = self._load(case.retargeted(self.target))
        buffers = [call("cuMemAlloc", max(len(content), 1)) for content in case.before]
        try:
            for buffer, content in zip(buffers, case.before, strict=True):
                if content:
                    call("cuMemcpyHtoD", buffer, content, len(content))
            params = relocate(case, [int(b) for b in buffers], encode)
            self._launch(module, case, params, case.kernel or _only_entry(case.ptx))
            if case.dependent:
                self._launch(module, case, params, case.dependent, is_dependent=True)
            call("cuCtxSynchronize")
            found = []
            for buffer, content in zip(buffers, case.before, strict=True):
                array = np.empty(len(content), np.uint8)
                if content:
                    call("cuMemcpyDtoH", array.ctypes.data, buffer, len(content))
                found.append(array.tobytes())
            return found
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

    def _launch(self, module: Any, case: Case, params: list[bytes], entry: str, is_dependent: bool = False) -> None:
        function = call("cuModuleGetFunction", module, entry.encode())
        kinds = driver.CUfunction_attribute
        call("cuFuncSetAttribute", function, kinds.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, case.shared_bytes)
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = case.grid
        config.blockDimX, config.blockDimY, config.blockDimZ = case.block
        config.sharedMemBytes = case.shared_bytes
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
