from django.apps import AppConfig

from fleetops.clock import now
from fleetops.web.navigation import show_count


class ApprovalsConfig(AppConfig):
    name = "fleetops.approvals"
    label = "approvals"

    def ready(self):
        requests = self.get_model("ApprovalRequest").objects
        show_count("approvals:list", lambda user: str(requests.waiting_for(user, now()).count() or ""))
