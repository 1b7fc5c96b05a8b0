"""SSM, ours in full: one part for each subject, each with the operations that it answers."""

from typing import Any

from fleetops.awsapi.errors import ApiError, not_implemented
from fleetops.endpoint import lies
from fleetops.endpoint.api.ssm.activations import Activations
from fleetops.endpoint.api.ssm.associations import Associations
from fleetops.endpoint.api.ssm.automation import Automation
from fleetops.endpoint.api.ssm.commands import Commands
from fleetops.endpoint.api.ssm.compliance import Compliance
from fleetops.endpoint.api.ssm.documents import Documents
from fleetops.endpoint.api.ssm.inventory import Inventory
from fleetops.endpoint.api.ssm.nodes import Nodes
from fleetops.endpoint.api.ssm.patch_states import PatchStates
from fleetops.endpoint.api.ssm.patching import Patching
from fleetops.endpoint.api.ssm.sessions import Sessions
from fleetops.endpoint.api.ssm.shared import CODEC, Part, Result, agent_parameters
from fleetops.endpoint.api.ssm.tags import Tags
from fleetops.endpoint.calls import Call
from fleetops.endpoint.core import Endpoint

PARTS: tuple[type[Part], ...] = (
    *(Nodes, Sessions, Tags, Documents, Commands, Activations),
    *(Inventory, Compliance, Associations, Patching, PatchStates, Automation),
)


class Ssm:
    """The operations of SSM by name; each takes the call and its checked parameters."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._faults = endpoint.faults
        self._operations: dict[str, Any] = {}
        # What only agents call; botocore has no model of these.
        self._agent_operations: dict[str, Any] = {}
        for part in (make(endpoint) for make in PARTS):
            self._operations |= part.operations()
            self._agent_operations |= part.agent_operations()

    async def handle(self, call: Call) -> Result:
        """Answer one call. Raises ApiError."""
        assert call.service is not None
        if call.operation in self._agent_operations:
            parameters = agent_parameters(call.request.body)
            self._twist(call, parameters)
            call.parameters = parameters
            return await self._agent_operations[call.operation](call, parameters)
        if call.operation not in call.service.operations:
            raise ApiError("UnknownOperationException", "", 400)
        parameters = CODEC.parse(call.service.operation(call.operation), call.request.body)
        self._twist(call, parameters)
        call.parameters = parameters
        operation = self._operations.get(call.operation)
        if operation is None:
            raise not_implemented(f"ssm:{call.operation}")
        return await operation(call, parameters)

    def _twist(self, call: Call, parameters: Result) -> None:
        if self._faults is not None:
            lies.twist(self._faults, call, parameters)
