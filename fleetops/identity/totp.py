"""Codes of an authenticator app (RFC 6238: SHA-1, six digits, a new one each 30 seconds). Pure: time is an argument.

allauth's own are not used: they read the clock themselves, remember a used code for less long than it is good for, and
can show recovery codes again.
"""

import base64
import hmac
import io
import secrets
from urllib.parse import quote, urlencode

import qrcode
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP
from qrcode.image.svg import SvgPathImage

PERIOD_SECONDS = 30
DIGITS = 6
TOLERANCE = 1  # steps before and after this one: a phone's clock may be half a minute off
SECRET_BYTES = 20  # RFC 4226, section 4: 160 bits


def new_secret() -> bytes:
    return secrets.token_bytes(SECRET_BYTES)


def step_of(at: float) -> int:
    """The number of the period in which the moment, in Unix seconds, lies."""
    return int(at) // PERIOD_SECONDS


def code_at(secret: bytes, step: int) -> str:
    return HOTP(secret, DIGITS, SHA1()).generate(step).decode()


def matching_step(secret: bytes, code: str, *, at: float, after: int) -> int | None:
    """The step whose code this is, of those that count at the moment and come after step `after`; None if none does."""
    now = step_of(at)
    found = None
    for step in range(now - TOLERANCE, now + TOLERANCE + 1):
        # All are compared, whichever matches: the time taken tells nothing.
        if hmac.compare_digest(code_at(secret, step).encode(), code.encode()) and step > after:
            found = step
    return found


def text_of(secret: bytes) -> str:
    """The secret for typing: base 32, in groups of four."""
    text = base64.b32encode(secret).decode().rstrip("=")
    return " ".join(text[at : at + 4] for at in range(0, len(text), 4))


def url_of(secret: bytes, *, username: str, issuer: str) -> str:
    """What the picture says to the app."""
    query = {"secret": base64.b32encode(secret).decode().rstrip("="), "issuer": issuer}
    return f"otpauth://totp/{quote(issuer)}:{quote(username)}?{urlencode(query, quote_via=quote)}"


def picture_of(url: str) -> str:
    """The URL as a QR code: an SVG in a data: URL, for an <img>."""
    out = io.BytesIO()
    qrcode.make(url, image_factory=SvgPathImage, border=2).save(out)
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode()
