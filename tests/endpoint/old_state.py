"""Makes moto's state as the endpoint wrote it before bodies and log events were ours: `python -m ... HOME`.

That is moto without what `moto_adapter` puts in the place of its buffers, the bytes within the calls, and journal 2.
"""

import sys
from pathlib import Path

from fleetops.endpoint import moto_adapter
from fleetops.endpoint.bodies import Bodies
from fleetops.endpoint.journal import Journal
from fleetops.endpoint.keys import key

ACCOUNT, REGION = "111122223333", "eu-west-1"
BODY = b"of a snapshot " * 20_000
LATER = b"of a journal " * 30_000
PARTS = (b"a" * (5 * 2**20), b"the end")


class Old:
    """moto and its journal, as they were."""

    def __init__(self, home: Path, now: float) -> None:
        moto_adapter._replace_values = lambda: None
        moto_adapter._name_streams = lambda: None
        self._moto = moto_adapter.Moto(Bodies(home.parent / "unused"))
        version = f"moto-{moto_adapter.MOTO_VERSION} journal-2"
        self._journal = Journal(home / "moto", key(home / "keys", "snapshot.key"), version)
        self._number = 0
        self.now = now

    def call(self, service: str, operation: str, method: str, path: str, body: bytes, *, query: str = "", **headers):
        self._number += 1
        self.now += 0.01
        sent = [("host", "localhost"), *((name.replace("_", "-"), value) for name, value in headers.items())]
        if service == "logs":
            query = f"Action={operation}"
            sent += [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", f"Logs_20140328.{operation}")]
        header = {
            "request_id": f"old-{self._number}",
            "now": self.now,
            "seed": f"{self._number:064x}",
            "account": ACCOUNT,
            "service": service,
            "region": REGION,
            "access_key": "AKIAOLD",
            "method": method,
            "path": path,
            "query": query,
            "headers": sent,
            "operation": operation,
            "changes": True,
            "protocol": "json" if service == "logs" else "rest-xml",
        }
        self._journal.append(header, body)
        status, answered, content = self._moto.call(header, body)
        assert status < 300, (operation, status, content)
        return dict(answered), content

    def snapshot(self) -> None:
        self._journal.replace(self._moto.dump())

    def close(self) -> None:
        self._journal.close()


def main(home: Path, now: float) -> None:
    import json
    import re

    home.mkdir(parents=True, exist_ok=True)
    old = Old(home, now)

    def log(first: int, last: int) -> None:
        events = [{"timestamp": int(now * 1000) + n // 2, "message": f"line {n}"} for n in range(first, last)]
        put = {"logGroupName": "old", "logStreamName": "s", "logEvents": events}
        old.call("logs", "PutLogEvents", "POST", "/", json.dumps(put).encode())

    where = b"<CreateBucketConfiguration><LocationConstraint>eu-west-1</LocationConstraint></CreateBucketConfiguration>"
    old.call("s3", "CreateBucket", "PUT", "/old", where)
    old.call("s3", "PutObject", "PUT", "/old/snapshot", BODY, x_amz_meta_kind="s")
    old.call("s3", "PutObject", "PUT", "/old/deleted", b"no more")
    old.call("logs", "CreateLogGroup", "POST", "/", b'{"logGroupName": "old"}')
    old.call("logs", "CreateLogStream", "POST", "/", b'{"logGroupName": "old", "logStreamName": "s"}')
    log(0, 700)
    _, started = old.call("s3", "CreateMultipartUpload", "POST", "/old/parts", b"", query="uploads")
    upload = re.search(rb"<UploadId>([^<]+)<", started)[1].decode()
    etags = []
    for number, part in enumerate(PARTS, 1):
        if number == 2:
            old.snapshot()
        told, _ = old.call(
            "s3", "UploadPart", "PUT", "/old/parts", part, query=f"partNumber={number}&uploadId={upload}"
        )
        etags.append(told["etag"])
    chunked = b"%x\r\n%b\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n" % (len(LATER), LATER)
    old.call(
        *("s3", "PutObject", "PUT", "/old/journal", chunked),
        x_amz_content_sha256="STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        x_amz_decoded_content_length=str(len(LATER)),
        content_encoding="aws-chunked",
    )
    old.call("s3", "DeleteObject", "DELETE", "/old/deleted", b"")
    listed = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{tag}</ETag></Part>" for n, tag in enumerate(etags, 1))
    complete = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
    old.call("s3", "CompleteMultipartUpload", "POST", "/old/parts", complete, query=f"uploadId={upload}")
    log(700, 900)
    old.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
