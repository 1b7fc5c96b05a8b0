"""SSM documents: what their content means, without a database or a network.

`command` has schema 1.2, 2.0 and 2.2, `session` schema 1.0, `parameters` what both declare and take.
"""

from .errors import InvalidDocument, InvalidParameters

__all__ = ["InvalidDocument", "InvalidParameters"]
