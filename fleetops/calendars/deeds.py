"""What calendars bind: kinds of action, as people choose them."""

from typing import Final

EVERYTHING: Final = "*"
# The keys are those of policy rules where both know a deed.
DEEDS: Final = {
    "patch": "Patch",
    "run_document": "Run documents",
    "associate": "Keep state (associations)",
    "attach_role": "Attach and detach IAM roles",
    "shell": "Open shells",
}
BINDABLE: Final = (EVERYTHING, *DEEDS)
