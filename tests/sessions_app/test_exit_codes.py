"""A command's exit code comes out of its output, however that is cut, and leaves no trace in it."""

import itertools
import subprocess

from hypothesis import given
from hypothesis import strategies as st

from sessions_app.exit_codes import ExitCode, plain, telling


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


def test_a_command_says_what_it_said_before_and_its_exit_code():
    command = telling("echo 'a  b'; exit 7")
    done = subprocess.run(["/bin/sh", "-c", f"exec {command}"], capture_output=True)
    found = ExitCode({"command": [command]})
    assert found.feed(done.stdout) == (b"a  b\n", 7)
    assert plain(command) == "echo 'a  b'; exit 7" and plain("ls 'x") == "ls 'x"


@given(st.binary(max_size=200), st.integers(0, 255), st.lists(st.integers(0, 300), max_size=8))
def test_it_is_found_wherever_the_output_is_cut(output, code, cuts):
    command = telling("true")
    found = ExitCode({"command": [command]})
    word = found._word
    shown, codes = b"", []
    for piece in pieces(output + word + b"%d\n" % code, cuts):
        data, known = found.feed(piece)
        shown += data
        codes += [known] if known is not None else []
    assert (shown, codes) == (output, [code])


def test_a_command_that_somebody_else_wrote_is_left_as_it_is():
    assert not ExitCode({"command": ["ls /"]}).is_looked_for
