"""Backups of a FleetOps that runs, and the way back: `python -m fleetops.backup`. The manual is docs/production.md.

A backup is a directory of its own, whole without the others beside it:

    20261130T103000Z/
        manifest.json     what it is, what a restore needs, the digest of files.sha256; sealed by the audit key
        files.sha256      the digest of every other file, as `sha256sum --check` reads it
        database.dump     pg_dump's custom format; database.sqlite3 where the database is SQLite
        spool/            journals of the sessions that were open, and sealed chunks that the store did not have yet
        recordings/       sealed chunks, by content: files that are unchanged are links to those of the backup before

What makes it one moment: the database is read in one snapshot. Journals are copied before it and again after it, so
that all that was not sealed in that snapshot is there though a segment was dropped meanwhile; they are only appended
to, and whoever opens one cuts off a torn tail. The store comes last: it only grows, so it holds what the snapshot
names, and a chunk that left the spool meanwhile has gone there. Keys are in no backup; the manifest names those that
it needs.
"""
