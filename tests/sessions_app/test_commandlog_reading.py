"""What the command log makes of real shells' output (tests/support/torture.py), of forged marks, and of terminals."""

from __future__ import annotations

import shutil

import pytest

from sessions_app.commandlog.prompts import cannot_run, is_unfinished, looks_like_prompt
from sessions_app.commandlog.reader import SessionReader, agree, masked
from sessions_app.commandlog.reconstruct import GIVEN_UP, PASTED, LineReader
from sessions_app.commandlog.screen import Screen
from tests.support import torture
from tests.support.typist import NONCE, over, read_back

# The quick ones, of each kind; all of them are benchmarks/commandlog.py's.
CHOSEN = [
    torture.a_plain_command,
    torture.one_that_fails,
    torture.a_space_before_it,
    torture.something_put_into_the_middle,
    torture.a_line_given_up,
    torture.a_cleared_screen_while_typing,
    torture.an_older_line_changed,
    torture.a_search_backwards,
    torture.the_last_line_by_reference,
    torture.a_list_of_completions,
    torture.a_loop_on_several_lines,
    torture.several_lines_given_up,
    torture.several_lines_pasted,
    torture.a_line_that_fills_the_row,
    torture.another_size_while_typing,
    torture.a_pager,
    torture.an_editor,
    torture.a_password,
    torture.a_transcript_shown,
    torture.a_prompt_printed_without_a_line_end,
    torture.typed_ahead,
    torture.half_typed_ahead,
    torture.a_forged_mark_of_another_session,
    torture.a_recorded_mark_shown_again,
    torture.a_mark_far_ahead,
]


# Those that other shells than today's, set up as Debian does, show in another way.
OLD_CHOSEN = [
    torture.a_plain_command,
    torture.a_command_with_no_output,
    torture.dollars_and_hashes,
    torture.another_directory,
    torture.a_line_given_up,
    torture.a_search_backwards,
    torture.a_search_that_is_edited,
    torture.a_list_of_completions,
    torture.several_lines_given_up,
    torture.several_lines_pasted,
    torture.a_password,
    torture.a_transcript_shown,
    torture.typed_ahead,
    torture.half_typed_ahead,
]


def play(shell, tmp_path_factory, *, marks, chosen):
    if shutil.which(shell.partition("-")[0]) is None:
        pytest.skip(f"{shell} is not installed")
    return torture.play(shell, tmp_path_factory.mktemp("torture") / "home", marks=marks, chosen=chosen)


@pytest.fixture(scope="module", params=["bash", "bash with marks", "zsh", "zsh with marks"], name="played")
def _played(request, tmp_path_factory):
    shell, *marks = request.param.split(" with ")
    return *play(shell, tmp_path_factory, marks=bool(marks), chosen=CHOSEN), bool(marks)


@pytest.fixture(scope="module", params=["bash-old", "zsh-old", "zsh-bare"], name="played_old")
def _played_old(request, tmp_path_factory):
    return request.param, *play(request.param, tmp_path_factory, marks=False, chosen=OLD_CHOSEN)


def test_every_command_has_its_row_and_nothing_else_has_one(played):
    events, expected, marks = played
    found = read_back(events, nonce=NONCE if marks else "")
    result = torture.score(found, expected, marks=marks)
    assert (result.missing, result.wrong) == ([], [])
    assert [(row.text, row.dispute) for row in found.commands if row.is_disputed] == []
    assert {row.source for row in found.commands} == {"marks" if marks else "screen"}
    assert torture.SECRET not in repr(found)
    if marks:
        codes = {row.text: row.exit_code for row in found.commands}
        assert (codes["echo one"], codes["false"]) == (0, 1)
        assert all(row.cwd.endswith("/home") and row.os_user for row in found.commands)


def test_every_forged_mark_is_told(played):
    events, _, marks = played
    found = read_back(events, nonce=NONCE if marks else "")
    assert len(found.notices) == 6
    assert all(notice.is_disputed and notice.dispute.startswith("Forged mark at byte") for notice in found.notices)
    assert "rm -rf /" in [notice.text for notice in found.notices]


def test_it_is_the_same_whoever_goes_on_at_any_record(played):
    events, _, marks = played
    nonce = NONCE if marks else ""
    once = read_back(events, nonce=nonce)
    assert read_back(events, nonce=nonce, restart_every=7).rows == once.rows


def test_without_records_of_input_it_reads_about_the_same(played):
    """As from sealed chunks."""
    events, expected, marks = played
    result = torture.score(read_back(events, nonce=NONCE if marks else "", has_input=False), expected, marks=marks)
    assert result.recall >= 0.97 and result.precision >= 0.97


@pytest.mark.parametrize("has_input", [True, False], ids=["journal", "chunks"])
@pytest.mark.parametrize("latency_ms", [None, 0, 150, 300])
def test_older_shells_are_read_as_well_near_and_far_and_what_is_not_certain_says_so(played_old, latency_ms, has_input):
    shell, events, expected = played_old
    if latency_ms is not None:
        events = over(events, latency_ms, latency_ms=latency_ms)
    found = read_back(events, has_input=has_input)
    result = torture.score(found, expected, marks=False)
    # "echo never" was given up by Ctrl-C, and a zsh that shows no ^C shows the same bytes for a command without output.
    assert (result.missing, result.wrong) == ([], ["echo never"] if shell == "zsh-bare" else [])
    unsure = {row.text: row.dispute for row in found.commands if row.dispute}
    silent = dict.fromkeys(["true", "echo never", "mkdir -p deep/er/still"], GIVEN_UP)
    assert unsure == (silent if shell == "zsh-bare" else {"echo p2": PASTED})
    assert not any(row.is_disputed for row in found.commands)
    assert torture.SECRET not in repr(found)


@pytest.mark.parametrize("latency_ms", [60, 250])
def test_keys_that_are_on_their_way_lose_no_command(played, latency_ms):
    events, expected, marks = played
    found = read_back(over(events, 1, latency_ms=latency_ms), nonce=NONCE if marks else "")
    result = torture.score(found, expected, marks=marks)
    assert (result.missing, result.wrong) == ([], [])
    assert [(row.text, row.dispute) for row in found.commands if row.dispute] == []


def test_it_is_the_same_of_older_shells_whoever_goes_on_at_any_record(played_old):
    events = over(played_old[1], 1, latency_ms=150)
    assert read_back(events, restart_every=5).rows == read_back(events).rows


@pytest.mark.parametrize("flight_ms", [1, 150])
def test_a_session_that_a_program_plays_with_its_pauses_is_none_where_keys_are_recorded(flight_ms):
    reader = LineReader()
    now_us, offset = 0, 0

    def show(data: bytes, after_ms: int) -> None:
        nonlocal now_us, offset
        now_us += after_ms * 1000
        reader.output(data, now_us, offset)
        offset += len(data)

    show(b"root@web:~# ", 0)
    for letter in (*b"play it", 13):
        now_us += 1_000_000
        reader.key(now_us)
        show(b"\r\n" if letter == 13 else bytes([letter]), flight_ms)
    for data in (b"root@web:~# ", b"r", b"m -rf /", b"\r\nroot@web:~# ", b"halt\r\n", b"root@web:~# "):
        show(data, 60)
    reader.finish()
    assert [typed.text for typed in reader.take()] == ["play it"]


# Forged by who knows the secret


class Shell:
    """Output of an integrated shell, made by hand."""

    def __init__(self) -> None:
        self.reader = SessionReader(NONCE)
        self.number = self.offset = self.time_us = 0
        self.mark("hello", "shell=bash")
        self.prompt()

    def show(self, data: bytes) -> None:
        self.time_us += 50_000
        self.reader.output(data, self.time_us, self.offset)
        self.offset += len(data)

    def mark(self, kind: str, fields: str, *, number: int | None = None) -> None:
        self.number = self.number + 1 if number is None else self.number
        self.show(f"\x1b]7717;{NONCE};{kind};{number or self.number};{fields}\x07".encode())

    def prompt(self) -> None:
        self.mark("prompt", "cwd=/root;user=root;exit=0")
        self.show(b"\x1b[?2004hroot@web:~# ")

    def type(self, text: str) -> None:
        for letter in text.encode():
            self.reader.key(self.time_us)
            self.show(bytes([letter]))
        self.reader.key(self.time_us)
        self.show(b"\r\n\x1b[?2004l\r")

    def rows(self):
        self.reader.finish()
        return self.reader.take()[0]


def test_a_right_mark_that_a_program_prints_is_disputed_and_the_shells_next_one_is_told():
    shell = Shell()
    shell.type("./innocent")
    shell.mark("command", "text=./innocent;cwd=/;user=root")
    for kind, fields in (("done", "exit=0"), ("prompt", "cwd=/;user=root;exit=0"), ("command", "text=echo%20nothing")):
        shell.mark(kind, fields)  # by the program, which has the secret from the shell's memory
    shell.mark("done", "exit=0", number=4)  # by the shell itself: its number is used up by now
    real, forged, notice = shell.rows()
    assert (real.text, real.is_disputed) == ("./innocent", False)
    assert (forged.text, forged.is_disputed, forged.dispute) == (
        "echo nothing",
        True,
        "No such line was seen on the screen.",
    )
    assert (notice.source, "its number was used before" in notice.dispute) == ("forged", True)


def test_a_line_of_which_the_shell_says_nothing_is_a_disputed_row_of_the_screen():
    shell = Shell()
    shell.type("unset PROMPT_COMMAND PS0; rm -rf /")
    shell.show(b"root@web:~# ")
    row = shell.rows()[0]
    assert (row.source, row.text) == ("screen", "unset PROMPT_COMMAND PS0; rm -rf /")
    assert row.is_disputed and row.dispute == "The shell did not say that it ran this line."


def test_marks_that_are_missing_are_told():
    shell = Shell()
    shell.number += 3
    shell.type("ls")
    shell.mark("command", "text=ls;cwd=/;user=root")
    row = shell.rows()[0]
    assert row.is_disputed and "3 marks of the shell before it are missing" in row.dispute


def test_of_many_forged_marks_a_hundred_are_listed():
    shell = Shell()
    shell.type("cat forged")
    shell.mark("command", "text=cat%20forged;cwd=/;user=root")
    shell.show(b"\x1b]7717;x;command;1;text=a\x07" * 500)
    rows = shell.rows()
    assert len(rows) == 101
    assert rows[-1].dispute.endswith("Further ones in this session are not listed.")


def test_a_mark_in_the_middle_of_a_line_that_never_ends_hides_nothing():
    shell = Shell()
    shell.type("cat broken")
    shell.mark("command", "text=cat%20broken;cwd=/;user=root")
    shell.show(b"\x1b]7717;" + b"x" * 200_000)
    shell.show(b"\x07\r\n")
    shell.mark("done", "exit=0")
    shell.prompt()
    shell.type("ls")
    shell.mark("command", "text=ls;cwd=/;user=root")
    rows = shell.rows()
    assert [(row.text, row.source) for row in rows if row.source == "marks"] == [
        ("cat broken", "marks"),
        ("ls", "marks"),
    ]
    assert [row.source for row in rows].count("forged") == 1


@pytest.mark.parametrize(
    ("told", "shown", "same"),
    [
        ("ls  -la", "ls -la", True),
        ("for i in 1 2; do echo $i; done", "for i in 1 2\ndo echo $i\ndone", True),
        ("echo one two", "echo one \\\ntwo", True),
        ("echo \x01", "echo ^A", True),
        ("echo größe", "echo größe", True),
        ("echo 日本", "echo ", True),  # no screen agrees with another on how wide these are
        ("rm -rf /", "ls", False),
        ("rm -rf /", "", False),
        ("echo größe", "echo grosse", False),
    ],
)
def test_texts_agree_but_for_what_a_screen_cannot_tell(told, shown, same):
    assert agree(told, shown) is same


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("mysql --password=x -u y", "mysql --password=•••• -u y"),
        ("export DB_PASSWORD='a b' && ls", "export DB_PASSWORD=•••• && ls"),
        ("curl -H 'X-Token: abc'", "curl -H 'X-Token: ••••'"),
        ("vault login -token abc", "vault login -token ••••"),
        ("cat /etc/passwd", "cat /etc/passwd"),
        ("echo tokens", "echo tokens"),
        ("a" * 20_000, "a" * 20_000),
    ],
)
def test_values_of_what_is_named_as_a_secret_are_left_out(text, kept):
    assert masked(text, ["password", "passwd", "token"]) == kept
    assert masked(text, []) == text


@pytest.mark.parametrize(
    "text", ["root@web:~# ", "bash-5.2$ ", "[ec2-user@ip-10-0-0-1 ~]$ ", "web% ", "PS C:\\> ", "me@host ~> "]
)
def test_prompts_of_shells_are_known(text):
    assert looks_like_prompt(text)


@pytest.mark.parametrize(
    "text", [">>> ", "mysql> ", "db=# ", "(gdb) ", "In [1]: ", "Password: ", "sqlite> ", "Name? ", "... "]
)
def test_prompts_of_other_programs_are_none(text):
    assert not looks_like_prompt(text)


@pytest.mark.parametrize(
    ("text", "is_open"),
    [("for i in 1", True), ("echo 'a", True), ("ls |", True), ("a \\", True), ("cat <<E", True),
     ("cat <<E\nx\nE", False),
     ("ls", False), ("if a; then b; fi", False), ("echo \"it's\"", False), ("f() {", True)],
)  # fmt: skip
def test_what_asks_for_more_is_known(text, is_open):
    assert is_unfinished(text) is is_open


@pytest.mark.parametrize(
    ("text", "is_certain"),
    [
        ("echo 'a", True), ("ls |", True), ("ls &&", True), ("a >", True), ("for i in 1\necho $i", True),
        ("ls", False), ("rm -rf / for", False), ("echo '|'", False), ("echo it\\'s", False), ("rm x # it's", False),
        ("rm $'\\''", False), ("rm \"$(echo '\"')\"", False), ("rm `echo '`", False),
        ("for i in 1\ndo rm $i\ndone", False),
    ],
)  # fmt: skip
def test_a_row_is_left_out_only_for_what_no_shell_would_have_run(text, is_certain):
    assert cannot_run(text) is is_certain


# The screen


def screen(data: bytes, cols: int = 20, rows: int = 5) -> Screen:
    found = Screen(LineReader(cols, rows), cols, rows)
    found.feed(data)
    return found


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x1bP1;2|dcs text\x1b\\after", "after"),
        (b"\x1b]0;a title\x07after", "after"),
        (b"\x1b]0;unended\x1b[1mafter", "after"),
        (b"\x1b[38:5:196mred\x1b[0m \x1b[>1u\x1b[=5uok", "red ok"),
        (b"ab\x1b[3Dx\x1b[Ky", "xy"),
        (b"one\rtwo", "two"),
        ("日本語".encode() + b"\x1b[2Dx", "日本x"),
        (b"\x1b[?1049hvim draws\x1b[5;5H this\x1b[?1049lback", "back"),
        (b"\xe6\x97", "\ufffd"[:0]),
        (b"a\x1b[999999999bz", "a" * 60),
    ],
)
def test_the_screen_shows_what_a_terminal_shows(data, text):
    assert screen(data, 60).text(0, 0, 0) == text


def test_a_line_that_the_terminal_cut_is_one_and_stays_one_at_another_width():
    found = screen(b"$ " + b"x" * 50)
    assert found.text(0, 2, found.cursor[0]) == "x" * 50
    for cols in (7, 33, 80, 20):
        found.resize(cols, 9)
        row, _ = found.cursor
        first = next(each for each in range(found.top, row + 1) if found.row(each).startswith("$ "))
        assert found.text(first, 2, row) == "x" * 50


def test_sequences_may_come_in_any_pieces():
    data = "a\x1b[31mb\x1b]0;t\x1b\\c日\x1b[?1049hno\x1b[?1049ld".encode()
    whole = screen(data)
    bit_by_bit = screen(b"")
    for byte in data:
        bit_by_bit.feed(bytes([byte]))
    assert bit_by_bit.text(0, 0, 0) == whole.text(0, 0, 0) == "abc日d"


def test_what_is_sent_to_keep_it_busy_costs_little():
    found = screen(b"\x1b[99999999A\x1b[99999999L\x1b[99999999@\x1b[99999999P" * 2000)
    assert found.cursor[1] == 0
