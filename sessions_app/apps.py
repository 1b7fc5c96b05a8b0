from django.apps import AppConfig

from fleetops import metrics
from fleetops.clock import now
from fleetops.inventory.features import tell_use
from fleetops.inventory.removal import hold_removal
from fleetops.policy import standing
from fleetops.web.navigation import show_count

from .commandlog import lag
from .delivery import numbers
from .states import GrantState


class SessionsConfig(AppConfig):
    name = "sessions_app"
    label = "sessions_app"

    def ready(self):
        sessions = self.get_model("TerminalSession").objects

        def live(user) -> str:
            count = sessions.visible_to(user).live().count()
            return f"{count:,} live" if count else ""

        def holds(account) -> str:
            count = sessions.live().filter(account_id=account.account_id).count()
            people = "person has" if count == 1 else "people have"
            return f"{count} {people} a shell open in {account}. End it first, or wait for its end." if count else ""

        chunks = self.get_model("RecordingChunk").objects

        def oldest():
            at = chunks.filter(sent_at=None).order_by("sealed_at").values_list("sealed_at", flat=True).first()
            yield (), (now() - at).total_seconds() if at else 0

        metrics.ask(
            "fleetops_recording_chunks_unsent",
            "Sealed pieces of recordings that the store does not have yet.",
            (),
            lambda: [((), chunks.filter(sent_at=None).count())],
        )
        metrics.ask("fleetops_recording_unsent_oldest_seconds", "Age of the oldest of them.", (), oldest)
        metrics.ask(
            "fleetops_sessions_live", "Sessions that are opening or open.", (), lambda: [((), sessions.live().count())]
        )
        metrics.ask(
            "fleetops_commandlog_lag_seconds",
            "Age of the oldest sealed part of a recording that the command log has not read yet.",
            (),
            lambda: [((), lag.lag_seconds())],
        )
        metrics.ask(
            "fleetops_commandlog_rows", "Rows of the command log ever written.", (), lambda: [((), lag.written())]
        )
        metrics.ask(
            "fleetops_deliveries_waiting",
            "Sessions that cannot be delivered now, by where to: logs, s3.",
            ("to",),
            numbers.waiting,
        )
        metrics.ask(
            "fleetops_deliveries_waiting_oldest_seconds",
            "For how long the first of them has waited.",
            ("to",),
            numbers.waiting_seconds,
        )
        metrics.ask(
            "fleetops_log_lag_seconds",
            "Age of the oldest sealed piece of a recording that is not in CloudWatch Logs, though it should be.",
            (),
            numbers.lag_seconds,
        )
        show_count("sessions:list", live)
        standing.register("sessions_app.grants.held")
        grants = self.get_model("Grant").objects
        metrics.ask(
            "fleetops_grants_open",
            "Approved grants of access that have not ended.",
            (),
            lambda: [((), grants.filter(state=GrantState.ACTIVE, ends_at__gt=now()).count())],
        )
        hold_removal(holds)
        tell_use("Session logs", "sessions_app.delivery.use.has_logs")
        tell_use("Copies of recordings", "sessions_app.delivery.use.has_copies")
