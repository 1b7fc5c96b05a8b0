"""Answers held to botocore's models before they leave: a misfit is a bug, ours or moto's, that trips boto3 up."""

import logging
from collections.abc import Mapping
from typing import Any

from botocore.model import OperationModel

from fleetops.awsapi import answers
from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import Answer, Call
from fleetops.env import env_str

logger = logging.getLogger(__name__)

# "log" tells of a misfit and lets the answer go; "fail" is for tests; "off" looks at none.
MODE = env_str("FLEETOPS_ENDPOINT_CHECK_ANSWERS", "log", choices=("off", "log", "fail"))
# Reading a written answer again costs some 0.1 ms for each KiB of XML, on the event loop: a longer one is let go,
# but for tests. Results of our own are looked at before they are written, which costs a tenth of that.
_LONGEST_READ = 4 * 1024


def hold_result(operation: OperationModel, result: Mapping[str, Any]) -> None:
    """A result of our own, before it is written. Raises ApiError in tests only."""
    if MODE != "off" and (told := answers.misfit(operation, result)):
        _tell(operation.service_model.signing_name, operation.name, told)


def hold_answer(call: Call, answer: Answer) -> None:
    """An answer as it was written, by moto or by us. Raises ApiError in tests only."""
    service = call.service
    if MODE == "off" or answer.is_held or service is None or call.operation not in service.operations:
        return
    if MODE == "log" and len(answer.body) > _LONGEST_READ:
        return
    operation = service.operation(call.operation)
    headers = [("content-type", answer.content_type), *answer.headers]
    if told := answers.read_misfit(operation, service.protocol, answer.status, headers, answer.body):
        _tell(service.signing_name, call.operation, told)


def _tell(service: str, operation: str, told: str) -> None:
    logger.warning("an answer does not fit its model operation=%s:%s misfit=%s", service, operation, told)
    if MODE == "fail":
        raise ApiError("InternalFailure", f"The answer of {operation} does not fit its model: {told}", 500)
