"""Bring the database and the home to what this version needs: migrations, roles, the first administrator, static files.

    python -m fleetops.prepare [--no-static]

--no-static is for an image that carries the collected files.

One process for all of it, since Django's start is the larger part of each. Safe to repeat. The supervisor runs it
before the product starts, and reads ADMINISTRATOR_MADE from its output. FLEETOPS_ADMIN_PASSWORD is the password.
"""

import io
import os
import sys

ADMINISTRATOR = "admin"
ADMINISTRATOR_MADE = f"made the administrator {ADMINISTRATOR}"


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleetops.settings")
    import django
    from django.core.management import call_command

    django.setup()
    from django.contrib.auth import get_user_model

    call_command("migrate", interactive=False, verbosity=0)
    print("migrated the database", flush=True)
    call_command("sync_roles", verbosity=0)
    is_new = not get_user_model().objects.filter(username=ADMINISTRATOR).exists()
    # Its own output would show the password in the log; the supervisor shows it once, at the end.
    call_command("make_admin", username=ADMINISTRATOR, stdout=io.StringIO())
    if is_new:
        print(ADMINISTRATOR_MADE, flush=True)
    if "--no-static" not in sys.argv[1:]:
        call_command("collectstatic", interactive=False, verbosity=0)
        print("collected the static files", flush=True)


if __name__ == "__main__":
    main()
