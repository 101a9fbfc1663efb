"""A stand-in for the CUDA driver, for machines without one."""

from __future__ import annotations

import ctypes
import functools

import numpy as np

import ptx_emulator
from ptx_emulator.units.tma.tensormap import TensorMap
from scripts import crosscheck_gpu


def _name(names, value, prefix):
    return next(name for name, suffix in names.items() if value.name == prefix + suffix)


class HostDriver:
    """Memory is the host's, kernels run in the emulator. What the caller hands over (launch configurations, pointers to
    parameters, arguments of tensor maps) is read as the driver would read it; types and constants are the `real` ones.
    Knows PTX up to version 8.7. Between two events 0.25 ms pass, and 1 ms for each kernel of a graph."""

    def __init__(self, real):
        self.real, self.memory, self.versions, self.dependents = real, {}, [], []
        self.flushed, self.captured, self.ran = 0, None, 0

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

    def cuMemsetD8(self, target, value, size):
        self.memory[target][:size] = value
        self.flushed += size
        return self._done()

    def cuDeviceGetAttribute(self, attribute, device):
        assert attribute.name.endswith("MULTIPROCESSOR_COUNT")
        return self._done(148)

    def cuStreamCreate(self, flags):
        return self._done(self.real.CUstream(7))

    def cuStreamBeginCapture(self, stream, mode):
        self.captured = []
        return self._done()

    def cuStreamEndCapture(self, stream):
        graph, self.captured = self.captured, None
        return self._done(graph)

    def cuGraphInstantiate(self, graph, flags):
        return self._done(graph)

    def cuGraphLaunch(self, graph, stream):
        for launch in graph:
            launch()
        self.ran += len(graph)
        return self._done()

    def cuEventCreate(self, flags):
        return self._done([0])

    def cuEventRecord(self, event, stream):
        event[0] = self.ran
        return self._done()

    def cuEventSynchronize(self, event):
        return self._done()

    def cuEventElapsedTime(self, begin, end):
        return self._done(0.25 + end[0] - begin[0])

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
        run = functools.partial(
            ptx_emulator.launch,
            text,
            name,
            grid=(config.gridDimX, config.gridDimY, config.gridDimZ),
            block=(config.blockDimX, config.blockDimY, config.blockDimZ),
            cluster=(cluster.x, cluster.y, cluster.z) if cluster else (1, 1, 1),
            shared_bytes=config.sharedMemBytes,
            params=[ctypes.string_at(p, n) for p, n in zip(array, sizes, strict=True)],
            buffers=list(self.memory.values()),
        )
        if self.captured is None:
            run()
        else:
            assert int(config.hStream) == 7
            self.captured.append(run)
        return self._done()
