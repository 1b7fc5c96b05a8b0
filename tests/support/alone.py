"""`make test`: all tests side by side, and those that fail among them once more, alone.

Four workers share two processors with browsers, databases and whole products: a test may run out of its time there and
be right all the same. So it is asked once more, with the machine to itself. It is told which these were; who fails
again has failed. Nobody is asked again after a run that did not come to its end, and after more than `MOST` failures:
these have a cause.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support import failures

MOST = 12
SOME_FAILED = 1  # pytest's exit code for a run that came to its end [pytest, "Exit codes"]


def main(arguments: Sequence[str], *, run=subprocess.call) -> int:
    """Pytest's exit code: of the first run, or of the second where there is one."""
    pytest = [sys.executable, "-m", "pytest"]
    with tempfile.TemporaryDirectory(prefix="fleetops-failed-") as directory:
        listed = Path(directory) / "failed"
        code = run([*pytest, "-p", failures.__name__, f"--list-failures={listed}", *arguments])
        failed = listed.read_text().splitlines() if listed.exists() else []
    if code != SOME_FAILED or not 0 < len(failed) <= MOST:
        return code
    print(f"\nOnce more, alone: {len(failed)} that failed beside others.", *failed, sep="\n  ", flush=True)
    code = run([*pytest, *failed])
    if code == 0:
        print("\nThese failed beside others, and not alone:", *failed, sep="\n  ", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
