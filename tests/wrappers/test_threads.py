"""Threads that call backend "emulator" at once: some compile, some decode, some run, each gets its own result."""

from __future__ import annotations

import sys
import threading

from mla import compile as mla_compile
from ptx_emulator import Program
from wrappers.decode import mla_decode
from wrappers.testing import assert_matches, make_problem

THREADS = 3


def parse_anew():
    """This test's texts, parsed but not decoded."""
    Program._cache.update({text: Program(text) for text in Program._cache})


def test_threads_that_compile_and_run_at_once(monkeypatch):
    """A round in which all want the same new kernel, one in which each wants its own, one in which all decode the same
    text."""
    monkeypatch.setattr(mla_compile, "_compiled", {})
    monkeypatch.setenv("MLA_COMPILE_CACHE", "off")
    monkeypatch.setattr(Program, "_cache", type(Program._cache)())  # without the texts of the tests before this one
    together, faults = threading.Barrier(THREADS, action=parse_anew), []

    def work(index):
        try:
            for number, tokens in enumerate((1, 1 + index, 1)):
                problem = make_problem(2, 2, tokens, [137, 25 + number], page_size=64, seed=index)
                together.wait(timeout=300)
                result = mla_decode(*problem.tensors, **problem.options, return_lse=True, backend="emulator")
                assert_matches(problem, *result)
        except BaseException as error:
            faults.append(repr(error))
            together.abort()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=work, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    assert faults == []
