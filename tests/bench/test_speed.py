"""What the kernels must keep of their speed, in the model (ptx_emulator/timing). Nothing here is measured."""

from __future__ import annotations

from unittest import mock

import pytest

from bench import prediction
from bench.prediction import Prediction, predict
from bench.workloads import Workload
from mla import reduction
from mla.compile import compile_kernel
from mla.decode import MlaDecode
from ptx_emulator.timing import Constants

# An infinitely fast tensor core, or nearly.
NO_TENSOR_CORE_TIME = {
    "mma_macs": 1e9, "ws_floor": 0.1, "ws_column": 1e-3, "mma_floor": 0.1, "mma_latency": 0.1, "mma_latency_shared": 0.1,
    "mma_latency_pair": 0.1, "mma_start": 0.1,
}  # fmt: skip
# Of a call, the hand-over between the kernels included, and half a microsecond in which it waits for its code.
MERGE_US, MERGE_SHARE = 2.5, 0.25


def hbm_share(**changes: float) -> float:
    """Of HBM's rate, what decode reads with in steady state: two calls of different batch, their ramps taken off."""
    few, many = (predict(Workload.uniform("fp8", 16, 4, 40960, batch), Constants.of(**changes)) for batch in (4, 8))
    return (many.hbm - few.hbm) / (many.decode - few.decode)


def test_loads_run_ahead_of_the_tensor_core():
    """However fast it is, HBM stays busy; not so if a load takes longer than the ring covers."""
    assert hbm_share(**NO_TENSOR_CORE_TIME) > 0.9
    late = {f"tma_{size}": 12000.0 for size in ("512", "4k", "8k", "16k", "32k")}
    assert hbm_share(**NO_TENSOR_CORE_TIME, **late) < 0.9


def of_parts(parts: int) -> Prediction:
    """A call of one row tile with a key tile for each of `parts` CTAs."""
    return predict(Workload.uniform("fp8", 16, 4, 128 * parts, 1), Constants.of())


@pytest.mark.parametrize("parts", [1, 3, 4, 5, 9, 17, 37, 74, 148])
def test_the_merge_takes_little_whatever_it_merges(parts):
    found = of_parts(parts)
    assert found.merge < MERGE_US and found.merge < MERGE_SHARE * found.total


def test_a_merge_by_one_warp_a_row_would_take_long():
    with (
        mock.patch.object(reduction, "FEW_PARTS", 1000),
        mock.patch.object(prediction, "compile_decode", lambda config: compile_kernel(MlaDecode(config))),
    ):
        assert of_parts(148).merge > 2 * MERGE_US
