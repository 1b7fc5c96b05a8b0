"""What Patch Manager's parts tell each other: a baseline as one node obeys it, and what a node reports of a run."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum


class Operation(StrEnum):
    SCAN = "Scan"
    INSTALL = "Install"


class RebootOption(StrEnum):
    IF_NEEDED = "RebootIfNeeded"
    NO = "NoReboot"


class PatchState(StrEnum):
    """How one patch stands on one node [SSM, PatchComplianceDataState]."""

    INSTALLED = "INSTALLED"
    INSTALLED_OTHER = "INSTALLED_OTHER"
    INSTALLED_PENDING_REBOOT = "INSTALLED_PENDING_REBOOT"
    INSTALLED_REJECTED = "INSTALLED_REJECTED"
    MISSING = "MISSING"
    NOT_APPLICABLE = "NOT_APPLICABLE"
    FAILED = "FAILED"
    AVAILABLE_SECURITY_UPDATE = "AVAILABLE_SECURITY_UPDATE"


COMPLIANT = frozenset({PatchState.INSTALLED, PatchState.INSTALLED_OTHER})
NON_COMPLIANT = frozenset(
    {PatchState.INSTALLED_PENDING_REBOOT, PatchState.INSTALLED_REJECTED, PatchState.MISSING, PatchState.FAILED}
)
NAMELESS = frozenset({PatchState.INSTALLED_OTHER, PatchState.NOT_APPLICABLE})  # told without title, class, severity

# The worst first [SSM, PatchComplianceLevel].
LEVELS = ("CRITICAL", "HIGH", "MEDIUM", "LOW", "INFORMATIONAL", "UNSPECIFIED")


@dataclass(frozen=True, slots=True)
class Filter:
    """One PatchFilter: a patch has to have one of the values. `*` is any."""

    key: str  # PRODUCT, CLASSIFICATION, SEVERITY, PRIORITY, SECTION, ...
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One approval rule. Exactly one of the two moments is set; neither is where the family has no delay (apt)."""

    filters: tuple[Filter, ...] = ()
    approve_after_days: int | None = None  # 0 to 360 days after release or last update, counted in UTC
    approve_until: date | None = None  # released or last updated on this day or before
    compliance_level: str = "UNSPECIFIED"
    enable_non_security: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """A repository that a Linux node uses for the run. Its own it then does not: there are no others.

    Source: user guide, "How to specify an alternative patch source repository (Linux)"; SSM, PatchSource.
    """

    name: str
    products: tuple[str, ...]
    configuration: str


@dataclass(frozen=True, slots=True)
class Baseline:
    """A baseline as one node obeys it [SSM, GetPatchBaseline]."""

    baseline_id: str
    name: str
    operating_system: str
    global_filters: tuple[Filter, ...] = ()
    rules: tuple[Rule, ...] = ()
    approved: tuple[str, ...] = ()
    approved_level: str = "UNSPECIFIED"
    approved_enable_non_security: bool = False
    rejected: tuple[str, ...] = ()
    rejected_action: str = "ALLOW_AS_DEPENDENCY"  # or BLOCK
    sources: tuple[Source, ...] = ()
    available_security_updates_status: str = ""  # COMPLIANT or NON_COMPLIANT; of Windows baselines alone


@dataclass(frozen=True, slots=True)
class Candidate:
    """One patch that is there to be installed, as a baseline looks at it [SSM, Patch]."""

    name: str  # of the package; on Windows the number of its article, "KB5031364"
    version: str = ""
    release: str = ""
    epoch: str = ""
    arch: str = ""
    title: str = ""
    product: str = ""
    product_family: str = ""
    patch_set: str = "OS"
    classification: str = ""
    severity: str = ""  # on Windows MSRC's
    priority: str = ""
    section: str = ""
    # rpm: an update notice lists it; apt: it comes from a security repository; elsewhere all are.
    is_security: bool = True
    released_at: datetime | None = None  # or last updated; None where nobody knows
    advisory_ids: tuple[str, ...] = ()
    cves: tuple[str, ...] = ()
    bugzilla_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PatchFact:
    """One patch as a node tells of it [SSM, PatchComplianceData]."""

    title: str  # "openssl.x86_64:3.0.8-1.amzn2023"
    kb_id: str  # "openssl.x86_64"; the package's bare name where apt is
    classification: str
    severity: str
    state: PatchState
    installed_at: datetime | None = None
    cves: tuple[str, ...] = ()
    level: str = "UNSPECIFIED"  # of the rule or list that approved it


@dataclass(frozen=True, slots=True)
class Report:
    """What one run of AWS-RunPatchBaseline found on a node, whole and as the node digested it."""

    operation: Operation
    snapshot_id: str
    baseline_id: str
    reboot_option: RebootOption
    started_at: datetime
    ended_at: datetime
    patches: tuple[PatchFact, ...] = ()  # all but those that do not apply
    not_applicable: int = 0  # packages of the baseline that the node does not have: counted, not told one by one
    is_override: bool = False  # by a BaselineOverride: shown, and never the node's compliance
    install_override_list: str = ""  # its address; empty where none was given
    is_pending_reboot: bool = False
    last_no_reboot_install_at: datetime | None = None  # when the last Install with NoReboot installed something
    failures: tuple[str, ...] = ()  # in words, what went wrong
    counts: Counter[PatchState] = field(init=False, compare=False)  # by state

    def __post_init__(self) -> None:
        counted = Counter(patch.state for patch in self.patches)
        counted[PatchState.NOT_APPLICABLE] += self.not_applicable
        object.__setattr__(self, "counts", counted)
