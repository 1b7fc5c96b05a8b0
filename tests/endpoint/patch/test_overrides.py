"""Lists of patches that a run is given: what is no list is told, whatever it is made of."""

import pytest

from fleetops.endpoint.patch.overrides import Unusable, read_wanted
from fleetops.endpoint.patch.table import Wanted


def test_a_list_is_read():
    found = read_wanted(b"patches:\n- id: openssl.x86_64\n  title: '*'\n- id: KB5031364\n")
    assert found == [Wanted("openssl.x86_64", "*"), Wanted("KB5031364", "")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: &a [x, x]\npatches:\n- id: *a\n", "aliases are not allowed"),  # twenty lines would stand for gigabytes
        (b"patches: {", "no YAML"),
        (b"patches: 3", "no YAML"),
        (b"patches:\n- id: ''\n", "has no id"),
    ],
)
def test_what_is_no_list_is_told(content, words):
    with pytest.raises(Unusable, match=words):
        read_wanted(content)
