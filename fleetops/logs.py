"""What goes into the logs."""

import logging


class WithoutTicks(logging.Filter):
    """Leave out beat's line for each task that it hands out: several a second, and none of them is news."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Scheduler: Sending due task")
