"""Lists of patches that a run is given: what is no list is told, whatever it is made of."""

import asyncio

import pytest

from fleetops.endpoint.patch.overrides import MOST_WANTED, Lists, Unusable, read_wanted
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
        (b"patches:\n" + b"- id: x\n" * 3001, "more than 3000 patches"),
    ],
)
def test_what_is_no_list_is_told(content, words):
    with pytest.raises(Unusable, match=words):
        read_wanted(content)


def test_a_list_is_fetched_once_for_a_command_and_asked_about_for_each_node():
    asked, fetched = [], []

    class Counting(Lists):
        async def _read(self, account_id, region, address, place):
            fetched.append((account_id, place))
            if len(fetched) == 1:
                raise Unusable("not now")
            await asyncio.sleep(0)
            return b"patches:\n- id: openssl\n"

    async def allow(key, bucket, name):
        asked.append(key[2])
        return "444455556666"

    async def story():
        lists = Counting(None, None, "127.0.0.1:1")
        lists.allow = allow
        keys = [("111122223333", "eu-west-1", f"i-{number}") for number in range(5)]
        with pytest.raises(Unusable, match="not now"):
            await lists.wanted(keys[0], "one", "s3://b/k")
        found = await asyncio.gather(*(lists.wanted(key, "one", "s3://b/k") for key in keys))
        assert found == [[Wanted("openssl")]] * 5
        await lists.wanted(keys[0], "two", "s3://b/k")

    asyncio.run(story())
    assert asked == ["i-0", *(f"i-{number}" for number in range(5)), "i-0"]
    # What failed is tried again; each command has its own; the bucket is looked for where it is.
    assert fetched == [("444455556666", ("b", "k"))] * 3


def test_product_and_endpoint_take_lists_of_one_length():
    from patching.pinned import MOST_ENTRIES

    assert MOST_ENTRIES == MOST_WANTED
