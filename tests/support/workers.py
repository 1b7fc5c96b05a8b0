"""How `make test` shares the tests out to its workers.

All tests of a file go to one worker, since they share what the file starts. Files that run a whole product go to the
first worker, one after the other: two products that start at once leave neither the time that its tests allow. The
other workers begin with the rest, the longest of it first, and whoever is done helps.
"""

from xdist.scheduler import LoadScopeScheduling

# What runs a whole product, in this order: the longest first.
WHOLE = (
    "tests/chaos/",
    "tests/production/",
    "tests/supervisor/test_make_up.py",
    "tests/browser/",
    "tests/observability/test_whole.py",
    "tests/cli/",
)
LONGEST = "tests/postgres/"  # of the rest: whoever began with it last would end minutes after the others
ONE_PRODUCT = ("tests/browser/", "tests/cli/")  # the files of these folders share it


class Sharing(LoadScopeScheduling):
    """xdist asks it which test goes where; a scope is what stays together."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in ONE_PRODUCT if file.startswith(folder)), file)

    def _assign_work_unit(self, node) -> None:
        takes_whole = node.gateway.id == "gw0"

        def turn(scope: str) -> tuple[bool, int]:
            places = [place for place, path in enumerate(WHOLE) if scope.startswith(path)]
            return bool(places) != takes_whole, places[0] if places else not scope.startswith(LONGEST)

        self.workqueue.move_to_end(min(self.workqueue, key=turn), last=False)
        super()._assign_work_unit(node)
