"""An instance, somebody who may attach roles to it, and a rule that lets it have some."""

import pytest

from fleetops.roles import reconcile
from fleetops.roles.models import Holding, RoleRule
from tests.factories import make_instance, make_user
from tests.support.clock import clock_file, following  # noqa: F401

from .aws import Ec2, Killed

CORE, DATA, OTHER = (f"arn:aws:iam::111122223333:instance-profile/{name}" for name in ("core", "data", "other"))


@pytest.fixture
def admin(db, roles):
    return make_user("mei", role="administrator")


@pytest.fixture
def rule(db):
    return RoleRule.objects.create(name="All may", targets="all", profile_name="*", allows_privileges=True)


@pytest.fixture
def aws(monkeypatch):
    return Ec2(monkeypatch)


@pytest.fixture
def bare(db):
    """An instance without a role, and so without a connection."""
    return make_instance(name="bare", profile_arn="", ping_status="ConnectionLost")


def loop(times: int = 1) -> None:
    """What beat and the workers do, as if everything that waits for a try were due."""
    from fleetops.clock import now

    for _ in range(times):
        reconcile.note_ends(at=now())
        reconcile.note_drift(at=now())
        Holding.objects.filter(due_at__gt=now(), failures__gt=0).update(due_at=now())
        for _, _, keys in reconcile.claim_due(at=now()):
            try:
                reconcile.bring(keys)
            except Killed:
                continue
