"""The decider: what rules mean, by example and by properties that hold for all of them."""

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from ipaddress import ip_network
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetops.policy.decide import (
    DEED_WORDS,
    PLAIN_SHELL,
    ActorFacts,
    Context,
    Deed,
    DeedRequest,
    Hours,
    RuleFacts,
    decide,
    decide_session,
    destination_of,
    explain,
)
from fleetops.targets import TargetFacts, parse

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)  # a Wednesday
WEB = TargetFacts("i-1", name="web-1", tags={"env": "prod"})
MEI = ActorFacts("mei", "mei.tanaka", frozenset({"oncall"}))
OFFICE = Hours(frozenset(range(5)), time(8), time(18), ZoneInfo("Europe/Berlin"))


def rule(name: str = "a", **fields) -> RuleFacts:
    expression = fields.pop("targets", "all")
    defaults = {"effect": "allow", "deeds": frozenset({"shell"}), "everybody": True}
    return RuleFacts(id=f"id-{name}", name=name, targets=parse(expression), **(defaults | fields))


def ask(actor: ActorFacts = MEI, deed: str = "shell", target: TargetFacts | None = WEB, **fields) -> DeedRequest:
    own = ("document", "run_as", "owner", "destination", "under", "is_moderated")
    given = {name: fields.pop(name) for name in own if name in fields}
    return DeedRequest(actor, deed, Context(**({"at": NOON, "source_address": "10.1.2.3"} | fields)), target, **given)


# By example


def test_without_a_rule_nobody_may_do_anything():
    answer = decide(ask(), [])
    assert not answer.allowed
    assert answer.text == "No rule allows mei.tanaka to open a shell on web-1."


def test_an_allow_that_applies_allows_and_says_which():
    answer = decide(ask(), [rule("Shells")])
    assert answer.allowed and answer.text == "Rule “Shells” allows it." and answer.rules == ("Shells",)


def test_a_deny_wins_over_every_allow_and_tells_why_it_is_there():
    answer = decide(ask(), [rule("a"), rule("No prod", effect="deny", targets="env=prod", note="Ask the lead.")])
    assert not answer.allowed and answer.text == "Rule “No prod” denies it: Ask the lead."


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"everybody": False, "users": frozenset({"mei"})}, True),
        ({"everybody": False, "users": frozenset({"eve"})}, False),
        ({"everybody": False, "groups": frozenset({"oncall", "dba"})}, True),
        ({"everybody": False, "groups": frozenset({"dba"})}, False),
        ({"everybody": False}, False),
        ({"targets": "env=prod and not name=db*"}, True),
        ({"targets": "env=dev"}, False),
        ({"deeds": frozenset({"forward", "shell"})}, True),
        ({"deeds": frozenset({"forward"})}, False),
        ({"enabled": False}, False),
        ({"valid_from": NOON}, True),
        ({"valid_from": NOON + timedelta(microseconds=1)}, False),
        ({"valid_until": NOON}, False),
        ({"valid_until": NOON + timedelta(microseconds=1)}, True),
        ({"networks": (ip_network("10.0.0.0/8"),)}, True),
        ({"networks": (ip_network("192.168.0.0/16"), ip_network("2001:db8::/32"))}, False),
        ({"hours": OFFICE}, True),
        ({"hours": replace(OFFICE, zone=ZoneInfo("Pacific/Auckland"))}, False),
    ],
)
def test_a_rule_holds_for_whom_where_and_when_it_says(fields, allowed):
    assert decide(ask(), [rule(**fields)]).allowed is allowed


def test_a_condition_that_is_not_met_is_said_as_what_would_be_needed():
    prod = rule("Prod", needs_reason=True, needs_mfa=True, approvals=2, hours=OFFICE, networks=(ip_network("::/64"),))
    answer = decide(ask(at=NOON.replace(hour=20)), [prod])
    assert answer.text == (
        "Rule “Prod” would allow it, but holds only Mon–Fri 08:00–18:00 Europe/Berlin, holds only from ::/64 (this "
        "comes from 10.1.2.3), needs a log-in with a second factor, needs a request that 2 other people "
        "approved and needs a reason."
    )
    assert answer.unmet == ("hours", "network", "mfa", "approval", "reason")
    assert answer.obligations.approvals == 2


def test_what_lacks_only_a_reason_is_told_apart_so_that_a_page_can_ask_for_it():
    rules = [rule("a", needs_reason=True), rule("b", needs_mfa=True, needs_reason=True)]
    assert decide(ask(), rules).wants_only_a_reason
    assert decide(ask(reason="disk is full"), rules).allowed
    assert not decide(ask(reason=" \t"), rules).allowed
    assert not decide(ask(), [rules[1]]).wants_only_a_reason


def test_met_conditions_are_the_decisions_obligations_and_the_least_demanding_rule_gives_its_role():
    strict = rule("a", needs_mfa=True, needs_reason=True, role_arn="arn:strict")
    easy = rule("b", needs_mfa=True, role_arn="arn:easy")
    answer = decide(ask(mfa_at=1.0, reason="x"), [strict, easy])
    assert (answer.obligations.role_arn, answer.obligations.needs_mfa) == ("arn:easy", True)
    assert decide(ask(approvals=2), [rule(approvals=2)]).allowed


def test_ones_own_session_and_those_of_others_are_told_apart():
    own = rule(deeds=frozenset({"read_recording"}), whose="own")
    assert decide(ask(deed="read_recording", owner="mei"), [own]).allowed
    assert not decide(ask(deed="read_recording", owner="eve"), [own]).allowed
    assert not decide(ask(deed="read_recording"), [own]).allowed
    others = replace(own, whose="others")
    assert [decide(ask(deed="read_recording", owner=who), [others]).allowed for who in ("mei", "eve")] == [False, True]


def test_a_document_and_an_os_user_have_to_be_named_by_an_allow_and_are_all_denied_by_a_deny_that_names_none():
    documents = rule(deeds=frozenset({"run_document"}), documents=("AWS-Run*", "Restart"))
    for name, allowed in (("AWS-RunPatchBaseline", True), ("Restart", True), ("Restart2", False), ("", False)):
        assert decide(ask(deed="run_document", document=name), [documents]).allowed is allowed, name
    users = rule(deeds=frozenset({"run_as"}), run_as=("app-*",))
    assert decide(ask(deed="run_as", run_as="app-7"), [users]).allowed
    assert not decide(ask(deed="run_as", run_as="root"), [users]).allowed
    assert not decide(ask(deed="run_as", run_as="root"), [replace(users, run_as=())]).allowed
    no_root = rule("no root", effect="deny", deeds=frozenset({"run_as"}), run_as=("root",))
    every = replace(users, run_as=("*",))
    assert not decide(ask(deed="run_as", run_as="root"), [every, no_root]).allowed
    assert decide(ask(deed="run_as", run_as="app"), [every, no_root]).allowed
    assert not decide(ask(deed="run_as", run_as="app"), [every, replace(no_root, run_as=())]).allowed


SHELLS, AS_ROOT = rule("Shells"), rule("Root", deeds=frozenset({"run_as"}), run_as=("root",))


def test_a_shell_as_a_named_user_takes_both_deeds():
    assert decide_session(ask(), [SHELLS]).allowed
    refused = decide_session(ask(run_as="root"), [SHELLS])
    assert refused.text == "No rule allows mei.tanaka to run a shell as a named OS user (root) on web-1."
    assert not decide_session(ask(run_as="root"), [AS_ROOT]).allowed
    both = decide_session(ask(run_as="root"), [SHELLS, AS_ROOT])
    assert both.allowed and set(both.rules) == {"Shells", "Root"}
    asking = replace(AS_ROOT, approvals=2, approvers=("dba",), needs_mfa=True, grant_minutes=30)
    lacking = decide_session(ask(run_as="root"), [replace(SHELLS, needs_reason=True), asking])
    assert lacking.unmet == ("mfa", "approval", "reason") and lacking.may_ask and lacking.wants_second_factor
    assert (lacking.obligations.approvals, lacking.obligations.approvers) == (2, ("dba",))
    assert lacking.obligations.grant_minutes == 30
    assert decide_session(ask(run_as="root", approvals=2, mfa_at=NOON.timestamp()), [SHELLS, asking]).allowed
    no_root = rule("No root", effect="deny", deeds=frozenset({"run_as"}), run_as=("root",))
    denied = decide_session(ask(run_as="root"), [SHELLS, asking, no_root])
    assert denied.text == "Rule “No root” denies it." and not denied.may_ask


def test_an_allow_may_give_its_shells_an_os_user():
    deploy = rule("Deploy", shell_user="deploy")
    given = decide_session(ask(), [deploy])
    assert given.allowed and given.obligations.shell_user == "deploy"
    assert decide_session(ask(run_as="deploy"), [deploy]).allowed
    assert not decide_session(ask(run_as="root"), [deploy, AS_ROOT]).allowed
    # Of two the one that gives what is asked for, though it asks for more.
    strict = replace(deploy, needs_mfa=True)
    assert decide_session(ask(run_as="deploy", mfa_at=1.0), [SHELLS, strict]).rules == ("Deploy",)
    # One that is open goes on as it is, and in no other way.
    assert decide_session(ask(run_as="deploy", under=""), [deploy]).allowed
    other = decide_session(ask(under=""), [deploy])
    assert other.text == "No rule allows mei.tanaka to open a shell on web-1 as it was opened any more. Open it anew."


def test_session_documents_have_to_be_named_unless_they_are_aws_or_ours():
    for name in ("", PLAIN_SHELL, "AWS-StartInteractiveCommand", "FleetOps-Shell-0123456789ab"):
        assert decide(ask(document=name), [SHELLS]).allowed, name
    assert not decide(ask(document="Acme-AsRoot"), [SHELLS]).allowed
    narrow = rule("Narrow", session_documents=("Acme-*",))
    assert decide(ask(document="Acme-AsRoot"), [narrow]).allowed
    assert not decide(ask(), [narrow]).allowed
    assert decide(ask(), [replace(narrow, session_documents=(PLAIN_SHELL,))]).allowed
    off = rule("Off", effect="deny", session_documents=("AWS-*",))
    assert decide(ask(), [SHELLS, off]).allowed
    assert not decide(ask(document="AWS-StartInteractiveCommand"), [SHELLS, off]).allowed
    assert not decide(ask(), [SHELLS, replace(off, session_documents=())]).allowed


def forwarding(host: str, port: str, rules) -> bool:
    return decide(ask(deed="forward", destination=destination_of(host, port)), rules).allowed


def test_a_port_is_forwarded_to_the_places_that_an_allow_names():
    web = rule(deeds=frozenset({"forward"}), destinations=("*:443", "db.internal:5432", "localhost:*"))
    for host, port, allowed in (
        ("anything", "443", True),
        ("DB.internal.", "5432", True),
        ("db.internal", "5433", False),
        ("xdb.internal", "5432", False),
        ("", "22", True),
        ("127.0.0.1", "22", True),
        ("127.9.9.9", "22", True),
        ("::1", "22", True),
        ("[::1]", "22", True),
        ("::ffff:127.0.0.1", "22", True),
        ("::1%lo", "22", True),
        ("0.0.0.0", "22", True),
        ("10.0.0.5", "22", False),
        ("2001:db8::1", "22", False),
        ("2001:db8::1", "443", True),
    ):
        assert forwarding(host, port, [web]) is allowed, (host, port)
    assert not forwarding("localhost", "22", [replace(web, destinations=())])
    closed = rule("closed", effect="deny", deeds=frozenset({"forward"}), destinations=("localhost:22",))
    assert not forwarding("127.0.0.1", "22", [web, closed]) and forwarding("127.0.0.1", "80", [web, closed])


def test_a_second_factor_may_have_to_be_fresh_when_something_begins_and_not_later():
    fresh = rule("Fresh", needs_mfa=True, mfa_minutes=15)
    minute = timedelta(minutes=1)
    given = NOON.timestamp()
    assert decide(ask(mfa_at=given, at=NOON + 15 * minute), [fresh]).allowed
    late = decide(ask(mfa_at=given, at=NOON + 16 * minute), [fresh])
    assert late.text.endswith("needs a log-in with a second factor of the last 15 minutes.")
    assert late.wants_second_factor and late.obligations.mfa_minutes == 15
    began = NOON + 10 * minute
    assert decide(ask(mfa_at=given, at=NOON + 300 * minute, began_at=began), [fresh]).allowed
    assert not decide(ask(at=NOON, began_at=began), [fresh]).allowed


def test_a_moderator_is_a_demand_and_an_open_shell_without_one_does_not_go_on():
    watched = rule("Watched", needs_moderator=True)
    assert decide(ask(), [watched]).obligations.needs_moderator
    assert not decide(ask(), [watched, SHELLS]).obligations.needs_moderator  # asks for less
    assert decide(ask(under="", is_moderated=True), [watched]).allowed
    assert not decide(ask(under=""), [watched]).allowed
    assert decide(ask(under="", is_moderated=True), [SHELLS]).allowed


def test_what_is_not_known_counts_against_the_person():
    assert decide(ask(target=None), [rule()]).allowed
    assert not decide(ask(target=None), [rule(targets="env=prod")]).allowed
    denied = decide(ask(target=None), [rule(), rule("No db", effect="deny", targets="cluster=db")])
    assert denied.text == "Rule “No db” denies it, since it is not known on which instance."
    inside = (ip_network("10.0.0.0/8"),)
    for address in ("", "unix", "10.1.2"):
        assert not decide(ask(source_address=address), [rule(networks=inside)]).allowed
        assert not decide(ask(source_address=address), [rule(), rule("b", effect="deny", networks=inside)]).allowed
    assert decide(ask(source_address="::ffff:10.1.1.1"), [rule(networks=inside)]).allowed
    assert not decide(ask(), [replace(rule(), targets=None)]).allowed
    unread = replace(rule("b", effect="deny"), targets=None)
    assert "can no longer be read" in decide(ask(), [rule(), unread]).text
    nowhere = replace(OFFICE, zone=None)
    assert not decide(ask(), [rule(hours=nowhere)]).allowed
    assert not decide(ask(), [rule(), rule("b", effect="deny", hours=nowhere)]).allowed


def test_a_deny_with_hours_or_networks_denies_only_then_and_from_there():
    frozen = rule("freeze", effect="deny", hours=OFFICE)
    assert not decide(ask(), [rule(), frozen]).allowed
    assert decide(ask(at=NOON.replace(hour=20)), [rule(), frozen]).allowed
    guests = rule("guests", effect="deny", networks=(ip_network("172.16.0.0/12"),))
    assert decide(ask(), [rule(), guests]).allowed
    assert not decide(ask(source_address="172.16.9.9"), [rule(), guests]).allowed


def test_who_may_no_longer_log_in_may_do_nothing():
    answer = decide(ask(replace(MEI, is_active=False)), [rule()])
    assert answer.text == "The account of mei.tanaka may no longer log in."


def test_each_rule_says_why_it_has_a_say_or_has_none():
    rules = [
        rule("allows"),
        rule("denies", effect="deny"),
        rule("lacks", needs_reason=True),
        rule("off", enabled=False),
        rule("early", valid_from=datetime(2027, 1, 1, tzinfo=UTC)),
        rule("late", valid_until=datetime(2026, 1, 1, tzinfo=UTC)),
        rule("deed", deeds=frozenset({"patch"})),
        rule("who", everybody=False, groups=frozenset({"dba"})),
        rule("where", targets="env=dev"),
        rule("own", whose="own"),
        rule("hours", effect="deny", hours=replace(OFFICE, days=frozenset({6}))),
        rule("network", effect="deny", networks=(ip_network("172.16.0.0/12"),)),
        replace(rule("unread"), targets=None),
    ]
    said = {each.rule.name: (each.verdict, each.text) for each in explain(ask(), rules)}
    assert said == {
        "denies": ("denies", "Denies it."),
        "allows": ("allows", "Allows it: all its conditions are met."),
        "lacks": ("lacks", "Would allow it, but needs a reason."),
        "off": ("silent", "Is switched off."),
        "early": ("silent", "Holds from 01 Jan 2027, 00:00 UTC."),
        "late": ("silent", "Held until 01 Jan 2026, 00:00 UTC."),
        "deed": ("silent", "Is not about this deed."),
        "who": ("silent", "Does not name mei.tanaka, nor a group of theirs."),
        "where": ("silent", "Its instances, env=dev, do not include web-1."),
        "own": ("silent", "Is only about one’s own sessions."),
        "hours": ("silent", "Denies only Sun 08:00–18:00 Europe/Berlin."),
        "network": ("silent", "Denies only from 172.16.0.0/12."),
        "unread": ("silent", "Its expression can no longer be read, so it allows nothing."),
    }
    assert next(iter(said)) == "denies"


def test_every_deed_has_words():
    assert set(DEED_WORDS) == set(Deed)


# Hours


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("moment", "within"),
    [
        ("2026-11-27T21:59:59Z", False),  # Friday
        ("2026-11-27T22:00:00Z", True),
        ("2026-11-28T05:59:59Z", True),  # Saturday morning: the span of Friday
        ("2026-11-28T06:00:00Z", False),
        ("2026-11-28T23:00:00Z", False),  # Saturday evening begins no span
        ("2026-11-23T03:00:00Z", False),  # Monday morning: Sunday began none
        ("2026-11-23T23:00:00Z", True),
    ],
)
def test_hours_over_midnight_belong_to_the_day_on_which_they_begin(moment, within):
    night = Hours(frozenset(range(5)), time(22), time(6), UTC)
    assert night.hold(at(moment)) is within


@pytest.mark.parametrize(
    ("moment", "within"),
    [
        ("2026-03-29T02:30:00+02:00", False),  # read back: 01:30 +01:00; the clock goes from 2 to 3 in Berlin
        ("2026-03-29T01:00:00Z", True),  # 03:00, which comes right after 01:59
        ("2026-03-29T00:59:59Z", False),  # 01:59
        ("2026-10-25T00:30:00Z", True),  # 02:30, the first time
        ("2026-10-25T01:30:00Z", True),  # 02:30 again
        ("2026-10-25T02:00:00Z", True),  # 03:00
        ("2026-10-25T03:00:00Z", False),  # 04:00
    ],
)
def test_hours_go_by_the_clock_on_the_wall_when_it_is_put_forward_and_back(moment, within):
    early = Hours(frozenset({6}), time(2), time(4), ZoneInfo("Europe/Berlin"))
    assert early.hold(at(moment)) is within


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
    st.sampled_from(["UTC", "Asia/Kathmandu", "America/New_York", "Australia/Lord_Howe"]),
)
def test_a_span_and_the_rest_of_the_day_never_hold_together_and_one_of_them_always_does(moment, zone):
    days = frozenset(range(7))
    inside = Hours(days, time(8, 30), time(17), ZoneInfo(zone))
    rest = Hours(days, time(17), time(8, 30), ZoneInfo(zone))
    assert inside.hold(moment) is not rest.hold(moment)
    assert Hours(days, time(), time(), ZoneInfo(zone)).hold(moment)


def test_hours_are_written_as_people_read_them():
    zone = ZoneInfo("Europe/Berlin")
    assert str(Hours(frozenset({0, 1, 2, 4}), time(8), time(18), zone)) == "Mon–Wed, Fri 08:00–18:00 Europe/Berlin"
    assert str(Hours(frozenset({5, 6}), time(), time(), zone)) == "Sat, Sun Europe/Berlin"
    assert str(Hours(frozenset(range(7)), time(22), time(6), None)) == "every day 22:00–06:00 in an unknown time zone"


# Properties

EXPRESSIONS = ["all", "env=prod", "env=dev", "not env=prod", "name=web* and env=prod", "cluster=*"]
RULES = st.builds(
    lambda number, expression, **fields: rule(f"r{number}", targets=expression, **fields),
    number=st.integers(0, 40),
    expression=st.sampled_from(EXPRESSIONS),
    effect=st.sampled_from(["allow", "allow", "deny"]),
    deeds=st.frozensets(st.sampled_from(["shell", "read_recording", "run_as", "run_document", "forward"]), min_size=1),
    everybody=st.booleans(),
    users=st.frozensets(st.sampled_from(["mei", "eve"])),
    groups=st.frozensets(st.sampled_from(["oncall", "dba"])),
    whose=st.sampled_from(["any", "any", "own", "others"]),
    documents=st.sampled_from([(), ("*",), ("AWS-*",)]),
    run_as=st.sampled_from([(), ("*",), ("root",)]),
    shell_user=st.sampled_from(["", "", "app"]),
    session_documents=st.sampled_from([(), ("*",), ("Mine",)]),
    destinations=st.sampled_from([(), ("*:*",), ("localhost:*",), ("*:443",)]),
    mfa_minutes=st.sampled_from([0, 0, 15]),
    needs_moderator=st.booleans(),
    hours=st.sampled_from([None, None, OFFICE, replace(OFFICE, zone=None)]),
    networks=st.sampled_from([(), (), (ip_network("10.0.0.0/8"),)]),
    needs_mfa=st.booleans(),
    needs_reason=st.booleans(),
    approvals=st.integers(0, 2),
    role_arn=st.sampled_from(["", "arn:a", "arn:b"]),
    enabled=st.sampled_from([True, True, True, False]),
    valid_from=st.sampled_from([None, None, NOON - timedelta(days=1), NOON + timedelta(days=1)]),
    valid_until=st.sampled_from([None, None, NOON - timedelta(days=1), NOON + timedelta(days=1)]),
)
MANY = st.lists(RULES, max_size=8, unique_by=lambda each: each.id)
REQUESTS = st.builds(
    ask,
    actor=st.builds(
        ActorFacts,
        st.sampled_from(["mei", "eve", "rhea"]),
        st.just("someone"),
        st.frozensets(st.sampled_from(["oncall", "dba"])),
        st.sampled_from([True, True, True, False]),
    ),
    deed=st.sampled_from(["shell", "read_recording", "run_as", "run_document", "forward"]),
    target=st.sampled_from([WEB, TargetFacts("i-2", name="db", tags={"env": "dev", "cluster": "db"}), None]),
    document=st.sampled_from(["", "AWS-RunPatchBaseline", "Mine"]),
    run_as=st.sampled_from(["", "root", "app"]),
    destination=st.sampled_from(["", "localhost:22", "db:443"]),
    under=st.sampled_from([None, None, "", "arn:a"]),
    is_moderated=st.booleans(),
    owner=st.sampled_from(["", "mei", "eve"]),
    at=st.sampled_from([NOON, NOON.replace(hour=3)]),
    source_address=st.sampled_from(["", "10.1.2.3", "203.0.113.9"]),
    mfa_at=st.sampled_from([None, 1.0, NOON.timestamp() - 60]),
    reason=st.sampled_from(["", "why"]),
    approvals=st.integers(0, 2),
)


@given(REQUESTS, MANY)
def test_deny_wins_default_is_deny_and_an_answer_has_reasons(request, rules):
    answer = decide(request, rules)
    assert answer.reasons and all(reason.text for reason in answer.reasons)
    said = {each.verdict for each in explain(request, rules)}
    if "denies" in said or "allows" not in said or not request.actor.is_active:
        assert not answer.allowed
    else:
        assert answer.allowed
    if not rules:
        assert not answer.allowed


@given(REQUESTS, MANY, st.randoms())
def test_the_order_of_rules_does_not_matter(request, rules, random):
    shuffled = list(rules)
    random.shuffle(shuffled)
    assert decide(request, shuffled) == decide(request, rules)
    assert explain(request, shuffled) == explain(request, rules)


@given(REQUESTS, MANY, RULES)
def test_one_deny_more_never_allows_more(request, rules, added):
    added = replace(added, id="added", effect="deny")
    assert decide(request, rules).allowed or not decide(request, [*rules, added]).allowed


@given(REQUESTS, MANY, RULES)
def test_one_allow_more_never_denies_more(request, rules, added):
    added = replace(added, id="added", effect="allow")
    assert not decide(request, rules).allowed or decide(request, [*rules, added]).allowed


@given(REQUESTS, MANY, RULES, st.sampled_from(["off", "expired", "early"]))
def test_a_rule_that_is_not_in_force_never_matters(request, rules, added, why):
    moment = request.context.at
    dead = {
        "off": {"enabled": False},
        "expired": {"valid_until": moment},
        "early": {"valid_from": moment + timedelta(seconds=1)},
    }[why]
    assert decide(request, [*rules, replace(added, id="added", **dead)]) == decide(request, rules)


@given(REQUESTS, MANY)
def test_what_is_lacking_is_enough_when_it_is_given(request, rules):
    """The page asks for a reason, or says what to bring: whoever brings it is let in."""
    answer = decide(request, rules)
    if answer.allowed or not answer.unmet or {"hours", "network"} & set(answer.unmet):
        return
    brought = replace(
        request.context,
        mfa_at=request.context.at.timestamp(),
        reason="because",
        approvals=max(request.context.approvals, answer.obligations.approvals),
    )
    assert decide(replace(request, context=brought), rules).allowed


@given(REQUESTS, MANY)
def test_more_circumstances_in_ones_favour_never_cost_an_allow(request, rules):
    if decide(request, rules).allowed:
        better = replace(request.context, mfa_at=2.0, reason="why", approvals=9)
        assert decide(replace(request, context=better), rules).allowed


# What is not known yet, and what a shell is open under


UNREAD = TargetFacts("mi-1", name="rack-1", region="eu-west-1", is_hybrid=True, tags_known=False)


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        ("env=prod", None),
        ("env!=prod", None),
        ("env=prod and region=eu-west-1", None),
        ("env=prod and region=us-east-1", False),
        ("env=prod or region=eu-west-1", True),
        ("not (env=prod and region=us-east-1)", True),
        ("name=rack*", True),
        ("all", True),
    ],
)
def test_tags_that_are_not_read_yet_leave_open_only_what_hangs_on_them(targets, told):
    assert parse(targets).tells(UNREAD) is told
    deny, allow = rule("No", effect="deny", targets=targets), rule("Yes", targets=targets)
    assert decide(ask(target=UNREAD), [rule("All"), deny]).allowed is (told is False)
    assert decide(ask(target=UNREAD), [allow]).allowed is (told is True)


def test_a_deny_by_tags_that_are_not_read_yet_says_so():
    answer = decide(ask(target=UNREAD), [rule("All"), rule("No", effect="deny", targets="env=prod", note="Freeze")])
    assert answer.text == "Rule “No” denies it, since the tags of the instance have not been read yet."
    assert decide(ask(target=UNREAD), [rule(targets="env=dev")]).text.endswith("Its tags have not been read yet.")
    said = explain(ask(target=UNREAD), [rule(targets="env=dev")])
    assert said[0].text == "Its instances are env=dev; the tags of rack-1 are not read yet."


def test_an_open_shell_goes_on_only_by_an_allow_that_gives_its_role():
    narrow, plain = rule("Narrow", role_arn="arn:narrow"), rule("Plain")
    assert decide(ask(), [plain]).allowed
    under = replace(ask(), under="arn:narrow")
    assert decide(under, [narrow, plain]).allowed
    lost = decide(under, [plain])
    assert not lost.allowed and "under the IAM role arn:narrow any more. Open it anew." in lost.text
    assert "under the account's own role any more" in decide(replace(ask(), under=""), [narrow]).text
    assert not decide(under, [narrow, rule("No", effect="deny")]).allowed


@pytest.mark.parametrize("other", [{"needs_mfa": True}, {"approvals": 1}, {"hours": replace(OFFICE, zone=None)}])
def test_a_rule_that_lacks_a_reason_alone_is_nearest_whatever_else_another_lacks(other):
    assert decide(ask(), [rule("A", **other), rule("B", needs_reason=True)]).wants_only_a_reason


@pytest.mark.parametrize("reason", ["", " \n\t", "\u200b", "\u3164", "\u2800 \u00ad"])
def test_a_reason_that_does_not_show_is_none(reason):
    assert not decide(ask(reason=reason), [rule(needs_reason=True)]).allowed


@given(REQUESTS, MANY)
def test_a_session_is_allowed_only_if_its_deed_is_and_its_os_user_is_given_or_allowed(request, rules):
    answer = decide_session(request, rules)
    assert answer.reasons and all(reason.text for reason in answer.reasons)
    shell = decide(request, rules)
    assert not answer.allowed or shell.allowed
    if request.deed == "shell" and request.run_as and answer.allowed:
        user = decide(replace(request, deed="run_as", under=None), rules)
        assert user.allowed or shell.obligations.shell_user == request.run_as
    if shell.allowed and shell.obligations.shell_user and request.run_as:
        assert shell.obligations.shell_user == request.run_as


@given(REQUESTS, MANY)
def test_more_approvals_and_a_fresher_second_factor_never_take_anything_away(request, rules):
    before = decide_session(request, rules)
    here = replace(request.context, approvals=request.context.approvals + 1, mfa_at=request.context.at.timestamp())
    assert decide_session(replace(request, context=here), rules).allowed or not before.allowed


@given(REQUESTS, MANY)
def test_what_may_be_asked_for_is_to_be_had_with_what_it_names(request, rules):
    answer = decide_session(request, rules)
    if answer.may_ask:
        here = replace(
            request.context,
            approvals=max(2, answer.obligations.approvals),
            reason="why",
            mfa_at=(request.context.began_at or request.context.at).timestamp(),
        )
        assert decide_session(replace(request, context=here), rules).allowed


@given(REQUESTS, MANY, st.integers(0, 10_000))
def test_what_goes_on_does_not_depend_on_how_old_its_second_factor_has_become(request, rules, minutes):
    asked = replace(request, context=replace(request.context, began_at=request.context.at))
    ageless = [replace(each, hours=None, valid_from=None, valid_until=None) for each in rules]
    later = replace(asked.context, at=asked.context.at + timedelta(minutes=minutes))
    assert decide(asked, ageless).allowed == decide(replace(asked, context=later), ageless).allowed
