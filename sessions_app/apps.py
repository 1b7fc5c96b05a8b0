from django.apps import AppConfig

from fleetops.inventory.removal import hold_removal
from fleetops.web.navigation import show_count


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

        show_count("sessions:list", live)
        hold_removal(holds)
