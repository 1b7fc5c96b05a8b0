"""What a transfer does when the node, or whoever watches, does not do as it should."""

import asyncio
from types import SimpleNamespace

import pytest

from sessions_app.transfers import engine
from sessions_app.transfers.engine import Stopped, TransferEnd

PART = b"QUJD\n@part\n"


class Page:
    """A browser that keeps what it is sent."""

    def __init__(self) -> None:
        self.bytes: list[bytes] = []

    async def send_bytes(self, data: bytes) -> None:
        self.bytes.append(data)


@pytest.fixture
def end():
    async def type_now(data: bytes) -> None:
        """To the node."""

    proxy = SimpleNamespace(session=SimpleNamespace(pk="one"), is_let_go=False, type_now=type_now)
    return TransferEnd(proxy, SimpleNamespace(), parent=lambda: None)


def test_a_node_that_tells_more_than_it_was_asked_for_takes_no_memory_and_ends_it(end):
    for _ in range(1000):
        end.take(PART * 3)
        assert len(end._said) <= engine.MOST_SAID
    with pytest.raises(Stopped, match="no part of a file"):
        asyncio.run(end._download(Page()))


def test_who_cancels_is_heard_though_parts_always_wait(end):
    page = Page()
    end.take(PART * 3)
    end._stop_for(Stopped("Cancelled by mei."))
    with pytest.raises(Stopped, match="Cancelled by mei"):
        asyncio.run(end._download(page))
    assert page.bytes == []
