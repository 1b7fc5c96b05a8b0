"""The manual's IAM policy is what the code calls: nothing more, nothing less."""

import json
import re
from pathlib import Path

from botocore import xform_name
from botocore.session import Session

ROOT = Path(__file__).resolve().parents[2]
SERVICES = {"ec2.py": "ec2", "ssm.py": "ssm"}


def calls_in_the_code() -> set[str]:
    """The IAM actions behind each boto3 method that a module of `fleetops/aws` names."""
    found = set()
    for name, service in SERVICES.items():
        operations = Session().get_service_model(service).operation_names
        text = (ROOT / "fleetops" / "aws" / name).read_text()
        for operation in operations:
            if re.search(rf"(\.{xform_name(operation)}\(|paginator\(\"{xform_name(operation)}\"\))", text):
                found.add(f"{service}:{operation}")
    return found


def actions_in_the_readme() -> set[str]:
    blocks = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    statements = [statement for block in blocks for statement in json.loads(block)["Statement"]]
    actions = set()
    for statement in statements:
        listed = statement["Action"]
        actions |= {listed} if isinstance(listed, str) else set(listed)
    return {action for action in actions if not action.startswith("sts:")}


def test_the_manual_asks_for_exactly_the_permissions_that_the_code_uses():
    assert calls_in_the_code() == actions_in_the_readme()
