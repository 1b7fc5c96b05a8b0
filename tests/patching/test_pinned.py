"""Pinned patch sets: what nodes have installed, to the version, as their package managers take it."""

import re
import uuid
from datetime import UTC, datetime

import pytest
import yaml
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.aws.patching import NodePatch
from fleetops.aws.records import Page
from fleetops.clock import now
from fleetops.errors import UserError
from patching import pinned
from patching.models import PinnedSet
from patching.pinned import Entry, digest_of, entry_of, freeze, render
from tests.api.conftest import Bearer, make_token
from tests.factories import make_instance, make_pinned_set, make_region, make_user

pytestmark = pytest.mark.django_db(transaction=True)
BACKEND = "django.contrib.auth.backends.ModelBackend"
AT = datetime(2026, 11, 30, 10, tzinfo=UTC)
AL = {"platform_type": "Linux", "platform_name": "Amazon Linux", "platform_version": "2023"}


def told(title: str, kb_id: str, at: datetime | None = AT) -> NodePatch:
    return NodePatch(title, kb_id, "Security", "Critical", "INSTALLED", at)


@pytest.mark.parametrize(
    ("system", "patch", "entry"),
    [
        (
            "AMAZON_LINUX_2023",
            told("openssl.x86_64:1:3.0.8-1.amzn2023", "openssl.x86_64"),
            Entry("openssl.x86_64", "openssl.x86_64:1:3.0.8-1.amzn2023"),
        ),
        (
            "REDHAT_ENTERPRISE_LINUX",
            told("bash.x86_64:5.1-2.el9", "bash.x86_64"),
            Entry("bash.x86_64", "bash.x86_64:0:5.1-2.el9"),
        ),
        ("UBUNTU", told("libssl3:amd64:3.0.13-1", "libssl3"), Entry("libssl3.amd64", "libssl3.amd64:3.0.13-1")),
        (
            "UBUNTU",
            told("bind9.amd64:1:9.18-1ubuntu1", "bind9.amd64"),
            Entry("bind9.amd64", "bind9.amd64:1:9.18-1ubuntu1"),
        ),
        ("DEBIAN", told("bind9:1:9.18-1", "bind9"), Entry("bind9", "bind9.*:1:9.18-1")),
        ("SUSE", told("bash.x86_64:5.1-2", "bash.x86_64"), Entry("bash.x86_64", "bash.x86_64:0:5.1-2")),
        ("WINDOWS", told("2026-11 Cumulative Update", "KB5041585"), Entry("KB5041585")),
    ],
)
def test_each_family_names_a_patch_as_its_list_takes_it(system, patch, entry):
    assert entry_of(patch, system) == entry


def test_a_list_is_the_same_to_the_byte_whatever_the_order():
    entries = [Entry("b.x86_64", "b.x86_64:0:2-1"), Entry("a.x86_64", "a.x86_64:1:1-1"), Entry("KB1")]
    text = render(entries)
    assert text == render(reversed(entries)) and digest_of(entries) == digest_of(entries[::-1])
    assert yaml.safe_load(text)["patches"][1] == {"id": "a.x86_64", "title": "a.x86_64:1:1-1"}
    assert yaml.safe_load(text)["patches"][0] == {"id": "KB1"}


@pytest.fixture
def installed(monkeypatch):
    """What each node has installed, by its id; AWS tells it."""
    held: dict[str, list[NodePatch]] = {}

    def pages(access, region, *, instance_id, states, session_name):
        assert states == ("Installed", "InstalledPendingReboot")
        yield Page(held.get(instance_id, []))

    monkeypatch.setattr(pinned.aws, "node_patch_pages", pages)
    return held


def test_a_set_is_what_all_nodes_have_in_common_frozen_once_a_run(roles, installed):
    owner = make_user("paula", role="patch_owner")
    region = make_region()
    one, two = (make_instance(region=region, name=f"canary-{n}", **AL) for n in (1, 2))
    openssl, old = (
        told("openssl.x86_64:1:3.0.8-2", "openssl.x86_64"),
        told("bash.x86_64:5-1", "bash.x86_64", AT.replace(year=2025)),
    )
    installed |= {one.instance_id: [openssl, old], two.instance_id: [openssl, told("curl.x86_64:8-1", "curl.x86_64")]}
    run = uuid.uuid4()
    made = freeze([one, two], name="November", since=AT.replace(day=1), actor=owner, run_id=run)
    assert [each["id"] for each in made.entries] == ["curl.x86_64", "openssl.x86_64"]
    assert [each["patches"] for each in made.nodes] == [1, 2] and made.run_id == run
    assert freeze([two, one], name="again", since=AT.replace(day=1), actor="worker", run_id=run) == made
    event = AuditEvent.objects.get(action="patching.set.freeze")
    assert event.details["digest"] == made.digest and event.actor_name == "paula"
    assert len(freeze([one], name="all", since=None, actor=owner).entries) == 2

    installed[two.instance_id] = [told("openssl.x86_64:1:3.0.9-1", "openssl.x86_64")]
    for nodes, since, words in (
        ([one, two], None, "A set holds one version of each package"),
        ([], None, "at least one node"),
        ([one], now(), "have installed nothing since"),
        ([one, make_instance(region=region)], None, "A set is of one operating system"),
        ([make_instance(region=region, platform_type="MacOS")], None, "takes no list of patches for macOS"),
    ):
        with pytest.raises(UserError, match=words):
            freeze(nodes, name="x", since=since, actor=owner)
    installed[one.instance_id] = [told("bash", "bash.x86_64")]
    with pytest.raises(UserError, match="No version is told of bash"):
        freeze([one], name="x", since=None, actor=owner)


def test_a_set_that_somebody_changed_is_not_used():
    made = make_pinned_set()
    assert pinned.override_list(made).startswith("patches:\n- id: openssl.x86_64\n")
    PinnedSet.objects.filter(pk=made.pk).update(entries=[{"id": "rootkit.x86_64", "title": "rootkit.x86_64:0:1-1"}])
    with pytest.raises(UserError, match="is not what was frozen"):
        pinned.override_list(PinnedSet.objects.get(pk=made.pk))


def test_its_pages_show_it_and_freeze_it(client, roles, installed):
    region = make_region()
    node = make_instance(region=region, name="canary-1", **AL)
    installed[node.instance_id] = [told("openssl.x86_64:1:3.0.8-2", "openssl.x86_64")]
    client.force_login(make_user(role="viewer"), backend=BACKEND)
    assert client.get(reverse("patching:freeze")).status_code == 403
    client.force_login(make_user(role="patch_owner"), backend=BACKEND)
    form = reverse("patching:freeze")
    assert "canary-1" in client.get(form).content.decode()
    wrong = client.post(form, {"name": "x", "nodes": [node.pk], "since": "soon"})
    assert wrong.status_code == 400 and "is no date and time" in wrong.content.decode()
    assert client.post(form, {"name": "", "nodes": [node.pk]}).status_code == 400
    answer = client.post(form, {"name": "November", "nodes": [node.pk]}, follow=True)
    page = re.sub(r"\s+", " ", answer.content.decode())
    assert "Froze 1 patch as November" in page and "openssl.x86_64:1:3.0.8-2" in page and "canary-1" in page
    made = PinnedSet.objects.get()
    listed = client.get(reverse("patching:override_list", args=[made.pk]))
    assert listed["Content-Type"].startswith("application/yaml") and "november.yaml" in listed["Content-Disposition"]
    assert "November" in client.get(reverse("patching:sets")).content.decode()
    PinnedSet.objects.filter(pk=made.pk).update(digest="0" * 64)
    assert "It is not what was frozen" in client.get(made.get_absolute_url()).content.decode()
    assert client.get(reverse("patching:override_list", args=[made.pk])).status_code == 409


def test_over_the_api_a_set_is_frozen_and_read(roles, installed):
    region = make_region()
    node = make_instance(region=region, **AL)
    installed[node.instance_id] = [told("openssl.x86_64:1:3.0.8-2", "openssl.x86_64")]
    program = Bearer(make_token(make_user(role="patch_owner"), "baselines:read", "baselines:write"))
    made = program.post("/api/v1/patch-sets/", {"name": "n", "instances": [str(node.pk)]})
    assert made.status_code == 201 and made.json()["entries"][0]["id"] == "openssl.x86_64"
    address = f"/api/v1/patch-sets/{made.json()['id']}/"
    assert program.get(address).json()["digest"] == made.json()["digest"]
    assert yaml.safe_load(program.get(f"{address}list/").content)["patches"][0]["id"] == "openssl.x86_64"
    missing = {"name": "n", "instances": ["00000000-0000-4000-8000-000000000000"]}
    assert program.post("/api/v1/patch-sets/", missing).status_code == 400
