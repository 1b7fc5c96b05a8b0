import json
import os
import sys
from dataclasses import asdict

from django.core.management.base import BaseCommand

from fleetops.doctor.checks import all_findings
from fleetops.doctor.findings import EXIT_CODES, worst
from fleetops.web.context import within

_COLOURS = {"ok": 32, "warning": 33, "failed": 31}


class Command(BaseCommand):
    help = (
        "Look at everything that FleetOps needs, and say what to do about what is wrong. Changes nothing. "
        "Exit status 0: all well; 1: something to look at soon; 2: something does not work."
    )
    requires_system_checks = ()
    requires_migrations_checks = False

    def add_arguments(self, parser):
        parser.add_argument("--json", action="store_true", help="for programs")

    def handle(self, *args, **options):
        with within("command"):
            found = all_findings()
        state = worst([each for findings in found.values() for each in findings])
        if options["json"]:
            facts = {name: [asdict(each) for each in findings] for name, findings in found.items()}
            self.stdout.write(json.dumps({"state": state, "checks": facts}, indent=2))
        else:
            self._say(found)
        if EXIT_CODES[state]:
            sys.exit(EXIT_CODES[state])

    def _say(self, found):
        colours = self.stdout.isatty() and not os.environ.get("NO_COLOR")
        for name, findings in found.items():
            for each in findings:
                word = f"{each.state:<7}"
                if colours:
                    word = f"\033[{_COLOURS[each.state]}m{word}\033[0m"
                self.stdout.write(f"{word}  {name:<12}  {each.text}")
                if each.to_do:
                    self.stdout.write(f"{'':<23}→ {each.to_do}")
