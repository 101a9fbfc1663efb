"""Times a peer's decode call on tensors from a file. Runs in the peer's own environment: torch and the peer, nothing of ours.

PYTHON scripts/first_light/peer_call.py tokenspeed|flashinfer TENSORS [--device cuda] [--warmup 10] [--repeats 50]

A JSON object on stdout: version, median_us, low_us and high_us (10th and 90th percentile) of calls with cold L2: on a
GPU replays of a captured call. Exit status 3: the peer is not installed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import statistics
import sys
import time

import torch

WORKSPACE_BYTES = FLUSH_BYTES = 256 << 20
NOT_INSTALLED = 3
PACKAGES = {"tokenspeed": "tokenspeed_mla", "flashinfer": "flashinfer"}


def tokenspeed(module, tensors: dict):
    workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.int8, device=tensors["query"].device)
    return lambda: module.tokenspeed_mla_decode(
        query=tensors["query"], kv_cache=tensors["kv_cache"], workspace_buffer=workspace, kv_lora_rank=512,
        qk_rope_head_dim=64, block_tables=tensors["block_tables"], seq_lens=tensors["seq_lens"],
        max_seq_len=tensors["max_seq_len"], softmax_scale=tensors["softmax_scale"], causal_mask=True,
    )  # fmt: skip


def flashinfer(module, tensors: dict):
    workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=tensors["query"].device)
    decode = importlib.import_module("flashinfer.mla").trtllm_batch_decode_with_kv_cache_mla
    return lambda: decode(
        query=tensors["query"], kv_cache=tensors["kv_cache"], workspace_buffer=workspace, qk_nope_head_dim=128,
        kv_lora_rank=512, qk_rope_head_dim=64, block_tables=tensors["block_tables"], seq_lens=tensors["seq_lens"],
        max_seq_len=tensors["max_seq_len"], bmm1_scale=tensors["softmax_scale"], bmm2_scale=1.0,
    )  # fmt: skip


def seconds_on_gpu(run, warmup: int, repeats: int) -> list[float]:
    """Of replays of a captured call, each behind a buffer larger than L2 that is written."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    found = []
    for number in range(warmup + repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if number >= warmup:
            found.append(begin.elapsed_time(end) * 1e-3)
    return found


def seconds_on_host(run, warmup: int, repeats: int) -> list[float]:
    found = []
    for number in range(warmup + repeats):
        began = time.perf_counter()
        run()
        if number >= warmup:
            found.append(time.perf_counter() - began)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=tuple(PACKAGES))
    parser.add_argument("tensors")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    try:
        module = importlib.import_module(PACKAGES[options.peer])
    except ImportError as error:
        print(f"{PACKAGES[options.peer]} is not installed there ({error})")
        return NOT_INSTALLED
    loaded = torch.load(options.tensors, weights_only=True)
    tensors = {name: v.to(options.device) if isinstance(v, torch.Tensor) else v for name, v in loaded.items()}
    run = {"tokenspeed": tokenspeed, "flashinfer": flashinfer}[options.peer](module, tensors)
    timed = seconds_on_gpu if options.device == "cuda" else seconds_on_host
    seconds = timed(run, options.warmup, options.repeats)
    deciles = statistics.quantiles(seconds, n=10, method="inclusive")
    try:
        version = importlib.metadata.version(PACKAGES[options.peer].replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        version = getattr(module, "__version__", "unknown")
    times = {"median_us": statistics.median(seconds), "low_us": deciles[0], "high_us": deciles[-1]}
    print(json.dumps({"version": version, **{name: round(value * 1e6, 2) for name, value in times.items()}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
