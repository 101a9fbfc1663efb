"""A progress bar on stderr: drawn in place on a terminal, a line per finished step elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TextIO

BAR_WIDTH = 24
REDRAW_SECONDS = 0.5


class Progress:
    """Context manager around `total` steps; a background thread keeps the elapsed time moving in long ones."""

    def __init__(self, total: int, stream: TextIO | None = None):
        self.total = total
        self.stream = stream or sys.stderr
        self.done = 0
        self.label = ""
        self.fraction = 0.0
        self.started = self.step_started = time.monotonic()
        self.stop = threading.Event()
        self.in_place = self.stream.isatty()
        self.thread = threading.Thread(target=self._redraw, daemon=True)

    def __enter__(self) -> Progress:
        if self.in_place:
            self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        if self.in_place:
            self.thread.join()
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def begin(self, label: str) -> None:
        """Names what is being done now."""
        self.label, self.fraction, self.step_started = label, 0.0, time.monotonic()

    def advance(self, fraction: float) -> None:
        """How much of the current step is done, 0 to 1."""
        self.fraction = fraction

    def finish(self, text: str) -> None:
        """One of the steps is done; `text` says how it went."""
        self.done += 1
        self.fraction = 0.0
        if not self.in_place:
            print(f"[{self.done}/{self.total}] {text}", file=self.stream, flush=True)

    def line(self) -> str:
        """The bar as it stands."""
        part = min(1.0, (self.done + self.fraction) / max(1, self.total))
        filled = int(part * BAR_WIDTH)
        now = time.monotonic()
        return (
            f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {self.done}/{self.total} {self.label} "
            f"{now - self.step_started:.0f} s (total {now - self.started:.0f} s)"
        )

    def _redraw(self) -> None:
        while not self.stop.wait(REDRAW_SECONDS):
            self.stream.write("\r" + self.line() + "\x1b[K")
            self.stream.flush()
