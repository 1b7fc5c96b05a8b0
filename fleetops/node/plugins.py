"""What a node does in a step of a command document: one function for each plugin that it has.

Each takes the step's inputs, does its work, and says in its `Output` how it went; words are the real agent's where it
has any. Source: amazon-ssm-agent, agent/plugins; Systems Manager user guide, "Command document plugin reference".
"""

import asyncio
import base64
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from fleetops import clock
from fleetops.documents import InvalidDocument
from fleetops.documents import command as command_document

from .calls import CallFailed, Endpoint
from .output import MOST_STDERR, MOST_STDOUT, Output, prefix
from .sandbox import Place, StartFailed
from .script import run_program, script_argv, write_script
from .spec import Directory, NodeSpec

logger = logging.getLogger(__name__)

REBOOT_CODE: Final = 194  # a script asks for a restart, and is run again after it
TIMEOUT_SECONDS: Final = (5, 172_800)  # of a script; outside of it the default holds. pluginutil.go
DEEPEST: Final = 3  # of documents that run documents. rundocument.go
SMALL_SECONDS: Final = 60.0  # for the node's own small programs
MAX_DOWNLOAD: Final = 64 * 1024 * 1024  # bytes of one object
MAX_DOCUMENT: Final = 64 * 1024  # bytes
SIMULATED: Final = "#!/bin/sh"  # the first line of what a demo node that simulates Windows runs
NO_POWERSHELL: Final = (
    "This demo node simulates a Windows node for AWS-RunPatchBaseline. It has no PowerShell, and runs nothing else."
)
INVENTORY_DONE: Final = (
    "Inventory policy has been successfully applied and collected inventory data has been uploaded to SSM"
)


@dataclass(frozen=True, slots=True)
class Run:
    """What the steps of one command share, and one step's own directory."""

    place: Place
    endpoint: Endpoint
    command_id: str
    directory: Path  # of this step, ours alone
    inside: str  # the command's directory as the node's programs see it
    cancelled: asyncio.Event
    on_start: Callable[[int], None]
    depth: int = 1

    @property
    def downloads(self) -> str:
        return f"{self.inside}/downloads"

    async def small(self, script: str, *arguments: str, stdin: Path | None = None) -> tuple[int, bytes, bytes]:
        """Run a few lines of shell on the node: exit code, output, errors. Raises StartFailed."""
        files = [self.directory / f".small-{name}" for name in ("out", "err")]
        for file in files:
            file.write_bytes(b"")
        ending = await run_program(
            self.place,
            ["/bin/sh", "-c", script, "sh", *arguments],
            stdin=stdin,
            stdout=files[0],
            stderr=files[1],
            seconds=SMALL_SECONDS,
            cancelled=self.cancelled,
            on_start=self.on_start,
        )
        return ending.code, files[0].read_bytes(), files[1].read_bytes()


Plugin = Callable[[Run, str, Mapping[str, Any], Output], Awaitable[None]]


async def run_shell_script(run: Run, name: str, inputs: Mapping[str, Any], output: Output) -> None:
    """aws:runShellScript."""
    lines = _lines(inputs.get("runCommand"))
    given = inputs.get("environment") or {}
    if lines is None or not isinstance(given, Mapping):
        output.fail(f"Invalid format in plugin properties {inputs}")
        return
    spec = run.place.spec
    environment = {str(key): str(value) for key, value in given.items()} | {
        "AWS_SSM_INSTANCE_ID": spec.instance_id,
        "AWS_SSM_REGION_NAME": spec.region,
        "AWS_SSM_PLATFORM_NAME": spec.platform_name,
        "AWS_SSM_PLATFORM_VERSION": spec.platform_version,
        "SSM_COMMAND_ID": run.command_id,
    }
    if run.place.launcher.kind != "machine":
        # By this a script that installs packages knows that the machine is not its own: it takes the node's lists.
        environment |= {
            "SSM_DEMO_VAR": run.place.var,
            "SSM_DEMO_BOOT": str(Directory(spec.home).boot),
        }
    wanted = str(inputs.get("workingDirectory") or "")
    if wanted and not wanted.startswith("/"):
        below = f"{run.downloads}/{wanted}"
        wanted = below if (await run.small('test -d "$1"', below))[0] == 0 else ""
    script = run.directory / "script"
    size = write_script(script, lines, environment)
    ending = await run_program(
        run.place,
        script_argv(f"{run.inside}/awsrunShellScript/{name}", wanted, size, run.inside.rpartition("/")[0]),
        stdin=script,
        stdout=output.stdout,
        stderr=output.stderr,
        seconds=_seconds(inputs.get("timeoutSeconds")),
        cancelled=run.cancelled,
        on_start=run.on_start,
    )
    output.code = ending.code
    if ending.way == "timed out":
        output.status = "TimedOut"
    elif ending.way == "cancelled":
        output.status = "Cancelled"
    elif ending.code == REBOOT_CODE:
        output.status = "SuccessAndReboot"
    elif ending.code:
        output.fail(f"failed to run commands: exit status {ending.code}")


async def run_powershell_script(run: Run, name: str, inputs: Mapping[str, Any], output: Output) -> None:
    """aws:runPowerShellScript on a demo node that simulates Windows: what the endpoint has written for such nodes."""
    lines = _lines(inputs.get("runCommand")) or [""]
    if lines[0] == SIMULATED:
        await run_shell_script(run, name, inputs, output)
    else:
        output.fail(NO_POWERSHELL)


def plugins_of(spec: NodeSpec) -> frozenset[str]:
    """The plugins that a node has; where there is no PowerShell its plugin is not supported."""
    return frozenset(PLUGINS) if spec.platform_type == "Windows" else frozenset(PLUGINS) - {"aws:runPowerShellScript"}


def _lines(value: Any) -> list[str] | None:
    """A script as a text or as a list of lines, however deep; None for anything else. pluginutil.go, ParseRunCommand"""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        return None
    lines: list[str] = []
    for item in value:
        lines += _lines(item) or []
    return lines


def _seconds(value: Any) -> float:
    """How long a script may run. pluginutil.go, ValidateExecutionTimeout"""
    try:
        seconds = int(float(value))
    except (TypeError, ValueError, OverflowError):
        seconds = 0
    least, most = TIMEOUT_SECONDS
    return seconds if least <= seconds <= most else command_document.DEFAULT_TIMEOUT_SECONDS


async def update_agent(run: Run, name: str, inputs: Mapping[str, Any], output: Output) -> None:
    """aws:updateSsmAgent. This agent is a part of FleetOps and is updated with it."""
    version = run.place.spec.agent_version
    output.say(f"amazon-ssm-agent {version} has already been installed, update skipped\n")


async def configure_package(run: Run, name: str, inputs: Mapping[str, Any], output: Output) -> None:
    """aws:configurePackage. Nothing is ever installed here: a package is there already, or the step fails."""
    package, version = str(inputs.get("name") or ""), str(inputs.get("version") or "")
    action = str(inputs.get("action") or "")
    here = run.place.spec.packages.get(package)
    if action not in {"Install", "Uninstall"}:
        output.fail(f"unsupported action: {action}")
    elif here is None:
        output.fail(f"{package} is no package of this node, and FleetOps's agent installs none")
    elif action == "Uninstall":
        output.fail(f"{package} {here} is part of this node, and FleetOps's agent removes no package")
    elif version not in {"", "latest", here}:
        output.fail(f"this node has {package} {here}, and FleetOps's agent installs no other version")
    else:
        output.say(f"{package} {here} is already installed")


async def gather_inventory(run: Run, name: str, inputs: Mapping[str, Any], output: Output) -> None:
    """aws:softwareInventory: what is installed on the node, and what it knows of itself."""
    spec = run.place.spec
    _, listed, _ = await run.small(
        "cat /var/lib/packages/installed 2>/dev/null || dpkg-query -W -f '${Package}\\t${Version}\\n' 2>/dev/null || "
        "rpm -qa --qf '%{NAME}\\t%{VERSION}-%{RELEASE}\\n' 2>/dev/null"
    )
    rows = [line.split("\t") for line in listed.decode(errors="replace").splitlines() if line.count("\t") == 1]
    is_windows = spec.platform_type == "Windows"
    found: dict[str, tuple[str, list[dict[str, str]]]] = {}
    if _is_enabled(inputs, "applications"):
        applications = [row for row in rows if not (is_windows and row[0].startswith("KB"))]
        found["AWS:Application"] = (
            "1.1",
            [{"Name": name, "Version": version} for name, version in sorted(applications)],
        )
    if is_windows and _is_enabled(inputs, "windowsUpdates"):
        updates = sorted(row for row in rows if row[0].startswith("KB"))
        found["AWS:WindowsUpdate"] = ("1.0", [{"HotFixId": name, "InstalledTime": day} for name, day in updates])
    if _is_enabled(inputs, "awsComponents"):
        agent = {"Name": "amazon-ssm-agent", "Version": spec.agent_version, "Publisher": "FleetOps"}
        found["AWS:AWSComponent"] = ("1.0", [agent])
    if _is_enabled(inputs, "networkConfig") and spec.ip:
        found["AWS:Network"] = ("1.0", [{"Name": "eth0", "IPV4": spec.ip}])
    captured_at = f"{clock.now():%Y-%m-%dT%H:%M:%SZ}"
    items = [
        {
            "TypeName": type_name,
            "SchemaVersion": schema,
            "CaptureTime": captured_at,
            "ContentHash": _digest(content),
            "Content": content,
        }
        for type_name, (schema, content) in found.items()
    ]
    if items:
        try:
            await run.endpoint.call("ssm", "AmazonSSM.PutInventory", {"InstanceId": spec.instance_id, "Items": items})
        except CallFailed as error:
            logger.warning("inventory refused instance=%s reason=%s", spec.instance_id, error)
            output.fail(f"Encountered error while uploading inventory: {error}")
            return
    output.say(INVENTORY_DONE)


def _is_enabled(inputs: Mapping[str, Any], name: str) -> bool:
    return str(inputs.get(name) or "Enabled") == "Enabled"


def _digest(content: Any) -> str:
    return base64.b64encode(hashlib.md5(json.dumps(content).encode(), usedforsecurity=False).digest()).decode()


async def download_content(run: Run, name: str, inputs: Mapping[str, Any], output: Output) -> None:
    """aws:downloadContent, from S3 alone."""
    kind = str(inputs.get("sourceType") or "")
    if kind != "S3":
        output.fail(f"FleetOps's agent downloads from S3 alone, not from {kind or 'nowhere'}")
        return
    info = inputs.get("sourceInfo")
    try:
        place = json.loads(info) if isinstance(info, str) else info
        url = urlsplit(str(place["path"]))
    except (ValueError, TypeError, KeyError):
        output.fail("sourceInfo is no JSON object with a path")
        return
    # A path-style address, or a virtual-hosted one.
    path = unquote(url.path.strip("/"))
    host = url.netloc.partition(".")[0]
    bucket, _, key = path.partition("/") if host.startswith("s3") or ".s3" not in url.netloc else (host, "/", path)
    wanted = str(inputs.get("destinationPath") or "")
    target = wanted if wanted.startswith("/") else f"{run.downloads}/{wanted}".rstrip("/")
    if not wanted or wanted.endswith("/"):
        target = f"{target.rstrip('/')}/{key.rpartition('/')[2]}"
    file = run.directory / "download"
    try:
        await run.endpoint.get_object(bucket, key, file, limit=MAX_DOWNLOAD)
    except CallFailed as error:
        output.fail(f"Failed to download file from {place['path']}: {error}")
        return
    code, _, words = await run.small(
        'if [ -d "$1" ]; then set -- "$1/$2"; fi; mkdir -p "$(dirname "$1")" && cat >"$1"',
        target,
        key.rpartition("/")[2],
        stdin=file,
    )
    file.unlink()
    if code:
        output.fail(f"failed to write {target}: {words.decode(errors='replace')}")
    else:
        output.say(f"Content downloaded to {target}")


async def run_document(run: Run, name: str, inputs: Mapping[str, Any], output: Output) -> None:
    """aws:runDocument: the steps of another document, from the node's disk or from SSM."""
    if run.depth > DEEPEST:
        output.fail(
            "Maximum depth for document execution exceeded. "
            f"Maximum depth permitted - {DEEPEST} and current depth - {run.depth}"
        )
        return
    try:
        content = await _fetch_document(
            run, str(inputs.get("documentType") or ""), str(inputs.get("documentPath") or "")
        )
        given = inputs.get("documentParameters") or {}
        given = json.loads(given) if isinstance(given, str) else given
        document = command_document.parse(json.loads(content))
        if not isinstance(given, Mapping):
            raise InvalidDocument("parameter type specified to run document is unknown")
    except (ValueError, InvalidDocument, CallFailed) as error:
        output.fail(f"There was an error while preparing documents - {error}")
        return
    parameters = command_document.with_defaults(document, given)
    ended: list[tuple[str, int]] = []
    steps = [command_document.prepared(step, parameters) for step in document.steps]
    for number, step in enumerate(steps):
        inner = Output(run.directory / f"{number}-{step.name.replace(':', '')}")
        words = await run_step(
            replace(run, directory=inner.stdout.parent, depth=run.depth + 1),
            document,
            steps,
            number,
            parameters=parameters,
            ended=ended,
            output=inner,
        )
        ended.append((inner.status, inner.code))
        for text, put in (
            (prefix(inner.read_stdout(), MOST_STDOUT), output.say),
            (prefix(inner.read_stderr(), MOST_STDERR), output.complain),
            (words if inner.status == "Failed" else "", output.complain),
        ):
            if text:
                put(text if text.endswith("\n") else f"{text}\n")
    output.status = document_status(status for status, _ in ended)
    output.code = next((code for status, code in ended if status == output.status and code), 0)


async def _fetch_document(run: Run, kind: str, path: str) -> str:
    """A document's text. Raises ValueError or CallFailed."""
    if kind not in {"SSMDocument", "LocalPath"}:
        raise ValueError("Document Type must be specified to either by SSMDocument or LocalPath.")
    if not path:
        raise ValueError("Document Path must be provided")
    if kind == "SSMDocument":
        named, _, version = path.rpartition(":") if not path.startswith("arn:") else (path, "", "")
        named, version = (named, version) if version.isdigit() or version.startswith("$") else (path, "")
        body = {"Name": named} | ({"DocumentVersion": version} if version else {})
        answer = await run.endpoint.call("ssm", "AmazonSSM.GetDocument", body | {"DocumentFormat": "JSON"})
        return str(answer.get("Content", ""))
    where = path if path.startswith("/") else f"{run.downloads}/{path}"
    code, content, words = await run.small('head -c "$2" -- "$1"', where, str(MAX_DOCUMENT + 1))
    if code:
        raise ValueError(words.decode(errors="replace").strip())
    if not content or len(content) > MAX_DOCUMENT:
        raise ValueError("File is empty!" if not content else f"the document has more than {MAX_DOCUMENT} bytes")
    return content.decode(errors="replace")


PLUGINS: Final[Mapping[str, Plugin]] = {
    "aws:configurePackage": configure_package,
    "aws:downloadContent": download_content,
    "aws:runDocument": run_document,
    "aws:runPowerShellScript": run_powershell_script,
    "aws:runShellScript": run_shell_script,
    "aws:softwareInventory": gather_inventory,
    "aws:updateSsmAgent": update_agent,
}


async def run_step(
    run: Run,
    document: command_document.Document,
    steps: list[command_document.Step],
    number: int,
    *,
    parameters: Mapping[str, Any],
    ended: list[tuple[str, int]],
    output: Output,
) -> str:
    """Run one step, or pass it over; `output` says how it went. Returns words to show for its output, mostly none."""
    step = steps[number]
    if command_document.is_passed_over(steps, number, ended):
        output.status = "Skipped"
        return f"Plugin with name {step.action} and id {step.name} skipped due to prior step with an exit condition"
    verdict, reason = command_document.judge(
        step,
        document,
        parameters=parameters,
        platform_type=run.place.spec.platform_type,
        known=plugins_of(run.place.spec),
    )
    if verdict is not command_document.Verdict.RUN:
        output.status = "Skipped" if verdict is command_document.Verdict.SKIP else "Failed"
        output.code = 0 if output.status == "Skipped" else 1
        return reason
    if run.cancelled.is_set():
        output.cancel()
        return ""
    for each in step.inputs if isinstance(step.inputs, list) else [step.inputs]:
        if output.status != "Success":
            break
        try:
            if not isinstance(each, Mapping):
                raise StartFailed(f"Invalid format in plugin properties {each}")
            await PLUGINS[step.action](run, _safe(step_name(document, step, each)), each, output)
        except (StartFailed, OSError) as error:
            output.fail(f"failed to run commands: {error}")
    _end_words(step, output)
    return ""


def _end_words(step: command_document.Step, output: Output) -> None:
    """What the agent adds to a step that says whether others follow. runpluginutil.go"""
    code = output.code
    if code == command_document.EXIT_DOCUMENT_WELL:
        output.status = "Success"
        output.hides_stderr = True
        output.say(
            "\nStep exited with code 168. Therefore, marking step as succeeded. Further document steps will be skipped."
        )
    elif code == command_document.EXIT_DOCUMENT_BADLY:
        words = (
            "\nStep exited with code 169. Therefore, marking step as Failed. Further document steps will be skipped."
        )
        output.say(words)
        output.complain(words)
    elif output.status == "Failed" and step.on_failure in {"exit", "successAndExit"}:
        words = "\nStep was found to have onFailure property. Further document steps will be skipped."
        output.say(words)
        output.complain(words)
        if step.on_failure == "successAndExit":
            output.status, output.code = "Success", command_document.EXIT_DOCUMENT_WELL


def document_status(statuses: Any) -> str:
    """A document's status by those of its steps. contracts/aggregator.go"""
    found = list(statuses)
    for status in ("SuccessAndReboot", "Failed", "TimedOut", "Cancelled"):
        if status in found:
            return status
    return "Success" if all(status in {"Success", "Skipped"} for status in found) else "InProgress"


def step_name(document: command_document.Document, step: command_document.Step, inputs: Any) -> str:
    """What stands in paths for a step: its name, in schema 1.2 the id among its properties. runpluginutil.go"""
    if document.schema_version != "1.2":
        return step.name
    first = inputs[0] if isinstance(inputs, list) and inputs else inputs
    return str(first.get("id") or "") if isinstance(first, Mapping) else ""


def _safe(name: str) -> str:
    """A step's name as part of a path."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name).lstrip(".") or "_"
