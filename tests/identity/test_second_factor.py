"""The second factor: set up, asked for at log-in and by roles, no code taken twice, reset; tokens made with it."""

import base64
import re
from datetime import datetime, timedelta

import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from hypothesis import given
from hypothesis import strategies as st

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.identity import second_factor, totp
from fleetops.identity.models import ApiToken, RecoveryCode, SecondFactor, User
from tests.api.conftest import Bearer, make_token
from tests.factories import make_user

PASSWORD = "correct horse battery"
RFC_SECRET = b"12345678901234567890"


class Phone:
    """An authenticator app that has scanned the picture."""

    def __init__(self, secret: bytes):
        self.secret = secret

    def code(self, steps: int = 0) -> str:
        """The code of now, or of so many steps later."""
        return totp.code_at(self.secret, totp.step_of(now().timestamp()) + steps)


def set_up(user: User) -> tuple[Phone, list[str]]:
    """Give the user a second factor whose first code was used a while ago; returns their phone and recovery codes."""
    phone = Phone(second_factor.begin(user))
    codes = second_factor.finish(user, phone.code())
    SecondFactor.objects.filter(user=user).update(last_step=0)
    return phone, codes


@pytest.fixture(autouse=True)
def log_ins_of_other_tests_do_not_count(settings):
    settings.API_LOGINS_PER_MINUTE = 1000


@pytest.fixture
def mei(roles):
    return make_user("mei", role="operator", password=PASSWORD)


def log_in(client, code: str = "", **fields):
    answer = client.post("/login/", {"username": "mei", "password": PASSWORD, **fields})
    if code and answer["Location"].startswith("/login/code/"):
        answer = client.post("/login/code/", {"code": code, **fields})
    return answer


def actions() -> list[str]:
    return list(
        AuditEvent.objects.filter(action__startswith="identity.").order_by("pk").values_list("action", flat=True)
    )


# --- The codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "code"),
    [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (2000000000, "279037"), (20000000000, "353130")],
)
def test_codes_are_those_of_the_standard(at, code):
    """RFC 6238, appendix B, its last six digits."""
    assert totp.code_at(RFC_SECRET, totp.step_of(at)) == code
    assert totp.matching_step(RFC_SECRET, code, at=at, after=0) == at // 30


@given(st.binary(min_size=20, max_size=20), st.integers(60, 2**33))
def test_another_implementation_agrees(secret, at):
    TOTP(secret, 6, SHA1(), 30).verify(totp.code_at(secret, totp.step_of(at)).encode(), at)


def test_a_clock_may_be_half_a_minute_off_and_no_more():
    right = {step: totp.code_at(RFC_SECRET, step) for step in range(97, 104)}
    taken = [s for s, code in right.items() if totp.matching_step(RFC_SECRET, code, at=3000, after=0) == s]
    assert taken == [99, 100, 101]


def test_what_the_picture_says():
    url = totp.url_of(RFC_SECRET, username="mei tanaka", issuer="FleetOps fleet.example")
    assert url.startswith(
        "otpauth://totp/FleetOps%20fleet.example:mei%20tanaka?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    )
    kind, _, data = totp.picture_of(url).partition(";base64,")
    assert kind == "data:image/svg+xml" and b"<svg" in base64.b64decode(data)


# --- Setting up ------------------------------------------------------------------------------------------------------


def test_a_person_sets_it_up_in_a_browser(client, mei):
    log_in(client)
    assert "Your password alone" in client.get("/settings/log-in/").content.decode()
    assert client.post("/settings/log-in/set-up/")["Location"] == "/settings/log-in/set-up/"
    page = client.get("/settings/log-in/set-up/").content.decode()
    assert 'src="data:image/svg+xml;base64,' in page
    secret = re.search(r'fo-wrap">([A-Z2-7 ]+)<', page)[1].replace(" ", "")
    phone = Phone(base64.b32decode(secret))
    wrong = client.post("/settings/log-in/finish/", {"code": "000000" if phone.code() != "000000" else "111111"})
    assert wrong.status_code == 400 and "not the code" in wrong.content.decode()
    page = client.post("/settings/log-in/finish/", {"code": phone.code()}).content.decode()
    assert len(re.findall(r"<li>[0-9a-z]{4}(?:-[0-9a-z]{4}){3}</li>", page)) == 10
    factor = SecondFactor.objects.get()
    assert factor.confirmed_at and secret not in factor.sealed_secret and factor.sealed_secret.startswith("v1.")
    # Neither is shown again.
    assert client.get("/settings/log-in/set-up/")["Location"] == "/settings/log-in/"
    assert secret not in client.get("/settings/log-in/").content.decode()
    assert abs(client.session["mfa_at"] - now().timestamp()) < 60
    assert actions()[-1] == "identity.second_factor.set_up"


def test_setting_up_asks_for_the_password_if_it_was_given_long_ago(client, mei, settings):
    log_in(client)
    session = client.session
    session["confirmed_at"] -= settings.CONFIRM_SECONDS + 1
    session.save()
    answer = client.post("/settings/log-in/set-up/")
    assert answer["Location"].startswith("/confirm/?next=") and not SecondFactor.objects.exists()
    wrong = client.post("/confirm/", {"password": "nope", "next": "/settings/log-in/"})
    assert wrong.status_code == 400 and "not your password" in wrong.content.decode()
    assert (
        client.post("/confirm/", {"password": PASSWORD, "next": "/settings/log-in/"})["Location"] == "/settings/log-in/"
    )
    assert client.post("/settings/log-in/set-up/")["Location"] == "/settings/log-in/set-up/"
    assert actions()[-2:] == ["identity.confirm.refuse", "identity.confirm"]


def test_the_confirmation_leads_to_our_own_pages_alone(client, mei):
    log_in(client)
    assert client.post("/confirm/", {"password": PASSWORD, "next": "https://evil.example/"})["Location"] == "/fleet/"


# --- Logging in ------------------------------------------------------------------------------------------------------


def test_the_password_alone_lets_nobody_in(client, mei):
    set_up(mei)
    answer = log_in(client)
    assert answer["Location"].startswith("/login/code/")
    assert client.get("/fleet/")["Location"].startswith("/login/")
    assert "_auth_user_id" not in client.session


def test_password_and_code_let_in_and_it_is_recorded(client, mei):
    phone, _ = set_up(mei)
    answer = log_in(client, phone.code(), next="/sessions/")
    assert answer["Location"] == "/sessions/" and client.get("/fleet/").status_code == 200
    event = AuditEvent.objects.get(action="identity.login")
    assert event.details["second_factor"] == "app"
    assert abs(client.session["mfa_at"] - now().timestamp()) < 60


def test_no_code_is_taken_twice(client, mei):
    phone, _ = set_up(mei)
    code = phone.code()
    assert log_in(client, code)["Location"] == "/fleet/"
    client.post("/logout/")
    answer = log_in(client, code)
    assert answer.status_code == 400 and "used already" in answer.content.decode()
    assert log_in(client, phone.code(1))["Location"] == "/fleet/"
    client.post("/logout/")
    assert log_in(client, phone.code()).status_code == 400  # an earlier one neither


def test_a_recovery_code_stands_in_once(client, mei):
    _, codes = set_up(mei)
    assert log_in(client, codes[3].upper().replace("-", " "))["Location"] == "/fleet/"
    assert "9 are left" in client.get("/fleet/").content.decode()
    client.post("/logout/")
    assert log_in(client, codes[3]).status_code == 400
    assert codes[4].replace("-", "") not in str(list(RecoveryCode.objects.values()))


def test_after_five_wrong_codes_none_is_taken_for_a_while_from_anywhere(client, mei):
    phone, codes = set_up(mei)
    wrong = next(code for code in ("000000", "111111", "222222", "333333") if not _is_right(phone, code))
    answers = [log_in(client, wrong, REMOTE_ADDR="10.0.0.1").status_code for _ in range(5)]
    assert answers == [400] * 5
    answer = client.post("/login/code/", {"code": phone.code()}, REMOTE_ADDR="10.9.9.9")
    assert answer.status_code == 429 and "Too many wrong codes. None is taken for 15 minutes" in answer.content.decode()
    assert client.post("/login/code/", {"code": codes[0]}).status_code == 429
    SecondFactor.objects.update(locked_until=now() - timedelta(seconds=1))
    assert client.post("/login/code/", {"code": phone.code()})["Location"] == "/fleet/"
    reasons = AuditEvent.objects.filter(action="identity.second_factor.refuse").values_list("reason", flat=True)
    assert sorted(reasons) == ["too many wrong codes"] * 2 + ["wrong code"] * 5


def _is_right(phone: Phone, code: str) -> bool:
    return code in {phone.code(steps) for steps in (-1, 0, 1, 2)}


def test_the_code_has_to_come_soon_and_to_the_same_password(client, mei):
    phone, _ = set_up(mei)
    log_in(client)
    session = client.session
    session["pending_log_in"] = {**session["pending_log_in"], "at": now().timestamp() - 301}
    session.save()
    assert client.post("/login/code/", {"code": phone.code()})["Location"] == "/login/"
    log_in(client)
    mei.set_password("another long password")
    mei.save()
    assert client.post("/login/code/", {"code": phone.code()})["Location"] == "/login/"
    assert "_auth_user_id" not in client.session


def test_the_code_page_is_nothing_without_a_password(client, mei):
    assert client.get("/login/code/")["Location"] == "/login/"


# --- Taking it away --------------------------------------------------------------------------------------------------


def test_one_removes_ones_own_with_password_and_code(client, mei):
    phone, _ = set_up(mei)
    log_in(client, phone.code())
    path = "/settings/log-in/remove/"
    assert client.post(path, {"password": PASSWORD}).status_code == 400
    assert client.post(path, {"password": "nope", "code": phone.code(1)}).status_code == 400
    assert client.post(path, {"password": PASSWORD, "code": phone.code()}).status_code == 400  # used at the log-in
    assert client.post(path, {"password": PASSWORD, "code": phone.code(1)})["Location"] == "/settings/log-in/"
    assert not SecondFactor.objects.exists() and not RecoveryCode.objects.exists()
    assert "mfa_at" not in client.session
    assert actions()[-1] == "identity.second_factor.remove"


def test_new_recovery_codes_take_the_place_of_the_old(client, mei):
    phone, old = set_up(mei)
    log_in(client, phone.code())
    page = client.post("/settings/log-in/codes/").content.decode()
    fresh = re.findall(r"<li>([0-9a-z-]{19})</li>", page)
    client.post("/logout/")
    assert len(fresh) == 10 and log_in(client, old[0]).status_code == 400
    assert log_in(client, fresh[0])["Location"] == "/fleet/"


def test_an_administrator_resets_somebodys(client, mei):
    set_up(mei)
    admin = make_user("chief", role="administrator")
    client.force_login(admin)
    assert client.post(f"/settings/identity/{mei.pk}/second-factor/").status_code == 302
    assert not SecondFactor.objects.exists()
    event = AuditEvent.objects.get(action="identity.second_factor.reset")
    assert (event.actor_name, event.target_name) == ("chief", "mei")


# --- Roles that ask --------------------------------------------------------------------------------------------------


def ask_of(*roles: str) -> None:
    actor = User.objects.filter(username="chief").first() or make_user("chief", role="administrator")
    for role in roles:
        second_factor.set_role(role, asks=True, actor=actor)


def test_who_has_a_role_that_asks_is_led_to_set_it_up_and_can_do_nothing_else(client, mei):
    ask_of("operator")
    log_in(client)
    for path in ("/fleet/", "/sessions/", "/settings/tokens/", "/counts/"):
        assert client.get(path)["Location"] == "/settings/log-in/", path
    assert client.get("/api/v1/instances/").status_code == 403
    assert client.post("/settings/tokens/new/", {"name": "x"})["Location"] == "/settings/log-in/"
    htmx = client.get("/fleet/", HTTP_HX_REQUEST="true")
    assert (htmx.status_code, htmx["HX-Redirect"]) == (204, "/settings/log-in/")
    assert "A role of yours asks" in client.get("/settings/log-in/").content.decode()
    client.post("/settings/log-in/set-up/")
    phone = Phone(second_factor.pending_secret(mei))
    assert client.post("/settings/log-in/finish/", {"code": phone.code()}).status_code == 200
    assert client.get("/fleet/").status_code == 200


def test_a_log_in_from_before_gives_the_code_first(client, mei):
    log_in(client)
    phone, _ = set_up(mei)
    ask_of("operator")
    assert client.get("/sessions/?q=web")["Location"] == "/confirm/?next=%2Fsessions%2F%3Fq%3Dweb"
    assert client.post("/confirm/", {"code": phone.code(), "next": "/sessions/"})["Location"] == "/sessions/"
    assert client.get("/sessions/").status_code == 200


def test_who_has_no_such_role_is_left_alone(client, mei):
    ask_of("auditor")
    log_in(client)
    assert client.get("/fleet/").status_code == 200


def test_what_is_asked_follows_the_roles(mei, roles):
    from fleetops.identity import services

    ask_of("auditor")
    chief = User.objects.get(username="chief")
    services.change_user(mei, actor=chief, roles=["operator", "auditor"])
    assert User.objects.get(pk=mei.pk).needs_second_factor
    services.change_user(mei, actor=chief, roles=["operator"])
    assert not User.objects.get(pk=mei.pk).needs_second_factor
    made = services.create_user(username="new", password=PASSWORD, roles=["auditor"], actor=chief)
    assert User.objects.get(pk=made.pk).needs_second_factor
    second_factor.set_role("auditor", asks=False, actor=chief)
    assert not User.objects.get(pk=made.pk).needs_second_factor


def test_a_token_of_who_has_not_set_it_up_is_refused(mei, valkey):
    text = make_token(mei, "fleet:read")
    ask_of("operator")
    answer = Bearer(text).get("/api/v1/users/me/")
    assert answer.status_code == 401 and "asks for a second factor" in answer.json()["detail"]
    set_up(mei)
    assert Bearer(text).get("/api/v1/users/me/").json()["has_second_factor"] is True


def test_an_administrator_says_which_roles_ask_on_the_page(client, roles):
    chief = make_user("chief", role="administrator", password=PASSWORD)
    client.force_login(chief)
    own = client.post("/settings/identity/roles/", {"second_factor": ["administrator"]})
    assert own.status_code == 409 and "set up your own second factor first" in own.content.decode()
    assert client.post("/settings/identity/roles/", {"second_factor": ["operator"]}).status_code == 302
    page = client.get("/settings/identity/").content.decode()
    assert 'value="operator" checked' in page and 'value="auditor" checked' not in page
    event = AuditEvent.objects.get(action="identity.roles.set")
    assert event.details["after"] == {"asks_for_second_factor": True} and event.target_name == "operator"


def test_ones_own_cannot_be_removed_while_a_role_asks(client, mei):
    phone, _ = set_up(mei)
    ask_of("operator")
    log_in(client, phone.code())
    answer = client.post("/settings/log-in/remove/", {"password": PASSWORD, "code": phone.code(1)})
    assert answer.status_code == 409 and SecondFactor.objects.exists()


# --- Tokens, on the page ---------------------------------------------------------------------------------------------


def test_a_token_is_made_on_the_page_and_shown_once(client, mei):
    log_in(client)
    page = client.get("/settings/tokens/new/").content.decode()
    assert "sessions:open" in page and "audit:read" not in page  # those that one's roles allow
    form = {"name": "nightly", "scopes": ["fleet:read"], "days": "7", "networks": "10.0.0.0/8, 192.0.2.7"}
    page = client.post("/settings/tokens/new/", form).content.decode()
    text = re.search(r"fo_[0-9A-Za-z]{10}_[0-9A-Za-z]{43}", page)[0]
    token = ApiToken.objects.get()
    assert token.networks == ["10.0.0.0/8", "192.0.2.7/32"] and token.name == "nightly"
    page = client.get("/settings/tokens/").content.decode()
    assert "nightly" in page and text not in page and token.prefix in page
    assert client.post(f"/settings/tokens/{token.pk}/revoke/")["Location"] == "/settings/tokens/"
    assert "Revoked" in client.get("/settings/tokens/").content.decode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "Say what it is for."),
        ({"scopes": []}, "Choose at least one scope."),
        ({"days": "5000"}, "not one of the available choices"),
        ({"networks": "here"}, "is no network"),
    ],
)
def test_a_token_that_cannot_be_is_told_on_the_page(client, mei, change, words):
    log_in(client)
    form = {"name": "nightly", "scopes": ["fleet:read"], "days": "7", "networks": ""} | change
    answer = client.post("/settings/tokens/new/", form)
    assert answer.status_code == 400 and words in answer.content.decode()
    assert not ApiToken.objects.exists()


def test_a_scope_beyond_ones_roles_is_denied_on_the_page_and_audited_once(client, mei):
    log_in(client)
    form = {"name": "x", "scopes": ["audit:read"], "days": "7"}
    answer = client.post("/settings/tokens/new/", form)
    assert answer.status_code == 403 and "never exceeds its owner" in answer.content.decode()
    assert AuditEvent.objects.filter(outcome="denied").count() == 1


def test_making_a_token_asks_for_a_proof_first(client, mei):
    client.force_login(mei)  # a log-in of which nobody knows when the password was given
    assert client.get("/settings/tokens/new/")["Location"].startswith("/confirm/?next=%2Fsettings%2Ftokens%2Fnew%2F")
    form = {"name": "x", "scopes": ["fleet:read"], "days": "7"}
    assert client.post("/settings/tokens/new/", form)["Location"].startswith("/confirm/")
    assert not ApiToken.objects.exists()


def test_an_administrator_sees_and_revokes_everybodys(client, mei, django_assert_num_queries):
    for _ in range(7):
        make_token(mei, "fleet:read")
    client.force_login(make_user("chief", role="administrator"))
    client.get("/settings/tokens/all/")
    # browser session, user, permissions twice, tokens counted twice and read, and the sidebar's three counts
    with django_assert_num_queries(13):
        page = client.get("/settings/tokens/all/?user=mei").content.decode()
    assert page.count("Revoke pipeline of mei") == 7
    token = ApiToken.objects.first()
    answer = client.post(f"/settings/tokens/{token.pk}/revoke/", {"next": "/settings/tokens/all/"})
    assert answer["Location"] == "/settings/tokens/all/" and ApiToken.objects.usable().count() == 6
    assert AuditEvent.objects.get(action="identity.token.revoke").details["owner"] == "mei"


def test_nobody_sees_or_revokes_anothers(client, mei):
    other = make_user("other", role="operator")
    make_token(other, "fleet:read")
    client.force_login(mei)
    assert "pipeline" not in client.get("/settings/tokens/").content.decode()
    assert client.get("/settings/tokens/all/").status_code == 403
    assert client.post(f"/settings/tokens/{ApiToken.objects.get().pk}/revoke/").status_code == 404
    assert ApiToken.objects.usable().count() == 1


# --- Logging in over the API -----------------------------------------------------------------------------------------


def api_login(client, **fields):
    body = {"username": "mei", "password": PASSWORD} | fields
    return client.post("/api/v1/login/", body, content_type="application/json")


def test_a_program_logs_in_with_name_and_password(client, mei, valkey):
    answer = api_login(client, scopes=["fleet:read"], days=2, name="laptop")
    body = answer.json()
    assert answer.status_code == 201 and body["scopes"] == ["fleet:read"] and body["username"] == "mei"
    assert Bearer(body["token"]).get("/api/v1/users/me/").json()["username"] == "mei"
    assert "sessionid" not in client.cookies and "fleetops_session" not in client.cookies
    left = datetime.fromisoformat(body["expires_at"]) - now()
    assert timedelta(days=1.9) < left <= timedelta(days=2)
    assert AuditEvent.objects.get(action="identity.token.create").details["how"] == "log-in"


def test_without_scopes_it_has_all_that_the_roles_allow(client, mei, valkey):
    assert "sessions:open" in api_login(client).json()["scopes"]
    assert "audit:read" not in api_login(client).json()["scopes"]


def test_a_program_is_asked_for_the_code_too(client, mei, valkey):
    phone, codes = set_up(mei)
    answer = api_login(client)
    assert answer.status_code == 401 and answer.json()["code_needed"] is True
    code = phone.code()
    assert api_login(client, code=code).status_code == 201
    again = api_login(client, code=code)
    assert again.status_code == 401 and again.json()["code_needed"] is True
    assert api_login(client, code=codes[0]).status_code == 201
    assert ApiToken.objects.count() == 2


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"password": "nope"}, 401, "do not match"),
        ({"username": "nobody"}, 401, "do not match"),
        ({"scopes": ["audit:read"]}, 403, "never exceeds its owner"),
        ({"scopes": ["root:all"]}, 400, "not a valid choice"),
        ({"days": 0}, 400, "greater than or equal to 1"),
        ({"days": 4000}, 409, "at most 365 days"),
        ({"password": ""}, 400, "may not be blank"),
    ],
)
def test_a_log_in_that_is_refused_makes_no_token(client, mei, valkey, fields, status, words):
    answer = api_login(client, **fields)
    assert answer.status_code == status and words in answer.json()["detail"]
    assert not ApiToken.objects.exists()


def test_too_many_wrong_passwords_lock_programs_as_they_lock_people(client, mei, valkey, settings):
    settings.AXES_FAILURE_LIMIT = 3
    answers = [api_login(client, password="nope") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [401, 401, 429]
    assert "locked for your address" in answers[2].json()["detail"]
    assert api_login(client).status_code == 429
    assert client.post("/login/", {"username": "mei", "password": PASSWORD}).status_code == 429


def test_a_right_password_forgets_the_wrong_ones(client, mei, valkey, settings):
    settings.AXES_FAILURE_LIMIT = 3
    for _ in range(3):
        assert api_login(client, password="nope").status_code == 401
        assert api_login(client).status_code == 201


def test_log_ins_from_one_address_are_counted(client, mei, valkey, settings):
    settings.API_LOGINS_PER_MINUTE = 3
    statuses = [api_login(client, REMOTE_ADDR="10.7.7.7").status_code for _ in range(9)]
    assert 429 in statuses


def test_who_has_to_set_it_up_first_is_told_so(client, mei, valkey):
    ask_of("operator")
    answer = api_login(client)
    assert answer.status_code == 409 and "in a browser once" in answer.json()["detail"]
    assert not ApiToken.objects.exists()
