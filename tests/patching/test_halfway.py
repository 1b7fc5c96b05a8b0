"""A change that AWS took in part and then refused for an hour is gone on with, or put back, by a person's click."""

from dataclasses import replace
from datetime import timedelta

import pytest

from fleetops.audit.models import AuditEvent
from fleetops.aws import patching as aws
from fleetops.clock import now
from fleetops.errors import UserError
from patching import halfway, mirror, services, writing
from patching.models import Mirror, PatchBaseline, PatchGroup, Write
from patching.states import WriteState
from tests.factories import make_user
from tests.support.faults import Faults

from .conftest import UBUNTU

THERE = UBUNTU.with_name("ubuntu-there")
LATER = timedelta(hours=2)
BACKEND = "django.contrib.auth.backends.ModelBackend"


def stop_half_way(endpoint, operation, deed):
    """Do a deed whose second call is refused, until it is given up."""
    with (
        Faults(endpoint.handover).on("error", code="AccessDeniedException", status=400, match={"operation": operation}),
        pytest.raises(writing.Unfinished),
    ):
        deed()
    return given_up()


def given_up():
    write = Write.objects.get(state=WriteState.OPEN)
    writing.heal(write.pk, now=now() + LATER)
    write.refresh_from_db()
    assert write.state == WriteState.REFUSED and halfway.pending(Write.objects.all()) == [write]
    return write


def click(deed, write, owner):
    made = deed(write, actor=owner)
    assert halfway.pending(Write.objects.all()) == []  # under way: the buttons are gone
    with pytest.raises(UserError, match="Somebody has had this"):
        deed(write, actor=owner)
    writing.heal(made.pk, now=now())
    made.refresh_from_db()
    assert (made.state, made.text, made.batch) == (WriteState.DONE, "", write.batch)
    assert halfway.pending(Write.objects.all()) == []
    assert AuditEvent.objects.filter(action=writing.ACTIONS[made.deed], outcome="done").exists()


def names(ssm):
    listed = ssm.describe_patch_baselines(MaxResults=100)["BaselineIdentities"]
    return sorted(each["BaselineName"] for each in listed if each["BaselineName"].startswith("ubuntu-"))


@pytest.mark.parametrize("is_met", [False, True])  # by the mirror, in the meantime
@pytest.mark.parametrize("deed", [halfway.resume, halfway.roll_back])
def test_a_baseline_that_was_made_and_not_read_back(region, owner, endpoint, ssm, deed, is_met):
    write = stop_half_way(endpoint, "GetPatchBaseline", lambda: services.create(region, UBUNTU, actor=owner))
    if is_met:
        mirror.read(Mirror.objects.create(region=region).pk, now=now())
    click(deed, write, owner)
    if deed is halfway.resume:
        assert names(ssm) == [UBUNTU.name]
        row = PatchBaseline.objects.get(name=UBUNTU.name)
        assert row.kept_version == row.version == 1 and not row.is_drifted
    else:
        assert names(ssm) == [] and not PatchBaseline.objects.present().filter(name=UBUNTU.name).exists()


@pytest.mark.parametrize("deed", [halfway.resume, halfway.roll_back])
def test_a_change_that_was_not_read_back(region, owner, endpoint, ssm, monkeypatch, deed):
    there = services.create(region, THERE, actor=owner)
    wider = replace(THERE, rejected=("snapd",))
    faults, real = Faults(endpoint.handover), aws.update_baseline

    def changes(*args, **facts):
        real(*args, **facts)
        faults.put("then", "error", code="AccessDeniedException", status=400, match={"operation": "GetPatchBaseline"})

    monkeypatch.setattr(aws, "update_baseline", changes)
    with pytest.raises(writing.Unfinished):
        services.update(there, wider, based_on=1, actor=owner)
    monkeypatch.undo()
    faults.delete()
    write = given_up()
    click(deed, write, owner)
    said = ssm.get_patch_baseline(BaselineId=there.baseline_id).get("RejectedPatches", [])
    there.refresh_from_db()
    assert said == (["snapd"] if deed is halfway.resume else []) and not there.is_drifted


@pytest.mark.parametrize("deed", [halfway.resume, halfway.roll_back])
def test_a_group_that_lost_its_baseline_and_did_not_get_the_new_one(region, owner, endpoint, ssm, deed):
    old = services.create(region, THERE, actor=owner)
    new = services.create(region, UBUNTU.with_name("ubuntu-other"), actor=owner)
    services.register(old, "web", actor=owner)
    refused = "RegisterPatchBaselineForPatchGroup"
    write = stop_half_way(endpoint, refused, lambda: services.register(new, "web", actor=owner))
    assert "its nodes have the default" in write.part
    click(deed, write, owner)
    wanted = new if deed is halfway.resume else old
    said = ssm.get_patch_baseline_for_patch_group(PatchGroup="web", OperatingSystem="UBUNTU")["BaselineId"]
    assert said == wanted.baseline_id and PatchGroup.objects.get().baseline == wanted


def test_the_buttons_stand_on_the_pages_for_who_may_and_a_change_that_did_not_stop_has_none(
    region, owner, endpoint, client
):
    write = stop_half_way(endpoint, "GetPatchBaseline", lambda: services.create(region, UBUNTU, actor=owner))
    client.force_login(make_user(role="viewer"), backend=BACKEND)
    page = client.get("/patching/baselines/").content.decode()
    assert "stands half way" in page and "Go on" not in page
    assert client.post(f"/patching/baselines/writes/{write.pk}/resume/").status_code == 403
    client.force_login(owner, backend=BACKEND)
    for address in ("/patching/baselines/", f"/patching/baselines/writes/{write.batch}/"):
        assert f"/patching/baselines/writes/{write.pk}/roll-back/" in client.get(address).content.decode()
    assert client.post(f"/patching/baselines/writes/{write.pk}/resume/").status_code == 302
    assert client.post(f"/patching/baselines/writes/{write.pk}/roll-back/").status_code == 409
    writing.heal(Write.objects.get(state=WriteState.OPEN).pk, now=now())
    done = Write.objects.get(state=WriteState.DONE)
    with pytest.raises(UserError, match="does not stand half way"):
        halfway.resume(done, actor=owner)


def test_copies_to_several_places_are_put_down_in_one_order_whoever_asks(accounts, owner):
    places = [each for account in accounts for each in account.regions.all()]
    orders = []
    for asked in (places, places[::-1]):
        batch = services.copy(UBUNTU.with_name(f"ubuntu-{len(orders)}"), asked, actor=owner)
        orders.append(list(Write.objects.filter(batch=batch).order_by("pk").values_list("region", flat=True)))
    assert orders[0] == orders[1] and len(orders[0]) == 3
