"""What the settings refuse, and how they say so."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import call_command

ROOT = Path(__file__).resolve().parents[2]
LONG = "a secret that is long enough to be one"
PRODUCTION = {
    "FLEETOPS_PROFILE": "production",
    "FLEETOPS_SECRET_KEY": LONG,
    "FLEETOPS_AUDIT_KEY": LONG,
    "FLEETOPS_ALLOWED_HOSTS": "fleetops.example.com",
    "FLEETOPS_DATABASE_URL": "postgresql://fleetops:hidden-word@db/fleetops",
    "FLEETOPS_VALKEY_URL": "redis://valkey:6379",
    "FLEETOPS_TRUSTED_PROXIES": "10.1.2.3",
}


COOKIES = "from django.conf import settings as s; print(s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE, s.DEBUG)"


@pytest.fixture(scope="session")
def master_key(tmp_path_factory):
    """A key ring as an administrator makes it."""
    path = tmp_path_factory.mktemp("vault") / "master.key"
    subprocess.run([sys.executable, "-m", "fleetops.vault", path], cwd=ROOT, check=True)
    return {"FLEETOPS_MASTER_KEY_FILE": str(path)}


def start(home: Path, code: str = COOKIES, **variables: str) -> tuple[int, str]:
    """Run `code` with these variables and no others of ours; exit code and all that was printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEETOPS_")}
    environment |= {"FLEETOPS_HOME": str(home)} | {name: value for name, value in variables.items() if value}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_production_starts_with_what_it_needs_and_sends_cookies_over_tls_alone(tmp_path, master_key):
    assert start(tmp_path, **PRODUCTION, **master_key) == (0, "True True False\n")
    assert list(tmp_path.iterdir()) == []  # it made nothing up


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"FLEETOPS_SECRET_KEY": ""}, "Set FLEETOPS_SECRET_KEY"),
        ({"FLEETOPS_AUDIT_KEY": ""}, "Set FLEETOPS_AUDIT_KEY"),
        ({"FLEETOPS_SECRET_KEY": "short"}, "FLEETOPS_SECRET_KEY holds 5 characters"),
        ({"FLEETOPS_AUDIT_KEY": "", "FLEETOPS_AUDIT_KEY_FILE": os.devnull}, "holds 0 characters"),
        ({"FLEETOPS_ALLOWED_HOSTS": ""}, "Set FLEETOPS_ALLOWED_HOSTS"),
        ({"FLEETOPS_ALLOWED_HOSTS": "fleetops.example.com,*"}, "name the hosts"),
        ({"FLEETOPS_DATABASE_URL": ""}, "production does not run on SQLite"),
        ({"FLEETOPS_DATABASE_URL": "sqlite:////tmp/x.sqlite3"}, "production does not run on SQLite"),
        ({"FLEETOPS_DATABASE_URL": "mysql://fleetops:hidden-word@db/x"}, "FLEETOPS_DATABASE_URL is neither"),
        ({"FLEETOPS_VALKEY_URL": ""}, "Set FLEETOPS_VALKEY_URL"),
        ({"FLEETOPS_SESSION_IDLE_MINUTES": "soon"}, "is not a number; unset it to use 20"),
        ({"FLEETOPS_SESSION_IDLE_MINUTES": "nan"}, "FLEETOPS_SESSION_IDLE_MINUTES=nan is outside 0.02 to 60"),
        ({"FLEETOPS_SESSION_LONGEST_MINUTES": "2000"}, "is outside 0.02 to 1440"),
        (
            {"FLEETOPS_DATABASE_GONE_SECONDS": "2", "FLEETOPS_DATABASE_HOLD_SECONDS": "3"},
            "FLEETOPS_DATABASE_GONE_SECONDS is less",
        ),
        ({"FLEETOPS_MASTER_KEY_FILE": ""}, "Set FLEETOPS_MASTER_KEY_FILE to a key ring"),
        ({"FLEETOPS_MASTER_KEY_FILE": "/nowhere/master.key"}, "/nowhere/master.key cannot be read: No such file"),
        ({"FLEETOPS_TRUSTED_PROXIES": ""}, "Set FLEETOPS_TRUSTED_PROXIES to the addresses of the proxy"),
        ({"FLEETOPS_TRUSTED_PROXIES": "10.1.2.3,*"}, "name the proxies"),
        ({"FLEETOPS_TRUSTED_PROXIES": "0.0.0.0/0"}, "name the proxies"),
        ({"FLEETOPS_DEBUG": "1"}, "FLEETOPS_DEBUG shows settings to whoever causes an error"),
        ({"FLEETOPS_CLOCK_FILE": "/tmp/clock.json"}, "FLEETOPS_CLOCK_FILE shifts the clock for tests"),
        ({"FLEETOPS_DATABASE_URL": "", "FLEETOPS_DATABASE_URL_FILE": "/nowhere/url"}, "/nowhere/url cannot be read"),
        ({"FLEETOPS_PROFILE": "Production"}, "is none of embedded, production"),
    ],
)
def test_production_refuses_what_is_not_fit_for_it(tmp_path, master_key, changed, words):
    code, said = start(tmp_path, **(PRODUCTION | master_key | changed))
    assert code == 1 and words in said.splitlines()[-1]
    assert "hidden-word" not in said


def test_production_refuses_a_key_ring_that_others_read_or_that_an_embedded_start_has_made(tmp_path):
    assert start(tmp_path)[0] == 0
    made = tmp_path / "secrets" / "master.key"
    code, said = start(tmp_path, **PRODUCTION, FLEETOPS_MASTER_KEY_FILE=str(made))
    assert code == 1 and "was made by an embedded start" in said.splitlines()[-1]
    subprocess.run([sys.executable, "-m", "fleetops.vault", made], cwd=ROOT, check=True)
    assert start(tmp_path, **PRODUCTION, FLEETOPS_MASTER_KEY_FILE=str(made))[0] == 0
    made.chmod(0o640)
    code, said = start(tmp_path, **PRODUCTION, FLEETOPS_MASTER_KEY_FILE=str(made))
    assert code == 1 and f"chmod 600 {made}" in said.splitlines()[-1]


def test_the_addresses_of_the_stores_may_be_secrets_in_files(tmp_path, master_key):
    files = {}
    for name, value in (("DATABASE", "postgresql://fleetops:word@db/fleet"), ("VALKEY", "redis://:word@valkey:6379")):
        (tmp_path / name).write_text(value + "\n")
        files |= {f"FLEETOPS_{name}_URL": "", f"FLEETOPS_{name}_URL_FILE": str(tmp_path / name)}
    code = "from django.conf import settings as s; print(s.DATABASES['default']['NAME'], s.CELERY_BROKER_URL)"
    said = start(tmp_path, code, **(PRODUCTION | master_key | files))
    assert said == (0, "fleet redis://:word@valkey:6379/0\n")


def test_an_endpoint_in_production_starts_no_demo_nodes(tmp_path):
    command = [sys.executable, "-m", "fleetops.endpoint", "--home", tmp_path / "endpoint"]
    environment = os.environ | {"FLEETOPS_PROFILE": "production"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        "Demo nodes are not for production: start the endpoint with --nodes none.\n",
    )
    assert not (tmp_path / "endpoint").exists()


def test_pages_hand_their_tasks_to_our_broker_in_every_thread(tmp_path):
    (tmp_path / "static").mkdir()  # as prepare makes it
    code = (
        "import fleetops.asgi, threading; from fleetops.inventory.tasks import refresh_region as task; "
        "look = threading.Thread(target=lambda: print(task.app.conf.broker_url)); look.start(); look.join()"
    )
    assert start(tmp_path, code, FLEETOPS_VALKEY_URL="redis://valkey:6379") == (0, "redis://valkey:6379/0\n")


def test_what_serves_no_page_loads_none(tmp_path):
    """Terminal, worker and beat start in half the time without the API and its schema."""
    code = (
        "import sys; from fleetops.asgi import terminal; from fleetops.celery import app; "
        "app.loader.import_default_modules(); app.tasks['sessions_app.tasks.tidy']; "
        "print({'fleetops.urls', 'rest_framework', 'drf_spectacular.openapi', 'whitenoise'} & set(sys.modules))"
    )
    assert start(tmp_path, code) == (0, "set()\n")


def test_the_checks_that_workers_leave_out_find_nothing():
    call_command("check", fail_level="WARNING")


def test_the_embedded_default_makes_its_secrets_for_itself_alone(tmp_path):
    assert start(tmp_path) == (0, "False False False\n")
    keys = sorted((tmp_path / "secrets").iterdir())
    assert [key.name for key in keys] == ["audit.key", "django.key", "master.key"]
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    assert len({key.read_text() for key in keys}) == 3 and all(len(key.read_text()) > 60 for key in keys)


def test_the_budget_of_aws_calls_has_a_database_of_its_own_and_can_be_left_out(tmp_path):
    code = (
        "import django; django.setup(); from fleetops.aws import governor as g; "
        "print(g._book and g._book.client.connection_pool.connection_kwargs['db'], g.Bucket('1', 'r', 'ssm:X').budget)"
    )
    assert start(tmp_path, code) == (0, "3 Budget(start=5, ceiling=20)\n")
    less = {"FLEETOPS_AWS_CALLS_PER_SECOND": "30", "FLEETOPS_VALKEY_URL": "redis://valkey:6379"}
    assert start(tmp_path, code, **less) == (0, "3 Budget(start=30.0, ceiling=30.0)\n")
    assert start(tmp_path, code, FLEETOPS_AWS_BUDGET="off") == (0, "None Budget(start=5, ceiling=20)\n")


def test_what_is_loaded_stays_and_what_comes_is_looked_through_for_garbage():
    """This process has loaded all that a process of ours does: see fleetops/__init__.py."""
    assert gc.isenabled() and gc.get_threshold() == (10_000, 10, 10)
    assert gc.get_freeze_count() > 50_000
