from __future__ import annotations

import io
import time

from ptx_emulator.tool.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_one_line_per_step():
    stream = io.StringIO()
    with Progress(2, stream) as progress:
        progress.begin("first")
        progress.finish("first: good")
        progress.finish("second: bad")
    assert stream.getvalue() == "[1/2] first: good\n[2/2] second: bad\n"


def test_the_bar_counts_steps_and_their_parts():
    progress = Progress(4, io.StringIO())
    progress.begin("emulate")
    progress.finish("")
    progress.begin("emulate")
    progress.advance(0.5)
    bar = progress.line()
    assert bar.count("#") == 24 * 1.5 // 4 and "1/4 emulate 0 s" in bar


def test_a_terminal_sees_it_move_and_finds_it_gone(monkeypatch):
    monkeypatch.setattr("ptx_emulator.tool.progress.REDRAW_SECONDS", 0.01)
    stream = Terminal()
    with Progress(1, stream) as progress:
        progress.begin("emulate")
        deadline = time.monotonic() + 10
        while stream.getvalue().count("emulate") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert stream.getvalue().endswith("\r\x1b[K")
    assert "\n" not in stream.getvalue()
