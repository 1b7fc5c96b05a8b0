"""A recording that is being read is cut off once its reader may no longer read it, in words and audited."""

import json
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async as do
from django.contrib.auth.models import Group
from django.contrib.sessions.models import Session as LogIn
from django.test import AsyncClient
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.identity import tokens
from fleetops.policy import services as policy
from sessions_app import downloads, services
from sessions_app import spool as spools
from sessions_app.journal import Journal
from sessions_app.recording import Sealer
from tests.factories import make_instance, make_session, make_user

pytestmark = pytest.mark.django_db(transaction=True)

LINES = 30


@pytest.fixture
def people(roles):
    return {role: make_user(role, role=role) for role in ("operator", "auditor", "administrator")}


@pytest.fixture(autouse=True)
def at_each_piece(monkeypatch):
    monkeypatch.setattr(downloads, "RECHECK_SECONDS", 0.0)


@pytest.fixture
def recorded(people, spool):
    """The operator's session on an instance of prod, with a recording of more than a megabyte: many pieces."""
    instance = make_instance(tags={"env": "prod"})
    session = make_session(user=people["operator"], instance=instance, owner_host=spools.host_name(), owner_epoch=1)
    moments = iter(range(10**15, 10**16, 500_000))
    journal = Journal(spools.session_directory(session.pk), clock_us=lambda: next(moments))
    for number in range(LINES):
        journal.append_output([(b"%d " % number * 16_000, number)])
    sealer = Sealer(session, journal)
    while sealer.offset < journal.end:
        sealer.seal(journal.end)
    journal.close()
    services.ended(session, reason="The shell has ended.", sealed=True)
    return session


def log_in_over(people, recorded):
    LogIn.objects.all().delete()


def password_changed(people, recorded):
    people["auditor"].set_password("another one, which is long")
    people["auditor"].save()


def switched_off(people, recorded):
    people["auditor"].is_active = False
    people["auditor"].save()


def role_taken(people, recorded):
    people["auditor"].groups.remove(Group.objects.get(name="auditor"))


def denied_by_rule(people, recorded):
    policy.create_rule(
        actor="test", name="No", effect="deny", everybody=True, targets="env=prod", deeds=["read_recording"],
        confirmed=True, note="There is a freeze.",
    )  # fmt: skip


async def begin(client, path, headers=None, **query):
    """The answer's pieces, one by one, and the first of them."""
    answer = await client.get(path, query, headers=headers)
    assert answer.status_code == 200
    pieces = aiter(answer.streaming_content)
    return pieces, await anext(pieces)


async def rest(pieces) -> bytes:
    return b"".join([piece async for piece in pieces])


@pytest.mark.parametrize("query", [{}, {"play": "1"}, {"version": "3"}])
@pytest.mark.parametrize(
    ("taken", "words"),
    [
        (log_in_over, "Your log-in has ended"),
        (password_changed, "Your log-in has ended"),
        (switched_off, "Your log-in has ended"),
        (role_taken, "You may no longer read recordings of others."),
        (denied_by_rule, "Taken away by the access policy. Rule “No” denies it"),
    ],
)
async def test_a_reader_who_may_no_longer_read_is_cut_off(people, recorded, taken, words, query):
    client = AsyncClient()
    await client.aforce_login(people["auditor"], backend="django.contrib.auth.backends.ModelBackend")
    pieces, first = await begin(client, reverse("sessions:cast", args=[recorded.pk]), **query)
    await do(taken)(people, recorded)
    after = await rest(pieces)
    last = json.loads(first.splitlines()[-1])
    (line,) = map(json.loads, after.splitlines())  # nothing of the recording, and why
    assert line[1] == "o" and words in line[2] and "left out" in line[2]
    assert line[0] == (0 if query.get("version") == "3" else last[0])
    event = await AuditEvent.objects.aget(action="sessions.recording.revoke")
    assert (event.actor_name, event.session_id, event.outcome) == ("auditor", str(recorded.pk), "denied")
    assert words in event.reason


async def test_who_still_may_reads_to_the_end(people, recorded):
    client = AsyncClient()
    await client.aforce_login(people["auditor"], backend="django.contrib.auth.backends.ModelBackend")
    pieces, first = await begin(client, reverse("sessions:cast", args=[recorded.pk]))
    lines = (first + await rest(pieces)).splitlines()[1:]
    assert sum(len(json.loads(line)[2]) for line in lines) == sum(len(b"%d " % n * 16_000) for n in range(LINES))
    assert not await AuditEvent.objects.filter(action="sessions.recording.revoke").aexists()


@pytest.mark.parametrize("end", ["revoked_at", "expires_at"])
async def test_a_download_by_a_token_ends_with_the_token(people, recorded, end):
    operator = people["operator"]
    tomorrow = now() + timedelta(days=1)
    token, text = await do(tokens.create)(
        operator, actor=operator, name="ci", scopes=["recordings:read"], expires_at=tomorrow
    )
    bearer = {"Authorization": f"Bearer {text}"}
    pieces, _ = await begin(AsyncClient(), f"/api/v1/sessions/{recorded.pk}/recording/", bearer)
    await type(token).objects.filter(pk=token.pk).aupdate(**{end: now()})
    assert "Your log-in has ended" in (await rest(pieces)).decode()


async def test_a_reader_is_asked_about_once_a_second(people, recorded, monkeypatch):
    moments = iter([100.0, 100.5, 101.0, *[101.5] * 1000])
    monkeypatch.setattr(downloads, "RECHECK_SECONDS", 1.0)
    monkeypatch.setattr(downloads, "monotonic", lambda: next(moments))
    client = AsyncClient()
    await client.aforce_login(people["auditor"], backend="django.contrib.auth.backends.ModelBackend")
    pieces, _ = await begin(client, reverse("sessions:cast", args=[recorded.pk]))
    await do(role_taken)(people, recorded)
    assert len(await anext(pieces)) > 1000  # at 100.5: not yet
    assert "no longer" in (await rest(pieces)).decode()  # at 101.0
