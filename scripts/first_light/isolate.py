"""Runs a function in a process of its own with a time limit: what hangs or dies there ends nothing else."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["scripts.first_light.replay"])
_SECONDS_TO_DIE = 5


class Crashed(RuntimeError):
    """The function did not return; the message says in one line what happened instead."""


def isolated(function: Callable[..., Any], *arguments: Any, limit: float) -> Any:
    """What function(*arguments) returns there. `limit`: seconds. Raises Crashed. Function and arguments are pickled."""
    receive, send = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_child, args=(send, function, arguments), daemon=True)
    process.start()
    send.close()
    try:
        if not receive.poll(limit):
            raise Crashed(f"no answer within {limit:g} s")
        try:
            is_done, answer = receive.recv()
        except EOFError:
            process.join(_SECONDS_TO_DIE)
            raise Crashed(f"the process died ({_how(process.exitcode)})") from None
        if not is_done:
            raise Crashed(answer)
        return answer
    finally:
        receive.close()
        process.kill()
        process.join(_SECONDS_TO_DIE)


def _how(status: int | None) -> str:
    if status is None:
        return "it does not end"
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _child(send: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which then ends this process
    try:
        answer = (True, function(*arguments))
    except BaseException as error:
        answer = (False, f"{type(error).__name__}: {' '.join(line.strip() for line in str(error).splitlines()[:2])}")
    send.send(answer)
    send.close()
