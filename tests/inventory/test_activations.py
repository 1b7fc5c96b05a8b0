"""Machines outside EC2: an activation made on a page, a machine that comes by it, and its end as a node."""

import hashlib
import html
import json
import logging
import re
import subprocess
import uuid
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from django.db import connection
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.aws import activations as aws
from fleetops.aws.activations import ActivationRecord
from fleetops.aws.clients import forget_clients
from fleetops.aws.errors import AccessDenied, Unavailable
from fleetops.aws.records import ManagedInstance
from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.inventory import activations as services
from fleetops.inventory.activation_commands import NO_CODE, Site, guides, without_the_system_store
from fleetops.inventory.activation_rules import Wanted, asks_again_in, is_late, problems, read_tags
from fleetops.inventory.models import Account, Instance
from tests.api.conftest import Bearer, make_token
from tests.endpoint.jobs import HandAgent
from tests.endpoint.test_enrolment import PRINT, Machine
from tests.factories import make_instance, make_user
from tests.support.endpoint import running_endpoint

pytestmark = pytest.mark.django_db
ROLE = "ssm-hybrid"
MADE = "inventory.activation.create"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("machines") / "endpoint", nodes="none") as running:
        yield running


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def region(linked):
    return linked.regions.select_related("account").get()


@pytest.fixture
def chief(roles):
    return make_user("chief", role="administrator")


@pytest.fixture
def page(client, chief, valkey, region):
    """Django's client, logged in as an administrator; the region is linked."""
    client.force_login(chief, backend="django.contrib.auth.backends.ModelBackend")
    return client


def form(region, **change) -> dict:
    filled = {
        "key": str(uuid.uuid4()),
        "place": f"{region.account_id}/{region.name}",
        "role": ROLE,
        "name": "till-7",
        "limit": "1",
        "days": "2",
        "tags": "shop=lagos\nenv = prod",
        "note": "a new till",
    }
    return filled | change


def make(page, region, **change):
    answer = page.post(reverse("machines:add"), form(region, **change))
    assert answer.status_code == 200, answer.content.decode()
    return answer


def code_on(answer) -> str:
    found = re.search(r'id="activation-code">([^<]+)<', answer.content.decode())
    return html.unescape(found[1]) if found else ""


def address(name: str, region, activation_id: str) -> str:
    return reverse(f"machines:{name}", args=[region.account_id, region.name, activation_id])


def known(endpoint) -> set[str]:
    return {each["ActivationId"] for each in endpoint.client("ssm").describe_activations()["ActivationList"]}


def refusing(deny: dict) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [deny]})


def everything_stored() -> str:
    """All rows of all tables."""
    with connection.cursor() as cursor:
        texts = []
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            texts.append(repr(cursor.fetchall()))
    return "\n".join(texts)


# --- from the form to the end of the node ---


def test_a_machine_comes_by_the_code_of_a_page_and_is_deregistered_there(page, region, endpoint, key):
    made = make(page, region)
    code, activation_id = code_on(made), made.context["activation_id"]
    told = endpoint.client("ssm").describe_activations(
        Filters=[{"FilterKey": "ActivationIds", "FilterValues": [activation_id]}]
    )["ActivationList"][0]
    assert (told["IamRole"], told["DefaultInstanceName"], told["RegistrationLimit"]) == (ROLE, "till-7", 1)
    assert {tag["Key"]: tag["Value"] for tag in told["Tags"]} == {"shop": "lagos", "env": "prod"}
    assert timedelta(days=1, hours=23) < told["ExpirationDate"] - now() < timedelta(days=2, minutes=1)
    event = AuditEvent.objects.get(action=MADE)
    assert (event.actor_name, event.target_id, event.outcome) == ("chief", activation_id, "done")
    assert (event.account_id, event.region) == (region.account.account_id, region.name)
    assert event.details["iam_role"] == ROLE and event.details["tags"] == {"shop": "lagos", "env": "prod"}

    live = address("live", region, activation_id)
    waiting = page.get(live).content.decode()
    assert "Waiting" in waiting and "waiting for the machine" in waiting and 'hx-trigger="every 3s' in waiting
    machine = Machine(endpoint, key)
    assert machine.register({"ActivationId": activation_id, "ActivationCode": code})[0] == 200
    agent = HandAgent(endpoint, machine.instance_id).connect(ComputerName="till", PlatformName="Debian GNU/Linux")
    try:
        came = page.get(live).content.decode()
        row = Instance.objects.get(instance_id=machine.instance_id)
        assert f'href="{row.get_absolute_url()}"' in came and machine.instance_id in came and "Connect" in came
        assert "1 of 1 registered, 1 online" in came and "hx-trigger" not in came
        assert str(row) == "till-7" and row.is_hybrid and row.ping_status == "Online"
        assert reverse("machines:deregister", args=[row.pk]) in page.get(row.get_absolute_url()).content.decode()

        door = reverse("machines:deregister", args=[row.pk])
        assert "Shells that are open on it end" in page.get(door).content.decode()
        unsure = page.post(door, {"confirm": "yes"})
        assert unsure.status_code == 400 and machine.instance_id in unsure.content.decode()
        assert machine.token()[0] == 200
        assert page.post(door, {"confirm": machine.instance_id}).status_code == 302
    finally:
        agent.close()
    assert machine.token()[1]["__type"] == "AccessDeniedException"
    row.refresh_from_db()
    assert row.gone_at is not None and row.ping_status == ""
    event = AuditEvent.objects.get(action="inventory.instance.deregister")
    assert (event.actor_name, event.target_name, event.details["instance_id"]) == ("chief", "till-7", row.instance_id)
    again = page.post(door, {"confirm": machine.instance_id})
    assert again.status_code == 409 and "gone already" in again.content.decode()


def test_the_code_is_shown_once_and_kept_nowhere(page, region, endpoint, caplog):
    with caplog.at_level(logging.DEBUG):
        sent = form(region)
        made = page.post(reverse("machines:add"), sent)
        code, activation_id = code_on(made), made.context["activation_id"]
        assert len(code) >= 20 and "no-store" in made["Cache-Control"]
        again = page.get(address("activation", region, activation_id))
    text = again.content.decode()
    assert code not in text and "The code was shown once" in text and "to chief" in text and NO_CODE in text
    assert code not in everything_stored()
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("botocore", "urllib3"))]
    assert code not in "\n".join(ours) and any("activation made" in line for line in ours)
    assert code not in endpoint.log.read_text()
    assert code not in json.dumps(list(AuditEvent.objects.values("details", "reason", "target_name")), default=str)
    assert code not in repr(aws.MadeActivation("x", code))


def test_a_form_that_is_sent_again_makes_no_second_one(page, region, endpoint):
    sent = form(region)
    made = page.post(reverse("machines:add"), sent)
    before = known(endpoint)
    again = page.post(reverse("machines:add"), sent)
    assert (again.status_code, again["Location"]) == (302, address("activation", region, made.context["activation_id"]))
    assert "shown then, once" in page.get(again["Location"]).content.decode()
    assert known(endpoint) == before


# --- what cannot be ---


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"role": ""}, "Name the IAM role"),
        ({"role": "no-such-role"}, "There is no IAM role no-such-role"),
        ({"role": "ssm-core"}, "SSM may not assume the role ssm-core"),
        ({"role": "arn:aws:iam::111122223333:role/ssm-hybrid"}, "not its ARN"),
        ({"role": "x" * 65}, "at most 64"),
        ({"limit": "0"}, "1 to 1000 machines"),
        ({"limit": "1001"}, "1 to 1000 machines"),
        ({"limit": "many"}, "whole number"),
        ({"days": "31"}, "1 to 30 days"),
        ({"days": "0"}, "1 to 30 days"),
        ({"name": "till<7>"}, "letters, digits, spaces"),
        ({"tags": "shop"}, "is no tag"),
        ({"tags": "shop=a\nshop=b"}, "stands there twice"),
        ({"tags": "aws:x=1"}, "AWS’s own"),
        ({"tags": "\n".join(f"k{number}=v" for number in range(51))}, "at most 50 tags"),
        ({"note": "x" * 121}, "at most 120"),
        ({"place": "elsewhere/eu-west-1"}, "not one of those"),
    ],
)
def test_bad_input_is_told_at_its_field_and_nothing_is_made(page, region, endpoint, change, said):
    before = known(endpoint)
    answer = page.post(reverse("machines:add"), form(region, **change))
    text = html.unescape(answer.content.decode()).replace("'", "’")
    assert answer.status_code == 400 and said in text
    assert known(endpoint) == before and not AuditEvent.objects.filter(action=MADE).exists()


def test_what_aws_refuses_is_told_in_words_and_audited_as_failed(page, region, endpoint):
    iam, user = endpoint.client("iam"), "FleetOpsControlPlane"
    deny = {"Effect": "Deny", "Action": "ssm:CreateActivation", "Resource": "*"}
    iam.put_role_policy(RoleName=user, PolicyName="no", PolicyDocument=refusing(deny))
    before = known(endpoint)
    try:
        sent = form(region)
        answer = page.post(reverse("machines:add"), sent)
        assert answer.status_code == 400 and "ssm:CreateActivation" in answer.content.decode()
    finally:
        iam.delete_role_policy(RoleName=user, PolicyName="no")
    event = AuditEvent.objects.get(action=MADE)
    assert (event.outcome, event.target_id) == ("failed", "") and "ssm:CreateActivation" in event.reason
    assert known(endpoint) == before
    assert page.post(reverse("machines:add"), sent).status_code == 200  # the same form, now that AWS lets it


def test_a_role_that_may_not_be_passed_is_named(page, region, endpoint):
    iam, user = endpoint.client("iam"), "FleetOpsControlPlane"
    deny = {"Effect": "Deny", "Action": ["iam:PassRole", "iam:GetRole"], "Resource": "*"}
    iam.put_role_policy(RoleName=user, PolicyName="no", PolicyDocument=refusing(deny))
    before = known(endpoint)
    try:
        answer = page.post(reverse("machines:add"), form(region))
    finally:
        iam.delete_role_policy(RoleName=user, PolicyName="no")
    assert answer.status_code == 400 and "iam:PassRole" in answer.content.decode() and known(endpoint) == before


@pytest.mark.parametrize("has_made", [True, False])
def test_an_answer_that_is_lost_leaves_no_code_behind_that_nobody_has(page, region, endpoint, monkeypatch, has_made):
    """The fault is forced at our boundary: AWS has made it, or has not, and the answer does not come."""
    create, before = aws.create_activation, known(endpoint)

    def lost(*access, **asked):
        if has_made:
            create(*access, **asked)
        error = Unavailable("ReadTimeoutError", "", operation="ssm:CreateActivation", text="No whole answer came.")
        error.is_outcome_unknown = True
        raise error

    monkeypatch.setattr(aws, "create_activation", lost)
    answer = page.post(reverse("machines:add"), form(region))
    said = "it is deleted again" if has_made else "the list shows it as fleetops:"
    assert answer.status_code == 400 and said in answer.content.decode()
    assert known(endpoint) == before
    assert said in AuditEvent.objects.get(action=MADE, outcome="failed").reason


# --- who may, and whose ---


@pytest.mark.parametrize("role", ["viewer", "operator", "patch_owner", "auditor"])
def test_who_may_not_change_accounts_adds_nothing_and_that_is_audited(client_as, region, endpoint, valkey, role):
    client, before = client_as(role), known(endpoint)
    node = make_instance(region=region, instance_id="mi-0123456789abcdef0")
    for path, sent in (
        (reverse("machines:add"), form(region)),
        (address("delete", region, str(uuid.uuid4())), {}),
        (reverse("machines:deregister", args=[node.pk]), {"confirm": node.instance_id}),
    ):
        assert client.post(path, sent).status_code == 403
        assert AuditEvent.objects.filter(action="web.permission.refuse", outcome="denied").latest("at").target_id
    assert AuditEvent.objects.filter(action="web.permission.refuse").count() == 3
    assert known(endpoint) == before
    assert b"Add machines" not in client.get(reverse("inventory:fleet")).content


def test_activations_and_nodes_of_two_accounts_do_not_mix(page, all_linked, endpoint, key):
    prod, staging = (Account.objects.get(account_id=each["account_id"]) for each in endpoint.handover["accounts"])
    places = [each.regions.select_related("account").get(name="eu-west-1") for each in (prod, staging)]
    made = make(page, places[0])
    activation_id = made.context["activation_id"]
    assert activation_id in page.get(f"{reverse('machines:list')}?account={prod.pk}").content.decode()
    assert activation_id not in page.get(f"{reverse('machines:list')}?account={staging.pk}").content.decode()
    elsewhere = page.get(address("activation", places[1], activation_id)).content.decode()
    assert "AWS has no such activation here" in elsewhere and "till-7" not in elsewhere
    refused = page.post(address("delete", places[1], activation_id))
    assert refused.status_code == 409 and "has no activation" in refused.content.decode()
    assert activation_id in known(endpoint)

    machine = Machine(endpoint, key)
    machine.register({"ActivationId": activation_id, "ActivationCode": code_on(made)})
    # The same id as a row of the other account: AWS there knows no such node, and the one here goes on.
    other = make_instance(region=places[1], instance_id=machine.instance_id)
    answer = page.post(reverse("machines:deregister", args=[other.pk]), {"confirm": machine.instance_id})
    assert answer.status_code == 409 and "does not have" in answer.content.decode()
    assert machine.token()[0] == 200
    assert not AuditEvent.objects.filter(action="inventory.instance.deregister", outcome="done").exists()


def test_an_instance_of_ec2_is_not_deregistered(page, region):
    row = make_instance(region=region, instance_id="i-0123456789abcdef0")
    answer = page.post(reverse("machines:deregister", args=[row.pk]), {"confirm": row.instance_id})
    assert answer.status_code == 409 and "instance of EC2" in answer.content.decode()


# --- the list ---


def test_the_list_tells_open_used_up_and_who_made_them_and_deletes(page, region, endpoint, key):
    for activation_id in known(endpoint):
        endpoint.client("ssm").delete_activation(ActivationId=activation_id)
    empty = page.get(reverse("machines:list")).content.decode()
    assert "No machine outside EC2 can register now" in empty and "Add machines" in empty
    foreign = endpoint.client("ssm").create_activation(IamRole=ROLE, DefaultInstanceName="by hand")
    made = make(page, region)
    machine = Machine(endpoint, key)
    machine.register({"ActivationId": made.context["activation_id"], "ActivationCode": code_on(made)})
    text = page.get(reverse("machines:list")).content.decode()
    assert "<b>1</b> of 2 still lets machines in" in text and "Used up" in text and "Open" in text
    assert "by chief" in text and "not by FleetOps" in text and "1 of 1" in text and "0 of 1" in text
    gone = page.post(address("delete", region, foreign["ActivationId"]))
    assert gone.status_code == 302 and foreign["ActivationId"] not in known(endpoint)
    assert AuditEvent.objects.get(action="inventory.activation.delete").target_id == foreign["ActivationId"]
    again = page.post(address("delete", region, foreign["ActivationId"]))
    assert again.status_code == 409 and "somebody may have deleted it" in again.content.decode()


def test_a_region_that_cannot_be_read_is_named_and_the_page_still_opens(page, region):
    Account.objects.filter(pk=region.account_id).update(endpoint_url="https://127.0.0.1:9")
    forget_clients()
    text = page.get(reverse("machines:list")).content.decode()
    assert "cannot be reached" in text and "could not be read" in text
    waiting = page.get(address("activation", region, str(uuid.uuid4()))).content.decode()
    assert "cannot be reached" in waiting and 'hx-trigger="every 15s' in waiting


def test_more_than_a_page_of_activations_is_read_whole(region, endpoint):
    ssm, access = endpoint.client("ssm"), region.account.access()
    made = {ssm.create_activation(IamRole=ROLE)["ActivationId"] for _ in range(53)}
    told = list(aws.activations(access, region.name, session_name="tests"))
    assert made <= {each.activation_id for each in told} and len(told) == len(known_whole(ssm))
    for activation_id in made:
        ssm.delete_activation(ActivationId=activation_id)


def known_whole(ssm) -> set[str]:
    pages = ssm.get_paginator("describe_activations").paginate()
    return {each["ActivationId"] for found in pages for each in found["ActivationList"]}


# --- the commands ---


def test_each_endpoint_command_has_ca_and_config_before_the_registration(region):
    site = Site(region.name, region.account.endpoint_url, region.account.ca_pem)
    for guide in guides(site, "an-id", "the-code"):
        whole = guide.whole
        register = whole.index("register ")
        if guide.key != "node":
            assert whole.index("amazon-ssm-agent.json") < register
            config = json.loads(whole[whole.index('{\n  "Mds"') : whole.index("\n}") + 2])
            assert {config[name]["Endpoint"] for name in ("Ssm", "Mgs", "Mds")} == {region.account.endpoint_url}
            assert config["Ssm"]["Endpoint"].startswith("https://") and config["Agent"]["Region"] == region.name
        assert whole.index("BEGIN CERTIFICATE") < register
        assert "the-code" in whole[register:] and "an-id" in whole[register:]
        assert guide.is_run == (guide.key in {"debian", "node"})
    assert "SSL_CERT_FILE" in without_the_system_store(site)


def test_for_aws_itself_there_is_no_config_and_the_packages_are_the_regions():
    for region, domain in (("eu-west-1", "amazonaws.com"), ("cn-north-1", "amazonaws.com.cn")):
        made = guides(Site(region), "an-id", "the-code")
        assert {guide.key for guide in made} == {"debian", "rhel", "suse", "macos", "windows"}
        for guide in made:
            assert f"https://s3.{region}.{domain}/amazon-ssm-{region}/latest/" in guide.whole
            assert "amazon-ssm-agent.json" not in guide.whole and "CERTIFICATE" not in guide.whole


def test_no_command_runs_what_an_answer_or_a_ca_says(tmp_path, region):
    """An endpoint that answers with a command for a code, and a CA with words around it."""
    evil, pem = f"x'; touch {tmp_path}/ran; '", f"PEM\ntouch {tmp_path}/ran\n{region.account.ca_pem}\nPEM\n"
    site = Site(region.name, region.account.endpoint_url, pem)
    (guide,) = (each for each in guides(site, "an-id", evil) if each.key == "debian")
    shims = f"PATH={tmp_path}\nsudo() {{ :; }}\ncurl() {{ :; }}\ndpkg() {{ :; }}\ntouch() {{ : > $1; }}\n"
    ran = subprocess.run(["/bin/sh"], input=shims + guide.whole, text=True, capture_output=True, check=False)
    assert ran.returncode == 0 and not (tmp_path / "ran").exists(), ran.stderr
    windows = next(each for each in guides(site, "an-id", "a'b") if each.key == "windows")
    assert "-code 'a''b'" in windows.whole


def test_the_ca_is_the_file_that_the_page_names_by_its_digest(page, region):
    made = make(page, region)
    file = page.get(reverse("machines:ca", args=[region.account_id]))
    assert hashlib.sha256(file.content).hexdigest() in made.content.decode()
    assert file.content.startswith(b"-----BEGIN CERTIFICATE-----") and "attachment" in file["Content-Disposition"]
    assert "no other machine reaches it" in made.content.decode()  # the endpoint of a test is on loopback
    Account.objects.filter(pk=region.account_id).update(ca_pem="")
    assert page.get(reverse("machines:ca", args=[region.account_id])).status_code == 404


# --- what is decided from facts ---


def test_hints_come_after_two_minutes_and_the_page_stops_asking_when_all_are_there():
    moment = now()
    young = ActivationRecord("a", limit=2, created_at=moment - timedelta(seconds=119))
    old = ActivationRecord("a", limit=2, created_at=moment - timedelta(minutes=2))
    online, lost = ManagedInstance("mi-1", ping_status="Online"), ManagedInstance("mi-2", ping_status="ConnectionLost")
    assert not is_late(young, [], now=moment) and is_late(old, [], now=moment)
    assert is_late(old, [lost], now=moment) and not is_late(old, [lost, online], now=moment)
    assert asks_again_in(young, [], now=moment) == 3
    assert asks_again_in(old, [], now=moment + timedelta(minutes=15)) == 15
    whole = ActivationRecord("a", limit=1, count=1, created_at=moment)
    assert asks_again_in(whole, [], now=moment) == 3 and asks_again_in(whole, [online], now=moment) == 0
    ended = ActivationRecord("a", limit=2, is_expired=True, created_at=moment)
    assert asks_again_in(ended, [], now=moment) == 0


def test_a_late_page_tells_what_the_agents_log_means(page, region, monkeypatch):
    made = make(page, region)
    later = now() + timedelta(minutes=3)
    monkeypatch.setattr("fleetops.inventory.activation_views.now", lambda: later)
    text = html.unescape(page.get(address("live", region, made.context["activation_id"])).content.decode())
    assert "Nothing has come for two minutes" in text and "x509: certificate signed by unknown authority" in text
    assert "/var/log/amazon/ssm/amazon-ssm-agent.log" in text


def test_rules_name_what_is_wrong_and_take_what_aws_takes():
    assert problems(Wanted("service-role/AmazonEC2RunCommandRoleForManagedInstances", "Kasse Köln 7", 1000, 30)) == {}
    assert set(problems(Wanted("", "a\nb", 0, 0, {"": "x"}, "a\nb"))) == {
        "role",
        "name",
        "limit",
        "days",
        "tags",
        "note",
    }
    assert read_tags(" a = b=c \n\nd=") == {"a": "b=c", "d": ""}


def test_a_trust_policy_is_read_as_aws_writes_it(region, endpoint):
    access = region.account.access()
    iam = endpoint.client("iam")
    ssm_too, assume = {"Service": ["ec2.amazonaws.com", "ssm.amazonaws.com"]}, ["sts:AssumeRole", "sts:TagSession"]
    for name, effect, trusts in (("lets-in", "Allow", True), ("keeps-out", "Deny", False)):
        statement = {"Effect": effect, "Principal": ssm_too, "Action": assume}
        document = json.dumps({"Version": "2012-10-17", "Statement": statement})
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)
        assert aws.trusts_ssm(access, region.name, name, session_name="tests") is trusts
        iam.delete_role(RoleName=name)
    assert aws.trusts_ssm(access, region.name, "nobody", session_name="tests") is None


# --- over the API ---


def test_a_program_makes_lists_and_deletes_and_deregisters(chief, region, endpoint, key, valkey):
    program = Bearer(make_token(chief, "machines:read", "machines:write"))
    body = {"account": str(region.account_id), "region": region.name, "role": ROLE, "name": "kiosk", "tags": {"a": "b"}}
    made = program.post(reverse("api:activations"), json.dumps(body))
    assert made.status_code == 201 and "no-store" in made["Cache-Control"]
    activation_id, code = made.json()["activation_id"], made.json()["activation_code"]
    assert code not in everything_stored()
    (listed,) = [
        each
        for each in program.get(reverse("api:activations"), {"account": str(region.account_id)}).json()["results"]
        if each["activation_id"] == activation_id
    ]
    assert (listed["made_by"], listed["name"], listed["limit"], listed["tags"]) == ("chief", "kiosk", 1, {"a": "b"})
    assert "code" not in json.dumps(listed)

    machine = Machine(endpoint, key, f"{PRINT[:-1]}9")
    machine.register({"ActivationId": activation_id, "ActivationCode": code})
    row = make_instance(region=region, instance_id=machine.instance_id)
    door = reverse("api:deregister", args=[row.pk])
    assert program.post(door, "{}").status_code == 204 and machine.token()[0] == 400
    assert program.post(door, "{}").status_code == 409
    one = reverse("api:activation", args=[region.account_id, region.name, activation_id])
    assert program.delete(one).status_code == 204 and activation_id not in known(endpoint)
    assert program.delete(one).status_code == 409
    wrong = program.post(reverse("api:activations"), json.dumps(body | {"limit": 1001, "days": 31}))
    assert wrong.status_code == 400 and set(wrong.json()["errors"]) == {"limit", "days"}
    assert program.get(reverse("api:activations"), {"account": "x"}).status_code == 404


def test_a_service_refuses_a_region_that_is_off(region, chief):
    region.enabled = False
    with pytest.raises(UserError, match="Turn it on first"):
        services.make(region, Wanted(ROLE), actor=chief)


def test_the_boundary_tells_who_may_not_look_at_roles(region, endpoint):
    iam, user = endpoint.client("iam"), "FleetOpsControlPlane"
    deny = {"Effect": "Deny", "Action": "iam:GetRole", "Resource": "*"}
    iam.put_role_policy(RoleName=user, PolicyName="no", PolicyDocument=refusing(deny))
    try:
        with pytest.raises(AccessDenied, match="iam:GetRole"):
            aws.trusts_ssm(region.account.access(), region.name, ROLE, session_name="tests")
    finally:
        iam.delete_role_policy(RoleName=user, PolicyName="no")
