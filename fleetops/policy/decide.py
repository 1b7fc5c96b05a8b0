"""May this person do this deed, on this, now, and why? From facts alone: no database, no clock.

What the rules mean, all of it:

- A rule is *in force* if it is enabled and the moment lies within its validity.
- It *applies* if it is in force, names the deed, names the person (everybody, the user, or a group they are in), and
  holds what is acted on: its targets match the instance, its documents the document, its OS users the OS user, its
  destinations where a port is forwarded to, and the session is whose it says.
- Of documents that open shells an allow that names none holds for the plain shell and for those of AWS and FleetOps;
  the account's own may bring an OS user and commands of their own, so they have to be named. The plain shell's name
  is SSM-SessionManagerRunShell.
- An allow may give its shells and files an OS user. It then holds for who asks for that one, or for none.
- A **deny** applies within its hours and from its networks alone, if it has any. One that applies decides: denied. Deny
  wins over every allow, however narrow.
- An **allow** that applies grants if all its conditions are met: hours, network, second factor, reason, approvals. One
  that grants is enough. Of several that grant, the one that asks for least counts, then the first by name: its IAM role
  and its demands are the decision's.
- Where none grants, the answer is no, and says what each allow that applies still lacks. Where none applies, no rule
  allows it, and the answer is no.
- What is not known counts against the person: an allow holds for an unknown instance only if it is for `all`, and from
  an unknown address only if it names no network; a deny holds in both cases. So does one whose expression can no longer
  be read, or hangs on tags that have not been read yet; an allow of that kind does not hold.
- How old a second factor may be is asked when something begins: what was open by then goes on.
- A shell that is open goes on only by an allow that gives the IAM role which it is open under, and the OS user if it
  gives one; and, if the allow wants a moderator, only if it was opened with one.

Rules have no order: nothing here looks at where one stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from fleetops.targets import Pattern, TargetFacts

from .facts import (
    DEED_NAMES,
    DEED_WORDS,
    OF_SESSIONS,
    PLAIN_SHELL,
    WITH_DOCUMENT,
    WITH_USER,
    ActorFacts,
    Context,
    Contribution,
    Decision,
    Deed,
    DeedRequest,
    Hours,
    Network,
    Obligations,
    Reason,
    RuleFacts,
)

__all__ = [
    "DEED_NAMES",
    "DEED_WORDS",
    "OF_SESSIONS",
    "PLAIN_SHELL",
    "UNMET",
    "WITH_DOCUMENT",
    "WITH_USER",
    "ActorFacts",
    "Context",
    "Contribution",
    "Decision",
    "Deed",
    "DeedRequest",
    "Hours",
    "Network",
    "Obligations",
    "Reason",
    "RuleFacts",
    "concerns",
    "decide",
    "decide_session",
    "deed_on",
    "destination_of",
    "explain",
    "in_force",
    "says_something",
]

# Nobody in an account can make one that is called like AWS's; FleetOps's are named by what is in them.
_KNOWN_DOCUMENTS: Final = (PLAIN_SHELL, "AWS-*", "FleetOps-*")
# What goes as an OS user of the instance; RUN_AS is asked besides.
_AS_A_USER: Final = frozenset({Deed.SHELL, Deed.TRANSFER})
# Letters and signs that count as printable and show nothing.
_BLANKS: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")


def decide(request: DeedRequest, rules: Sequence[RuleFacts]) -> Decision:
    """Deny wins; then an allow whose conditions are all met; else no."""
    if not request.actor.is_active:
        return Decision(False, (Reason("inactive", f"The account of {request.actor.name} may no longer log in."),))
    denying: list[RuleFacts] = []
    allowing: list[tuple[RuleFacts, tuple[str, ...]]] = []
    others: list[RuleFacts] = []  # that allow it in another way than it is open
    for rule in rules:
        if miss := _miss(rule, request):
            others += [rule] if miss == "under" else []
            continue
        if rule.is_deny:
            denying.append(rule)
        else:
            allowing.append((rule, _unmet(rule, request.context)))
    if denying:
        return Decision(False, tuple(_denial(rule, request) for rule in sorted(denying, key=_order)))
    granting = sorted((rule for rule, unmet in allowing if not unmet), key=lambda rule: _nearest(rule, request))
    if granting:
        rule = granting[0]
        return Decision(True, (Reason("allowed", f"Rule “{rule.name}” allows it.", rule.id, rule.name),), _asks(rule))
    if allowing:
        # Nearest is what a person can mend by a word.
        allowing.sort(key=lambda pair: (pair[1] != ("reason",), len(pair[1]), pair[1], _nearest(pair[0], request)))
        nearest, unmet = allowing[0]
        reasons = tuple(
            Reason(
                "lacks",
                f"Rule “{rule.name}” would allow it, but {_lacks(rule, request.context, each)}.",
                rule.id,
                rule.name,
            )
            for rule, each in allowing
        )
        return Decision(False, reasons, _asks(nearest), unmet)
    text = f"No rule allows {request.actor.name} to {deed_on(request)}"
    if others:
        is_other_role = all(rule.role_arn != request.under for rule in others)
        way = f"under {_role(request.under)}" if is_other_role else "as it was opened"
        return Decision(False, (Reason("role", f"{text} {way} any more. Open it anew."),))
    doubt = "" if request.target is None or request.target.tags_known else " Its tags have not been read yet."
    return Decision(False, (Reason("none", f"{text}.{doubt}"),))


def decide_session(request: DeedRequest, rules: Sequence[RuleFacts]) -> Decision:
    """Decide on a session, to be opened or open: on its deed and, if it is a shell or a file's, on its OS user.

    Who asks for an OS user needs RUN_AS besides, unless the rule that lets them have the session gives just that one.
    """
    shell = decide(request, rules)
    if request.deed not in _AS_A_USER or not request.run_as:
        return shell
    if shell.allowed and shell.obligations.shell_user == request.run_as:
        return shell
    if not shell.allowed and not shell.unmet:
        return shell
    user = decide(replace(request, deed=Deed.RUN_AS, under=None), rules)
    if shell.allowed and user.allowed:
        return Decision(True, shell.reasons + user.reasons, _both(shell.obligations, user.obligations))
    if not user.allowed and not user.unmet:
        return user
    lacking = [answer for answer in (shell, user) if not answer.allowed]
    unmet = tuple(each for each in UNMET if any(each in answer.unmet for answer in lacking))
    reasons = tuple(reason for answer in lacking for reason in answer.reasons)
    return Decision(False, reasons, _both(shell.obligations, user.obligations), unmet)


def destination_of(host: str, port: str) -> str:
    """Where a port is forwarded to, as rules are compared with it: "db.internal:5432". This instance is localhost."""
    name = host.strip().rstrip(".").lower() or "localhost"
    try:
        address = ip_address(name.strip("[]").partition("%")[0])  # wherever its zone is
    except ValueError:
        return f"{name}:{port}"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    # On Linux the unspecified address connects to the machine itself, as loopback does.
    if address.is_loopback or address.is_unspecified:
        return f"localhost:{port}"
    return f"[{address}]:{port}" if isinstance(address, IPv6Address) else f"{address}:{port}"


def explain(request: DeedRequest, rules: Iterable[RuleFacts]) -> list[Contribution]:
    """What each rule says to the question, those that decide first; `decide` answers from the same."""
    found = []
    for rule in rules:
        if miss := _miss(rule, request):
            found.append(Contribution(rule, "silent", _miss_text(rule, request, miss)))
        elif rule.is_deny:
            found.append(
                Contribution(rule, "denies", f"D{_denial(rule, request).text.removeprefix(_says(rule) + ' d')}")
            )
        elif unmet := _unmet(rule, request.context):
            found.append(Contribution(rule, "lacks", f"Would allow it, but {_lacks(rule, request.context, unmet)}."))
        else:
            found.append(Contribution(rule, "allows", "Allows it: all its conditions are met."))
    ranks = {"denies": 0, "allows": 1, "lacks": 2, "silent": 3}
    return sorted(found, key=lambda each: (ranks[each.verdict], _order(each.rule)))


def concerns(rule: RuleFacts, actor: ActorFacts) -> bool:
    """Whether the rule names this person."""
    return rule.everybody or actor.id in rule.users or not rule.groups.isdisjoint(actor.groups)


def in_force(rule: RuleFacts, at: datetime) -> bool:
    return (
        rule.enabled
        and (rule.valid_from is None or rule.valid_from <= at)
        and (rule.valid_until is None or at < rule.valid_until)
    )


def deed_on(request: DeedRequest) -> str:
    """ "open a shell on web-1"."""
    words = DEED_WORDS[Deed(request.deed)] if request.deed in DEED_WORDS else request.deed
    if request.run_as:
        words += f" ({request.run_as})"
    if request.document:
        words += f" ({request.document})"
    if request.destination:
        words += f" to {request.destination}"
    return words if request.target is None else f"{words} on {_named(request.target)}"


# --- does a rule apply -----------------------------------------------------------------------------------------------


def _miss(rule: RuleFacts, request: DeedRequest) -> str:
    """Why the rule does not apply, as a word; empty if it does."""
    deny = rule.is_deny
    if not in_force(rule, request.context.at):
        return "force"
    if request.deed not in rule.deeds:
        return "deed"
    if not concerns(rule, request.actor):
        return "who"
    if rule.whose != "any" and (rule.whose == "own") != (request.owner == request.actor.id != ""):
        return "whose"
    if not _holds_target(rule, request.target):
        return "target"
    if request.deed in WITH_DOCUMENT and not _holds_text(rule.documents, request.document, deny):
        return "document"
    if request.deed in WITH_USER and not _holds_text(rule.run_as, request.run_as, deny):
        return "run_as"
    if request.deed == Deed.SHELL and (miss := _shell_miss(rule, request)):
        return miss
    if request.deed in _AS_A_USER and rule.shell_user and request.run_as and rule.shell_user != request.run_as:
        return "shell_user"
    if request.deed == Deed.FORWARD and not _holds_text(rule.destinations, request.destination, deny):
        return "destination"
    if deny and rule.hours is not None and rule.hours.hold(request.context.at) is False:
        return "hours"
    if deny and rule.networks and _is_from(rule.networks, request.context.source_address) is False:
        return "network"
    if not deny and request.under is not None and not _goes_on(rule, request):
        return "under"
    return ""


def _shell_miss(rule: RuleFacts, request: DeedRequest) -> str:
    documents = rule.session_documents or (() if rule.is_deny else _KNOWN_DOCUMENTS)
    if not _holds_text(documents, request.document or PLAIN_SHELL, rule.is_deny):
        return "session_document"
    return ""


def _goes_on(rule: RuleFacts, request: DeedRequest) -> bool:
    """Whether a session that is open is as this allow would open it."""
    return (
        rule.role_arn == request.under
        and (not rule.shell_user or rule.shell_user == request.run_as or request.deed not in _AS_A_USER)
        and (not rule.needs_moderator or request.is_moderated or request.deed != Deed.SHELL)
    )


def _holds_target(rule: RuleFacts, target: TargetFacts | None) -> bool:
    if rule.targets is None:
        return rule.is_deny
    if target is None:
        return rule.is_deny or rule.targets.matches_everything
    told = rule.targets.tells(target)
    return rule.is_deny if told is None else told


def _holds_text(globs: tuple[str, ...], text: str, deny: bool) -> bool:
    """An allow has to name what it allows, with * for anything; a deny that names nothing denies all of it."""
    if not globs:
        return deny
    return any(Pattern(tuple(glob.split("*"))).matches(text) for glob in globs)


def _is_from(networks: tuple[Network, ...], address: str) -> bool | None:
    """Whether the address lies in one of the networks; None if there is none that can be read."""
    try:
        found: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in networks)


def says_something(reason: str) -> bool:
    """Whether there is a character in it that shows."""
    return any(each.isprintable() and not each.isspace() and each not in _BLANKS for each in reason)


# --- what an allow lacks ---------------------------------------------------------------------------------------------

UNMET: Final = ("hours", "network", "mfa", "approval", "reason")


def _unmet(rule: RuleFacts, context: Context) -> tuple[str, ...]:
    found = []
    if rule.hours is not None and not rule.hours.hold(context.at):
        found.append("hours")
    if rule.networks and not _is_from(rule.networks, context.source_address):
        found.append("network")
    if rule.needs_mfa and not _has_factor(rule, context):
        found.append("mfa")
    if rule.approvals > context.approvals:
        found.append("approval")
    if rule.needs_reason and not says_something(context.reason):
        found.append("reason")
    return tuple(found)


def _has_factor(rule: RuleFacts, context: Context) -> bool:
    if context.mfa_at is None:
        return False
    age = (context.began_at or context.at).timestamp() - context.mfa_at
    return not rule.mfa_minutes or age <= rule.mfa_minutes * 60


def _lacks(rule: RuleFacts, context: Context, unmet: tuple[str, ...]) -> str:
    parts = []
    for each in unmet:
        match each:
            case "hours":
                parts.append(f"holds only {rule.hours}")
            case "network":
                whence = f" (this comes from {context.source_address})" if context.source_address else ""
                parts.append(f"holds only from {', '.join(map(str, rule.networks))}{whence}")
            case "mfa":
                fresh = f" of the last {rule.mfa_minutes} minutes" if rule.mfa_minutes else ""
                parts.append(f"needs a log-in with a second factor{fresh}")
            case "approval":
                people = "1 other person" if rule.approvals == 1 else f"{rule.approvals} other people"
                parts.append(f"needs a request that {people} approved")
            case "reason":
                parts.append("needs a reason")
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _asks(rule: RuleFacts) -> Obligations:
    return Obligations(
        needs_reason=rule.needs_reason,
        needs_mfa=rule.needs_mfa,
        approvals=rule.approvals,
        role_arn=rule.role_arn,
        run_as=rule.run_as,
        shell_user=rule.shell_user,
        mfa_minutes=rule.mfa_minutes,
        needs_moderator=rule.needs_moderator,
        approvers=rule.approvers,
        grant_minutes=rule.grant_minutes,
    )


def _both(shell: Obligations, user: Obligations) -> Obligations:
    """What two rules demand together; who may approve is said by the one that wants more approvals."""
    asking = shell if shell.approvals >= user.approvals else user
    limits = [each.grant_minutes for each in (shell, user) if each.grant_minutes and each.approvals]
    return replace(
        shell,
        needs_reason=shell.needs_reason or user.needs_reason,
        needs_mfa=shell.needs_mfa or user.needs_mfa,
        mfa_minutes=min(filter(None, (shell.mfa_minutes, user.mfa_minutes)), default=0),
        needs_moderator=shell.needs_moderator or user.needs_moderator,
        approvals=asking.approvals,
        approvers=asking.approvers,
        grant_minutes=min(limits, default=0),
        run_as=user.run_as,
    )


def _order(rule: RuleFacts) -> tuple[str, str]:
    return rule.name, rule.id


def _nearest(rule: RuleFacts, request: DeedRequest) -> tuple[bool, int, str, str]:
    """Sorts first what gives the OS user that is asked for, then what asks for least."""
    gives_another = request.deed in _AS_A_USER and bool(request.run_as) and rule.shell_user != request.run_as
    return gives_another, rule.demands, rule.name, rule.id


# --- words -----------------------------------------------------------------------------------------------------------


def _denial(rule: RuleFacts, request: DeedRequest) -> Reason:
    if rule.targets is None:
        doubt = ", since its expression can no longer be read"
    elif request.target is None and not rule.targets.matches_everything:
        doubt = ", since it is not known on which instance"
    elif request.target is not None and rule.targets.tells(request.target) is None:
        doubt = ", since the tags of the instance have not been read yet"
    else:
        doubt = ""
    note = f": {rule.note.rstrip('.')}" if rule.note and not doubt else ""
    return Reason("denied", f"{_says(rule)} denies it{doubt}{note}.", rule.id, rule.name)


def _says(rule: RuleFacts) -> str:
    return f"Rule “{rule.name}”"


def _named(target: TargetFacts | None) -> str:
    return "an instance that is not known" if target is None else target.name or target.instance_id


def _role(arn: str | None) -> str:
    return f"the IAM role {arn}" if arn else "the account's own role"


def _miss_text(rule: RuleFacts, request: DeedRequest, miss: str) -> str:
    name = request.actor.name
    match miss:
        case "force":
            if not rule.enabled:
                return "Is switched off."
            is_early = rule.valid_from is not None and request.context.at < rule.valid_from
            moment = rule.valid_from if is_early else rule.valid_until
            return f"{'Holds from' if is_early else 'Held until'} {moment:%d %b %Y, %H:%M} UTC."
        case "deed":
            return "Is not about this deed."
        case "who":
            return f"Does not name {name}, nor a group of theirs."
        case "whose":
            return f"Is only about {'one’s own sessions' if rule.whose == 'own' else 'sessions of others'}."
        case "target":
            if rule.targets is None:
                return "Its expression can no longer be read, so it allows nothing."
            if request.target is not None and rule.targets.tells(request.target) is None:
                return f"Its instances are {rule.targets}; the tags of {_named(request.target)} are not read yet."
            return f"Its instances, {rule.targets}, do not include {_named(request.target)}."
        case "document":
            return f"Is only about the documents {', '.join(rule.documents) or 'that it names: none'}."
        case "run_as":
            return f"Is only about the OS users {', '.join(rule.run_as) or 'that it names: none'}."
        case "session_document":
            return f"Is only about {_documents(rule)}."
        case "shell_user":
            return f"Opens shells as {rule.shell_user}."
        case "destination":
            return f"Is only about ports at {', '.join(rule.destinations) or 'the places that it names: none'}."
        case "hours":
            return f"Denies only {rule.hours}."
        case "under":
            return f"Opens shells {_ways(rule)}."
        case _:
            return f"Denies only from {', '.join(map(str, rule.networks))}."


def _documents(rule: RuleFacts) -> str:
    if not rule.session_documents:
        return "the plain shell and the session documents of AWS and FleetOps"
    return f"the session documents {', '.join(rule.session_documents)}"


def _ways(rule: RuleFacts) -> str:
    user = f" as {rule.shell_user}" if rule.shell_user else ""
    return f"under {_role(rule.role_arn)}{user}{' with a moderator' if rule.needs_moderator else ''}"
