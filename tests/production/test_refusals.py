"""No process of production starts on what is not fit for it; tests/web/test_settings.py has each refusal's words."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fleetops import secretfiles
from tests.support.production import ROOT, read_compose

SERVICES = read_compose({"FLEETOPS_HOST": "fleetops.example.com", "FLEETOPS_NETWORK": "127.63.91"})["services"]
LEFT_OUT = ""


@pytest.fixture(scope="module")
def secrets(tmp_path_factory) -> Path:
    """The files of production, all this user's."""
    directory = tmp_path_factory.mktemp("secrets")
    secretfiles.make(directory, "fleetops.example.com")
    for path in directory.iterdir():
        os.chown(path, os.getuid(), os.getgid())
    return directory


def start(name: str, secrets: Path, home: Path, **changed: str) -> tuple[int, str]:
    """Run a service's own command with its own environment, but for `changed`; its exit code and its last words."""
    environment = {"PATH": os.environ["PATH"]} | SERVICES[name]["environment"] | {"FLEETOPS_HOME": str(home)}
    environment = {key: value.replace("/run/secrets", str(secrets)) for key, value in environment.items()} | changed
    environment = {key: value for key, value in environment.items() if value != LEFT_OUT}
    _, *words = SERVICES[name]["command"]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("web-1", {"FLEETOPS_DATABASE_URL": "sqlite:////tmp/x.sqlite3"}, "production does not run on SQLite"),
        ("terminal-1", {"FLEETOPS_TRUSTED_PROXIES": LEFT_OUT}, "Set FLEETOPS_TRUSTED_PROXIES"),
        ("worker", {"FLEETOPS_SECRET_KEY_FILE": LEFT_OUT}, "Set FLEETOPS_SECRET_KEY"),
        ("beat", {"FLEETOPS_ALLOWED_HOSTS": LEFT_OUT}, "Set FLEETOPS_ALLOWED_HOSTS"),
        ("migrate", {"FLEETOPS_DEBUG": "1"}, "FLEETOPS_DEBUG shows settings"),
        ("backup", {"FLEETOPS_MASTER_KEY_FILE": LEFT_OUT}, "Set FLEETOPS_MASTER_KEY_FILE"),
    ],
)
def test_a_process_does_not_start(name, changed, words, secrets, tmp_path):
    if "FLEETOPS_DATABASE_URL" in changed:
        changed = changed | {"FLEETOPS_DATABASE_URL_FILE": LEFT_OUT}
    code, said = start(name, secrets, tmp_path / "home", **changed)
    assert code != 0 and words in said
    assert urlsplit(secrets.joinpath("database_url").read_text().strip()).password not in said
    assert not (tmp_path / "home").exists()  # and has made nothing up


def test_keys_that_an_embedded_start_has_made_in_this_home_are_not_taken(secrets, tmp_path):
    environment = {"PATH": os.environ["PATH"], "FLEETOPS_HOME": str(tmp_path)}
    embedded = [sys.executable, "-c", "import fleetops.settings"]
    subprocess.run(embedded, cwd=ROOT, env=environment, check=True)
    assert (tmp_path / "secrets" / "django.key").exists()
    code, said = start("migrate", secrets, tmp_path, FLEETOPS_SECRET_KEY_FILE=LEFT_OUT)
    assert code != 0 and "Set FLEETOPS_SECRET_KEY" in said


def test_the_endpoint_of_the_file_starts_no_demo_nodes_and_would_not():
    spec = SERVICES["endpoint"]
    assert spec["environment"]["FLEETOPS_PROFILE"] == "production" and "--nodes=none" in spec["command"]
    words = [word for word in spec["command"][1:] if not word.startswith("--nodes")]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]} | spec["environment"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (
        1,
        "Demo nodes are not for production: start the endpoint with --nodes none.\n",
    )
