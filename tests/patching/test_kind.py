"""The kind `patch`: what a run is told, and whom it asks for proof."""

import pytest

from fleetops.aws.errors import AccessDenied
from fleetops.clock import now
from fleetops.rollouts.kinds import Proof
from patching import kind
from patching.verdict import SCAN
from tests.factories import make_account, make_document, make_instance, make_region, make_run, make_user

pytestmark = pytest.mark.django_db


def test_a_run_that_is_planned_again_has_a_snapshot_of_its_own():
    first = kind.PatchKind().check({"operation": SCAN})
    again = kind.PatchKind().check(first)
    assert again["snapshot_id"] != first["snapshot_id"]
    assert again | {"snapshot_id": ""} == first | {"snapshot_id": ""}


def test_where_the_document_is_not_known_yet_nothing_is_sent():
    known, new = make_instance(), make_instance(region=make_region(account=make_account("444455556666")))
    make_document(kind.DOCUMENT, region=known.region, owner="Amazon")
    subject = kind.PatchKind().check({"operation": SCAN})
    run = make_run(user=make_user(), instances=[known], kind="patch", subject=subject)
    assert [each.skipped for each in kind.PatchKind().fitness(run, [new, known])] == [kind.UNKNOWN, ""]


def test_a_region_that_does_not_tell_holds_up_no_other(monkeypatch):
    subject = kind.PatchKind().check({"operation": SCAN})
    mute = make_instance(region=make_region(account=make_account("444455556666")))
    run = make_run(user=make_user(), instances=[mute, make_instance()], kind="patch", subject=subject)

    def told(access, region, *, instance_ids, session_name):
        if access.account_id == "444455556666":
            raise AccessDenied("AccessDeniedException", "no", operation="ssm:DescribeInstancePatchStates")
        mine = subject["snapshot_id"]
        return [kind.PatchSummary(each, SCAN, now(), now(), snapshot_id=mine) for each in instance_ids]

    monkeypatch.setattr(kind, "summaries", told)
    monkeypatch.setattr(kind.reading, "keep_summaries", lambda pairs: None)
    run.targets.update(sent_at=now())
    first, second = kind.PatchKind().judge(run, list(run.targets.select_related("account", "region", "instance_row")))
    assert first.proof == Proof.WAITING and "AWS did not tell" in first.reason
    assert second.proof == Proof.GOOD
