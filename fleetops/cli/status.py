"""`fleetops status`: what runs, where, and with which credentials to try the aws CLI on the embedded endpoint."""

from __future__ import annotations

import shlex
from typing import Any

from fleetops.cli import installation


def read() -> dict[str, Any]:
    """All of it, as `--json` prints it. `endpoint` is null where there is none; `try` is an environment for `aws`."""
    running = installation.is_running()
    told = installation.supervisor_status() if running else {}
    handover = installation.handover()
    return {
        "running": running,
        "state": told.get("state", "starting" if running else "stopped"),
        "home": str(installation.home()),
        "profile": told.get("profile"),
        "pid": told.get("pid"),
        "started": told.get("started"),
        "addresses": told.get("addresses", {}),
        "ports": told.get("ports", {}),
        "parts": told.get("parts", {}),
        "endpoint": endpoint(handover),
        "try": aws_environment(handover),
    }


def endpoint(handover: dict[str, Any]) -> dict[str, Any] | None:
    if not handover:
        return None
    return {
        "url": handover["endpoint_url"],
        "ca_file": handover["ca_file"],
        "accounts": [
            {
                "account_id": account["account_id"],
                "name": account["name"],
                "regions": account["regions"],
                "instance_ids": account["instance_ids"],
            }
            for account in handover["accounts"]
        ],
    }


def aws_environment(handover: dict[str, Any]) -> dict[str, str]:
    """The variables with which `aws` and boto3 act as the first account's user for trying things."""
    if not handover or not handover["accounts"]:
        return {}
    account = handover["accounts"][0]
    return {
        "AWS_ACCESS_KEY_ID": account["try_credentials"]["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": account["try_credentials"]["secret_access_key"],
        "AWS_DEFAULT_REGION": account["regions"][0],
        "AWS_ENDPOINT_URL": handover["endpoint_url"],
        "AWS_CA_BUNDLE": handover["ca_file"],
    }


def in_words(now: dict[str, Any]) -> str:
    if not now["running"]:
        return f"FleetOps does not run on {now['home']}. Start it with `make up`."
    lines = [
        f"FleetOps    {now['state']}  (pid {now['pid']}, started {now['started']})",
        f"State       {now['home']}",
        *(f"{name:<11} {address}" for name, address in now["addresses"].items()),
        "",
        f"{'part':<11} {'state':<11} {'pid':>8}  restarts",
        *(
            f"{name:<11} {part['state']:<11} {part['pid'] or '-':>8}  {part['restarts']}"
            for name, part in now["parts"].items()
        ),
    ]
    if now["endpoint"]:
        lines += ["", f"CA file     {now['endpoint']['ca_file']}"]
        for account in now["endpoint"]["accounts"]:
            lines += [
                f"Account     {account['account_id']}  {account['name']}",
                f"Region      {', '.join(account['regions'])}",
                f"Instances   {len(account['instance_ids'])}",
                *(f"            {instance_id}" for instance_id in account["instance_ids"]),
            ]
    if now["try"]:
        lines += ["", "To try the aws CLI on the endpoint, in a shell of its own:", ""]
        lines += [f"  export {name}={shlex.quote(value)}" for name, value in now["try"].items()]
        lines += ["  aws ssm describe-instance-information"]
    return "\n".join(lines)
