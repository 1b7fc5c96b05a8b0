"""Baselines and groups mirrored from the real endpoint, and written to it: conflicts, kills and lost answers too."""

from dataclasses import replace
from datetime import timedelta

import pytest

from fleetops.audit.models import AuditEvent
from fleetops.aws import patching as aws
from fleetops.aws.errors import AwsError, Unavailable
from fleetops.clock import now
from fleetops.errors import UserError
from patching import mirror, services, tasks, writing
from patching.content import Content
from patching.families import OPERATING_SYSTEMS
from patching.models import BaselineVersion, Mirror, PatchBaseline, PatchGroup, Write
from patching.states import Deed, WriteState
from tests.support.faults import Faults

from .conftest import STANDARD, UBUNTU, read_all

pytestmark = pytest.mark.django_db(transaction=True)


def of_aws(ssm, baseline: PatchBaseline) -> Content:
    told = ssm.get_patch_baseline(BaselineId=baseline.baseline_id)
    return Content.of_aws(told["OperatingSystem"], told)


def change_outside(ssm, baseline: PatchBaseline, **changed) -> None:
    ssm.update_patch_baseline(BaselineId=baseline.baseline_id, **changed)


def reread(baseline: PatchBaseline) -> PatchBaseline:
    """As a page does a minute later."""
    PatchBaseline.objects.filter(pk=baseline.pk).update(read_at=now() - timedelta(minutes=1))
    fresh = PatchBaseline.objects.select_related("account", "region").get(pk=baseline.pk)
    assert mirror.look(fresh, session_name="tests", now=now()) == ""
    return fresh


# --- AWS to us -------------------------------------------------------------------------------------------------------


def test_every_region_is_read_with_its_groups_defaults_and_content(accounts, region, ssm):
    made = ssm.create_patch_baseline(OperatingSystem="UBUNTU", Name="by-hand", RejectedPatches=["snapd"])["BaselineId"]
    ssm.register_patch_baseline_for_patch_group(BaselineId=made, PatchGroup="web eu")
    ssm.register_default_patch_baseline(BaselineId=made)
    read_all()
    here = PatchBaseline.objects.filter(region=region)
    assert set(here.values_list("operating_system", flat=True)) == set(OPERATING_SYSTEMS)
    row = here.get(baseline_id=made)
    assert (row.owner, row.is_default, row.version, row.kept_version, row.is_drifted) == ("Self", True, 1, 1, False)
    assert row.said.rejected == ("snapd",) and row.read_at and row.made_at
    assert list(row.groups.values_list("name", "operating_system")) == [("web eu", "UBUNTU")]
    of_ubuntu = here.get(operating_system="UBUNTU", owner="AWS")
    assert not of_ubuntu.is_default and of_ubuntu.said.rules and of_ubuntu.baseline_id.startswith("arn:")
    assert PatchBaseline.objects.filter(owner="AWS", is_default=True, operating_system="DEBIAN").count() == 3
    assert mirror.claim_due(now=now()) == [] and len(mirror.claim_due(now=now() + timedelta(hours=1))) == 3

    ssm.register_default_patch_baseline(BaselineId=of_ubuntu.baseline_id)
    ssm.deregister_patch_baseline_for_patch_group(BaselineId=made, PatchGroup="web eu")
    ssm.delete_patch_baseline(BaselineId=made)
    mirror.read(region.patch_mirror.pk, now=now())
    row.refresh_from_db()
    assert row.gone_at and not PatchGroup.objects.exists()
    assert here.get(pk=of_ubuntu.pk).is_default


def test_a_reading_takes_its_calls_by_the_page_and_reads_awss_own_once_a_day(accounts, region, endpoint, ssm):
    for number in range(3):
        ssm.create_patch_baseline(OperatingSystem="UBUNTU", Name=f"own-{number}")
    read_all()
    asked = []
    real = aws.get_baseline
    aws.get_baseline = lambda *args, **facts: asked.append(facts["baseline_id"]) or real(*args, **facts)
    try:
        mirror.read(region.patch_mirror.pk, now=now())
    finally:
        aws.get_baseline = real
    assert len(asked) == 3 and all(each.startswith("pb-") for each in asked)


def test_a_baseline_that_is_deleted_during_a_reading_spoils_nothing(region, owner, ssm, monkeypatch):
    gone, stays = (
        ssm.create_patch_baseline(OperatingSystem="UBUNTU", Name=name)["BaselineId"] for name in ("gone", "stays")
    )
    ours = services.create(region, STANDARD, actor=owner)
    of_groups, of_one, asked = aws.group_pages, aws.get_baseline, []

    def deletes_ours(*args, **facts):  # after the list, before the rows are written
        services.delete(ours, actor=owner)
        return of_groups(*args, **facts)

    def deletes_theirs(*args, **facts):  # after the rows are written
        asked.append(facts["baseline_id"])
        ssm.delete_patch_baseline(BaselineId=gone)
        return of_one(*args, **facts)

    mirror_row = Mirror.objects.create(region=region)
    monkeypatch.setattr(aws, "group_pages", deletes_ours)
    real = mirror._write_groups

    def then(*args, **facts):
        real(*args, **facts)
        monkeypatch.setattr(aws, "get_baseline", deletes_theirs)

    monkeypatch.setattr(mirror, "_write_groups", then)
    mirror.read(mirror_row.pk, now=now())
    monkeypatch.undo()
    mirror_row.refresh_from_db()
    assert mirror_row.error == "" and mirror_row.read_at
    rows = {row.baseline_id: row for row in PatchBaseline.objects.filter(owner="Self")}
    assert rows[gone].gone_at and rows[stays].gone_at is None and rows[stays].read_at
    assert rows[ours.baseline_id].gone_at and gone in asked and ours.baseline_id not in asked


def test_what_cannot_be_read_says_why_and_keeps_what_there_was(accounts, region, endpoint):
    read_all()
    before = PatchBaseline.objects.present().count()
    faults = Faults(endpoint.handover)
    for operation in ("DescribePatchBaselines", "DescribePatchGroups"):
        with faults.on("error", code="AccessDeniedException", status=400, match={"operation": operation}):
            mirror.read(region.patch_mirror.pk, now=now())
        assert f"ssm:{operation}" in Mirror.objects.get(region=region).error
    assert PatchBaseline.objects.present().count() == before


def test_a_change_outside_stands_as_a_difference_until_it_is_accepted_or_put_back(region, owner, ssm):
    made = services.create(region, STANDARD, actor=owner)
    change_outside(ssm, made, RejectedPatches=["kernel*", "docker*"])
    found = reread(made)
    assert found.is_drifted and (found.version, found.kept_version) == (2, 1)
    assert list(found.versions.values_list("number", "origin", "actor_name")) == [
        (2, "aws", ""),
        (1, "fleetops", "paula"),
    ]
    with pytest.raises(UserError, match="once more"):
        services.accept(found, number=1, actor=owner)
    services.accept(found, number=2, actor=owner)
    found = reread(found)
    assert not found.is_drifted and found.kept_version == 2
    change_outside(ssm, made, RejectedPatches=[])
    assert reread(made).is_drifted
    change_outside(ssm, made, RejectedPatches=["docker*", "kernel*"])  # by hand, in another order
    assert not reread(made).is_drifted


# --- us to AWS -------------------------------------------------------------------------------------------------------


def test_a_baseline_is_made_changed_and_deleted_and_all_of_it_is_audited(region, owner, ssm):
    made = services.create(region, STANDARD, tags={"team": "core"}, actor=owner)
    assert of_aws(ssm, made).digest == STANDARD.digest == made.said.digest
    assert reread(made).tags == {"team": "core"}
    wider = replace(STANDARD, approved=("openssl",), approved_level="CRITICAL", rejected=(), rejected_action="BLOCK")
    services.update(made, wider, based_on=1, actor=owner)
    assert of_aws(ssm, made).digest == wider.digest and (made.version, made.kept_version) == (2, 2)
    with pytest.raises(UserError, match="Nothing is changed"):
        services.update(made, wider, based_on=2, actor=owner)
    with pytest.raises(writing.Conflict, match="has version 2 by now"):
        services.update(made, STANDARD, based_on=1, actor=owner)
    services.delete(made, actor=owner)
    made.refresh_from_db()
    assert made.gone_at and made.baseline_id not in str(ssm.describe_patch_baselines(MaxResults=100))
    told = list(AuditEvent.objects.filter(action__startswith="patching.").order_by("pk"))
    assert [each.action for each in told] == [f"patching.baseline.{verb}" for verb in ("create", "update", "delete")]
    assert {each.actor_name for each in told} == {"paula"} and {each.account_id for each in told} == {"111122223333"}
    changed = told[1].details
    assert "  kernel*" in changed["before"] and "  openssl" in changed["after"]
    assert {"kind": "add", "line": "openssl"} in changed["changes"]


def test_what_was_changed_behind_our_back_is_not_written_over(region, owner, ssm):
    made = services.create(region, STANDARD, actor=owner)
    change_outside(ssm, made, RejectedPatches=["docker*"])
    with pytest.raises(writing.Conflict, match="was changed outside FleetOps"):
        services.update(made, replace(STANDARD, rejected=()), based_on=1, actor=owner)
    assert of_aws(ssm, made).rejected == ("docker*",)
    with pytest.raises(writing.Conflict):
        services.delete(PatchBaseline.objects.get(pk=made.pk), actor=owner)
    assert [each.state for each in Write.objects.all()] == [WriteState.DONE, WriteState.CONFLICT, WriteState.CONFLICT]
    assert AuditEvent.objects.filter(action="patching.baseline.update", outcome="failed").count() == 1
    found = PatchBaseline.objects.select_related("account", "region").get(pk=made.pk)
    assert mirror.look(found, session_name="tests", now=now()) == "" and found.is_drifted
    services.update(found, replace(STANDARD, rejected=()), based_on=2, actor=owner)  # having seen it
    assert of_aws(ssm, made).rejected == () and not found.is_drifted


def test_awss_own_are_not_changed_and_defaults_and_groups_move(region, owner, ssm):
    read_all()
    own = PatchBaseline.objects.select_related("account", "region").get(
        region=region, operating_system="UBUNTU", owner="AWS"
    )
    with pytest.raises(UserError, match="AWS's own"):
        services.update(own, UBUNTU, based_on=1, actor=owner)
    made, other = (services.create(region, UBUNTU.with_name(name), actor=owner) for name in ("ubuntu-a", "ubuntu-b"))
    services.make_default(made, actor=owner)
    assert ssm.get_default_patch_baseline(OperatingSystem="UBUNTU")["BaselineId"] == made.baseline_id
    own.refresh_from_db()
    made.refresh_from_db()
    assert (own.is_default, made.is_default) == (False, True)
    with pytest.raises(UserError, match="is the default"):
        services.delete(made, actor=owner)
    ssm.register_default_patch_baseline(BaselineId=other.baseline_id)
    with pytest.raises(writing.Conflict, match="it is ubuntu-b now"):
        services.make_default(own, actor=owner)
    with pytest.raises(UserError, match="1 to 256 letters"):
        services.register(made, "web,eu", actor=owner)
    services.register(made, "web eu", actor=owner)
    services.register(other, "web eu", actor=owner)  # it moves
    said = ssm.get_patch_baseline_for_patch_group(PatchGroup="web eu", OperatingSystem="UBUNTU")
    assert said["BaselineId"] == other.baseline_id and PatchGroup.objects.get().baseline == other
    with pytest.raises(UserError, match="is registered for web eu"):
        services.delete(PatchBaseline.objects.get(pk=other.pk), actor=owner)
    services.deregister(other, "web eu", actor=owner)
    assert not PatchGroup.objects.exists() and not ssm.describe_patch_groups()["Mappings"]
    ssm.register_patch_baseline_for_patch_group(BaselineId=other.baseline_id, PatchGroup="web eu")
    with pytest.raises(writing.Conflict, match="another baseline outside FleetOps"):
        services.register(made, "web eu", actor=owner)


def test_what_aws_refuses_is_told_and_ends(region, owner, endpoint):
    faults = Faults(endpoint.handover)
    with (
        faults.on(
            "error", code="ResourceLimitExceededException", status=400, match={"operation": "CreatePatchBaseline"}
        ),
        pytest.raises(AwsError, match="ResourceLimitExceeded"),
    ):
        services.create(region, STANDARD, actor=owner)
    write = Write.objects.get()
    assert write.state == WriteState.REFUSED and "ResourceLimitExceeded" in write.text
    assert writing.due(now=now() + timedelta(hours=2)) == []


# --- deaths and lost answers -----------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("call", ["create_baseline", "update_baseline", "delete_baseline", "register_group"])
def test_who_dies_beside_a_call_leaves_it_to_be_healed_and_it_is_done_once(
    region, owner, ssm, monkeypatch, call, where
):
    made = services.create(region, UBUNTU, actor=owner) if call != "create_baseline" else None
    deeds = {
        "create_baseline": lambda: services.create(region, UBUNTU, actor=owner),
        "update_baseline": lambda: services.update(made, replace(UBUNTU, rejected=("snapd",)), based_on=1, actor=owner),
        "delete_baseline": lambda: services.delete(made, actor=owner),
        "register_group": lambda: services.register(made, "web", actor=owner),
    }
    real = getattr(aws, call)

    def dies(*args, **facts):
        if where == "after":
            real(*args, **facts)
        raise Killed

    monkeypatch.setattr(aws, call, dies)
    with pytest.raises(Killed):
        deeds[call]()
    monkeypatch.undo()
    write = Write.objects.get(state=WriteState.OPEN)
    assert writing.due(now=now()) == []  # it is claimed for as long as its process may live
    if made is not None:
        with pytest.raises(UserError, match="is just being written"):
            services.make_default(made, actor=owner)
    mirror.read(Mirror.objects.create(region=region).pk, now=now())  # a reading in between spoils nothing
    later = now() + timedelta(minutes=5)
    assert writing.due(now=later) == [write.pk]
    writing.heal(write.pk, now=later)
    write.refresh_from_db()
    assert write.state == WriteState.DONE
    listed = ssm.describe_patch_baselines(MaxResults=100)["BaselineIdentities"]
    own = [each["BaselineId"] for each in listed if each["BaselineName"] == UBUNTU.name]
    assert len(own) == (0 if call == "delete_baseline" else 1)
    row = PatchBaseline.objects.get(name=UBUNTU.name)  # one row, whoever wrote it
    if call == "update_baseline":
        assert of_aws(ssm, row).rejected == ("snapd",) and (row.version, row.is_drifted) == (2, False)
    if call == "create_baseline":
        assert BaselineVersion.objects.get(baseline=row).number == 1 and row.kept_version == 1
    action = writing.ACTIONS[Deed(write.deed)]
    assert AuditEvent.objects.filter(action=action, outcome="done", actor_name="paula").count() == 1
    writing.heal(write.pk, now=later + timedelta(minutes=5))  # nothing is left to do
    assert AuditEvent.objects.filter(action=action).count() == 1


@pytest.mark.parametrize("code", ["ThrottlingException", "AccessDeniedException"])
@pytest.mark.parametrize(
    ("call", "then"),
    [
        ("create_baseline", "GetPatchBaseline"),
        ("update_baseline", "GetPatchBaseline"),
        ("deregister_group", "RegisterPatchBaselineForPatchGroup"),
    ],
)
def test_an_error_after_aws_has_changed_something_leaves_the_rest_to_be_done(
    region, owner, endpoint, ssm, monkeypatch, call, then, code
):
    there = services.create(region, UBUNTU.with_name("ubuntu-there"), actor=owner)
    other = services.create(region, UBUNTU.with_name("ubuntu-other"), actor=owner)
    services.register(there, "web", actor=owner)
    wider = replace(UBUNTU, name="ubuntu-there", rejected=("snapd",))
    deed = {
        "create_baseline": lambda: services.create(region, UBUNTU, actor=owner),
        "update_baseline": lambda: services.update(there, wider, based_on=1, actor=owner),
        "deregister_group": lambda: services.register(other, "web", actor=owner),
    }[call]
    faults, real = Faults(endpoint.handover), getattr(aws, call)

    def changes(*args, **facts):
        answer = real(*args, **facts)
        faults.put("then", "error", code=code, status=400, match={"operation": then})
        return answer

    monkeypatch.setattr(aws, call, changes)
    try:
        with pytest.raises(writing.Unfinished, match=f"FleetOps does the rest by itself.*{then}"):
            deed()
        monkeypatch.undo()
        write = Write.objects.get(state=WriteState.OPEN)
        assert write.changed_at and "in part" in write.text
        with pytest.raises(UserError, match="is just being"):
            deed()  # once more, by hand
        writing.heal(write.pk, now=now() + timedelta(minutes=1))  # it fails still
        write.refresh_from_db()
        assert write.is_open and writing.due(now=now() + timedelta(minutes=1)) == [write.pk]
        assert not AuditEvent.objects.filter(outcome="failed").exists()
    finally:
        faults.delete()
    writing.heal(write.pk, now=now() + timedelta(minutes=2))
    write.refresh_from_db()
    assert (write.state, write.text) == (WriteState.DONE, "")
    listed = ssm.describe_patch_baselines(MaxResults=100)["BaselineIdentities"]
    names = sorted(each["BaselineName"] for each in listed if each["BaselineName"].startswith("ubuntu-"))
    assert names == ["ubuntu-other", *([UBUNTU.name] if call == "create_baseline" else []), "ubuntu-there"]
    if call == "update_baseline":
        there = reread(there)
        assert of_aws(ssm, there).rejected == ("snapd",) and (there.version, there.is_drifted) == (2, False)
    if call == "deregister_group":
        said = ssm.get_patch_baseline_for_patch_group(PatchGroup="web", OperatingSystem="UBUNTU")
        assert said["BaselineId"] == other.baseline_id and PatchGroup.objects.get().baseline == other


def test_a_rest_that_fails_for_an_hour_is_given_up_and_says_that_a_part_was_done(region, owner, endpoint):
    faults = Faults(endpoint.handover)
    match = {"operation": "GetPatchBaseline"}
    with (
        faults.on("error", code="AccessDeniedException", status=400, match=match),
        pytest.raises(writing.Unfinished),
    ):
        services.create(region, UBUNTU, actor=owner)
    write = Write.objects.get()
    writing.heal(write.pk, now=now() + timedelta(hours=2))
    write.refresh_from_db()
    assert write.state == WriteState.REFUSED and "AWS has done it in part" in write.text


def test_a_second_click_makes_no_second_baseline_and_is_told_why(accounts, region, owner, ssm):
    facts = {"operating_system": "UBUNTU", "content": UBUNTU.to_aws()}
    first = writing.begin(Deed.CREATE, region, name=UBUNTU.name, argument=facts, actor=owner)
    with pytest.raises(UserError, match=f"{UBUNTU.name} is just being made in"):
        services.create(region, UBUNTU, actor=owner)
    places = [each for account in accounts for each in account.regions.all()]
    with pytest.raises(UserError, match="is just being made in"):
        services.copy(UBUNTU, places, actor=owner)
    assert Write.objects.get() == first  # of a click that is refused nothing stays
    services.create(region, replace(STANDARD, name=UBUNTU.name), actor=owner)  # another operating system's
    writing.carry_out(first)
    with pytest.raises(UserError, match=f"There is a baseline {UBUNTU.name} already in"):
        services.create(region, UBUNTU, actor=owner)
    listed = ssm.describe_patch_baselines(MaxResults=100)["BaselineIdentities"]
    made = [each["OperatingSystem"] for each in listed if each["BaselineName"] == UBUNTU.name]
    assert sorted(made) == ["AMAZON_LINUX_2023", "UBUNTU"]
    services.delete(first.baseline, actor=owner)
    assert services.create(region, UBUNTU, actor=owner).version == 1  # the name is free again


def test_an_answer_that_was_lost_is_looked_for_and_an_author_without_the_role_is_not_obeyed(
    region, owner, endpoint, ssm
):
    faults = Faults(endpoint.handover)
    with (
        faults.on("drop", when="after", match={"operation": "CreatePatchBaseline"}),
        pytest.raises(Unavailable),
    ):
        services.create(region, UBUNTU, actor=owner)
    write = Write.objects.get()
    assert write.is_open and "looks again by itself" in write.text
    writing.heal(write.pk, now=now() + timedelta(minutes=1))
    assert Write.objects.get().state == WriteState.DONE and PatchBaseline.objects.get(name=UBUNTU.name).version == 1

    second = writing.begin(
        Deed.CREATE, region, name="mine", argument={"operating_system": "UBUNTU", "content": {}}, actor=owner
    )
    owner.groups.clear()
    writing.heal(second.pk, now=now() + timedelta(minutes=5))
    second.refresh_from_db()
    assert second.state == WriteState.REFUSED and "may no longer" in second.text


def test_one_click_writes_to_several_places_and_each_tells_its_own_outcome(accounts, region, owner, endpoint):
    regions = [each for account in accounts for each in account.regions.all()]
    assert len(regions) == 3
    there = services.create(region, replace(UBUNTU, rejected=("snapd",)), actor=owner)
    batch = services.copy(UBUNTU, regions, actor=owner)
    faults = Faults(endpoint.handover)
    match = {"operation": "CreatePatchBaseline", "region": "us-east-1"}
    with faults.on("error", code="ResourceLimitExceededException", status=400, match=match):
        for pk in writing.due(now=now()):
            tasks.write_out(str(pk))
    found = {str(each.region): each for each in Write.objects.filter(batch=batch).select_related("region__account")}
    states = {name: each.state for name, each in found.items()}
    assert sorted(states.values()) == [WriteState.DONE, WriteState.DONE, WriteState.REFUSED]
    failed = next(each for each in found.values() if each.state == WriteState.REFUSED)
    assert failed.region.name == "us-east-1" and "ResourceLimitExceeded" in failed.text
    there.refresh_from_db()
    assert there.said.digest == UBUNTU.digest and there.version == 2
    assert PatchBaseline.objects.filter(name=UBUNTU.name).count() == 2
    again = services.copy(UBUNTU, [region], actor=owner)
    assert Write.objects.get(batch=again).text == "It says so already."
    with pytest.raises(UserError, match="at least one place"):
        services.copy(UBUNTU, [], actor=owner)
