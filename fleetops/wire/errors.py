"""What can go wrong on the wire, told apart by whose fault it is."""

from __future__ import annotations


class ProtocolError(Exception):
    """The rules of the protocol were broken; catch one of the two below."""


class LocalProtocolError(ProtocolError):
    """We asked for something that the protocol forbids at this moment, or that no frame can carry: a bug of ours."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that no correct peer sends. What was refused has changed nothing on our side."""
