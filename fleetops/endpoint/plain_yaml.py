"""YAML as callers and nodes may write it: values alone."""

from typing import Any

import yaml


class PlainLoader(yaml.SafeLoader):
    """YAML without aliases: a few hundred bytes of them stand for as many gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)
