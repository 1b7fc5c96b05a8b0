from django.core.management.base import BaseCommand

from fleetops.identity import services
from fleetops.web.context import within


class Command(BaseCommand):
    help = "Give the five roles the permissions that they have in this version. Safe to repeat."

    def handle(self, *args, **options):
        with within("command"):
            changes = services.sync_roles()
        if options["verbosity"]:
            for role, changed in changes.items():
                self.stdout.write(f"{role}: {' '.join(changed) or 'made'}")
            if not changes:
                self.stdout.write("roles are as they should be")
