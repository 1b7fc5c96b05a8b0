import json
from dataclasses import asdict

from django.core.management.base import BaseCommand, CommandError

from fleetops.audit import chain, services
from fleetops.audit.record import record
from fleetops.web.context import within


class Command(BaseCommand):
    help = (
        "Prove that no row of the audit log was changed, removed, inserted or moved, and that its end is there. "
        "Exit status 1 if that cannot be shown; the first bad row is named."
    )
    requires_system_checks = ()  # they would load every page, and the log has to be provable whatever those are like

    def add_arguments(self, parser):
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        parser.add_argument(
            "--renew-head",
            action="store_true",
            help="after a restore or a lost head file: take the chain's end as it is; this is recorded",
        )

    def handle(self, *args, **options):
        quiet = options["json"] or not self.stderr.isatty()
        with within("command"):
            result = services.verify_and_record(actor="audit_verify", progress=None if quiet else self._progress)
            if options["renew_head"]:
                head = chain.renew_head()
                record("audit.head.renew", actor="audit_verify", number=head.number, hash=head.hash)
        if options["json"]:
            facts = asdict(result) | {"ok": result.ok}
            self.stdout.write(json.dumps(facts, default=str, indent=2))
        else:
            self._say(result)
        if not result.ok:
            raise CommandError(f"the audit log does not verify: {result.first_bad}", returncode=1)

    def _progress(self, done: int) -> None:
        self.stderr.write(f"\r{done:,} links recomputed", ending="")
        self.stderr.flush()

    def _say(self, result: chain.Verification) -> None:
        for problem in result.problems:
            self.stdout.write(f"BAD  {problem}")
        if result.problem_count > len(result.problems):
            self.stdout.write(f"BAD  and {result.problem_count - len(result.problems):,} more")
        to = f" to {result.sealed_to:%Y-%m-%d %H:%M:%S} UTC" if result.sealed_to else ""
        verdict = "whole" if result.ok else "NOT whole"
        self.stdout.write(
            f"chain {verdict}: {result.sealed:,} events sealed{to}, {result.unsealed:,} not sealed yet; "
            f"number {result.head.number} {result.head.hash[:16]}… ({result.seconds:.1f} s)"
        )
