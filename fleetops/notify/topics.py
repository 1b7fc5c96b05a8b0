"""What notices are about. A topic that nothing sends is not here; a room that sends one adds it."""

from typing import Final

EVERYTHING: Final = "*"
TEST: Final = "notify.test"
TOPICS: Final = {
    "inventory.region": "A region cannot be read",
    "backup": "A backup was not made",
    "sessions.delivery": "Sessions wait for CloudWatch Logs or S3",
    "sessions.grant.asked": "Somebody asks for access",
    "sessions.grant.decided": "A request for access was answered",
    "rollouts.stopped": "A run has stopped by itself",
    "rollouts.approval": "A run waits for an approval",
    "rollouts.ended": "A run has failed",
    "rollouts.waiting": "A scheduled run waits for its owner to start it",
    "rollouts.schedule": "A scheduled run was missed or refused",
    "patching.compliance": "Instances fall out of patch compliance",
    "patching.sla": "Missing patches are past their SLA",
    "patching.findings": "Findings cannot be sent to Security Hub",
    "roles.asked": "Somebody asks for a role on an instance",
    "roles.found": "A role was changed outside FleetOps",
    "readiness.ready": "An instance that somebody waits for is ready",
    TEST: "A test, sent by a person",
}
# In order of weight.
SEVERITIES: Final = ("info", "warning", "critical")
