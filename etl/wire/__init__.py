"""Bytes to records, and nothing else: no clock, no socket, no file.

`decode` takes a claim's messages and gives back CDRs, events and dead letters. What a message means is decided here, by
the rules of docs/protocol.md; where it goes is decided by `etl.store`.
"""
