"""The child process that holds moto: one call at a time, journalled before it runs.

`python -m fleetops.endpoint.moto_process --directory DIR --keys DIR --descriptor N [--first]` speaks frames
(framing.py) on an inherited socket, and ends when the socket or its parent does. First it brings the state back: the
sealed snapshot, then the journalled calls, each with the time and seed that it had. It then says {"ready": true}.
S3's bodies are files beside the journal (bodies.py); a call names the one that it brings. The answers of the last calls
are kept by request id: a parent whose answer was lost in a kill asks again with the same id and gets it, and nothing is
done twice.
"""

import argparse
import fcntl
import gc
import logging
import os
import socket
import sys
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleetops import clock
from fleetops.awsapi.errors import ApiError, render
from fleetops.endpoint import ec2_instances
from fleetops.endpoint.bodies import Bodies
from fleetops.endpoint.framing import LENGTHS, pack
from fleetops.endpoint.journal import JOURNAL_FORMAT, OLDER_FORMATS, Journal, OtherVersion, StateRefused
from fleetops.endpoint.keys import key
from fleetops.endpoint.moto_files import read_quickly
from fleetops.endpoint.parent import die_with_parent
from fleetops.env import env_int

if TYPE_CHECKING:
    from fleetops.endpoint.moto_adapter import Moto

logger = logging.getLogger("fleetops.endpoint.moto_process")  # we run as __main__

# A snapshot replaces the journal beyond these: a replay then takes about two seconds at most.
_MOST_ENTRIES = env_int("FLEETOPS_ENDPOINT_SNAPSHOT_CALLS", 400, low=1)
_MOST_BYTES = 64 * 2**20
_MOST_BODY_BYTES = 2**30  # of bodies that the journal's calls name: what is deleted goes after a snapshot
_ANSWERS_KEPT = 256
_MOST_ATTEMPTS = 2  # to run the journal's last call again, before it counts as one that moto does not survive
_SYNC_SECONDS = 1.0
_SNAPSHOT_AGAIN_SECONDS = 30.0  # after one that could not be written
# Calls whose result no seed can bring back, since OpenSSL makes their keys: a snapshot follows before the answer.
_NOT_REPLAYABLE = {
    ("kms", "CreateKey"),
    ("kms", "ReplicateKey"),
    ("kms", "GetParametersForImport"),
    ("ec2", "CreateKeyPair"),
    ("ec2", "ImportKeyPair"),
    ("iam", "UploadServerCertificate"),
}
# Exit status for state that must not be used; the parent then does not try again.
REFUSED = 3


class Child:
    """moto and its journal, behind frames."""

    def __init__(self, moto: "Moto", journal: Journal, attempts_file: Path, bodies: Bodies) -> None:
        self._moto = moto
        self._journal = journal
        self._attempts_file = attempts_file
        self._bodies = bodies
        self._body_bytes = 0  # of the calls since the snapshot
        self._answers: OrderedDict[str, tuple[int, list[tuple[str, str]], bytes]] = OrderedDict()
        self._synced = clock.monotonic()
        self._snapshot_from = 0.0  # not before, in monotonic seconds

    def restore(self, *, is_first: bool = False) -> int:
        """Bring the state back; the number of calls that were run again.

        `is_first`: the endpoint starts too, so that nobody is reading a body that has become nobody's.
        """
        snapshot = self._journal.snapshot()
        if snapshot is not None:
            self._moto.load(snapshot)
        named = self._moto.named_bodies()  # also what the journal's calls delete: those before them need it once more
        records = list(self._journal.records())
        skipped = {record.header["skip"] for record in records if "skip" in record.header}
        for position, record in enumerate(records, 1):
            request_id = record.header.get("request_id")
            if request_id is None:
                continue
            if (body := record.header.get("body")) is not None and body["bytes"]:
                named.add(body["sha256"])
                self._body_bytes += body["bytes"]
            # Only the last call can be one that moto did not survive: for each other one a call came after it.
            if position == len(records) and self._attempts(request_id) > _MOST_ATTEMPTS:
                self._journal.append({"skip": request_id}, b"")
                skipped.add(request_id)
            if request_id in skipped:
                logger.error("a call is skipped, moto died of it request=%s", request_id)
                error = ApiError("InternalFailure", "The request failed within the endpoint.", 500)
                status, kind, content = render(error, record.header["protocol"], request_id)
                self._keep(request_id, (status, [("content-type", kind)], content))
            else:
                self._keep(request_id, self._moto.call(record.header, record.body))
        self._attempts_file.unlink(missing_ok=True)
        if self._journal.is_older:
            self._journal.renew(self._moto.dump())
            logger.info("the state of an older version was taken over")
            named.clear()
        self._sweep(named | self._moto.named_bodies(), at_once=is_first)
        return len(records)

    def _attempts(self, request_id: str) -> int:
        """Count, on the disk, how often this last call of the journal has been run."""
        before = self._attempts_file.read_text().split() if self._attempts_file.exists() else []
        count = int(before[1]) + 1 if before[:1] == [request_id] else 1
        self._attempts_file.write_text(f"{request_id} {count}")
        return count

    def answer(self, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """Do what one frame asks; the frame to send back."""
        ask = header["ask"]
        if ask == "call":
            status, headers, content = self._call(header["call"], body)
            if not header["call"]["changes"] and self._moto.answered is not None:
                return {"status": status, "headers": headers, "body": self._moto.answered}, b""
            return {"status": status, "headers": headers}, content
        if ask == "instances":
            facts = self._moto.instances(header["account"], header["region"])
            status, content = ec2_instances.answer(facts, header["region"], header["form"], header["request_id"])
            return {"status": status}, content
        if ask == "instance_facts":
            facts = self._moto.instances(header["account"], header["region"])
            return {"result": [self._brief(header["account"], fact) for fact in facts]}, b""
        if ask == "listens":
            return {"result": self._moto.listens(header["account"], header["region"])}, b""
        if ask == "access_key":
            return {"result": self._moto.access_key(header["access_key"])}, b""
        if ask == "identity":
            return {"result": self._moto.identity(header["account"], header["kind"], header["name"])}, b""
        if ask == "managed_policy":
            return {"result": self._moto.managed_policy(header["account"], header["arn"])}, b""
        if ask == "profile":
            return {"result": self._moto.profile(header["account"], header["profile"])}, b""
        if ask in {"profile_association", "resource_tags"}:
            about = header["association" if ask == "profile_association" else "arn"]
            return {"result": getattr(self._moto, ask)(header["account"], header["region"], about)}, b""
        if ask == "resource":
            named = header["service"], header["account"], header["region"], header["name"]
            return {"result": self._moto.resource(*named)}, b""
        if ask == "log_group":
            asked = header["account"], header["region"], header["group"], header.get("streams")
            return {"result": self._moto.log_group(*asked)}, b""
        if ask == "log_groups":
            return {"result": self._moto.log_groups()}, b""
        if ask == "kept_log_events":
            return {"result": self._moto.kept_log_events(header["skip"], header["most"])}, b""
        if ask == "drop_log_events":
            self._moto.drop_log_events()
            self._snapshot()
            return {"result": True}, b""
        if ask == "snapshot":
            self._snapshot()
            return {"result": True}, b""
        raise ValueError(f"nobody answers {ask!r}")

    def idle(self) -> None:
        """Between two calls: the journal to the disk once a second."""
        if clock.monotonic() - self._synced > _SYNC_SECONDS:
            self._journal.sync()
            self._synced = clock.monotonic()

    def _call(self, call: dict[str, Any], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        if not call["changes"]:
            return self._moto.call(call, body)
        known = self._answers.get(call["request_id"])
        if known is not None:
            return known
        received = call.get("body")
        try:
            if received is not None:
                self._bodies.adopt(received)
                self._body_bytes += received["bytes"]
            self._journal.append(call, body)
        except OSError as error:
            logger.error("a call is refused, it cannot be kept reason=%s", error)
            full = ApiError("ServiceUnavailable", f"Nothing was changed: the endpoint cannot write: {error}", 503)
            status, kind, content = render(full, call["protocol"], call["request_id"])
            return status, [("content-type", kind), ("x-amzn-errortype", full.code)], content
        answer = self._moto.call(call, body)
        self._keep(call["request_id"], answer)
        forced = (call["service"], call["operation"]) in _NOT_REPLAYABLE and answer[0] < 400
        is_due = (
            self._journal.entries >= _MOST_ENTRIES
            or self._journal.bytes >= _MOST_BYTES
            or self._body_bytes >= _MOST_BODY_BYTES
        )
        if forced or (is_due and clock.monotonic() >= self._snapshot_from):
            try:
                self._snapshot()
            except OSError as error:
                if forced:
                    raise
                # The call is in the journal, which goes on.
                logger.warning("no snapshot could be written, it is tried again later reason=%s", error)
                self._snapshot_from = clock.monotonic() + _SNAPSHOT_AGAIN_SECONDS
        return answer

    def _snapshot(self) -> None:
        """Begin the journal anew. Nothing but the state then names a body, and what it does not name can go."""
        self._journal.replace(self._moto.dump())
        self._body_bytes = 0
        self._sweep(self._moto.named_bodies())

    def _sweep(self, named: set[str], *, at_once: bool = False) -> None:
        removed, missing = self._bodies.sweep(named, at_once=at_once)
        if missing:
            logger.error("bodies of S3 objects are missing count=%s", missing)
        if removed:
            logger.info("bodies that nothing names were removed count=%s", removed)

    def _keep(self, request_id: str, answer: tuple[int, list[tuple[str, str]], bytes]) -> None:
        self._answers[request_id] = answer
        if len(self._answers) > _ANSWERS_KEPT:
            self._answers.popitem(last=False)

    def _brief(self, account: str, fact: dict[str, Any]) -> dict[str, Any]:
        profile = fact["IamInstanceProfile"]
        arn = profile["Arn"] if profile else ""
        return {
            "instance_id": fact["InstanceId"],
            "state": fact["State"]["Name"],
            "profile_arn": arn,
            "role": self._moto.profile_role(account, arn) if arn else None,
            "tags": {tag["Key"]: tag["Value"] for tag in fact["Tags"]},
            "ip": fact["PrivateIpAddress"] or "",
            "zone": fact["Placement"]["AvailabilityZone"],
        }


def serve(child: Child, connection: socket.socket) -> None:
    """Answer frames until the other end goes away."""
    stream = connection.makefile("rb")
    connection.sendall(pack({"ready": True}))
    while len(lengths := stream.read(LENGTHS.size)) == LENGTHS.size:
        head_length, body_length = LENGTHS.unpack(lengths)
        header = ec2_instances.loads(stream.read(head_length))
        body = stream.read(body_length)
        try:
            result, content = child.answer(header, body)
        except Exception as fault:  # the outermost loop: one bad question must not end moto
            logger.exception("a question failed ask=%s", header.get("ask"))
            result, content = {"fault": repr(fault)}, b""
        connection.sendall(pack({"number": header["number"], **result}, content))
        child.idle()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--keys", type=Path, required=True)
    parser.add_argument("--descriptor", type=int, required=True)
    parser.add_argument("--first", action="store_true")
    options = parser.parse_args()
    die_with_parent()
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("fleetops").setLevel(logging.INFO)
    options.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    # The child before this one may be about to end; its journal is ours when it has.
    lock = os.open(options.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # moto takes a second to load: not before the lock is ours.
    with read_quickly():
        from fleetops.endpoint.moto_adapter import MOTO_VERSION, Moto, OtherMoto

    try:
        version, *older = (f"moto-{MOTO_VERSION} journal-{number}" for number in (JOURNAL_FORMAT, *OLDER_FORMATS))
        journal = Journal(options.directory, key(options.keys, "snapshot.key"), version, older)
        bodies = Bodies(options.directory / "bodies")
        child = Child(Moto(bodies), journal, options.directory / "attempts", bodies)
        count = child.restore(is_first=options.first)
    except OtherVersion as written:
        logger.error(
            "%s was written under %s, and %s is installed: go back to it, or move %s away to start with fresh "
            "demo data.",
            *(options.directory, written, version, options.directory),
        )
        return REFUSED
    except (StateRefused, OtherMoto) as refused:
        logger.error("%s", refused)
        return REFUSED
    logger.info("moto is ready replayed=%s", count)
    gc.freeze()  # moto itself stays: see fleetops/__init__.py
    gc.set_threshold(10_000, 10, 10)
    connection = socket.socket(fileno=options.descriptor)
    try:
        serve(child, connection)
    except (BrokenPipeError, ConnectionResetError):
        pass
    finally:
        journal.close()
        # Nothing is left to do, and taking moto's modules down would take longer than we have.
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
