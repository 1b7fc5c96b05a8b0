"""Reading, closing and re-opening against the real endpoint, with a crash at each line and AWS's refusals."""

import pytest

from fleetops.audit.models import AuditEvent
from fleetops.aws import security_groups
from fleetops.clock import now
from fleetops.errors import Denied, UserError
from fleetops.exposure import reading, services
from fleetops.exposure.models import Closing, Group, Reading
from tests.factories import make_user
from tests.support.faults import Faults

from .conftest import NAMES, read, settle

pytestmark = pytest.mark.django_db


class Killed(BaseException):
    """kill -9: nothing that would tidy up runs."""


@pytest.fixture
def faults(endpoint):
    made = Faults(endpoint.handover)
    yield made
    made.delete()


def inbound(endpoint, group_id: str) -> list[dict]:
    answer = endpoint.client("ec2").describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group_id]}])
    kept = ("IpProtocol", "FromPort", "ToPort", "CidrIpv4", "CidrIpv6", "Description", "Tags", "ReferencedGroupInfo")
    found = [rule for rule in answer["SecurityGroupRules"] if not rule["IsEgress"]]
    return [{name: rule[name] for name in kept if name in rule} for rule in found]


def close(group: Group, actor) -> Closing:
    [closing] = services.close(
        [group], actor=actor, rule_ids={str(group.pk): [rule.rule_id for rule in group.inbound()]}, reason="NET-118"
    )
    return closing


def test_the_group_is_found_with_its_machines(group):
    assert (group.name, group.rank) == ("legacy-ssh", 0)
    assert {str(each) for each in group.instances.all()} == set(NAMES)
    [rule] = group.inbound()
    assert (rule.cidr, rule.from_port, rule.description, rule.tags) == (
        *("0.0.0.0/0", 22, "office, later everybody"),
        {"ticket": "NET-118"},
    )
    assert [str(each) for each in services.locked_out(group)] == ["kafka-events-eu1c-3"]


def test_it_is_closed_and_opened_again_exactly_as_it_was(endpoint, group, admin):
    before = inbound(endpoint, group.group_id)
    closing = close(group, admin)
    settle()
    closing.refresh_from_db()
    assert (closing.state, inbound(endpoint, group.group_id)) == ("closed", [])
    read(group.region)
    assert not Group.objects.filter(pk=group.pk).exists()
    services.reopen(closing, actor=admin)
    settle()
    closing.refresh_from_db()
    assert (closing.state, inbound(endpoint, group.group_id)) == ("open", before)
    told = {event.action: event.details for event in AuditEvent.objects.filter(action__startswith="exposure.")}
    assert set(told) == {"exposure.close", "exposure.closed", "exposure.reopen", "exposure.reopened"}
    assert told["exposure.closed"]["before"][0]["to"] == "0.0.0.0/0" and told["exposure.closed"]["after"] == []
    assert told["exposure.reopened"]["after"][0]["description"] == "office, later everybody"


@pytest.mark.parametrize("deed", ["revoke", "authorize"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_worker_killed_around_the_call_is_followed_by_one_that_does_what_is_left(
    endpoint, group, admin, monkeypatch, deed, moment
):
    before = inbound(endpoint, group.group_id)
    closing = close(group, admin)
    if deed == "authorize":
        settle()
        closing.refresh_from_db()
        services.reopen(closing, actor=admin)
    real = getattr(security_groups, deed)

    def dies(*args, **kwargs):
        if moment == "after":
            real(*args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(security_groups, deed, dies)
        with pytest.raises(Killed):
            settle()
    settle()
    closing.refresh_from_db()
    wanted = ("closed", []) if deed == "revoke" else ("open", before)
    assert (closing.state, inbound(endpoint, group.group_id)) == wanted
    ends = AuditEvent.objects.filter(action__in=["exposure.closed", "exposure.reopened"])
    assert ends.filter(action="exposure.closed").count() == 1 and ends.count() == (1 if deed == "revoke" else 2)


def test_one_that_aws_refuses_says_why_and_nothing_was_taken_away(endpoint, group, admin, faults):
    closing = close(group, admin)
    match = {"operation": "RevokeSecurityGroupIngress"}
    with faults.on("error", match=match, code="UnauthorizedOperation", status=403):
        settle()
    closing.refresh_from_db()
    assert closing.state == "failed" and "RevokeSecurityGroupIngress" in closing.words
    assert len(inbound(endpoint, group.group_id)) == 1
    assert AuditEvent.objects.filter(action="exposure.close.fail").count() == 1


def test_one_that_aws_holds_up_is_tried_again(endpoint, group, admin, faults):
    closing = close(group, admin)
    match = {"operation": "RevokeSecurityGroupIngress"}
    with faults.on("error", match=match, code="RequestLimitExceeded", status=503):
        settle()
    closing.refresh_from_db()
    assert closing.state == "closing" and "tried again" in closing.words
    settle()
    closing.refresh_from_db()
    assert (closing.state, closing.words) == ("closed", "")


def test_what_somebody_else_has_taken_away_is_not_ours_to_open_again(endpoint, group, admin):
    [rule] = group.inbound()
    closing = close(group, admin)
    access = group.account.access()
    security_groups.revoke(access, "eu-west-1", group.group_id, [rule.rule_id], session_name="somebody")
    settle()
    closing.refresh_from_db()
    assert closing.state == "failed" and "Somebody else" in closing.words
    with pytest.raises(UserError, match="nothing to open again"):
        services.reopen(closing, actor=admin)
    security_groups.authorize(access, "eu-west-1", rule, session_name="somebody")


def test_a_rule_that_somebody_opened_again_meanwhile_is_no_error(endpoint, group, admin):
    [rule] = group.inbound()
    closing = close(group, admin)
    settle()
    security_groups.authorize(group.account.access(), "eu-west-1", rule, session_name="somebody")
    closing.refresh_from_db()
    services.reopen(closing, actor=admin)
    settle()
    closing.refresh_from_db()
    assert closing.state == "open" and len(inbound(endpoint, group.group_id)) == 1


def test_only_what_was_shown_is_closed_and_one_at_a_time(group, admin):
    with pytest.raises(UserError, match="others by now"):
        services.close([group], actor=admin, rule_ids={str(group.pk): ["sgr-0123456789abcdef0"]})
    close(group, admin)
    with pytest.raises(UserError, match="being changed just now"):
        close(group, admin)
    assert Closing.objects.count() == 1
    settle()


def test_who_may_not_is_told_so_and_it_is_audited(group):
    with pytest.raises(Denied):
        close(group, make_user("otto", role="operator"))
    assert AuditEvent.objects.filter(action="exposure.refuse").count() == 1 and not Closing.objects.exists()


def test_a_region_is_claimed_once_until_it_is_due_or_asked_for(region):
    moment = now()
    assert not reading.claim_due(at=moment)  # its instances were never read: no group would be on any of them
    region.refreshed_at = moment
    region.save(update_fields=["refreshed_at"])
    taken = reading.claim_due(at=moment)
    assert taken == [region.exposure_reading.pk] and not reading.claim_due(at=moment)
    Reading.objects.update(claimed_until=None, read_at=moment)
    assert not reading.claim_due(at=moment)
    reading.ask_again([region], at=now())
    assert reading.claim_due(at=now()) == [region.exposure_reading.pk]


def test_a_reading_that_fails_says_why_and_what_was_read_stays(group, faults):
    with faults.on("error", match={"operation": "DescribeNetworkInterfaces"}, code="UnauthorizedOperation", status=403):
        read(group.region)
    row = Reading.objects.get(region=group.region)
    assert "DescribeNetworkInterfaces" in row.error and Group.objects.filter(pk=group.pk).exists()


def test_all_created_rules_are_told_and_descriptions_of_every_source_are_kept(endpoint, group):
    ec2 = endpoint.client("ec2")
    made = ec2.create_security_group(GroupName="four", Description="four rules", VpcId=group.vpc_id)["GroupId"]
    port = {"IpProtocol": "tcp", "FromPort": 3389, "ToPort": 3389}
    answer = ec2.authorize_security_group_ingress(
        GroupId=made,
        IpPermissions=[
            port | {"IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "a"}, {"CidrIp": "192.0.2.0/24"}]},
            port | {"Ipv6Ranges": [{"CidrIpv6": "::/0", "Description": "b"}]},
            port | {"UserIdGroupPairs": [{"GroupId": group.group_id, "Description": "c"}]},
        ],
    )
    assert len(answer["SecurityGroupRules"]) == 4
    rules = security_groups.rules(group.account.access(), "eu-west-1", [made], session_name="tests")
    assert sorted(rule.description for rule in rules) == ["", "a", "b", "c"]
    for rule in rules:  # each is taken away and put there again as it was
        security_groups.revoke(group.account.access(), "eu-west-1", made, [rule.rule_id], session_name="tests")
        security_groups.authorize(group.account.access(), "eu-west-1", rule, session_name="tests")
    again = security_groups.rules(group.account.access(), "eu-west-1", [made], session_name="tests")
    assert {(rule.key, rule.description) for rule in again} == {(rule.key, rule.description) for rule in rules}
    ec2.delete_security_group(GroupId=made)
