"""Traces of a modelled launch: JSON for Chrome and Perfetto, and pictures (SVG) of a stretch of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from bench.counts import roles_of
from bench.prediction import config_of, edge_at, timed_launches
from bench.workloads import Workload
from mla.decode import MlaDecode
from ptx_emulator.engine import state
from ptx_emulator.timing import Constants
from ptx_emulator.timing.trace import PORT, TENSOR_CORE, TMA, TRACE_ROWS, Span, chrome_trace, spans_of

COLOURS = {"mma N=128": "#2f6fb0", "mma N=256": "#1b4270", "mma": "#2f6fb0", "load": "#3f9a56", "wait": "#d9b3a8",
           "tmem": "#8a63b8", "store": "#777777"}  # fmt: skip
PIXELS, ROW = 1200, 16


@dataclass(frozen=True)
class Window:
    """Cycles [begin, end) drawn to a file."""

    path: str
    begin: float
    end: float

    @classmethod
    def parse(cls, text: str) -> Window:
        parts = text.rsplit(":", 2)
        if len(parts) != 3 or not parts[0].endswith(".svg"):
            raise ValueError(f"--timeline {text!r}: must be FILE.svg:BEGIN:END, in cycles")
        begin, end = float(parts[1]), float(parts[2])
        if not 0 <= begin < end:
            raise ValueError(f"--timeline {text!r}: BEGIN must be before END")
        return cls(parts[0], begin, end)


def named_spans(description: MlaDecode, trace: np.ndarray) -> list[Span]:
    """Warps by their roles, mbarriers by the edges that they belong to."""
    plan = description.plan
    per_cta = plan.warps.num_warps
    role_of = {warp: role for role, warps in roles_of(plan.warps).items() for warp in warps}
    return spans_of(
        trace,
        lambda warp: f"{role_of[warp % per_cta]} {warp % per_cta}",
        lambda offset: edge_at(plan, offset - state.SHARED_START),
    )


def write(workload: Workload, constants: Constants, path: str, trace: str | None, windows: Sequence[Window]) -> None:
    """The longest of the executed clusters of `workload`."""
    config = config_of(workload, path)
    launches = timed_launches(config, workload, constants, trace_rows=TRACE_ROWS)
    longest = max(launches[0].clusters, key=lambda cluster: cluster.cycles)
    spans = named_spans(MlaDecode(config), longest.trace)
    if trace:
        Path(trace).write_text(json.dumps(chrome_trace(spans, longest.port, constants)))
    title = f"{workload.name}, modelled at {constants['clock']} GHz, cluster {longest.number}"
    for window in windows:
        Path(window.path).write_text(picture(spans, longest.port, window, title))


def picture(spans: Sequence[Span], port: np.ndarray, window: Window, title: str) -> str:
    """An SVG of the first CTA's tracks: what each warp waits for, the tensor core, TMA loads in flight, the port."""
    scale = PIXELS / (window.end - window.begin)
    shown = [s for s in spans if s.cta == 0 and s.end > window.begin and s.begin < window.end]
    warps = sorted(
        {s.track for s in shown} - {TENSOR_CORE, TMA}, key=lambda name: (name.split()[0], int(name.split()[-1]))
    )
    one_each = list({name.split()[0]: name for name in reversed(warps)}.values())[::-1]
    loads = _lanes([s for s in shown if s.track == TMA])
    rows = [TENSOR_CORE, *one_each]
    height = 40 + ROW * (len(rows) + len(loads) + 4) + 30
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{PIXELS + 160}" height="{height}" font-family="sans-serif" '
        f'font-size="10"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="8" y="16" font-size="12">{escape(title)}; cycles {window.begin:.0f} to {window.end:.0f}</text>',
    ]

    def bar(span: Span, y: float) -> None:
        left, right = (max(min(t, window.end), window.begin) - window.begin for t in (span.begin, span.end))
        out.append(
            f'<rect x="{150 + left * scale:.1f}" y="{y:.1f}" width="{max((right - left) * scale, 0.5):.1f}" '
            f'height="{ROW - 3}" fill="{COLOURS.get(span.kind, COLOURS["mma"])}"><title>{escape(span.name)}, '
            f"{span.begin:.0f}..{span.end:.0f}</title></rect>"
        )

    y = 30.0
    for name in rows:
        out.append(f'<text x="8" y="{y + 11:.1f}">{escape(name)}</text>')
        for span in shown:
            if span.track == name:
                bar(span, y)
        y += ROW
    out.append(f'<text x="8" y="{y + 11:.1f}">TMA loads in flight</text>')
    for lane in loads:
        for span in lane:
            bar(span, y)
        y += ROW
    out.append(f'<text x="8" y="{y + 2 * ROW:.1f}">{PORT}, share</text>')
    points = [(t, share) for t, cta, share in port if cta == 0 and window.begin <= t <= window.end]
    path = " ".join(
        f"{150 + (t - window.begin) * scale:.1f},{y + 3 * ROW - share * 2.5 * ROW:.1f}" for t, share in points
    )
    out.append(f'<polyline points="{path}" fill="none" stroke="#b5532a"/>')
    y += 4 * ROW
    for i in range(7):
        t = window.begin + (window.end - window.begin) * i / 6
        out.append(f'<text x="{150 + (t - window.begin) * scale - 12:.1f}" y="{y:.1f}">{t:.0f}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def _lanes(spans: Sequence[Span]) -> list[list[Span]]:
    """The spans in as few rows as hold them without overlap."""
    lanes: list[list[Span]] = []
    for span in sorted(spans, key=lambda s: s.begin):
        lane = next((row for row in lanes if row[-1].end <= span.begin), None)
        if lane is None:
            lane = []
            lanes.append(lane)
        lane.append(span)
    return lanes
