"""Two ASGI applications of one code base: `web` answers pages, `terminal` holds the terminals' websockets."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleetops.settings")

from django.core.asgi import get_asgi_application

import fleetops.celery  # noqa: F401  (the broker of the tasks that pages hand to workers)

web = get_asgi_application()

from sessions_app.asgi import terminal_application  # needs the applications that the line above has loaded

terminal = terminal_application()
