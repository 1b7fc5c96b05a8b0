"""`python -m fleetops.node host`: run demo nodes against an endpoint."""

import argparse
import ctypes
import json
import logging
import os
import signal
import sys
from pathlib import Path

import uvloop

from .host import NoSandbox, run_host
from .spec import NodeSpec, Options

NO_SANDBOX = 3  # exit status: no node may run here, and starting this again changes nothing

LOG_LINE = "%(asctime)s %(levelname)-7s %(name)s %(message)s"  # as in the settings of those whose log this goes into
_PR_SET_PDEATHSIG = 1
_KEYCTL_JOIN_SESSION_KEYRING = 1


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
    logging.basicConfig(level=logging.INFO, format=LOG_LINE, stream=sys.stderr)
    config = json.loads(Path(arguments.config).read_text()) if arguments.config else {}
    options = Options(arguments.endpoint, arguments.ca, **_tuples(config.get("options", {})))
    specs = [NodeSpec.from_json(spec) for spec in config.get("nodes", [])]
    set_signals()
    leave_keyring()
    try:
        uvloop.run(run_host(options, specs))
    except NoSandbox as error:
        print(error, file=sys.stderr)
        sys.exit(NO_SANDBOX)


def leave_keyring() -> None:
    """Join a new, empty session keyring: a shell has the keys of whoever started it, whatever its id."""
    number = {"x86_64": 250, "aarch64": 219}.get(
        os.uname().machine
    )  # keyctl(2), for which the C library has no function
    if number is not None:
        ctypes.CDLL(None).syscall(number, _KEYCTL_JOIN_SESSION_KEYRING, None)


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
