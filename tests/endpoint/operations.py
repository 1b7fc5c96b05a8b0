"""What SSM's parts answer, read in a process of its own: the endpoint's models are no part of the product's."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

_SCRIPT = """
import json, os
os.environ["DJANGO_SETTINGS_MODULE"] = "fleetops.endpoint.settings"
import django
django.setup()
from fleetops.endpoint.api.ssm import PARTS
from fleetops.endpoint.api.ssm.shared import _pascal
print(json.dumps([sorted({_pascal(name) for part in PARTS for name in getattr(part, kind)})
                  for kind in ("names", "agent_names")]))
"""


@cache
def ssm_operations() -> tuple[frozenset[str], frozenset[str]]:
    """(the modelled operations that are answered, the ones that only agents call)."""
    root = Path(__file__).resolve().parents[2]
    out = subprocess.run([sys.executable, "-c", _SCRIPT], cwd=root, check=True, capture_output=True, text=True).stdout
    modelled, agents = json.loads(out)
    return frozenset(modelled), frozenset(agents)
