"""Sessions in CloudWatch Logs, over loopback to the endpoint: in order, once each, whatever fails when."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest

from fleetops import clock
from fleetops.aws.errors import AccessDenied, Unavailable
from fleetops.clock import now
from sessions_app import spool as spools
from sessions_app.delivery import logs, services
from sessions_app.delivery import numbers as numbers_of
from sessions_app.delivery.models import DeliverySettings, LogDelivery
from sessions_app.exit_codes import telling
from sessions_app.models import Command, TerminalSession

from .reading import lines, numbers, once_each, read

pytestmark = pytest.mark.django_db

PUT, GET = ({"service": "logs", "operation": operation} for operation in ("PutLogEvents", "GetLogEvents"))


@pytest.fixture(autouse=True)
def quick(settings):
    settings.LOGS_SETTLE_SECONDS = 0.0


# --- as it should go ---


def test_a_session_is_told_in_the_agents_own_form_from_its_start_to_its_end(endpoint, recorded):
    made = recorded().show(b"$ \x1b[1mec", b"ho hi\x1b[0m\r\nhi\r\n").note("bo watches").show(b"$ exit\r\n")
    made.end().deliver()
    found = read(endpoint, made.row)
    once_each(found)
    session = made.session
    assert [event["fleetops"]["event"] for _, event in found] == ["start", "transcript", "note", "transcript", "end"]
    assert lines(found) == ["$ echo hi", "hi", "$ exit"]
    shown = found[1][1]
    assert shown["eventVersion"] == "1.0" and shown["target"] == {"id": session.instance_id}
    assert (shown["awsRegion"], shown["sessionId"]) == (session.region, session.ssm_session_id)
    assert shown["userIdentity"]["arn"].endswith(f":assumed-role/FleetOpsControlPlane/{session.user_name}")
    assert found[2][1]["note"] == {"type": "test", "text": "bo watches"}
    assert found[-1][1]["end"]["reason"] == "The shell has ended."
    assert made.row.done_at is not None and made.row.events == 5
    assert str(made.lag()) == "Complete, 5 events"


def test_what_a_single_command_runs_is_told_at_its_start_without_what_looks_like_a_secret(endpoint, recorded):
    made = recorded().show(b"x\r\n").seal()
    TerminalSession.objects.filter(pk=made.session.pk).update(
        kind="command",
        document="AWS-StartNonInteractiveCommand",
        parameters={"command": [telling("deploy --to prod --password hunter2")]},
    )
    made.deliver()
    start = read(endpoint, made.row)[0][1]["start"]
    assert (start["kind"], start["document"]) == ("command", "AWS-StartNonInteractiveCommand")
    assert start["parameters"] == {"command": ["deploy --to prod --password ••••"]}


def test_while_it_lives_each_sealed_piece_follows_and_the_page_says_how_far_behind_it_is(endpoint, recorded):
    made = recorded().show(b"one\r\n").seal()
    assert made.lag().text.endswith("behind")
    assert [each.pk for each in logs.due(now())] == [made.session.pk]
    made.deliver()
    assert lines(read(endpoint, made.row)) == ["one"]
    assert made.lag().text == "Up to date" and not logs.due(now()).exists()
    made.show(b"tw").seal()
    made.deliver()
    assert lines(read(endpoint, made.row)) == ["one"], "a line is told when it ends"
    assert not logs.due(now()).exists()
    made.show(b"o\r\nthree").seal()
    made.deliver()
    assert lines(read(endpoint, made.row)) == ["one", "two"]
    made.end().deliver()
    found = read(endpoint, made.row)
    once_each(found)
    assert lines(found) == ["one", "two", "three"] and not logs.due(now()).exists()


def test_commands_are_told_as_they_start_and_again_when_their_end_is_known(endpoint, recorded):
    made = recorded().show(b"x\r\n").seal()
    first = made.command("make test", cwd="/srv", os_user="ssm-user")
    made.command("ls", ended_at=now(), exit_code=0)
    made.deliver()
    found = read(endpoint, made.row)
    assert numbers(found, "command") == [1, 2] and numbers(found, "ended") == [2]
    told = next(event["command"] for _, event in found if event["fleetops"]["event"] == "command")
    assert (told["text"], told["cwd"], told["osUser"], told["source"]) == ("make test", "/srv", "ssm-user", "marks")
    assert not logs.due(now()).exists()
    Command.objects.filter(pk=first.pk).update(ended_at=first.started_at + timedelta(seconds=3), exit_code=2)
    assert logs.due(now()).exists()
    made.end(commands_done=False).deliver()
    found = read(endpoint, made.row)
    assert numbers(found, "ended") == [2, 1] or numbers(found, "ended") == [1, 2]
    ended = next(e["command"] for _, e in found if e["fleetops"]["event"] == "ended" and e["fleetops"]["n"] == 1)
    assert (ended["exitCode"], ended["lastedSeconds"]) == (2, 3.0)
    assert made.row.done_at is None and made.lag().text == "Waits for the command log"
    TerminalSession.objects.filter(pk=made.session.pk).update(commands_done_at=now())
    assert made.deliver().done_at is not None
    once_each(read(endpoint, made.row))


def test_ten_thousand_lines_go_in_batches_and_come_out_in_their_order(endpoint, recorded):
    made = recorded()
    for start in range(0, 30_000, 500):
        made.show(b"".join(b"line %d %s\r\n" % (n, b"x" * 60) for n in range(start, start + 500)))
        if start % 5_000 == 0:
            made.seal()
    made.end().deliver()
    found = read(endpoint, made.row)
    once_each(found)
    assert [line.split()[1] for line in lines(found)] == [str(n) for n in range(30_000)]


def test_an_account_has_nothing_delivered_unless_somebody_says_so_and_the_embedded_one_has(account):
    assert services.wanted(account).has_transcript and services.wanted(account).has_commands
    account.is_embedded = False
    assert not services.wanted(account).has_logs
    assert services.change(account, {"has_commands": True, "retention_days": 30}, actor="tests")
    row = DeliverySettings.objects.get(account=account)
    assert (row.has_transcript, row.has_commands, row.retention_days) == (False, True, 30)


# --- as it may go ---


def test_a_throttle_makes_it_wait_longer_each_time_and_then_all_of_it_comes(endpoint, recorded, faults):
    made = recorded().show(b"one\r\n").seal()
    with faults.on("throttle", match=PUT, rate=0.01):
        logs_client = endpoint.client("logs", region=made.session.region)
        with pytest.raises(logs_client.exceptions.ClientError):
            for _ in range(3):  # takes the one token that the bucket begins with
                logs_client.put_log_events(logGroupName="x", logStreamName="x", logEvents=[])
        first = made.deliver()
        assert first.tries == 1 and "asks for fewer calls" in first.error and first.sending is None
        assert made.lag().text.startswith("Waiting since")
        waits = [first.next_at - now(), made.deliver().next_at - now()]
        assert waits[1] > waits[0] + timedelta(seconds=0.5)
        assert not logs.due(now()).exists()
    made.show(b"two\r\n").end().deliver()
    found = read(endpoint, made.row)
    once_each(found)
    assert lines(found) == ["one", "two"] and made.row.waiting_since is None


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_is_looked_for_before_anything_is_put_again(endpoint, recorded, faults, when):
    made = recorded().show(b"one\r\n").seal()
    with faults.on("drop", match=PUT, when=when, times=1):
        row = made.deliver()
        assert row.sending["numbers"] == [1, 2] and row.events == 0
    made.show(b"two\r\n").end().deliver()
    found = read(endpoint, made.row)
    once_each(found)
    assert lines(found) == ["one", "two"] and made.row.sending is None


def test_until_it_has_settled_nothing_is_put_again(endpoint, recorded, faults, settings):
    settings.LOGS_SETTLE_SECONDS = 600
    made = recorded().show(b"one\r\n").seal()
    with faults.on("drop", match=PUT, when="before", times=1):
        made.deliver()
    assert made.deliver().sending is not None and read(endpoint, made.row) == []
    settings.LOGS_SETTLE_SECONDS = 0
    made.deliver()
    assert lines(read(endpoint, made.row)) == ["one"]


def test_of_a_put_that_was_taken_in_part_the_rest_alone_is_put_again(endpoint, recorded, faults):
    made = recorded().show(*(b"line %d\r\n" % n for n in range(40))).seal()
    with faults.on("drop", match=PUT, when="before", times=1):
        row = made.deliver()
    first, last = row.sending["numbers"]
    delivery = logs._Delivery(row, None, until=0)
    some = [delivery.teller.message(event) for event in delivery._again(row.sending)]
    assert [message.event.number for message in some] == list(range(first, last + 1)) and last > 5
    client = endpoint.client("logs", region=made.session.region)
    client.put_log_events(
        logGroupName=row.log_group,
        logStreamName=row.log_stream,
        logEvents=[{"timestamp": each.at_ms, "message": each.text.decode()} for each in some[2:5]],
    )
    with faults.on("throttle", match=PUT, rate=0.01, burst=1):
        with pytest.raises(client.exceptions.ClientError):
            for _ in range(2):
                client.put_log_events(logGroupName="x", logStreamName="x", logEvents=[])
        assert made.deliver().sending is not None, "a refusal undoes nothing of what may be there"
    made.end().deliver()
    found = read(endpoint, made.row)
    once_each(found)
    assert lines(found) == [f"line {n}" for n in range(40)]


def test_a_group_that_somebody_deletes_is_made_again(endpoint, recorded, account):
    services.change(account, {"log_group": "/fleetops/deleted", "retention_days": 14}, actor="tests")
    made = recorded().show(b"one\r\n").seal()
    made.deliver()
    client = endpoint.client("logs", region=made.session.region)
    client.delete_log_group(logGroupName="/fleetops/deleted")
    made.show(b"two\r\n").end().deliver()
    assert lines(read(endpoint, made.row)) == ["two"]
    group = client.describe_log_groups(logGroupNamePrefix="/fleetops/deleted")["logGroups"][0]
    assert group["retentionInDays"] == 14


def test_a_refused_permission_is_named_where_the_lag_stands(endpoint, recorded, faults):
    made = recorded().show(b"one\r\n").seal()
    refusal = {
        "code": "AccessDeniedException",
        "status": 400,
        "message": "not authorized to perform: logs:PutLogEvents",
    }
    with faults.on("error", match=PUT, **refusal):
        made.deliver()
    lag = made.lag()
    assert lag.kind == "warn" and "logs:PutLogEvents" in lag.error
    LogDelivery.objects.filter(pk=made.session.pk).update(waiting_since=now() - timedelta(minutes=11))
    assert made.lag().kind == "bad"
    assert [(where, count) for where, count, _ in numbers_of.standing()] == [("logs", 1), ("s3", 0)]


def test_after_a_day_without_aws_all_of_it_comes_under_its_own_moments(endpoint, recorded):
    day = 86_400_000_000
    began = int(now().timestamp() * 1e6) - day
    made = recorded(started_us=began).show(b"yesterday\r\n")
    made._times = itertools.count(began + day - 60_000_000, 250_000)
    made.journal.clock_us = lambda: next(made._times)
    made.show(b"today\r\n").end().deliver()
    found = read(endpoint, made.row)
    assert lines(found) == ["yesterday", "today"] and numbers(found) == [1, 2, 3, 4]
    assert made.row.late_events == 0 and made.row.events == 4
    at = {event["sessionData"][0]: at for at, event in found if "sessionData" in event}
    assert abs(at["yesterday"] - began // 1000) < 2_000


def test_after_sixteen_days_events_bear_a_later_moment_and_say_so(endpoint, recorded):
    began = int((now() - timedelta(days=16)).timestamp() * 1e6)
    made = recorded(started_us=began).show(b"long ago\r\n").end()
    made.deliver()
    found = read(endpoint, made.row)
    ((at, event),) = [(at, event) for at, event in found if "sessionData" in event]
    assert event["fleetops"]["isLate"] is True
    assert at > now().timestamp() * 1000 - 14 * 86_400_000
    assert event["eventTime"].startswith((now() - timedelta(days=16)).strftime("%Y-%m-%d"))
    assert made.row.late_events == 2 and "2 under a later moment" in made.lag().text


def test_events_that_the_group_no_longer_keeps_are_put_under_the_present_moment(endpoint, recorded, account):
    services.change(account, {"log_group": "/fleetops/short"}, actor="tests")
    began = int((now() - timedelta(days=3)).timestamp() * 1e6)
    made = recorded(started_us=began).show(b"three days ago\r\n").seal()
    client = endpoint.client("logs", region=made.session.region)
    client.create_log_group(logGroupName="/fleetops/short")
    client.put_retention_policy(logGroupName="/fleetops/short", retentionInDays=1)
    made.end().deliver()
    found = read(endpoint, made.row)
    assert lines(found) == ["three days ago"] and sorted(numbers(found)) == [1, 2, 3]
    assert made.row.done_at is not None and made.row.late_events == 2, "the start, too"


def test_a_worker_whose_claim_another_has_taken_writes_nothing_more(endpoint, recorded):
    made = recorded().show(b"one\r\n").seal()
    row = LogDelivery.objects.select_related("session").get(pk=made.session.pk)
    late = logs._Delivery(row, clock.uuid7(), until=logs.monotonic() + 10)
    made.deliver()
    with pytest.raises(logs.Lost):
        late.run()
    late.failed(Unavailable("x", "y"))
    made.end().deliver()
    once_each(read(endpoint, made.row))
    assert made.row.error == ""


def test_who_is_at_it_is_not_joined_until_the_claim_is_over(endpoint, recorded):
    made = recorded().show(b"one\r\n").seal()
    rows = LogDelivery.objects.filter(pk=made.session.pk)
    rows.update(claim=clock.uuid7(), claimed_until=now() + timedelta(seconds=30))
    assert not logs.due(now()).exists() and made.deliver().events == 0
    rows.update(claimed_until=now() - timedelta(seconds=1))
    assert logs.due(now()).exists() and made.deliver().events == 2


def test_an_account_that_is_away_is_not_called_for_each_of_its_sessions(endpoint, recorded, faults):
    first, second = recorded().show(b"one\r\n").seal(), recorded().show(b"two\r\n").seal()
    away = {}
    with faults.on("error", match={"service": "logs"}, code="ServiceUnavailable", status=503):
        logs.deliver(first.session.pk, away=away)
        calls = faults.rules()["error"]["matched"]
        logs.deliver(second.session.pk, away=away)
        assert faults.rules()["error"]["matched"] == calls
    assert second.row.error == first.row.error != ""
    assert not isinstance(next(iter(away.values())), AccessDenied)


def test_a_chunk_in_another_hosts_spool_is_waited_for_without_a_word(endpoint, recorded):
    made = recorded().show(b"one\r\n").seal()
    chunk = made.session.chunks.get()
    path = spools.chunk_path(made.session.pk, 1, chunk.sha256)
    path.rename(path.with_suffix(".elsewhere"))
    row = made.deliver()
    assert row.error == "" and row.next_at > now()
    path.with_suffix(".elsewhere").rename(path)
    made.end().deliver()
    once_each(read(endpoint, made.row))


def test_a_recording_that_is_not_what_was_sealed_is_not_told_and_says_so(endpoint, recorded):
    made = recorded().show(b"one\r\n").seal()
    path = spools.chunk_path(made.session.pk, 1, made.session.chunks.get().sha256)
    path.write_bytes(path.read_bytes() + b"x")
    assert "not those that were sealed" in made.deliver().error


@pytest.mark.django_db(transaction=True)
def test_a_round_delivers_several_sessions_at_once(endpoint, recorded):
    made = [recorded().show(b"session %d\r\n" % n).end() for n in range(12)]
    assert logs.deliver_due() == 12
    for n, each in enumerate(made):
        assert lines(read(endpoint, each.row)) == [f"session {n}"] and each.row.done_at is not None


def test_one_worker_delivers_at_a_time_and_any_where_valkey_is_away(valkey, settings):
    with logs.one_at_a_time() as first:
        assert first
        with logs.one_at_a_time() as second:
            assert not second
    with logs.one_at_a_time() as next_one:
        assert next_one
    nowhere = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}
    settings.CACHES = {"default": nowhere}
    with logs.one_at_a_time() as alone:
        assert alone
