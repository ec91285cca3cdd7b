"""Bytes to records, and nothing else: no clock, no socket, no file but the compiled decoder's library.

`decode` turns a claim's messages into CDRs, events and dead letters, by the rules of docs/protocol.md. `packed` makes
rows of the plain ones, in a fraction of the time, where there is that library; its source is in `native`.
"""
