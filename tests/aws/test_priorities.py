"""For whom tasks call AWS: as polls, unless they say otherwise."""

import ast
import re
from pathlib import Path

from fleetops import taskwatch
from fleetops.aws import governor
from fleetops.aws.governor import Priority
from fleetops.inventory.tasks import refresh_due_regions

ROOT = Path(__file__).resolve().parents[2]
# Somebody waits for it, or something has to end; all others are polls.
SAID = {
    "fleetops.automation.tasks.advance": Priority.RUN,
    "fleetops.roles.tasks.bring": Priority.RUN,
    "fleetops.roles.tasks.bring_privileges": Priority.RUN,
    "fleetops.exposure.tasks.work": Priority.PERSON,  # its page is looked at meanwhile
    "fleetops.roles.catalogue.tasks.make": Priority.PERSON,  # its page is looked at meanwhile
    "fleetops.inventory.tasks.check_account": Priority.PERSON,  # its page is looked at meanwhile
    "fleetops.inventory.tasks.check_identity": Priority.PERSON,  # likewise
    "fleetops.runcommand.tasks.advance": Priority.RUN,  # what people have started
    "fleetops.rollouts.tasks.advance_run": Priority.RUN,  # likewise, in waves
    "fleetops.rollouts.scheduling.tasks.carry_out": Priority.RUN,  # likewise, by a schedule
    "patching.tasks.read_known": Priority.RUN,  # somebody looks at its preview
    "sessions_app.tasks.tidy": Priority.RUN,  # shells that should be over
    "sessions_app.tasks.deliver_logs": Priority.RUN,  # what people do is to be seen
    "sessions_app.tasks.copy_recordings": Priority.RUN,
    "sessions_app.tasks.check_delivery": Priority.PERSON,  # as check_account
}


def said(path: Path) -> dict[str, Priority]:
    """The priority that each task of a file names for itself."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return {
        f"{module}.{function.name}": Priority[decorator.args[0].attr]
        for function in ast.parse(path.read_text()).body
        if isinstance(function, ast.FunctionDef)
        for decorator in function.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("acting_for")
    }


def test_a_task_is_a_poll_unless_it_is_known_here_to_be_more():
    files = [*ROOT.glob("fleetops/*/tasks.py"), *ROOT.glob("*/tasks.py"), *ROOT.glob("fleetops/*/*/tasks.py")]
    found = {name: priority for path in files for name, priority in said(path).items()}
    assert {name: each for name, each in found.items() if each is not Priority.POLL} == SAID
    assert found["fleetops.inventory.tasks.refresh_region"] is Priority.POLL


def test_a_worker_begins_each_task_as_a_poll():
    task = refresh_due_regions
    task.push_request(id="1", is_eager=False, called_directly=False)
    try:
        assert governor.acts_for() is Priority.PERSON
        taskwatch._begin(task_id="1", task=task)
        assert governor.acts_for() is Priority.POLL
        with governor.acting_for(Priority.RUN):
            assert governor.acts_for() is Priority.RUN
        assert governor.acts_for() is Priority.POLL
    finally:
        taskwatch._end(task_id="1", task=task)
        task.pop_request()
        governor.act_for(Priority.PERSON)


def test_one_that_a_page_carries_out_itself_is_the_pages():
    task = refresh_due_regions
    task.push_request(id="2", is_eager=True, called_directly=False)
    try:
        taskwatch._begin(task_id="2", task=task)
        assert governor.acts_for() is Priority.PERSON
        taskwatch._end(task_id="2", task=task)
    finally:
        task.pop_request()


# Modules whose functions call AWS, and so may wait.
CALLS = re.compile(r"(ssm|sts|ec2|iam|sns|sqs|probes|streams|account_checks)\.\w+")


def test_no_event_loop_waits_for_a_call():
    """A coroutine hands such a function to a thread, and does not call it."""
    wrong = []
    for path in [*ROOT.glob("fleetops/**/*.py"), *ROOT.glob("sessions_app/**/*.py")]:
        if "fleetops/endpoint" in path.as_posix():  # on AWS's side
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.AsyncFunctionDef):
                called = [ast.unparse(each.func) for each in ast.walk(function) if isinstance(each, ast.Call)]
                wrong += [f"{path.name}: {function.name} calls {name}" for name in called if CALLS.fullmatch(name)]
    assert not wrong, "\n".join(wrong)
