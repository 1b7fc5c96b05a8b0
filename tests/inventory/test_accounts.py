"""Accounts by their pages: added, changed, disabled and removed, by whom, and with what in the audit log."""

import json
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.aws import permissions
from fleetops.clock import now
from fleetops.errors import Denied, UserError
from fleetops.inventory import account_checks, accounts, services
from fleetops.inventory.account_rules import AccountFacts, problems, with_own_stream_host
from fleetops.inventory.accounts import facts_of
from fleetops.inventory.models import Account, AccountCheck, CheckRow, Instance, Region
from fleetops.inventory.states import CheckState
from sessions_app.models import TerminalSession
from sessions_app.states import SessionState
from tests.factories import make_account, make_instance, make_region, make_session, make_user

pytestmark = pytest.mark.django_db
ACCOUNT = "222233334444"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/FleetOpsControlPlane"
FORM = {"account_id": ACCOUNT, "name": "payments", "regions": ["eu-west-1"], "role_arn": ROLE, "external_id": "own-id"}


@pytest.fixture(autouse=True)
def unasked(monkeypatch):
    """No worker in these tests: who would carry out checks is told nothing, and remembered."""
    asked = []
    monkeypatch.setattr("fleetops.inventory.tasks.check_account.delay", asked.append)
    return asked


@pytest.fixture
def admin(client_as):
    return client_as("administrator")


def certificate(*, is_ca: bool = True, days: int = 30) -> str:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Site CA")])
    begin = datetime.now(UTC) - timedelta(days=60)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(datetime.now(UTC) + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


def facts(**changes) -> AccountFacts:
    given = {"account_id": ACCOUNT, "name": "payments", "regions": ("eu-west-1",), "role_arn": ROLE}
    return AccountFacts(**(given | changes))


def text_of(response) -> str:
    return response.content.decode()


def event(action: str) -> AuditEvent:
    return AuditEvent.objects.filter(action=action).latest("at")


# --- the rules ---


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("account_id", "1234-5678-9012", "twelve digits"),
        ("account_id", "٠١٢٣٤٥٦٧٨٩٠١", "twelve digits"),
        ("name", " ", "Give it a name"),
        ("name", "two\nlines", "at most 64"),
        ("regions", (), "at least one region"),
        ("regions", ("Ireland",), "is no region"),
        ("regions", ("eu-west-1", "cn-north-1"), "lies in one partition"),
        ("role_arn", "FleetOps", "no role's ARN"),
        ("role_arn", f"arn:aws:iam::{ACCOUNT}:user/fleetops", "no role's ARN"),
        ("role_arn", "arn:aws:iam::999999999999:role/FleetOps", "is of account 999999999999"),
        ("role_arn", f"arn:aws-cn:iam::{ACCOUNT}:role/FleetOps", "of the partition aws"),
        ("external_id", "two words", "no blanks"),
        ("external_id", "x", "2 to 128"),
        ("external_id", "x" * 129, "2 to 128"),
        ("profile", "a b", "name of a profile"),
        ("endpoint_url", "http://aws.example.net", "Use https"),
        ("endpoint_url", "ftp://127.0.0.1", "Use https"),
        ("endpoint_url", "https://user:secret@aws.example.net", "nothing after it"),
        ("endpoint_url", "https://aws.example.net/path", "nothing after it"),
        ("endpoint_url", "https://aws.example.net?x=1", "nothing after it"),
        ("endpoint_url", "https://", "nothing after it"),
        ("endpoint_url", "https://a:99999", "no address"),
        ("stream_hosts", ("ssm.example.net",), "is not HOST:PORT"),
        ("stream_hosts", ("ssm.example.net:0",), "is not HOST:PORT"),
        ("stream_hosts", ("wss://ssm.example.net:443",), "is not HOST:PORT"),
        ("stream_hosts", ("a.example.net:443",) * 17, "at most 16"),
        ("ca_pem", "nonsense", "no certificate in PEM"),
        ("ca_pem", "-----BEGIN PRIVATE KEY-----\n", "private key"),
        ("ca_pem", certificate(is_ca=False), "is no CA's certificate"),
        ("ca_pem", certificate(days=-1), "ended on"),
    ],
)
def test_what_cannot_be_is_told_at_its_field(field, value, words):
    given = facts(endpoint_url="https://127.0.0.1:8443") if field == "ca_pem" else facts()
    changed = AccountFacts(**{name: getattr(given, name) for name in given.__slots__} | {field: value})
    found = problems(changed, now=now())
    assert words in found[field]


def test_what_can_be_is_taken():
    for changes in (
        {"external_id": "a:b/c@d=e+f,g.h_i-j"},
        {"endpoint_url": "http://127.0.0.1:4566"},
        {"endpoint_url": "https://[::1]:8443", "ca_pem": certificate()},
        {"endpoint_url": "https://aws.example.net", "stream_hosts": ("ssm.example.net:443", "[2001:db8::1]:8443")},
        {"role_arn": f"arn:aws-cn:iam::{ACCOUNT}:role/team/FleetOps", "regions": ("cn-north-1",)},
        {"role_arn": "", "profile": "hub"},
    ):
        assert problems(facts(**changes), now=now()) == {}
    assert "belongs to a role" in problems(facts(role_arn="", external_id="own-id"), now=now())["external_id"]
    assert "belongs to an endpoint" in problems(facts(ca_pem=certificate()), now=now())["ca_pem"]


def test_an_endpoint_that_names_no_stream_host_is_its_own():
    assert with_own_stream_host({"endpoint_url": "https://aws.example.net"}) == ("aws.example.net:443",)
    assert with_own_stream_host({"endpoint_url": "https://[::1]:8443"}) == ("[::1]:8443",)
    assert with_own_stream_host({"endpoint_url": "", "stream_hosts": []}) == ()
    assert with_own_stream_host({"endpoint_url": "https://a", "stream_hosts": ["b:1"]}) == ("b:1",)


# --- adding ---


def test_an_account_is_added_checked_and_audited(admin, unasked):
    page = admin.get(reverse("accounts:add"))
    assert 'value="fleetops-' in text_of(page), "an external id is suggested"
    answer = admin.post(reverse("accounts:add"), FORM | {"regions": ["eu-west-1", "us-east-1"]})
    account = Account.objects.get()
    assert answer.url == account.get_absolute_url()
    assert facts_of(account) == facts(external_id="own-id", regions=("eu-west-1", "us-east-1"))
    assert unasked == [str(account.checks.get().pk)]
    added = event("inventory.account.add")
    assert (added.account_id, added.details["after"]["role_arn"]) == (ACCOUNT, ROLE)
    assert services.claim_due_regions(now=now()), "its regions are read at once"


def test_what_is_wrong_is_shown_at_its_field_and_nothing_is_kept(admin):
    answer = admin.post(reverse("accounts:add"), {"account_id": "12", "external_id": "two words", "role_arn": "x"})
    page = text_of(answer)
    assert answer.status_code == 400
    for words in ("twelve digits", "Give it a name", "at least one region", "no role&#x27;s ARN", "no blanks"):
        assert words in page, words
    assert not Account.objects.exists() and not AuditEvent.objects.filter(action="inventory.account.add").exists()


def test_an_account_is_added_once_and_no_two_bear_one_name(admin):
    make_account(ACCOUNT, name="other")
    assert "linked already" in text_of(admin.post(reverse("accounts:add"), FORM))
    make_account("999999999999", name="Payments")
    Account.objects.filter(account_id=ACCOUNT).delete()
    assert "There is an account called payments" in text_of(admin.post(reverse("accounts:add"), FORM))
    assert Account.objects.count() == 1


def test_a_ca_goes_into_the_audit_log_by_its_name(admin):
    given = FORM | {"endpoint_url": "https://127.0.0.1:8443/", "ca_pem": certificate()}
    admin.post(reverse("accounts:add"), given)
    account = Account.objects.get()
    assert (account.endpoint_url, account.stream_hosts) == ("https://127.0.0.1:8443", ["127.0.0.1:8443"])
    assert event("inventory.account.add").details["after"]["ca_pem"].startswith("CN=Site CA until ")


# --- changing ---


def test_a_change_is_kept_and_audited_with_before_and_after(admin):
    account = accounts.add_account(facts(), actor="tests")
    answer = admin.post(
        reverse("accounts:edit", args=[account.pk]), FORM | {"name": "pay", "account_id": "000000000000"}
    )
    assert answer.status_code == 302
    account.refresh_from_db()
    assert (account.account_id, account.name, account.external_id) == (ACCOUNT, "pay", "own-id")
    told = event("inventory.account.update")
    assert told.details["before"] == {"name": "payments", "external_id": ""}
    assert told.details["after"] == {"name": "pay", "external_id": "own-id"}
    again = admin.post(reverse("accounts:edit", args=[account.pk]), FORM | {"name": "pay"}, follow=True)
    assert "Nothing was changed" in text_of(again)
    assert AuditEvent.objects.filter(action="inventory.account.update").count() == 1


def test_a_form_that_is_sent_back_as_it_came_changes_nothing(admin):
    account = accounts.add_account(facts(endpoint_url="https://127.0.0.1:8443", ca_pem=certificate()), actor="tests")
    account.refresh_from_db()
    sent = FORM | {"external_id": "", "endpoint_url": account.endpoint_url, "stream_hosts": "127.0.0.1:8443\r\n"}
    sent["ca_pem"] = account.ca_pem.replace("\n", "\r\n")
    assert "Nothing was changed" in text_of(admin.post(reverse("accounts:edit", args=[account.pk]), sent, follow=True))


def test_regions_are_turned_on_and_off_and_their_instances_leave_and_come_back(admin):
    account = accounts.add_account(facts(regions=("eu-west-1", "us-east-1")), actor="tests")
    here = make_instance(region=account.regions.get(name="eu-west-1"), name="here")
    there = make_instance(region=account.regions.get(name="us-east-1"), name="there")
    admin.post(
        reverse("accounts:edit", args=[account.pk]), FORM | {"external_id": "", "regions": ["eu-west-1", "eu-north-1"]}
    )
    assert set(Instance.objects.present()) == {here}
    assert {region.name: region.enabled for region in account.regions.all()} == {
        "eu-north-1": True,
        "eu-west-1": True,
        "us-east-1": False,
    }
    told = {(each.action, each.region) for each in AuditEvent.objects.filter(action__startswith="inventory.region.")}
    assert told == {("inventory.region.disable", "us-east-1"), ("inventory.region.enable", "eu-north-1")}
    there.refresh_from_db()
    assert there.gone_at is not None and there.ping_status == ""
    assert account.regions.get(name="us-east-1").pk not in services.claim_due_regions(now=now())


def test_who_does_not_administer_may_rename_an_account_and_not_say_as_whom_fleetops_acts(client, roles):
    user = make_user("half")
    user.user_permissions.add(
        *Permission.objects.filter(codename__in=["view_account", "change_account", "add_account"])
    )
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    account = accounts.add_account(facts(), actor="tests")
    edit = reverse("accounts:edit", args=[account.pk])
    assert client.post(edit, FORM | {"external_id": "", "name": "pay"}).status_code == 302
    for change in ({"role_arn": f"arn:aws:iam::{ACCOUNT}:role/Admin"}, {"endpoint_url": "https://evil.example.net"}):
        assert client.post(edit, FORM | {"external_id": "", "name": "pay"} | change).status_code == 403
    assert (
        client.post(reverse("accounts:add"), FORM | {"account_id": "999999999999", "role_arn": ""}).status_code == 400
    )
    account.refresh_from_db()
    assert (account.name, account.role_arn, account.endpoint_url) == ("pay", ROLE, "")
    refused = AuditEvent.objects.filter(action="web.permission.refuse", actor_name="half")
    assert refused.count() == 2 and "identity.administer" in refused.first().reason


def test_of_an_embedded_account_only_name_and_regions_change(admin, linked):
    edit = reverse("accounts:edit", args=[linked.pk])
    page = text_of(admin.get(edit))
    assert page.count("disabled") >= 7
    sent = {"name": "Northwind", "regions": ["eu-west-1"], "role_arn": "arn:aws:iam::111122223333:role/Other"}
    assert admin.post(edit, sent).status_code == 302
    linked.refresh_from_db()
    assert (linked.name, linked.role_arn) == ("Northwind", "arn:aws:iam::111122223333:role/FleetOpsControlPlane")
    with pytest.raises(UserError, match="comes from the embedded endpoint"):
        accounts.change_account(linked, facts(account_id=linked.account_id, role_arn=""), actor="tests")


def test_the_endpoint_leaves_a_name_and_a_region_as_people_set_them(admin, linked, endpoint, home):
    Region.objects.filter(account=linked).update(enabled=False)
    Account.objects.filter(pk=linked.pk).update(name="Northwind", enabled=False)
    services.link_endpoint(endpoint.home / "handover.json", home / "aws" / "credentials", actor="tests")
    linked.refresh_from_db()
    assert (linked.name, linked.enabled, linked.regions.get(name="eu-west-1").enabled) == ("Northwind", False, False)


# --- disabling ---


def test_a_disabled_account_is_not_read_and_no_shell_opens_in_it(admin, roles):
    account = accounts.add_account(facts(), actor="tests")
    node = make_instance(region=account.regions.get())
    admin.post(reverse("accounts:set_enabled", args=[account.pk]), {"enabled": "0"})
    account.refresh_from_db()
    assert not account.enabled and event("inventory.account.disable").account_id == ACCOUNT
    assert not Instance.objects.present().exists()
    assert services.claim_regions_now(now=now()) == [] and services.claim_due_regions(now=now()) == []
    answer = admin.post(reverse("sessions:open"), {"instance": str(node.pk)})
    assert answer.status_code == 409 and not TerminalSession.objects.exists()

    admin.post(reverse("accounts:set_enabled", args=[account.pk]), {"enabled": "1"})
    assert services.claim_due_regions(now=now()) == [account.regions.get().pk]
    before = AuditEvent.objects.filter(action="inventory.account.enable").count()
    admin.post(reverse("accounts:set_enabled", args=[account.pk]), {"enabled": "1"})
    assert AuditEvent.objects.filter(action="inventory.account.enable").count() == before == 1


def test_a_reading_that_ends_after_the_account_was_disabled_brings_nothing_back(linked, monkeypatch):
    read = services._read

    def read_and_disable(region, moment):
        outcome = read(region, moment)
        accounts.set_enabled(linked, False, actor="tests")
        return outcome

    monkeypatch.setattr(services, "_read", read_and_disable)
    (claimed,) = services.claim_due_regions(now=now())
    services.refresh_region(claimed, now=now())
    assert Instance.objects.count() == 14 and not Instance.objects.present().exists()

    monkeypatch.setattr(services, "_read", read)
    accounts.set_enabled(linked, True, actor="tests")
    Region.objects.update(claimed_until=None)
    (claimed,) = services.claim_due_regions(now=now())
    services.refresh_region(claimed, now=now())
    assert Instance.objects.present().count() == 14


# --- removing ---


def test_an_account_is_removed_and_its_sessions_recordings_and_audit_rows_stay(admin, roles):
    account = accounts.add_account(facts(), actor="tests")
    session = make_session(
        user=make_user("mei", role="operator"),
        instance=make_instance(region=account.regions.get()),
        state=SessionState.ENDED,
    )
    accounts.set_enabled(account, False, actor="tests")
    rows = set(AuditEvent.objects.filter(account_id=ACCOUNT))
    path = reverse("accounts:remove", args=[account.pk])
    assert admin.post(path, {"confirm": "111122223333"}).status_code == 409 and Account.objects.exists()
    assert admin.post(path, {"confirm": ACCOUNT}).status_code == 302
    assert not Account.objects.exists() and not Instance.objects.exists() and not Region.objects.exists()
    session.refresh_from_db()
    assert (session.instance_row, session.account_id, session.region) == (None, ACCOUNT, "eu-west-1")
    assert admin.get(reverse("sessions:replay", args=[session.pk])).status_code == 200
    assert rows and rows < set(AuditEvent.objects.filter(account_id=ACCOUNT))
    removed = event("inventory.account.remove")
    assert (removed.details["instances"], removed.details["before"]["role_arn"]) == (1, ROLE)


def test_an_account_is_not_removed_while_it_is_enabled_or_somebody_has_a_shell_in_it(admin, roles, linked):
    account = accounts.add_account(facts(), actor="tests")
    with pytest.raises(UserError, match="Disable payments first"):
        accounts.remove_account(account, actor="tests")
    make_session(user=make_user("mei", role="operator"), instance=make_instance(region=account.regions.get()))
    accounts.set_enabled(account, False, actor="tests")
    with pytest.raises(UserError, match="1 person has a shell open in payments"):
        accounts.remove_account(account, actor="tests")
    accounts.set_enabled(linked, False, actor="tests")
    with pytest.raises(UserError, match="would come back"):
        accounts.remove_account(linked, actor="tests")
    assert Account.objects.count() == 2


# --- the pages ---


def test_the_list_shows_each_account_in_a_bounded_number_of_queries(admin):
    def add(number: int) -> Account:
        account = accounts.add_account(
            facts(
                account_id=f"{number:012}", name=f"account {number}", role_arn="", regions=("eu-west-1", "us-east-1")
            ),
            actor="tests",
        )
        make_instance(region=account.regions.first())
        check = account_checks.ask(account, actor="tests")
        AccountCheck.objects.filter(pk=check.pk).update(state=CheckState.DONE)
        CheckRow.objects.filter(parent=check).update(result="ok")
        return account

    def queries() -> int:
        with CaptureQueriesContext(connection) as taken:
            admin.get(reverse("accounts:list"))
        return len(taken)

    first = add(1)
    few = queries()
    for number in range(2, 9):
        add(number)
    assert queries() == few

    CheckRow.objects.filter(parent__account=first, action="ssm:StartSession").update(result="denied", text="No shell.")
    Region.objects.filter(account__account_id="000000000002").update(error="AWS is away.")
    page = text_of(admin.get(reverse("accounts:list")))
    assert "<b>8</b> accounts are read" in page and "<b>account 1</b> lacks" in page and "ssm:StartSession" in page
    assert "<b>account 2</b> cannot be read in full. AWS is away." in page
    assert "Permission missing" in page and page.count("Works") == 6


def test_the_page_shows_what_is_denied_and_the_statement_to_add(admin):
    account = accounts.add_account(facts(), actor="tests")
    assert "Nobody has asked AWS yet" in text_of(admin.get(account.get_absolute_url()))
    check = account_checks.ask(account, actor="tests")
    live = reverse("accounts:live", args=[account.pk])
    assert 'hx-trigger="every 500ms"' in text_of(admin.get(live))
    AccountCheck.objects.filter(pk=check.pk).update(state=CheckState.DONE)
    check.rows.update(result="ok")
    check.rows.filter(action="ssm:TerminateSession").update(result="denied", text="Cannot be ended.")
    page = text_of(admin.get(live))
    asked = len(permissions.PERMISSIONS) + 4
    assert "hx-trigger" not in page and f"{asked - 1} of {asked} allowed" in page
    missing = permissions.as_json(permissions.policy(ACCOUNT, role=ROLE, actions=["ssm:TerminateSession"]))
    assert missing.replace('"', "&quot;") in page
    again = admin.post(reverse("accounts:check", args=[account.pk]), headers={"HX-Request": "true"})
    assert f"0 of {asked} asked" in text_of(again)


def test_the_documents_are_downloads_that_hold_what_is_known(admin):
    account = accounts.add_account(facts(external_id="own-id"), actor="tests")
    check = account_checks.ask(account, actor="tests")
    arn = "arn:aws:sts::111122223333:assumed-role/hub/i-0aaaaaaaaaaaaaaaa"
    AccountCheck.objects.filter(pk=check.pk).update(state=CheckState.DONE, caller_arn=arn)

    def download(kind):
        answer = admin.get(reverse("accounts:document", args=[account.pk, kind]))
        assert answer["Content-Disposition"].startswith("attachment"), kind
        return text_of(answer)

    assert json.loads(download("policy")) == permissions.policy(ACCOUNT, role=ROLE)
    assert json.loads(download("trust")) == permissions.trust_policy("arn:aws:iam::111122223333:role/hub", "own-id")
    assert json.loads(download("caller"))["Statement"][0]["Resource"] == [ROLE]
    template = yaml.safe_load(download("cloudformation"))
    assert template["Parameters"]["TrustedPrincipal"]["Default"] == "arn:aws:iam::111122223333:role/hub"
    assert template["Parameters"]["ExternalId"]["Default"] == "own-id"
    assert admin.get(reverse("accounts:document", args=[account.pk, "secrets"])).status_code == 404
    assert yaml.safe_load(text_of(admin.get(reverse("accounts:template"))))["Resources"]


@pytest.mark.parametrize("role", ["viewer", "operator", "auditor", "patch_owner"])
def test_nobody_else_sees_or_changes_accounts(client_as, role):
    client, account = client_as(role), make_region().account
    assert client.get(reverse("accounts:list")).status_code == 403
    assert client.get(account.get_absolute_url()).status_code == 403
    assert client.post(reverse("accounts:set_enabled", args=[account.pk]), {"enabled": "0"}).status_code == 403
    assert Account.objects.get().enabled
    with pytest.raises(Denied):
        accounts.add_account(facts(account_id="999999999999", role_arn="", profile="x"), actor=make_user(role=role))


# --- the command ---


def test_the_command_prints_each_document():
    def printed(*arguments) -> str:
        out = StringIO()
        call_command("aws_policy", *arguments, stdout=out)
        return out.getvalue()

    assert json.loads(printed("--account", ACCOUNT)) == permissions.policy(ACCOUNT)
    assert json.loads(printed()) == permissions.policy("*")
    given = ("--principal", "arn:aws:iam::1:role/hub", "--external-id", "own-id")
    assert json.loads(printed("--format", "trust", *given)) == permissions.trust_policy(
        "arn:aws:iam::1:role/hub", "own-id"
    )
    assert json.loads(printed("--format", "caller", "--role-arn", ROLE)) == permissions.caller_policy([ROLE])
    assert yaml.safe_load(printed("--format", "cloudformation"))["Outputs"]
    with pytest.raises(CommandError, match="twelve digits"):
        printed("--account", "12")
    with pytest.raises(CommandError, match="no blanks"):
        printed("--format", "trust", "--external-id", "a b")
