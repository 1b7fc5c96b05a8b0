from django.apps import AppConfig

from fleetops.web.navigation import show_count


class SessionsConfig(AppConfig):
    name = "sessions_app"
    label = "sessions_app"

    def ready(self):
        sessions = self.get_model("TerminalSession").objects

        def live(user) -> str:
            count = sessions.visible_to(user).live().count()
            return f"{count:,} live" if count else ""

        show_count("sessions:list", live)
