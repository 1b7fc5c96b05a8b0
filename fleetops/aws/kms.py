"""KMS: the data key of an encrypted session.

The key itself is in memory alone; whoever has the ciphertext needs KMS, the context and the permission to get it again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .clients import AccountAccess, client
from .errors import aws_call
from .ssm import person_tags


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data key, plain and under KMS's key."""

    plain: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)


def generate_data_key(
    access: AccountAccess,
    region: str,
    *,
    key_id: str,
    size: int,
    context: Mapping[str, str],
    session_name: str,
    source_identity: str,
    run_as: str = "",
) -> DataKey:
    """Call GenerateDataKey for a key of `size` bytes, bound to `context`. Raises AccessDenied, AwsError."""
    tags = person_tags(access, session_name, source_identity, run_as)
    kms = client("kms", access, region, session_name=session_name, source_identity=source_identity, tags=tags)
    with aws_call("kms:GenerateDataKey", where=key_id):
        answer = kms.generate_data_key(KeyId=key_id, NumberOfBytes=size, EncryptionContext=dict(context))
    return DataKey(bytes(answer["Plaintext"]), bytes(answer["CiphertextBlob"]))


def decrypt(
    access: AccountAccess,
    region: str,
    *,
    key_id: str,
    ciphertext: bytes,
    context: Mapping[str, str],
    session_name: str,
    source_identity: str,
    run_as: str = "",
) -> bytes:
    """Call Decrypt, under the context that the ciphertext was made with. Raises as generate_data_key does."""
    tags = person_tags(access, session_name, source_identity, run_as)
    kms = client("kms", access, region, session_name=session_name, source_identity=source_identity, tags=tags)
    with aws_call("kms:Decrypt", where=key_id):
        answer = kms.decrypt(KeyId=key_id, CiphertextBlob=ciphertext, EncryptionContext=dict(context))
    return bytes(answer["Plaintext"])
