"""Bytes to records, and nothing else: no clock, no socket, no file.

`decode` turns a claim's messages into CDRs, events and dead letters, by the rules of docs/protocol.md.
"""
