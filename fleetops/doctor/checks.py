"""Everything that FleetOps needs, looked at from here; each check stands alone, so that half of it may be down."""

from __future__ import annotations

import logging
import platform
import re
import shutil
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from uuid import uuid4

import django
import redis
from cryptography import x509
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as AnyDatabaseError
from django.db import connection

from fleetops import vault
from fleetops.audit.models import AuditEvent
from fleetops.audit.record import digest
from fleetops.aws import calls, sts
from fleetops.aws.errors import AwsError
from fleetops.clock import ago, monotonic, now, real_now
from fleetops.errors import UserError
from fleetops.inventory.models import Account, Instance, Region
from fleetops.monitoring import unapplied_migrations
from fleetops.presence import broker, seen
from fleetops.rollouts.models import Run
from fleetops.rollouts.scheduling.models import RunSchedule
from fleetops.rollouts.states import RunState
from sessions_app.commandlog.lag import SLOW_SECONDS, lag_seconds
from sessions_app.delivery import numbers as delivery_numbers
from sessions_app.delivery.services import LATE_AFTER
from sessions_app.models import TerminalSession

from .findings import FAILED, OK, WARNING, Finding, by_limits, failed, is_older, ok, warning

logger = logging.getLogger(__name__)

PARTS = ("web", "terminal", "worker", "commandlog", "beat")
SLOW_MS = 50.0  # of one round trip; pages make some ten
SKEW_WARNING_SECONDS, SKEW_SECONDS = 30.0, 300.0  # AWS refuses a signature that is five minutes off
SILENT_SECONDS = 30.0  # a process tells of itself every five
OWNER_SILENT_SECONDS = 60.0
LATE_RUN_SECONDS = 60.0  # beat gives a due run to a worker every 2 s
FREE_WARNING, FREE_FAILED = 1 << 30, 100 << 20  # bytes
CERTIFICATE_DAYS = 30
AGENT_FOR_SHELLS = "2.3.68.0"  # AWS, "Session Manager prerequisites"
AWS_CONNECT_SECONDS, AWS_READ_SECONDS = 4, 8
NETWORK_FILE_SYSTEMS = re.compile(
    r"^(nfs\d?|cifs|smb\d?|smbfs|9p|ceph|glusterfs|lustre|afs|fuse\.(sshfs|s3fs|gcsfuse))$"
)

NO_DATABASE = "the database does not answer, and it holds what would be looked at"


@dataclass
class Visit:
    """What one run of the doctor has learned for later checks."""

    has_database: bool = False
    has_broker: bool = False
    accounts: list[Account] = field(default_factory=list)


Check = Callable[[Visit], Iterator[Finding]]


def all_findings(visit: Visit | None = None) -> dict[str, list[Finding]]:
    """Every check's findings, by its name, in the order in which they are read."""
    visit = visit or Visit()
    found: dict[str, list[Finding]] = {}
    for name, check in CHECKS.items():
        lines: list[Finding] = []
        try:
            for each in check(visit):
                lines.append(each)
        except Exception as error:  # the outermost loop of a check: that it fails at its own work is itself a finding
            logger.debug("a check failed check=%s", name, exc_info=True)
            lines.append(failed(f"this could not be looked at: {type(error).__name__}", "see the log at DEBUG"))
        found[name] = lines
    return found


# --- Database and broker ---------------------------------------------------------------------------------------------


def database(visit: Visit) -> Iterator[Finding]:
    try:
        with connection.cursor() as cursor:
            if connection.vendor == "sqlite":
                version = "SQLite " + _one(cursor, "SELECT sqlite_version()")
            else:
                version = "PostgreSQL " + _one(cursor, "SHOW server_version")
            visit.has_database = True
            latency = statistics.median(_timed(lambda: _one(cursor, "SELECT 1")) for _ in range(7)) * 1000
            state = by_limits(latency, warn=SLOW_MS, fail=1000)
            yield Finding(
                state,
                f"{version} answers in {latency:.1f} ms",
                "" if state == OK else "look at its load, its disk and the way to it",
            )
            yield from _how_it_is_set_up(cursor)
    except AnyDatabaseError as error:
        yield failed(
            f"it does not answer ({type(error).__name__})",
            "start it, and check FLEETOPS_DATABASE_URL: host, name, user and password",
        )
        return
    missing = unapplied_migrations()
    if missing:
        names = ", ".join(f"{app}.{name}" for app, name in missing[:3])
        yield failed(
            f"{len(missing)} migrations of this version are not applied: {names}", "run: fleetops manage migrate"
        )
    else:
        yield ok("every migration of this version is applied")
    visit.accounts = list(Account.objects.filter(enabled=True).prefetch_related("regions"))


def _how_it_is_set_up(cursor) -> Iterator[Finding]:  # type: ignore[no-untyped-def]
    if connection.vendor == "sqlite":
        mode = _one(cursor, "PRAGMA journal_mode")
        if mode == "wal":
            yield ok("its journal is a write-ahead log: readers and the writer do not wait for each other")
        else:
            yield failed(f"its journal is {mode}, not WAL", "move the file to a local disk; WAL needs one")
        return
    used = int(_one(cursor, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"))
    most = int(_one(cursor, "SHOW max_connections"))
    state = by_limits(used / most, warn=0.8, fail=0.95)
    yield Finding(
        state,
        f"{used} of {most} connections are in use",
        "" if state == OK else "raise max_connections, or put a pooler in front",
    )


def _one(cursor, sql: str) -> str:  # type: ignore[no-untyped-def]
    cursor.execute(sql)
    return str(cursor.fetchone()[0])


def _timed(work: Callable[[], object]) -> float:
    began = monotonic()
    work()
    return monotonic() - began


def the_broker(visit: Visit) -> Iterator[Finding]:
    try:
        with broker() as client:
            latency = statistics.median(_timed(client.ping) for _ in range(7)) * 1000
            about = client.info()
    except redis.RedisError as error:
        yield failed(f"it does not answer ({type(error).__name__})", "start Valkey, and check FLEETOPS_VALKEY_URL")
        return
    visit.has_broker = True
    name = "Valkey" if "valkey_version" in about else "Redis"
    version = about.get("valkey_version") or about.get("redis_version")
    state = by_limits(latency, warn=SLOW_MS, fail=1000)
    yield Finding(
        state,
        f"{name} {version} answers in {latency:.1f} ms",
        "" if state == OK else "look at its load and the way to it",
    )
    if about.get("aof_enabled"):
        yield ok("it keeps an append-only file: tasks outlive a restart")
    else:
        yield warning("it keeps no append-only file: a restart loses tasks that wait", "set appendonly yes")
    if about.get("aof_last_write_status", "ok") != "ok":
        yield failed("its append-only file cannot be written", "look at its disk")
    policy = about.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        yield ok("it never drops what is stored (noeviction)")
    else:
        yield failed(
            f"it drops what is stored when it is full ({policy}): tasks vanish", "set maxmemory-policy noeviction"
        )


# --- AWS -------------------------------------------------------------------------------------------------------------


def credentials(visit: Visit) -> Iterator[Finding]:
    if not visit.has_database:
        yield warning(f"not looked at: {NO_DATABASE}", "mend the database first")
        return
    if not visit.accounts:
        yield warning("there is no account", "add one under Settings, Accounts")
        return
    with ThreadPoolExecutor(8) as pool:
        yield from pool.map(_credentials_of, visit.accounts)


def _credentials_of(account: Account) -> Finding:
    regions = sorted(region.name for region in account.regions.all() if region.enabled)
    if not regions:
        return warning(f"{account}: no region is on", "turn one on on the account's page")
    access = replace(
        account.access(), connect_timeout_seconds=AWS_CONNECT_SECONDS, read_timeout_seconds=AWS_READ_SECONDS
    )
    try:
        who = sts.get_caller_identity(access, regions[0], session_name="fleetops-doctor")
    except AwsError as error:
        return failed(f"{account} ({account.account_id}): {error}", "Settings, Accounts, its page has the whole check")
    if who.account_id != account.account_id:
        return failed(
            f"{account} is account {account.account_id}, but its credentials belong to {who.account_id}",
            "correct the role or the profile on the account's page",
        )
    return ok(f"{account} ({account.account_id}): acts as {who.arn}")


def clocks(visit: Visit) -> Iterator[Finding]:
    """After `credentials`, whose calls bring AWS's time with them."""
    if not visit.has_database:
        yield warning(f"the database's is not known: {NO_DATABASE}", "mend the database first")
    elif connection.vendor == "sqlite":
        yield ok("the database is this machine's: one clock")
    else:
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            theirs = cursor.fetchone()[0]
        yield _skew("the database", (now() - theirs).total_seconds())
    for account in visit.accounts:
        skew = calls.skew_seconds.get(account.account_id)
        if skew is not None:
            yield _skew(f"AWS in {account}", skew)


def _skew(whose: str, seconds: float) -> Finding:
    state = by_limits(abs(seconds), warn=SKEW_WARNING_SECONDS, fail=SKEW_SECONDS)
    way = "ahead of" if seconds > 0 else "behind"
    if state == OK:
        return ok(f"this machine and {whose} agree to {max(abs(seconds), 1):.0f} s")
    return Finding(
        state,
        f"this machine is {abs(seconds):.0f} s {way} {whose}; AWS refuses more than {SKEW_SECONDS:.0f}",
        "have both take their time by NTP (chrony, systemd-timesyncd)",
    )


def certificates(visit: Visit) -> Iterator[Finding]:
    if not visit.has_database:
        yield warning(f"not looked at: {NO_DATABASE}", "mend the database first")
        return
    ours = [account for account in visit.accounts if account.ca_pem]
    if not ours:
        yield ok("no account has a CA of its own")
    for account in ours:
        try:
            ends = min(each.not_valid_after_utc for each in x509.load_pem_x509_certificates(account.ca_pem.encode()))
        except ValueError:
            yield failed(f"{account}: its CA is no certificate", "enter it anew on the account's page")
            continue
        left = ends - real_now()
        text = f"{account}: its CA is good until {ends:%Y-%m-%d}"
        if left > timedelta(days=CERTIFICATE_DAYS):
            yield ok(text)
        elif left > timedelta():
            yield warning(text, "renew it, and enter the new one on the account's page")
        else:
            yield failed(f"{account}: its CA has ended on {ends:%Y-%m-%d}", "renew it, and enter the new one")


# --- This machine ----------------------------------------------------------------------------------------------------


def storage(visit: Visit) -> Iterator[Finding]:
    yield from _place("spool", settings.SPOOL_DIR, "FLEETOPS_SPOOL_DIR", must_be_local=True)
    if settings.RECORDING_BUCKET is None:
        yield from _place("recordings", settings.RECORDING_DIR, "FLEETOPS_RECORDING_DIR", must_be_local=False)
    else:
        yield ok(f"recordings: in s3://{settings.RECORDING_BUCKET.name}; the spool keeps what it does not have yet")


def _place(what: str, path: Path, setting: str, *, must_be_local: bool) -> Iterator[Finding]:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = path / f".doctor.{uuid4().hex}"
        probe.write_bytes(b"doctor")
        probe.unlink()
    except OSError as error:
        yield failed(
            f"{what}: {path} cannot be written to: {error.strerror}",
            f"give it to the user that runs FleetOps, or set {setting} to another directory",
        )
        return
    usage = shutil.disk_usage(path)
    state = FAILED if usage.free < FREE_FAILED else WARNING if usage.free < FREE_WARNING else OK
    text = f"{what}: {path} takes files; {usage.free / 2**30:.1f} GiB of {usage.total / 2**30:.1f} are free"
    yield Finding(state, text, "" if state == OK else "make room on this disk")
    kind = file_system(path)
    if must_be_local and NETWORK_FILE_SYSTEMS.match(kind):
        yield failed(f"{what}: {path} lies on {kind}, a network share", f"set {setting} to a local disk")
    elif must_be_local and usage.free < settings.SPOOL_QUOTA_BYTES and state == OK:
        yield warning(
            f"{what}: its quota of {settings.SPOOL_QUOTA_BYTES / 2**30:.1f} GiB is more than what is free",
            "make room, or lower FLEETOPS_SPOOL_QUOTA_MIB",
        )


def file_system(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The kind of file system that a path lies on; "" where the system does not say (Linux does)."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    best, kind = -1, ""
    for line in lines:
        _, point, found, *_ = line.split(" ")
        point = point.encode().decode("unicode_escape")
        is_above = path.resolve().is_relative_to(point)
        if is_above and len(point) >= best:
            best, kind = len(point), found
    return kind


def versions(visit: Visit) -> Iterator[Finding]:
    yield ok(f"Python {platform.python_version()}, Django {django.get_version()}")
    lock = settings.LOCK_FILE
    try:
        different = other_versions(lock.read_text())
    except OSError:
        yield warning(
            "the lock of the packages is not here, so they cannot be compared", "install from a whole release"
        )
    else:
        if different:
            yield warning(
                f"{len(different)} packages are not those of the lock: {'; '.join(different[:4])}",
                f"pip install --require-hashes -r requirements/{lock.name}",
            )
        else:
            yield ok("every package is as the lock says")
    if not visit.has_database:
        return
    agents = Instance.objects.online().exclude(agent_version="").values_list("name", "agent_version")
    old = [f"{name} has {version}" for name, version in agents.iterator() if is_older(version, AGENT_FOR_SHELLS)]
    if old:
        yield warning(
            f"{len(old)} instances have an SSM Agent that is too old for shells: {'; '.join(old[:3])}",
            f"update it to {AGENT_FOR_SHELLS} or newer (document AWS-UpdateSSMAgent)",
        )
    else:
        yield ok(f"no online instance has an SSM Agent older than {AGENT_FOR_SHELLS}")


def other_versions(lock: str) -> list[str]:
    """Packages that are installed in another version than the lock pins; those of other systems are left out."""
    different = []
    for name, wanted, marker in re.findall(
        r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)([^\n]*)", lock, re.MULTILINE
    ):
        try:
            there = metadata.version(name)
        except metadata.PackageNotFoundError:
            if ";" not in marker:
                different.append(f"{name} is missing")
            continue
        if there != wanted and ";" not in marker:
            different.append(f"{name} {there}, not {wanted}")
    return different


def keys(visit: Visit) -> Iterator[Finding]:
    path = settings.MASTER_KEY_FILE
    try:
        ring = vault.read_key_ring(path)
    except (ImproperlyConfigured, UserError) as error:
        yield failed(str(error), "without it no sealed secret can be opened")
    else:
        yield ok(f"the key ring {path} is this user's alone and holds {len(ring.keys)} keys")
    for name in ("audit.key", "django.key"):
        file = settings.HOME / "secrets" / name
        if file.exists() and file.stat().st_mode & 0o077:
            yield failed(f"{file} can be read by others", f"chmod 600 {file}; who has read it may have forged rows")
    if not visit.has_database:
        yield warning(f"whether the audit key fits is not known: {NO_DATABASE}", "mend the database first")
        return
    newest = AuditEvent.objects.order_by("-id").first()
    if newest is not None and digest(newest) != newest.digest:
        yield failed(
            "the audit key is not the one under which the newest audit row was written",
            "set FLEETOPS_AUDIT_KEY as it was; if it was, run: fleetops manage audit_verify",
        )
    else:
        yield ok("the audit key fits the newest audit row")


# --- Processes -------------------------------------------------------------------------------------------------------


def processes(visit: Visit) -> Iterator[Finding]:
    if visit.has_broker:
        heard = seen()
        for part in PARTS:
            yield _part(part, [real_now().timestamp() - each.at for each in heard if each.part == part])
    else:
        yield warning("who lives is not known: the broker does not answer", "mend the broker first")
    if not visit.has_database:
        return
    late = ago(OWNER_SILENT_SECONDS)
    orphans = TerminalSession.objects.live().filter(owner_epoch__gt=0).exclude(owner_seen_at__gt=late).count()
    if orphans:
        yield failed(
            f"{orphans} live sessions have no terminal process that looks after them",
            "start the terminal process of the host that has their spool; it takes them over",
        )
    else:
        yield ok("every live session has a terminal process that looks after it")
    lag = lag_seconds()
    if lag > SLOW_SECONDS:
        yield warning(
            f"the command log is {lag:.0f} s behind the recordings",
            "see that the process commandlog runs on each host with a spool, and what it logs",
        )
    else:
        yield ok("the command log keeps up with the recordings")
    unsealed = AuditEvent.objects.filter(seal=None, at__lt=late).count()
    if unsealed:
        yield failed(f"{unsealed} audit rows wait for the chain for over a minute", "start a worker and beat")
    else:
        yield ok("the audit chain is up to date")
    stale = ago(max(300, 10 * settings.INVENTORY_SECONDS))
    behind = [
        str(region)
        for region in Region.objects.filter(enabled=True, account__enabled=True, account__created_at__lt=stale)
        .exclude(refreshed_at__gt=stale)
        .select_related("account")
    ]
    if behind:
        yield warning(f"not read for long: {', '.join(behind[:5])}", "the account's page says why")


def _part(part: str, ages: list[float]) -> Finding:
    alive = [age for age in ages if age <= SILENT_SECONDS]
    if alive:
        return ok(f"{part}: {len(alive)} alive, last heard of {max(min(alive), 0):.0f} s ago")
    last = f"was last heard of {_since(min(ages))}" if ages else "has not been heard of for a day"
    return failed(f"{part}: none is alive; one {last}" if ages else f"{part}: {last}", f"start {part}, or read its log")


def _since(seconds: float) -> str:
    return f"{real_now() - timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S} UTC"


def deliveries(visit: Visit) -> Iterator[Finding]:
    if not visit.has_database:
        yield warning(f"not looked at: {NO_DATABASE}", "mend the database first")
        return
    for where, count, since in delivery_numbers.standing():
        what = {"logs": "CloudWatch Logs", "s3": "buckets"}[where]
        if not count or since is None:
            yield ok(f"no session waits for {what}")
            continue
        finding = f"{count} sessions wait for {what}, the first for {_since((now() - since).total_seconds())}"
        kind = failed if now() - since > LATE_AFTER else warning
        yield kind(finding, "open the account's Deliveries: it says why, and what is missing")


def runs(visit: Visit) -> Iterator[Finding]:
    if not visit.has_database:
        yield warning(f"not looked at: {NO_DATABASE}", "mend the database first")
        return
    open_ = Run.objects.open()
    at = open_.exclude(due_at=None).order_by("due_at").values_list("due_at", flat=True).first()
    late = (now() - at).total_seconds() if at is not None else 0.0
    if late > LATE_RUN_SECONDS:
        yield failed(
            f"a run in waves has waited for a worker since {_since(late)}", "see whether worker and beat are running"
        )
    if count := open_.filter(state=RunState.STOPPED).count():
        what = "run in waves has" if count == 1 else "runs in waves have"
        yield warning(f"{count} {what} stopped", "open it: try the failed targets again, roll forward, or abort it")
    if late <= LATE_RUN_SECONDS and not count:
        yield ok(f"{open_.count()} runs in waves are under way")
    yield from _schedules()


def _schedules() -> Iterator[Finding]:
    there = RunSchedule.objects.all()
    at = there.exclude(next_at=None).order_by("next_at").values_list("next_at", flat=True).first()
    late = (now() - at).total_seconds() if at is not None else 0.0
    if late > LATE_RUN_SECONDS:
        yield failed(
            f"a schedule has been due for {_since(late)}, and nobody looked", "see whether worker and beat are running"
        )
    if count := there.filter(enabled=False).exclude(why_off__startswith="Paused by").count():
        what = "schedule is" if count == 1 else "schedules are"
        yield warning(f"{count} {what} off, since its run was refused", "open it: it says why; then resume it")


CHECKS: dict[str, Check] = {
    "database": database,
    "broker": the_broker,
    "credentials": credentials,
    "clocks": clocks,
    "storage": storage,
    "versions": versions,
    "keys": keys,
    "processes": processes,
    "deliveries": deliveries,
    "runs": runs,
    "certificates": certificates,
}
