"""A pytest plugin (-p scripts.first_light.pytest_json): what came of the tests, to the JSON file of --json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_found: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--json", metavar="FILE", help="write the tests that passed, failed and were skipped there")


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" or report.outcome != "passed":
        about = f": {report.longrepr[2]}" if report.skipped and isinstance(report.longrepr, tuple) else ""
        _found[report.outcome].append(report.nodeid + about)


def pytest_unconfigure(config: Any) -> None:
    if config.getoption("--json"):
        Path(config.getoption("--json")).write_text(json.dumps(_found))
