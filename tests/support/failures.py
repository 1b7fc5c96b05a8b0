"""A plugin of pytest that writes the ids of the tests that failed into a file, once the run has come to its end."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--list-failures", type=Path, help="the file that takes their ids, one a line")


class Listing:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._failed: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed[report.nodeid] = None

    def pytest_sessionfinish(self) -> None:
        self._file.write_text("".join(f"{each}\n" for each in self._failed))


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--list-failures")
    if file is not None and not hasattr(config, "workerinput"):  # a worker's reports come to who leads the run
        config.pluginmanager.register(Listing(file))
