"""What the inventory costs: reading 10,000 and 50,000 instances from AWS, and showing and filtering them, in one run.

    python benchmarks/inventory.py [--sizes 10000 50000] [--rounds 15] [--json FILE] [--quick]

AWS is a server of the benchmark's own on loopback, which answers DescribeInstances and DescribeInstanceInformation page
by page over real HTTP with bodies prepared beforehand: the calls cost us what they cost with AWS, and the server costs
nothing. boto3, the paging, the join and the database (SQLite in a file, or FLEETOPS_DATABASE_URL) are the product's.
Each size runs in a process of its own. Pages are asked for by Django's test client: the time is the server's,
middleware and templates included, without the network and without a browser.

Beside each stands what would be written first. Reading: `update_or_create` for each instance and tag. Showing: all rows
fetched, their account, region and tags looked up one by one by the template, states counted and filters matched in
Python, one page shown.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

ACCOUNT, REGION = "111122223333", "eu-west-1"
NAIVE_SYNC = 1000  # instances of it; it takes the same for each
FILTERS = (
    ("one tag", "env=prod"),
    ("expression", "env=prod and not cluster in (db, web) and platform=debian*"),
    ("words", "pay-api 017"),
)


# --- a loopback AWS --------------------------------------------------------------------------------------------------


def facts(number: int) -> dict[str, Any]:
    """An instance; one in fifty is stopped, one in forty lost, one in a hundred hybrid."""
    services = ("pay-api", "web", "db", "queue", "search", "batch", "cache", "ledger")
    service = services[number % len(services)]
    system = (("Debian GNU/Linux", "12"), ("Ubuntu", "24.04"), ("Amazon Linux", "2023"))[number % 3]
    return {
        "id": f"mi-{number:017x}" if number % 100 == 99 else f"i-{number:017x}",
        "is_hybrid": number % 100 == 99,
        "name": f"{service}-{number:05d}",
        "zone": f"{REGION}{'abc'[number % 3]}",
        "state": "stopped" if number % 50 == 7 else "running",
        "ping": "ConnectionLost" if number % 40 == 3 else "Online",
        "system": system,
        "tags": {
            "Name": f"{service}-{number:05d}",
            "env": ("prod", "prod", "staging", "dev")[number % 4],
            "cluster": f"{service}",
            "team": f"team-{number % 17}",
            "cost-centre": f"{4000 + number % 60}",
        },
    }


def machine_xml(each: dict[str, Any], generation: int) -> str:
    tags = dict(each["tags"])
    if generation == 2 and int(each["id"][-4:], 16) % 100 == 0:
        tags["env"] = "moved"
    items = "".join(f"<item><key>{key}</key><value>{value}</value></item>" for key, value in tags.items())
    address = int(each["id"][-6:], 16)
    return (
        f"<item><reservationId>r-{each['id'][2:]}</reservationId><ownerId>{ACCOUNT}</ownerId><groupSet/><instancesSet><item>"
        f"<instanceId>{each['id']}</instanceId><imageId>ami-0abcdef1234567890</imageId><instanceState><code>16</code>"
        f"<name>{each['state']}</name></instanceState><privateDnsName>ip-10-0-0-1.internal</privateDnsName><dnsName/>"
        "<keyName>ops</keyName><amiLaunchIndex>0</amiLaunchIndex><productCodes/><instanceType>t3.large</instanceType>"
        f"<launchTime>2026-11-01T08:00:00.000Z</launchTime><placement><availabilityZone>{each['zone']}</availabilityZone>"
        "<groupName/><tenancy>default</tenancy></placement><monitoring><state>disabled</state></monitoring>"
        f"<subnetId>subnet-0aa11bb22cc33dd44</subnetId><vpcId>vpc-0aa11bb22cc33dd44</vpcId>"
        f"<privateIpAddress>10.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}</privateIpAddress>"
        "<sourceDestCheck>true</sourceDestCheck><groupSet><item><groupId>sg-0aa11bb22cc33dd44</groupId>"
        "<groupName>default</groupName></item></groupSet><architecture>x86_64</architecture><rootDeviceType>ebs"
        "</rootDeviceType><rootDeviceName>/dev/xvda</rootDeviceName><blockDeviceMapping><item><deviceName>/dev/xvda"
        "</deviceName><ebs><volumeId>vol-0aa11bb22cc33dd44</volumeId><status>attached</status><attachTime>"
        "2026-11-01T08:00:05.000Z</attachTime><deleteOnTermination>true</deleteOnTermination></ebs></item>"
        f"</blockDeviceMapping><virtualizationType>hvm</virtualizationType><tagSet>{items}</tagSet><hypervisor>xen"
        f"</hypervisor><iamInstanceProfile><arn>arn:aws:iam::{ACCOUNT}:instance-profile/ssm-core</arn>"
        "<id>AIPA0AA11BB22CC33DD44</id></iamInstanceProfile><ebsOptimized>false</ebsOptimized>"
        "<platformDetails>Linux/UNIX</platformDetails><usageOperation>RunInstances</usageOperation></item></instancesSet>"
        "</item>"
    )


def node_json(each: dict[str, Any], generation: int) -> dict[str, Any]:
    return {
        "InstanceId": each["id"],
        "PingStatus": each["ping"],
        # Every agent pings, so between two readings all of these move.
        "LastPingDateTime": 1_795_000_000.25 + 60 * generation + int(each["id"][-4:], 16) % 60,
        "AgentVersion": "3.3.2299.0",
        "IsLatestVersion": True,
        "PlatformType": "Linux",
        "PlatformName": each["system"][0],
        "PlatformVersion": each["system"][1],
        "ResourceType": "ManagedInstance" if each["is_hybrid"] else "EC2Instance",
        "IPAddress": "10.0.0.1",
        "ComputerName": f"{each['name']}.internal",
        "AssociationStatus": "Success",
        "LastAssociationExecutionDate": 1_795_000_000.0,
        "LastSuccessfulAssociationExecutionDate": 1_795_000_000.0,
        "AssociationOverview": {
            "DetailedStatus": "Success",
            "InstanceAssociationStatusAggregatedCount": {"Success": 2},
        },
        "SourceId": each["id"],
        "SourceType": "AWS::EC2::Instance",
    }


class LoopbackAws:
    """Answers prepared pages; counts the calls of each operation."""

    def __init__(self, size: int) -> None:
        everything = [facts(number) for number in range(size)]
        self.machines = [each for each in everything if not each["is_hybrid"]]
        self.nodes = [each for each in everything if each["state"] == "running"]
        self.pages: dict[tuple[str, int, int, int], bytes] = {}
        self.generation = 0
        self.calls: dict[str, int] = {}

    def prepare(self, ec2_page: int, ssm_page: int) -> None:
        for generation in range(3):
            self.generation = generation
            for start in range(0, len(self.machines), ec2_page):
                self.ec2(start, ec2_page)
            for start in range(0, len(self.nodes), ssm_page):
                self.ssm(start, ssm_page)
        self.generation = 0

    def ec2(self, start: int, count: int) -> bytes:
        key = ("ec2", self.generation, start, count)
        if key not in self.pages:
            items = "".join(machine_xml(each, self.generation) for each in self.machines[start : start + count])
            rest = f"<nextToken>{start + count}</nextToken>" if start + count < len(self.machines) else ""
            self.pages[key] = (
                '<?xml version="1.0" encoding="UTF-8"?><DescribeInstancesResponse '
                'xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId>'
                f"<reservationSet>{items}</reservationSet>{rest}</DescribeInstancesResponse>"
            ).encode()
        return self.pages[key]

    def ssm(self, start: int, count: int) -> bytes:
        key = ("ssm", self.generation, start, count)
        if key not in self.pages:
            nodes = [node_json(each, self.generation) for each in self.nodes[start : start + count]]
            answer: dict[str, Any] = {"InstanceInformationList": nodes}
            if start + count < len(self.nodes):
                answer["NextToken"] = str(start + count)
            self.pages[key] = json.dumps(answer).encode()
        return self.pages[key]

    def answer(self, headers: Any, body: bytes) -> bytes:
        target = headers.get("X-Amz-Target", "").rpartition(".")[2]
        if target:
            asked = json.loads(body)
            self.calls[target] = self.calls.get(target, 0) + 1
            if target == "ListTagsForResource":
                return b'{"TagList": [{"Key": "site", "Value": "lagos"}]}'
            return self.ssm(int(asked.get("NextToken") or 0), asked["MaxResults"])
        form = {key: values[0] for key, values in parse_qs(body.decode()).items()}
        self.calls[form["Action"]] = self.calls.get(form["Action"], 0) + 1
        return self.ec2(int(form.get("NextToken") or 0), int(form["MaxResults"]))


def serve(size: int, ec2_page: int, ssm_page: int) -> None:
    """The server's process: POST / is AWS; GET /N sets the generation of its facts; GET /calls tells of the calls."""
    aws = LoopbackAws(size)
    aws.prepare(ec2_page, ssm_page)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, body: bytes) -> None:
            self.send_response(200)
            kind = "application/x-amz-json-1.1" if self.headers.get("X-Amz-Target") else "text/xml"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(aws.answer(self.headers, body))

        def do_GET(self) -> None:
            if self.path == "/calls":
                body, aws.calls = json.dumps(aws.calls).encode(), {}
            else:
                aws.generation, body = int(self.path[1:]), b"ok"
            self.reply(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown()), daemon=True).start()  # until our parent ends
    server.serve_forever()


# --- what is measured ------------------------------------------------------------------------------------------------


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def milliseconds(work: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Medians of `rounds` after one to warm up: of the CPU's time, and of the clock's."""
    work()
    found = []
    for _ in range(rounds):
        gc.collect()
        cpu, clock = time.process_time(), time.perf_counter()
        work()
        found.append(((time.process_time() - cpu) * 1000, (time.perf_counter() - clock) * 1000))
    return {"cpu": statistics.median(cpu for cpu, _ in found), "clock": statistics.median(clock for _, clock in found)}


def measure(size: int, rounds: int, port: int) -> dict[str, Any]:
    """All figures of one size, in this process, with a home and a database of its own."""
    import http.client

    import django

    django.setup()
    from django.contrib.auth.models import Group
    from django.core.management import call_command
    from django.db import connection
    from django.test import Client, override_settings
    from django.test.utils import CaptureQueriesContext

    from fleetops.clock import now
    from fleetops.identity.models import User
    from fleetops.inventory import selection, services
    from fleetops.inventory.models import Account, Instance, InstanceTag, Region
    from fleetops.settings import STORAGES

    # Names of style sheets without a manifest: no built front end is needed.
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    override_settings(STORAGES=STORAGES | {"staticfiles": plain}, ALLOWED_HOSTS=["testserver"]).enable()
    Path(os.environ["FLEETOPS_HOME"], "static").mkdir()  # WhiteNoise warns of one that is not there
    call_command("migrate", verbosity=0)
    call_command("sync_roles", verbosity=0)
    account = Account.objects.create(account_id=ACCOUNT, name="platform-prod", endpoint_url=f"http://127.0.0.1:{port}")
    region = Region.objects.create(account=account, name=REGION)

    def control(path: str) -> str:
        asked = http.client.HTTPConnection("127.0.0.1", port)
        asked.request("GET", path)
        return asked.getresponse().read().decode()

    def sync(generation: int) -> dict[str, Any]:
        control(f"/{generation}")
        control("/calls")
        Region.objects.update(started_at=None, claimed_until=None)
        cpu, wall, changed, parts = time.process_time(), time.perf_counter(), 0, 0
        while parts == 0 or Region.objects.get().reading:  # what one task does not reach in 45 s, the next goes on with
            moment = now()
            services.claim_due_regions(now=moment)
            outcome = services.refresh_region(region.pk, now=moment)
            assert outcome is not None and not outcome.error, outcome
            changed, parts = changed + outcome.changed, parts + 1
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        assert Instance.objects.present().count() == size, outcome
        calls = json.loads(control("/calls"))
        return {
            "calls": sum(calls.values()),
            "by operation": calls,
            "cpu ms an instance": cpu * 1000 / size,
            "seconds": wall,
            "changed": changed,
            "parts": parts,
        }

    before = peak_mb()
    figures: dict[str, Any] = {"first": sync(0)}
    figures["memory MB"] = peak_mb() - before
    figures["pings moved"] = sync(1)
    figures["1 % retagged"] = sync(2)
    figures["nothing moved"] = sync(2)
    assert Instance.objects.present().count() == size
    figures["naive sync"] = {"cpu ms an instance": naive_sync(size, services, Region, Instance)}

    user = User.objects.create_user("bench", password="correct horse battery")
    user.groups.add(Group.objects.get(name="operator"))
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")

    def ask(path: str, parameters: dict[str, str], **headers: str) -> Any:
        answer = client.get(path, parameters, headers=headers)
        assert answer.status_code == 200, answer
        return answer

    figures["list"] = milliseconds(lambda: ask("/fleet/", {"q": ""}), rounds)
    with CaptureQueriesContext(connection) as queries:
        ask("/fleet/", {"q": ""})
    figures["queries of a list"] = len(queries)
    pages = size // 100
    figures["middle page"] = milliseconds(lambda: ask("/fleet/", {"q": "", "page": str(pages // 2)}), rounds)
    figures["last page"] = milliseconds(lambda: ask("/fleet/", {"q": "", "page": str(pages)}), rounds)
    figures["by status"] = milliseconds(lambda: ask("/fleet/", {"q": "", "sort": "status"}), rounds)
    figures["filters"] = {}
    for name, text in FILTERS:
        typed = {"q": "", "add": text}
        html = ask("/fleet/", typed, **{"HX-Request": "true"}).content.decode()
        found = re.search(r'id="fleet-count"[^>]*>\s*([\d,]+) match', html)
        assert found
        count = int(found[1].replace(",", ""))
        figures["filters"][name] = {
            "matches": count,
            "as one types": milliseconds(lambda typed=typed: ask("/fleet/", typed, **{"HX-Request": "true"}), rounds),
            "naive": milliseconds(
                lambda text=text: naive_page(text, Instance, InstanceTag, selection), max(3, rounds // 5)
            ),
        }
        assert count == naive_page(text, Instance, InstanceTag, selection)[0]
    found = re.search(r'hx-vals="([^"]*)"', ask("/fleet/", {"q": "env=prod"}).content.decode())
    assert found
    live = json.loads(unescape(found[1]))
    figures["changes of an open page"] = milliseconds(lambda: ask("/fleet/live/", live), rounds)
    figures["completion of a key"] = milliseconds(lambda: ask("/fleet/complete/", {"text": "e", "at": "1"}), rounds)
    figures["completion of a value"] = milliseconds(
        lambda: ask("/fleet/complete/", {"text": "env=", "at": "4"}), rounds
    )
    figures["preview"] = milliseconds(lambda: ask("/fleet/preview/", {"text": FILTERS[1][1]}), rounds)
    figures["naive list"] = milliseconds(lambda: naive_page("", Instance, InstanceTag, selection), max(3, rounds // 5))
    figures["database"] = connection.vendor
    return figures


def naive_sync(size: int, services: Any, region_model: Any, instance_model: Any) -> float:
    """CPU milliseconds for an instance that is looked up, compared by nobody and saved."""
    region = region_model.objects.select_related("account").get()
    access, taken = region.account.access(), 0
    cpu = time.process_time()
    nodes: dict[str, Any] = {}
    for page in services.ssm.instance_pages(access, region.name, session_name="bench"):
        nodes |= {node.instance_id: node for node in page}
        if len(nodes) >= NAIVE_SYNC:
            break
    for page in services.ec2.instance_pages(access, region.name, session_name="bench"):
        for machine in page:
            node = nodes.get(machine.instance_id)
            row, _ = instance_model.objects.update_or_create(
                account=region.account,
                region=region,
                instance_id=machine.instance_id,
                defaults={
                    "name": machine.tags.get("Name", ""),
                    "ec2_state": machine.state,
                    "zone": machine.zone,
                    "tags": dict(machine.tags),
                    "ping_status": node.ping_status if node else "",
                    "last_ping_at": node.last_ping_at if node else None,
                },
            )
            for key, value in machine.tags.items():
                row.tag_rows.update_or_create(key=key, defaults={"value": value})
            taken += 1
        if taken >= NAIVE_SYNC:
            break
    return (time.process_time() - cpu) * 1000 / taken


_NAIVE = """<table>{% for i in rows %}<tr><td><a href="{{ i.get_absolute_url }}">{{ i }}</a> {{ i.instance_id }}</td>
<td>{{ i.word }}</td><td>{{ i.platform }}</td><td>{{ i.account.name }} {{ i.region.name }}</td>
<td>{% for tag in i.tag_rows.all %}{{ tag.key }}={{ tag.value }} {% endfor %}</td><td>{{ i.profile_name }}</td></tr>
{% endfor %}</table>"""


def naive_page(text: str, instance_model: Any, tag_model: Any, selection: Any) -> tuple[int, str]:
    """The first page of what matches `text`, as one would write it first; without any middleware in its favour."""
    from django.template import Context, Engine

    from fleetops.clock import now
    from fleetops.inventory.readiness import status_words
    from fleetops.targets import parse

    moment = now()
    rows = list(instance_model.objects.filter(gone_at=None).order_by("name"))
    for row in rows:
        row.word = status_words(row, now=moment)[1]
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.word] = counts.get(row.word, 0) + 1
    if text:
        expression = parse(text, words=True)
        account, region = rows[0].account, rows[0].region
        for row in rows:
            row.account, row.region = account, region
        rows = [row for row in rows if expression.matches(selection.facts_of(row))]
        shown = list(instance_model.objects.filter(pk__in=[row.pk for row in rows[:100]]))
        for row in shown:
            row.word = status_words(row, now=moment)[1]
    else:
        shown = rows[:100]
    html = Engine.get_default().from_string(_NAIVE).render(Context({"rows": shown, "counts": counts}))
    return len(rows), html


# --- running it ------------------------------------------------------------------------------------------------------


def run(size: int, rounds: int) -> dict[str, Any]:
    """One size: a server, and a process that measures."""
    from fleetops.aws import ec2, ssm

    me = [sys.executable, str(Path(__file__).resolve())]
    command = [*me, "--serve", str(size), str(ec2.PAGE), str(ssm.PAGE)]
    with (
        tempfile.TemporaryDirectory(prefix="fo-bench-") as home,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server,
    ):
        assert server.stdin and server.stdout
        try:
            port = server.stdout.readline().strip()
            environment = os.environ | {
                "DJANGO_SETTINGS_MODULE": "fleetops.settings",
                "FLEETOPS_HOME": home,
                "FLEETOPS_VALKEY_URL": f"unix://{home}/run/valkey.sock",
                "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
                "AWS_SECRET_ACCESS_KEY": "x" * 40,
                "AWS_EC2_METADATA_DISABLED": "true",
                "FLEETOPS_LOG_LEVEL": "WARNING",
            }
            child = [*me, "--measure", str(size), str(rounds), port]
            done = subprocess.run(child, env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
            return json.loads(done.stdout.splitlines()[-1])
        finally:
            server.stdin.close()


def tables(found: dict[int, dict[str, Any]]) -> str:
    lines = [
        "| reading | instances | calls | CPU ms an instance | seconds | rows changed | peak MB more |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for size, figures in found.items():
        for name in ("first", "pings moved", "1 % retagged", "nothing moved"):
            each = figures[name]
            memory = f"{figures['memory MB']:.0f}" if name == "first" else "–"
            lines.append(
                f"| {name} | {size:,} | {each['calls']:,} | {each['cpu ms an instance']:.2f} | {each['seconds']:.1f} "
                f"| {each['changed']:,} | {memory} |"
            )
        naive, ours = figures["naive sync"]["cpu ms an instance"], figures["pings moved"]["cpu ms an instance"]
        lines.append(f"| naive | {size:,} | – | {naive:.2f} ({naive / ours:.1f} times) | – | – | – |")
    # SQLite works in our process: the CPU's time is the whole of it, whatever else this machine does meanwhile.
    kind = "cpu" if all(figures["database"] == "sqlite" for figures in found.values()) else "clock"
    lines += [
        "",
        f"| a page ({kind}) | instances | FleetOps ms | naive ms | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for size, figures in found.items():
        rows = [(f"list, first page ({figures['queries of a list']} queries)", figures["list"], figures["naive list"])]
        rows += [(name, figures[name], None) for name in ("middle page", "last page", "by status")]
        rows += [
            (f"filter: {name}, {each['matches']:,} match", each["as one types"], each["naive"])
            for name, each in figures["filters"].items()
        ]
        others = ("changes of an open page", "completion of a key", "completion of a value", "preview")
        rows += [(name, figures[name], None) for name in others]
        for name, ours, naive in rows:
            beside = f"{naive[kind]:,.0f} | {naive[kind] / ours[kind]:.0f}" if naive else "– | –"
            lines.append(f"| {name} | {size:,} | {ours[kind]:.0f} | {beside} |")
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(*map(int, sys.argv[2:5]))
        return
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(*map(int, sys.argv[2:5]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write all figures there too")
    parser.add_argument("--quick", action="store_true", help="1,000 instances, to see that it runs")
    options = parser.parse_args()
    sizes, rounds = ([1000], 3) if options.quick else (options.sizes, options.rounds)
    found: dict[int, dict[str, Any]] = {}
    for size in sizes:
        found[size] = run(size, rounds)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1))
    print(tables(found))


if __name__ == "__main__":
    main()
