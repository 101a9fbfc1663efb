"""Elementwise reductions against numpy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptx_emulator.units.tma.reduction import REDUCTION_TYPES, check_type, reduce

NUMPY = {
    "u32": "u4",
    "s32": "i4",
    "u64": "u8",
    "s64": "i8",
    "b32": "u4",
    "b64": "u8",
    "f16": "f2",
    "f32": "f4",
    "f64": "f8",
}
FUNCTIONS = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
             "xor": np.bitwise_xor}  # fmt: skip
CASES = [(reduction, name) for reduction, names in REDUCTION_TYPES.items() for name in names if name != "bf16"]


@pytest.mark.parametrize("reduction,name", CASES)
def test_against_numpy(reduction, name):
    rng = np.random.default_rng(1)
    kind = np.dtype(NUMPY[name])
    if kind.kind == "f":
        a, b = (rng.standard_normal(64).astype(kind) for _ in range(2))
    else:
        a, b = (rng.integers(0, 256, 64 * kind.itemsize, dtype=np.uint8).view(kind) for _ in range(2))
    expected = FUNCTIONS[reduction](a, b)
    assert (expected != a).any() and (expected != b).any()
    np.testing.assert_array_equal(reduce(a.view(np.uint8), b.view(np.uint8), reduction, name).view(kind), expected)


@pytest.mark.parametrize("reduction", ["add", "min", "max"])
def test_bf16_against_torch(reduction):
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(4096, generator=generator, dtype=torch.float32) for _ in range(2))
    a, b = a.to(torch.bfloat16), (b * 0.01).to(torch.bfloat16)
    expected = {"add": torch.add, "min": torch.minimum, "max": torch.maximum}[reduction](a, b)
    bits = [x.view(torch.int16).numpy().view(np.uint8) for x in (a, b, expected)]
    np.testing.assert_array_equal(reduce(bits[0], bits[1], reduction, "bf16"), bits[2])


def test_f32_flushes_subnormals():
    """PTX ISA 9.7.9.25.4.2: inputs and results, to a zero of the same sign."""
    tiny = np.float32(2.0**-127)
    a = np.array([tiny, -tiny, 2.0**-126, 1.0], np.float32)
    b = np.array([tiny, -tiny, -(2.0**-126) - tiny, tiny], np.float32)
    result = reduce(a.view(np.uint8), b.view(np.uint8), "add", "f32").view(np.uint32)
    np.testing.assert_array_equal(result, [0, 0x80000000, 0x80000000, 0x3F800000])


def test_types_that_cannot_be_reduced_so():
    check_type("and", "u32")
    for reduction, name in (("and", "f32"), ("add", "s64"), ("min", "f32"), ("xor", "s32"), ("add", "u8")):
        with pytest.raises(ValueError, match=f"reduction .{reduction} of {name}"):
            check_type(reduction, name)
