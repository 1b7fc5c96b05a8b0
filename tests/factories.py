"""The least valid row of each kind."""

import itertools
import json
import uuid
from collections.abc import Collection
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import Group

from fleetops.approvals import services as approvals
from fleetops.automation.models import Execution
from fleetops.aws.security_groups import InboundRule
from fleetops.clock import now
from fleetops.exposure.models import Closing
from fleetops.exposure.models import Group as ExposingGroup
from fleetops.identity.models import User
from fleetops.inventory.models import Account, Instance, InstanceTag, Region
from fleetops.library.models import Document, DocumentVersion
from fleetops.roles.catalogue.models import Role as IamRole
from fleetops.roles.models import RoleAttachment, RoleFinding, RoleRule
from fleetops.rollouts.models import ClusterRule, GateCheck, Run, RunTarget, Wave
from fleetops.rollouts.scheduling.models import Occurrence, RunSchedule
from fleetops.runcommand.models import Command, Invocation
from patching.content import Content
from patching.emergency.models import Emergency
from patching.models import BaselineVersion, PatchBaseline, PinnedSet, Write
from patching.pinned import Entry, digest_of
from sessions_app.attached.models import ConnectOrder
from sessions_app.models import Grant, GrantTarget, RestrictedShell, TerminalSession
from sessions_app.states import GrantState, SessionState
from sessions_app.transfers.models import Transfer

_numbers = itertools.count(1)


def make_user(username: str = "", *, role: str = "", password: str = "correct horse battery", **fields: Any) -> User:
    """A user in the role named, which `sync_roles` must have made."""
    user = User.objects.create_user(username or f"user{next(_numbers)}", password=password, **fields)
    if role:
        user.groups.add(Group.objects.get(name=role))
    return user


def make_account(account_id: str = "111122223333", **fields: Any) -> Account:
    return Account.objects.get_or_create(
        account_id=account_id, defaults={"name": f"account-{account_id[:4]}"} | fields
    )[0]


def make_region(name: str = "eu-west-1", *, account: Account | None = None) -> Region:
    return Region.objects.get_or_create(account=account or make_account(), name=name)[0]


def make_instance(*, region: Region | None = None, tags: dict[str, str] | None = None, **fields: Any) -> Instance:
    """A running, online instance."""
    region = region or make_region()
    number = next(_numbers)
    defaults = {
        "instance_id": f"i-{number:017x}",
        "name": f"node-{number}",
        "ec2_state": "running",
        "profile_arn": f"arn:aws:iam::{region.account.account_id}:instance-profile/ssm-core",
        "ping_status": "Online",
        "last_ping_at": now(),
        "ec2_read_at": now(),
        "ssm_read_at": now(),
        "platform_type": "Linux",
        "platform_name": "Ubuntu",
        "platform_version": "24.04",
        "agent_version": "3.3.2299.0",
        "tags": tags or {},
    }
    instance = Instance.objects.create(account=region.account, region=region, **(defaults | fields))
    InstanceTag.objects.bulk_create(InstanceTag(instance=instance, key=k, value=v) for k, v in (tags or {}).items())
    return instance


def make_session(*, user: User, instance: Instance | None = None, **fields: Any) -> TerminalSession:
    """An open session."""
    instance = instance or make_instance()
    defaults = {
        "user_name": user.username,
        "instance_id": instance.instance_id,
        "instance_name": str(instance),
        "account_id": instance.account.account_id,
        "region": instance.region.name,
        "state": SessionState.OPEN,
        "ssm_session_id": f"{user.username}-{next(_numbers):017x}",
        "started_at": now(),
    }
    return TerminalSession.objects.create(user=user, instance_row=instance, **(defaults | fields))


def make_transfer(*, parent: TerminalSession, **fields: Any) -> Transfer:
    """A file that went along with a shell, or is on its way."""
    is_open = fields.get("state") in ("waiting", "running")
    session = make_session(
        user=parent.user,
        instance=parent.instance_row,
        kind="transfer",
        state=SessionState.OPEN if is_open else SessionState.ENDED,
        ssm_session_id=f"{parent.user_name}-{next(_numbers):017x}",
    )
    defaults = {"direction": "upload", "state": "done", "path": "/srv/file", "name": "file", "size": 3}
    return Transfer.objects.create(session=session, parent=parent, **(defaults | fields))


def make_restricted_shell(name: str = "", **fields: Any) -> RestrictedShell:
    fields = {"linux": "exec cat", **fields}
    return RestrictedShell.objects.create(name=name or f"shell-{next(_numbers)}", **fields)


def make_execution(*, user: User, region: Region | None = None, **fields: Any) -> Execution:
    """An execution of a runbook that AWS is still to start."""
    region = region or make_region()
    defaults = {"document_name": "say-it", "actor": user, "actor_name": user.username}
    return Execution.objects.create(account=region.account, region=region, **(defaults | fields))


def make_role_attachment(*, user: User, instance: Instance | None = None, **fields: Any) -> RoleAttachment:
    """A lease that is to be put in place."""
    instance = instance or make_instance()
    defaults = {
        "account": instance.account,
        "region": instance.region,
        "instance_name": str(instance),
        "profile_arn": f"arn:aws:iam::{instance.account.account_id}:instance-profile/core",
        "asked_by": user,
        "asked_by_name": user.username,
        "minutes": 60,
        "ends_at": now() + timedelta(hours=1),
    }
    return RoleAttachment.objects.create(instance=instance, **(defaults | fields))


def make_connect_order(*, user: User, instance: Instance) -> ConnectOrder:
    lease = make_role_attachment(user=user, instance=instance)
    return ConnectOrder.objects.create(user=user, instance=instance, lease=lease)


def make_exposing_group(instance: Instance, **fields: Any) -> ExposingGroup:
    """A security group of `instance` that opens SSH to the world."""
    rule = InboundRule("sg-0a1b2c3d", "sgr-0a1b2c3d", "tcp", 22, 22, cidr="0.0.0.0/0")
    defaults = {"group_id": "sg-0a1b2c3d", "name": "legacy-ssh", "rules": [rule.as_json()], "rank": 0}
    places = {"account": instance.account, "region": instance.region, "read_at": now()}
    group = ExposingGroup.objects.create(**(defaults | places | fields))
    group.instances.add(instance)
    return group


def make_closing(group: ExposingGroup, **fields: Any) -> Closing:
    """Rules of `group` that are being closed."""
    facts = {"group_id": group.group_id, "group_name": group.name, "rules": group.rules, "asked_by_name": "mei"}
    return Closing.objects.create(account=group.account, region=group.region, **(facts | fields))


def make_grant(*, user: User, instance: Instance | None = None, **fields: Any) -> Grant:
    """A request of `user` for a shell on `instance` that waits, or with `starts_at` and `ends_at` a grant."""
    instance = instance or make_instance()
    request = approvals.ask(
        deed="sessions.grant",
        summary=f"{user.username} asks for a shell on {instance}",
        requested_by=user,
        expires_at=now() + timedelta(hours=1),
        approvers=fields.pop("approvers", approvals.DEFAULT_APPROVERS),
    )
    facts = {"user_name": user.username, "reason": "INC-1", "minutes": 60}
    if "ends_at" in fields:
        facts |= {"state": GrantState.ACTIVE, "approvals": 1, "starts_at": now()}
    grant = Grant.objects.create(user=user, request=request, **(facts | fields))
    GrantTarget.objects.create(
        grant=grant,
        instance_row=instance,
        instance_id=instance.instance_id,
        instance_name=str(instance),
        account_id=instance.account.account_id,
        region=instance.region.name,
    )
    return grant


def make_document(
    name: str = "say-it", *, region: Region | None = None, text: str = "", owner: str = "", **fields: Any
) -> Document:
    """A command document of the account's own, or of `owner`, with one version that has been read."""
    region = region or make_region()
    facts = {
        "owner": owner or region.account.account_id,
        "document_type": "Command",
        "schema_version": "2.2",
        "document_format": "JSON",
        "platform_types": ["Linux"],
        "default_version": "1",
        "latest_version": "1",
        "read_at": now(),
    }
    made = Document.objects.create(account=region.account, region=region, name=name, **(facts | fields))
    step = {"action": "aws:runShellScript", "name": "say", "inputs": {"runCommand": ["echo hi"]}}
    text = text or json.dumps({"schemaVersion": "2.2", "description": "Says hi", "mainSteps": [step]})
    DocumentVersion.objects.create(document=made, number=1, content=text, document_format="JSON")
    return made


def make_baseline(
    name: str = "ubuntu-standard",
    *,
    region: Region | None = None,
    operating_system: str = "UBUNTU",
    owner: str = "Self",
    content: dict | None = None,
    **fields: Any,
) -> PatchBaseline:
    """A patch baseline of the account's own, or of AWS, that has been read once."""
    region = region or make_region()
    content = {"Name": name} | (content or {})
    facts = {"version": 1, "kept_version": 1, "read_at": now(), "baseline_id": f"pb-{uuid.uuid4().hex[:17]}"}
    made = PatchBaseline.objects.create(
        account=region.account,
        region=region,
        name=name,
        operating_system=operating_system,
        owner=owner,
        content=Content.of_aws(operating_system, content).to_aws(),
        **(facts | fields),
    )
    BaselineVersion.objects.create(baseline=made, number=1, content=made.content, origin="aws")
    return made


def make_write(baseline: PatchBaseline, **fields: Any) -> Write:
    """A change of a baseline that AWS has taken."""
    facts = {"batch": uuid.uuid4(), "deed": "update", "name": baseline.name, "actor_name": "paula", "state": "done"}
    return Write.objects.create(region=baseline.region, baseline=baseline, **(facts | fields))


def make_pinned_set(name: str = "canary", *, operating_system: str = "AMAZON_LINUX_2023", **fields: Any) -> PinnedSet:
    """A set of one patch, from one node."""
    entries = [Entry("openssl.x86_64", "openssl.x86_64:1:3.0.8-1.amzn2023")]
    node = {"instance_id": "i-1", "name": "al-1", "account_id": "111122223333", "region": "eu-west-1", "patches": 1}
    facts = {
        "entries": [{"id": each.id, "title": each.title} for each in entries],
        "digest": digest_of(entries),
        "nodes": [node | {"last_installed_at": None}],
        "actor_name": "paula",
    }
    return PinnedSet.objects.create(name=name, operating_system=operating_system, **(facts | fields))


def make_emergency(instance: Instance, name: str = "CVE-2026-1111", **fields: Any) -> Emergency:
    """One that somebody has started, with no run, for a node that lacks openssl."""
    asked = {"scope": "", "data": "", "spread": "once", "budget": "10%", "soak_minutes": 5, "reboot_option": "NoReboot"}
    facts = {"what": "cve", "asked": asked, "actor_name": "paula", "began_at": now()}
    made = Emergency.objects.create(name=name, **(facts | fields))
    place = {"account": instance.account, "region": instance.region}
    made.targets.create(instance=instance, mark="alone", patches=[["openssl", "openssl:3"]], **place)
    return made


def make_command(*, user: User, instances: Collection[Instance] = (), state: str = "running", **fields: Any) -> Command:
    """A command of `user` that waits on `instances`."""
    facts = {"document_name": "say-it", "actor": user, "actor_name": user.username, "started_at": now()}
    made = Command.objects.create(state=state, **(facts | fields))
    Invocation.objects.bulk_create(
        Invocation(
            command=made,
            instance_row=each,
            account=each.account,
            region=each.region,
            instance_id=each.instance_id,
            instance_name=str(each),
            document_version="1",
        )
        for each in instances
    )
    return made


def make_run(*, user: User, instances: Collection[Instance] = (), state: str = "running", **fields: Any) -> Run:
    """A run of `user` in one wave, with a gate behind it, whose targets wait."""
    facts = {"kind": "document", "name": "say it everywhere", "subject": {"document": "say-it"}, "targets_text": "all"}
    facts |= {"actor": user, "actor_name": user.username, "concurrency": "100%", "plan_hash": "0" * 64}
    if state != "draft":
        facts["started_at"] = now()
    made = Run.objects.create(state=state, **(facts | fields))
    wave = Wave.objects.create(run=made, position=1, name="All", state="running" if state == "running" else "pending")
    GateCheck.objects.create(wave=wave, position=1, kind="approval", settings={"quorum": 1})
    RunTarget.objects.bulk_create(
        RunTarget(
            run=made,
            wave=wave,
            position=position,
            instance_row=each,
            account=each.account,
            region=each.region,
            instance_id=each.instance_id,
            instance_name=str(each),
        )
        for position, each in enumerate(instances, 1)
    )
    return made


def make_schedule(*, owner: User, **fields: Any) -> RunSchedule:
    """A schedule of `owner` that is due tomorrow, with a moment that was missed and about which it asks."""
    moment = now()
    wanted = {"kind": "document", "subject": {"document": "say-it"}, "targets": "all"}
    facts = {"name": "Nightly", "wanted": wanted, "expression": "cron(0 2 * * ? *)", "owner": owner}
    facts |= {"owner_name": owner.username, "next_at": moment + timedelta(days=1)}
    made = RunSchedule.objects.create(**(facts | fields))
    Occurrence.objects.create(schedule=made, due_at=moment, wanted_at=moment, state="asked")
    return made


def make_cluster_rule(tag: str = "cluster", **fields: Any) -> ClusterRule:
    return ClusterRule.objects.create(tag=tag, **fields)


def make_role_rule(name: str = "All may", **fields: Any) -> RoleRule:
    return RoleRule.objects.create(name=name, **({"targets": "all", "profile_name": "*"} | fields))


def make_lease(instance: Instance, *, user: User, minutes: int | None = 60, **fields: Any) -> RoleAttachment:
    """A lease of `user` that stands."""
    facts = {
        "instance_name": str(instance),
        "profile_arn": f"arn:aws:iam::{instance.account.account_id}:instance-profile/leased",
        "state": "active",
        "asked_by": user,
        "asked_by_name": user.username,
        "minutes": minutes,
        "ends_at": None if minutes is None else now() + timedelta(minutes=minutes),
    }
    place = {"account": instance.account, "region": instance.region}
    return RoleAttachment.objects.create(instance=instance, **place, **(facts | fields))


def make_role_finding(instance: Instance, **fields: Any) -> RoleFinding:
    """Somebody put another role there."""
    prefix = f"arn:aws:iam::{instance.account.account_id}:instance-profile"
    facts = {"expected": f"{prefix}/ssm-core", "found": f"{prefix}/stranger"}
    place = {"account": instance.account, "region": instance.region}
    return RoleFinding.objects.create(instance=instance, **place, **(facts | fields))


def make_iam_role(account: Account, name: str = "app", **fields: Any) -> IamRole:
    """A role of IAM as the catalogue keeps it, with an instance profile of the same name."""
    facts = {"trust": "{}", "policies": [], "digest": "1", "allows": "no agent, nothing else", "read_at": now()}
    prefix = f"arn:aws:iam::{account.account_id}"
    made = IamRole.objects.create(account=account, arn=f"{prefix}:role/{name}", name=name, **(facts | fields))
    profile = f"{prefix}:instance-profile/{name}"
    made.profiles.create(account=account, arn=profile, name=name, read_at=now())
    return made
