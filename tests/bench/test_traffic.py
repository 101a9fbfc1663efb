"""What the units of a decode call read of HBM."""

from dataclasses import replace

import pytest

from bench import traffic
from bench.counts import work_items
from bench.prediction import config_of
from bench.workloads import Workload
from wrappers.kernel import EMULATED_CTAS


def of(workload):
    return traffic.traffic_of(config_of(workload), workload)


def test_every_key_is_counted_once_where_a_request_has_one_row_tile():
    found = of(Workload.uniform("fp8", 16, 4, 81920, 1))
    assert found.first_reads == 1.0
    assert sum(found.hbm_bytes) == 81920 * 576
    tiles = sorted({amount / (128 * 576) for amount in found.hbm_bytes})
    assert tiles == [4, 5] and len(found.hbm_bytes) == EMULATED_CTAS


@pytest.mark.parametrize("batch, kv_len, most", [(1, 1000, 0.5), (32, 8192, 0.6)])
def test_row_tiles_of_a_request_share_its_keys(batch, kv_len, most):
    """The second row tile of 128 rows runs beside the first, or follows it by a few tiles in another unit; some units
    begin with the second, long before the first comes by."""
    found = of(Workload.uniform("fp8", 128, 2, kv_len, batch))
    assert 0.5 <= found.first_reads <= most
    assert sum(found.hbm_bytes) == pytest.approx(2 * found.first_reads * batch * kv_len * 576, rel=0.02)


def test_what_l2_has_dropped_is_read_again(monkeypatch):
    workload = Workload.uniform("fp8", 128, 2, 8192, 32)
    monkeypatch.setattr(traffic, "L2_BYTES", 1e6)
    assert of(workload).first_reads == 1.0


def test_order_of_reads():
    """Units in step, each through its items in order."""
    config = config_of(Workload.uniform("fp8", 128, 1, 512, 1))
    item = work_items(config, [512], EMULATED_CTAS)[0]
    two_tiles = replace(item.phases, begin=0, end=2)
    items = [replace(item, unit=0, phases=two_tiles), replace(item, unit=1, batch=5, phases=two_tiles)]
    items.append(replace(item, unit=0, batch=7, phases=two_tiles))
    assert list(traffic._in_step(items)) == [(0, 0), (5, 0), (0, 1), (5, 1), (7, 0), (7, 1)]
    assert traffic.first_reads([], 1) == 1.0
