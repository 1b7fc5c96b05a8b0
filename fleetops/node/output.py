"""What a step of a command wrote: kept in two files, cut for the answer, and sent to S3 and CloudWatch Logs whole.

Source of the limits, the marks and the paths: amazon-ssm-agent, agent/framework/processor/executer/iohandler and
agent/framework/runpluginutil/runpluginutil.go.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fleetops import clock

from .calls import CallFailed, CallRefused, Endpoint

MOST_STDOUT: Final = 24_000  # bytes in an answer; DefaultOutputConfig
MOST_STDERR: Final = 8_000
MOST_TOGETHER: Final = 2_500  # MaximumPluginOutputSize
CUT: Final = b"--output truncated--"
_ERROR_TITLE: Final = b"\n----------ERROR-------\n"
_OUTPUT_CUT: Final = b"\n---Output truncated---"
_ERROR_CUT: Final = b"\n---Error truncated----"

# Of one PutLogEvents; CloudWatch Logs takes 10,000 events and 1 MiB, and 256 KiB in one event.
_MOST_EVENTS: Final = 5_000
_MOST_EVENT_BYTES: Final = 512 * 1024
_LONGEST_EVENT: Final = 200 * 1024


class Output:
    """One step's two streams, its status and its exit code, as a plugin fills them in."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.stdout = directory / "stdout"
        self.stderr = directory / "stderr"
        for path in (self.stdout, self.stderr):
            path.touch()
        self.status = "Success"
        self.code = 0
        self.hides_stderr = False  # from the answer; the file keeps it

    def say(self, text: str) -> None:
        """A line on standard output."""
        _append(self.stdout, text)

    def complain(self, text: str) -> None:
        """A line on standard error."""
        _append(self.stderr, text)

    def fail(self, text: str) -> None:
        """The step has failed, and this is why."""
        self.status = "Failed"
        self.code = self.code or 1
        self.complain(text)

    def cancel(self) -> None:
        self.status = "Cancelled"
        self.code = 1

    def read_stdout(self) -> bytes:
        """The beginning of it, one byte more than any answer takes."""
        return _beginning(self.stdout, MOST_STDOUT + 1)

    def read_stderr(self) -> bytes:
        return b"" if self.hides_stderr else _beginning(self.stderr, MOST_STDERR + 1)


def _append(path: Path, text: str) -> None:
    with path.open("ab") as file:
        file.write(text.encode(errors="replace"))


def _beginning(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def prefix(data: bytes, limit: int) -> str:
    """The beginning of a stream, with a mark if that is not all. pluginutil.go, StringPrefix."""
    if len(data) >= limit:
        data = data[: limit - len(CUT)] + CUT
    return data.decode(errors="replace")


def together(stdout: bytes, stderr: bytes, capacity: int = MOST_TOGETHER) -> str:
    """Both streams in one text, each cut where there is no room for both. iohandler.go, TruncateOutput."""
    title = _ERROR_TITLE if stderr else b""
    room = capacity - len(title)
    if len(stdout) + len(stderr) < room:
        parts = stdout, title, stderr
    elif len(stdout) > room // 2 and len(stderr) > room // 2:
        each = (room - len(_ERROR_CUT) - len(_OUTPUT_CUT)) // 2
        parts = stdout[:each] + _OUTPUT_CUT, title, stderr[:each] + _ERROR_CUT
    elif len(stdout) <= room // 2:
        parts = stdout, title, stderr[: room - len(_ERROR_CUT) - len(stdout)] + _ERROR_CUT
    else:
        parts = stdout[: room - len(_OUTPUT_CUT) - len(stderr)] + _OUTPUT_CUT, title, stderr
    return b"".join(parts).decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a command wants its output besides the answer; empty names mean nowhere."""

    bucket: str = ""
    key_prefix: str = ""  # with command and node behind what the person gave
    log_group: str = ""
    stream_prefix: str = ""  # command and node

    @classmethod
    def of(cls, content: Mapping[str, Any], command_id: str, instance_id: str) -> "Destination":
        """As the content of an agent_job asks. messageutil.go"""
        bucket = str(content.get("OutputS3BucketName") or "")
        given = str(content.get("OutputS3KeyPrefix") or "")
        place = f"{command_id}/{instance_id}"
        group = ""
        if str(content.get("CloudWatchOutputEnabled") or "").lower() == "true":
            name = str(content.get("DocumentName") or "")
            allowed = "".join(letter if letter.isalnum() or letter in "_/.#-" else "." for letter in name)
            group = str(content.get("CloudWatchLogGroupName") or "") or f"/aws/ssm/{allowed}"
        return cls(bucket, s3_path(given, place) if bucket else "", group, place if group else "")

    def plugin_prefix(self, action: str) -> str:
        """What an answer calls outputS3KeyPrefix."""
        return s3_path(self.key_prefix, action) if self.bucket else ""

    async def send(self, endpoint: Endpoint, output: Output, action: str, step_name: str) -> list[str]:
        """Upload both streams, each if there is anything in it; what went wrong, in words."""
        troubles = []
        for path in (output.stdout, output.stderr):
            if not path.stat().st_size:
                continue
            if self.bucket:
                key = s3_path(self.key_prefix, action, step_name, path.name)
                try:
                    await endpoint.put_object(self.bucket, key, path)
                except CallFailed as error:
                    troubles.append(f"Failed to upload the output to s3: {_words(error)}")
            if self.log_group:
                stream = f"{self.stream_prefix}/{step_name or action}/{path.name}".replace(":", "-").replace("*", "-")
                try:
                    await _send_events(endpoint, self.log_group, stream, path)
                except CallFailed as error:
                    troubles.append(f"Failed to send the output to CloudWatch Logs: {_words(error)}")
        return list(dict.fromkeys(troubles))


def s3_path(*parts: str) -> str:
    """Parts of a key in one, without the colons of plugins' names. fileutil.go, BuildS3Path"""
    return "/".join(part.strip("/").replace(":", "") for part in parts if part.strip("/"))


async def _send_events(endpoint: Endpoint, group: str, stream: str, path: Path) -> None:
    for operation, body in (
        ("CreateLogGroup", {"logGroupName": group}),
        ("CreateLogStream", {"logGroupName": group, "logStreamName": stream}),
    ):
        try:
            await endpoint.call("logs", f"Logs_20140328.{operation}", body)
        except CallRefused as error:
            if "ResourceAlreadyExistsException" not in error.body:
                raise
    for batch in _batches(path):
        now = round(clock.now().timestamp() * 1000)
        events = [{"timestamp": now, "message": line} for line in batch]
        body = {"logGroupName": group, "logStreamName": stream, "logEvents": events}
        await endpoint.call("logs", "Logs_20140328.PutLogEvents", body)


def _batches(path: Path) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    with path.open("rb") as file:
        while line := file.readline(_LONGEST_EVENT):
            text = line.rstrip(b"\r\n").decode(errors="replace")
            if not text:
                continue
            if len(batch) == _MOST_EVENTS or size + len(line) > _MOST_EVENT_BYTES:
                yield batch
                batch, size = [], 0
            batch.append(text)
            size += len(line) + 26  # as CloudWatch Logs counts
    if batch:
        yield batch


def _words(error: CallFailed) -> str:
    return (error.body if isinstance(error, CallRefused) else str(error))[:500]
