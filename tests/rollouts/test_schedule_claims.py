"""Several workers at once with the same moments of a schedule, each in its own transactions."""

import threading
from datetime import timedelta

import pytest
from django.db import connection

from fleetops.clock import now
from fleetops.rollouts import plan
from fleetops.rollouts.models import Run
from fleetops.rollouts.scheduling import due, services
from fleetops.rollouts.scheduling.models import Occurrence, RunSchedule

from .fleet import make_fleet, make_owner

pytestmark = pytest.mark.django_db(transaction=True)


def test_workers_that_hold_the_same_moments_plan_and_start_one_run(roles):
    owner = make_owner(roles)
    make_fleet(2)
    wanted = plan.Wanted(kind="document", subject={"document": "say-it"}, targets="all")
    schedule = services.create(wanted, actor=owner, name="Nightly", expression="rate(1 hour)")
    services.run_now(schedule, actor=owner)
    moment = now() - timedelta(seconds=1)
    RunSchedule.objects.update(anchor=moment - timedelta(hours=1), next_at=moment)
    barrier, errors = threading.Barrier(3), []

    def work():
        try:
            barrier.wait(30)
            due.take_due()
            barrier.wait(30)
            for pk in Occurrence.objects.order_by("due_at").values_list("pk", flat=True):
                due.carry_out(pk)  # whoever has claimed it
        except BaseException as error:  # told below: a thread's own is lost
            errors.append(error)
            barrier.abort()
        finally:
            connection.close()

    workers = [threading.Thread(target=work) for _ in range(3)]
    for each in workers:
        each.start()
    for each in workers:
        each.join(60)
    assert errors == []
    rows = list(Occurrence.objects.order_by("state").values_list("state", "cause"))
    assert rows == [("skipped", "overlap"), ("started", "")]
    run = Run.objects.get()
    assert (run.state, run.events.filter(text__startswith="Released").count()) == ("running", 1)
