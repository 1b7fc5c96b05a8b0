"""A home of its own for each run, and the real parts that tests share."""

import contextlib
import gc
import itertools
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

# Before Django reads its settings: state, secrets and sockets of this run lie in a directory that ends with it.
# A worker of xdist makes its own in that of the run, which it finds in the environment.
_RUN = os.environ["FLEETOPS_HOME"] if "PYTEST_XDIST_WORKER" in os.environ else None
_HOME = Path(tempfile.mkdtemp(prefix="fo-test-", dir=_RUN))
os.environ["DJANGO_SETTINGS_MODULE"] = "fleetops.settings"
os.environ["FLEETOPS_HOME"] = str(_HOME)
os.environ["FLEETOPS_VALKEY_URL"] = f"unix://{_HOME}/run/valkey.sock"
os.environ["AWS_SHARED_CREDENTIALS_FILE"] = str(_HOME / "aws" / "credentials")
os.environ["AWS_CONFIG_FILE"] = str(_HOME / "aws" / "config")
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"):
    os.environ.pop(name, None)

# Hundreds of processes of the product start: each would compile all of it where no byte code may be kept.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Started in a shell's background, the run would ignore what Ctrl-C sends, and so would every shell that a test begins.
for number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

from hypothesis import settings as hypothesis_settings  # noqa: E402

# No test asserts on wall time: on a loaded machine an example takes what it takes.
hypothesis_settings.register_profile("house", deadline=None)
hypothesis_settings.load_profile("house")

import django  # noqa: E402  (after the environment stands)

django.setup()  # conftest files below this one name models

import fleetops.celery  # noqa: E402, F401  (as fleetops.asgi does: tasks go to this run's Valkey)
from tests.support.migrated import migrated_sqlite  # noqa: E402
from tests.support.valkey import running_valkey  # noqa: E402


def pytest_unconfigure(config):
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes():
    """Before the workers start: settings named in their environment would be read before each has a home of its own."""
    del os.environ["DJANGO_SETTINGS_MODULE"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from tests.support.workers import Sharing

    return Sharing(config, log)


def pytest_collection_finish():
    """All tests stay until the run ends: they need not be looked through for garbage. See fleetops/__init__.py."""
    gc.freeze()


@pytest.fixture(scope="session")
def home() -> Path:
    """This run's FLEETOPS_HOME."""
    return _HOME


@pytest.fixture(scope="session")
def django_db_modify_db_settings(home, django_db_keepdb, django_db_modify_db_settings_parallel_suffix):
    """SQLite in a file and not in memory: other processes and threads of a test see the same rows.

    Each worker has a home and so a file of its own; elsewhere the suffix gives it a database of its own.
    """
    from django.conf import settings
    from django.db import connections

    if django_db_keepdb:
        settings.DATABASES["default"].setdefault("TEST", {})["NAME"] = str(home / "test.sqlite3")
        migrated_sqlite(home / "test.sqlite3")
    yield
    connections.close_all()


@pytest.fixture(scope="session")
def django_db_keepdb():
    """SQLite's file is a copy of a migrated one, to be kept as it is; it goes with the home that it lies in."""
    from django.conf import settings

    return settings.DATABASES["default"]["ENGINE"].endswith("sqlite3")


@pytest.fixture(scope="session", autouse=True)
def plain_static_files(home):
    """Pages name their style sheets without a manifest: tests of pages need no built front end."""
    from django.test import override_settings

    from fleetops.settings import STORAGES

    (home / "static").mkdir(exist_ok=True)  # WhiteNoise warns of one that is not there
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    quick = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # PBKDF2 takes 0.3 s for each user of a test
    with override_settings(STORAGES=STORAGES | {"staticfiles": plain}, PASSWORD_HASHERS=quick):
        yield


@pytest.fixture(scope="session", autouse=True)
def tests_may_empty_the_audit_log():
    """The audit tables refuse DELETE and TRUNCATE, with which transactional tests clean up behind them."""
    from django.db.backends.base.operations import BaseDatabaseOperations

    from fleetops.audit import append_only

    flush = BaseDatabaseOperations.execute_sql_flush

    def flush_with_triggers_lifted(operations, statements):
        with append_only.lifted(operations.connection):
            flush(operations, statements)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseDatabaseOperations, "execute_sql_flush", flush_with_triggers_lifted)
        yield


@pytest.fixture(scope="session", autouse=True)
def permissions_outlast_tests():
    """Transactional tests leave permissions and content types: to make them again takes longer than most tests."""
    from django.core.management.commands import flush

    made_by_migrating = {"django_content_type", "auth_permission"}

    def sql_flush(style, connection, **options):
        tables = set(connection.introspection.django_table_names(only_existing=True, include_views=False))
        return connection.ops.sql_flush(style, sorted(tables - made_by_migrating), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flush, "sql_flush", sql_flush)
        patch.setattr(flush, "emit_post_migrate_signal", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def valkey(home):
    """A real Valkey on this run's socket."""
    with running_valkey(home / "run") as socket:
        yield socket


def _commits(item) -> bool:
    mark = item.get_closest_marker("django_db")
    return "transactional_db" in item.fixturenames or bool(mark and (mark.args or mark.kwargs.get("transaction")))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """In each file, what asks for no roles comes first: there are none yet. See `kept_roles`."""
    items[:] = [
        item
        for _, group in itertools.groupby(items, key=lambda item: item.path)
        for item in sorted(group, key=lambda item: "roles" in item.fixturenames)
    ]


@pytest.fixture(scope="module")
def kept_roles(request, django_db_setup, django_db_blocker):
    """Whether the five roles stay for all tests of the module, in a transaction around them: not if one commits."""
    from django.db import transaction

    from tests.support.roles import make_roles

    if any(_commits(item) for item in request.session.items if item.path == request.path):
        yield False
        return
    with contextlib.ExitStack() as around:
        with django_db_blocker.unblock():
            around.enter_context(transaction.atomic())
            make_roles()
        yield True
        with django_db_blocker.unblock():
            transaction.set_rollback(True)
            around.close()


@pytest.fixture
def roles(kept_roles, db):
    """The five roles, as `manage.py sync_roles` makes them."""
    from fleetops.clock import uuid7
    from fleetops.policy import services
    from fleetops.policy.models import PolicyState
    from tests.support.roles import make_roles

    if kept_roles:  # no rule has been read or used before the test
        PolicyState.objects.update(stamp=uuid7())
        services._used.clear()
    else:
        make_roles()


@pytest.fixture(scope="module")
def module_roles(django_db_setup, django_db_blocker):
    """The five roles, made once for a module, with whatever rows its other fixtures of that scope make after them.

    A transaction around the whole module holds them; each test has its own inside of it, as with `db`. Not for modules
    with `transactional_db`, nor for tests in which another process or thread writes: they would wait for it to end.
    """
    from django.db import transaction

    from tests.support.roles import make_roles

    with django_db_blocker.unblock(), transaction.atomic():
        make_roles()
        yield
        transaction.set_rollback(True)
