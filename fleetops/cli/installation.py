"""Where this installation keeps its state, whether it runs, and what it tells of itself in files."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from fleetops.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def home() -> Path:
    return Path(os.environ.get("FLEETOPS_HOME") or ROOT / ".fleetops").expanduser().resolve()


def is_running() -> bool:
    """Whether a supervisor holds the lock of this home. UserError if this user may not look."""
    try:
        with (home() / "run" / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read: {error.strerror}. Run this as the user who started FleetOps."
        ) from None
    return False


def supervisor_status() -> dict[str, Any]:
    """run/status.json; {} before the first start, and after a stop."""
    return read_json(home() / "run" / "status.json")


def handover() -> dict[str, Any]:
    """What the embedded endpoint tells of itself; {} where there is none."""
    return read_json(home() / "endpoint" / "handover.json")


def environment() -> dict[str, str]:
    """What manage.py needs to act on this home: as the supervisor says, or, when it does not run, as it would."""
    if is_running() and (found := supervisor_status()):
        return found["environment"]
    aws = home() / "aws"
    chosen = {"FLEETOPS_HOME": str(home()), "DJANGO_SETTINGS_MODULE": "fleetops.settings"}
    if os.environ.get("FLEETOPS_PROFILE", "embedded") == "embedded":
        chosen |= {
            "AWS_SHARED_CREDENTIALS_FILE": str(aws / "credentials"),
            "AWS_CONFIG_FILE": str(aws / "config"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    return chosen


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}. Run this as the user who started FleetOps."
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not whole ({error}); restart FleetOps, which writes it anew.") from None
