"""docker-compose.yml and the Dockerfile, read: what every service of production has, and what none may have."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fleetops import secretfiles
from tests.support import production
from tests.support.production import COMPOSE_FILE, ROOT, interpolate, read_compose, seconds, secrets_of, targets

COMPOSE = read_compose({"FLEETOPS_HOST": "fleetops.example.com"})
SERVICES = COMPOSE["services"]
ONE_SHOT = {"migrate", "secrets"}
TARGETS = targets(COMPOSE)
OURS = sorted(name for name, spec in SERVICES.items() if spec["image"] in TARGETS)


def test_only_what_the_products_lock_names_is_imported(tmp_path):
    """The image has production.txt; the machine of the tests has more."""

    def names(lock: str) -> set[str]:
        found = re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / lock).read_text(), re.MULTILINE)
        return {re.sub(r"[-_.]+", "-", name).lower() for name in found}

    code = """
import importlib, importlib.abc, importlib.metadata, re, sys
hidden = set(sys.argv[1].split(","))
plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()
owners = importlib.metadata.packages_distributions().items()
tops = {top for top, names in owners if {plain(name) for name in names} <= hidden}
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in tops:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import django
django.setup()
for module in sys.argv[2:]:
    importlib.import_module(module)
print(len(tops))
"""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("fleetops", "sessions_app", "patching", "statemgr")
        for path in sorted((ROOT / package).rglob("*.py"))
        # These are the endpoint's, whose image has more; and what runs when it is imported.
        if not {"endpoint", "node", "awsapi", "__main__"} & set(path.with_suffix("").parts)
    ]
    hidden = names("dev.txt") - names("production.txt")
    environment = {"PATH": os.environ["PATH"], "FLEETOPS_HOME": str(tmp_path)}
    environment["DJANGO_SETTINGS_MODULE"] = "fleetops.settings"
    command = [sys.executable, "-c", code, ",".join(hidden), *modules]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(modules) > 150 and int(done.stdout) > 40


def lives(spec: dict) -> bool:
    return spec["restart"] != "no"


def test_the_file_is_as_the_compose_specification_says():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_variables_are_put_in_as_compose_does_it():
    given = {"NAME": "x", "EMPTY": ""}
    for text, wanted in {
        "a$NAME/${NAME}": "ax/x",
        "$$NAME $${NAME}": "$NAME ${NAME}",
        "${NONE:-d}${EMPTY:-e}${NAME:-f}": "dex",
        "${NONE:+:${NONE}}${NAME:+:${NAME}}": ":x",
        "${NONE:-${NAME}}.2": "x.2",
    }.items():
        assert interpolate(text, given) == wanted
    with pytest.raises(ValueError, match="put FLEETOPS_HOST"):
        read_compose({})


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_hardened(name):
    spec = SERVICES[name]
    assert spec["read_only"] is True
    assert spec["cap_drop"] == ["ALL"]
    assert spec["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "pid", "ipc", "devices", "userns_mode"} & spec.keys()
    assert not any("docker.sock" in str(volume) for volume in spec.get("volumes", []))
    uid, gid = spec["user"].split(":")
    if name == "secrets":  # it gives files to others, and has neither a network nor a secret
        assert (spec["network_mode"], spec["profiles"]) == ("none", ["setup"])
        assert "secrets" not in spec and "networks" not in spec
    else:
        assert int(uid) > 0 and int(gid) > 0 and "cap_add" not in spec
    assert spec["logging"]["options"]["max-size"]
    # Compose copies an inline config into the container, which it refuses to do with a read-only root.
    assert "configs" not in spec


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_stays_says_whether_it_is_well_and_is_started_again(name):
    spec = SERVICES[name]
    assert lives(spec) == (name not in ONE_SHOT)
    if lives(spec):
        assert spec["restart"] == "unless-stopped"
        assert {"test", "interval", "timeout", "retries", "start_period"} <= spec["healthcheck"].keys()
        assert seconds(spec["stop_grace_period"]) >= 10
        assert spec["deploy"]["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_pinned(name):
    image, _, tag = SERVICES[name]["image"].rpartition(":")
    assert image and re.match(r"\d+\.\d+|17-", tag), SERVICES[name]["image"]
    if name in OURS:
        version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
        assert tag == version and TARGETS[SERVICES[name]["image"]] in stages()
        assert SERVICES[name]["pull_policy"] == "never"  # nobody else's of that name


def test_there_are_two_of_each():
    def number(prefix):
        return sum(
            spec.get("deploy", {}).get("replicas", 1)
            for name, spec in SERVICES.items()
            if re.fullmatch(rf"{prefix}(-\d)?", name)
        )

    assert {name: number(name) for name in ("web", "terminal", "worker", "commandlog", "beat")} == {
        "web": 2,
        "terminal": 2,
        "worker": 2,
        "commandlog": 2,
        "beat": 2,
    }


def test_the_proxy_alone_is_reached_from_outside_and_the_stores_reach_nothing():
    assert [name for name, spec in SERVICES.items() if "ports" in spec] == ["proxy"]
    assert COMPOSE["networks"]["inside"]["internal"] is True
    for name in ("postgres", "valkey"):
        assert SERVICES[name]["networks"] == ["inside"]
    assert list(SERVICES["proxy"]["networks"]) == ["edge"]


def test_addresses_are_given_once_and_lie_below_those_that_docker_gives():
    edge = COMPOSE["networks"]["edge"]["ipam"]["config"][0]
    assert edge == {"subnet": "172.30.91.0/24", "ip_range": "172.30.91.128/25"}
    given = [
        spec["networks"]["edge"]["ipv4_address"]
        for spec in SERVICES.values()
        if isinstance(spec.get("networks"), dict) and "ipv4_address" in (spec["networks"].get("edge") or {})
    ]
    assert len(given) == len(set(given)) == 5
    assert all(address.startswith("172.30.91.") and 1 < int(address.split(".")[-1]) < 128 for address in given)


def test_pages_and_terminals_believe_the_proxy_and_nobody_else():
    proxy = SERVICES["proxy"]["networks"]["edge"]["ipv4_address"]
    for name in ("web-1", "web-2", "terminal-1", "terminal-2"):
        assert f"--forwarded-allow-ips={proxy}" in SERVICES[name]["command"]
        assert SERVICES[name]["environment"]["FLEETOPS_TRUSTED_PROXIES"] == proxy


# --- Secrets ---------------------------------------------------------------------------------------------------------


def test_no_secret_stands_in_the_file_and_each_is_handed_to_who_reads_it():
    secrets = {name: each["file"] for name, each in COMPOSE["secrets"].items()}
    assert secrets == {name: f"secrets/{name}" for name in secretfiles.READERS}
    for name, uid in secretfiles.READERS.items():
        readers = {spec["user"].split(":")[0] for spec in SERVICES.values() if name in secrets_of(spec)}
        assert readers == {str(uid)}, name
    named = set(re.findall(r"/run/secrets/(\w+)", COMPOSE_FILE.read_text()))
    elsewhere = {name for spec in SERVICES.values() for name, at in secrets_of(spec).items() if "/run/" not in at}
    assert named == set(secrets) - elsewhere and elsewhere == {"database_init"}
    for name, spec in SERVICES.items():
        for variable, value in spec.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY|TOKEN|DATABASE_URL|VALKEY_URL", variable):
                assert variable.endswith("_FILE") and value.startswith("/run/secrets/"), (name, variable)
                assert value in secrets_of(spec).values(), (name, variable)


def test_the_secrets_are_made_once_and_each_is_its_readers_alone(tmp_path):
    command = [sys.executable, *SERVICES["secrets"]["command"][1:-2], tmp_path / "secrets", "fleetops.example.com"]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    made = {path.name: path.read_bytes() for path in (tmp_path / "secrets").iterdir()}
    assert made.keys() == secretfiles.READERS.keys()
    assert not any(content.strip() and content.strip() in first.stdout.encode() for content in made.values())
    for name, uid in secretfiles.READERS.items():
        found = (tmp_path / "secrets" / name).stat()
        assert found.st_mode & 0o777 == 0o400
        is_root = Path("/proc/self").stat().st_uid == 0
        assert not is_root or (found.st_uid, found.st_gid) == (uid, uid), name
    (tmp_path / "secrets" / "valkey_users").unlink()  # as a kill in between would leave it
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert second.stdout == "made: valkey_users\n"
    assert {path.name: path.read_bytes() for path in (tmp_path / "secrets").iterdir()} == made


def test_a_certificate_of_ones_own_is_not_taken_apart_from_its_key(tmp_path):
    (tmp_path / "tls_certificate").write_text("bought")
    command = [sys.executable, "-m", "fleetops.secretfiles", tmp_path, "fleetops.example.com"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "tls_certificate has no tls_key beside it" in done.stderr
    assert (tmp_path / "tls_certificate").read_text() == "bought"


# --- Settings --------------------------------------------------------------------------------------------------------


def test_each_setting_in_the_file_is_in_the_manual():
    manual = (ROOT / "docs" / "settings.md").read_text()
    used = set(re.findall(r"\bFLEETOPS_[A-Z_]+\b", COMPOSE_FILE.read_text() + (ROOT / "Dockerfile").read_text()))
    manual_has = set(re.findall(r"`(FLEETOPS_[A-Z_]+)`", manual))
    missing = sorted(name for name in used if not {name, name.removesuffix("_FILE")} & manual_has)
    assert not missing


@pytest.mark.parametrize("name", [name for name in OURS if name not in {"secrets", "endpoint"}])
def test_each_process_of_ours_has_the_settings_of_production(name):
    environment = SERVICES[name]["environment"]
    assert environment["FLEETOPS_PROFILE"] == "production"
    assert environment["FLEETOPS_ALLOWED_HOSTS"] == "fleetops.example.com"
    assert environment["FLEETOPS_PUBLIC_URL"] == "https://fleetops.example.com"
    shared = SERVICES["web-1"]["environment"].keys() - {"UVICORN_HOST"}
    assert shared <= environment.keys()


def test_the_journals_lie_in_one_spool_and_who_stores_recordings_has_them():
    for name in ("terminal-1", "terminal-2", "worker"):
        assert "spool:/var/lib/fleetops/spool" in SERVICES[name]["volumes"]
    assert "recordings:/var/lib/fleetops/recordings" in SERVICES["worker"]["volumes"]
    # The head of the audit chain outlives its writer.
    assert "state:/var/lib/fleetops" in SERVICES["worker"]["volumes"]


def test_everything_of_ours_waits_for_the_migrations():
    for name in OURS:
        if name not in ONE_SHOT | {"endpoint"}:
            waits = SERVICES[name]["depends_on"]
            assert waits["migrate"] == {"condition": "service_completed_successfully"}, name
            assert {waits[store]["condition"] for store in ("postgres", "valkey")} == {"service_healthy"}, name


# --- The Dockerfile --------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str, str]]:
    """(stage, instruction, the rest), in order."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    stage, found = "", []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            stage = rest.split()[2] if word == "FROM" else stage
            found.append((stage, word, " ".join(rest.split())))
    return found


def stages() -> dict[str, str]:
    """By stage, what it is made from."""
    return {stage: rest.split()[0] for stage, word, rest in instructions() if word == "FROM"}


def lineage(stage: str) -> list[str]:
    """A stage and those that it is made from, the lowest first."""
    below = stages().get(stage)
    return [*(lineage(below) if below in stages() else []), stage]


BUILT = sorted(TARGETS.values())


def test_the_image_that_is_built_by_default_is_fleetops():
    assert list(stages())[-1] == "fleetops"
    assert BUILT == ["backup", "endpoint", "fleetops"]
    # Of several services that build one image at once, Docker may let one fail: those that start together name one.
    built = [spec["image"] for spec in SERVICES.values() if "build" in spec and "setup" not in spec.get("profiles", [])]
    assert len(built) == len(set(built))


@pytest.mark.parametrize("target", BUILT)
def test_an_image_ends_without_root_and_has_no_compiler(target):
    steps = [step for stage in lineage(target) for step in instructions() if step[0] == stage]
    users = [rest for _, word, rest in steps if word == "USER"]
    assert users[-1] == SERVICES["web-1"]["user"] == f"{secretfiles.APP}:{secretfiles.APP}"
    said = " ".join(rest for _, word, rest in steps if word in {"RUN", "COPY"})
    assert not re.search(r"\b(gcc|g\+\+|build-essential|npm|make|curl|wget|pip)\b", said)
    assert not any(word in {"ADD", "HEALTHCHECK", "VOLUME"} for _, word, _ in steps)
    assert not re.search(r"(?i)password|token", said)
    assert stages()[lineage(target)[0]].endswith("-slim-trixie")


def test_bases_are_pinned_by_version():
    bases = {base for base in stages().values() if base not in stages()}
    assert bases and all(re.fullmatch(r"\w+:\d+(\.\d+)?-(slim-trixie|trixie-slim)", base) for base in bases), bases


def test_packages_are_installed_by_hash_and_as_wheels():
    installs = [rest for _, word, rest in instructions() if word == "RUN" and "pip" in rest and "install" in rest]
    assert len(installs) == 2
    assert all("--require-hashes" in rest and "--only-binary :all:" in rest for rest in installs)
    assert [rest for _, word, rest in instructions() if "npm" in rest and word == "RUN"] == ["npm ci", "npm run build"]


def test_an_image_has_what_the_processes_import_and_no_more():
    shipped = production.shipped()
    assert {"fleetops", "sessions_app", "templates", "requirements", "manage.py", "LICENSE"} <= set(shipped)
    assert "pyproject.toml" in shipped  # a backup says of which version it is
    assert not {".git", ".fleetops", "secrets", ".env", "tests", "docs"} & set(shipped)
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    packages = re.search(r"^include = \[(.+)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    for package in re.findall(r'"(\w+)\*"', packages):
        assert f"!{package}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_files_that_are_copied_are_there():
    for _, word, rest in instructions():
        if word == "COPY" and "--from" not in rest:
            *sources, _ = shlex.split(rest)
            assert all((ROOT / source).exists() for source in sources), rest


def test_directories_that_are_written_belong_to_who_writes_them():
    """A volume takes its owner from the image, and a read-only root cannot make the directory later."""
    made = next(rest for _, word, rest in instructions() if word == "RUN" and "install -d" in rest)
    assert "-o fleetops" in made and "-m 0700" in made
    for name in OURS:
        for volume in SERVICES[name].get("volumes", []):
            source, target = volume.split(":")[:2]
            if not source.startswith("."):
                assert target in made.split(), (name, target)


def test_the_client_of_a_backup_is_as_new_as_the_server():
    server = re.search(r"postgres:(\d+)-trixie", SERVICES["postgres"]["image"])[1]
    assert f"postgresql-client-{server}" in (ROOT / "Dockerfile").read_text()
