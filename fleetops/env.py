"""Settings as the environment gives them: typed, and refused with the way to mend them."""

import contextlib
import ipaddress
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from django.core.exceptions import ImproperlyConfigured


def env_str(name: str, default: str = "", *, choices: tuple[str, ...] = ()) -> str:
    value = os.environ.get(name, default)
    if choices and value not in choices:
        raise ImproperlyConfigured(f"{name}={value!r} is none of {', '.join(choices)}; set it to one of them.")
    return value


def env_int(name: str, default: int, *, low: int = 0, high: int = 2**31) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        raise ImproperlyConfigured(f"{name}={text!r} is not a whole number; unset it to use {default}.") from None
    if not low <= value <= high:
        raise ImproperlyConfigured(f"{name}={value} is outside {low} to {high}.")
    return value


def env_number(name: str, default: float, *, low: float, high: float) -> float:
    """As env_int, and fractions too: 0.5."""
    text = os.environ.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        raise ImproperlyConfigured(f"{name}={text!r} is not a number; unset it to use {default:g}.") from None
    if not low <= value <= high:  # as "nan" is not, either
        raise ImproperlyConfigured(f"{name}={text} is outside {low:g} to {high:g}.")
    return value


def env_bool(name: str, default: bool) -> bool:
    text = os.environ.get(name, "").lower()
    if not text:
        return default
    if text in {"1", "true", "yes", "on"}:
        return True
    if text in {"0", "false", "no", "off"}:
        return False
    raise ImproperlyConfigured(f"{name}={text!r} is neither yes nor no; set it to 1 or 0.")


def env_list(name: str, default: tuple[str, ...] = ()) -> list[str]:
    text = os.environ.get(name, "")
    return [item.strip() for item in text.split(",") if item.strip()] if text else list(default)


def env_networks(name: str) -> list[str]:
    """Networks in CIDR notation, with commas; an address alone is a network of one."""
    networks = []
    for item in env_list(name):
        try:
            networks.append(str(ipaddress.ip_network(item)))
        except ValueError:
            raise ImproperlyConfigured(
                f"{name}: {item!r} is no network; write it as 10.1.0.0/16, without host bits."
            ) from None
    return networks


@dataclass(frozen=True)
class Bucket:
    """A place in S3. `account`: AWS's digits of a linked account, under whose role it is reached; empty: as the base
    credentials."""

    name: str
    prefix: str
    region: str
    account: str
    kms_key: str


_BUCKET_OPTIONS = {"region": r"[a-z]{2}(-[a-z]+)+-\d", "account": r"\d{12}", "kms_key": r"arn:aws[a-z-]*:kms:\S+"}


def env_bucket(name: str) -> Bucket | None:
    """s3://BUCKET/PREFIX?region=REGION, and account= and kms_key= where wanted; None if it is not set."""
    text = os.environ.get(name, "")
    if not text:
        return None
    parts = urlsplit(text)
    options = dict(parse_qsl(parts.query))
    is_known = all(re.fullmatch(_BUCKET_OPTIONS.get(key, "$."), value) for key, value in options.items())
    if parts.scheme != "s3" or not parts.netloc or "region" not in options or not is_known or parts.fragment:
        raise ImproperlyConfigured(
            f"{name}={text!r} is no place in S3; write s3://BUCKET/PREFIX?region=eu-west-1, with &account= and its 12 "
            "digits for a linked account, and &kms_key= and an ARN if wanted."
        )
    given = {key: options.get(key, "") for key in _BUCKET_OPTIONS}
    return Bucket(name=parts.netloc, prefix=parts.path.strip("/"), **given)


def env_password(name: str) -> str:
    """A secret that others have chosen, so of any length: from NAME, or the file that NAME_FILE names; else empty."""
    if path := os.environ.get(f"{name}_FILE"):
        try:
            return Path(path).read_text().strip()
        except OSError as error:
            raise ImproperlyConfigured(f"{name}_FILE={path} cannot be read: {error.strerror}.") from None
    return os.environ.get(name, "")


SHORTEST_SECRET = 32  # characters; what is shorter can be guessed from one signed cookie


def env_secret(name: str, *, generated_file: Path | None = None, length: int = 50) -> str:
    """A secret from NAME, or the file that NAME_FILE names, or, if given, `generated_file` (made 0600 when absent)."""
    if value := os.environ.get(name):
        return _long_enough(value.strip(), name)
    if path := os.environ.get(f"{name}_FILE"):
        try:
            return _long_enough(Path(path).read_text().strip(), f"{name}_FILE={path}")
        except OSError as error:
            raise ImproperlyConfigured(f"{name}_FILE={path} cannot be read: {error.strerror}.") from None
    if generated_file is None:
        raise ImproperlyConfigured(f"Set {name}, or {name}_FILE to a file that holds it.")
    return _generated(generated_file, length)


def _long_enough(secret: str, source: str) -> str:
    if len(secret) < SHORTEST_SECRET:
        raise ImproperlyConfigured(
            f"{source} holds {len(secret)} characters, and a secret has at least {SHORTEST_SECRET}. "
            'Make one: python3 -c "import secrets; print(secrets.token_urlsafe(50))"'
        )
    return secret


def _generated(path: Path, length: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Written whole under another name and then linked: of two processes that start at once, one makes the secret and
    # both read the same one.
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(length))
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        os.unlink(fresh)
    return path.read_text().strip()
