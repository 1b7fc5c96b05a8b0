"""The vault: what it seals opens where it was sealed and nowhere else; its keys change while the product runs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import connection, models

from fleetops import vault
from fleetops.audit.models import AuditEvent
from fleetops.errors import UserError
from fleetops.identity.models import SecondFactor, User

ROOT = Path(__file__).resolve().parent.parent
HERE = "room_table.sealed:1"


@pytest.fixture
def ring(tmp_path, settings):
    """A key ring of this test's own; a function that puts a new key in front."""
    path = tmp_path / "keys" / "master.key"
    vault.add_key(path)
    settings.MASTER_KEY_FILE = path
    return path


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


# --- Values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [b"", b"\0\xff" * 40, "pässword".encode(), b"x" * 100_000])
def test_what_was_sealed_opens_again(ring, secret):
    assert vault.open_sealed(vault.seal(secret, context=HERE), context=HERE) == secret


def test_text_is_sealed_as_utf8(ring):
    assert vault.open_sealed(vault.seal("Zürich", context=HERE), context=HERE).decode() == "Zürich"


def test_a_value_shows_nothing_but_its_key_and_is_never_the_same_twice(ring):
    one, other = vault.seal("hunter22", context=HERE), vault.seal("hunter22", context=HERE)
    assert one != other and one.rpartition(".")[2] != other.rpartition(".")[2]
    assert "hunter22" not in one and vault.key_id_of(one) == ids(ring)[0]


def test_a_value_does_not_open_in_another_row_or_column(ring):
    sealed = vault.seal("mine", context="users.totp:1")
    for elsewhere in ("users.totp:2", "users.other:1", "users.totp:1 ", ""):
        with pytest.raises(vault.Tampered, match="was changed, or was sealed for another place"):
            vault.open_sealed(sealed, context=elsewhere)


def test_a_changed_value_does_not_open_wherever_it_was_changed(ring):
    sealed = vault.seal("secret", context=HERE)
    start = sealed.index(".", 3) + 1
    for position in range(start, len(sealed) - 1):  # the last letter of a part bears bits that base64 drops
        if "." in (sealed[position], sealed[position + 1]):
            continue
        changed = "A" if sealed[position] != "A" else "B"
        with pytest.raises(vault.Tampered):
            vault.open_sealed(sealed[:position] + changed + sealed[position + 1 :], context=HERE)


def test_halves_of_two_values_make_no_third(ring):
    one, other = vault.seal("one", context=HERE).split("."), vault.seal("other", context=HERE).split(".")
    with pytest.raises(vault.Tampered):
        vault.open_sealed(".".join([*one[:3], other[3]]), context=HERE)


@pytest.mark.parametrize("value", ["", "plain text", "v1.key", "v2.k.AAAA.AAAA", "v1.../../etc.AAAA.AAAA"])
def test_what_was_never_sealed_is_told_apart(ring, value):
    with pytest.raises(vault.Tampered, match="is not a value of the vault"):
        vault.open_sealed(value, context=HERE)


def test_a_value_whose_key_is_gone_names_the_key_and_the_way_out(ring):
    sealed = vault.seal("secret", context=HERE)
    lost = ids(ring)[0]
    ring.unlink()
    vault.add_key(ring)
    with pytest.raises(vault.UnknownKey) as caught:
        vault.open_sealed(sealed, context=HERE)
    assert lost in str(caught.value) and "Put that key's line back" in str(caught.value)


def test_no_error_holds_the_secret_or_a_key(ring):
    sealed = vault.seal("hunter22", context=HERE)
    with pytest.raises(vault.Tampered) as caught:
        vault.open_sealed(sealed, context="elsewhere")
    key = json.loads(ring.read_text())["key"]
    assert "hunter22" not in str(caught.value) and key not in str(caught.value) and caught.value.__cause__ is None


def test_a_row_has_its_key_before_it_gets_a_secret():
    user = User(username="new")
    user.pk = None
    with pytest.raises(ValueError, match="no primary key yet"):
        vault.context_of(user, "password")
    factor = SecondFactor(user=user)
    assert vault.context_of(factor, "sealed_secret") == f"identity_secondfactor.sealed_secret:{factor.pk}"


# --- The key ring ----------------------------------------------------------------------------------------------------


def test_a_new_key_seals_at_once_and_the_old_one_goes_on_opening(ring):
    before = vault.seal("old", context=HERE)
    new = vault.add_key(ring).active.id
    after = vault.seal("new", context=HERE)
    assert vault.key_id_of(after) == new == ids(ring)[0] and ids(ring)[1] == vault.key_id_of(before)
    assert vault.open_sealed(before, context=HERE) == b"old"
    fresh = vault.reseal(before, context=HERE)
    assert vault.key_id_of(fresh) == new and vault.open_sealed(fresh, context=HERE) == b"old"
    assert fresh.rpartition(".")[2] == before.rpartition(".")[2]  # the secret itself was not opened


def test_the_ring_is_for_its_owner_alone(ring):
    assert ring.stat().st_mode & 0o777 == 0o600
    vault.add_key(ring)
    assert ring.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in ring.parent.iterdir()] == ["master.key"]
    ring.chmod(0o644)
    with pytest.raises(ImproperlyConfigured, match=f"chmod 600 {ring}"):
        vault.key_ring()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no key; make one"),
        ("not json\n", "Line 1 of the key ring"),
        ('{"id": "a", "key": "AAAA"}\n', "32 bytes in base64"),
        ('{"id": "a/b", "key": "%s"}\n' % ("A" * 43 + "="), "Line 1 of the key ring"),
        ('{"id": "a", "key": "%s"}\n' % ("A" * 43 + "=") * 2, "names a key twice"),
    ],
)
def test_a_ring_that_cannot_be_read_says_why_and_shows_no_key(ring, text, words):
    ring.write_text(text)
    with pytest.raises(ImproperlyConfigured, match=words) as caught:
        vault.key_ring()
    assert "AAAA" not in str(caught.value)


def test_of_processes_that_start_at_once_one_makes_the_ring(tmp_path):
    path = tmp_path / "secrets" / "master.key"
    code = (
        "from pathlib import Path; from fleetops import vault; "
        f"vault.required_key_ring(Path({str(path)!r}), may_make=True)"
    )
    starts = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(4)]
    assert [start.wait(60) for start in starts] == [0] * 4
    assert len(ids(path)) == 1


def test_a_ring_that_is_mounted_read_only_says_where_to_add_the_key(ring, monkeypatch):
    def busy(*_):  # as the kernel answers for a file that is a mount of its own
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(vault.os, "replace", busy)
    with pytest.raises(UserError, match="vault_rotate --keep-key"):
        vault.add_key(ring)
    assert len(ids(ring)) == 1


# --- Rotation --------------------------------------------------------------------------------------------------------


def factors(count: int) -> list[SecondFactor]:
    users = User.objects.bulk_create([User(username=f"person-{number}") for number in range(count)])
    rows = [SecondFactor(user=user) for user in users]
    for number, row in enumerate(rows):
        row.sealed_secret = vault.seal(f"secret {number}", context=vault.context_of(row, "sealed_secret"))
    return SecondFactor.objects.bulk_create(rows)


def opened() -> set[bytes]:
    return {
        vault.open_sealed(row.sealed_secret, context=vault.context_of(row, "sealed_secret"))
        for row in SecondFactor.objects.all()
    }


def database_url() -> str:
    """This run's database, for a process of its own."""
    given = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{given['NAME']}"
    return f"postgresql://{given['USER']}:{given['PASSWORD']}@{given['HOST']}:{given['PORT']}/{given['NAME']}"


def keys_in_use() -> set[str]:
    return {vault.key_id_of(value) for value in SecondFactor.objects.values_list("sealed_secret", flat=True)}


@pytest.mark.django_db
def test_a_rotation_wraps_every_secret_under_a_new_key_and_is_recorded(ring, capsys, monkeypatch):
    monkeypatch.setattr(vault, "BATCH", 3)
    old = ids(ring)[0]
    factors(10)
    call_command("vault_rotate", "--drop-unused")
    new = ids(ring)[0]
    assert new != old and ids(ring) == [new] and keys_in_use() == {new}
    assert opened() == {f"secret {number}".encode() for number in range(10)}
    event = AuditEvent.objects.get(action="identity.vault.rotate")
    assert event.details == {"master": new, "wrapped": 10, "failed": 0, "dropped": [old]}
    assert f"all secrets are under key {new}" in capsys.readouterr().out


@pytest.mark.django_db
def test_a_key_that_still_seals_something_is_not_dropped(ring, capsys):
    factors(1)
    first = ids(ring)[0]
    broken, whole = factors_named("broken", "whole")
    SecondFactor.objects.filter(pk=broken.pk).update(sealed_secret=whole.sealed_secret)
    with pytest.raises(CommandError, match="1 of 3 secrets do not open"):
        call_command("vault_rotate", "--drop-unused")
    assert ids(ring)[1:] == [first]
    assert f"identity_secondfactor.sealed_secret:{broken.pk} does not open" in capsys.readouterr().err


def factors_named(*names: str) -> list[SecondFactor]:
    rows = []
    for name in names:
        row = SecondFactor(user=User.objects.create(username=name))
        row.sealed_secret = vault.seal(name, context=vault.context_of(row, "sealed_secret"))
        row.save()
        rows.append(row)
    return rows


@pytest.mark.django_db
def test_with_keep_key_the_first_key_of_the_ring_is_taken_as_it_is(ring):
    factors(2)
    given = vault.add_key(ring).active.id
    call_command("vault_rotate", "--keep-key", verbosity=0)
    assert ids(ring)[0] == given and len(ids(ring)) == 2 and keys_in_use() == {given}


@pytest.mark.django_db
def test_a_secret_that_somebody_enters_meanwhile_stands(ring, monkeypatch):
    (row,) = factors(1)
    vault.add_key(ring)
    context = vault.context_of(row, "sealed_secret")
    real = vault.reseal

    def entered_meanwhile(value, *, context):
        SecondFactor.objects.filter(pk=row.pk).update(sealed_secret=vault.seal("newer", context=context))
        return real(value, context=context)

    monkeypatch.setattr(vault, "reseal", entered_meanwhile)
    column = next(each for each in vault.columns() if each.model == SecondFactor._meta.label)
    last, done, failures = vault.reseal_batch(column, None)
    assert (last, done, failures) == (row.pk, 0, [])
    row.refresh_from_db()
    assert vault.open_sealed(row.sealed_secret, context=context) == b"newer"


@pytest.mark.django_db(transaction=True)
def test_a_rotation_that_is_killed_leaves_each_secret_whole_and_the_next_one_ends_it(ring, home):
    count, killed_at = 500, 250
    factors(count)
    old = ids(ring)[0]
    child = (
        "import os, signal, django; django.setup()\n"
        "from django.core.management import call_command; from fleetops import vault\n"
        "real, calls = vault.reseal, []\n"
        "def killed(value, *, context):\n"
        "    calls.append(1)\n"
        f"    if len(calls) > {killed_at}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(value, context=context)\n"
        "vault.reseal = killed\n"
        "call_command('vault_rotate')\n"
    )
    environment = os.environ | {
        "FLEETOPS_MASTER_KEY_FILE": str(ring),
        "FLEETOPS_DATABASE_URL": database_url(),
    }
    done = subprocess.run([sys.executable, "-c", child], cwd=ROOT, env=environment, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr

    new = ids(ring)[0]
    assert ids(ring) == [new, old] and keys_in_use() == {new, old}  # it got half way
    everything = {f"secret {number}".encode() for number in range(count)}
    assert opened() == everything

    call_command("vault_rotate", "--drop-unused", verbosity=0)
    assert ids(ring) == [new] and keys_in_use() == {new} and opened() == everything
    event = AuditEvent.objects.get(action="identity.vault.rotate")
    assert event.details["wrapped"] == count - vault.BATCH  # it went on, and did not begin again


def test_each_column_of_sealed_values_is_registered():
    named = {
        (model._meta.label, field.name)
        for model in apps.get_models()
        for field in model._meta.get_fields()
        if isinstance(field, models.TextField) and field.name.startswith("sealed_")
    }
    assert named <= {(column.model, column.field) for column in vault.columns()}
    for column in vault.columns():
        assert apps.get_model(column.model)._meta.get_field(column.field)


def test_this_run_has_a_ring_of_its_own(home):
    assert Path(settings.MASTER_KEY_FILE) == home / "secrets" / "master.key"
