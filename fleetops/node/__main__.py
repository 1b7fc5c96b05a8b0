"""`python -m fleetops.node host`: run demo nodes against an endpoint."""

import argparse
import ctypes
import json
import logging
import signal
import sys
from pathlib import Path

import uvloop

from .host import run_host
from .spec import NodeSpec, Options

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fleetops.node")
    commands = parser.add_subparsers(dest="command", required=True)
    host = commands.add_parser("host", help="run nodes; orders come on standard input, a JSON object a line")
    host.add_argument("--endpoint", required=True, help="https://host:port")
    host.add_argument("--ca", required=True, help="the file with the endpoint's certificate authority")
    host.add_argument("--config", help="a JSON file: {nodes: [...], options: {...}}")
    host.add_argument("--die-with-parent", action="store_true", help="end when the process that started this one ends")
    arguments = parser.parse_args()

    if arguments.die_with_parent:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    config = json.loads(Path(arguments.config).read_text()) if arguments.config else {}
    options = Options(arguments.endpoint, arguments.ca, **_tuples(config.get("options", {})))
    specs = [NodeSpec.from_json(spec) for spec in config.get("nodes", [])]
    set_signals()
    uvloop.run(run_host(options, specs))


def set_signals() -> None:
    """Leave a Ctrl-C on our own group to whoever started us, and no signal ignored: a shell would inherit that."""
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, lambda *_: None)


def _tuples(options: dict) -> dict:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


if __name__ == "__main__":
    main()
