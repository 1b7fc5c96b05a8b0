"""Beginning a transfer: what may be asked for, whether the policy lets it, and the session that carries it."""

from __future__ import annotations

from django.conf import settings

from fleetops.errors import Denied, FieldError, UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Instance
from fleetops.inventory.selection import facts_of
from fleetops.policy import services as policy
from fleetops.policy.decide import decide_session

from .. import questions, services
from ..models import TerminalSession
from ..states import Door, SessionKind, TransferDirection
from . import paths
from .models import Transfer


def limit_bytes() -> int:
    """The largest file that goes either way."""
    return settings.TRANSFER_MAX_BYTES


def begin(
    instance: Instance,
    *,
    actor: User,
    direction: str,
    path: str,
    name: str = "",
    size: int | None = None,
    overwrite: bool = False,
    parent: TerminalSession | None = None,
    reason: str = "",
    run_as: str = "",
    door: Door = Door.BROWSER,
) -> Transfer:
    """Make the session of a transfer; it begins when whoever asked opens its websocket.

    `name` is that of the file at the person's end; of an upload `size` is too. From a shell (`parent`) it goes as the
    OS user of that shell, for its reason, and by its grant where it needs one.

    Raises what services.open_session does; FieldError for what cannot be asked for; UserError for what is too large.
    """
    if direction not in TransferDirection.values:
        raise FieldError("direction", "Write upload or download.")
    is_upload = direction == TransferDirection.UPLOAD
    path = paths.checked_path(path)
    name = paths.checked_name(name or (paths.name_of(path) if not is_upload else ""))
    if is_upload:
        if size is None or size < 0:
            raise FieldError("size", "Say how many bytes the file has.")
        if size > limit_bytes():
            raise UserError(too_large(size))
    if parent is not None:
        if parent.user_id != actor.pk or parent.kind != SessionKind.SHELL or parent.instance_row_id != instance.pk:
            raise Denied("Files go along with a shell of your own on that instance.")
        if not parent.is_live:
            raise UserError("The shell that it was to be begun from has ended.")
        run_as = parent.run_as
        reason = reason or parent.reason
    if instance.platform_type == "Windows":
        raise UserError(
            f"Files go to and from Linux and macOS alone so far: {instance} has Windows. There, PowerShell can fetch "
            "from S3 what the instance's role may read."
        )
    overwrite = is_upload and overwrite
    transfer = Transfer(
        parent=parent,
        direction=direction,
        path=path,
        name=name,
        overwrite=overwrite,
        size=size if is_upload else None,
    )

    def also(session: TerminalSession) -> None:
        transfer.session = session
        transfer.save(force_insert=True)

    services.open_session(
        instance,
        actor=actor,
        reason=reason,
        kind=SessionKind.TRANSFER,
        door=door,
        parameters=paths.parameters(direction, path, name, overwrite=overwrite),
        run_as=run_as,
        grant_of=parent,
        about={"direction": direction, "path": path} | ({"parent": str(parent.pk)} if parent else {}),
        also=also,
    )
    return transfer


def may_try(instance: Instance, user: User, *, parent: TerminalSession | None = None) -> bool:
    """Whether that is worth a button: files may go, or would with a reason, a second factor or an approval."""
    if instance.platform_type == "Windows":
        return False
    asked = questions.opening(
        policy.actor_facts(user),
        facts_of(instance),
        policy.context(user, reason="asked"),
        kind=SessionKind.TRANSFER,
        run_as="" if parent is None else parent.run_as,
    )
    answer = decide_session(asked, policy.rules())
    return answer.may_try or answer.may_ask


def too_large(size: int) -> str:
    return f"The file has {in_bytes(size)}; at most {in_bytes(limit_bytes())} go (FLEETOPS_TRANSFER_MAX_MIB)."


def in_bytes(size: int) -> str:
    """ "512 MiB", "1.5 MiB", "17 bytes"."""
    if size < 1024:
        return "1 byte" if size == 1 else f"{size} bytes"
    power = min(3, (size.bit_length() - 1) // 10)
    return f"{size / 1024**power:.1f}".removesuffix(".0") + f" {('KiB', 'MiB', 'GiB')[power - 1]}"
