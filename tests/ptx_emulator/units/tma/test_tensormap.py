"""Tensor maps: the record, and boxes copied in tiled mode, against element-by-element Python."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator.units.tma.tensormap import ELEMENT_BYTES, SWIZZLES, TensorMap, box_extent, copy_box, padded

from ...models import expected_box


def load(data, tensor, coordinates, start, size):
    shared = np.full(size, 0xFF, np.uint8)
    swizzle = SWIZZLES[tensor.swizzle]
    low, high = box_extent(padded(coordinates), tensor.table)
    window = data[tensor.address + low : tensor.address + high]
    copy_box(
        window,
        -low,
        shared,
        start,
        padded(coordinates),
        tensor.table,
        swizzle.bits,
        swizzle.source,
        swizzle.target,
        tensor.fill,
        False,
    )
    return shared


CASES = [
    (TensorMap(0, "u8", (100,), (), (64,)), [(0,), (36,), (37,), (-7,), (99,), (100,), (-64,)]),
    (TensorMap(16, "bf16", (64, 20), (160,), (64, 8), swizzle="128B"), [(0, 0), (0, 15), (0, -3), (8, 2), (-8, 19)]),
    (TensorMap(0, "f16", (40, 9), (96,), (32, 5), swizzle="64B"), [(0, 0), (3, 1), (8, 6), (-9, -2), (40, 0)]),
    (TensorMap(0, "f32", (8, 5, 3), (32, 160), (8, 2, 2), swizzle="32B"), [(0, 0, 0), (1, 4, 2), (-3, -1, 1)]),
    (TensorMap(0, "f16", (48, 6, 5), (96, 576), (8, 4, 3), (1, 2, 3), oob_fill="nan"), [(0, 0, 0), (44, 1, 3)]),
    (TensorMap(32, "f32", (4, 3, 2, 3), (16, 64, 128), (4, 2, 2, 2)), [(0, 0, 0, 0), (2, 2, 1, -1), (0, 1, 1, 2)]),
    (TensorMap(0, "u64", (2, 3, 2, 2, 3), (16, 48, 96, 192), (2, 2, 2, 1, 2)), [(0, 0, 0, 0, 0), (1, 2, 1, 1, 2)]),
    (TensorMap(0, "bf16", (64, 4), (0,), (64, 4), swizzle="128B"), [(0, 0)]),
]


@pytest.mark.parametrize("tensor,places", CASES)
@pytest.mark.parametrize("start", [0x400, 0x480, 0x780])
def test_box(tensor, places, start):
    data = np.random.default_rng(0).integers(0, 256, 4096, dtype=np.uint8)
    for coordinates in places:
        expected = expected_box(data[tensor.address :], tensor, coordinates, start, 0x2000)
        np.testing.assert_array_equal(load(data, tensor, coordinates, start, 0x2000), expected)


def test_the_swizzle_cases_can_fail():
    """Every other swizzle gives another picture of the same box."""
    data = np.random.default_rng(1).integers(0, 256, 4096, dtype=np.uint8)
    pictures = []
    for swizzle, inner in (("128B", 64), ("64B", 32), ("32B", 16), ("none", 64)):
        tensor = TensorMap(0, "bf16", (64, 8), (128,), (inner, 8), swizzle=swizzle)
        pictures.append(load(data, tensor, (0, 0), 0x400, 0x1000)[0x400 : 0x480 + 128 * 7].tobytes())
    assert len(set(pictures)) == 4


def test_store_is_the_inverse_within_bounds():
    rng = np.random.default_rng(2)
    tensor = TensorMap(0, "bf16", (70, 9), (160,), (64, 4), swizzle="128B")
    data = rng.integers(0, 256, 160 * 9, dtype=np.uint8)
    for coordinates in ((0, 0), (8, 7), (64, 8), (-4, -2)):
        shared = load(data, tensor, coordinates, 0x400, 0x2000)
        low, high = box_extent(padded(coordinates), tensor.table)
        stored = np.full(data.size, 0xFF, np.uint8)
        copy_box(stored[low:high], -low, shared, 0x400, padded(coordinates), tensor.table, 3, 7, 4, tensor.fill, True)
        touched = np.zeros((9, 160), bool)
        rows, columns = max(coordinates[1], 0), max(coordinates[0], 0)
        touched[rows : coordinates[1] + 4, columns * 2 : min(coordinates[0] + 64, 70) * 2] = True
        np.testing.assert_array_equal(stored, np.where(touched.ravel(), data, 0xFF))


def test_large_coordinates_do_not_wrap():
    """A tensor of more than 2**31 elements; only the extent is computed, nothing is read."""
    tensor = TensorMap(0, "bf16", (576, 1 << 23), (1152,), (64, 64), swizzle="128B")
    low, high = box_extent(padded((512, (1 << 23) - 64)), tensor.table)
    assert low == ((1 << 23) - 64) * 1152 + 1024
    assert high == (1 << 23) * 1152


def test_record_round_trip():
    for tensor, _ in CASES:
        record = tensor.to_bytes()
        assert len(record) == 128
        assert TensorMap.from_bytes(record) == tensor
    with pytest.raises(ValueError, match="not a tensor map"):
        TensorMap.from_bytes(bytes(128))


GOOD = dict(address=0, element_type="bf16", dims=(64, 8), strides=(128,), box=(64, 8), swizzle="128B")


@pytest.mark.parametrize(
    "change,named",
    [
        (dict(address=8), "address"),
        (dict(strides=(136,)), "strides"),
        (dict(strides=()), "strides"),
        (dict(box=(128, 8)), "swizzle"),
        (dict(box=(32, 8)), "not documented"),
        (dict(box=(60, 8)), "multiple of 16"),
        (dict(box=(64, 257)), "box"),
        (dict(dims=(0, 8)), "dims"),
        (dict(dims=(1,) * 6), "rank"),
        (dict(element_strides=(2, 1)), "element_strides"),
        (dict(element_strides=(1, 9)), "element_strides"),
        (dict(element_type="f8"), "element_type"),
        (dict(swizzle="96B"), "swizzle"),
        (dict(oob_fill="one"), "oob_fill"),
        (dict(element_type="u16", oob_fill="nan"), "floating-point"),
        (dict(element_type="b4x16", dims=(63, 8)), "multiples of 2"),
        (dict(element_type="b4x16", oob_fill="nan"), "floating-point"),
        (dict(element_type="b4x16_p64", dims=(128, 8)), "box.0.=128"),
        (dict(element_type="b6x16_p32", dims=(192, 8), box=(128, 8)), "multiples of 128"),
        (dict(element_type="b6x16_p32", dims=(128, 8), box=(128, 8), address=16), "32-byte aligned"),
    ],
)
def test_invalid_maps_are_refused(change, named):
    TensorMap(**GOOD)
    with pytest.raises(ValueError, match=named):
        TensorMap(**GOOD | change)


def test_element_sizes():
    assert ELEMENT_BYTES == {
        "u8": 1,
        "u16": 2,
        "u32": 4,
        "s32": 4,
        "u64": 8,
        "s64": 8,
        "f16": 2,
        "f32": 4,
        "f64": 8,
        "bf16": 2,
        "tf32": 4,
        "b4x16": 1,
        "b4x16_p64": 8,
        "b6x16_p32": 12,
    }
