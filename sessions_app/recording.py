"""Recordings: the journal sealed into chunks, each chained by hash to the one before, and read back again.

A chunk is one zstd frame of journal records: output, sizes, notes and their times. Records of input hold only numbers,
and even those stay out: when keys were pressed is nobody's business. The link of chunk n is the SHA-256, in hex, of
these facts joined by newlines, numbers in decimal: the link before, n, first and last offset, first and last time,
output bytes, the SHA-256 of the chunk. The link before the first is the session's id. The last link goes into the audit
event of the session's end, so that who changes a recording has to change the sealed log as well.
"""

from __future__ import annotations

import codecs
import hashlib
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import orjson
import zstandard
from django.db import transaction

from fleetops.audit.models import AuditEvent
from fleetops.errors import UserError

from . import spool
from .journal import MAX_PAYLOAD, NOTE, OUTPUT, SIZE, STATE, Record, Segments, decode, note_of, size_of, state_of
from .models import RecordingChunk, TerminalSession
from .plaintext import PlainText, without_overwritten
from .services import LateOwner
from .store import RecordingStore, recording_store, sync

logger = logging.getLogger(__name__)

# Of journal, in one chunk. A flood is cut into chunks of this size, of which the owner seals a few each second.
MAX_CHUNK_BYTES = 16 << 20
_BATCH_BYTES = 1 << 16  # given to zstd at once
# Level 3 packs terminal output some six times at 150 MB/s; what lies further back than 256 KiB helps it little.
_PARAMETERS = zstandard.ZstdCompressionParameters.from_level(3, window_log=18)
# A compressor keeps 1.7 MB and may not be shared, so that one serves the process and sealers take turns.
_compressor = zstandard.ZstdCompressor(compression_params=_PARAMETERS)
_compressing = threading.Lock()


def link(previous: str, chunk: RecordingChunk) -> str:
    """The chain hash of a chunk behind the link `previous`."""
    facts = (
        previous,
        chunk.number,
        chunk.first_offset,
        chunk.last_offset,
        chunk.first_time_us,
        chunk.last_time_us,
        chunk.output_bytes,
        chunk.sha256,
    )
    return hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()


class Sealer:
    """Seals one session's journal, chunk by chunk. Its owner calls it, from one thread at a time."""

    def __init__(self, session: TerminalSession, journal: Segments) -> None:
        self.session = session
        self.journal = journal
        self._read()

    def _read(self) -> None:
        """Learn from the database how far it is sealed."""
        chunks = self.session.chunks
        last = chunks.order_by("-number").first()
        self.number = last.number if last else 0
        self.offset = last.last_offset if last else 0  # of the journal; all before it is sealed
        self.head = last.chain_hash if last else str(self.session.pk)
        self.output_bytes = sum(chunks.values_list("output_bytes", flat=True))  # shown bytes in all chunks
        self._is_unsure = False  # whether the last chunk's row was written

    def seal(self, end: int) -> None:
        """Seal one chunk: what lies before journal offset `end`, a record boundary, and fits into MAX_CHUNK_BYTES.

        The file is written and synced first, then the row; a crash in between leaves a file that nobody names.
        Raises LateOwner if the session has another owner, OSError if the disk does not take it, DatabaseError.
        """
        if self._is_unsure:  # a database that went away may have taken what it did not answer
            self._read()
        if self.offset >= end:
            return
        number = self.number + 1
        directory = spool.session_directory(self.session.pk) / "chunks"
        directory.mkdir(mode=0o700, exist_ok=True, parents=True)
        part = directory / f"{number:08d}-{self.session.owner_epoch}.part"
        chunk = RecordingChunk(session_id=self.session.pk, number=number, first_offset=self.offset)
        with _compressing, part.open("wb") as file:
            self._write(chunk, file, end)
        sync(part)
        part.replace(spool.chunk_path(self.session.pk, number, chunk.sha256))
        sync(directory)
        chunk.chain_hash = link(self.head, chunk)
        total = self.output_bytes + chunk.output_bytes
        self._is_unsure = True
        with transaction.atomic():
            mine = TerminalSession.objects.filter(pk=self.session.pk, owner_epoch=self.session.owner_epoch)
            if not mine.update(chain_head=chunk.chain_hash, output_bytes=total):
                raise LateOwner(str(self.session.pk))
            chunk.save(force_insert=True)
        self.number, self.offset, self.head, self.output_bytes = number, chunk.last_offset, chunk.chain_hash, total
        self._is_unsure = False

    def _write(self, chunk: RecordingChunk, file: BinaryIO, end: int) -> None:
        """Compress records into `file`, and fill in the facts of `chunk`."""
        digest = hashlib.sha256()
        size = 0

        def put(data: bytes) -> None:
            nonlocal size
            if data:
                file.write(data)
                digest.update(data)
                size += len(data)

        stream = _compressor.compressobj()
        batch: list[bytes | memoryview] = []
        waiting = 0
        last_offset = chunk.first_offset
        first_time = last_time = None
        for record in self._records(end):
            last_offset = record.end
            last_time = record.time_us
            if first_time is None:
                first_time = record.time_us
            if record.kind in (OUTPUT, SIZE, STATE, NOTE):
                batch.append(record.raw)
                waiting += len(record.raw)
                if record.kind == OUTPUT:
                    chunk.output_bytes += len(record.payload)
            if waiting >= _BATCH_BYTES:
                put(stream.compress(b"".join(batch)))
                batch.clear()
                waiting = 0
            if last_offset - chunk.first_offset >= MAX_CHUNK_BYTES:
                break
        else:
            last_offset = end
        put(stream.compress(b"".join(batch)))
        put(stream.flush())
        chunk.last_offset = last_offset
        chunk.first_time_us = first_time or 0
        chunk.last_time_us = last_time or 0
        chunk.size = size
        chunk.sha256 = digest.hexdigest()

    def _records(self, end: int) -> Iterator[Record]:
        """The records from our offset to `end`; around damage and gaps, which go into the log."""
        position = self.offset
        while position < end:
            try:
                for record in self.journal.records(max(position, self.journal.base), end):
                    position = record.end
                    yield record
                return
            except (LookupError, ValueError, FileNotFoundError) as error:
                logger.error("the journal is damaged session=%s offset=%d: %s", self.session.pk, position, error)
                later = [segment.base for segment in self.journal.segments if segment.base > position]
                if not later:
                    return
                position = later[0]


# Reading


class Damaged(UserError, ValueError):
    """A recording is not what was sealed; the text says from where on."""


def open_chunk(chunk: RecordingChunk, store: RecordingStore | None = None) -> BinaryIO:
    """Open a chunk's bytes, wherever they are: in the store, or still in this host's spool.

    Raises FileNotFoundError if neither has them.
    """
    path = spool.chunk_path(chunk.session_id, chunk.number, chunk.sha256)
    store = store or recording_store()
    if chunk.sent_at is None:
        try:
            return path.open("rb")
        except FileNotFoundError:
            return store.open(chunk.sha256)  # shipped since the row was read
    try:
        return store.open(chunk.sha256)
    except FileNotFoundError:
        return path.open("rb")


def chunk_records(file: BinaryIO) -> Iterator[Record]:
    """Yield the records of one chunk, in bounded memory.

    Raises ValueError if it is not what a sealer wrote.
    """
    rest = b""
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file, read_size=1 << 16)
        while data := reader.read(1 << 17):
            data = rest + data
            taken = 0
            for record in decode(data):
                taken = record.end
                yield record
            rest = data[taken:]
            if len(rest) > MAX_PAYLOAD + 64:
                break
    except zstandard.ZstdError as error:
        raise ValueError(f"the chunk cannot be read: {error}") from error
    if rest:
        raise ValueError("the chunk ends in a damaged record")


@dataclass
class Verification:
    """What checking a recording found. `faults` is empty for a whole one."""

    chunks: int = 0
    output_bytes: int = 0
    head: str = ""
    faults: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return not self.faults


def verify(session: TerminalSession) -> Verification:
    """Check every chunk of a recording: its bytes, its place, its link, and the head that session and audit name."""
    found = Verification(head=str(session.pk))
    store = recording_store()
    offset = 0
    links = {""}
    for chunk in session.chunks.order_by("number").iterator(chunk_size=500):
        found.chunks += 1
        name = f"chunk {chunk.number}"
        if chunk.number != found.chunks:
            found.faults.append(f"chunk {found.chunks} is missing")
            found.chunks = chunk.number
        if chunk.first_offset != offset:
            found.faults.append(f"{name} begins at {chunk.first_offset}, not at {offset}")
        offset = chunk.last_offset
        try:
            with open_chunk(chunk, store) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != chunk.sha256:
                found.faults.append(f"the bytes of {name} were changed")
        except OSError:
            found.faults.append(f"the bytes of {name} are missing")
        if link(found.head, chunk) != chunk.chain_hash:
            found.faults.append(f"the link of {name} does not follow from the one before")
        found.head = chunk.chain_hash
        links.add(chunk.chain_hash)
        found.output_bytes += chunk.output_bytes
    # A session that lives may have got further chunks since it was read.
    if found.chunks and (session.chain_head not in links if session.is_live else session.chain_head != found.head):
        found.faults.append("the last link is not the one that the session names")
    audited = _audited_head(session)
    if audited is not None and audited != (found.head if found.chunks else ""):
        found.faults.append("the last link is not the one that the audit log names")
    if not found.chunks and session.chain_head:
        found.faults.append("all chunks are missing")
    return found


def _audited_head(session: TerminalSession) -> str | None:
    """The last link as the audit log has it; None as long as the recording is not sealed to its end."""
    if session.sealed_at is None:
        return None
    last = AuditEvent.objects.filter(
        session_id=str(session.pk), action__in=["sessions.end", "sessions.start.fail", "sessions.recording.seal"]
    ).first()
    return last.details.get("chain_head") if last else None


# Playing


def events(chunks: Sequence[RecordingChunk]) -> Iterator[tuple[float, str, str]]:
    """Yield (seconds since the start, code, text) of a recording, in bounded memory.

    "o" is output; "r" a size, "COLSxROWS"; "m" a note, its words: a marker, as asciicast has them.

    Characters whose bytes lie in two records, or two chunks, come whole. The first event is a size.
    `chunks` are all of a session, from the first on; each is checked before anything of it is given out. Raises Damaged
    where one is not what was sealed.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    store = recording_store()
    is_first = True
    for chunk, file in _checked(chunks, store):
        try:
            for record in chunk_records(file):
                seconds = record.time_us / 1e6
                if record.kind == OUTPUT:
                    if text := decoder.decode(bytes(record.payload)):
                        yield seconds, "o", text
                elif record.kind == SIZE:
                    yield seconds, "r", "{}x{}".format(*size_of(record.payload))
                elif record.kind == NOTE:
                    yield seconds, "m", note_of(record.payload)["text"]
                elif record.kind == STATE and is_first:
                    state = state_of(record.payload)
                    yield seconds, "r", f"{state.cols}x{state.rows}"
                is_first = False
        except ValueError as error:
            raise Damaged(f"Chunk {chunk.number} of this recording cannot be read: {error}.") from error
    if text := decoder.decode(b"", final=True):
        yield (chunks[-1].last_time_us / 1e6 if chunks else 0.0), "o", text


def _checked(chunks: Sequence[RecordingChunk], store: RecordingStore) -> Iterator[tuple[RecordingChunk, BinaryIO]]:
    """Yield each chunk with its bytes, open, once both are what was sealed. Raises Damaged."""
    for number, chunk in enumerate(chunks, 1):
        before = chunks[number - 2].chain_hash if number > 1 else str(chunk.session_id)
        if chunk.number != number:
            raise Damaged(f"Chunk {number} of this recording is missing.")
        if link(before, chunk) != chunk.chain_hash:
            raise Damaged(f"Chunk {number} of this recording does not follow from the one before: it was changed.")
        try:
            file = open_chunk(chunk, store)
        except OSError as error:
            raise Damaged(f"The bytes of chunk {number} of this recording are missing ({error.strerror}).") from error
        with file:
            if hashlib.file_digest(file, "sha256").hexdigest() != chunk.sha256:
                raise Damaged(f"The bytes of chunk {number} of this recording are not those that were sealed.")
            file.seek(0)
            yield chunk, file


def cast(session: TerminalSession, chunks: Sequence[RecordingChunk], *, version: int = 2) -> Iterator[bytes]:
    """Yield an asciicast, version 2 or 3, in pieces of about 64 KiB.

    A recording that is not what was sealed says so where that begins, and ends there.
    Source: docs.asciinema.org/manual/asciicast/v2 and v3: v2 has times since the start, v3 intervals.
    """
    pieces: list[bytes] = []
    size = 0
    has_header = False
    before = 0
    for seconds, code, text in _until_damage(events(chunks)):
        if not has_header:
            has_header = True
            cols, rows = map(int, text.split("x")) if code == "r" else (session.cols, session.rows)
            pieces.append(_header(session, cols, rows, version))
            if code == "r":
                continue
        moment = round(seconds * 1e6)
        when = moment / 1e6 if version == 2 else (moment - before) / 1e6
        before = moment
        line = orjson.dumps([when, code, text], option=orjson.OPT_APPEND_NEWLINE)
        pieces.append(line)
        size += len(line)
        if size >= _BATCH_BYTES:
            yield b"".join(pieces)
            pieces.clear()
            size = 0
    if not has_header:
        pieces.append(_header(session, session.cols, session.rows, version))
    yield b"".join(pieces)


def cut_off(piece: bytes, why: str, *, version: int) -> bytes:
    """What a cast ends with that goes no further than `piece` of it: when that ended, and why."""
    last = orjson.loads(piece.rstrip().rpartition(b"\n")[2])
    when = last[0] if version == 2 and isinstance(last, list) else 0  # the header alone is no list
    return orjson.dumps([when, "o", _notice(f"{why} What follows is left out.")], option=orjson.OPT_APPEND_NEWLINE)


def _notice(text: str) -> str:
    return f"\x1b[0m\r\n\x1b[1;37;41m FleetOps: {text} \x1b[0m\r\n"


def _until_damage(shown: Iterator[tuple[float, str, str]]) -> Iterator[tuple[float, str, str]]:
    """Events as they come, and in place of damage what it is."""
    seconds = 0.0
    try:
        for event in shown:
            seconds = event[0]
            yield event
    except Damaged as error:
        logger.error("a recording is not what was sealed: %s", error)
        yield seconds, "o", _notice(f"{error} What follows is left out.")


def _header(session: TerminalSession, cols: int, rows: int, version: int) -> bytes:
    shared: dict[str, Any] = {
        "timestamp": int((session.started_at or session.created_at).timestamp()),
        "title": str(session),
    }
    if version == 2:
        header = {"version": 2, "width": cols, "height": rows, **shared, "env": {"TERM": "xterm-256color"}}
    else:
        header = {"version": 3, "term": {"cols": cols, "rows": rows, "type": "xterm-256color"}, **shared}
    return orjson.dumps(header, option=orjson.OPT_APPEND_NEWLINE)


# Of a recording that is longer, the sizes and notes in its first part alone are told.
MARKED_BYTES = 32 << 20
MAX_MARKERS = 500


def index(session: TerminalSession, chunks: Sequence[RecordingChunk]) -> dict[str, Any]:
    """What a player has to know before it plays; times in seconds since the session's start, sizes in bytes.

    `activity`: [from, to, output bytes] of each chunk. `markers`: {"time", "kind": "size" or "note", "label"}, complete
    unless `markers_end` says up to which second they were looked for.
    """
    markers: list[dict[str, Any]] = []
    seen = 0
    markers_end: float | None = None
    for seconds, code, text in events(chunks):
        if code == "r":
            markers.append({"time": seconds, "kind": "size", "label": text.replace("x", " × ")})
        elif code == "m":
            markers.append({"time": seconds, "kind": "note", "label": text})
        else:
            seen += len(text)
        if seen > MARKED_BYTES or len(markers) >= MAX_MARKERS:
            markers_end = seconds
            break
    return {
        "duration": chunks[-1].last_time_us / 1e6 if chunks else 0.0,
        "output_bytes": sum(chunk.output_bytes for chunk in chunks),
        "stored_bytes": sum(chunk.size for chunk in chunks),
        "chunks": len(chunks),
        "is_live": session.is_live,
        "is_complete": session.sealed_at is not None,
        "chain_head": session.chain_head,
        "cols": session.cols,
        "rows": session.rows,
        "activity": [[chunk.first_time_us / 1e6, chunk.last_time_us / 1e6, chunk.output_bytes] for chunk in chunks],
        "markers": markers,
        "markers_end": markers_end,
    }


# Searching

MAX_HITS = 200
MAX_LINE = 4096  # characters; a longer line is searched in pieces
SNIPPET = 160  # characters told of a hit


def search(chunks: Sequence[RecordingChunk], wanted: str, *, most: int = MAX_HITS) -> tuple[list[dict[str, Any]], bool]:
    """Find `wanted` in what was shown, line by line, without regard to case.

    Returns the hits ({"time": seconds at which the line began, "text": the line around it}) and whether there may be
    more of them.
    """
    needle = wanted.casefold()
    hits: list[dict[str, Any]] = []
    plain = PlainText()
    line, began = "", 0.0

    def look() -> None:
        shown = without_overwritten(line)
        place = shown.casefold().find(needle)
        if place >= 0:
            start = max(0, place - SNIPPET // 3)
            hits.append({"time": began, "text": shown[start : start + SNIPPET].strip()})

    if not needle:
        return hits, False
    for seconds, code, text in events(chunks):
        if code != "o":
            continue
        parts = plain.feed(text).split("\n")
        for number, part in enumerate(parts):
            if not line:
                began = seconds
            line += part
            if number < len(parts) - 1 or len(line) > MAX_LINE:
                look()
                line = "" if number < len(parts) - 1 else line[-len(wanted) :]
            if len(hits) >= most:
                return hits, True
    look()
    return hits, False
