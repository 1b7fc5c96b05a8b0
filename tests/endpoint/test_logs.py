"""CloudWatch Logs over loopback: its limits, its pages, its patterns, and that events are the endpoint's own."""

import contextlib
import itertools
import sqlite3
import time

import pytest
from botocore.exceptions import ClientError

from tests.support.endpoint import until

HOUR = 3_600_000
_names = itertools.count()


def now() -> int:
    return int(time.time() * 1000)


class Stream:
    """A log group of its own with one stream."""

    def __init__(self, aws, stream: str = "s") -> None:
        self.logs = aws.client("logs")
        self.group = f"group-{next(_names)}"
        self.where = {"logGroupName": self.group, "logStreamName": stream}
        self.logs.create_log_group(logGroupName=self.group)
        self.logs.create_log_stream(**self.where)

    def put(self, *events: tuple[int, str], stream: str = "s") -> dict:
        where = self.where | {"logStreamName": stream}
        return self.logs.put_log_events(**where, logEvents=[{"timestamp": at, "message": text} for at, text in events])

    def get(self, **parameters) -> dict:
        return self.logs.get_log_events(**self.where, **parameters)

    def messages(self, **parameters) -> list[str]:
        return [event["message"] for event in self.get(**parameters)["events"]]

    def filtered(self, **parameters) -> list[str]:
        pages = self.logs.get_paginator("filter_log_events").paginate(logGroupName=self.group, **parameters)
        return [event["message"] for page in pages for event in page["events"]]


def refused(work, *arguments, **parameters) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        work(*arguments, **parameters)
    error = caught.value.response["Error"]
    return error["Code"], error.get("Message", "")


def test_a_stream_is_read_to_its_end_and_back_by_tokens_that_stay_the_same_there(aws):
    stream, at = Stream(aws), now()
    stream.put(*[(at + n // 3, f"line {n}") for n in range(25)])  # three events share a moment
    seen, token = [], None
    for _ in range(6):
        page = stream.get(limit=10, startFromHead=True, **({"nextToken": token} if token else {}))
        seen.append([event["message"] for event in page["events"]])
        if page["nextForwardToken"] == token:
            break
        token = page["nextForwardToken"]
    assert seen == [
        [f"line {n}" for n in range(10)],
        [f"line {n}" for n in range(10, 20)],
        [f"line {n}" for n in range(20, 25)],
        [],
    ]
    back = stream.get(limit=10, nextToken=page["nextBackwardToken"])
    assert [event["message"] for event in back["events"]] == [f"line {n}" for n in range(15, 25)]
    back = stream.get(limit=100, nextToken=back["nextBackwardToken"])
    assert [event["message"] for event in back["events"]] == [f"line {n}" for n in range(15)]
    start = stream.get(nextToken=back["nextBackwardToken"])
    assert start["events"] == []
    assert start["nextBackwardToken"] == back["nextBackwardToken"]
    assert [e["message"] for e in stream.get(limit=1, nextToken=start["nextForwardToken"])["events"]] == ["line 0"]
    # Who follows the stream from its end sees what comes, once.
    stream.put((at + 20, "news"))
    assert stream.messages(nextToken=token) == ["news"]
    assert stream.messages(limit=2) == ["line 24", "news"], "the newest, where no head is asked for"


def test_an_empty_stream_can_be_followed(aws):
    stream = Stream(aws)
    token = stream.get(startFromHead=True)["nextForwardToken"]
    assert stream.get(nextToken=token)["nextForwardToken"] == token
    stream.put((now(), "first"))
    assert stream.messages(nextToken=token) == ["first"]
    assert refused(stream.get, nextToken="x")[0] == "InvalidParameterException"


def test_a_time_range_ends_before_its_end_in_a_stream_and_with_it_in_a_search(aws):
    stream, at = Stream(aws), now()
    stream.put((at, "a"), (at + 1, "b"), (at + 2, "c"))
    assert stream.messages(startTime=at + 1, endTime=at + 2) == ["b"]
    assert stream.filtered(startTime=at + 1, endTime=at + 2) == ["b", "c"]


def test_a_batch_beyond_awss_limits_is_refused_whole(aws):
    stream, at = Stream(aws), now()
    assert refused(stream.put, (at, "b"), (at - 1, "a")) == (
        "InvalidParameterException",
        "Log events in a single PutLogEvents request must be in chronological order.",
    )
    code, message = refused(stream.put, (at - 25 * HOUR, "a"), (at, "b"))
    assert code == "InvalidParameterException" and "cannot span more than 24 hours" in message
    half = "x" * (524_288 - 26)
    stream.put((at, half), (at, half))
    assert (
        refused(stream.put, (at, half), (at, half + "x"))[1]
        == "Upload too large: 1048577 bytes exceeds limit of 1048576"
    )
    assert "Log event too large" in refused(stream.put, (at, "x" * 1_048_551))[1]
    assert "10000" in refused(stream.put, *[(at, "x")] * 10_001)[1]
    stream.put(*[(at, "y")] * 10_000)
    assert len(stream.messages()) == 10_000
    assert len(stream.messages(startFromHead=True)) == 2, "a page ends at a megabyte"


def test_events_too_old_and_too_new_are_told_and_the_others_kept(aws):
    stream, at = Stream(aws), now()
    old = stream.put((at - 15 * 24 * HOUR, "old"), (at, "kept"), (at + 3 * HOUR, "new"))
    assert old["rejectedLogEventsInfo"] == {"tooOldLogEventEndIndex": 1, "tooNewLogEventStartIndex": 2}
    stream.logs.put_retention_policy(logGroupName=stream.group, retentionInDays=3)
    expired = stream.put((at - 4 * 24 * HOUR, "expired"))
    assert expired["rejectedLogEventsInfo"] == {"expiredLogEventEndIndex": 1}
    assert stream.messages() == ["kept"]
    assert "rejectedLogEventsInfo" not in stream.put((at, "fine"))


def test_what_is_past_its_retention_is_not_shown(aws):
    stream, at = Stream(aws), now()
    stream.put((at - 48 * HOUR, "old"))
    stream.put((at, "young"))
    assert stream.messages() == ["old", "young"]
    stream.logs.put_retention_policy(logGroupName=stream.group, retentionInDays=1)
    assert stream.messages(startFromHead=True) == ["young"]
    assert stream.filtered() == ["young"]


def test_a_search_goes_over_streams_in_order_by_pattern_and_page(aws):
    stream, at = Stream(aws), now()
    stream.logs.create_log_stream(logGroupName=stream.group, logStreamName="other")
    for n in range(30):
        stream.put((at + n, f"{'ERROR' if n % 3 == 0 else 'INFO'} {n}"), stream="s" if n % 2 else "other")
    stream.put((at + 40, '{"level": "ERROR", "n": 40}'))
    errors = [f"ERROR {n}" for n in range(0, 30, 3)]
    assert stream.filtered(filterPattern="ERROR -level", PaginationConfig={"PageSize": 4}) == errors
    assert stream.filtered(filterPattern="?ERROR ?INFO", startFromHead=False, limit=7) == [
        '{"level": "ERROR", "n": 40}',
        *[f"{'ERROR' if n % 3 == 0 else 'INFO'} {n}" for n in range(29, -1, -1)],
    ]
    assert stream.filtered(filterPattern='{ $.level = "ERROR" && $.n > 3 }') == ['{"level": "ERROR", "n": 40}']
    assert stream.filtered(filterPattern="ERROR", logStreamNamePrefix="oth") == [f"ERROR {n}" for n in range(0, 30, 6)]
    found = stream.logs.filter_log_events(logGroupName=stream.group, limit=31)["events"]
    assert len({event["eventId"] for event in found}) == 31
    assert {event["logStreamName"] for event in found} == {"s", "other"}
    arn = f"arn:aws:logs:eu-west-1:{aws.account['account_id']}:log-group:{stream.group}"
    assert len(stream.logs.filter_log_events(logGroupIdentifier=arn)["events"]) == 31
    search = stream.logs.filter_log_events
    assert refused(search, logGroupName=stream.group, filterPattern="a:b")[0] == "InvalidParameterException"
    assert refused(search, logGroupName=stream.group, filterPattern="[a, b]")[0] == "NotImplemented"
    assert refused(search, logGroupName=stream.group, logGroupIdentifier=arn)[0] == "InvalidParameterException"
    both = {"logStreamNames": ["s"], "logStreamNamePrefix": "s"}
    assert refused(search, logGroupName=stream.group, **both)[0] == "InvalidParameterException"


def test_streams_tell_their_times_and_are_listed_by_name_or_by_their_last_event(aws):
    stream, at = Stream(aws, stream="b"), now()
    for name in ("a", "c", "d"):
        stream.logs.create_log_stream(logGroupName=stream.group, logStreamName=name)
    stream.put((at, "1"), (at + 5, "äö"), stream="a")
    stream.put((at + 9, "3"), stream="c")
    describe = stream.logs.get_paginator("describe_log_streams")

    def names(**parameters):
        pages = describe.paginate(logGroupName=stream.group, PaginationConfig={"PageSize": 2}, **parameters)
        return [told["logStreamName"] for page in pages for told in page["logStreams"]]

    assert names() == ["a", "b", "c", "d"]
    assert names(descending=True) == ["d", "c", "b", "a"]
    assert names(orderBy="LastEventTime", descending=True) == ["c", "a", "d", "b"]
    assert names(logStreamNamePrefix="c") == ["c"]
    (told,) = stream.logs.describe_log_streams(logGroupName=stream.group, logStreamNamePrefix="a")["logStreams"]
    assert (told["firstEventTimestamp"], told["lastEventTimestamp"], told["storedBytes"]) == (at, at + 5, 0)
    assert at - 1000 <= told["creationTime"] <= told["lastIngestionTime"] <= at + 60_000
    assert told["uploadSequenceToken"]
    (group,) = stream.logs.describe_log_groups(logGroupNamePrefix=stream.group)["logGroups"]
    assert group["storedBytes"] == 3 * 26 + 1 + 4 + 1
    wrong = {"orderBy": "LastEventTime", "logStreamNamePrefix": "a"}
    told = refused(stream.logs.describe_log_streams, logGroupName=stream.group, **wrong)
    assert told[0] == "InvalidParameterException"


def test_a_stream_must_be_there_and_what_is_deleted_takes_its_events_along(aws):
    stream, at = Stream(aws), now()
    stream.put((at, "before"))
    assert refused(stream.put, (at, "x"), stream="absent") == (
        "ResourceNotFoundException",
        "The specified log stream does not exist.",
    )
    absent = {"logGroupName": "absent", "logStreamName": "s"}
    assert refused(stream.logs.get_log_events, **absent)[0] == "ResourceNotFoundException"
    stream.logs.delete_log_stream(**stream.where)
    assert refused(stream.get)[0] == "ResourceNotFoundException"
    stream.logs.create_log_stream(**stream.where)
    assert stream.messages() == []
    stream.put((at, "after"))
    stream.logs.delete_log_group(logGroupName=stream.group)
    assert refused(stream.filtered)[0] == "ResourceNotFoundException"
    stream.logs.create_log_group(logGroupName=stream.group)
    stream.logs.create_log_stream(**stream.where)
    assert stream.filtered() == []
    until(lambda: rows_of(aws, stream.group) == [], seconds=10)


def rows_of(aws, group: str) -> list:
    with contextlib.closing(sqlite3.connect(aws.home / "endpoint.sqlite3")) as database:
        return database.execute(
            'SELECT e.id FROM endpoint_logevent e JOIN endpoint_logstream s ON e.stream_id = s.id WHERE s."group" = ?',
            [group],
        ).fetchall()


def test_one_accounts_and_regions_events_are_its_own(aws):
    stream = Stream(aws)
    stream.put((now(), "mine"))
    for other in (aws.client("logs", region="us-east-1"), aws.staging_client("logs")):
        other.create_log_group(logGroupName=stream.group)
        other.create_log_stream(**stream.where)
        assert other.get_log_events(**stream.where)["events"] == []


def test_bytes_that_a_terminal_writes_come_back_as_they_were(aws):
    stream, text = Stream(aws), "\x1b[31mrot\x00\r\n\u2028ü😀"
    stream.put((now(), text))
    assert stream.messages() == [text]


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("start_live_tail", {"logGroupIdentifiers": ["arn:aws:logs:eu-west-1:111122223333:log-group:g"]}),
        ("start_query", {"logGroupName": "g", "startTime": 0, "endTime": 1, "queryString": "fields @message"}),
    ],
)
def test_what_is_not_written_says_so(aws, operation, parameters):
    assert refused(getattr(aws.client("logs"), operation), **parameters)[0] == "NotImplemented"
