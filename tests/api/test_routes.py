"""The routes: what they give, in how many queries, page by page; and the schema that describes them."""

import datetime
import io
import json
import uuid

import jsonschema
import pytest
import yaml
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fleetops.audit.models import AuditEvent
from fleetops.audit.record import record
from fleetops.aws import governor
from fleetops.clock import now
from fleetops.inventory.models import Instance
from fleetops.policy import services as policy
from fleetops.policy.models import Rule
from sessions_app.models import TerminalSession
from sessions_app.states import SessionState
from tests.api.test_tokens import told
from tests.factories import make_account, make_instance, make_region, make_session, make_user

pytestmark = pytest.mark.usefixtures("roles", "valkey")


def follow(program, path: str) -> list[dict]:
    """All rows of a list, page by page."""
    rows, pages = [], 0
    while path:
        body = program.get(path).json()
        rows += body["results"]
        path = body["next"] and body["next"].removeprefix("http://testserver")
        pages += 1
        assert pages < 50
    return rows


# --- Fleet -----------------------------------------------------------------------------------------------------------


def test_instances_have_the_facts_of_the_page(bearer):
    instance = make_instance(name="web-1", tags={"env": "prod"}, instance_type="t3.micro")
    (row,) = bearer(make_user(role="viewer")).get("/api/v1/instances/").json()["results"]
    assert row["id"] == str(instance.pk) and row["instance_id"] == instance.instance_id
    assert (row["name"], row["status"], row["platform"]) == ("web-1", "online", "Ubuntu 24.04")
    assert (row["account_id"], row["region"], row["tags"]) == ("111122223333", "eu-west-1", {"env": "prod"})
    assert row["url"] == f"http://testserver/fleet/{instance.pk}/"


def test_an_instance_says_whether_it_can_be_reached(bearer):
    instance = make_instance(ec2_state="stopped", ping_status="ConnectionLost")
    body = bearer(make_user(role="viewer")).get(f"/api/v1/instances/{instance.pk}/").json()
    assert body["status"] == "stopped" and body["readiness"]["can_connect"] is False
    assert body["readiness"]["reason"]


def test_an_instance_that_is_not_there_is_a_404(bearer):
    program = bearer(make_user(role="viewer"))
    assert told(program.get(f"/api/v1/instances/{uuid.uuid4()}/"), 404)
    assert told(program.get("/api/v1/nothing/of/the/kind"), 404)
    assert told(program.post("/api/v1/instances/", {}), 405)


def test_who_may_not_see_the_fleet_gets_none_of_it(bearer):
    user = make_user(role="viewer")
    program = bearer(user, "fleet:read")
    user.groups.clear()
    instance = make_instance()
    for path in ("accounts/", "regions/", "instances/", f"instances/{instance.pk}/"):
        assert "inventory.view_instance" in told(program.get(f"/api/v1/{path}"), 403)


def test_instances_are_chosen_by_words_and_expressions(bearer):
    make_instance(name="web-1", tags={"env": "prod"})
    make_instance(name="db-1", tags={"env": "prod"})
    make_instance(name="web-2", tags={"env": "test"})
    program = bearer(make_user(role="viewer"))

    def names(q):
        answer = program.get("/api/v1/instances/", {"q": q})
        return sorted(row["name"] for row in answer.json()["results"])

    assert names("web") == ["web-1", "web-2"]
    assert names("tag:env=prod") == ["db-1", "web-1"]
    assert names("env=prod and name=web*") == ["web-1"]
    assert names("not env=prod") == ["web-2"]
    answer = program.get("/api/v1/instances/", {"q": "env=prod and or"})
    assert told(answer, 400) and answer.json()["errors"]["q"]


def test_ten_thousand_instances_are_listed_page_by_page_in_a_few_queries(bearer):
    region = make_region()
    Instance.objects.bulk_create(
        (
            Instance(
                account=region.account,
                region=region,
                instance_id=f"i-{n:017x}",
                name=f"node-{n:05}",
                ec2_state="running",
                ping_status="Online",
                tags={"env": "prod"},
            )
            for n in range(10_000)
        ),
        batch_size=1000,
    )
    program = bearer(make_user(role="viewer"))
    program.get("/api/v1/instances/")
    with CaptureQueriesContext(connection) as queries:
        first = program.get("/api/v1/instances/?page_size=500").json()
    assert len(first["results"]) == 500
    # The token with its owner, two for the permissions, the rows.
    assert len(queries) == 4, [query["sql"] for query in queries]
    rows = follow(program, "/api/v1/instances/?page_size=500")
    assert len({row["id"] for row in rows}) == 10_000


def test_accounts_and_regions(bearer):
    make_region("eu-west-1")
    make_region("us-east-1")
    make_region("eu-west-1", account=make_account("222233334444", name="payments"))
    program = bearer(make_user(role="viewer"))
    accounts = program.get("/api/v1/accounts/").json()["results"]
    assert [row["regions"] for row in accounts] == [["eu-west-1", "us-east-1"], ["eu-west-1"]]
    regions = follow(program, "/api/v1/regions/?page_size=2")
    assert {(row["account_name"], row["name"]) for row in regions} >= {("payments", "eu-west-1")}
    assert len(regions) == 3


@pytest.mark.parametrize("query", ["page_size=0", "page_size=501", "page_size=x", "page_size=²", "after=x"])
def test_a_page_that_cannot_be_is_told(bearer, query):
    assert told(bearer(make_user(role="viewer")).get(f"/api/v1/instances/?{query}"), 400)


def test_rows_that_come_meanwhile_neither_repeat_nor_hide_others(bearer):
    user = make_user(role="auditor")
    old = [make_session(user=user, state=SessionState.ENDED) for _ in range(4)]
    program = bearer(user)
    first = program.get("/api/v1/sessions/?page_size=2").json()
    make_session(user=user)
    rest = follow(program, first["next"].removeprefix("http://testserver"))
    seen = [row["id"] for row in [*first["results"], *rest]]
    assert seen == [str(session.pk) for session in reversed(old)]


# --- Sessions --------------------------------------------------------------------------------------------------------


def test_one_sees_ones_own_sessions_and_a_reviewer_everybodys(bearer):
    operator, auditor = make_user("op", role="operator"), make_user(role="auditor")
    mine, other = make_session(user=operator), make_session(user=make_user(role="operator"))
    own, all_of_them = bearer(operator, "sessions:read"), bearer(auditor, "sessions:read")
    assert [row["id"] for row in own.get("/api/v1/sessions/").json()["results"]] == [str(mine.pk)]
    assert len(all_of_them.get("/api/v1/sessions/").json()["results"]) == 2
    assert told(own.get(f"/api/v1/sessions/{other.pk}/"), 404)
    assert all_of_them.get(f"/api/v1/sessions/{other.pk}/").json()["state"] == "open"


def test_sessions_are_filtered(bearer):
    user = make_user("op", role="operator")
    live = make_session(user=user)
    make_session(user=user, state=SessionState.ENDED, ended_at=now())
    program = bearer(user)
    found = program.get(f"/api/v1/sessions/?state=live&user=op&instance={live.instance_row_id}").json()["results"]
    assert [row["id"] for row in found] == [str(live.pk)]
    assert told(program.get("/api/v1/sessions/?state=asleep"), 400)
    assert told(program.get("/api/v1/sessions/?instance=web"), 400)


def test_a_session_is_opened_and_its_url_is_the_terminal(bearer):
    user = make_user("op", role="operator")
    instance = make_instance()
    answer = bearer(user, "sessions:open").post(
        "/api/v1/sessions/", {"instance": str(instance.pk), "reason": "ticket 7"}
    )
    body = answer.json()
    assert answer.status_code == 201 and body["state"] == "opening" and body["reason"] == "ticket 7"
    assert body["url"] == f"http://testserver/sessions/{body['id']}/terminal/" or body["id"] in body["url"]
    event = AuditEvent.objects.get(action="sessions.open")
    assert (event.actor_name, event.source) == ("op", "api") and event.details["via"]


def test_a_session_on_what_cannot_be_reached_is_a_conflict_in_the_pages_words(bearer):
    instance = make_instance(ec2_state="stopped", ping_status="ConnectionLost")
    program = bearer(make_user(role="operator"))
    assert "No shell can be opened" in told(program.post("/api/v1/sessions/", {"instance": str(instance.pk)}), 409)
    assert not TerminalSession.objects.exists()


@pytest.mark.parametrize("body", [{}, {"instance": "web-1"}, {"instance": None}, [], "text"])
def test_what_is_no_request_is_told(bearer, body):
    program = bearer(make_user(role="operator"))
    answer = Client.post(program, "/api/v1/sessions/", json.dumps(body), content_type="application/json")
    assert told(answer, 400) and answer.json()["errors"]
    assert told(Client.post(program, "/api/v1/sessions/", "{", content_type="application/json"), 400)
    assert told(Client.post(program, "/api/v1/sessions/", {"instance": "x"}), 415)


def test_ones_own_session_is_ended_and_nobody_elses(bearer):
    user = make_user("op", role="operator")
    mine, other = make_session(user=user), make_session(user=make_user(role="operator"))
    program = bearer(user, "sessions:end")
    answer = program.post(f"/api/v1/sessions/{mine.pk}/end/")
    assert answer.status_code == 202 and answer.json()["end_requested_by"] == "op"
    assert told(program.post(f"/api/v1/sessions/{other.pk}/end/"), 404)
    administrator = bearer(make_user(role="administrator"), "sessions:end")
    assert administrator.post(f"/api/v1/sessions/{other.pk}/end/").status_code == 202


def test_a_recording_is_downloaded_and_that_is_audited(bearer):
    user = make_user("op", role="operator")
    mine, other = make_session(user=user), make_session(user=make_user(role="operator"))
    program = bearer(user, "recordings:read")
    assert told(program.get(f"/api/v1/sessions/{other.pk}/recording/"), 404)
    answer = program.get(f"/api/v1/sessions/{mine.pk}/recording/?version=3")
    assert answer["Content-Type"] == "application/x-asciicast" and ".cast" in answer["Content-Disposition"]
    event = AuditEvent.objects.get(action="sessions.recording.download")
    assert event.details["asciicast_version"] == 3 and event.source == "api"


def test_a_recording_is_looked_through_and_that_is_audited(bearer):
    user = make_user("op", role="operator")
    mine, other = make_session(user=user), make_session(user=make_user(role="operator"))
    program = bearer(user, "recordings:read")
    body = program.get(f"/api/v1/sessions/{mine.pk}/replay/").json()
    assert (body["chunks"], body["is_live"], body["faults"], body["activity"]) == (0, True, [], [])
    assert AuditEvent.objects.get(action="sessions.recording.view").source == "api"
    found = program.get(f"/api/v1/sessions/{mine.pk}/search/", {"q": "root"}).json()
    assert found == {"q": "root", "hits": [], "has_more": False}
    assert AuditEvent.objects.filter(action="sessions.recording.view").count() == 1  # within the hour
    assert list(program.get(f"/api/v1/sessions/{mine.pk}/search/").json()["errors"]) == ["q"]
    for path in ("replay/", "search/?q=x"):
        assert told(program.get(f"/api/v1/sessions/{other.pk}/{path}"), 404)


def test_where_the_policy_wants_to_know_why_a_call_without_a_reason_is_told_so_and_one_with_it_goes_on(bearer):
    user, other = make_user("chief", role="administrator"), make_user("op", role="operator")
    Rule.objects.all().delete()
    deeds = ["shell", "read_recording", "end_session"]
    policy.create_rule(
        actor="tests", name="Why", everybody=True, deeds=deeds, targets="all", needs_reason=True, confirmed=True
    )
    instance, session = make_instance(), make_session(user=other)
    program = bearer(user)
    path = f"/api/v1/sessions/{session.pk}/"

    def calls(reason: str):
        yield program.post("/api/v1/sessions/", {"instance": str(instance.pk), "reason": reason})
        for name in ("recording/?", "replay/?", "search/?q=x&"):
            yield program.get(f"{path}{name}reason={reason}")
        yield program.post(f"{path}end/", {"reason": reason})

    for reason in ("", " "):
        for answer in calls(reason):
            assert "needs a reason" in told(answer, 400) and list(answer.json()["errors"]) == ["reason"]
    assert not AuditEvent.objects.filter(outcome="denied").exists() and not session.end_requested_by
    assert [answer.status_code for answer in calls("INC-7")] == [201, 200, 200, 200, 202]
    reasons = AuditEvent.objects.filter(source="api", action__startswith="sessions.").values_list("action", "reason")
    assert ("sessions.end.request", "INC-7") in reasons and ("sessions.recording.download", "INC-7") in reasons
    assert told(program.post(f"{path}end/", {"reason": "x" * 257}), 400)
    assert told(program.post(f"{path}end/", {"because": "x"}), 400)


# --- Audit -----------------------------------------------------------------------------------------------------------


def test_events_are_listed_and_filtered(bearer):
    user = make_user("aud", role="auditor")
    someone = make_user("someone")
    record("identity.login", actor=someone)
    record("identity.logout", actor=someone)
    program = bearer(user, "audit:read")
    rows = program.get("/api/v1/audit/events/", {"who": "someone"}).json()["results"]
    assert [row["action"] for row in rows] == ["identity.logout", "identity.login"]
    assert rows[0]["number"] is None  # not sealed yet
    rows = program.get("/api/v1/audit/events/", {"q": "who:someone action:identity.login"}).json()["results"]
    assert [row["action"] for row in rows] == ["identity.login"]
    assert program.get(f"/api/v1/audit/events/{rows[0]['id']}/").json() == rows[0]
    later = (now() + datetime.timedelta(hours=1)).isoformat()
    assert program.get("/api/v1/audit/events/", {"since": later}).json()["results"] == []
    assert "outcome:odd is none of" in told(program.get("/api/v1/audit/events/", {"outcome": "odd"}), 400)


@pytest.mark.parametrize("path", ["audit/events/", "sessions/", "tokens/", "accounts/", "regions/"])
def test_no_list_asks_the_database_once_a_row(bearer, path):
    user = make_user(role="administrator")
    program = bearer(user)

    def queries() -> int:
        program.get(f"/api/v1/{path}?page_size=500")
        with CaptureQueriesContext(connection) as asked:
            assert program.get(f"/api/v1/{path}?page_size=500").json()["results"]
        return len(asked)

    for _ in range(2):
        make_session(user=user, instance=make_instance(region=make_region(f"r-{uuid.uuid4().hex[:6]}")))
    record("identity.login", actor=user)
    few = queries()
    for n in range(20):
        account = make_account(f"3333444455{n:02}")
        make_session(user=user, instance=make_instance(region=make_region("eu-north-1", account=account)))
        record("identity.login", actor=user)
    assert queries() == few <= 5


# --- The schema ------------------------------------------------------------------------------------------------------


def test_the_schema_has_no_warning_and_is_valid():
    out = io.StringIO()
    call_command("spectacular", fail_on_warn=True, validate=True, stdout=out)
    described = yaml.safe_load(out.getvalue())
    assert described["openapi"].startswith("3.0") and "/api/v1/instances/" in described["paths"]


def test_the_schema_is_served_to_whoever_may_call(bearer, client):
    program = bearer(make_user(role="viewer"), "fleet:read")
    assert program.get("/api/v1/schema/?format=json").json()["info"]["title"] == "FleetOps"
    assert client.get("/api/v1/schema/").status_code == 401


def test_the_page_lists_every_route(client):
    client.force_login(make_user(role="viewer"), backend="django.contrib.auth.backends.ModelBackend")
    page = client.get("/api/v1/").content.decode()
    for text in ("/api/v1/instances/", "/api/v1/sessions/{id}/end/", "sessions:open", "page_size"):
        assert text in page, text


def test_answers_hold_what_the_schema_says(bearer):
    """Each GET without a path parameter, against its own schema."""
    governor.configure(settings.AWS_BUDGET_URL)  # another test may have found its Valkey away a moment ago
    user = make_user(role="administrator")
    make_session(user=user)
    program = bearer(user)
    described = program.get("/api/v1/schema/?format=json").json()

    def plain(schema):  # OpenAPI 3.0 says nullable where JSON Schema says null
        if isinstance(schema, list):
            return [plain(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        made = {key: plain(value) for key, value in schema.items() if key != "nullable"}
        return {"anyOf": [made, {"type": "null"}]} if schema.get("nullable") is True else made

    checked = 0
    for path, methods in described["paths"].items():
        if "{" in path or "get" not in methods:
            continue
        if any(each.get("required") for each in methods["get"].get("parameters", ())):
            continue  # tests/api/test_routes_*.py ask these
        schema = methods["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        document = plain({**schema, "components": described["components"]})
        jsonschema.validate(program.get(path).json(), document)
        checked += 1
    assert checked >= 7
