"""Which rules let somebody reach SSH or RDP, whom, and what else goes with such a rule. Pure.

RDP over UDP is an addition to its TCP connection, and is not looked at.
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import Final

from fleetops.aws.security_groups import InboundRule

PORTS: Final = {22: "SSH", 3389: "RDP"}
_TCP: Final = {"tcp", "6", "-1"}
# Addresses that only a network of one's own has. RFC 6598's are shared by carriers, and so not of the internet.
_OWN: Final = tuple(
    map(
        ipaddress.ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "127.0.0.0/8"),
    )
) + tuple(map(ipaddress.ip_network, ("fc00::/7", "fe80::/10", "::1/128")))


class Grade(StrEnum):
    """Whom a rule lets in; the worst first."""

    WORLD = "world"
    PUBLIC = "public"  # some addresses of the internet
    PREFIX_LIST = "prefix list"  # what is in it is not looked at
    PRIVATE = "private"
    GROUP = "group"  # whoever has a certain security group


RANKS: Final = {grade: rank for rank, grade in enumerate(Grade)}


def ports(rule: InboundRule) -> list[int]:
    """Those of 22 and 3389 that it opens."""
    if rule.protocol not in _TCP:
        return []
    if rule.protocol == "-1" or rule.from_port == -1:
        return list(PORTS)
    return [port for port in PORTS if rule.from_port <= port <= rule.to_port]


def grade(rule: InboundRule) -> Grade:
    """Whom it lets in. A CIDR that cannot be read is graded as the world: it is not known to be less."""
    if rule.source_group_id:
        return Grade.GROUP
    if rule.prefix_list_id:
        return Grade.PREFIX_LIST
    try:
        network = ipaddress.ip_network(rule.cidr or rule.cidr6, strict=False)
    except ValueError:
        return Grade.WORLD
    if network.prefixlen == 0:
        return Grade.WORLD
    is_own = any(network.version == own.version and network.subnet_of(own) for own in _OWN)  # type: ignore[arg-type]
    return Grade.PRIVATE if is_own else Grade.PUBLIC


def source(rule: InboundRule) -> str:
    """Whom it lets in, as AWS names it."""
    return rule.cidr or rule.cidr6 or rule.prefix_list_id or rule.source_group_id


def opens(rule: InboundRule) -> str:
    """What it opens, in words: "SSH", "all traffic, with SSH and RDP", "tcp 1 to 65535, with SSH and RDP"."""
    found = [PORTS[port] for port in ports(rule)]
    if rule.protocol == "-1":
        return f"all traffic, with {' and '.join(found)}"
    if rule.from_port == rule.to_port:
        return " and ".join(found)
    return f"tcp {rule.from_port} to {rule.to_port}, with {' and '.join(found)}"


def is_wider(rule: InboundRule) -> bool:
    """Whether more than SSH and RDP goes with it."""
    return rule.protocol == "-1" or rule.from_port != rule.to_port
