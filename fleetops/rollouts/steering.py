"""What people do to a run: release it, pause, resume, abort, try again, leave out, overrule. Each is audited."""

from fleetops.identity.models import User

from .models import GateCheck, Run, RunTarget, Wave


def may_steer(run: Run, user: User) -> bool:
    """Whether `user` may do to this run what stands below: their own run, or anybody's with the permission."""
    raise NotImplementedError


def release(run: Run, *, actor: User, plan_hash: str = "") -> None:
    """Let a plan go; `plan_hash` is what the person saw. Raises Denied, audited; UserError if it is out of date."""
    raise NotImplementedError


def pause(run: Run, *, actor: User, reason: str = "") -> None:
    """Send nothing more until it is resumed; what was sent goes on to its end. Raises Denied, UserError."""
    raise NotImplementedError


def resume(run: Run, *, actor: User, reason: str = "") -> None:
    """Go on after a pause, or after a stop with what the budget has left. Raises Denied, UserError."""
    raise NotImplementedError


def abort(run: Run, *, actor: User, reason: str = "", cancel: bool = False) -> None:
    """Send nothing more, for good; what was sent is awaited, or AWS is asked to cancel it. Raises Denied, UserError."""
    raise NotImplementedError


def retry_failed(run: Run, *, actor: User, wave: Wave | None = None, reason: str = "") -> int:
    """Queue the targets that failed anew; how many there are. Raises Denied, UserError."""
    raise NotImplementedError


def roll_forward(run: Run, *, actor: User, reason: str) -> None:
    """Accept the failures so far: they count against no budget any more, and it goes on. Raises Denied, UserError."""
    raise NotImplementedError


def skip_target(target: RunTarget, *, actor: User, reason: str) -> None:
    """Leave out a target that has not been sent, or failed. Raises Denied, UserError."""
    raise NotImplementedError


def skip_wave(wave: Wave, *, actor: User, reason: str) -> None:
    """Leave out what a wave has not sent yet, its soak and its gates. Raises Denied, UserError."""
    raise NotImplementedError


def overrule_gate(gate: GateCheck, *, actor: User, reason: str) -> None:
    """Go on in spite of a gate. Raises Denied, UserError."""
    raise NotImplementedError


def ask_override(run: Run, *, actor: User, reason: str) -> None:
    """Ask others to let the run go through freezes (deed "override_freeze"). Raises Denied, UserError."""
    raise NotImplementedError
