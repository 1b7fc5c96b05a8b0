"""SSM documents: what their content means, without a database or a network.

`command` has schema 1.2, 2.0 and 2.2, `session` schema 1.0, `automation` schema 0.3, `parameters` what they declare and
take.
"""

from .errors import InvalidDocument, InvalidParameters

__all__ = ["InvalidDocument", "InvalidParameters"]
