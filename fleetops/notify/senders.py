"""Ways to send; `ways.py` says which kind of channel takes which."""

import hashlib
import hmac
import json
import re
import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage, get_connection
from django.core.validators import validate_email

from fleetops import fetch
from fleetops.clock import real_now
from fleetops.errors import UserError

from .models import Channel

MOST_RECIPIENTS = 20
_TIMEOUT_SECONDS = 10
# Of HTTP's refusals, those that another try may change: RFC 9110 15.5.9, RFC 8470, RFC 6585.
_TRY_AGAIN = frozenset({408, 425, 429})


class SendFailed(UserError):
    """It was not sent. `is_final`: trying again changes nothing. `wait_seconds`: how long the receiver asked us to."""

    def __init__(self, text: str, *, is_final: bool = False, wait_seconds: float = 0) -> None:
        self.is_final = is_final
        self.wait_seconds = wait_seconds
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sent, the same for every way."""

    id: str  # of the delivery: who gets it twice knows it by this
    topic: str
    severity: str
    title: str
    text: str
    url: str  # absolute; empty if there is no page
    at: datetime
    is_end: bool
    account_id: str = ""
    region: str = ""

    @property
    def subject(self) -> str:
        return f"{'Over: ' if self.is_end else ''}{self.title}"


class Sender(Protocol):
    """One kind of channel."""

    def check(self, address: str) -> None:
        """Raise UserError if `address` cannot be one of this kind."""

    def send(self, channel: Channel, letter: Letter) -> None:
        """Send, once. Raise SendFailed."""


class Email:
    """By SMTP, as FLEETOPS_SMTP_… say."""

    def check(self, address: str) -> None:
        if not settings.EMAIL_HOST:
            raise UserError("No mail server is set: give FLEETOPS_SMTP_HOST and FLEETOPS_SMTP_FROM, then restart.")
        recipients = addresses(address)
        if not 1 <= len(recipients) <= MOST_RECIPIENTS:
            raise UserError(f"Give 1 to {MOST_RECIPIENTS} e-mail addresses, with commas between.")
        for each in recipients:
            try:
                validate_email(each)
            except ValidationError:
                raise UserError(f"“{each}” is no e-mail address.") from None

    def send(self, channel: Channel, letter: Letter) -> None:
        lines = [letter.text or letter.subject]
        if letter.url:
            lines += ["", letter.url]
        lines += ["", f"FleetOps, {letter.at:%Y-%m-%d %H:%M:%S} UTC, {letter.topic}, {letter.severity}"]
        message = EmailMessage(
            subject=f"[FleetOps] {letter.subject}",
            body="\n".join(lines),
            from_email=settings.DEFAULT_FROM_EMAIL,
            to=addresses(channel.address),
            headers={"Message-ID": f"<{letter.id}@fleetops>", "Auto-Submitted": "auto-generated"},
            connection=get_connection(timeout=_TIMEOUT_SECONDS),
        )
        try:
            message.send()
        except smtplib.SMTPRecipientsRefused as error:
            refused = ", ".join(f"{who} ({code})" for who, (code, _) in error.recipients.items())
            final = all(500 <= code < 600 for code, _ in error.recipients.values())
            raise SendFailed(f"The mail server refuses the recipients: {refused}.", is_final=final) from None
        except smtplib.SMTPAuthenticationError:
            raise SendFailed("The mail server does not accept FLEETOPS_SMTP_USER and its password.") from None
        except smtplib.SMTPResponseException as error:
            final = 500 <= error.smtp_code < 600
            raise SendFailed(f"The mail server refuses the message ({error.smtp_code}).", is_final=final) from None
        except (smtplib.SMTPException, ssl.SSLError) as error:
            raise SendFailed(f"The mail server broke off ({type(error).__name__}).") from None
        except OSError as error:
            raise SendFailed(f"The mail server cannot be reached ({error.strerror or type(error).__name__}).") from None


def addresses(text: str) -> list[str]:
    return [each for each in re.split(r"[,;\s]+", text) if each]


class Webhook:
    """A POST of JSON, signed: see `sign`."""

    def check(self, address: str) -> None:
        fetch.check(address)

    def send(self, channel: Channel, letter: Letter) -> None:
        body = json.dumps(self.body(letter), separators=(",", ":")).encode()
        _post(channel, body, {"X-FleetOps-Delivery": letter.id, **self.signature(channel, body)})

    def body(self, letter: Letter) -> dict[str, Any]:
        return {
            "id": letter.id,
            "topic": letter.topic,
            "severity": letter.severity,
            "state": "over" if letter.is_end else "open",
            "title": letter.title,
            "text": letter.text,
            "url": letter.url,
            "account_id": letter.account_id,
            "region": letter.region,
            "at": letter.at.isoformat(),
        }

    def signature(self, channel: Channel, body: bytes) -> dict[str, str]:
        return (
            {"X-FleetOps-Signature": sign(channel.key(), body, int(real_now().timestamp()))}
            if channel.sealed_key
            else {}
        )


def sign(key: bytes, body: bytes, seconds: int) -> str:
    """What X-FleetOps-Signature says of `body`: "t=SECONDS,v1=HEX", HMAC-SHA256 over "SECONDS.BODY".

    The time is signed too, so that nobody sends the same body again later.
    """
    digest = hmac.new(key, b"%d." % seconds + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


class Slack(Webhook):
    """What Slack's incoming webhooks take, and Mattermost's, Rocket.Chat's and Google Chat's with them: {"text": …}."""

    def body(self, letter: Letter) -> dict[str, Any]:
        title, text = _escaped(letter.subject), _escaped(letter.text)
        return {
            "text": "\n".join(
                filter(None, (f"*{title}*", text, f"<{letter.url}|Open in FleetOps>" if letter.url else ""))
            )
        }


def _escaped(text: str) -> str:
    """Slack's three signs; without them a name could write a link or call everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _post(channel: Channel, body: bytes, headers: Mapping[str, str]) -> None:
    try:
        answer = fetch.fetch(
            channel.url(),
            method="POST",
            body=body,
            headers={"Content-Type": "application/json", **headers},
            max_bytes=64 * 1024,
            timeout_seconds=_TIMEOUT_SECONDS,
        )
    except fetch.FetchRefused as error:
        raise SendFailed(str(error), is_final=True) from None
    except fetch.FetchFailed as error:
        raise SendFailed(str(error)) from None
    if answer.status // 100 == 2:
        return
    again = answer.status >= 500 or answer.status in _TRY_AGAIN
    wait = answer.headers.get("retry-after", "")
    raise SendFailed(
        f"{channel.address} answers {answer.status}.",
        is_final=not again,
        wait_seconds=float(wait) if wait.isascii() and wait.isdigit() and len(wait) < 7 else 0,
    )
