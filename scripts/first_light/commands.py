"""Runs a command with a time limit. Ctrl-C is the caller's: the command is then asked to end and may write its rows."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

_SECONDS_TO_END = 15


@dataclass(frozen=True)
class Ended:
    """status: the exit status, None after Ctrl-C. output: all of stdout. about: a line on how it ended."""

    status: int | None
    output: str
    about: str


def run(command: Sequence[str], limit: float) -> Ended:
    """The command in a process group of its own, `limit` seconds at most. Its stderr, where progress is, is shown."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        output, _ = child.communicate(timeout=limit)
        last = next((line for line in reversed(output.splitlines()) if line.strip()), "no output")
        return Ended(child.returncode, output, f"exit status {child.returncode}: {last}")
    except subprocess.TimeoutExpired:
        _end(child)
        return Ended(-signal.SIGKILL, "", f"no answer within {limit:g} s")
    except KeyboardInterrupt:
        _end(child)
        return Ended(None, "", "Ctrl-C")


def _end(child: subprocess.Popen) -> None:
    child.send_signal(signal.SIGINT)
    try:
        child.communicate(timeout=_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        child.kill()
