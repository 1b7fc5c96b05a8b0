"""FleetOps's settings. FLEETOPS_PROFILE is the one switch; other code asks for a setting, never for the profile."""

from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from fleetops.env import (
    env_bool,
    env_bucket,
    env_int,
    env_list,
    env_networks,
    env_number,
    env_password,
    env_secret,
    env_str,
)
from fleetops.vault import required_key_ring

BASE_DIR = Path(__file__).resolve().parent.parent

PROFILE = env_str("FLEETOPS_PROFILE", "embedded", choices=("embedded", "production"))
_EMBEDDED = PROFILE == "embedded"
LOCK_FILE = BASE_DIR / "requirements" / ("embedded.txt" if _EMBEDDED else "production.txt")  # what is installed

# All state of this installation: database, secrets, recordings, the embedded endpoint.
HOME = Path(env_str("FLEETOPS_HOME", str(BASE_DIR / ".fleetops"))).resolve()
PORT = env_int("FLEETOPS_PORT", 8080, high=65535)
TERMINAL_PORT = env_int("FLEETOPS_TERMINAL_PORT", PORT + 1 if PORT else 0, high=65535)

# Shows the whole of an error, settings and variables among it, to whoever asks.
DEBUG = env_bool("FLEETOPS_DEBUG", False)
if DEBUG and not _EMBEDDED:
    raise ImproperlyConfigured("FLEETOPS_DEBUG shows settings to whoever causes an error; production unsets it.")
if env_str("FLEETOPS_CLOCK_FILE") and not _EMBEDDED:  # read by fleetops/clock.py
    raise ImproperlyConfigured("FLEETOPS_CLOCK_FILE shifts the clock for tests; production unsets it.")
_SECRETS = HOME / "secrets"
SECRET_KEY = env_secret("FLEETOPS_SECRET_KEY", generated_file=_SECRETS / "django.key" if _EMBEDDED else None)
# Keys the digest of every audit row; outside the database, so that whoever can write rows cannot forge them.
AUDIT_KEY = env_secret("FLEETOPS_AUDIT_KEY", generated_file=_SECRETS / "audit.key" if _EMBEDDED else None)
# The key ring that wraps the keys of all secrets in the database; see fleetops/vault.py.
_MASTER_KEY_FILE = env_str("FLEETOPS_MASTER_KEY_FILE", str(_SECRETS / "master.key") if _EMBEDDED else "")
MASTER_KEY_FILE = required_key_ring(Path(_MASTER_KEY_FILE) if _MASTER_KEY_FILE else None, may_make=_EMBEDDED)

ALLOWED_HOSTS = env_list("FLEETOPS_ALLOWED_HOSTS", ("localhost", "127.0.0.1", "[::1]") if _EMBEDDED else ())
if not ALLOWED_HOSTS:
    raise ImproperlyConfigured("Set FLEETOPS_ALLOWED_HOSTS to the names under which people reach FleetOps.")
if "*" in ALLOWED_HOSTS and not _EMBEDDED:
    raise ImproperlyConfigured("FLEETOPS_ALLOWED_HOSTS=* would believe any Host header; name the hosts.")
# Proxies whose X-Forwarded-For and -Proto uvicorn is told to believe (--forwarded-allow-ips).
TRUSTED_PROXIES = env_list("FLEETOPS_TRUSTED_PROXIES")
if not _EMBEDDED:
    if not TRUSTED_PROXIES:
        raise ImproperlyConfigured(
            "Set FLEETOPS_TRUSTED_PROXIES to the addresses of the proxy that ends TLS: without it every person "
            "has the proxy's address in the audit log, and no page knows that it came over TLS."
        )
    if any("*" in proxy or proxy.endswith("/0") for proxy in TRUSTED_PROXIES):
        raise ImproperlyConfigured(
            "FLEETOPS_TRUSTED_PROXIES trusts everybody, who could then choose the address that FleetOps sees; "
            "name the proxies."
        )
# Where browsers open terminals: "" means the page's own host with TERMINAL_PORT.
TERMINAL_URL = env_str("FLEETOPS_TERMINAL_URL")
# Origins that may open a terminal, as scheme://host:port; empty means the pages' own.
TERMINAL_ORIGINS = env_list("FLEETOPS_TERMINAL_ORIGINS")
CSRF_TRUSTED_ORIGINS = env_list("FLEETOPS_TRUSTED_ORIGINS")

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "channels",
    "csp",
    "axes",
    "django_htmx",
    "drf_spectacular",
    "fleetops.web",
    "fleetops.audit",
    "fleetops.identity",
    "fleetops.policy",
    "fleetops.approvals",
    "fleetops.notify",
    "fleetops.calendars",
    "fleetops.inventory",
    "fleetops.exposure",
    "fleetops.library",
    "fleetops.runcommand",
    "fleetops.automation",
    "fleetops.rollouts",
    "fleetops.rollouts.scheduling",
    "fleetops.roles",
    "fleetops.roles.catalogue",
    "sessions_app",
    "sessions_app.attached",
    "patching",
    "patching.compliance",
    "patching.emergency",
    "fleetops.review",
    "fleetops.doctor",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "fleetops.web.middleware.StaticFilesMiddleware",
    "fleetops.web.middleware.RequestContextMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "fleetops.web.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csp.middleware.CSPMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "fleetops.web.middleware.UserErrorMiddleware",
    "fleetops.identity.middleware.DenialAuditMiddleware",  # below UserErrorMiddleware: it sees the refusal first
    "fleetops.identity.middleware.SecondFactorMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "fleetops.urls"
ASGI_APPLICATION = "fleetops.asgi.web"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": False,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "fleetops.web.context_processors.shell",
            ],
            "builtins": ["fleetops.web.templatetags.fleetops"],
        },
    }
]

# --- Database ------------------------------------------------------------------------------------------------------
DATABASE_URL = env_password("FLEETOPS_DATABASE_URL") or (f"sqlite:///{HOME}/fleetops.sqlite3" if _EMBEDDED else "")


def database(url: str) -> dict:
    """Django's database settings from a URL: sqlite:///PATH, or postgresql://USER:PASSWORD@HOST:PORT/NAME."""
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": parts.path,
            "OPTIONS": {
                # IMMEDIATE takes the write lock at the start: a transaction that reads and then writes cannot fail
                # half way because another wrote in between. 20 s: see the measured tails in docs/architecture.md.
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;PRAGMA mmap_size=134217728;"
                "PRAGMA journal_size_limit=27103364;PRAGMA cache_size=2000",
            },
        }
    if parts.scheme in {"postgresql", "postgres"}:
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": parts.path.lstrip("/"),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": unquote(parts.hostname or ""),
            "PORT": str(parts.port or ""),
            "CONN_MAX_AGE": 60,
            "CONN_HEALTH_CHECKS": True,
            # A server whose host is gone answers nothing: found out in about 20 s, not after TCP's two hours.
            "OPTIONS": {
                "connect_timeout": 5,
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 2,
                "tcp_user_timeout": 20000,  # milliseconds
            },
        }
    raise ImproperlyConfigured(  # without the URL, which may hold a password
        "FLEETOPS_DATABASE_URL is neither sqlite:///PATH nor postgresql://USER:PASSWORD@HOST:PORT/NAME."
    )


if not DATABASE_URL or (DATABASE_URL.startswith("sqlite:") and not _EMBEDDED):
    raise ImproperlyConfigured(
        "Set FLEETOPS_DATABASE_URL=postgresql://USER:PASSWORD@HOST:PORT/NAME: production does not run on SQLite."
    )
DATABASES = {"default": database(DATABASE_URL)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Where pg_dump and pg_restore are, for `python -m fleetops.backup`; empty: on PATH.
PG_BIN = env_str("FLEETOPS_PG_BIN")

# --- Broker, cache, channel layer: one Valkey -----------------------------------------------------------------------
VALKEY_URL = env_password("FLEETOPS_VALKEY_URL") or (f"unix://{HOME}/run/valkey.sock" if _EMBEDDED else "")
if not VALKEY_URL:
    raise ImproperlyConfigured("Set FLEETOPS_VALKEY_URL, for example redis://valkey:6379.")


def valkey_url(number: int) -> str:
    """The URL of one numbered database of our Valkey, as redis-py reads it."""
    return f"{VALKEY_URL}?db={number}" if VALKEY_URL.startswith("unix://") else f"{VALKEY_URL.rstrip('/')}/{number}"


CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": valkey_url(1)}}
CHANNEL_LAYERS = {
    "default": {
        # The classic layer ends every consumer when the broker restarts; this one reconnects. Control messages only.
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [valkey_url(2)], "prefix": "fleetops"},
    }
}

CELERY_BROKER_URL = (
    f"redis+socket://{VALKEY_URL.removeprefix('unix://')}?virtual_host=0"
    if VALKEY_URL.startswith("unix://")
    else valkey_url(0)
)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_TIME_LIMIT = 100  # seconds; below the visibility time-out, or a slow step would run twice
CELERY_TASK_SOFT_TIME_LIMIT = 90
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 120,  # seconds until a task of a killed worker is given to another
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = "UTC"
# Worker, beat and command log touch this file while they live; `python -m fleetops.health pulse` looks at it. Empty:
# they do not.
PULSE_FILE = env_str("FLEETOPS_PULSE_FILE")
CELERY_BEAT_SCHEDULER = "fleetops.pulse:Scheduler"

# --- Who may come in -------------------------------------------------------------------------------------------------
AUTH_USER_MODEL = "identity.User"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
]
LOGIN_URL = "identity:login"
LOGIN_REDIRECT_URL = "inventory:fleet"
LOGOUT_REDIRECT_URL = "identity:login"
SESSION_COOKIE_NAME = "fleetops_session"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = env_int("FLEETOPS_LOGIN_SECONDS", 12 * 3600, low=300)
CSRF_COOKIE_NAME = "fleetops_csrf"
CSRF_FAILURE_VIEW = "fleetops.web.views.csrf_failure"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not _EMBEDDED
# Whether a request came by TLS uvicorn says, which believes named proxies alone (--forwarded-allow-ips); Django's own
# SECURE_PROXY_SSL_HEADER would take anybody's word for it.
SECURE_HSTS_SECONDS = 0 if _EMBEDDED else 31536000
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# Ten wrong passwords for one name from one address lock that pair for 15 minutes.
AXES_FAILURE_LIMIT = env_int("FLEETOPS_LOGIN_FAILURES", 10, low=1)
AXES_COOLOFF_TIME = env_int("FLEETOPS_LOGIN_LOCK_MINUTES", 15, low=1) / 60  # axes counts in hours
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_LOCKOUT_CALLABLE = "fleetops.identity.views.locked_out"
AXES_RESET_ON_SUCCESS = True
AXES_VERBOSE = False
# Deeds that give power away ask for the password, or a code, if neither was given within this time.
CONFIRM_SECONDS = env_int("FLEETOPS_CONFIRM_MINUTES", 10, low=1, high=720) * 60

# --- The API ---------------------------------------------------------------------------------------------------------
TOKEN_LONGEST_DAYS = env_int("FLEETOPS_TOKEN_LONGEST_DAYS", 365, low=1, high=3650)
API_CALLS_PER_MINUTE = env_int("FLEETOPS_API_CALLS_PER_MINUTE", 600, low=1)  # of one token
API_LOGINS_PER_MINUTE = env_int("FLEETOPS_API_LOGINS_PER_MINUTE", 20, low=1)  # from one address
REST_FRAMEWORK = {  # the rest is in its ApiView
    "DEFAULT_SCHEMA_CLASS": "fleetops.identity.rest.Schema",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "FleetOps",
    "DESCRIPTION": "The REST API of FleetOps. Send a token as “Authorization: Bearer fo_…”.",
    "VERSION": "1",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SORT_OPERATIONS": False,
    "ENUM_NAME_OVERRIDES": {
        "TokenState": "fleetops.identity.models.TOKEN_STATES",
        "PolicyDeed": "fleetops.policy.decide.DEED_NAMES",
        "CalendarDeed": "fleetops.calendars.deeds.BINDABLE",
        "CalendarKind": "fleetops.calendars.models.CalendarKind",
        "CalendarSource": "fleetops.calendars.models.CalendarSource",
        "AccountCheckState": "fleetops.inventory.states.CheckState",
        "DeliveryState": "fleetops.notify.models.DeliveryState",
        "ChannelKind": "fleetops.notify.models.ChannelKind",
        "TerminalSessionState": "sessions_app.states.SessionState",
        "SessionKind": "sessions_app.states.SessionKind",
        "GrantState": "sessions_app.states.GrantState",
        "CommandSource": "sessions_app.states.CommandSource",
        "RoleRuleMode": "fleetops.roles.models.Mode",
        "RunState": "fleetops.rollouts.states.RunState",
        "OccurrenceState": "fleetops.rollouts.scheduling.states.OccurrenceState",
        "PatchState": "patching.compliance.verdict.PatchState",
        "PatchWriteState": "patching.states.WriteState",
        "PatchDeed": "patching.states.Deed",
        "CommandState": "fleetops.runcommand.states.CommandState",
        "InvocationState": "fleetops.runcommand.states.InvocationState",
    },
}

# --- Terminals -------------------------------------------------------------------------------------------------------
# The address at which a terminal process takes browsers that another one relays: all of them reach it, nobody else.
TERMINAL_RELAY_HOST = env_str("FLEETOPS_TERMINAL_RELAY_HOST", "127.0.0.1")
SPOOL_DIR = Path(env_str("FLEETOPS_SPOOL_DIR", str(HOME / "spool")))
SPOOL_QUOTA_BYTES = env_int("FLEETOPS_SPOOL_QUOTA_MIB", 4096, low=16) * 2**20  # of all journals of one host
SESSION_QUOTA_BYTES = env_int("FLEETOPS_SESSION_QUOTA_MIB", 512, low=8) * 2**20  # of one session's journal
# Where recordings are kept for good: a bucket, or else this directory.
RECORDING_BUCKET = env_bucket("FLEETOPS_RECORDING_STORE")
RECORDING_DIR = Path(env_str("FLEETOPS_RECORDING_DIR", str(HOME / "recordings")))
# Of commands in the command log, the values of options and variables whose names have one of these words are left out.
COMMAND_MASKS = [
    name
    for name in env_list("FLEETOPS_COMMAND_MASKS", ("password", "passwd", "secret", "token"))
    if name.lower() != "none"
]
SEAL_SECONDS = env_int("FLEETOPS_SEAL_SECONDS", 5, low=1, high=60)
SEAL_BYTES = env_int("FLEETOPS_SEAL_KIB", 256, low=16) * 1024
# CloudWatch Logs is looked through for so long after a put without an answer, before what is not there is put again.
LOGS_SETTLE_SECONDS = env_number("FLEETOPS_LOGS_SETTLE_SECONDS", 30, low=0.2, high=600)
# Of strict logging: for how long an Enter waits for CloudWatch Logs. Never longer than this.
STRICT_HOLD_SECONDS = env_number("FLEETOPS_STRICT_SECONDS", 5, low=0.5, high=5)
# Fractions of a minute are for who wants to see it happen; 0.02 is about a second, as often as it is looked.
SESSION_IDLE_SECONDS = env_number("FLEETOPS_SESSION_IDLE_MINUTES", 20, low=0.02, high=60) * 60
SESSION_LONGEST_SECONDS = env_number("FLEETOPS_SESSION_LONGEST_MINUTES", 720, low=0.02, high=1440) * 60
GRANT_LONGEST_MINUTES = env_int("FLEETOPS_GRANT_LONGEST_MINUTES", 480, low=5, high=10080)
# How long a session without any browser is kept before it is ended.
SESSION_DETACHED_SECONDS = env_number("FLEETOPS_SESSION_DETACHED_MINUTES", 30, low=0.02, high=1440) * 60
# The largest file that goes to or from an instance through a session.
TRANSFER_MAX_BYTES = env_int("FLEETOPS_TRANSFER_MAX_MIB", 512, low=1, high=2**20) * 2**20
# Shown above each new shell, and kept in its recording.
MESSAGE_OF_THE_DAY = " ".join(env_str("FLEETOPS_MESSAGE_OF_THE_DAY").split())[:500]
# Without the database nobody can be checked: keystrokes wait after so long, and sessions end. Never later than this.
DATABASE_HOLD_SECONDS = env_number("FLEETOPS_DATABASE_HOLD_SECONDS", 5, low=1, high=5)
DATABASE_GONE_SECONDS = env_number("FLEETOPS_DATABASE_GONE_SECONDS", 60, low=2, high=60)
if DATABASE_GONE_SECONDS < DATABASE_HOLD_SECONDS:
    raise ImproperlyConfigured("FLEETOPS_DATABASE_GONE_SECONDS is less than FLEETOPS_DATABASE_HOLD_SECONDS; raise it.")

# --- Fleet -----------------------------------------------------------------------------------------------------------
INVENTORY_SECONDS = env_int("FLEETOPS_INVENTORY_SECONDS", 20, low=5)  # between two refreshes of one region
LIBRARY_SECONDS = env_int("FLEETOPS_LIBRARY_SECONDS", 300, low=10)  # between two readings of a region's documents
EXPOSURE_SECONDS = env_int("FLEETOPS_EXPOSURE_SECONDS", 600, low=10)  # between two readings of security groups
ROLES_SECONDS = env_int("FLEETOPS_ROLES_SECONDS", 600, low=10)  # between two readings of an account's IAM roles
BASELINES_SECONDS = env_int("FLEETOPS_BASELINES_SECONDS", 300, low=10)  # between two readings of a region's baselines
# A target expression for nodes that hold data: an emergency patches them in place, and never first.
EMERGENCY_DATA = env_str(
    "FLEETOPS_EMERGENCY_DATA",
    "role in (db, *database*, cache, queue, search, storage) or cluster in (pg-*, mysql-*, mongo-*, redis-*, kafka-*)",
)
COMPLIANCE_SECONDS = env_int("FLEETOPS_COMPLIANCE_SECONDS", 120, low=2)  # between two readings of reports of patches
FINDINGS_SECONDS = env_int("FLEETOPS_FINDINGS_SECONDS", 900, low=5)  # between two readings of SSM's own findings
# Ping older than this reads "Connection lost", as AWS does after about five minutes without one.
AWS_CONNECT_TIMEOUT_SECONDS = env_int("FLEETOPS_AWS_CONNECT_TIMEOUT_SECONDS", 5, low=1)
AWS_READ_TIMEOUT_SECONDS = env_int("FLEETOPS_AWS_READ_TIMEOUT_SECONDS", 20, low=1)
# The buckets of fleetops/aws/governor.py; empty: nothing is paced.
AWS_BUDGET_URL = valkey_url(3) if env_bool("FLEETOPS_AWS_BUDGET", True) else ""
# With so many calls a second begins an operation of which AWS does not say how many it allows.
AWS_CALLS_PER_SECOND = env_number("FLEETOPS_AWS_CALLS_PER_SECOND", 5, low=0.5, high=1000)

# --- Telling people --------------------------------------------------------------------------------------------------
# Under which address people reach the pages: links in notices begin with it.
PUBLIC_URL = env_str("FLEETOPS_PUBLIC_URL", f"http://127.0.0.1:{PORT}")
EMAIL_HOST = env_str("FLEETOPS_SMTP_HOST")
EMAIL_PORT = env_int("FLEETOPS_SMTP_PORT", 587, low=1, high=65535)
EMAIL_HOST_USER = env_str("FLEETOPS_SMTP_USER")
EMAIL_HOST_PASSWORD = env_password("FLEETOPS_SMTP_PASSWORD")
_SMTP_TLS = env_str("FLEETOPS_SMTP_TLS", "starttls", choices=("starttls", "tls", "none"))
EMAIL_USE_TLS, EMAIL_USE_SSL = _SMTP_TLS == "starttls", _SMTP_TLS == "tls"
EMAIL_TIMEOUT = 10  # seconds
DEFAULT_FROM_EMAIL = env_str("FLEETOPS_SMTP_FROM", "fleetops@localhost")

# --- What users may point FleetOps at: webhooks, calendars ------------------------------------------------------------
# Networks inside which such an address may lie all the same, and for which http:// is enough.
FETCH_ALLOWED_NETWORKS = env_networks("FLEETOPS_FETCH_ALLOWED_NETWORKS")
FETCH_CA_FILE = env_str("FLEETOPS_FETCH_CA_FILE")
CALENDAR_FETCH_MINUTES = env_int("FLEETOPS_CALENDAR_FETCH_MINUTES", 15, low=1, high=1440)

# --- Pages -----------------------------------------------------------------------------------------------------------
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False
STATIC_URL = "/static/"
STATIC_ROOT = Path(env_str("FLEETOPS_STATIC_ROOT", str(HOME / "static")))
STATICFILES_DIRS = [path for path in [BASE_DIR / "static" / "dist"] if path.is_dir()]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
WHITENOISE_MAX_AGE = 31536000

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'", "'wasm-unsafe-eval'"],  # the recording player's decoder is WebAssembly
        "style-src": ["'self'", "'unsafe-inline'"],  # xterm.js writes style elements with either renderer
        "font-src": ["'self'", "data:"],
        "img-src": ["'self'", "data:"],
        "connect-src": ["'self'"],  # the terminal's page adds its websocket
        "worker-src": ["'self'", "blob:"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
        "base-uri": ["'none'"],
    }
}

# --- Numbers ---------------------------------------------------------------------------------------------------------
# /metrics of web and terminal is for this machine, for these networks, and for who sends this token.
METRICS_NETWORKS = env_networks("FLEETOPS_METRICS_NETWORKS")
METRICS_TOKEN = env_password("FLEETOPS_METRICS_TOKEN")
if METRICS_TOKEN and len(METRICS_TOKEN) < 16:
    raise ImproperlyConfigured("FLEETOPS_METRICS_TOKEN has less than 16 characters; make a longer one.")
# The worker's /metrics; beat's is on the next port. 0: they have none.
METRICS_PORT = env_int("FLEETOPS_METRICS_PORT", 0, high=65534)

# --- Logs ------------------------------------------------------------------------------------------------------------
LOG_LEVEL = env_str("FLEETOPS_LOG_LEVEL", "INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
LOG_FORMAT = env_str("FLEETOPS_LOG_FORMAT", "line" if _EMBEDDED else "json", choices=("line", "json"))
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"without_ticks": {"()": "fleetops.logs.WithoutTicks"}},
    "formatters": {
        "line": {"format": "%(asctime)s %(levelname)-7s %(name)s %(message)s"},
        "json": {"()": "fleetops.logs.json_formatter"},
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        "botocore": {"level": "WARNING"},
        # A role that cannot be assumed: whoever asked for it is told in words, and no traceback is wanted besides.
        "botocore.credentials": {"level": "ERROR"},
        "boto3": {"level": "WARNING"},
        "urllib3": {"level": "WARNING"},
        # At DEBUG these write every header and frame: a data channel's token, a browser's cookie, keystrokes.
        "websockets": {"level": "WARNING"},
        "asyncio": {"level": "WARNING"},
        # And these a task's arguments, or each query and its values.
        "celery": {"level": "INFO"},
        "kombu": {"level": "INFO"},
        "amqp": {"level": "INFO"},
        "django.db.backends": {"level": "INFO"},
        "axes": {"level": "WARNING"},
        # A line for each page is for programs to read; a person who reads along asks for DEBUG.
        "fleetops.access": {"level": "WARNING" if LOG_FORMAT == "line" and LOG_LEVEL == "INFO" else LOG_LEVEL},
        "django.channels.server": {"level": "WARNING"},
        # uvicorn has set up its own by then: a line for each websocket, in another format than all others.
        "uvicorn": {"level": "WARNING", "handlers": [], "propagate": True},
        "uvicorn.error": {"level": "WARNING"},
        # A line for each tick and each task drowns what a person looks for; failures are warnings and errors.
        # Both say at INFO that they are up, for which the supervisor waits, whatever the level of all others.
        "celery.beat": {"filters": ["without_ticks"], "level": "INFO"},
        "celery.apps.worker": {"level": "INFO"},
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
    },
}
