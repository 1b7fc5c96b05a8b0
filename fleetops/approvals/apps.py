from django.apps import AppConfig

from fleetops import metrics
from fleetops.clock import now
from fleetops.web.navigation import show_count


class ApprovalsConfig(AppConfig):
    name = "fleetops.approvals"
    label = "approvals"

    def ready(self):
        requests = self.get_model("ApprovalRequest").objects
        metrics.ask(
            "fleetops_approvals_open",
            "Requests that wait for an answer, or to be used.",
            (),
            lambda: [((), requests.open(now()).count())],
        )
        show_count("approvals:list", lambda user: str(requests.waiting_for(user, now()).count() or ""))
