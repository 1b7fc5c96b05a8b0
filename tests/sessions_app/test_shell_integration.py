"""Real shells on a pty, started as the agent starts our document: what their marks say, and what they leave alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sessions_app.commandlog import integration

from .shells import NONCE, running

pytestmark = pytest.mark.skipif(shutil.which("setsid") is None, reason="needs setsid, of util-linux")

HISTORY = "HISTFILE=~/.history\nHISTSIZE=100\n"


@pytest.fixture(name="user_home")
def _user_home(tmp_path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


def start(home: Path, shell: str, *, rc: str = "", profile: str = "", environment: dict[str, str] | None = None):
    """Our document's command for a user whose login shell is `shell`, as a `getent` of our own says."""
    path = shutil.which(shell)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{shell} is not installed")
        pytest.skip(f"{shell} is not installed")
    name = {"bash": ".bashrc", "zsh": ".zshrc"}.get(shell, ".profile")
    (home / name).write_text(HISTORY + rc)
    programs = home.parent / "programs"
    programs.mkdir(exist_ok=True)
    getent = programs / "getent"
    getent.write_text(f"#!/bin/sh\necho somebody:x:1000:1000::{home}:{path}\n")
    getent.chmod(0o755)
    commands = integration.unix_commands(profile).replace("{{ nonce }}", NONCE)
    return running(commands, home, PATH=f"{programs}:{os.environ['PATH']}", **(environment or {}))


@pytest.fixture(params=["bash", "zsh"])
def shell(request, user_home):
    with start(user_home, request.param) as shell:
        shell.name = request.param
        shell.until_prompt(1)
        yield shell


def test_the_shell_says_who_it_is_and_where(shell, user_home):
    hello, prompt = shell.marks[:2]
    assert (hello.kind, hello.fields["shell"]) == ("hello", shell.name)
    assert hello.fields["version"][0].isdigit()
    assert (prompt.kind, prompt.fields["cwd"], prompt.fields["exit"]) == ("prompt", str(user_home), "0")
    assert prompt.fields["user"]


def test_each_line_is_told_once_with_its_exit_code(shell):
    lines = [
        ("echo one", 0),
        ("false", 1),
        ("(exit 7)", 7),
        ("no-such-command-here", 127),
        ("false | true", 0),
        ("true | sh -c 'exit 3'", 3),
        ("echo a; echo b && false || echo c", 0),
        ("f() { echo in f; return 4; }", 0),
        ("f", 4),
        ("{ echo group; }", 0),
        ("[ 1 = 2 ]", 1),
        ("for i in 1 2; do echo $i; done", 0),
        ("echo 'ünïcödé ☃ 日本' %; # and ; a comment", 0),
        ("sleep 0.01 & wait", 0),
        ("echo $(echo sub; exit 5)", 0),
        ("x=$(exit 5)", 5),
        ("  echo spaces before", 0),
        ("eval 'false'", 1),
    ]
    if shell.name == "zsh":
        shell.run("setopt interactive_comments")
        lines.insert(0, ("setopt interactive_comments", 0))
    for line, _ in lines[1:] if shell.name == "zsh" else lines:
        shell.run(line)
    assert shell.told() == lines


def test_what_is_no_line_is_no_command(shell):
    shell.run("")
    shell.run("   ")
    start = len(shell.output)
    shell.type("half a li")
    shell.until(lambda: b"half a li" in shell.output[start:])
    shell.interrupt()
    shell.run("true")
    assert shell.told() == [("true", 0)]


def test_several_lines_are_one_command(shell):
    for line in ["for i in 1 2", "do", "echo $i"]:
        shell.type(line + "\r")
    shell.run("done")
    for line in ["cat <<'END'", "one; two", "  three"]:
        shell.type(line + "\r")
    shell.run("END")
    loop, document = shell.told()
    # bash puts a loop on one line in its history, and the mark says what the history has.
    assert loop == ({"zsh": "for i in 1 2\ndo\necho $i\ndone"}.get(shell.name, "for i in 1 2; do echo $i; done"), 0)
    assert document == ("cat <<'END'\none; two\n  three\nEND", 0)


def test_a_paste_of_several_lines_is_told_as_the_shell_runs_it(shell):
    before = shell.prompts()
    shell.type(b"\x1b[200~echo a\nfalse\ng() { :; }\n(exit 3)\x1b[201~")
    shell.until(lambda: b"(exit 3)" in shell.output, "the echo of the paste")
    shell.type("\r")
    shell.until_prompt(before + 1)
    if shell.name == "zsh":
        assert shell.told() == [("echo a\nfalse\ng() { :; }\n(exit 3)", 3)]
    else:
        assert shell.told() == [("echo a", 0), ("false", 1), ("g() { :; }", 0), ("(exit 3)", 3)]


def test_history_expansion_is_told_as_it_runs_and_search_as_it_is_found(shell):
    shell.run("echo first words")
    shell.run("!!")
    shell.run("echo last")
    shell.until(lambda: b"?2004h" in shell.output[shell.marks[-1].end_offset :], "the line editor")
    start = len(shell.output)
    shell.type(b"\x12first")
    shell.until(lambda: b"words" in shell.output[start:], "what is found")
    shell.run("")
    assert shell.told() == [
        (text, 0) for text in ("echo first words", "echo first words", "echo last", "echo first words")
    ]


def test_an_interrupted_command_ends_with_its_signal(shell):
    shell.type("sh -c 'echo star\"\"ted; exec sleep 60'\r")
    shell.until(lambda: b"started" in shell.output)
    shell.interrupt()
    assert shell.told() == [("sh -c 'echo star\"\"ted; exec sleep 60'", 130)]


def test_cwd_is_where_the_line_begins(shell, user_home):
    place = user_home / "a b;%\u00e9\u2603'"
    place.mkdir()
    shell.run("cd a*")
    shell.run("cd /")
    commands = [mark for mark in shell.marks if mark.kind == "command"]
    assert [mark.fields["cwd"] for mark in commands] == [str(user_home), str(place)]


def test_the_secret_is_in_no_environment_and_no_argument(shell):
    assert NONCE.encode() not in shell.run("env; cat /proc/$$/environ /proc/$$/cmdline | tr '\\000' ' '").replace(
        b"\x1b]7717;" + NONCE.encode(), b""
    )
    assert b"fo_" not in shell.run("env | cut -d= -f1")


def test_a_nested_shell_and_one_that_replaces_this_one_say_nothing(shell):
    count = len(shell.marks)
    shell.type("sh\r")
    shell.until(lambda: len(shell.marks) > count)
    shell.type("echo inner-$((40 + 2))\r")
    shell.until(lambda: b"inner-42" in shell.output)
    shell.run("exit 3")
    assert shell.told() == [("sh", 3)]
    shell.type("exec sh\r")
    shell.until(lambda: shell.marks[-1].kind == "command")
    shell.type("echo other-$((40 + 2))\r")
    shell.until(lambda: b"other-42" in shell.output)
    assert shell.told()[1:] == [("exec sh", None)]


def test_strict_options_and_a_trace_do_not_reach_into_the_marks(shell):
    shell.run("set -u")
    traced = shell.run("set -x")
    shell.run("echo traced")
    shell.run("set +x")
    shell.run("set -e")
    shell.run("! true")
    shell.run("true")
    assert b"__fo" not in traced
    assert b"+__fo" not in shell.output and b"+ __fo" not in shell.output
    assert shell.told() == [
        ("set -u", 0), ("set -x", 0), ("echo traced", 0), ("set +x", 0), ("set -e", 0), ("! true", 1), ("true", 0)
    ]  # fmt: skip


def test_status_and_last_argument_stay_the_users(shell):
    shell.run("false x y")
    assert b"<1|y>" in shell.run('echo "<$?|$_>"')
    shell.run("(exit 9)")
    assert b"<9>" in shell.run('echo "<$?>"')


def test_a_flood_in_the_background_breaks_no_mark(shell):
    shell.run("(i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done) &")
    for number in range(20):
        shell.run(f"echo {number}")
    assert shell.told()[1:] == [(f"echo {number}", 0) for number in range(20)]


def test_a_long_line_is_told_in_full_and_a_very_long_one_is_cut(shell):
    text = "echo " + "é" * 4000
    for line in (text, "echo " + "x" * 20_000):
        shell.until(lambda: b"?2004h" in shell.output[shell.marks[-1].end_offset :], "the line editor")
        shell.run(b"\x1b[200~" + line.encode() + b"\x1b[201~")
    command = [mark for mark in shell.marks if mark.kind == "command"]
    assert command[0].fields["text"] == text
    assert command[1].raw["text"] == b"echo " + b"x" * (16_384 - 5)
    assert command[1].fields["cut"] == "1"


@pytest.mark.parametrize("rules", ["ignoreboth", "ignorespace", "ignoredups", "erasedups", "ignorespace:erasedups", ""])
def test_the_history_of_bash_is_what_it_would_have_been(user_home, rules):
    lines = [
        "echo a",
        " echo secret",
        "echo a",
        "ls /",
        "echo b",
        "echo a",
        "f() { :; }",
        "(true)",
        "ls /",
        " (exit 1)",
    ]
    rc = f"HISTCONTROL={rules}\nHISTIGNORE='ls*'\n"
    with start(user_home, "bash", rc=rc) as shell:
        shell.until_prompt(1)
        for line in lines:
            shell.run(line)
        assert f"<{rules}><ls*>".encode() in shell.run('echo "<$HISTCONTROL><$HISTIGNORE>"')
        shell.run("history -w ~/ours")
        assert [text for text, _ in shell.told()][: len(lines)] == lines
    (user_home / ".history").unlink(missing_ok=True)  # of the one before, if it had the time
    with running("exec bash -i", user_home, HOME=str(user_home)) as plain:
        for line in [*lines, 'echo "<$HISTCONTROL><$HISTIGNORE>"', "history -w ~/plain", "echo d''one"]:
            plain.type(line + "\r")
        plain.until(lambda: b"\rdone" in plain.output)
    assert (user_home / "ours").read_text().replace("ours", "plain") == (user_home / "plain").read_text()


def test_the_users_own_prompt_command_traps_and_ps0_go_on(user_home):
    rc = (
        "PROMPT_COMMAND='echo pc=$?'\nPS0='[ps0]'\nPS1='\\[\\e[1m\\]theme\\$ \\[\\e[0m\\]'\n"
        "trap 'echo exit-trap' EXIT\ntrap 'echo err-trap' ERR\nset -o pipefail\n"
    )
    with start(user_home, "bash", rc=rc) as shell:
        shell.until_prompt(1)
        shown = shell.run("(exit 6)")
        assert b"[ps0]" in shown and b"pc=6" in shown and b"err-trap" in shown
        shell.run("trap 'echo debug:$BASH_COMMAND' DEBUG")
        assert b"debug:echo hi" in shell.run("echo hi")
        assert b"echo debug:" in shell.run("trap -p DEBUG")
        shell.run("trap - DEBUG")
        assert b"DEBUG" not in shell.run("trap -p").replace(b"trap -p", b"")
        shell.run("PROMPT_COMMAND='echo other'")
        shell.run("(exit 2)")
        shell.run(". ~/.bashrc")
        shell.run("true")
        assert shell.told()[-4:] == [
            ("PROMPT_COMMAND='echo other'", 0),
            ("(exit 2)", 2),
            (". ~/.bashrc", 0),
            ("true", 0),
        ]
        shell.type("exit\r")
        shell.until(lambda: b"exit-trap" in shell.output)


def test_prompt_commands_in_an_array_and_a_bash_without_ps0(user_home):
    with start(user_home, "bash", rc="PROMPT_COMMAND=('echo first=$?' 'echo second')\nshopt -u promptvars\n") as shell:
        shell.until_prompt(1)
        assert b"first=3" in shell.run("(exit 3)")
        shell.run("f() { :; }")
        shell.run("echo x | cat")
        shell.run("")
        assert b"__fo" not in shell.output
        assert shell.told() == [("(exit 3)", 3), ("f() { :; }", 0), ("echo x | cat", 0)]


def test_a_line_that_bash_keeps_nowhere_is_told_without_its_text(user_home):
    with start(user_home, "bash") as shell:
        shell.until_prompt(1)
        shell.run("set +o history")
        shell.run("echo unseen")
        assert shell.told() == [("set +o history", 0), (None, 0)]


def test_zsh_reads_its_users_own_files_and_leaves_nothing_behind(user_home):
    (user_home / ".zshenv").write_text("export FROM_ENV=1\n")
    (user_home / ".zprofile").write_text("FROM_PROFILE=2\n")
    rc = "precmd() { echo mine=$? }\npreexec() { echo before:$1 }\nsetopt hist_ignore_space prompt_subst\n"
    temporary = user_home.parent / "tmp"
    temporary.mkdir()
    with start(user_home, "zsh", rc=rc, environment={"TMPDIR": str(temporary)}) as shell:
        shell.until_prompt(1)
        assert b"<1|2|>" in shell.run('echo "<$FROM_ENV|$FROM_PROFILE|$ZDOTDIR>"')
        shown = shell.run(" (exit 4)")
        assert b"before: (exit 4)" in shown and b"mine=4" in shown
        assert b"(exit 4)" not in shell.run("fc -l -20").replace(b"before", b"")
        assert shell.told()[1] == (" (exit 4)", 4)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("name", ["dash", "mksh"])
def test_a_posix_shell_tells_its_prompts_alone(user_home, name):
    with start(user_home, name, rc="PS1='mine> '\n") as shell:
        shell.until_prompt(1)
        shell.run("echo a")
        shell.run("(exit 3)")
        assert b"=3=" in shell.run("echo =$?=")
        place = user_home / "a b;%\u00e9"
        place.mkdir()
        shell.run("cd a*")
        shell.run("set -eu")
        prompts = [(mark.fields["exit"], mark.fields["cwd"]) for mark in shell.marks if mark.kind == "prompt"]
        assert (
            prompts
            == [("0", str(user_home))] * 2 + [("3", str(user_home)), ("0", str(user_home))] + [("0", str(place))] * 2
        )
        assert all(mark.is_genuine for mark in shell.marks)
        assert b"mine> " in shell.output
        assert NONCE.encode() not in shell.run("env").replace(b"\x1b]7717;" + NONCE.encode(), b"")


@pytest.mark.parametrize("name", ["bash", "zsh", "dash"])
def test_the_accounts_shell_profile_runs_before_the_first_prompt(user_home, name):
    with start(user_home, name, profile="exec bash\nFROM_ACCOUNT=7\ncd /") as shell:
        shell.until_prompt(1)
        assert b"<7>" in shell.run('echo "<$FROM_ACCOUNT>"')
        assert shell.marks[0].fields["shell"] == {"dash": "sh"}.get(name, name)
        assert next(mark for mark in shell.marks if mark.kind == "prompt").fields["cwd"] == "/"


def test_a_user_without_a_shell_gets_sh(user_home):
    with start(user_home, "false") as shell:
        shell.until_prompt(1)
        assert b"SHELL=/bin/sh" in shell.run("env")


def test_powershell_gets_one_line_without_a_double_quote():
    text = integration.windows_commands('cd C:\\\nWrite-Host "x"\n$x = 1')
    assert text.startswith("-NoLogo -NoExit -Command ")
    assert '"' not in text and "\n" not in text
    assert text.endswith("cd C:\\; $x = 1;")
    assert text.count("{{ nonce }}") == 1
    assert text.count("{") == text.count("}")
