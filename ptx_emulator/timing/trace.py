"""Traces of a timed cluster: bars on tracks (warps, tensor core, TMA), and Chrome's format, which Perfetto reads too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from . import tables as tb
from .constants import Constants

TRACE_ROWS = 1 << 20
TENSOR_CORE, TMA, PORT = "tensor core", "TMA", "shared-memory port"


@dataclass(frozen=True)
class Span:
    """One bar: cycles [begin, end) on a track of a CTA."""

    cta: int
    track: str
    name: str
    kind: str
    begin: float
    end: float


def spans_of(
    trace: np.ndarray, warp_name: Callable[[int], str] = "warp {}".format, barrier_name: Callable[[int], str] = hex
) -> list[Span]:
    """Bars of a CtaTiming's trace. warp_name: of a warp's number in the cluster; barrier_name: of an mbarrier's offset in
    shared memory."""
    spans = []
    for begin, end, cta, track, kind, detail in trace:
        warp = int(track)
        name = warp_name(warp) if warp >= 0 else {-1: TENSOR_CORE, -2: TMA}[warp]
        if kind == tb.TRACE_MMA:
            label, sort = f"N={detail:.0f}", f"mma N={detail:.0f}"
        elif kind == tb.TRACE_TMA:
            label, sort = f"{detail:.0f} B", "load"
        elif kind == tb.TRACE_STORE:
            label, sort = f"store {detail:.0f} B", "store"
        elif kind == tb.TRACE_TMEM:
            label, sort = f"tmem x{detail:.0f}", "tmem"
        elif kind == tb.TRACE_CODE:
            label, sort = "waits: code", "wait"
        else:
            label, sort = f"waits: {barrier_name(int(detail) * 8)}", "wait"
        spans.append(Span(int(cta), name, label, sort, float(begin), float(end)))
    return spans


def chrome_trace(spans: Sequence[Span], port: np.ndarray, constants: Constants) -> dict:
    """Chrome's trace event format; times in microseconds. Loads overlap, so they are asynchronous events."""
    us = constants.microseconds
    tracks = sorted({(span.cta, span.track) for span in spans})
    numbers = {track: i + 1 for i, track in enumerate(tracks)}
    events: list[dict] = [
        {"ph": "M", "pid": cta, "tid": numbers[cta, name], "name": "thread_name", "args": {"name": name}}
        for cta, name in tracks
    ]
    for i, span in enumerate(spans):
        common = {"pid": span.cta, "tid": numbers[span.cta, span.track], "name": span.name, "cat": span.kind}
        if span.track == TMA:
            events.append({**common, "ph": "b", "id": i, "ts": us(span.begin)})
            events.append({**common, "ph": "e", "id": i, "ts": us(span.end)})
        else:
            events.append({**common, "ph": "X", "ts": us(span.begin), "dur": us(span.end - span.begin)})
    for when, cta, share in port:
        events.append({"ph": "C", "pid": int(cta), "name": PORT, "ts": us(when), "args": {"share": round(share, 3)}})
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": {"modelled": True}}
