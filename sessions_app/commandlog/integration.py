"""The commands of our session documents: what starts a shell that tells what it runs. Texts only; see marks.py."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Final

NONCE_PARAMETER: Final = "nonce"
NONCE_PATTERN: Final = "^[A-Za-z0-9]{32}$"

_SHELLS: Final = Path(__file__).with_name("shells")
# A profile's line that only puts another shell in the place of `sh`: ours is the user's login shell already.
_END: Final = "END_OF_SHELL"  # ends each script within start.sh
_CHANGES_SHELL: Final = re.compile(r"(exec\s+)?(/\S*/)?(ba|z|da|k|a)?sh(\s+-\w+|\s+--login)*;?")


@cache
def _script(name: str) -> str:
    """A script without its comments: a document has 64 KiB, and the agent hands all of it over at each start."""
    lines = (_SHELLS / name).read_text().splitlines()
    return "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))


def unix_commands(profile: str = "") -> str:
    """What `sh -c` runs on Linux and macOS. `profile` is the account's shell profile, run before the first prompt.

    AWS types a profile into the plain shell; here it is read as a file of the shell is.
    """
    kept = [line for line in profile.splitlines() if not _CHANGES_SHELL.fullmatch(line.strip()) and line != _END]
    text = _script("start.sh")
    for place, name in (("@BASH@", "integration.bash"), ("@ZSH@", "integration.zsh"), ("@SH@", "integration.sh")):
        text = text.replace(f"\n{place}\n", f"\n{_script(name)}\n")
    return text.replace("\n@PROFILE@\n", "\n" + "".join(f"{line}\n" for line in kept))


def windows_commands(profile: str = "") -> str:
    """What follows `powershell.exe` on Windows, on one line.

    `profile` runs before the first prompt. A double quote in it would end the argument: such lines are left out.
    """
    kept = [line.strip() for line in profile.splitlines() if line.strip() and '"' not in line]
    lines = [line.strip() for line in _script("integration.ps1").splitlines()]
    return "-NoLogo -NoExit -Command " + " ".join([*lines, *(f"{line};" for line in kept)])
