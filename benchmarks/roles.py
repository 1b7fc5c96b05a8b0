"""What leases of roles cost: ten thousand put in place, looked after, and ended, beside a loop over the instances.

    python benchmarks/roles.py [--instances 10000] [--naive 300]

AWS is a server of the benchmark's own on loopback, which speaks EC2's query protocol for the four calls about instance
profiles; the loop, its rows (SQLite in a file), boto3 and the wire are the product's, carried on by one thread as beat
and a worker would. No call is held back: what they would take at 5 calls a second, which AWS grants an account for such
calls at least, is the number of calls by five.

The least number of calls that any programme could make is a change for each instance.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ACCOUNT, REGION, PER_SECOND = "111122223333", "eu-west-1", 5
ARN = f"arn:aws:iam::{ACCOUNT}:instance-profile/core"
SPACE = 'xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"'


class LoopbackEc2:
    """Which instance has which profile, and how often anybody asked."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[str, str]] = {}  # instance → association id, ARN
        self.of: dict[str, str] = {}  # association id → instance
        self.calls: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._number = 0

    def answer(self, form: dict[str, str]) -> str:
        action = form["Action"]
        with self._lock:
            self.calls[action] += 1
            return getattr(self, action)(form)

    def _item(self, instance: str, tag: str) -> str:
        association, arn = self.held[instance]
        return (
            f"<{tag}><associationId>{association}</associationId><instanceId>{instance}</instanceId>"
            f"<iamInstanceProfile><arn>{escape(arn)}</arn><id>AIPA</id></iamInstanceProfile><state>associated</state></{tag}>"
        )

    def DescribeIamInstanceProfileAssociations(self, form: dict[str, str]) -> str:
        wanted = [value for name, value in form.items() if name.startswith("Filter.1.Value.")]
        items = "".join(self._item(each, "item") for each in wanted if each in self.held)
        return f"<iamInstanceProfileAssociationSet>{items}</iamInstanceProfileAssociationSet>"

    def AssociateIamInstanceProfile(self, form: dict[str, str]) -> str:
        self._number += 1
        instance, association = form["InstanceId"], f"iip-assoc-{self._number}"
        self.held[instance], self.of[association] = (association, form["IamInstanceProfile.Arn"]), instance
        return self._item(instance, "iamInstanceProfileAssociation")

    def DisassociateIamInstanceProfile(self, form: dict[str, str]) -> str:
        instance = self.of.pop(form["AssociationId"])
        answer = self._item(instance, "iamInstanceProfileAssociation")
        del self.held[instance]
        return answer


def serve(aws: LoopbackEc2) -> str:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
            name = f"{form['Action']}Response"
            body = f"<{name} {SPACE}><requestId>r</requestId>{aws.answer(form)}</{name}>".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--instances", type=int, default=10_000)
    options.add_argument("--naive", type=int, default=300, help="instances that the plain loop goes over")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="fo-bench-") as home:
        os.environ |= {
            "FLEETOPS_HOME": home,
            "DJANGO_SETTINGS_MODULE": "fleetops.settings",
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "example",
            "FLEETOPS_LOG_LEVEL": "ERROR",
        }
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        measure(given.instances, given.naive)


def measure(count: int, naive: int) -> None:
    import logging
    from datetime import timedelta

    from fleetops.aws import profiles
    from fleetops.clock import now
    from fleetops.identity.models import User
    from fleetops.inventory.models import Account, Instance, Region
    from fleetops.roles import reconcile
    from fleetops.roles.models import Holding, RoleAttachment

    logging.disable(logging.WARNING)
    aws = LoopbackEc2()
    account = Account.objects.create(account_id=ACCOUNT, name="bench", endpoint_url=serve(aws))
    region = Region.objects.create(account=account, name=REGION)
    user = User.objects.create_user("mei")
    instances = Instance.objects.bulk_create(
        (
            Instance(account=account, region=region, instance_id=f"i-{n:017x}", name=f"n{n}", ec2_state="running")
            for n in range(count)
        ),
        batch_size=500,
    )
    moment = now()
    RoleAttachment.objects.bulk_create(
        (
            RoleAttachment(
                instance=each,
                account=account,
                region=region,
                instance_name=each.name,
                profile_arn=ARN,
                asked_by=user,
                asked_by_name="mei",
                minutes=60,
                ends_at=moment + timedelta(hours=1),
            )
            for each in instances
        ),
        batch_size=500,
    )
    Holding.objects.bulk_create(
        (Holding(instance=each, account=account, region=region, due_at=moment) for each in instances), batch_size=500
    )
    print(f"{count:,} instances in one account and region; calls at {PER_SECOND} a second, CPU of this process\n")
    print(f"{'':34}{'calls':>8}{'an instance':>13}{'at 5/s':>10}{'CPU':>9}{'RSS':>9}")
    line("put in place", aws, count, lambda: drain(reconcile, now))
    assert len(aws.held) == count and not RoleAttachment.objects.exclude(state="active").exists()
    # As the inventory tells it after its next reading.
    Instance.objects.update(profile_arn=ARN, ec2_read_at=now())
    line("looked after: 100 looks of beat", aws, count, lambda: [drain(reconcile, now) for _ in range(100)])
    RoleAttachment.objects.update(ends_at=now())
    Holding.objects.update(due_at=now())
    line("ended", aws, count, lambda: drain(reconcile, now))
    assert not aws.held and not RoleAttachment.objects.exclude(state="ended").exists()

    access, asked = account.access(), {"session_name": "bench"}

    def plainly() -> None:
        """Look, attach, look again: for each by itself, as a script does."""
        for each in instances[:naive]:
            if not profiles.associations(access, REGION, [each.instance_id], **asked):
                profiles.associate(access, REGION, instance_id=each.instance_id, profile_arn=ARN, **asked)
            profiles.associations(access, REGION, [each.instance_id], **asked)

    line(f"a plain loop, over {naive:,}", aws, naive, plainly)


def drain(reconcile, now) -> None:
    """What beat and a worker do, until nothing is due."""
    while True:
        moment = now()
        reconcile.note_ends(at=moment)
        reconcile.note_drift(at=moment)
        claimed = reconcile.claim_due(at=moment)
        if not claimed:
            return
        for _, _, keys in claimed:
            reconcile.bring(keys)


def line(what: str, aws: LoopbackEc2, count: int, deed) -> None:
    before, cpu = aws.calls.total(), time.process_time()
    deed()
    calls, cpu = aws.calls.total() - before, time.process_time() - cpu
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    minutes = calls / PER_SECOND / 60
    print(f"{what:34}{calls:8,}{calls / count:13.3f}{minutes:8.1f}min{cpu:8.1f}s{rss:7.0f}MB")


if __name__ == "__main__":
    main()
