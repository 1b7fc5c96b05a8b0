"""The files that moto reads while it is loaded: hundreds of kilobytes of JSON, many of them again and again."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import orjson
from botocore.loaders import JSONFileLoader


@contextlib.contextmanager
def read_quickly() -> Iterator[None]:
    """While moto is imported: botocore's files are read once, and all of them by orjson.

    moto makes session after session to ask for regions, each of which reads the list of endpoints anew. Together that
    was a third of what moto takes to start.
    """
    load, loads = JSONFileLoader.load_file, json.loads
    kept: dict[str, Any] = {}

    def load_once(loader: JSONFileLoader, path: str) -> Any:
        if path not in kept:
            kept[path] = load(loader, path)
        return kept[path]

    JSONFileLoader.load_file = load_once
    json.loads = lambda text, **_: orjson.loads(text)  # objects keep their order: every dict does
    try:
        yield
    finally:
        JSONFileLoader.load_file, json.loads = load, loads
