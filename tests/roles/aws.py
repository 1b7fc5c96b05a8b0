"""EC2's three ways to change an instance profile, in memory: where faults, crashes and rivals are wanted."""

import itertools
from collections.abc import Callable

from fleetops.aws.errors import AccessDenied, AwsError, Unavailable
from fleetops.aws.profiles import Association
from fleetops.aws.records import Ec2Instance


class Killed(BaseException):
    """The worker is gone at this line."""


class Ec2:
    """Which instance has which profile; each change gives an association another id, as at AWS."""

    def __init__(self, monkeypatch) -> None:
        self.held: dict[str, Association] = {}
        self.terminated: set[str] = set()
        self.calls: list[str] = []
        self.at: dict[str, Callable[[], None]] = {}  # "associate before", "replace after": what happens there, once
        self._ids = itertools.count(1)
        for name in ("associations", "associate", "replace", "disassociate"):
            monkeypatch.setattr(f"fleetops.roles.reconcile.profiles.{name}", getattr(self, name))
        monkeypatch.setattr("fleetops.roles.reconcile.ec2.instances", self.instances)

    def put(self, instance_id: str, arn: str) -> None:
        """As somebody does in the console."""
        if arn:
            self.held[instance_id] = Association(f"iip-{next(self._ids)}", instance_id, arn, "associated")
        else:
            self.held.pop(instance_id, None)

    def profile(self, instance_id: str) -> str:
        return self.held[instance_id].profile_arn if instance_id in self.held else ""

    def _passes(self, name: str, when: str) -> None:
        if deed := self.at.pop(f"{name} {when}", None):
            deed()

    def associations(self, access, region, instance_ids, *, session_name):
        self.calls.append("associations")
        self._passes("associations", "before")
        found = {each: self.held[each] for each in instance_ids if each in self.held}
        self._passes("associations", "after")
        return found

    def instances(self, access, region, instance_ids, *, session_name):
        return [Ec2Instance(each, "running") for each in instance_ids if each not in self.terminated]

    def associate(self, access, region, *, instance_id, profile_arn, session_name):
        self.calls.append("associate")
        self._passes("associate", "before")
        if instance_id in self.terminated:
            raise AwsError("InvalidInstanceID.NotFound", "no such instance")
        if instance_id in self.held:
            raise AwsError("IncorrectState", "There is an existing association")
        self.put(instance_id, profile_arn)
        self._passes("associate", "after")
        return self.held[instance_id]

    def _of(self, association_id: str) -> Association:
        for each in self.held.values():
            if each.association_id == association_id:
                return each
        raise AwsError("InvalidAssociationID.NotFound", "no such association")

    def replace(self, access, region, *, association_id, profile_arn, session_name):
        self.calls.append("replace")
        self._passes("replace", "before")
        self.put(self._of(association_id).instance_id, profile_arn)
        self._passes("replace", "after")

    def disassociate(self, access, region, *, association_id, session_name):
        self.calls.append("disassociate")
        self._passes("disassociate", "before")
        self.put(self._of(association_id).instance_id, "")
        self._passes("disassociate", "after")


def throttled() -> None:
    error = Unavailable("RequestLimitExceeded", "slower")
    error.is_throttled = True
    raise error


def denied() -> None:
    raise AccessDenied("UnauthorizedOperation", "not authorized to perform: iam:PassRole")


def killed() -> None:
    raise Killed


def lost() -> None:
    """AWS did it, and its answer does not arrive."""
    error = Unavailable("ReadTimeoutError", "no answer")
    error.is_outcome_unknown = True
    raise error
