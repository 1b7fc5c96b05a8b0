"""Two ASGI applications of one code base: `web` answers pages, `terminal` holds the terminals' websockets."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleetops.settings")

from django.core.asgi import get_asgi_application

import fleetops.celery  # noqa: F401  (the broker of the tasks that pages hand to workers)

_pages = get_asgi_application()

from fleetops.monitoring import Watched  # these need the applications that the line above has loaded
from sessions_app.asgi import terminal_application

web = Watched(_pages, "web", has_lifespan=False)
terminal = Watched(terminal_application(), "terminal", has_lifespan=True)
