"""How `make test` shares the tests out to its workers.

All tests of a file go to one worker, since they share what the file starts. Files that run a whole product go to the
first worker, one after the other: two products that start at once leave neither the time that its tests allow. The
other workers begin with the rest, the longest of it first, and whoever is done helps.
"""

from xdist.scheduler import LoadScopeScheduling

# What runs a whole product, in this order: first what has the shortest times to keep, then what stays longest together.
WHOLE = (
    "tests/chaos/",
    "tests/browser/",
    "tests/production/test_story.py",
    "tests/cli/",
    "tests/production/test_restored.py",
    "tests/supervisor/test_make_up.py",
    "tests/observability/test_whole.py",
)
# Of the rest what takes a minute or more, in this order: whoever began with it last would end after the others.
LONGEST = (
    "tests/postgres/",
    "tests/production/test_backup.py",
    "tests/sessions_app/test_terminal.py",
    "tests/clock/",
    "tests/sessions_app/test_frontdoor.py",
    "tests/sessions_app/test_grant_ends.py",
    "tests/sessions_app/test_live.py",
    "tests/endpoint/test_moto.py",
    "tests/endpoint/patch/",
    "tests/node/",
    "tests/patching/",
    "tests/emergency/",
    "tests/rollouts/",
    "tests/sessions_app/",
    "tests/endpoint/",
)
ONE_PRODUCT = ("tests/browser/", "tests/cli/")  # the files of these folders share it


class Sharing(LoadScopeScheduling):
    """xdist asks it which test goes where; a scope is what stays together."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in ONE_PRODUCT if file.startswith(folder)), file)

    def _assign_work_unit(self, node) -> None:
        takes_whole = node.gateway.id == "gw0"

        def turn(scope: str) -> tuple[bool, int]:
            is_whole = scope.startswith(WHOLE)
            order = WHOLE if is_whole else (*LONGEST, "")
            return is_whole != takes_whole, next(n for n, path in enumerate(order) if scope.startswith(path))

        self.workqueue.move_to_end(min(self.workqueue, key=turn), last=False)
        super()._assign_work_unit(node)
