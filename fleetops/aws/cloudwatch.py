"""CloudWatch: whether alarms ring."""

from collections.abc import Sequence
from typing import Final

from .clients import AccountAccess, client
from .errors import aws_call

MOST_NAMES: Final = 100  # AlarmNames of one DescribeAlarms [botocore's model of cloudwatch]
OK, RINGS, UNKNOWN = "OK", "ALARM", "INSUFFICIENT_DATA"


def alarm_states(access: AccountAccess, region: str, *, names: Sequence[str], session_name: str) -> dict[str, str]:
    """The StateValue of each alarm, metric or composite, of that name; without those that there are not.

    Raises AccessDenied, Unavailable or AwsError.
    """
    cloudwatch = client("cloudwatch", access, region, session_name=session_name)
    found: dict[str, str] = {}
    for start in range(0, len(names), MOST_NAMES):
        with aws_call("cloudwatch:DescribeAlarms", where=f"{access.account_id} {region}"):
            answer = cloudwatch.describe_alarms(
                AlarmNames=list(names[start : start + MOST_NAMES]), AlarmTypes=["MetricAlarm", "CompositeAlarm"]
            )
        for alarm in (*answer.get("MetricAlarms", []), *answer.get("CompositeAlarms", [])):
            found[str(alarm["AlarmName"])] = str(alarm.get("StateValue", ""))
    return found
