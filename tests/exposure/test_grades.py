"""Which rules open SSH or RDP, and to whom."""

import pytest

from fleetops.aws.security_groups import InboundRule
from fleetops.exposure import grades
from fleetops.exposure.grades import Grade


def rule(protocol: str = "tcp", first: int = 22, last: int = 22, **source: str) -> InboundRule:
    return InboundRule("sg-1", "sgr-1", protocol, first, last, **(source or {"cidr": "0.0.0.0/0"}))


@pytest.mark.parametrize(
    ("given", "ports", "words"),
    [
        (rule(), [22], "SSH"),
        (rule("6"), [22], "SSH"),
        (rule("tcp", 3389, 3389), [3389], "RDP"),
        (rule("tcp", 0, 65535), [22, 3389], "tcp 0 to 65535, with SSH and RDP"),
        (rule("tcp", 23, 4000), [3389], "tcp 23 to 4000, with RDP"),
        (rule("-1", -1, -1), [22, 3389], "all traffic, with SSH and RDP"),
    ],
)
def test_what_a_rule_opens(given, ports, words):
    assert (grades.ports(given), grades.opens(given)) == (ports, words)
    assert grades.is_wider(given) == (words not in {"SSH", "RDP"})


@pytest.mark.parametrize("given", [rule("udp"), rule("tcp", 443, 443), rule("tcp", 23, 3388), rule("icmp", -1, -1)])
def test_others_open_neither(given):
    assert grades.ports(given) == []


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ({"cidr": "0.0.0.0/0"}, Grade.WORLD),
        ({"cidr6": "::/0"}, Grade.WORLD),
        ({"cidr": "not a network"}, Grade.WORLD),
        ({"cidr": "0.0.0.0/1"}, Grade.PUBLIC),
        ({"cidr": "198.51.100.7/32"}, Grade.PUBLIC),
        ({"cidr6": "2001:db8::/32"}, Grade.PUBLIC),
        ({"cidr": "10.2.0.0/16"}, Grade.PRIVATE),
        ({"cidr": "8.0.0.0/5"}, Grade.PUBLIC),  # has 10.0.0.0/8, and much more
        ({"cidr6": "fd00::/8"}, Grade.PRIVATE),
        ({"prefix_list_id": "pl-1"}, Grade.PREFIX_LIST),
        ({"source_group_id": "sg-2"}, Grade.GROUP),
    ],
)
def test_whom_a_rule_lets_in(source, wanted):
    assert grades.grade(rule(**source)) == wanted
