"""A real endpoint process, in a home of its own, and boto3 clients of it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from fleetops.awsapi.json11 import Codec

from .ends import ends_with_tests

ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 120.0
_session = boto3.Session()  # its loader keeps the service models: a client is then made in milliseconds


@dataclass
class RunningEndpoint:
    """One endpoint process and what it handed over."""

    home: Path
    process: subprocess.Popen[str]
    handover: dict[str, Any]
    log: Path
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    clients: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    @property
    def account(self) -> dict[str, Any]:
        return self.handover["accounts"][0]

    @property
    def staging(self) -> dict[str, Any]:
        """The second account, whose role asks for an external id."""
        return self.handover["accounts"][1]

    @property
    def url(self) -> str:
        return self.handover["endpoint_url"]

    def client(self, service: str, *, region: str = "eu-west-1", user: str = "admin", **keys: Any) -> Any:
        """A boto3 client as `user` ("admin" or "fleetops"), or with the keys given; each call is tried once."""
        name = (self.url, service, region, user, *sorted(keys.items()))
        if name not in self.clients:
            self.clients[name] = self._client(service, region, user, keys)
        return self.clients[name]

    def _client(self, service: str, region: str, user: str, keys: dict[str, Any]) -> Any:
        source = "try_credentials" if user == "admin" else "product_credentials"
        credentials = {
            "aws_access_key_id": self.account[source]["access_key_id"],
            "aws_secret_access_key": self.account[source]["secret_access_key"],
        }
        config = Config(
            inject_host_prefix=False,
            signature_version="s3v4" if service == "s3" else None,
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 1},
            parameter_validation=False,
            read_timeout=30,
        )
        client = _session.client(
            service,
            region_name=region,
            endpoint_url=self.url,
            verify=self.handover["ca_file"],
            config=config,
            **(credentials | keys),
        )
        if service == "ssm":
            client.meta.events.register("after-call.ssm", _check_answer)
        return client

    def staging_client(self, service: str, *, user: str = "admin", region: str = "eu-west-1") -> Any:
        """A client in the second account."""
        pair = self.staging["try_credentials" if user == "admin" else "product_credentials"]
        keys = {f"aws_{name}": pair[name] for name in ("access_key_id", "secret_access_key")}
        return self.client(service, region=region, user=f"staging {user}", **keys)

    def as_role(self, session_name: str = "maria", **parameters: Any) -> dict[str, str]:
        """Keys of FleetOps's own role, assumed as the product does it."""
        answer = self.client("sts", user="fleetops").assume_role(
            RoleArn=self.account["role_arn"], RoleSessionName=session_name, **parameters
        )
        credentials = answer["Credentials"]
        return {
            "aws_access_key_id": credentials["AccessKeyId"],
            "aws_secret_access_key": credentials["SecretAccessKey"],
            "aws_session_token": credentials["SessionToken"],
        }

    def instance_id(self, name: str) -> str:
        """The id of a demo instance by its name."""
        from fleetops.endpoint.seed import ALL_MACHINES

        return next(machine.instance_id for machine in ALL_MACHINES if machine.name == name)

    def child(self, module: str) -> int | None:
        """The pid of a child process that runs `module`; None if there is none."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid and module.encode() in words:
                    return int(entry.name)
        return None

    def kill(self) -> None:
        """Kill -9 the endpoint itself."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait until it has ended. Raises TimeoutExpired, and kills it, if it does not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise

    def start_again(self) -> "RunningEndpoint":
        """A new process on the same home; this object then stands for it."""
        if self.process.stdout is not None:
            self.process.stdout.close()
        again = start_endpoint(self.home, environment=self.environment, arguments=self.arguments)
        self.process, self.handover = again.process, again.handover
        return self


# AWS's own answers break their model too: moments and lengths ("...T16:00:33.283Z", "PT1.5S") do not match its pattern;
# a node without a patch group has an empty one; a page of a group's states holds more than five; the OutputPayload of a
# step is as long as the answer that it holds.
_UNLIKE_THEIR_MODEL = {"StringDateTime", "PatchGroup", "InstancePatchStatesList", "AutomationParameterValue"}


def _check_answer(http_response: Any, model: Any, **_: Any) -> None:
    """An answer of ours is held to botocore's model too: kinds, lengths, patterns, enumerations."""
    if http_response.status_code == 200 and model.output_shape is not None:
        _, failures = Codec().examine(model.output_shape, json.loads(http_response.content))
        told = [str(failure) for failure in failures if failure.shape not in _UNLIKE_THEIR_MODEL]
        assert not told, told


def start_endpoint(
    home: Path, nodes: str = "none", *, environment: dict[str, str] | None = None, arguments: list[str] | None = None
) -> RunningEndpoint:
    """Start an endpoint in `home` on a free port, and wait until it is ready."""
    arguments = arguments if arguments is not None else ["--port", "0", "--nodes", nodes]
    command = ends_with_tests([sys.executable, "-m", "fleetops.endpoint", "--home", home, *arguments])
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("FLEETOPS_", "AWS_", "DJANGO_"))
    }
    home.mkdir(parents=True, exist_ok=True)
    log = home.parent / f"{home.name}.log"
    with log.open("a") as stderr:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            # An answer that does not fit its model is then a 500 that the test sees.
            env=inherited | {"FLEETOPS_ENDPOINT_CHECK_ANSWERS": "fail"} | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    watchdog = threading.Timer(_START_SECONDS, process.kill)
    watchdog.start()
    line = process.stdout.readline()
    watchdog.cancel()
    if not line.startswith("READY "):
        process.kill()
        process.wait()
        process.stdout.close()
        raise AssertionError(f"the endpoint did not start (status {process.returncode}):\n{log.read_text()[-4000:]}")
    handover = json.loads((home / "handover.json").read_text())
    return RunningEndpoint(home, process, handover, log, arguments, environment or {})


@contextlib.contextmanager
def running_endpoint(home: Path, nodes: str = "none", **environment: str) -> Iterator[RunningEndpoint]:
    """An endpoint that ends with the block."""
    endpoint = start_endpoint(home, nodes, environment=environment)
    try:
        yield endpoint
    finally:
        endpoint.stop()
        if endpoint.process.stdout is not None:
            endpoint.process.stdout.close()


def until(condition: Any, *, seconds: float = 15.0, what: str = "") -> Any:
    """What `condition` returns once it is true. AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.05)
    return value
