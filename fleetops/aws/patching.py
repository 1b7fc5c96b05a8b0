"""Patch Manager: baselines, patch groups, what filters take, and which patches there are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from .clients import AccountAccess, Tags, client
from .errors import AwsError, aws_call
from .records import Page
from .ssm import USER_TAG

PAGE: Final = 100  # DescribePatchBaselines, DescribePatchGroups, DescribeAvailablePatches, DescribeInstancePatches
PROPERTY_PAGE: Final = 50  # DescribePatchProperties [botocore's model of ssm]


@dataclass(frozen=True, slots=True)
class BaselineRecord:
    """One baseline: as DescribePatchBaselines lists it, or whole, as GetPatchBaseline tells of it."""

    baseline_id: str  # pb-…, or an ARN where it is AWS's own
    name: str
    operating_system: str
    description: str = ""
    is_default: bool = False  # DescribePatchBaselines alone
    content: Mapping[str, Any] = field(default_factory=dict)  # GetPatchBaseline alone, in AWS's spelling
    created_at: datetime | None = None  # likewise
    modified_at: datetime | None = None  # likewise


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A patch group and the baseline that is registered for it."""

    name: str
    baseline_id: str
    operating_system: str


@dataclass(frozen=True, slots=True)
class AvailablePatch:
    """One patch of DescribeAvailablePatches."""

    name: str  # of the package; on Windows KB…
    title: str
    version: str = ""
    release: str = ""
    epoch: str = ""
    arch: str = ""
    product: str = ""
    product_family: str = ""
    classification: str = ""
    severity: str = ""
    released_at: datetime | None = None
    advisory_ids: tuple[str, ...] = ()
    cves: tuple[str, ...] = ()
    bugzilla_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodePatch:
    """How one patch stands on one node."""

    title: str
    kb_id: str
    classification: str
    severity: str
    state: str  # INSTALLED, MISSING, …
    installed_at: datetime | None = None
    cves: tuple[str, ...] = ()


# --- baselines -------------------------------------------------------------------------------------------------------


def baseline_pages(access: AccountAccess, region: str, *, session_name: str) -> Iterator[Page[BaselineRecord]]:
    """All baselines of a region, AWS's own among them, page by page of at most 100."""
    ssm = _client(access, region, session_name)
    request: dict[str, Any] = {"MaxResults": PAGE}
    while True:
        with aws_call("ssm:DescribePatchBaselines", where=f"{access.account_id} {region}"):
            answer = ssm.describe_patch_baselines(**request)
        page = Page(map(_listed, answer.get("BaselineIdentities", [])), answer.get("NextToken", ""))
        yield page
        if not page.token:
            return
        request["NextToken"] = page.token


def get_baseline(access: AccountAccess, region: str, *, baseline_id: str, session_name: str) -> BaselineRecord:
    """One baseline with its content. Raises AwsError with code DoesNotExistException if there is none."""
    ssm = _client(access, region, session_name)
    with aws_call("ssm:GetPatchBaseline", where=f"{access.account_id} {region}"):
        answer = ssm.get_patch_baseline(BaselineId=baseline_id)
    return BaselineRecord(
        baseline_id=answer["BaselineId"],
        name=answer.get("Name", ""),
        operating_system=answer.get("OperatingSystem", ""),
        description=answer.get("Description", ""),
        content={key: value for key, value in answer.items() if key in _CONTENT},
        created_at=answer.get("CreatedDate"),
        modified_at=answer.get("ModifiedDate"),
    )


_CONTENT: Final = frozenset(
    {
        "Name",
        "Description",
        "GlobalFilters",
        "ApprovalRules",
        "ApprovedPatches",
        "ApprovedPatchesComplianceLevel",
        "ApprovedPatchesEnableNonSecurity",
        "RejectedPatches",
        "RejectedPatchesAction",
        "Sources",
        "AvailableSecurityUpdatesComplianceStatus",
    }
)


def create_baseline(
    access: AccountAccess,
    region: str,
    *,
    operating_system: str,
    content: Mapping[str, Any],
    tags: Mapping[str, str],
    client_token: str,
    session_name: str,
    source_identity: str = "",
) -> str:
    """Make a baseline; its id. With the ClientToken of one that was made, AWS answers with that one's id."""
    ssm = _client(access, region, session_name, source_identity)
    request: dict[str, Any] = {"OperatingSystem": operating_system, "ClientToken": client_token, **content}
    if tags:
        request["Tags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
    with aws_call("ssm:CreatePatchBaseline", where=f"{access.account_id} {region}"):
        answer = ssm.create_patch_baseline(**request)
    return str(answer["BaselineId"])


def update_baseline(
    access: AccountAccess,
    region: str,
    *,
    baseline_id: str,
    content: Mapping[str, Any],
    session_name: str,
    source_identity: str = "",
) -> None:
    """Have a baseline say `content` and nothing else. Sent twice it changes nothing the second time."""
    ssm = _client(access, region, session_name, source_identity)
    with aws_call("ssm:UpdatePatchBaseline", where=f"{access.account_id} {region}"):
        ssm.update_patch_baseline(BaselineId=baseline_id, Replace=True, **content)


def delete_baseline(
    access: AccountAccess, region: str, *, baseline_id: str, session_name: str, source_identity: str = ""
) -> None:
    """Delete a baseline; one that is not there is no error. Raises AwsError with code ResourceInUseException."""
    ssm = _client(access, region, session_name, source_identity)
    with aws_call("ssm:DeletePatchBaseline", where=f"{access.account_id} {region}"):
        ssm.delete_patch_baseline(BaselineId=baseline_id)


def default_baseline(access: AccountAccess, region: str, *, operating_system: str, session_name: str) -> str:
    """The id of the baseline that is the default of an operating system."""
    ssm = _client(access, region, session_name)
    with aws_call("ssm:GetDefaultPatchBaseline", where=f"{access.account_id} {region}"):
        answer = ssm.get_default_patch_baseline(OperatingSystem=operating_system)
    return str(answer.get("BaselineId", ""))


def set_default_baseline(
    access: AccountAccess, region: str, *, baseline_id: str, session_name: str, source_identity: str = ""
) -> None:
    ssm = _client(access, region, session_name, source_identity)
    with aws_call("ssm:RegisterDefaultPatchBaseline", where=f"{access.account_id} {region}"):
        ssm.register_default_patch_baseline(BaselineId=baseline_id)


def baseline_tags(access: AccountAccess, region: str, *, baseline_id: str, session_name: str) -> dict[str, str]:
    ssm = _client(access, region, session_name)
    with aws_call("ssm:ListTagsForResource", where=f"{access.account_id} {region}"):
        answer = ssm.list_tags_for_resource(ResourceType="PatchBaseline", ResourceId=baseline_id)
    return {tag["Key"]: tag.get("Value", "") for tag in answer.get("TagList", [])}


# --- groups ----------------------------------------------------------------------------------------------------------


def group_pages(access: AccountAccess, region: str, *, session_name: str) -> Iterator[Page[GroupRecord]]:
    """All registrations of patch groups in a region, page by page of at most 100."""
    ssm = _client(access, region, session_name)
    request: dict[str, Any] = {"MaxResults": PAGE}
    while True:
        with aws_call("ssm:DescribePatchGroups", where=f"{access.account_id} {region}"):
            answer = ssm.describe_patch_groups(**request)
        page = Page(map(_group, answer.get("Mappings", [])), answer.get("NextToken", ""))
        yield page
        if not page.token:
            return
        request["NextToken"] = page.token


def register_group(
    access: AccountAccess, region: str, *, group: str, baseline_id: str, session_name: str, source_identity: str = ""
) -> None:
    """Raises AwsError with code AlreadyExistsException if the group has another baseline of that operating system."""
    ssm = _client(access, region, session_name, source_identity)
    with aws_call("ssm:RegisterPatchBaselineForPatchGroup", where=f"{access.account_id} {region}"):
        ssm.register_patch_baseline_for_patch_group(BaselineId=baseline_id, PatchGroup=group)


def deregister_group(
    access: AccountAccess, region: str, *, group: str, baseline_id: str, session_name: str, source_identity: str = ""
) -> None:
    """One that is not registered is no error."""
    ssm = _client(access, region, session_name, source_identity)
    with aws_call("ssm:DeregisterPatchBaselineForPatchGroup", where=f"{access.account_id} {region}"):
        ssm.deregister_patch_baseline_for_patch_group(BaselineId=baseline_id, PatchGroup=group)


# --- patches ---------------------------------------------------------------------------------------------------------


def property_values(
    access: AccountAccess, region: str, *, operating_system: str, key: str, patch_set: str, session_name: str
) -> list[str]:
    """What AWS takes for a filter key of an operating system, in AWS's order.

    Each property is a map whose keys AWS does not document further than by example ("Name"): the value that is asked
    for stands under the key's own name where there is one.
    """
    ssm = _client(access, region, session_name)
    request: dict[str, Any] = {"OperatingSystem": operating_system, "Property": key, "MaxResults": PROPERTY_PAGE}
    if operating_system == "WINDOWS":
        request["PatchSet"] = patch_set
    found: dict[str, None] = {}
    while True:
        with aws_call("ssm:DescribePatchProperties", where=f"{access.account_id} {region}"):
            answer = ssm.describe_patch_properties(**request)
        for told in answer.get("Properties", []):
            named = {name.lower(): value for name, value in told.items()}
            value = named.get("name") or named.get(key.lower()) or next(iter(told.values()), "")
            if value:
                found[str(value)] = None
        if not answer.get("NextToken"):
            return list(found)
        request["NextToken"] = answer["NextToken"]


def available_patch_pages(
    access: AccountAccess, region: str, *, filters: Mapping[str, Sequence[str]], session_name: str
) -> Iterator[Page[AvailablePatch]]:
    """Patches that there are for what `filters` say, page by page of at most 100. AWS wants PRODUCT among them."""
    ssm = _client(access, region, session_name)
    request: dict[str, Any] = {
        "Filters": [{"Key": key, "Values": list(values)} for key, values in filters.items()],
        "MaxResults": PAGE,
    }
    while True:
        with aws_call("ssm:DescribeAvailablePatches", where=f"{access.account_id} {region}"):
            answer = ssm.describe_available_patches(**request)
        page = Page(map(_available, answer.get("Patches", [])), answer.get("NextToken", ""))
        yield page
        if not page.token:
            return
        request["NextToken"] = page.token


def node_patch_pages(
    access: AccountAccess, region: str, *, instance_id: str, states: Sequence[str] = (), session_name: str
) -> Iterator[Page[NodePatch]]:
    """What a node has last reported of its patches, page by page of at most 100.

    `states` as the filter spells them ("Installed", "InstalledPendingReboot"); none for all.
    """
    ssm = _client(access, region, session_name)
    request: dict[str, Any] = {"InstanceId": instance_id, "MaxResults": PAGE}
    if states:
        request["Filters"] = [{"Key": "State", "Values": list(states)}]
    while True:
        with aws_call("ssm:DescribeInstancePatches", where=f"{access.account_id} {region}"):
            answer = ssm.describe_instance_patches(**request)
        page = Page(map(_node_patch, answer.get("Patches", [])), answer.get("NextToken", ""))
        yield page
        if not page.token:
            return
        request["NextToken"] = page.token


def is_missing(error: AwsError) -> bool:
    """Whether AWS says that there is no such baseline."""
    return error.code in {"DoesNotExistException", "InvalidResourceId"}


def _client(access: AccountAccess, region: str, session_name: str, source_identity: str = "") -> Any:
    tags: Tags = ((USER_TAG, session_name[:256]),) if source_identity and access.role_arn else ()
    return client("ssm", access, region, session_name=session_name, source_identity=source_identity, tags=tags)


def _listed(answer: Mapping[str, Any]) -> BaselineRecord:
    return BaselineRecord(
        baseline_id=answer["BaselineId"],
        name=answer.get("BaselineName", ""),
        operating_system=answer.get("OperatingSystem", ""),
        description=answer.get("BaselineDescription", ""),
        is_default=bool(answer.get("DefaultBaseline")),
    )


def _group(answer: Mapping[str, Any]) -> GroupRecord:
    identity = answer.get("BaselineIdentity", {})
    return GroupRecord(answer["PatchGroup"], identity.get("BaselineId", ""), identity.get("OperatingSystem", ""))


def _available(answer: Mapping[str, Any]) -> AvailablePatch:
    epoch = answer.get("Epoch")
    return AvailablePatch(
        name=answer.get("Name") or _article(answer.get("KbNumber", "")) or answer.get("Id", ""),
        title=answer.get("Title", ""),
        version=answer.get("Version", ""),
        release=answer.get("Release", ""),
        epoch="" if epoch is None else str(epoch),
        arch=answer.get("Arch", ""),
        product=answer.get("Product", ""),
        product_family=answer.get("ProductFamily", ""),
        classification=answer.get("Classification", ""),
        severity=answer.get("Severity") or answer.get("MsrcSeverity", ""),
        released_at=answer.get("ReleaseDate"),
        advisory_ids=(*answer.get("AdvisoryIds", ()), *filter(None, [answer.get("MsrcNumber", "")])),
        cves=tuple(answer.get("CVEIds", ())),
        bugzilla_ids=tuple(answer.get("BugzillaIds", ())),
    )


def _article(number: str) -> str:
    return f"KB{number}" if number.isdigit() else number


def _node_patch(answer: Mapping[str, Any]) -> NodePatch:
    installed_at = answer.get("InstalledTime")
    return NodePatch(
        title=answer.get("Title", ""),
        kb_id=answer.get("KBId", ""),
        classification=answer.get("Classification", ""),
        severity=answer.get("Severity", ""),
        state=answer.get("State", ""),
        # AWS fills in the first moment of all, or the year 1, where it knows none.
        installed_at=installed_at if installed_at is not None and installed_at.year > 1970 else None,
        cves=tuple(each.strip() for each in (answer.get("CVEIds") or "").split(",") if each.strip()),
    )
