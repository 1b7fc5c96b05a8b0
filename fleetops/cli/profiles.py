"""Where the command keeps its log-ins: $XDG_CONFIG_HOME/fleetops/profiles.json, which only its user can read."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fleetops.cli.errors import Refused

DEFAULT = "default"


@dataclass(frozen=True)
class Profile:
    """One log-in."""

    url: str
    token: str = field(default="", repr=False)
    username: str = ""
    expires_at: str = ""
    ca_file: str = ""


def path() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".config") / "fleetops" / "profiles.json"


def read() -> dict[str, Profile]:
    """All profiles by name. Raises Refused if the file cannot be read, or others can read it."""
    file = path()
    try:
        with file.open() as opened:
            mode = os.fstat(opened.fileno()).st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise Refused(f"{file} holds tokens, and others can read it. Take that away: chmod 600 {file}")
            found = json.load(opened)
        return {
            str(name): Profile(**{key: str(given.get(key, "")) for key in Profile.__dataclass_fields__})
            for name, given in found["profiles"].items()
        }
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Refused(f"{file} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise Refused(f"{file} is not what `fleetops login` wrote; remove it, and log in again.") from None


def write(profiles: Mapping[str, Profile]) -> None:
    """Put `profiles` in the file's place, whole or not at all, mode 0600."""
    file = path()
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as opened:
                json.dump({"profiles": {name: asdict(profile) for name, profile in profiles.items()}}, opened, indent=2)
                opened.write("\n")
            os.replace(fresh, file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(fresh)
            raise
    except OSError as error:
        raise Refused(
            f"{file} cannot be written: {error.strerror}. Set XDG_CONFIG_HOME to a directory of yours."
        ) from None


def keep(name: str, profile: Profile) -> None:
    write(read() | {name: profile})


def forget(name: str) -> None:
    write({other: profile for other, profile in read().items() if other != name})
