"""How much is asked of the database for questions about many nodes.

    python -m tests.endpoint.inventory_scale HOME NODES PACKAGES

Fills a database of its own in HOME and prints queries, seconds and what was found, as JSON. In a process of its own,
for the endpoint's settings are not those of the tests.
"""

import asyncio
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def main(home: str, nodes: int, packages: int) -> None:
    os.environ["FLEETOPS_ENDPOINT_HOME"] = home
    os.environ["DJANGO_SETTINGS_MODULE"] = "fleetops.endpoint.settings"
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    print(json.dumps(asyncio.run(_measure(nodes, packages))))


async def _measure(number: int, packages: int) -> dict[str, Any]:
    import orjson
    from django.db import connection

    from fleetops import clock
    from fleetops.endpoint.inventory import Inventory, read_filters
    from fleetops.endpoint.models import InventoryItem
    from fleetops.endpoint.nodes import Managed, Nodes

    with ThreadPoolExecutor(1) as executor:
        now, place = clock.now(), ("111122223333", "eu-west-1")
        nodes = Nodes(executor)
        ids = [f"i-{n:017x}" for n in range(number)]
        for n, instance_id in enumerate(ids):
            node = Managed((*place, instance_id), registered_at=now, last_ping_at=now)
            node.information = {"PlatformName": "Debian" if n % 2 else "Ubuntu"}
            nodes._nodes[node.key] = node
        inventory = Inventory(executor, executor, nodes)

        def fill() -> None:
            rows = []
            for n, instance_id in enumerate(ids):
                content = [
                    {"Name": f"package-{m}", "Version": f"1.{n}.{m}", "Publisher": "Debian", "Architecture": "x86_64"}
                    for m in range(packages)
                ]
                content.append({"Name": f"own-{n}", "Version": "1"})
                text = orjson.dumps(content).decode()
                rows.append(
                    InventoryItem(
                        account_id=place[0],
                        region=place[1],
                        instance_id=instance_id,
                        type_name="AWS:Application",
                        schema_version="1.1",
                        capture_time="2026-11-23T17:30:37Z",
                        content=text,
                        size=len(text),
                        put_at=now,
                    )
                )
                if len(rows) == 500:
                    InventoryItem.objects.bulk_create(rows)
                    rows.clear()
            InventoryItem.objects.bulk_create(rows)

        await asyncio.get_running_loop().run_in_executor(executor, fill)
        queries: list[str] = []

        def watch() -> None:
            connection.execute_wrappers.append(
                lambda execute, sql, params, many, context: (queries.append(sql), execute(sql, params, many, context))[
                    1
                ]
            )

        await asyncio.get_running_loop().run_in_executor(executor, watch)

        async def measured(work: Any) -> dict[str, Any]:
            queries.clear()
            began = time.monotonic()
            found = await work
            return {
                "found": len(found) if found is not None else 0,
                "queries": sum(not sql.startswith(("SAVEPOINT", "RELEASE", "BEGIN")) for sql in queries),
                "seconds": round(time.monotonic() - began, 3),
            }

        page = nodes.registered_in(*place)[:51]
        rare = read_filters([{"Key": "AWS:Application.Name", "Values": [f"own-{number - 1}"]}])
        known = read_filters([{"Key": "AWS:InstanceInformation.PlatformName", "Values": ["Debian"]}])
        unlike = read_filters([{"Key": "AWS:Application.Name", "Values": ["package-0"], "Type": "NotEqual"}])
        everybody = nodes.registered_in(*place)
        item = {"TypeName": "AWS:Application", "SchemaVersion": "1.1", "CaptureTime": "2026-11-23T17:30:37Z"}
        return {
            "page": await measured(inventory.contents(page, "AWS:Application", now)),
            "known": await measured(inventory.find(place, known, now, limit=51)),
            "rare": await measured(inventory.find(place, rare, now, limit=51)),
            "unlike": await measured(inventory.find(place, unlike, now, limit=51)),
            "count": await measured(inventory.count(everybody, "AWS:Application", ["Name"], now)),
            "put": await measured(inventory.put(everybody[0].key, [{**item, "Content": [{"Name": "new"}]}], now)),
        }


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
