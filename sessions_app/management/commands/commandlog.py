from django.core.management.base import BaseCommand

from fleetops.web.context import within
from sessions_app.commandlog import process


class Command(BaseCommand):
    help = "Follow the recordings of this host's sessions and write down their commands, until it is told to stop."
    requires_system_checks = ()

    def handle(self, *args, **options):
        with within("commandlog"):
            process.run(on_ready=self._ready)

    def _ready(self) -> None:
        self.stdout.write("READY command log")
        self.stdout.flush()
