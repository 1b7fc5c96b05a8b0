"""Recorded sessions of a real endpoint's account, for tests of their delivery."""

from __future__ import annotations

import itertools
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fleetops.aws.clients import forget_clients
from fleetops.clock import now
from fleetops.inventory.services import link_endpoint
from sessions_app import spool as spools
from sessions_app.delivery import logs, services
from sessions_app.delivery.models import LogDelivery
from sessions_app.journal import Journal
from sessions_app.models import Command, TerminalSession
from sessions_app.recording import Sealer
from sessions_app.states import SessionState
from tests.factories import make_instance, make_session, make_user
from tests.support.endpoint import running_endpoint
from tests.support.faults import Faults


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("delivery") / "endpoint") as running:
        yield running


@pytest.fixture
def faults(endpoint):
    faults = Faults(endpoint.handover)
    yield faults
    faults.delete()


@pytest.fixture
def account(db, endpoint):
    yield link_endpoint(
        endpoint.home / "handover.json", Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"]), actor="tests"
    )[0]
    forget_clients()


class Recorded:
    """A session with a journal of its own, delivered as its account wants it."""

    def __init__(self, account, started_us: int | None = None) -> None:
        region = account.regions.order_by("name").first()
        self.session = make_session(
            user=make_user(),
            instance=make_instance(region=region),
            owner="127.0.0.1:1:word",
            owner_epoch=1,
            owner_seen_at=now(),
            owner_host=spools.host_name(),
        )
        services.begin(self.session, account)
        began = started_us or int((now() - timedelta(minutes=1)).timestamp() * 1e6)
        created = datetime.fromtimestamp(began / 1e6, UTC)
        TerminalSession.objects.filter(pk=self.session.pk).update(created_at=created)
        self._times = itertools.count(began, 250_000)
        self.journal = Journal(spools.session_directory(self.session.pk), clock_us=lambda: next(self._times))
        self.sealer = Sealer(self.session, self.journal)
        self.commands = itertools.count(1)

    def show(self, *pieces: bytes) -> Recorded:
        for piece in pieces:
            self.journal.append_output([(piece, self.journal.state.output_sequence + 1)])
        return self

    def note(self, text: str) -> Recorded:
        self.journal.append_note(json.dumps({"type": "test", "text": text}).encode())
        return self

    def seal(self) -> Recorded:
        while self.sealer.offset < self.journal.end:
            self.sealer.seal(self.journal.end)
        return self

    def end(self, *, commands_done: bool = True) -> Recorded:
        self.seal()
        moment = now()
        TerminalSession.objects.filter(pk=self.session.pk).update(
            state=SessionState.ENDED,
            ended_at=moment,
            sealed_at=moment,
            end_reason="The shell has ended.",
            commands_done_at=moment if commands_done else None,
        )
        return self

    def command(self, text: str, **facts) -> Command:
        session = self.session
        return Command.objects.create(
            session=session,
            number=next(self.commands),
            user=session.user,
            user_name=session.user_name,
            instance_id=session.instance_id,
            instance_name=session.instance_name,
            account_id=session.account_id,
            **({"source": "marks", "text": text, "started_at": now(), "time_us": 0, "output_offset": 0} | facts),
        )

    def deliver(self) -> LogDelivery:
        """One go of a worker, whenever the next would be due."""
        LogDelivery.objects.filter(pk=self.session.pk).update(next_at=now())
        logs.deliver(self.session.pk)
        return self.row

    @property
    def row(self) -> LogDelivery:
        return LogDelivery.objects.get(pk=self.session.pk)

    def lag(self) -> services.Lag:
        found = services.with_lag(TerminalSession.objects.all()).get(pk=self.session.pk)
        return services.lag_of(found, now())


@pytest.fixture
def recorded(account):
    made = []

    def make(**facts) -> Recorded:
        made.append(Recorded(account, **facts))
        return made[-1]

    yield make
    for each in made:
        each.journal.close()
