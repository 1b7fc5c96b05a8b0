"""Who may do what, and the page on which administrators say so."""

import pytest
from django.contrib.auth.models import Group
from django.core.management import CommandError, call_command

from fleetops.audit.models import AuditEvent
from fleetops.errors import UserError
from fleetops.identity import services
from fleetops.identity.models import User
from fleetops.identity.roles import ROLE_TEXTS, ROLES
from tests.factories import make_user

NEW = {"username": "priya.nair", "password": "a long enough one", "roles": ["viewer", "auditor"], "first_name": "Priya"}
PAGES = ["/settings/identity/", "/settings/identity/new/"]


@pytest.fixture
def admin(client, roles):
    user = make_user("admin", role="administrator")
    client.force_login(user)
    return user


def last(action):
    return AuditEvent.objects.filter(action=action).order_by("-pk").first()


# --- Roles -----------------------------------------------------------------------------------------------------------


def test_each_role_has_exactly_its_permissions(roles):
    for role, wanted in ROLES.items():
        assert make_user(role=role).get_all_permissions() == set(wanted), role
    assert ROLE_TEXTS.keys() == ROLES.keys()


def test_syncing_again_changes_and_records_nothing_and_mends_what_was_changed(roles):
    assert services.sync_roles() == {}
    Group.objects.get(name="operator").permissions.clear()
    changes = services.sync_roles()
    assert list(changes) == ["operator"] and "+sessions_app.open_terminalsession" in changes["operator"]
    assert AuditEvent.objects.filter(action="identity.roles.sync").count() == 2


def test_the_first_administrator_gets_a_password_that_is_printed_once(db, capsys, monkeypatch):
    monkeypatch.delenv("FLEETOPS_ADMIN_PASSWORD", raising=False)
    call_command("make_admin")
    printed = capsys.readouterr().out
    password = printed.split("password: ")[1].strip()
    assert User.objects.get(username="admin").check_password(password)
    assert User.objects.get().has_perm("identity.administer")
    call_command("make_admin")
    assert "nothing was changed" in capsys.readouterr().out
    assert password not in str(list(AuditEvent.objects.values_list("details", flat=True)))


def test_the_first_administrator_takes_the_password_that_is_given_unless_it_is_poor(db, capsys, monkeypatch):
    monkeypatch.setenv("FLEETOPS_ADMIN_PASSWORD", "short")
    with pytest.raises(CommandError, match="FLEETOPS_ADMIN_PASSWORD"):
        call_command("make_admin")
    monkeypatch.setenv("FLEETOPS_ADMIN_PASSWORD", "a long enough one")
    call_command("make_admin", username="root")
    assert User.objects.get(username="root").check_password("a long enough one")
    assert "a long enough one" not in capsys.readouterr().out


# --- The page --------------------------------------------------------------------------------------------------------


def test_the_page_lists_who_may_log_in_and_as_what(client, admin, django_assert_num_queries):
    for number in range(5):
        make_user(f"person{number}", role="operator")
    make_user("nobody")
    # browser session, user, permissions twice, users, their groups, roles that ask, and the sidebar's three counts
    with django_assert_num_queries(13):
        page = client.get("/settings/identity/").content.decode()
    assert "person3" in page and "Operator" in page
    assert "<b>7</b> people may log in" in page and "<b>1</b> has no role" in page


@pytest.mark.parametrize("role", ["viewer", "operator", "patch_owner", "auditor"])
def test_nobody_but_administrators_gets_there(client, roles, role):
    person = make_user("person", role=role)
    client.force_login(person)
    for path in [*PAGES, f"/settings/identity/{person.pk}/"]:
        assert client.get(path).status_code == 403
    for path in ("active", "password"):
        assert client.post(f"/settings/identity/{person.pk}/{path}/").status_code == 403
    assert client.post("/settings/identity/new/", NEW).status_code == 403
    assert AuditEvent.objects.filter(action="web.permission.refuse").count() == 6
    assert not User.objects.filter(username="priya.nair").exists()


def test_an_unknown_user_is_a_404(client, admin):
    assert client.get("/settings/identity/01a21085-40a9-7a8b-a46a-166fa7fec820/").status_code == 404


def test_an_administrator_creates_a_user_with_roles(client, admin):
    assert client.post("/settings/identity/new/", NEW).status_code == 302
    user = User.objects.get(username="priya.nair")
    assert user.check_password(NEW["password"]) and user.has_perm("audit.view_auditevent")
    event = last("identity.user.create")
    assert (event.actor_name, event.target_name, event.details) == (
        "admin",
        "priya.nair",
        {"roles": ["auditor", "viewer"]},
    )


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"username": "admin"}, "already exists"),
        ({"username": ""}, "required"),
        ({"password": "short"}, "at least 12 characters"),
        ({"password": "password1234"}, "too common"),
        ({"roles": ["emperor"]}, "emperor"),
        ({"email": "not an address"}, "valid email"),
    ],
)
def test_bad_input_is_told_and_kept(client, admin, wrong, told):
    answer = client.post("/settings/identity/new/", NEW | wrong)
    assert answer.status_code == 400 and told in answer.content.decode()
    assert 'value="Priya"' in answer.content.decode() and NEW["password"] not in answer.content.decode()
    assert User.objects.count() == 1


def test_roles_and_names_are_changed_with_before_and_after(client, admin):
    user = make_user("mei.tanaka", role="viewer")
    path = f"/settings/identity/{user.pk}/"
    assert 'name="roles" value="viewer" checked' in client.get(path).content.decode()
    fields = {"first_name": "Mei", "last_name": "", "email": "", "roles": ["operator"]}
    assert client.post(path, fields)["Location"] == "/settings/identity/"
    event = last("identity.user.update")
    assert event.details["before"] == {"first_name": "", "roles": ["viewer"]}
    assert event.details["after"] == {"first_name": "Mei", "roles": ["operator"]}
    assert User.objects.get(pk=user.pk).has_perm("sessions_app.open_terminalsession")
    client.post(path, fields)
    assert AuditEvent.objects.filter(action="identity.user.update").count() == 1  # nothing changed, nothing recorded


def test_a_deactivated_user_is_turned_away_at_the_next_request(client, admin):
    from django.test import Client

    user, theirs = make_user("mei.tanaka", role="viewer"), Client()
    theirs.force_login(user)
    assert theirs.get("/fleet/").status_code == 200
    assert client.post(f"/settings/identity/{user.pk}/active/", {"active": "0"}).status_code == 302
    assert theirs.get("/fleet/").status_code == 302
    assert last("identity.user.deactivate").target_name == "mei.tanaka"
    client.post(f"/settings/identity/{user.pk}/active/", {"active": "1"})
    assert last("identity.user.activate").target_name == "mei.tanaka"
    assert User.objects.get(pk=user.pk).is_active


def test_a_new_password_ends_other_log_ins_and_is_not_in_the_log(client, admin):
    from django.test import Client

    user, theirs = make_user("mei.tanaka", role="viewer"), Client()
    theirs.force_login(user)
    path = f"/settings/identity/{user.pk}/password/"
    assert client.post(path, {"password": "short"}).status_code == 400
    assert client.post(path, {"password": "another long one"}).status_code == 302
    assert theirs.get("/fleet/").status_code == 302
    assert last("identity.user.password").details == {}
    own = client.post(f"/settings/identity/{admin.pk}/password/", {"password": "my own long one"})
    assert own.status_code == 302 and client.get("/settings/identity/").status_code == 200


def test_nobody_shuts_themselves_out_or_leaves_nobody_to_administer(client, admin):
    answer = client.post(f"/settings/identity/{admin.pk}/active/", {"active": "0"})
    assert answer.status_code == 409 and "You cannot deactivate yourself" in answer.content.decode()
    answer = client.post(f"/settings/identity/{admin.pk}/", {"roles": ["viewer"]})
    assert answer.status_code == 409 and "Nobody would be left to administer" in answer.content.decode()
    admin.refresh_from_db()
    assert admin.is_active and admin.has_perm("identity.administer")
    with pytest.raises(UserError, match="Nobody would be left"):
        services.set_active(admin, False, actor=make_user("other"))
