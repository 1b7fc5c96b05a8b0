"""`python -m fleetops.node`: `register` and `run` make this machine a managed node, `host` runs demo nodes."""

import argparse
import asyncio
import contextlib
import ctypes
import json
import logging
import os
import pwd
import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path

import uvloop

from .calls import CallFailed, CallRefused
from .host import NoSandbox, run_host
from .machine import Machine, NotRegistered, default_home, register
from .spec import NodeSpec, Options

REFUSED = 1
NO_SANDBOX = 3  # exit status: no node may run here, and starting this again changes nothing

LOG_LINE = "%(asctime)s %(levelname)-7s %(name)s %(message)s"  # as in the settings of those whose log this goes into
_PR_SET_PDEATHSIG = 1
_KEYCTL_JOIN_SESSION_KEYRING = 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="fleetops node", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    host = commands.add_parser("host", help="run demo nodes; orders come on standard input, a JSON object a line")
    host.add_argument("--endpoint", required=True, help="https://host:port")
    host.add_argument("--ca", required=True, help="the file with the endpoint's certificate authority")
    host.add_argument("--config", help="a JSON file: {nodes: [...], options: {...}}")
    host.add_argument("--die-with-parent", action="store_true", help="end when the process that started this one ends")
    enrol = commands.add_parser("register", help="register this machine with an activation")
    enrol.add_argument("--endpoint", required=True, help="https://host:port")
    enrol.add_argument("--ca", default="", help="the file with the endpoint's certificate authority, if it has its own")
    enrol.add_argument("--region", required=True)
    enrol.add_argument("--id", required=True, help="the activation's id")
    enrol.add_argument("--code", required=True, help="the activation's code")
    run = commands.add_parser("run", help="be a managed node until stopped")
    run.add_argument(
        "--restart-with",
        type=shlex.split,
        default=[],
        metavar="COMMAND",
        help='what restarts this machine if a document asks for it, such as "systemctl reboot"; else such a step fails',
    )
    for verb in (enrol, run):
        verb.add_argument("--home", type=Path, default=default_home(), help="where the registration lies (%(default)s)")
    arguments = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format=LOG_LINE, stream=sys.stderr)
    match arguments.command:
        case "host":
            run_nodes(arguments)
        case "register":
            sys.exit(register_machine(arguments))
        case "run":
            sys.exit(run_machine(arguments))


def run_nodes(arguments: argparse.Namespace) -> None:
    if arguments.die_with_parent:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
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


def register_machine(arguments: argparse.Namespace) -> int:
    try:
        instance_id = uvloop.run(
            register(
                arguments.home,
                endpoint=arguments.endpoint,
                ca_file=arguments.ca,
                region=arguments.region,
                activation_id=arguments.id,
                code=arguments.code,
            )
        )
    except (CallFailed, OSError) as error:
        print(f"Not registered: {refusal_words(error)}", file=sys.stderr)
        return REFUSED
    print(f"Registered as {instance_id}. Its key lies in {arguments.home}. Now: fleetops node run")
    return 0


def run_machine(arguments: argparse.Namespace) -> int:
    try:
        machine = uvloop.run(run_until_stopped(arguments.home, tuple(arguments.restart_with)))
    except NotRegistered as error:
        print(error, file=sys.stderr)
        return REFUSED
    logging.getLogger(__name__).info("node stopped instance=%s", machine)
    return 0


async def run_until_stopped(home: Path, restart_command: tuple[str, ...]) -> str:
    """Run this machine's node until SIGTERM or SIGINT; its id. Raises NotRegistered."""
    machine = Machine(home, options=lambda options: replace(options, restart_command=restart_command))
    user = pwd.getpwuid(os.getuid()).pw_name
    print(
        f"{machine.spec.instance_id} runs. Shells and commands on it are in no sandbox: they run as {user}.",
        flush=True,
    )
    running = asyncio.ensure_future(machine.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    return machine.spec.instance_id


def refusal_words(error: Exception) -> str:
    """An endpoint's own words where it gave any."""
    if isinstance(error, CallRefused):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            answer = json.loads(error.body)
            return f"{str(answer['__type']).rpartition('#')[2]}: {answer.get('message') or answer.get('Message')}"
    return str(error)


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
