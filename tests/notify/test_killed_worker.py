"""Kill -9 of real workers in the middle of a heap of notices: each arrives, and what arrives twice bears one id."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import quote

import pytest
from django.db import connection, connections

from fleetops.celery import app
from fleetops.clock import now
from fleetops.notify import tasks
from fleetops.notify.models import Delivery, DeliveryState
from tests.notify.test_outbox import chief, hook, inside, told  # noqa: F401  (fixtures)
from tests.support.stack import until
from tests.support.valkey import running_valkey
from tests.test_fetch import receiver  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("roles"), pytest.mark.chaos]

NOTICES = 50


def database_url() -> str:
    facts = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite://{facts['NAME']}"
    host, port = quote(facts["HOST"], safe=""), facts["PORT"]
    return f"postgresql://{facts['USER']}:{quote(facts['PASSWORD'])}@{host}:{port}/{facts['NAME']}"


@contextmanager
def worker(broker: str):
    """A Celery worker as the supervisor starts it, with all its children in a group of its own."""
    environment = os.environ | {
        "FLEETOPS_DATABASE_URL": database_url(),
        "FLEETOPS_VALKEY_URL": broker,
        "FLEETOPS_FETCH_ALLOWED_NETWORKS": "127.0.0.0/8",
    }
    options = (
        "--pool",
        "prefork",
        "--concurrency",
        "2",
        "--without-gossip",
        "--without-mingle",
        "--loglevel",
        "WARNING",
    )
    command = [sys.executable, "-m", "celery", "-A", "fleetops", "worker", *options]
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def beat(broker: str) -> None:
    with app.connection_for_write(broker.replace("unix:", "redis+socket:")) as channel:
        tasks.deliver_due.apply_async(connection=channel)


def still_pending() -> set[str]:
    return {str(pk) for pk in Delivery.objects.filter(state=DeliveryState.PENDING).values_list("pk", flat=True)}


@pytest.mark.timeout(120)
def test_killed_workers_lose_nothing_and_repeat_only_what_may_have_arrived(hook, receiver, tmp_path):  # noqa: F811
    arrivals, lock, doomed, reached = [], threading.Lock(), {}, threading.Event()

    class Watching(receiver.RequestHandlerClass):
        def do_POST(self):
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                arrivals.append((said["id"], said["title"]))
                is_the_moment = len(arrivals) == doomed.get("after")
            if is_the_moment:  # it was taken, and the worker dies before it hears so
                os.killpg(doomed["pid"], signal.SIGKILL)
                reached.set()
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    receiver.RequestHandlerClass = Watching
    receiver.handle_error = lambda *_: None  # who was killed does not hear the answer
    for number in range(NOTICES):
        told(dedup_key=str(number), title=f"Thing {number}")
    may_repeat: set[str] = set()
    with running_valkey(tmp_path / "run") as socket:
        broker = f"unix://{socket}"
        for after in (7, 25):
            reached.clear()
            with worker(broker) as process:
                doomed.update(pid=process.pid, after=after)
                beat(broker)
                assert reached.wait(40)
                process.wait(10)
            until(lambda: not has_open_requests(receiver), what="the receiver is done with what it took")
            may_repeat |= {taken for taken, _ in arrivals} & still_pending()
            assert len(may_repeat) >= 1 and len(still_pending()) > NOTICES - after - 2
            # As if the minute had passed for which the dead held their claims.
            Delivery.objects.filter(state=DeliveryState.PENDING).update(claimed_until=now() - timedelta(seconds=1))
        doomed.clear()
        with worker(broker):
            beat(broker)
            until(lambda: not still_pending(), seconds=40, what="all is sent")
    connections.close_all()
    ids = [taken for taken, _ in arrivals]
    titles = dict(arrivals)
    assert sorted(titles.values()) == sorted(f"Thing {number}" for number in range(NOTICES))
    assert set(ids) == {
        str(pk) for pk in Delivery.objects.filter(state=DeliveryState.SENT).values_list("pk", flat=True)
    }
    assert {each for each in ids if ids.count(each) > 1} == may_repeat
    assert max(ids.count(each) for each in may_repeat) <= 3


def has_open_requests(server) -> bool:
    return any(each.name.endswith("(process_request_thread)") for each in threading.enumerate())
