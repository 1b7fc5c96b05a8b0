"""The API budget's page: what the real governor counts in a real Valkey, in words; and the ceilings that people set."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
import redis
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.aws import governor
from fleetops.aws.governor import Lesson, MinuteUse, OperationUse, Priority
from fleetops.clock import now, real_now
from fleetops.errors import UserError
from fleetops.inventory import accounts, budget, ceilings, tasks
from fleetops.inventory.budget import Bucket, Filter, Limit, State
from fleetops.inventory.models import CallCeiling
from tests.api.conftest import Bearer, make_token
from tests.factories import make_account, make_region, make_user
from tests.support.endpoint import until

SHOP, LAB = "111122223333", "444455556666"
SSM = "ssm:DescribeInstanceInformation"
START = "ssm:StartSession"
MOMENT = datetime(2026, 11, 19, 14, 24, 30, tzinfo=UTC)
MINUTE = datetime(2026, 11, 19, 14, 24, tzinfo=UTC)
pytestmark = pytest.mark.django_db


@pytest.fixture
def governed(valkey):
    """The governor with nothing counted yet."""
    url = settings.AWS_BUDGET_URL
    client = redis.Redis.from_url(url)
    keys = client.keys("fleetops:governor:*")
    if keys:
        client.delete(*keys)
    governor.configure(url)
    yield client
    governor.configure(url)
    client.close()


@pytest.fixture
def without_valkey(governed):
    governor.configure("unix:///nowhere.sock")


@pytest.fixture
def shop():
    return make_region("eu-west-1", account=make_account(SHOP, name="shop")).account


@pytest.fixture
def lab():
    return make_region("eu-west-1", account=make_account(LAB, name="lab")).account


@pytest.fixture
def chief(client_as):
    return client_as("administrator")


def call(operation: str, priority: Priority, *, account: str = SHOP, region: str = "eu-west-1", code: str = "") -> None:
    """One attempt of a call as `clients` makes it; `code` is what AWS refuses it with."""
    bucket, context = governor.Bucket(account, region, operation), {}
    with governor.acting_for(priority):
        governor.pace(bucket, context)
    governor.learn(bucket, context, code)


def called_ago(minutes: int, operation: str, *, account: str = SHOP, region: str = "eu-west-1", times: int = 1) -> None:
    """Polls in the past: the governor's script takes the time from whoever tells it."""
    for number in range(times):
        at = (real_now() - timedelta(minutes=minutes)).timestamp()
        bucket = governor.Bucket(account, region, operation)
        assert governor._book.ask("take", bucket, "3", "3", f"past{number}", "0", "1", at=at)[0] == "1"


def text_of(response, status: int = 200) -> str:
    assert response.status_code == status, response.content[:600]
    return " ".join(response.content.decode().split())


def page(client, status: int = 200, **parameters) -> str:
    return text_of(client.get(reverse("budget:page"), parameters), status)


def row_of(text: str, operation: str, where: str = "shop, eu-west-1") -> str:
    """The table's row of a bucket."""
    found = [row for row in text.split('<tr id="b-')[1:] if f">{operation}</a>" in row and where in row]
    assert len(found) == 1, f"{len(found)} rows of {operation} in {where}"
    return found[0].split("</tr>")[0]


def use_of(operation: str = START, **fields) -> OperationUse:
    minutes = fields.pop("minutes", (MinuteUse(MINUTE, person=3),))
    given = {"account_id": SHOP, "region": "eu-west-1", "rate": 5.0, "ceiling": 20.0, "learned_at": None, "waiting": {}}
    return OperationUse(operation=operation, minutes=minutes, **(given | fields))


def bucket_of(*, limits=(), **fields) -> Bucket:
    return budget.buckets([use_of(**fields)], names={SHOP: "shop"}, limits=limits, now=MOMENT)[0]


# --- shaping ---


@pytest.mark.parametrize(
    ("fields", "state", "word"),
    [
        ({}, State.FREE, "Free"),
        ({"waiting": {Priority.POLL: 12}}, State.POLLS, "Polls wait"),
        ({"waiting": {Priority.POLL: 12, Priority.RUN: 1}}, State.WAVES, "Waves wait"),
        ({"waiting": {Priority.PERSON: 1, Priority.RUN: 1}}, State.PERSON, "A person waits"),
        ({"minutes": (MinuteUse(MINUTE, poll=290),)}, State.LIMIT, "At its limit"),
        ({"minutes": (MinuteUse(MINUTE, poll=280),)}, State.FREE, "Free"),
        ({"minutes": (MinuteUse(MINUTE, poll=1, throttled=1),)}, State.SLOWED, "Slowed by AWS, learning"),
        ({"minutes": (MinuteUse(MINUTE, throttled=1),), "waiting": {Priority.RUN: 9}}, State.SLOWED, "Slowed by AWS"),
        # It has grown back to all that it may have, or AWS has let everything through for ten minutes.
        ({"minutes": (MinuteUse(MINUTE, poll=1, throttled=1),), "rate": 20.0}, State.FREE, "Free"),
        ({"minutes": (MinuteUse(MINUTE - timedelta(minutes=11), poll=1, throttled=1),)}, State.FREE, "Free"),
    ],
)
def test_a_bucket_says_how_it_is_in_words(fields, state, word):
    found = bucket_of(**fields)
    assert found.state == state and found.word.startswith(word)


def test_every_state_has_its_words():
    assert budget.WORDS.keys() == set(State)


def test_the_last_minute_is_this_one_and_what_is_left_of_the_one_before():
    minutes = (
        MinuteUse(MINUTE - timedelta(minutes=2), poll=1000),
        MinuteUse(MINUTE - timedelta(minutes=1), poll=120),
        MinuteUse(MINUTE, person=1, run=2, poll=3),
    )
    assert budget.last_minute(minutes, MOMENT) == 6 + 60  # half of the minute before lies within the last 60 s
    assert bucket_of(minutes=minutes).use == "1.1 of 5 a second"


def test_the_fullest_comes_first_and_of_those_the_one_that_holds_back_most():
    uses = [
        use_of("ec2:DescribeInstances", minutes=(MinuteUse(MINUTE, poll=30),)),
        use_of("ssm:TerminateSession", minutes=(MinuteUse(MINUTE, poll=600),), waiting={Priority.POLL: 1}),
        use_of("ssm:ResumeSession", minutes=(MinuteUse(MINUTE, poll=400),), waiting={Priority.POLL: 8}),
        use_of("ssm:StartSession", minutes=()),
    ]
    found = budget.buckets(uses, names={SHOP: "shop"}, limits=[], now=MOMENT)
    assert [each.operation.partition(":")[2] for each in found] == [
        "ResumeSession",
        "TerminateSession",
        "DescribeInstances",
    ]
    assert [each.percent for each in found] == [100, 100, 10]


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", True),
        ("startsession", True),
        ("shop eu-west", True),
        ("lab", False),
        ("account:111122223333", True),
        ("account:1111", False),
        ("account:SHOP", True),
        ("region:eu", True),
        ("region:eu-west-1", True),
        ("region:eu-west-2", False),
        ("region:e", False),
        ("operation:ssm:StartSession", True),
        ("operation:ssm:Start", False),
        ("operation:session", True),
        ("ssm:StartSession", True),
        ("state:free", True),
        ("state:slowed", False),
        ("state:waits", False),
        ("state:nonsense", False),
    ],
)
def test_a_filter_takes_words_and_places_and_states(text, holds):
    assert Filter.of(text).holds(bucket_of()) is holds


def test_an_open_page_keeps_its_order_and_says_when_another_would_be_better():
    names = {SHOP: "shop"}
    operations = ["ssm:A", "ssm:B", "ssm:C"]

    def found(busy: str) -> list[Bucket]:
        counts = {each: (MinuteUse(MINUTE, poll=600 if each == busy else 10),) for each in operations}
        return budget.buckets([use_of(o, minutes=counts[o]) for o in operations], names=names, limits=[], now=MOMENT)

    was, fresh = found("ssm:A"), found("ssm:C")
    shown = budget.in_order(fresh, [each.key for each in was])
    assert [each.operation for each in shown] == ["ssm:A", "ssm:B", "ssm:C"]
    assert budget.out_of_order(shown, fresh) and not budget.out_of_order(was, was)
    assert budget.out_of_order(shown[:2], fresh), "the one that is full is not on the page at all"
    calm = found("")
    assert not budget.out_of_order(budget.in_order(calm, [each.key for each in was]), calm)


def test_shares_add_up_and_none_is_invisible():
    found = [bucket_of(minutes=(MinuteUse(MINUTE, person=1, run=99_999, poll=100_000),))]
    parts = budget.parts(found)
    assert [(part.name, part.count, part.share) for part in parts] == [
        ("people", 1, "under 0.01 %"),
        ("waves", 99_999, "50 %"),
        ("polling", 100_000, "50 %"),
    ]
    assert parts[0].width >= 0.9 and abs(sum(part.width for part in parts) - 100) < 0.1
    assert budget.parts([bucket_of(minutes=(MinuteUse(MINUTE, throttled=1),))]) == []


def test_the_drawing_stays_within_its_frame_and_says_each_minute_in_words():
    minutes = (
        MinuteUse(MINUTE - timedelta(minutes=1), person=1, run=1, poll=100_000, throttled=7, waited=2, waited_ms=3000),
        MinuteUse(MINUTE - timedelta(minutes=60), poll=9),  # an hour ago: off the drawing
    )
    drawn = budget.chart([bucket_of(minutes=minutes), bucket_of(operation=SSM, minutes=minutes)], now=MOMENT)
    assert len(drawn.columns) == 60 and (drawn.most, drawn.throttled) == (200_004, 14)
    assert drawn.columns[58].title == "14:23 UTC: 2 by people, 2 by waves, 200,000 by polling; 14 throttled by AWS"
    for column in drawn.columns:
        for piece in column.pieces:
            assert piece.height > 0 and piece.y >= 0 and piece.y + piece.height <= drawn.height + 0.1
    assert [piece.css for piece in drawn.columns[58].pieces] == ["poll", "run", "person", "throttled"]
    assert (drawn.spans[0].waited, drawn.spans[0].mean, drawn.spans[1].mean) == (4, "1.5 s", "")


def test_what_was_learned_and_what_people_set_stand_in_one_order():
    lessons = [
        Lesson(MOMENT, SHOP, "eu-west-1", START, 5.0, 3.5),
        Lesson(MOMENT - timedelta(hours=2), SHOP, "eu-west-1", START, 3.5, 5.0),
        Lesson(MOMENT, LAB, "eu-west-1", START, 1.0, 2.0),  # of an account that the user may not see
    ]
    limits = [Limit(SHOP, "eu-west-1", SSM, 100.0, "priya.nair", MOMENT - timedelta(hours=1))]
    found = budget.timeline(lessons, limits, names={SHOP: "shop"}, asked=Filter())
    assert [(each.kind, each.who, each.words) for each in found] == [
        ("warn", "", "5 to 3.5 a second"),
        ("", "priya.nair", "100 a second at most"),
        ("ok", "", "3.5 to 5 a second"),
    ]
    only = budget.timeline(
        lessons, limits, names={SHOP: "shop"}, asked=Filter.of("state:slowed operation:StartSession")
    )
    assert {each.operation for each in only} == {START}


@pytest.mark.parametrize(
    ("value", "said"), [(5.0, "5"), (4.83, "4.8"), (0.25, "0.25"), (0.1, "0.1"), (0.0, "0"), (1200.0, "1,200")]
)
def test_a_rate_reads_as_people_write_it(value, said):
    assert budget.number(value) == said


# --- the page ---


def test_a_page_without_an_account_and_one_without_a_call_say_so(governed, chief, shop):
    assert "Nothing was called in the last hour, so nobody waits." in page(chief)
    assert "No call in the last hour" in page(chief) and "<table" not in page(chief)
    shop.delete()
    assert "No account is linked, so nothing is called." in page(chief) and "No account yet" in page(chief)


def test_calls_are_on_the_page_by_whom_and_how_often(governed, chief, shop):
    for priority in (Priority.PERSON, Priority.RUN, Priority.POLL):
        call("ec2:DescribeInstances", priority)
    called_ago(20, "ec2:DescribeInstances", times=96)
    call(START, Priority.PERSON)
    text = page(chief)
    assert "No person waits." in text and 'All <a href="?">2 buckets</a> have room.' in text
    assert "<dt>Throttled by AWS, last hour</dt><dd>0 <small>of 100, 0 %</small>" in text
    assert "100 in the hour" in text and "nothing had to wait" in text
    assert "people <b>2 %</b> 2</span>" in text and "polling <b>97 %</b> 97</span>" in text
    row = row_of(text, "ec2:DescribeInstances")
    assert "of 10 a second" in row and "Free" in row
    assert "100 calls from " in text  # what the drawing says to whoever does not see it


def test_what_aws_throttles_is_slowed_and_learned(governed, chief, shop):
    call(START, Priority.PERSON, code="ThrottlingException")
    text = page(chief)
    assert 'AWS slows <a class="warn" href="?q=state:slowed">1 bucket</a>.' in text
    row = row_of(text, START)
    assert "of 3.5 a second" in row and "Slowed by AWS, learning" in row
    assert "5 to 3.5 a second" in text and "<dd>1 <small>of 1, 100 %</small>" in text
    assert START in page(chief, q="state:slowed") and "No bucket matches" in page(chief, q="state:free")


def test_who_waits_is_on_the_page_while_it_waits(governed, chief, shop):
    governor.set_ceiling(SHOP, "eu-west-1", SSM, 0.1)
    call(SSM, Priority.POLL)  # three are in the bucket, of which a poll leaves two for others

    def wait() -> None:
        with pytest.raises(governor.Unavailable):
            call(SSM, Priority.POLL)

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        until(lambda: any(use.waiting[Priority.POLL] for use in governor.use([SHOP])), what="a poll waits")
        text = page(chief)
        assert f"1 bucket</a> holds calls back: {SSM} in shop, eu-west-1, 1 poll, about 10 s." in text
        row = row_of(text, SSM)
        assert "Polls wait" in row and '<td class="tnum">1 poll</td>' in row
        assert SSM in page(chief, q="state:waits")
        answer = Bearer(make_token(make_user(role="administrator"))).get(reverse("api:budget")).json()
        assert answer["results"][0]["waiting"] == {"person": 0, "run": 0, "poll": 1}
    finally:
        governor.stop()  # who waits gives up
        waiting.join()
    governor.configure(settings.AWS_BUDGET_URL)
    text = page(chief)
    assert "No person waits." in text and "holds calls back" not in text
    assert "<dt>Polls that waited</dt><dd>1 <small>of 1" in text and "what had to wait, waited" in text


def test_a_row_leads_to_its_bucket_alone(governed, chief, shop):
    called_ago(3, "ec2:DescribeInstances", times=4)
    called_ago(3, START, times=2)
    called_ago(3, START, region="us-east-1", times=1)
    alone = page(chief, q=f"account:{SHOP} region:eu-west-1 operation:{START}")
    assert f'href="?q=account%3A{SHOP}+region%3Aeu-west-1+operation%3Assm%3AStartSession"' in page(chief)
    assert alone.count('<tr id="b-') == 1 and "2 in the hour" in alone


def test_what_is_typed_becomes_a_chip_beside_those_that_are_there(governed, chief, shop):
    called_ago(3, START)
    text = page(chief, q="account:shop", add="region:eu")
    assert 'aria-label="Remove filter account:shop"' in text and 'name="q" value="account:shop region:eu"' in text
    assert 'href="?q=region%3Aeu" aria-label="Remove filter account:shop"' in text
    text = page(chief, q="<script>")
    assert "No bucket matches" in text and "<script>" not in text.split("<main", 1)[1]


def test_hundreds_of_buckets_come_in_pages_in_a_bounded_number_of_queries(governed, chief, shop, lab):
    for number in range(60):
        called_ago(1, f"ssm:Operation{number:03}", account=SHOP if number % 2 else LAB)
    with CaptureQueriesContext(connection) as few:
        page(chief, q="operation:Operation001")
    with CaptureQueriesContext(connection) as many:
        text = page(chief)
    assert len(many) == len(few) <= 12, [query["sql"] for query in many]
    assert text.count('<tr id="b-') == 25 and "1–25 of 60 buckets" in text
    last = page(chief, page=3)
    assert last.count('<tr id="b-') == 10 and "51–60 of 60 buckets" in last
    assert "51–60 of 60" in page(chief, page=99) and "1–25 of 60" in page(chief, page="x")
    seen = {key for number in (1, 2, 3) for key in page(chief, page=number).split('<tr id="b-')[1:]}
    assert len({each.split('"')[0] for each in seen}) == 60


def test_an_open_page_asks_for_its_rows_and_they_keep_their_places(governed, chief, shop):
    for number in range(3):
        called_ago(1, f"ssm:Operation{number}", times=3 - number)
    text = page(chief)
    assert 'hx-trigger="every 5s, fleetops:refresh"' in text
    keys = [row.split('"')[0] for row in text.split('<tr id="b-')[1:]]
    backwards = ",".join(reversed(keys))
    answer = chief.get(reverse("budget:live"), {"rows": backwards}, headers={"HX-Request": "true"})
    part = text_of(answer)
    assert [row.split('"')[0] for row in part.split('<tr id="b-')[1:]] == keys[::-1]
    assert '<span id="budget-answer" hx-swap-oob="true">' in part and "<html" not in part
    assert "sort again" not in part, "all are free: no order is wrong"
    call("ssm:Operation9", Priority.PERSON, code="ThrottlingException")
    part = text_of(chief.get(reverse("budget:live"), {"rows": backwards}, headers={"HX-Request": "true"}))
    assert "Others are fuller now, sort again" in part and "ssm:Operation9" not in part.split("What the governor")[0]


def test_two_accounts_are_never_mixed(governed, chief, shop, lab):
    called_ago(2, START, account=SHOP, times=3)
    called_ago(2, START, account=LAB, times=11)
    governor.set_ceiling(LAB, "eu-west-1", START, 1)
    text = page(chief)
    assert row_of(text, START, "shop, eu-west-1") != row_of(text, START, "lab, eu-west-1")
    only = page(chief, q=f"account:{LAB}")
    assert "11 in the hour" in only and only.count('<tr id="b-') == 1 and "shop, eu-west-1" not in only
    lab.delete()  # what the governor still knows of it is nobody's business
    rest = page(chief)
    assert "lab, eu-west-1" not in rest and LAB not in rest and "3 in the hour" in rest


def test_without_valkey_the_page_says_so_and_what_it_means(without_valkey, chief, shop):
    CallCeiling.objects.create(
        account=shop, region="eu-west-1", operation=START, per_second=2, set_by="priya", set_at=now()
    )
    text = page(chief)
    assert "The governor cannot be reached</b>: FleetOps calls AWS unpaced." in text
    assert "Valkey, which counts AWS calls, does not answer" in text and "no ceiling holds" in text
    assert 'hx-trigger="every 5s' in text, "it goes on by itself"
    assert "does not answer" in text_of(chief.get(reverse("budget:live")))
    limits = text_of(chief.get(reverse("budget:limits")))
    assert "by priya" in limits and "Not in force yet" in limits and "in force: <b>0</b> of 1." in limits
    assert "does not answer; they go unpaced" in limits


def test_where_nothing_is_paced_the_page_says_that(governed, chief, shop):
    governor.configure("")  # FLEETOPS_AWS_BUDGET=off
    assert "AWS calls are not paced here, so nothing is counted." in page(chief)
    tasks.tell_ceilings()
    tasks.lift_stray_ceilings()


@pytest.mark.parametrize("role", ["viewer", "operator", "patch_owner", "auditor"])
def test_the_budget_is_for_who_may_see_accounts(governed, client_as, shop, role):
    client = client_as(role)
    for name in ("page", "live", "limits"):
        assert client.get(reverse(f"budget:{name}")).status_code == 403
    denied = AuditEvent.objects.filter(action="web.permission.refuse", outcome="denied")
    assert {event.details["permission"] for event in denied} == {"inventory.view_account"} and denied.count() == 3
    assert "API budget" not in text_of(client.get(reverse("sessions:list")))


def test_who_may_only_look_sees_no_form_and_sets_nothing(governed, client, roles, shop):
    from django.contrib.auth.models import Permission

    user = make_user("looker", role="viewer")
    user.user_permissions.add(Permission.objects.get(codename="view_account"))
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    called_ago(1, START)
    assert "Limit</a>" not in page(client).split("<table")[2]
    assert "Set a ceiling" not in text_of(client.get(reverse("budget:limits")))
    form = {"account": SHOP, "region": "eu-west-1", "operation": START, "per_second": "2"}
    assert client.post(reverse("budget:limits"), form).status_code == 403
    assert not CallCeiling.objects.exists()
    denied = AuditEvent.objects.get(action="web.permission.refuse")
    assert (denied.actor_name, denied.details["permission"]) == ("looker", "inventory.change_account")


# --- ceilings ---

FORM = {"account": SHOP, "region": "eu-west-1", "operation": START, "per_second": "2.5"}


def limit_of(account: str = SHOP, operation: str = START) -> float | None:
    """What the governor holds an operation to."""
    return next((use.limit for use in governor.use([account]) if use.operation == operation), None)


@pytest.mark.django_db(transaction=True)
def test_a_ceiling_holds_at_once_and_says_who_set_it(governed, chief, shop):
    assert chief.post(reverse("budget:limits"), FORM).status_code == 302
    row = CallCeiling.objects.get()
    assert (row.account, row.region, row.operation, row.per_second) == (shop, "eu-west-1", START, 2.5)
    assert limit_of() == 2.5 and row.told_at is not None
    assert "In force" in text_of(chief.get(reverse("budget:limits"))) and f"{row.set_by} set it at" in page(chief)
    assert "ceiling 2.5" in row_of(page(chief), START) and "not in force" not in page(chief)
    event = AuditEvent.objects.get(action="inventory.ceiling.set")
    assert (event.account_id, event.region, event.actor_name) == (SHOP, "eu-west-1", row.set_by)
    assert event.details == {"operation": START, "before": None, "after": 2.5}

    assert chief.post(reverse("budget:limits"), FORM | {"per_second": "4"}).status_code == 302
    assert limit_of() == 4 and CallCeiling.objects.get().pk == row.pk
    again = AuditEvent.objects.filter(action="inventory.ceiling.set").latest("at")
    assert (again.details["before"], again.details["after"]) == (2.5, 4)
    chief.post(reverse("budget:limits"), FORM | {"per_second": "4"})
    assert AuditEvent.objects.filter(action="inventory.ceiling.set").count() == 2, "nothing was changed"

    assert chief.post(reverse("budget:remove", args=[row.pk])).status_code == 302
    assert limit_of() is None and not CallCeiling.objects.exists()
    gone = AuditEvent.objects.get(action="inventory.ceiling.remove")
    assert gone.details == {"operation": START, "before": 4, "after": None}
    assert chief.post(reverse("budget:remove", args=[row.pk])).status_code == 404


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"account": "999999999999"}, "Choose an account of the list."),
        ({"account": ""}, "Choose an account of the list."),
        ({"region": ""}, "Choose a region of the account."),
        ({"region": "us-east-1"}, "FleetOps has no region us-east-1 in shop."),
        ({"region": "global"}, "IAM has one bucket for all regions"),
        ({"operation": "iam:SimulatePrincipalPolicy"}, "choose global for it, and for nothing else"),
        ({"operation": "ssm:startsession"}, "FleetOps never calls ssm:startsession. Choose an operation"),
        ({"operation": ""}, "Choose an operation of the list, such as ssm:StartSession."),
        *(
            ({"per_second": number}, "Give a number from 0.1 to 1,000 calls a second.")
            for number in ("", "0", "0.09", "-1", "1000.1", "many", "nan", "inf", "1e9")
        ),
    ],
)
def test_a_ceiling_that_cannot_be_is_told_at_its_field(governed, chief, shop, change, words):
    text = text_of(chief.post(reverse("budget:limits"), FORM | change), 400)
    assert words in text and text.count('aria-invalid="true"') == 1
    assert not CallCeiling.objects.exists() and limit_of() is None


def test_the_form_begins_with_the_row_that_led_to_it(governed, chief, shop):
    called_ago(1, START)
    link = row_of(page(chief), START).split('<a class="btn btn-sm" href="')[1].split('"')[0].replace("&amp;", "&")
    text = text_of(chief.get(link))
    assert f'<option value="{START}" selected>' in text and f'<option value="{SHOP}" selected>' in text
    assert '<option value="eu-west-1" selected>' in text and f"{START} (20 by itself)" in text


def test_each_operation_that_is_paced_can_be_limited(governed, shop):
    made = ceilings.set_ceiling(shop, "global", "iam:SimulatePrincipalPolicy", 0.1, actor="tests", now=now())
    assert made.per_second == 0.1
    assert "sqs:DeleteMessageBatch" in ceilings.OPERATIONS and "sts:AssumeRole" in ceilings.OPERATIONS
    with pytest.raises(UserError, match=r"from 0\.1 to 1,000"):
        ceilings.set_ceiling(shop, "eu-west-1", START, 2000, actor="tests", now=now())


@pytest.mark.django_db(transaction=True)
def test_valkey_that_has_lost_the_ceilings_is_told_again(governed, chief, shop, lab):
    chief.post(reverse("budget:limits"), FORM)
    chief.post(reverse("budget:limits"), FORM | {"account": LAB, "per_second": "7"})
    governed.flushdb()
    assert limit_of() is None
    tasks.tell_ceilings()
    assert (limit_of(SHOP), limit_of(LAB)) == (2.5, 7)


@pytest.mark.django_db(transaction=True)
def test_what_is_set_or_taken_away_while_valkey_is_away_comes_into_force_with_it(governed, chief, shop):
    chief.post(reverse("budget:limits"), FORM)
    row = CallCeiling.objects.get()
    governor.configure("unix:///nowhere.sock")
    answer = chief.post(reverse("budget:limits"), FORM | {"per_second": "9"}, follow=True)
    assert "this comes into force as soon as it can" in text_of(answer)
    chief.post(reverse("budget:limits"), FORM | {"operation": SSM})
    assert "this comes into force" in text_of(chief.post(reverse("budget:remove", args=[row.pk]), follow=True))
    governor.configure(settings.AWS_BUDGET_URL)
    assert (limit_of(), limit_of(operation=SSM)) == (2.5, None), "as Valkey was left"
    assert "not in force yet" not in page(chief).split("<table")[0]
    tasks.tell_ceilings()
    assert (limit_of(), limit_of(operation=SSM)) == (None, 2.5)
    assert [each.operation for each in CallCeiling.objects.all()] == [SSM]


@pytest.mark.django_db(transaction=True)
def test_an_account_takes_its_ceilings_with_it(governed, chief, shop, lab):
    chief.post(reverse("budget:limits"), FORM)
    chief.post(reverse("budget:limits"), FORM | {"account": LAB})
    accounts.set_enabled(shop, False, actor="tests")
    accounts.remove_account(shop, actor="tests")
    assert (limit_of(SHOP), limit_of(LAB)) == (None, 2.5)
    # Valkey was away meanwhile, and the number is linked again.
    governor.set_ceiling(SHOP, "eu-west-1", START, 1)
    make_region("eu-west-1", account=make_account(SHOP, name="shop again"))
    tasks.lift_stray_ceilings()
    assert (limit_of(SHOP), limit_of(LAB)) == (None, 2.5)


def test_ceilings_are_told_again_and_again():
    from fleetops.celery import app

    for task, seconds in ((tasks.tell_ceilings, 15.0), (tasks.lift_stray_ceilings, 300.0)):
        beat = app.conf.beat_schedule[f"inventory.{task.name.rpartition('.')[2]}"]
        assert (beat["task"], beat["schedule"]) == (task.name, seconds)


# --- the API ---


@pytest.fixture
def program(roles):
    return Bearer(make_token(make_user("program-owner", role="administrator")))


def test_the_api_tells_the_buckets_and_takes_filters_and_pages(governed, program, shop, lab):
    called_ago(1, START, times=2)
    called_ago(1, START, account=LAB)
    call(SSM, Priority.PERSON, code="ThrottlingException")
    path = reverse("api:budget")
    found = program.get(path).json()["results"]
    assert [(each["account_id"], each["operation"]) for each in found] == [(SHOP, SSM), (SHOP, START), (LAB, START)]
    assert found[0]["state"] == "slowed" and found[0]["throttled_last_hour"] == 1
    assert found[1] | {"per_second": 0} == {
        "account_id": SHOP,
        "account_name": "shop",
        "region": "eu-west-1",
        "operation": START,
        "state": "free",
        "per_second": 0,
        "allowed_per_second": 5.0,
        "most_per_second": 20.0,
        "waiting": {"person": 0, "run": 0, "poll": 0},
        "calls_last_hour": 2,
        "throttled_last_hour": 0,
        "ceiling": None,
        "is_in_force": True,
    }
    for parameters, count in (
        ({"account": LAB}, 1),
        ({"operation": START}, 2),
        ({"region": "eu", "state": "slowed"}, 1),
        ({"q": "lab"}, 1),
        ({"region": "us-east-1"}, 0),
    ):
        assert len(program.get(path, parameters).json()["results"]) == count, parameters
    first = program.get(path, {"page_size": 2}).json()
    second = program.get(first["next"]).json()
    assert [each["account_id"] for each in first["results"] + second["results"]] == [SHOP, SHOP, LAB]
    assert second["next"] is None
    assert program.get(path, {"page_size": "0"}).status_code == 400


@pytest.mark.django_db(transaction=True)
def test_the_api_sets_a_ceiling_and_takes_it_away(governed, program, shop):
    path = reverse("api:budget_ceiling", args=[SHOP, "eu-west-1", START])
    answer = program.put(path, {"per_second": 3}, content_type="application/json")
    assert answer.status_code == 200 and answer.json() | {"set_at": ""} == {
        "account_id": SHOP,
        "region": "eu-west-1",
        "operation": START,
        "per_second": 3.0,
        "set_by": "program-owner",
        "set_at": "",
        "is_told": True,
    }
    assert limit_of() == 3
    assert program.get(reverse("api:budget")).json()["results"][0]["ceiling"]["per_second"] == 3
    refused = program.put(path, {"per_second": 0}, content_type="application/json")
    assert refused.status_code == 400 and "from 0.1 to 1,000" in refused.json()["errors"]["per_second"][0]
    assert program.delete(path).status_code == 204 and limit_of() is None
    assert program.delete(path).status_code == 404
    elsewhere = reverse("api:budget_ceiling", args=["999999999999", "eu-west-1", START])
    assert program.put(elsewhere, {"per_second": 3}, content_type="application/json").status_code == 404


def test_the_api_without_valkey_says_so(without_valkey, program, shop):
    answer = program.get(reverse("api:budget"))
    assert answer.status_code == 503 and "does not answer" in answer.json()["detail"]


def test_a_token_to_read_the_budget_sets_nothing(governed, roles, shop):
    program = Bearer(make_token(make_user(role="administrator"), "budget:read"))
    assert program.get(reverse("api:budget")).status_code == 200
    path = reverse("api:budget_ceiling", args=[SHOP, "eu-west-1", START])
    answer = program.put(path, {"per_second": 3}, content_type="application/json")
    assert answer.status_code == 403 and "lacks the scope budget:write" in answer.json()["detail"]
    assert not CallCeiling.objects.exists()
