from __future__ import annotations

import pytest
import torch

from bench import decode
from bench.workloads import Workload

SMALL = ["--batch", "2", "--num-heads", "4", "--seq-len-q", "2", "--kv-len", "100"]


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert decode.main(SMALL) == 0
    assert capsys.readouterr().out == "skipped: no CUDA GPU\n"


def test_on_another_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert decode.skip_reason("cute") == "GPU of compute capability 9.0: the kernel needs 10.0, 10.3 or 10.7"
    assert decode.skip_reason("torch") is None


def test_median_and_spread():
    timing = decode.summarise([float(n) for n in (9, 1, 5, 3, 7, 2, 4, 6, 8, 0, 10)])
    assert (timing.low, timing.median, timing.high) == (1.0, 5.0, 9.0)
    assert decode.summarise([1.0, 1.0, 1.0, 1.0, 1e6]).median == 1.0


def test_wrong_arguments(capsys):
    with pytest.raises(SystemExit):
        decode.main(["--repeats", "1"])
    assert "--repeats: '1': must be an integer of 2.." in capsys.readouterr().err


@pytest.mark.device
def test_on_the_gpu():
    timings = decode.bench(Workload.uniform("bf16", 4, 2, 100, 2), "cute", warmup=2, repeats=5)
    assert set(timings) == {"events", "graph"}
    assert all(0 < timing.median < 1 for timing in timings.values())
