"""Baselines over the API, in AWS's own spelling, with the real endpoint."""

import pytest

from patching import writing
from patching.models import PatchBaseline, Write
from patching.states import WriteState
from tests.api.conftest import Bearer, make_token
from tests.factories import make_user

pytestmark = pytest.mark.django_db(transaction=True)
RULE = {
    "PatchFilterGroup": {"PatchFilters": [{"Key": "CLASSIFICATION", "Values": ["Security"]}]},
    "ComplianceLevel": "HIGH",
    "ApproveAfterDays": 7,
}
CONTENT = {"Name": "al-api", "ApprovalRules": {"PatchRules": [RULE]}, "RejectedPatches": ["docker*"]}
LIST = "/api/v1/patch-baselines/"


@pytest.fixture
def program(roles):
    return Bearer(make_token(make_user("paula", role="patch_owner"), "baselines:read", "baselines:write"))


def new(**more):
    place = {"account_id": "111122223333", "region": "eu-west-1", "operating_system": "AMAZON_LINUX_2023"}
    return place | {"content": CONTENT} | more


def test_what_get_patch_baseline_tells_is_what_the_api_takes_and_gives(program, accounts, region, ssm):
    made = program.post(LIST, new(tags={"team": "core"}))
    assert made.status_code == 201, made.content
    one = f"{LIST}{made.json()['id']}/"
    told = ssm.get_patch_baseline(BaselineId=made.json()["baseline_id"])
    assert told["RejectedPatches"] == ["docker*"] and told["ApprovalRules"]["PatchRules"][0]["ApproveAfterDays"] == 7
    shown = program.get(one).json()
    assert (shown["version"], shown["is_drifted"], shown["owner"]) == (1, False, "Self")
    assert [each["name"] for each in program.get(LIST, {"owner": "own"}).json()["results"]] == ["al-api"]

    again = {name: told[name] for name in ("Name", "ApprovalRules", "RejectedPatches")} | {"RejectedPatches": []}
    put = program.put(one, {"content": again, "based_on": 1}, content_type="application/json")
    assert put.status_code == 200 and put.json()["version"] == 2
    stale = program.put(one, {"content": CONTENT, "based_on": 1}, content_type="application/json")
    assert stale.status_code == 409 and "has version 2 by now" in stale.json()["detail"]
    assert [each["number"] for each in program.get(f"{one}versions/").json()] == [2, 1]

    ssm.update_patch_baseline(BaselineId=made.json()["baseline_id"], RejectedPatches=["snapd"])
    conflict = program.put(one, {"content": CONTENT, "based_on": 2}, content_type="application/json")
    assert conflict.status_code == 409 and "changed outside FleetOps" in conflict.json()["detail"]
    assert program.get(one).json()["is_drifted"]
    assert program.post(f"{one}accept/", {"version": 3}).json()["is_drifted"] is False

    seen = program.post(f"{one}preview/", {"content": CONTENT}).json()
    assert (seen["known"], seen["newly_approved"], seen["read_at"]) == (0, [], None)
    assert program.post(f"{one}groups/", {"name": "web eu"}).json()["groups"] == ["web eu"]
    assert any(each["name"] == "web eu" for each in program.get("/api/v1/patch-groups/").json())
    assert program.delete(one).status_code == 409
    assert program.delete(f"{one}groups/web eu/").status_code == 204
    places = [{"account_id": "111122223333", "region": "us-east-1"}]
    copied = program.post(f"{one}copy/", {"places": places})
    assert copied.status_code == 202 and copied.json()[0]["state"] == "open"
    for pk in writing.due(now=writing.clock_now()):
        writing.heal(pk, now=writing.clock_now())
    (outcome,) = program.get(f"/api/v1/patch-writes/{copied.json()[0]['batch']}/").json()
    assert (outcome["state"], outcome["region"]) == ("done", "us-east-1")
    assert program.post(f"{one}default/").json()["is_default"] is True
    assert Write.objects.filter(state=WriteState.OPEN).count() == 0


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({**CONTENT, "Name": "a"}, "content.name"),
        ({**CONTENT, "RejectedPatches": ["*a*"]}, "content.rejected"),
        ({**CONTENT, "ApprovalRules": {"PatchRules": [RULE, RULE]}}, "content.rule-1"),
        ({**CONTENT, "ApprovalRules": {"PatchRules": [RULE | {"ApproveAfterDays": "7"}]}}, "content"),
        ({**CONTENT, "ApprovalRules": {"PatchRules": [RULE | {"ApproveUntilDate": "2026-12-31"}]}}, "content"),
        ({**CONTENT, "ApprovalRules": {"PatchRules": "all"}}, "content"),
        ({**CONTENT, "GlobalFilters": {"PatchFilters": [{"Key": "PRODUCT"}]}}, "content"),
        ({**CONTENT, "Sources": [{"Name": 7}]}, "content"),
        ({**CONTENT, "ApprovedPatches": [1]}, "content"),
        ("all of them", "content"),
        ([], "content"),
    ],
)
def test_what_cannot_be_meant_is_told_by_its_field_and_aws_is_not_asked(program, accounts, content, field):
    answer = program.post(LIST, new(content=content))
    assert answer.status_code == 400 and field in answer.json()["errors"], answer.content
    assert not PatchBaseline.objects.exists()


def test_where_there_is_no_such_place_nothing_is_made(program, accounts):
    assert program.post(LIST, new(region="eu-north-1")).status_code == 404
    assert "operating_system" in program.post(LIST, new(operating_system="BEOS")).json()["errors"]
