"""What CloudTrail may show of a request's parameters: no secret, and nothing long, wide or deep."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

LONGEST_TEXT = 1024  # characters of one value that are kept
MOST_MEMBERS = 100  # of one list or structure
_LONGEST_NAME = 256
_DEEPEST = 12  # levels of a value; botocore's models of what we serve have less, and a caller may send a thousand
HIDDEN = "HIDDEN_DUE_TO_SECURITY_REASONS"
# Members that carry a secret, a token, or what people type.
_SECRET = re.compile(
    r"(token(value)?|sessiontoken|.*password|secret.*|.*secretkey|secretaccesskey|privatekey.*|keymaterial|newpublickey|"
    r"activationcode|plaintext.*|cleartext.*|ciphertext.*|authenticationcode\d?|userdata|messagebody|stringvalue|"
    r"binaryvalue|value|x-amz-.*)",
    re.IGNORECASE,
)
# AWS hides these whole: they hold commands.
_SECRET_BY_OPERATION = {
    "SendCommand": {"parameters"},
    "PutLogEvents": {"logEvents"},
    "Publish": {"message"},
    "PublishBatch": {"message", "publishBatchRequestEntries"},
    "PutEvents": {"entries"},
    **{key: {"message"} for key in ("Sign", "Verify", "GenerateMac", "VerifyMac")},
}
# "value" is a secret of PutParameter, and only a tag's text elsewhere.
_PLAIN_VALUES = {"value"}
_VALUE_IS_SECRET = {"PutParameter"}


def redact(value: Any, operation: str, depth: int = 0) -> Any:
    """Parameters as CloudTrail shows them: names in camel case, secrets hidden, what is long or deep cut."""
    if depth > _DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        hidden = _SECRET_BY_OPERATION.get(operation, set())
        shown = {}
        for key, item in islice(value.items(), MOST_MEMBERS):
            name = str(key)[:1].lower() + str(key)[1:_LONGEST_NAME]
            # A form writes its members as paths: LaunchTemplateData.UserData, Entry.1.MessageBody.
            last = next((part for part in reversed(name.split(".")) if not part.isdigit()), name)
            last = last[:1].lower() + last[1:]
            is_secret = _SECRET.fullmatch(last) and (last not in _PLAIN_VALUES or operation in _VALUE_IS_SECRET)
            shown[name] = HIDDEN if item and (is_secret or last in hidden) else redact(item, operation, depth + 1)
        return shown
    if isinstance(value, list | tuple):
        return [redact(item, operation, depth + 1) for item in value[:MOST_MEMBERS]]
    if isinstance(value, str):
        return value[:LONGEST_TEXT]
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return value if isinstance(value, int | float | bool) or value is None else str(value)[:LONGEST_TEXT]
