"""The endpoint's own settings: its database and directory, and nothing of the product's."""

from pathlib import Path

from fleetops.env import env_int, env_networks, env_str

# All state of the endpoint: keys, database, moto's journal, the demo nodes' homes. `--home` sets it.
HOME = Path(env_str("FLEETOPS_ENDPOINT_HOME", str(Path.cwd() / ".fleetops" / "endpoint"))).resolve()
_DATABASE_URL = env_str("FLEETOPS_ENDPOINT_DATABASE_URL", f"sqlite:///{HOME}/endpoint.sqlite3")

DEBUG = False
USE_TZ = True
TIME_ZONE = "UTC"
SECRET_KEY = "unused: the endpoint signs with the keys in its own directory"
INSTALLED_APPS = ["fleetops.endpoint"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"


def _database(url: str) -> dict:
    """Django's database settings from sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/NAME."""
    from urllib.parse import unquote, urlsplit

    from django.core.exceptions import ImproperlyConfigured

    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": parts.path,
            "CONN_MAX_AGE": None,
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;PRAGMA journal_size_limit=27103364",
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
            "CONN_MAX_AGE": None,
            "CONN_HEALTH_CHECKS": True,
        }
    raise ImproperlyConfigured(
        f"FLEETOPS_ENDPOINT_DATABASE_URL={url!r} is neither sqlite:///PATH nor "
        "postgresql://USER:PASSWORD@HOST:PORT/NAME."
    )


DATABASES = {"default": _database(_DATABASE_URL)}

# A request larger than this is refused; S3's limit for one PUT is far higher, ours keeps a body in memory.
LARGEST_REQUEST_BYTES = env_int("FLEETOPS_ENDPOINT_REQUEST_MIB", 16, low=1) * 2**20
LARGEST_S3_REQUEST_BYTES = env_int("FLEETOPS_ENDPOINT_S3_REQUEST_MIB", 64, low=1) * 2**20
# A node that has not pinged for this long is ConnectionLost. AWS's agent pings every five minutes.
PING_SECONDS = env_int("FLEETOPS_ENDPOINT_PING_SECONDS", 330, low=5)
HEARTBEAT_FLUSH_SECONDS = env_int("FLEETOPS_ENDPOINT_HEARTBEAT_FLUSH_SECONDS", 10, low=1)
# How long GetMessages waits: the agent's client gives up after 20 s, and sleeps after an answer that took under 1 s.
POLL_SECONDS = env_int("FLEETOPS_ENDPOINT_POLL_SECONDS", 15, low=1, high=19)
# Invocations of an account and region that no node has acknowledged yet; with a command that goes beyond, none of its
# nodes is told (RateExceeded). AWS names no number: ours is ten commands to a fleet of ten thousand that is away.
MOST_PENDING = env_int("FLEETOPS_ENDPOINT_PENDING_INVOCATIONS", 100_000, low=1)
# CloudTrail's event history reaches back 90 days; events of reads are kept for a shorter time, there are so many.
TRAIL_DAYS = env_int("FLEETOPS_ENDPOINT_TRAIL_DAYS", 90, low=1)
TRAIL_READ_DAYS = env_int("FLEETOPS_ENDPOINT_TRAIL_READ_DAYS", 14, low=1)

# Whether faults may be asked for (faults.py). Never where somebody relies on this endpoint.
FAULTS = env_str("FLEETOPS_PROFILE", "embedded", choices=("embedded", "production")) == "embedded"

# Lists of patches may lie behind https (patch/overrides.py): the same bounds as for what users give the product.
FETCH_ALLOWED_NETWORKS = env_networks("FLEETOPS_FETCH_ALLOWED_NETWORKS")
FETCH_CA_FILE = env_str("FLEETOPS_FETCH_CA_FILE")

LOG_LEVEL = env_str("FLEETOPS_LOG_LEVEL", "INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)-7s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        "botocore": {"level": "WARNING"},
        "uvicorn": {"level": "WARNING"},
        "werkzeug": {"level": "WARNING"},
    },
}
