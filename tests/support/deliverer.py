"""Delivers sessions for as long as it lives, in a child that tests kill; another is there at once. Prints their pids.

    python -m tests.support.deliverer

Django is loaded once, before the children are forked.
"""

import os
import sys
import time

import django


def main() -> None:
    django.setup()
    from django.db import connections

    from sessions_app.delivery import logs

    while True:
        connections.close_all()
        child = os.fork()
        if not child:
            while True:
                if not logs.deliver_due(seconds=2):
                    time.sleep(0.02)
        print(child, flush=True)
        os.waitpid(child, 0)


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(0)
