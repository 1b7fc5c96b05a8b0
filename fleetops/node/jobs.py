"""Run Command on a node: jobs are taken, run, cancelled and answered, and none runs twice.

What a job has come to lies in its directory before anything is said about it. After a kill of this process what was
taken and not begun is begun, what was running is told as failed, and answers that nobody acknowledged are told again.

Source: amazon-ssm-agent, agent/messageservice (interactor/mgsinteractor, messagehandler), agent/framework/processor.
"""

import asyncio
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from fleetops import clock
from fleetops.documents import InvalidDocument
from fleetops.documents import command as command_document
from fleetops.wire import JobReceived, RemoteProtocolError, payloads

from .calls import Endpoint
from .output import MOST_STDERR, MOST_STDOUT, Destination, Output, prefix, together
from .plugins import Run, document_status, run_step, step_name
from .sandbox import Place
from .script import KILLED_CODE, kill_group, started_at
from .spec import Directory, Options

logger = logging.getLogger(__name__)

MOST_RUNNING: Final = 5  # Mds.CommandWorkersLimit
MOST_WAITING: Final = 5  # CommandWorkerBufferLimit
KNOWN_SECONDS: Final = 1_800.0  # a command that was received is refused for so long. messagehandler/idempotency
REPLY_SECONDS: Final = 300.0  # between two tries of an answer that nobody acknowledges, before it is scaled
REPLY_GIVE_UP_SECONDS: Final = 7_200.0
LONGEST_REPLY: Final = 120_000  # bytes of content; the real agent drops a longer one. sendreply.go
MOST_RUNS: Final = 15  # of a document that asks for restarts. Mds.CommandRetryLimit

SUCCESSFUL: Final = ("200", "Successful")
NO_ROOM: Final = ("51402", "ProcessorBufferFull")
DUPLICATE: Final = ("51405", "DuplicateCommand")
INVALID: Final = ("51406", "InvalidDocument")
UNREADABLE: Final = ("51408", "AgentJobMessageParseError")

LOST_TEXT: Final = "The agent on this node was restarted while this step ran. It may have been done in part."
STOPPED_TEXT: Final = "The instance was stopped while this step ran. It may have been done in part."
REBOOT_TEXT: Final = "Another command restarted this node while this step ran. It may have been done in part."
FAILED_TEXT: Final = "The agent on this node failed; its log says why."

_SEND_TOPIC: Final = "aws.ssm.sendCommand"
_CANCEL_TOPIC: Final = "aws.ssm.cancelCommand"


class Unreadable(Exception):
    """A job that is refused: `code` and `words` for its acknowledge, the text for the answer."""

    def __init__(self, refusal: tuple[str, str], text: str) -> None:
        super().__init__(text)
        self.refusal = refusal


@dataclass(eq=False)
class _Job:
    """One command on this node."""

    job_id: str
    content: str
    received_at: float  # seconds since 1970, of a clock that nobody shifts
    state: str = "waiting"  # "running", "restarting", "over"
    runs: int = 0
    results: dict[str, payloads.StepResult] = field(default_factory=dict)
    process: tuple[int, str] | None = None  # the group that runs now: its id, and when it was started
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    stopped_text: str = ""  # why it is stopped, if nobody cancelled it

    @property
    def command_id(self) -> str:
        return self.job_id.split(".")[-2]

    def to_json(self) -> dict[str, Any]:
        kept = {"job_id": self.job_id, "received_at": self.received_at, "state": self.state}
        if self.state == "over":
            return kept
        results = {name: asdict(result) for name, result in self.results.items()}
        return kept | {"content": self.content, "runs": self.runs, "results": results, "process": self.process}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "_Job":
        """Raises KeyError or TypeError for what `to_json` did not write."""
        job = cls(value["job_id"], value.get("content", ""), value["received_at"], value["state"])
        job.runs = value.get("runs", 0)
        job.results = {name: payloads.StepResult(**result) for name, result in value.get("results", {}).items()}
        job.process = tuple(value["process"]) if value.get("process") else None
        return job


@dataclass
class _Untold:
    """An answer that nobody has acknowledged."""

    reply: payloads.AgentJobReply
    first_at: float
    told_at: float = 0.0  # by this process
    tries: int = 0


class Jobs:
    """All commands of one node."""

    def __init__(
        self,
        place: Place,
        options: Options,
        endpoint: Endpoint,
        *,
        reply: Callable[[payloads.AgentJobReply, UUID], None],
        restart: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        """`reply` sends an answer if there is a connection. `restart` ends all shells and comes back."""
        self._place = place
        self._endpoint = endpoint
        self._directory = Directory(place.spec.home)
        self._reply_seconds = REPLY_SECONDS * options.retry_scale
        self._may_restart = place.launcher.kind != "machine" or bool(options.restart_command)
        self._send = reply
        self._restart = restart
        self._jobs: dict[str, _Job] = {}  # by command, all of the last 30 minutes
        self._waiting: list[_Job] = []
        self._running: dict[_Job, asyncio.Task[None]] = {}
        self._untold: dict[UUID, _Untold] = {}
        self._is_held = True  # until start
        self._restarting: asyncio.Task[None] | None = None

    # The life of the node

    def start(self) -> None:
        """Take up what the process before left, and begin. Also after `stop`."""
        self._jobs.clear()
        self._waiting.clear()
        self._untold.clear()
        self._read_replies()
        for path in sorted(self._directory.jobs.iterdir()):
            try:
                job = _Job.from_json(json.loads((path / "job.json").read_text()))
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("a command's record cannot be read path=%s reason=%s", path, error)
                shutil.rmtree(path, ignore_errors=True)
                continue
            self._jobs[job.command_id] = job
            if job.state == "running":
                self._tell_lost(job)
            elif job.state != "over":
                self._waiting.append(job)
        self._waiting.sort(key=lambda job: (job.state != "restarting", job.received_at))
        self._is_held = False
        self._advance()

    async def stop(self) -> None:
        """Kill what runs, and say nothing: the next start does."""
        self._is_held = True
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def interrupt(self, text: str) -> None:
        """End what runs as failed, for this reason, and begin nothing until `resume`."""
        self._is_held = True
        tasks = list(self._running.values())
        for job in self._running:
            job.stopped_text = job.stopped_text or text
            job.cancelled.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    def resume(self) -> None:
        self._is_held = False
        self._advance()

    # What the control channel brings

    def take(self, received: JobReceived) -> tuple[tuple[str, str], Callable[[], None]]:
        """Take a job or refuse it: the code and the words of its acknowledge, and what to do once that is sent."""
        job_id = received.job.job_id
        try:
            if received.job.is_cancel:
                return SUCCESSFUL, self._cancellation(received.job)
            command_id = received.job.command_id
            if not _is_plain(command_id):
                raise Unreadable(UNREADABLE, f"the id of the command, {command_id}, is none")
            if command_id in self._jobs:
                return DUPLICATE, _nothing
            if len(self._waiting) + len(self._running) >= MOST_WAITING + MOST_RUNNING:
                return NO_ROOM, _nothing
            _read(received.job.content)
        except Unreadable as error:
            text = str(error)
            logger.warning("command refused instance=%s job=%s reason=%s", self._place.spec.instance_id, job_id, text)
            return error.refusal, lambda: self._answer(job_id, "Failed", None, trace=text)
        job = _Job(job_id, received.job.content, clock.steady())
        self._jobs[command_id] = job
        self._waiting.append(job)
        self._save(job)
        return SUCCESSFUL, lambda: self._taken(job)

    def acknowledged(self, message_id: UUID) -> None:
        """The gateway has an answer."""
        if self._untold.pop(message_id, None) is not None:
            (self._directory.replies / f"{message_id}.json").unlink(missing_ok=True)

    def connected(self) -> None:
        """There is a new connection: tell it what nobody has acknowledged."""
        for untold in self._untold.values():
            untold.told_at = 0.0
        self.look_at_the_time()

    def look_at_the_time(self) -> None:
        """Tell answers again, and forget what is too old. Call it each second or so."""
        now = clock.steady()
        for message_id, untold in list(self._untold.items()):
            if now - untold.first_at > REPLY_GIVE_UP_SECONDS and untold.tries > 1:
                logger.warning("nobody acknowledges an answer job=%s", untold.reply.job_id)
                self.acknowledged(message_id)
            elif now - untold.told_at >= self._reply_seconds:
                self._tell(message_id, untold, now)
        for command_id, job in list(self._jobs.items()):
            if job.state == "over" and now - job.received_at > KNOWN_SECONDS:
                del self._jobs[command_id]
                shutil.rmtree(self._directory.jobs / command_id, ignore_errors=True)

    def _cancellation(self, cancel: payloads.AgentJob) -> Callable[[], None]:
        """What cancels a command; nothing if it has ended or is unknown. Raises Unreadable."""
        try:
            target = cancel.load_content().get("CancelMessageId")
        except RemoteProtocolError as error:
            raise Unreadable(UNREADABLE, str(error)) from None
        parts = target.split(".") if isinstance(target, str) else []
        if len(parts) < 4:
            raise Unreadable(UNREADABLE, "the cancellation names no command")
        job = self._jobs.get(parts[-2])

        def carry_out() -> None:
            self._answer(cancel.job_id, "InProgress", None, topic=_CANCEL_TOPIC, is_kept=False)
            if job is None or job.state == "over":
                return
            logger.info("command cancelled instance=%s job=%s", self._place.spec.instance_id, job.job_id)
            job.cancelled.set()
            if job in self._waiting:  # its steps are told as cancelled, and none is begun
                self._waiting.remove(job)
                self._begin(job)

        return carry_out

    # A job's life

    def _taken(self, job: _Job) -> None:
        self._answer(job.job_id, "InProgress", None, is_kept=False)
        self._advance()

    def _advance(self) -> None:
        while not self._is_held and self._waiting and len(self._running) < MOST_RUNNING:
            self._begin(self._waiting.pop(0))

    def _begin(self, job: _Job) -> None:
        task = asyncio.create_task(self._live(job))
        self._running[job] = task
        task.add_done_callback(lambda _: self._ended(job))

    def _ended(self, job: _Job) -> None:
        self._running.pop(job, None)
        self._advance()

    async def _live(self, job: _Job) -> None:
        job.state = "running"
        job.runs += 1
        self._save(job)
        logger.info("command begun instance=%s job=%s", self._place.spec.instance_id, job.job_id)
        try:
            status = await self._run(job)
        except Exception:  # the outermost loop of a command: its end is told, and the others live on
            logger.exception("command failed job=%s", job.job_id)
            self._finish(job, "Failed", trace=FAILED_TEXT)
            return
        if status == "SuccessAndReboot":
            job.state = "restarting"
            self._save(job)
            self._answer(job.job_id, status, self._last_results(job), counts=job.results)
            self._waiting.insert(0, job)
            self._is_held = True
            if self._restarting is None or self._restarting.done():
                self._restarting = asyncio.create_task(self._restart())
            return
        self._finish(job, status)

    async def _run(self, job: _Job) -> str:
        """Run the steps that have no result yet; the document's status."""
        content, document, steps = _read(job.content)
        parameters = command_document.with_defaults(document, content.get("Parameters") or {})
        spec = self._place.spec
        destination = Destination.of(content, job.command_id, spec.instance_id)
        ended: list[tuple[str, int]] = []
        for number, step in enumerate(steps):
            known = job.results.get(step.name)
            if known is not None and known.status != "SuccessAndReboot":
                ended.append((known.status, known.code))
                continue
            began_at = _moment()
            directory = self._directory.jobs / job.command_id / str(number)
            output = Output(directory)
            run = Run(
                place=self._place,
                endpoint=self._endpoint,
                command_id=job.command_id,
                directory=directory,
                inside=f"{self._place.var}/lib/amazon/ssm/{spec.instance_id}/document/orchestration/{job.command_id}",
                cancelled=job.cancelled,
                on_start=lambda pid: self._started(job, pid),
            )
            words = await run_step(run, document, steps, number, parameters=parameters, ended=ended, output=output)
            if job.stopped_text and output.status == "Cancelled":
                output.code = KILLED_CODE
                output.fail(job.stopped_text)
            if output.status == "SuccessAndReboot" and not self._may_restart:
                output.fail("the script asks for a restart, and FleetOps's agent restarts no machine")
            if output.status == "SuccessAndReboot" and job.runs >= MOST_RUNS:
                output.fail(f"the document asked for {MOST_RUNS} restarts, and gets no other")
            named = step_name(document, step, step.inputs)
            if output.status != "SuccessAndReboot":
                for trouble in await destination.send(self._endpoint, output, step.action, named):
                    logger.warning("output not sent job=%s reason=%s", job.job_id, trouble)
                    output.complain(f"{trouble}\n")
            job.process = None
            stdout, stderr = output.read_stdout(), output.read_stderr()
            result = payloads.StepResult(
                status=output.status,
                code=output.code,
                name=step.action,
                output=words or together(stdout, stderr),
                start_date_time=began_at,
                end_date_time=_moment(),
                output_s3_bucket_name=destination.bucket,
                output_s3_key_prefix=destination.plugin_prefix(step.action),
                step_name=named.replace(":", "") if destination.bucket else "",
                standard_output=prefix(stdout, MOST_STDOUT),
                standard_error=prefix(stderr, MOST_STDERR),
            )
            job.results[step.name] = result
            self._save(job)
            self._answer(job.job_id, "InProgress", {step.name: result}, counts=job.results)
            if output.status == "SuccessAndReboot" or job.stopped_text:
                break
            ended.append((result.status, result.code))
        return document_status(result.status for result in job.results.values())

    def _started(self, job: _Job, pid: int) -> None:
        job.process = (pid, started_at(pid))
        self._save(job)

    def _finish(self, job: _Job, status: str, *, trace: str = "") -> None:
        """Tell the end, and keep of the job only that it was here."""
        logger.info("command ended instance=%s job=%s status=%s", self._place.spec.instance_id, job.job_id, status)
        self._answer(job.job_id, status, self._last_results(job), counts=job.results, trace=trace)
        job.state = "over"
        self._save(job)
        for path in (self._directory.jobs / job.command_id).iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)

    def _tell_lost(self, job: _Job) -> None:
        """A job that ran when the process before was killed: end what is left of it, and tell it as failed."""
        if job.process is not None and job.process[1] and started_at(job.process[0]) == job.process[1]:
            kill_group(job.process[0])
        try:
            _, _, steps = _read(job.content)
        except Unreadable:
            steps = []
        for step in steps:
            if step.name not in job.results or job.results[step.name].status == "SuccessAndReboot":
                now = _moment()
                result = payloads.StepResult("Failed", 1, step.action, LOST_TEXT, now, now, standard_error=LOST_TEXT)
                job.results[step.name] = result
                self._answer(job.job_id, "InProgress", {step.name: result}, counts=job.results)
                break
        self._finish(job, "Failed")

    @staticmethod
    def _last_results(job: _Job) -> dict[str, payloads.StepResult]:
        """What the final answer holds: the step's result if there is but one. contracts/aggregator.go"""
        return dict(job.results) if len(job.results) == 1 else {}

    # Answers

    def _answer(
        self,
        job_id: str,
        status: str,
        results: Mapping[str, payloads.StepResult] | None,
        *,
        counts: Mapping[str, payloads.StepResult] | None = None,
        topic: str = _SEND_TOPIC,
        trace: str = "",
        is_kept: bool = True,
    ) -> None:
        """Tell how a job fares; what is kept is told until it is acknowledged, and is on the disk before."""
        counted = Counter(result.status for result in counts.values()) if counts is not None else None
        content = payloads.ReplyContent(
            status,
            _moment(),
            payloads.AgentInfo(version=self._place.spec.agent_version),
            status_counts=counted,
            runtime_status=results,
            trace_output=trace,
        )
        reply = payloads.AgentJobReply(job_id, _fitting(content), topic)
        message_id = uuid4()
        if not is_kept:
            self._send(reply, message_id)
            return
        now = clock.steady()
        untold = self._untold[message_id] = _Untold(reply, now)
        kept = {"job_id": job_id, "content": reply.content, "topic": topic, "first_at": now}
        _write(self._directory.replies / f"{message_id}.json", kept)
        self._tell(message_id, untold, now)

    def _tell(self, message_id: UUID, untold: _Untold, now: float) -> None:
        untold.told_at = now
        untold.tries += 1
        self._send(untold.reply, message_id)

    def _read_replies(self) -> None:
        found = []
        for path in self._directory.replies.glob("*.json"):
            try:
                value = json.loads(path.read_text())
                reply = payloads.AgentJobReply(value["job_id"], value["content"], value["topic"])
                found.append((float(value["first_at"]), UUID(path.stem), reply))
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("an answer cannot be read path=%s reason=%s", path, error)
                path.unlink(missing_ok=True)
        for first_at, message_id, reply in sorted(found, key=lambda item: item[0]):
            self._untold[message_id] = _Untold(reply, first_at)

    def _save(self, job: _Job) -> None:
        directory = self._directory.jobs / job.command_id
        directory.mkdir(exist_ok=True)
        _write(directory / "job.json", job.to_json())


def _read(content: str) -> tuple[dict[str, Any], command_document.Document, list[command_document.Step]]:
    """The content of a job, its document and the steps with their parameters put in. Raises Unreadable."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unreadable(UNREADABLE, f"the content of the job is no JSON: {error}") from None
    if not isinstance(value, dict) or not isinstance(value.get("Parameters") or {}, dict):
        raise Unreadable(UNREADABLE, "the content of the job is no JSON object with Parameters")
    try:
        document = command_document.parse(value.get("DocumentContent"))
    except InvalidDocument as error:
        raise Unreadable(INVALID, str(error)) from None
    parameters = command_document.with_defaults(document, value.get("Parameters") or {})
    return value, document, [command_document.prepared(step, parameters) for step in document.steps]


def _fitting(content: payloads.ReplyContent) -> str:
    """The content as a text that is not too long to be told: many escapes make much of little output."""
    text = content.serialize()
    most = MOST_STDOUT
    while len(text.encode()) > LONGEST_REPLY and content.runtime_status and most > 1000:
        most //= 2
        cut = {
            name: payloads.StepResult(
                **asdict(result)
                | {
                    "standard_output": prefix(result.standard_output.encode(), most),
                    "standard_error": prefix(result.standard_error.encode(), most),
                }
            )
            for name, result in content.runtime_status.items()
        }
        content = payloads.ReplyContent(
            content.document_status,
            content.date_time,
            content.agent,
            status_counts=content.status_counts,
            runtime_status=cut,
            trace_output=content.trace_output,
        )
        text = content.serialize()
    return text


def _moment() -> str:
    return payloads.iso_time(round(clock.now().timestamp() * 1000))


def _is_plain(command_id: str) -> bool:
    """Whether a command's id may be a directory's name."""
    return 0 < len(command_id) <= 64 and all(
        letter.isascii() and (letter.isalnum() or letter == "-") for letter in command_id
    )


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a file whole, so that a kill leaves the old or the new one."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(value))
    fresh.replace(path)


def _nothing() -> None:
    pass
