import secrets

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from fleetops.env import env_password
from fleetops.identity import services
from fleetops.identity.models import User
from fleetops.web.context import within


class Command(BaseCommand):
    help = "Make the first administrator, unless a user of that name exists. Prints a generated password once."

    def add_arguments(self, parser):
        parser.add_argument("--username", default="admin")

    def handle(self, *args, **options):
        username = options["username"]
        if User.objects.filter(username=username).exists():
            self.stdout.write(f"user {username} exists; nothing was changed")
            return
        given = env_password("FLEETOPS_ADMIN_PASSWORD")
        if given:
            try:
                validate_password(given, User(username=username))
            except ValidationError as error:
                raise CommandError(f"FLEETOPS_ADMIN_PASSWORD: {' '.join(error.messages)}") from None
        password = given or secrets.token_urlsafe(12)
        with within("command"):
            services.sync_roles()
            services.create_user(username=username, password=password, roles=["administrator"], actor="make_admin")
        self.stdout.write(f"username: {username}")
        self.stdout.write("password: as in FLEETOPS_ADMIN_PASSWORD" if given else f"password: {password}")
