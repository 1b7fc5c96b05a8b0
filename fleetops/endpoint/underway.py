"""A command that is under way, as it stands in memory: its invocations, its places, and what its nodes have said."""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fleetops import clock
from fleetops.documents import command as command_document
from fleetops.endpoint import command_rules as rules
from fleetops.endpoint.calls import NodeKey
from fleetops.endpoint.models import Command, Invocation
from fleetops.endpoint.states import CommandStatus
from fleetops.wire import payloads

ACK_SECONDS: Final = 3.0  # an agent acknowledges at once; one that has just started drops jobs in silence
LONGEST_WAIT_SECONDS: Final = 30.0  # between two tries; the wait doubles up to this
LONGEST_EXECUTION_SECONDS: Final = 172_800  # of a step [AWS-RunShellScript, executionTimeout]
_MOST_DIGITS: Final = 9  # of a time-out: one of more is longer than the longest in any case
LONGEST_TRACE: Final = 2500  # [SSM, InvocationTraceOutput]
_LONGEST_WORD: Final = 1024  # of what a node says of a step beside its output: names, moments, an S3 key [S3, keys]
_UNFINISHED = frozenset({"InProgress", "SuccessAndReboot", "PassedAndReboot"})  # statuses of a step in a reply

_STATUS_WORDS = {  # of a step in a reply, as CommandPluginStatus has them
    "Success": "Success",
    "Skipped": "Success",
    "SuccessAndReboot": "InProgress",
    "PassedAndReboot": "InProgress",
    "Failed": "Failed",
    "TimedOut": "TimedOut",
    "Cancelled": "Cancelled",
    "InProgress": "InProgress",
}


@dataclass(slots=True, eq=False)
class RunningInvocation:
    """An invocation that has not ended, or has but lately."""

    row: Invocation
    key: NodeKey
    has_place: bool = False  # one of those that the command's concurrency gives
    place_at: float = 0.0  # when it got it, by the monotonic clock
    is_sending: bool = False
    is_told: bool = False  # the node may have the job
    next_try_at: float = 0.0  # by the monotonic clock
    wait_seconds: float = ACK_SECONDS
    cancel_job_id: str = ""  # of the job that cancels it
    cancel_is_taken: bool = False
    has_news: bool = False  # of its steps, that may be a report of patches nobody has kept yet

    @property
    def is_over(self) -> bool:
        return self.row.state in rules.OVER

    @property
    def is_taken(self) -> bool:
        return self.row.taken_at is not None

    def wait(self, seconds: float | None = None) -> None:
        """Try no sooner than after `seconds`; where none is said, after twice the last wait, up to a bound."""
        if seconds is None:
            seconds, self.wait_seconds = self.wait_seconds, min(LONGEST_WAIT_SECONDS, self.wait_seconds * 2)
        self.next_try_at = clock.monotonic() + seconds


@dataclass(slots=True, eq=False)
class RunningCommand:
    """A command that has not ended.

    It counts as it goes: each of its nodes has something to say some four times, and to look at all of them each time
    would cost the square of their number.
    """

    row: Command
    steps: frozenset[str]  # names of the document's steps
    invocations: dict[str, RunningInvocation] = field(default_factory=dict)
    waiting: deque[RunningInvocation] = field(default_factory=deque)  # for a place, in order
    ended: Counter[str] = field(default_factory=Counter)  # invocations that are over, by their details
    is_stopped: bool = False  # too many have failed: no other node is told
    places_taken: int = 0
    answered: int = 0  # acknowledged by their nodes, or over
    silent: int = 0  # hold a place, and have not been acknowledged for SILENT_SECONDS
    was_put_off: bool = False  # a node had no room for it yet

    def add(self, invocation: RunningInvocation) -> None:
        self.invocations[invocation.row.instance_id] = invocation
        if invocation.is_over:
            self.ended[invocation.row.details] += 1
            self.answered += 1
            return
        self.answered += invocation.is_taken
        self.was_put_off |= invocation.row.state == CommandStatus.DELAYED
        if invocation.row.sent_at is None:
            self.waiting.append(invocation)
        else:  # what was told to a node may be there: it holds its place, and is told again
            invocation.is_told = True
            self.give_place(invocation)

    def give_place(self, invocation: RunningInvocation) -> None:
        invocation.has_place, invocation.place_at = True, clock.monotonic()
        self.places_taken += 1

    @property
    def is_spent(self) -> bool:
        return rules.is_spent(self.row.max_errors, self.row.target_count, self.ended)

    @property
    def is_over(self) -> bool:
        return self.ended.total() == len(self.invocations)

    @property
    def pending(self) -> int:
        """How many invocations no node has acknowledged."""
        return len(self.invocations) - self.answered

    @property
    def progress(self) -> str:
        """The details of a command that is in progress: it is put off while nobody has it and somebody had no room."""
        return "Delayed" if self.was_put_off and not self.answered else "InProgress"

    def job_id(self, invocation: RunningInvocation) -> str:
        return f"aws.ssm.{self.row.command_id}.{invocation.row.instance_id}"


def execution_seconds(content: Mapping[str, Any], parameters: Mapping[str, Any]) -> int:
    """How long a document's steps may run in all, by their timeoutSeconds: 3,600 each where none is said."""
    document = command_document.parse(content)
    total = 0
    for step in document.steps:
        inputs = command_document.prepared(step, parameters).inputs
        for one in inputs if isinstance(inputs, list) else [inputs]:
            given = one.get("timeoutSeconds") if isinstance(one, Mapping) else None
            text = str(given)[:_MOST_DIGITS] if isinstance(given, int | str) else ""
            seconds = int(text) if text.isascii() and text.isdigit() else command_document.DEFAULT_TIMEOUT_SECONDS
            total += min(seconds, LONGEST_EXECUTION_SECONDS)
    return total


def job_content(row: Command, content: Mapping[str, Any] | None = None) -> str:
    """What a node is told of a command; `content` where its document is not the same for all nodes.

    The agent itself puts command and node behind the prefix of its output.
    """
    output = row.output
    return payloads.send_command_content(
        command_id=str(row.command_id),
        document_name=row.document_name,
        document_content=row.document_content if content is None else content,
        parameters=row.parameters,
        output_s3_bucket_name=output.get("bucket", ""),
        output_s3_key_prefix=output.get("prefix", "") if output.get("bucket") else "",
        cloudwatch_log_group_name=output.get("log_group", ""),
        cloudwatch_output_enabled=bool(output.get("to_logs")),
    )


def step_status(step: Mapping[str, Any]) -> str:
    """A step's status in a reply as CommandPluginStatus has it."""
    return _STATUS_WORDS.get(str(step.get("status", "")), "Pending")


def step_names(row: Command) -> frozenset[str]:
    return frozenset(step.name for step in command_document.parse(row.document_content).steps)


def merge(row: Invocation, content: payloads.ReplyContent, names: frozenset[str]) -> bool:
    """Take in the results of the steps called `names`; a result that is final is not replaced. True if any is new."""
    changed = False
    for name, step in (content.runtime_status or {}).items():
        known = row.steps.get(name)
        if name not in names or (known is not None and known["status"] not in _UNFINISHED):
            continue
        row.steps[name] = {
            "status": kept(step.status, _LONGEST_WORD),
            "code": step.code,
            "plugin": kept(step.name, _LONGEST_WORD),
            "output": kept(step.output, 2500),
            "stdout": kept(step.standard_output, 24_000),
            "stderr": kept(step.standard_error, 24_000),
            "started_at": kept(step.start_date_time, _LONGEST_WORD),
            "ended_at": kept(step.end_date_time, _LONGEST_WORD),
            "bucket": kept(step.output_s3_bucket_name, _LONGEST_WORD),
            "prefix": kept(step.output_s3_key_prefix, _LONGEST_WORD),
        }
        changed = True
    trace = kept(content.trace_output, LONGEST_TRACE)
    if trace and trace != row.trace_output:
        row.trace_output = trace
        changed = True
    return changed


def kept(text: str, longest: int) -> str:
    """What a node says, as every database takes it: PostgreSQL has neither zeros nor halves of characters."""
    return text[:longest].replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
