"""The Celery application: workers carry out tasks, beat only ticks."""

import os

from celery import Celery
from celery.signals import heartbeat_sent

from fleetops import pulse, taskwatch  # noqa: F401  (the second connects itself to what Celery tells)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleetops.settings")
# Django's checks load every page and the API, of which no worker and no beat serves one; a test runs them.
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")

app = Celery("fleetops")
app.set_default()  # in every thread: a page that hands a task over runs in one of its server's
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@heartbeat_sent.connect
def _beat_of_a_worker(**_) -> None:
    """A worker's main loop sends one every 2 s, through the broker."""
    pulse.touch()


app.conf.beat_schedule = {
    "inventory.read_queues": {
        "task": "fleetops.inventory.tasks.read_queues",
        "schedule": 5.0,
        "options": {"expires": 5},
    },
    "inventory.refresh_due_regions": {"task": "fleetops.inventory.tasks.refresh_due_regions", "schedule": 5.0},
    "inventory.tell_ceilings": {
        "task": "fleetops.inventory.tasks.tell_ceilings",
        "schedule": 15.0,
        "options": {"expires": 15},
    },
    "inventory.lift_stray_ceilings": {
        "task": "fleetops.inventory.tasks.lift_stray_ceilings",
        "schedule": 300.0,
        "options": {"expires": 60},
    },
    "library.read_due_shelves": {
        "task": "fleetops.library.tasks.read_due_shelves",
        "schedule": 10.0,
        "options": {"expires": 10},
    },
    "patching.read_due": {"task": "patching.tasks.read_due", "schedule": 10.0, "options": {"expires": 10}},
    "patching.heal_due": {"task": "patching.tasks.heal_due", "schedule": 2.0, "options": {"expires": 2}},
    "patching.read_asked": {"task": "patching.tasks.read_asked", "schedule": 2.0, "options": {"expires": 2}},
    "compliance.read_due": {
        "task": "patching.compliance.tasks.read_due",
        "schedule": 5.0,
        "options": {"expires": 5},
    },
    "compliance.tell_due": {
        "task": "patching.compliance.tasks.tell_due",
        "schedule": 10.0,
        "options": {"expires": 10},
    },
    "automation.wake": {
        "task": "fleetops.automation.tasks.wake",
        "schedule": 2.0,
        "options": {"expires": 4},
    },
    "runcommand.advance_due": {
        "task": "fleetops.runcommand.tasks.advance_due",
        "schedule": 2.0,
        "options": {"expires": 4},
    },
    "runcommand.drop_old_drafts": {
        "task": "fleetops.runcommand.tasks.drop_old_drafts",
        "schedule": 900.0,
        "options": {"expires": 600},
    },
    "rollouts.advance_due": {
        "task": "fleetops.rollouts.tasks.advance_due",
        "schedule": 2.0,
        "options": {"expires": 4},
    },
    "scheduling.wake": {
        "task": "fleetops.rollouts.scheduling.tasks.wake",
        "schedule": 5.0,
        "options": {"expires": 30},  # a worker that is behind comes to one of them
    },
    "scheduling.drop_old": {
        "task": "fleetops.rollouts.scheduling.tasks.drop_old",
        "schedule": 86400.0,
        "options": {"expires": 3600},
    },
    "attached.settle": {
        "task": "sessions_app.attached.tasks.settle",
        "schedule": 2.0,
        "options": {"expires": 10},
    },
    "exposure.wake": {
        "task": "fleetops.exposure.tasks.wake",
        "schedule": 5.0,
        "options": {"expires": 5},
    },
    "roles.wake": {
        "task": "fleetops.roles.tasks.wake",
        "schedule": 2.0,
        "options": {"expires": 10},
    },
    "role_catalogue.read_due": {
        "task": "fleetops.roles.catalogue.tasks.read_due",
        "schedule": 5.0,
        "options": {"expires": 5},
    },
    "roles.look_for_rules": {
        "task": "fleetops.roles.tasks.look_for_rules",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
    "rollouts.drop_old_drafts": {
        "task": "fleetops.rollouts.tasks.drop_old_drafts",
        "schedule": 3600.0,
        "options": {"expires": 600},
    },
    "notify.deliver_due": {
        "task": "fleetops.notify.tasks.deliver_due",
        "schedule": 3.0,
        "options": {"expires": 10},
    },
    "notify.tidy": {"task": "fleetops.notify.tasks.tidy", "schedule": 3600.0, "options": {"expires": 600}},
    "calendars.fetch_due": {
        "task": "fleetops.calendars.tasks.fetch_due",
        "schedule": 30.0,
        "options": {"expires": 30},
    },
    "approvals.expire_due": {
        "task": "fleetops.approvals.tasks.expire_due",
        "schedule": 15.0,
        "options": {"expires": 30},
    },
    "audit.seal": {"task": "fleetops.audit.tasks.seal", "schedule": 1.0, "options": {"expires": 10}},
    "audit.verify": {"task": "fleetops.audit.tasks.verify", "schedule": 3600.0, "options": {"expires": 600}},
    "sessions.ship_chunks": {"task": "sessions_app.tasks.ship_chunks", "schedule": 5.0, "options": {"expires": 20}},
    "sessions.settle_grants": {
        "task": "sessions_app.tasks.settle_grants",
        "schedule": 5.0,
        "options": {"expires": 20},
    },
    "sessions.deliver_logs": {
        "task": "sessions_app.tasks.deliver_logs",
        "schedule": 1.0,
        "options": {"expires": 3},
    },
    "sessions.tell_late_deliveries": {
        "task": "sessions_app.tasks.tell_late_deliveries",
        "schedule": 30.0,
        "options": {"expires": 30},
    },
    "sessions.copy_recordings": {
        "task": "sessions_app.tasks.copy_recordings",
        "schedule": 5.0,
        "options": {"expires": 5},
    },
    "sessions.prepare_documents": {
        "task": "sessions_app.tasks.prepare_documents",
        "schedule": 30.0,
        "options": {"expires": 25},
    },
    "sessions.tidy": {"task": "sessions_app.tasks.tidy", "schedule": 10.0, "options": {"expires": 30}},
}
