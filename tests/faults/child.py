"""The real `etl` with one mishap at one step, as a program: `python child.py kill:after_claim run --follow`.

A mishap kills or freezes the whole process at its first arrival at the step. The environment may set the program's
constants, so that a test needn't wait as long as an operator would:
FAULT_CONSTANTS='{"etl.app.threads.SHUTDOWN_SECONDS": 1}'.
It's here that failures are injected and not in the product: the steps are public methods, wrapped from outside.
"""

import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from etl import cli
from etl.inbox import producer, spool
from etl.inbox.claims import Claim, Source
from etl.inbox.spool import Spooler
from etl.store.tables import load_batches
from etl.store.writer import Writer

CONSTANTS = "FAULT_CONSTANTS"
STEPS = ("before_claim", "after_claim", "after_decode", "before_commit", "after_write", "after_ack")
ADOPT, RENEW = ("before_adopt", "after_adopt"), ("before_renew", "after_renew")
LISTEN = ("after_heard", "before_spool", "after_spool")
ALL_STEPS = (*STEPS, *ADOPT, *RENEW, *LISTEN)

_IN_THE_LEDGER = sa.select(sa.exists().where(load_batches.c.batch_id == sa.bindparam("batch_id")))


class Mishap:
    """What happens, and where. `nothing` never happens."""

    def __init__(self, what: str, steps: Sequence[str] = ALL_STEPS) -> None:
        kind, _, self._step = what.partition(":")
        self._signal = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "nothing": None}[kind]
        assert self._signal is None or self._step in steps

    def arrived_at(self, step: str) -> None:
        if step == self._step and self._signal is not None:
            number, self._signal = self._signal, None
            # To this thread, which goes no step further; it takes the whole process with it.
            signal.pthread_kill(threading.get_ident(), number)


def wrap(owner: type, name: str, wrapper: Callable[..., Any]) -> None:
    original = getattr(owner, name)
    setattr(owner, name, lambda self, *arguments: wrapper(self, original, *arguments))


def lay(mishap: Mishap) -> None:
    writing = threading.local()

    def claim(source: Source, original: Callable[..., Any]) -> Any:
        mishap.arrived_at("before_claim")
        if claimed := original(source):
            mishap.arrived_at("after_claim")
        return claimed

    def adopt(source: Source, original: Callable[..., Any]) -> Any:
        mishap.arrived_at("before_adopt")
        if adopted := original(source):
            mishap.arrived_at("after_adopt")
        return adopted

    def renew(source: Source, original: Callable[..., Any]) -> None:
        holds_any = bool(source._holding())
        if holds_any:
            mishap.arrived_at("before_renew")
        original(source)
        if holds_any:
            mishap.arrived_at("after_renew")

    def write(writer: Writer, original: Callable[..., Any], batch: Any, *more: Any) -> Any:
        batch.records.prepare()
        writing.batch_id = batch.batch_id
        mishap.arrived_at("after_decode")
        books = original(writer, batch, *more)
        mishap.arrived_at("after_write")
        return books

    def ack(claimed: Claim, original: Callable[..., Any]) -> None:
        original(claimed)
        mishap.arrived_at("after_ack")

    def before_commit(connection: sa.Connection) -> None:
        batch_id = getattr(writing, "batch_id", None)  # none in a thread that loads nothing
        if batch_id and connection.scalar(_IN_THE_LEDGER, {"batch_id": batch_id}):
            mishap.arrived_at("before_commit")

    def offer(spooler: Spooler, original: Callable[..., Any], record: bytes) -> Any:
        taken = original(spooler, record)
        mishap.arrived_at("after_heard")
        return taken

    def push(*arguments: Any, original: Callable[..., Any] = producer.push) -> None:
        mishap.arrived_at("before_spool")
        original(*arguments)
        mishap.arrived_at("after_spool")

    setattr(spool, "push", push)  # noqa: B010 (it's imported there)
    wrap(Spooler, "offer", offer)
    wrap(Source, "claim", claim)
    wrap(Source, "adopt_own", adopt)
    wrap(Source, "renew_all", renew)
    wrap(Writer, "write", write)
    wrap(Claim, "ack", ack)
    sa.event.listen(sa.Engine, "commit", before_commit)


def set_constants(constants: dict[str, float]) -> None:
    for name, value in constants.items():
        module, _, constant = name.rpartition(".")
        assert hasattr(importlib.import_module(module), constant), name
        setattr(importlib.import_module(module), constant, value)


# Not only as the main program: the processes of `--workers` import what started them.
set_constants(json.loads(os.environ.get(CONSTANTS, "{}")))

if __name__ == "__main__":
    mishap, *arguments = sys.argv[1:]
    lay(Mishap(mishap))
    sys.argv = ["etl", *arguments]
    cli.main()
