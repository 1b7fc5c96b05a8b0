"""AWS's regions by name: which there are, and of which partition."""

from functools import cache
from typing import Final

from botocore.session import Session

# Where a partition's accounts always are: it cannot be turned off.
_HOME: Final = {"aws": "us-east-1", "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1"}


@cache
def partitions() -> dict[str, tuple[str, ...]]:
    """The regions of each public partition, as this version of botocore knows them."""
    session = Session()
    return {name: tuple(session.get_available_regions("ec2", partition_name=name)) for name in _HOME}


def partition_of(region: str) -> str:
    """The partition of a region; AWS's public one for a region that botocore does not know."""
    return next((name for name, regions in partitions().items() if region in regions), "aws")


def home_of(region: str) -> str:
    """The region of the same partition that is on in every account."""
    return _HOME[partition_of(region)]
