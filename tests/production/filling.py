"""What stands in an installation that is backed up, and what comes back: run below one's own settings.

python -m tests.production.filling fill           users, a secret, an ended session in the store, an open one
python -m tests.production.filling write FILE     types into the open session until it is killed; the last line in FILE
python -m tests.production.filling look           what is there, as JSON
"""

import json
import os
import re
import sys
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleetops.settings")

import django

django.setup()

from django.contrib.auth import authenticate
from django.test import RequestFactory

from fleetops import vault
from fleetops.audit import chain
from fleetops.audit.models import AuditEvent
from fleetops.audit.record import record
from fleetops.clock import now
from fleetops.notify.models import Channel, ChannelKind
from sessions_app import recording, services, spool, upkeep
from sessions_app.journal import Journal
from sessions_app.models import RecordingChunk, TerminalSession
from sessions_app.recording import Sealer
from tests.factories import make_session, make_user

PASSWORD = "a long enough password 42"
HOOK = "https://hooks.example.com/a-hidden-word"


def fill() -> None:
    user = make_user("lena.fischer", password=PASSWORD)
    channel = Channel(name="on call", kind=ChannelKind.WEBHOOK, address="hooks.example.com")
    channel.sealed_url = vault.seal(HOOK, context=vault.context_of(channel, "sealed_url"))
    channel.save()
    for reason in ("done", "open"):
        session = make_session(
            user=user, reason=reason, owner="127.0.0.1:1:word", owner_epoch=1, owner_seen_at=now(), owner_host=_host()
        )
        journal = Journal(spool.session_directory(session.pk))
        journal.append_output([(b"line 0\r\n", 0)])
        sealer = Sealer(session, journal)
        sealer.seal(journal.end)
        journal.close()
        if reason == "done":
            services.ended(session, reason="The shell has ended.", sealed=True)
    assert upkeep.ship_chunks() == 2
    chain.Sealer().seal()


def write(told: Path) -> None:
    """Rows, seals, a journal that grows, chunks that are sealed and shipped: as fast as it goes."""
    session = TerminalSession.objects.get(reason="open")
    journal = Journal(spool.session_directory(session.pk))
    sealer, links = Sealer(session, journal), chain.Sealer()
    number = 0
    while True:
        number += 1
        journal.append_output([(b"line %d\r\n" % number, journal.state.output_sequence + 1)])
        if number % 5 == 0:
            sealer.seal(journal.end)
            record("sessions.attach", actor="worker", session=session, number=number)
            links.seal()
        if number % 20 == 0:
            upkeep.ship_chunks()
        part = told.with_suffix(".part")
        part.write_text(str(number))
        part.replace(told)


def look() -> None:
    """Seals the rest of the open session first, as a worker does once its owner is gone."""
    session = TerminalSession.objects.get(reason="open")
    journal = Journal(spool.session_directory(session.pk))
    upkeep._seal_all(session, journal)
    journal.close()
    upkeep.ship_chunks()
    chain.Sealer().seal()
    sessions = {each.reason: each for each in TerminalSession.objects.all()}
    chunks = {reason: list(each.chunks.order_by("number")) for reason, each in sessions.items()}
    text = "".join(text for _, code, text in recording.events(chunks["open"]) if code == "o")
    result = chain.verify()
    restored = AuditEvent.objects.filter(action="backup.restore").first()
    print(
        json.dumps(
            {
                "chain": result.problems,
                "sealed": result.sealed,
                "unsealed": result.unsealed,
                "recordings": {reason: recording.verify(each).faults for reason, each in sessions.items()},
                "done": "".join(text for _, code, text in recording.events(chunks["done"]) if code == "o"),
                "lines": [int(number) for number in re.findall(r"line (\d+)", text)],
                "unsent": RecordingChunk.objects.filter(sent_at=None).count(),
                "logs_in": authenticate(RequestFactory().post("/"), username="lena.fischer", password=PASSWORD)
                is not None,
                "hook": Channel.objects.get().url(),
                "restored": restored.details if restored else None,
            }
        )
    )


def _host() -> str:
    return spool.host_name()


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    {"fill": fill, "look": look}[verb]() if verb != "write" else write(Path(rest[0]))
