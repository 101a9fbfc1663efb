"""A stand-in for the CUDA driver, for machines without one."""

from __future__ import annotations

import ctypes

import numpy as np

import ptx_emulator
from ptx_emulator.units.tma.tensormap import TensorMap
from scripts import crosscheck_gpu


def _name(names, value, prefix):
    return next(name for name, suffix in names.items() if value.name == prefix + suffix)


class HostDriver:
    """Memory is the host's, kernels run in the emulator. What the caller hands over (launch configurations, pointers to
    parameters, arguments of tensor maps) is read as the driver would read it; types and constants are the `real` ones.
    Knows PTX up to version 8.7."""

    def __init__(self, real):
        self.real, self.memory, self.versions, self.dependents = real, {}, [], []

    def __getattr__(self, name):
        return getattr(self.real, name)

    def _done(self, *results):
        return (self.real.CUresult.CUDA_SUCCESS, *results)

    def cuModuleLoadDataEx(self, image, number, options, values):
        text = image.rstrip(b"\0").decode()
        self.versions.append(text.split(".version ", 1)[1].split()[0])
        if self.versions[-1] > "8.7":
            return (self.real.CUresult.CUDA_ERROR_UNSUPPORTED_PTX_VERSION, None)
        return self._done(text.replace(".target sm_90a", ".target sm_100a"))

    def cuModuleUnload(self, module):
        return self._done()

    def cuModuleGetFunction(self, module, name):
        return self._done((module, name.decode()))

    def cuFuncSetAttribute(self, function, attribute, value):
        return self._done()

    def cuMemAlloc(self, size):
        raw = np.full(size + 1024, 0xA5, np.uint8)
        address = -(-raw.ctypes.data // 1024) * 1024
        self.memory[address] = raw[address - raw.ctypes.data :][:size]
        return self._done(address)

    def cuMemFree(self, address):
        del self.memory[address]
        return self._done()

    def cuMemcpyHtoD(self, target, source, size):
        self.memory[target][:size] = np.frombuffer(source, np.uint8)[:size]
        return self._done()

    def cuMemcpyDtoH(self, target, source, size):
        ctypes.memmove(target, source, size)
        return self._done()

    def cuCtxSynchronize(self):
        return self._done()

    def cuTensorMapEncodeTiled(
        self, kind, rank, address, dims, strides, box, steps, interleave, swizzle, promotion, fill
    ):
        assert rank == len(dims) == len(strides) + 1 == len(box) == len(steps)
        found = TensorMap(
            address,
            _name(crosscheck_gpu._DATA_TYPES, kind, "CU_TENSOR_MAP_DATA_TYPE_"),
            *(tuple(map(int, values)) for values in (dims, strides, box)),
            element_strides=tuple(map(int, steps)),
            swizzle=_name(crosscheck_gpu._SWIZZLES, swizzle, "CU_TENSOR_MAP_SWIZZLE_"),
            oob_fill=_name(crosscheck_gpu._FILLS, fill, "CU_TENSOR_MAP_FLOAT_OOB_FILL_"),
        )
        buffer = ctypes.create_string_buffer(found.to_bytes(), 128)
        buffer.getPtr = lambda: ctypes.addressof(buffer)
        return self._done(buffer)

    def cuLaunchKernelEx(self, config, function, pointers, extra):
        text, name = function
        sizes = [v.nbytes for v in ptx_emulator.Program(text).module.entries[name].params]
        array = (ctypes.c_void_p * len(sizes)).from_address(pointers)
        ids = self.real.CUlaunchAttributeID
        given = {attribute.id: attribute.value for attribute in config.attrs} if config.numAttrs else {}
        cluster = given.get(ids.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
        cluster = cluster.clusterDim if cluster else None
        behind = given.get(ids.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION)
        self.dependents += [name] if behind and behind.programmaticStreamSerializationAllowed else []
        ptx_emulator.launch(
            text,
            name,
            grid=(config.gridDimX, config.gridDimY, config.gridDimZ),
            block=(config.blockDimX, config.blockDimY, config.blockDimZ),
            cluster=(cluster.x, cluster.y, cluster.z) if cluster else (1, 1, 1),
            shared_bytes=config.sharedMemBytes,
            params=[ctypes.string_at(p, n) for p, n in zip(array, sizes, strict=True)],
            buffers=list(self.memory.values()),
        )
        return self._done()
