"""A run that pins its canary's patches: frozen once, put where later waves read it, and nothing goes without."""

from datetime import timedelta

import pytest
import yaml

from fleetops.audit.models import AuditEvent
from fleetops.aws.errors import AccessDenied, Unavailable
from fleetops.aws.patching import NodePatch
from fleetops.aws.records import Page
from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.rollouts import plan, preparing, steering
from fleetops.runcommand.models import Command
from patching import kind, lists, pinned, pinning
from patching.kind import DOCUMENT, PatchKind
from patching.models import ListStore, PinnedSet
from tests.factories import make_document, make_instance, make_region
from tests.rollouts.fleet import Aws, carry_through, look, make_owner, make_run, states

pytestmark = pytest.mark.django_db

AL = {"platform_type": "Linux", "platform_name": "Amazon Linux", "platform_version": "2023"}
UBUNTU = {"platform_type": "Linux", "platform_name": "Ubuntu", "platform_version": "24.04"}
BUCKET = "fleetops-lists"


@pytest.fixture
def owner(roles):
    return make_owner(roles)


@pytest.fixture
def region():
    found = make_region()
    make_document(DOCUMENT, region=found)
    ListStore.objects.create(account=found.account, bucket=BUCKET)
    return found


@pytest.fixture
def told(monkeypatch):
    """What nodes have installed, by their id, as AWS tells it; a report of each is there, whatever is asked."""
    held: dict[str, list[NodePatch]] = {}

    def pages(access, region, *, instance_id, states, session_name):
        yield Page(held.get(instance_id, []))

    def reports(access, region, *, instance_ids, session_name):
        at = now() + timedelta(seconds=1)
        return [kind.PatchSummary(each, "Install", at, at, snapshot_id="") for each in instance_ids]

    monkeypatch.setattr(pinned.aws, "node_patch_pages", pages)
    monkeypatch.setattr(kind, "summaries", reports)
    monkeypatch.setattr(kind.reading, "keep_summaries", lambda pairs: None)
    monkeypatch.setattr(kind.verdict, "_is_of", lambda asked, told: True)
    return held


@pytest.fixture
def bucket(monkeypatch):
    """What was put, by address."""
    held: dict[str, str] = {}

    def put(access, region, *, bucket, key, body, **more):
        held[f"s3://{bucket}/{key}"] = body.decode()

    monkeypatch.setattr(lists.s3, "put", put)
    return held


def patch(name: str, version: str = "1-1") -> NodePatch:
    return NodePatch(f"{name}.x86_64:{version}", f"{name}.x86_64", "Security", "Critical", "INSTALLED", now())


def pinned_run(owner, waves, **more):
    subject = PatchKind().check({"operation": "Install", "reboot_option": "NoReboot", "pin": True})
    facts = {number: {"readiness": "open"} for number in range(2, len(waves) + 1)}
    return make_run(owner, waves, kind="patch", subject=subject, wave_facts=facts, **more)


def nodes(region, count=3, **facts):
    return [make_instance(region=region, name=f"node-{n}", **(AL | facts)) for n in range(1, count + 1)]


def given(run) -> list[str]:
    """The lists of the commands, in their order; empty for one that has none."""
    made = Command.objects.filter(origin=f"rollouts:{run.pk}").order_by("pk")
    return [each.parameters.get("InstallOverrideList", [""])[0] for each in made]


def canary_done(run, aws, told, *names):
    """The first wave has ended well, having installed these."""
    look(run)
    first = run.targets.order_by("position").first()
    told[first.instance_id] = [patch(name) for name in names]
    aws.take().answer_all()
    look(run)
    return look(run)


def test_what_the_canary_installed_is_exactly_what_later_waves_install(owner, region, told, bucket):
    aws, fleet = Aws(), nodes(region, 4)
    old = patch("bash")
    run = pinned_run(owner, [fleet[:1], fleet[1:2], fleet[2:]])
    told[fleet[0].instance_id] = [NodePatch(old.title, old.kb_id, "", "", "INSTALLED", now() - timedelta(days=9))]
    look(run)
    assert given(run) == [""] and run.waves.get(position=2).readiness == "open"
    told[fleet[0].instance_id] += [patch("openssl"), patch("curl")]
    aws.take().answer_all()
    for _ in range(3):
        look(run)
    # Days later the canary has more, and the baseline approves more: it is frozen.
    told[fleet[0].instance_id].append(patch("kernel"))
    assert carry_through(run, aws).state == "succeeded", run.end_reason
    made = PinnedSet.objects.get(run_id=run.pk)
    assert [each["id"] for each in made.entries] == ["curl.x86_64", "openssl.x86_64"]
    (address,) = bucket
    assert given(run) == ["", address, address] and len(address) <= 256 and made.digest in address
    assert bucket[address] == pinned.override_list(made)
    assert [each["id"] for each in yaml.safe_load(bucket[address])["patches"]] == ["curl.x86_64", "openssl.x86_64"]
    assert run.preparation["sets"] == {"AMAZON_LINUX_2023": {"id": str(made.pk), "digest": made.digest}}
    assert AuditEvent.objects.filter(action="patching.set.freeze").count() == 1


def test_a_failed_canary_that_is_tried_again_after_the_freeze_installs_the_same(owner, region, told, bucket):
    aws, fleet = Aws(), nodes(region)
    run = pinned_run(owner, [fleet[:2], fleet[2:]], budget="1")
    look(run)
    told[fleet[0].instance_id] = [patch("openssl")]
    aws.take().answer_all("failed", on=fleet[1:2])
    aws.answer_all()
    for _ in range(3):
        look(run)
    assert given(run) == ["", *bucket]
    assert steering.retry_failed(run, actor=owner, target=run.targets.get(state="failed")) == 1
    assert carry_through(run, aws).state == "succeeded"
    assert given(run) == ["", *bucket, *bucket]


def test_whatever_dies_nothing_is_frozen_twice_or_sent_unpinned(owner, region, told, bucket, monkeypatch):
    """A worker ends before and after each step of the preparation; another one looks."""
    aws, fleet = Aws(), nodes(region)
    run = pinned_run(owner, [fleet[:1], fleet[1:]])

    class Killed(Exception):
        pass

    def dies(*args, **kwargs):
        raise Killed

    look(run)
    told[fleet[0].instance_id] = [patch("openssl"), patch("curl")]
    aws.take().answer_all()
    look(run)
    assert list(run.waves.values_list("state", "readiness")) == [("succeeded", "ready"), ("pending", "open")]
    for place, name in ((pinned, "_keep"), (lists.s3, "put"), (preparing, "take")):
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(place, name, dies)
            look(run)
        assert len([each for each in given(run) if each]) == 0
        assert set(run.targets.filter(wave__position=2).values_list("state", flat=True)) == {"queued"}
    told[fleet[0].instance_id].append(patch("kernel"))
    assert carry_through(run, aws).state == "succeeded"
    made = PinnedSet.objects.get()
    assert [each["id"] for each in made.entries] == ["curl.x86_64", "openssl.x86_64"]
    assert given(run) == ["", *bucket]


def test_what_s3_refuses_stops_the_run_and_a_person_tries_again(owner, region, told, bucket, monkeypatch):
    aws, fleet = Aws(), nodes(region)
    run = pinned_run(owner, [fleet[:1], fleet[1:]])
    with monkeypatch.context() as patched:
        refusal = AccessDenied("AccessDenied", "no", operation="s3:PutObject")
        patched.setattr(lists.s3, "put", lambda *args, **more: (_ for _ in ()).throw(refusal))
        canary_done(run, aws, told, "openssl")
        for _ in range(2):
            look(run)
    assert run.state == "stopped" and "Wave 2 could not be prepared" in run.end_reason
    assert "s3:PutObject" in run.end_reason and states(run)["node-2"] == "queued"
    steering.resume(run, actor=owner)
    assert carry_through(run, aws).state == "succeeded"
    assert PinnedSet.objects.count() == 1 and given(run) == ["", *bucket]


def test_a_person_may_let_it_go_on_unpinned_and_says_why(owner, region, told, bucket):
    aws, fleet = Aws(), nodes(region)
    run = pinned_run(owner, [fleet[:1], fleet[1:2], fleet[2:]])
    canary_done(run, aws, told)  # nothing was installed
    look(run)
    assert run.state == "stopped" and "have installed nothing" in run.end_reason
    with pytest.raises(UserError, match="Say why"):
        steering.waive_preparation(run, actor=owner, reason=" ")
    steering.waive_preparation(run, actor=owner, reason="it was up to date")
    assert carry_through(run, aws).state == "succeeded"
    assert given(run) == ["", "", ""] and not bucket
    event = AuditEvent.objects.get(action="rollouts.waive")
    assert event.reason == "it was up to date" and event.details["waves"] == 2
    with pytest.raises(UserError):
        steering.waive_preparation(run, actor=owner, reason="again")


def test_what_cannot_be_made_now_is_waited_for_and_not_for_ever(owner, region, told, bucket, monkeypatch):
    aws, fleet = Aws(), nodes(region)
    run = pinned_run(owner, [fleet[:1], fleet[1:]])
    away = Unavailable("ServiceUnavailable", "later", operation="s3:PutObject")
    monkeypatch.setattr(lists.s3, "put", lambda *args, **more: (_ for _ in ()).throw(away))
    canary_done(run, aws, told, "openssl")
    look(run)
    assert run.state == "running" and "wave 2 to be prepared" in run.waits_for and "later" in run.waits_for
    run.waves.filter(position=2).update(readiness_since=now() - preparing.LONGEST)
    assert look(run).state == "stopped" and "for 10 minutes" in run.end_reason


def test_many_places_take_several_looks_and_each_is_put_once(owner, region, told, bucket, monkeypatch):
    others = [make_region(name, account=region.account) for name in ("eu-west-2", "eu-west-3")]
    for each in others:
        make_document(DOCUMENT, region=each)
    aws, fleet = Aws(), [node for each in (region, *others) for node in nodes(each, 1)]
    run = pinned_run(owner, [fleet[:1], fleet[1:]])
    clock, puts = [0.0], []
    put = lists.put

    def slow(account, where, text, *, session_name):
        clock[0] += 25
        puts.append(where)
        return put(account, where, text, session_name=session_name)

    monkeypatch.setattr(pinning, "monotonic", lambda: clock[0])
    monkeypatch.setattr(lists, "put", slow)
    canary_done(run, aws, told, "openssl")
    assert len(puts) == 2 and "2 of 3 lists" in run.waits_for
    assert carry_through(run, aws).state == "succeeded" and sorted(puts) == ["eu-west-1", "eu-west-2", "eu-west-3"]


def test_a_set_that_was_tampered_with_is_used_by_nothing(owner, region, told, bucket, monkeypatch):
    aws, fleet = Aws(), nodes(region)
    run = pinned_run(owner, [fleet[:1], fleet[1:2], fleet[2:]])
    canary_done(run, aws, told, "openssl")
    look(run)
    PinnedSet.objects.update(entries=[{"id": "evil.x86_64", "title": "evil.x86_64:0:1-1"}])
    for _ in range(3):
        aws.take().answer_all()
        look(run)
    assert run.state == "stopped" and "its digest does not fit" in run.end_reason


def wanted(**more) -> plan.Wanted:
    waves = [{"by": "list", "value": "node-1"}, {"by": "rest"}]
    subject = {"operation": "Install", "pin": True}
    return plan.Wanted(**({"kind": "patch", "subject": subject, "targets": "all", "waves": waves} | more))


def test_a_plan_says_what_is_pinned_and_refuses_what_cannot_be(owner, region):
    nodes(region)
    run = plan.make(wanted(), actor=owner)
    assert list(run.waves.values_list("readiness", flat=True)) == ["ready", "open"] and run.subject["pin"]
    assert any("s3:GetObject" in note for note in run.plan["notes"])
    for more, words in (
        ({"waves": [{"by": "rest"}]}, "takes a first wave"),
        ({"subject": {"operation": "Scan", "pin": True}}, "installs nothing that could be pinned"),
        ({"subject": {"operation": "Install", "pin": True, "override_list": "s3://b/k"}}, "nothing to pin"),
    ):
        with pytest.raises(UserError, match=words):
            plan.make(wanted(**more), actor=owner)
    make_instance(region=region, name="ubuntu-1", **UBUNTU)
    with pytest.raises(UserError, match=r"No node of the first wave runs Ubuntu.*ubuntu-1"):
        plan.make(wanted(), actor=owner)
    ListStore.objects.all().delete()
    with pytest.raises(UserError, match="names no bucket"):
        plan.make(wanted(targets="name=node-*"), actor=owner)


def test_a_bucket_is_named_once_an_account_and_audited(owner, region):
    account = region.account
    with pytest.raises(UserError, match="3 to 63"):
        lists.choose(account, "Not A Bucket", actor=owner)
    assert lists.choose(account, " other-lists ", actor=owner) and not lists.choose(account, "other-lists", actor=owner)
    assert lists.address_for(account, "eu-west-1") == "s3://other-lists/patch-lists/eu-west-1/"
    event = AuditEvent.objects.get(action="patching.lists.change")
    assert event.details["before"] == {"bucket": BUCKET} and event.account_id == account.account_id
    account.is_embedded = True
    account.save()
    ListStore.objects.all().delete()
    assert lists.bucket_of(account) == f"fleetops-patch-lists-{account.account_id}"
