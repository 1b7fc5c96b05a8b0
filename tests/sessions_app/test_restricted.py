"""Restricted shells: defined, opened with parameters that fit, and no way past them."""

from __future__ import annotations

import json

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.errors import FieldError
from fleetops.policy import services as policy
from fleetops.policy.models import Rule
from fleetops.policy.services import PolicyDenied
from sessions_app import restricted, session_documents
from sessions_app.models import RestrictedShell, TerminalSession
from sessions_app.restricted import BadParameters
from sessions_app.session_documents import NoDocument
from tests.factories import make_instance, make_restricted_shell, make_session, make_user

from .conftest import ended, opened

UNIT = {"name": "unit", "pattern": "^(?:nginx|ledger)$"}


@pytest.fixture
def admin(operator):
    return make_user("ida", role="administrator")


def define(admin, **fields) -> RestrictedShell:
    fields = {"name": "logs", "linux": "exec tail -f /var/log/{{ unit }}", "parameters": [UNIT], **fields}
    return restricted.define(actor=admin, **fields)


def test_a_restricted_shell_is_defined_changed_and_disabled_and_each_is_audited(admin):
    row = define(admin)
    assert (row.document, row.version, row.changed_by) == ("FleetOps-logs", 1, "ida")
    restricted.change(row, actor=admin, linux="exec cat")
    row.refresh_from_db()
    assert (row.linux, row.parameters, row.version) == ("exec cat", [], 2)
    restricted.set_enabled(row, False, actor=admin)
    restricted.set_enabled(row, False, actor=admin)
    restricted.set_enabled(row, True, actor=admin)
    actions = AuditEvent.objects.filter(action__startswith="sessions.restricted").order_by("pk")
    assert [event.action.rpartition(".")[2] for event in actions] == ["define", "change", "disable", "enable"]
    assert actions[1].details["before"]["linux"] == "exec tail -f /var/log/{{ unit }}"


@pytest.mark.parametrize(
    ("fields", "field", "text"),
    [
        ({"name": "Logs"}, "name", "small letters"),
        ({"name": "x"}, "name", "2 to 63"),
        ({"linux": ""}, "linux", "at least one platform"),
        ({"linux": "cat {{ other }}"}, "linux", "no parameter other"),
        ({"linux": "cat {{ ssm:/secret }} {{ unit }}"}, "linux", "Parameter Store"),
        ({"linux": "x" * 8001}, "linux", "8,000"),
        ({"parameters": [{"name": "runAs"}]}, "parameters", "cannot be a parameter"),
        ({"parameters": [{"name": "un it"}]}, "parameters", "cannot be a parameter"),
        ({"parameters": [UNIT, UNIT]}, "parameters", "two parameters unit"),
        ({"parameters": [{"name": "unit", "pattern": "nginx"}]}, "parameters", "^ first and $ last"),
        ({"parameters": [{"name": "unit", "pattern": "^nginx|ledger$"}]}, "parameters", "into brackets"),
        ({"parameters": [{"name": "unit", "pattern": "^price\\$"}]}, "parameters", "^ first and $ last"),
        ({"parameters": [{"name": "unit", "pattern": "^(nginx$"}]}, "parameters", "regular expression"),
        ({"parameters": [{"name": "unit", "pattern": "^(?!ssh)[a-z]+$"}]}, "parameters", "a look ahead"),
        ({"parameters": [{**UNIT, "default": "sshd"}]}, "parameters", "default does not fit"),
    ],
)  # fmt: skip
def test_what_would_not_hold_is_not_defined(admin, fields, field, text):
    with pytest.raises(FieldError) as caught:
        define(admin, **fields)
    assert text in caught.value.fields[field]
    assert not RestrictedShell.objects.exists()


def test_alternatives_are_seen_where_they_are():
    for pattern in (r"^a|b$", r"^(a)|b$", r"^[]|]x|y$"):
        assert restricted._has_alternative(pattern), pattern
    for pattern in (r"^(?:a|b)$", r"^[a|b]$", r"^a\|b$", r"^[]|]x$", r"^[^]|]x$", r"^[\]|]$"):
        assert not restricted._has_alternative(pattern), pattern


def test_a_name_is_given_once(admin):
    restricted.set_enabled(define(admin), False, actor=admin)
    with pytest.raises(FieldError, match="keeps its name"):
        define(admin)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nginx; sh",
        "nginx\nsh",
        "nginx\n",
        "$(sh)",
        "`sh`",
        "nginx|sh",
        "../../etc/passwd",
        "x" * 1001,
        "{{ unit }}",
    ],
)
def test_a_value_that_does_not_fit_is_refused_at_our_door(admin, operator, value):
    define(admin)
    instance = make_instance(platform_type="Linux")
    with pytest.raises(BadParameters, match="unit"):
        restricted.require_usable(instance, "FleetOps-logs", {"unit": [value]})


@pytest.mark.parametrize(
    "value", ["-rf", "a b", "a;b", "a&b", "a>b", "a'b", 'a"b', "a*b", "~x", "#x", "a\\b", "+c", ""]
)
def test_a_parameter_that_says_nothing_takes_no_switch_and_nothing_that_a_shell_reads(admin, value):
    row = define(admin, linux="exec less {{ file }}", parameters=[{"name": "file"}])
    assert row.parameters[0]["pattern"] == restricted.PLAIN_PATTERN
    instance = make_instance(platform_type="Linux")
    restricted.require_usable(instance, row.document, {"file": ["/var/log/syslog.1"]})
    with pytest.raises(BadParameters):
        restricted.require_usable(instance, row.document, {"file": [value]})


def test_parameters_are_all_there_and_no_others_and_the_platform_fits(admin):
    row = define(admin, parameters=[{**UNIT, "default": "nginx"}])
    instance = make_instance(platform_type="Linux")
    restricted.require_usable(instance, row.document, {})
    for given in ({"other": ["x"]}, {"unit": ["nginx", "ledger"]}, {"unit": []}, {"runAs": ["root"]}):
        with pytest.raises(BadParameters):
            restricted.require_usable(instance, row.document, given)
    with pytest.raises(NoDocument, match="not for Windows"):
        restricted.require_usable(make_instance(platform_type="Windows"), row.document, {})
    restricted.require_usable(instance, "AWS-StartInteractiveCommand", {"command": ["top"]})


@pytest.mark.parametrize(
    "document",
    [
        *("FleetOps-Shell-0123456789ab", "FleetOps-logs-0123456789ab", "FleetOps-gone", "FleetOps-", "FleetOps-logs\n"),
        *("FleetOps-logs:1", "arn:aws:ssm:eu-west-1:111122223333:document/FleetOps-Shell-0123456789ab"),
    ],
)
def test_our_documents_cannot_be_asked_for_by_other_names(admin, operator, document):
    """Not even by whom a rule lets name any document."""
    fields = {"everybody": True, "deeds": ["shell"], "targets": "all", "session_documents": ["*"]}
    policy.create_rule(actor="test", name="Any", confirmed=True, **fields)
    restricted.set_enabled(define(admin, name="gone"), False, actor=admin)
    define(admin)
    with pytest.raises(NoDocument):
        opened(make_instance(platform_type="Linux", ping_status="Online"), operator, document=document)
    assert not TerminalSession.objects.exists()


def test_without_a_document_in_the_account_no_other_shell_is_opened_in_its_place(admin, operator):
    row = define(admin)
    session = make_session(
        user=operator, instance=make_instance(), document=row.document, parameters={"unit": ["nginx"]}
    )
    access = session.instance_row.account.access()  # nobody answers there
    with pytest.raises(NoDocument):
        session_documents.for_session(session, access)


def test_a_rule_limits_somebody_to_restricted_shells(admin, operator):
    row = define(admin)
    Rule.objects.all().delete()
    fields = {"users": [operator], "deeds": ["shell"], "targets": "all", "session_documents": [row.document]}
    policy.create_rule(actor="tests", name="Logs", confirmed=True, **fields)
    instance = make_instance(platform_type="Linux")
    for document in ("", "AWS-StartInteractiveCommand"):
        with pytest.raises(PolicyDenied):
            opened(instance, operator, document=document)


def test_the_pages_define_one_and_open_it(client, admin, operator):
    client.force_login(admin)
    form = {"name": "logs", "linux": "exec cat {{ unit }}", "p0_name": "unit", "p0_values": "nginx, ledger"}
    answer = client.post(reverse("sessions:restricted_shell_add"), {**form, "p1_name": "9"})
    assert answer.status_code == 400 and "cannot be a parameter" in answer.content.decode()
    answer = client.post(reverse("sessions:restricted_shell_add"), form)
    row = RestrictedShell.objects.get()
    assert answer.url == row.get_absolute_url()
    assert row.parameters[0]["values"] == ["nginx", "ledger"]
    page = client.get(row.get_absolute_url()).content.decode()
    assert 'value="nginx, ledger"' in page and "FleetOps-logs" in page
    assert "FleetOps-logs" in client.get(reverse("sessions:restricted_shells")).content.decode()

    client.force_login(operator)
    instance = make_instance(platform_type="Linux")
    where = {"instance": str(instance.pk)}
    page = client.get(reverse("sessions:open_as"), where).content.decode()
    assert f'name="{row.pk}-unit"' in page and "ledger" in page
    answer = client.post(reverse("sessions:open_as"), {**where, "shell": row.pk, f"{row.pk}-unit": "sshd"})
    assert answer.status_code == 400 and "must be one of: nginx, ledger" in answer.content.decode()
    answer = client.post(reverse("sessions:open_as"), {**where, "shell": row.pk, f"{row.pk}-unit": "ledger"})
    session = TerminalSession.objects.get()
    assert answer.url == reverse("sessions:terminal", args=[session.pk])
    assert (session.document, session.parameters) == ("FleetOps-logs", {"unit": ["ledger"]})
    assert AuditEvent.objects.get(action="sessions.open").details["document"] == "FleetOps-logs"


def test_the_api_defines_one_and_opens_it(client, admin, operator):
    client.force_login(admin)
    body = {"name": "logs", "linux": "exec cat {{ unit }}", "parameters": [UNIT]}

    def send(method: str, path: str, content: dict):
        return getattr(client, method)(path, json.dumps(content), content_type="application/json")

    assert send("post", "/api/v1/restricted-shells/", {**body, "linux": ""}).status_code == 400
    made = send("post", "/api/v1/restricted-shells/", body)
    assert made.status_code == 201 and made.json()["document"] == "FleetOps-logs"
    path = f"/api/v1/restricted-shells/{made.json()['id']}/"
    changed = send("put", path, {**body, "note": "Follow a log"}).json()
    assert (changed["note"], changed["version"]) == ("Follow a log", 2)
    assert send("put", path, [body]).status_code == 400
    client.force_login(operator)
    assert [each["name"] for each in client.get("/api/v1/restricted-shells/").json()["results"]] == ["logs"]
    assert send("put", path, body).status_code == 403
    instance = make_instance(platform_type="Linux")
    ask = {"instance": str(instance.pk), "document": "FleetOps-logs", "parameters": {"unit": "sshd"}}
    assert send("post", "/api/v1/sessions/", ask).status_code == 409
    ask["parameters"] = {"unit": "nginx"}
    assert send("post", "/api/v1/sessions/", ask).json()["document"] == "FleetOps-logs"


def test_what_is_typed_reaches_the_program_alone_and_its_end_is_the_sessions(terminal, demo_instance, operator, admin):
    demo_instance.platform_type = "Linux"
    demo_instance.save()
    command = 'trap \'\' INT TSTP; while read -r line; do echo "{{ word }}:$line"; [ "$line" != bye ] || exit 0; done'
    define(admin, name="echo", linux=command, parameters=[{"name": "word"}])
    session = opened(demo_instance, operator, document="FleetOps-echo", parameters={"word": ["said"]})
    browser = terminal.browser(session, operator)
    browser.until("sandbox|demo node", seconds=15)
    browser.run("$(id); id | sh", r"said:\$\(id\); id \| sh\r\n")
    browser.type("\x03\x1a")
    browser.run("still", r"said:.*still\r\n")
    assert b"uid=" not in browser.output
    browser.type("bye\r")
    browser.closed()
    session = ended(session)
    assert session.no_marks == ""
    assert session.end_reason


def test_the_list_costs_as_much_however_many_there_are(client, admin):
    client.force_login(admin)
    counts = []
    for _ in range(2):
        make_restricted_shell()
        with CaptureQueriesContext(connection) as captured:
            client.get(reverse("sessions:restricted_shells"))
        counts.append(len(captured))
    assert counts[0] == counts[1]
