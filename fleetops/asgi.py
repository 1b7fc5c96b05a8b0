"""Two ASGI applications of one code base: `web` answers pages, `terminal` holds the terminals' websockets."""

import os
from typing import Final

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleetops.settings")

import django
from django.utils.module_loading import import_string

import fleetops.celery  # noqa: F401  (the broker of the tasks that pages hand to workers)

django.setup(set_prefix=False)

from fleetops.monitoring import Watched  # needs the applications that the line above has loaded

# Each is loaded for the process that asks for it alone: the terminals' has no pages, their middleware and their API.
_MAKERS: Final = {"web": "django.core.asgi.get_asgi_application", "terminal": "sessions_app.asgi.terminal_application"}


def __getattr__(name: str) -> Watched:
    if name not in _MAKERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()[name] = Watched(import_string(_MAKERS[name])(), name, has_lifespan=name == "terminal")
    return made
