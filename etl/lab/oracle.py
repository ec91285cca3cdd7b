"""Remembers what a Postgres has confirmed, and says what of it another one lacks. It asks with psql, and shares nothing
with the loader."""

from collections import Counter
from collections.abc import Mapping

from etl.lab.servers.private import PrivatePostgres

Effects = Mapping[str, Counter[str]]  # by kind, how often each is there


def effects(server: PrivatePostgres, questions: Mapping[str, str], database: str = "postgres") -> Effects:
    """What this server has, by kind: the answers to queries of one column."""
    return {kind: Counter(server.ask(question, database)) for kind, question in questions.items()}


def lacking(wanted: Effects, has: Effects) -> dict[str, int]:
    """How much of what is wanted isn't there."""
    return {kind: (wanted[kind] - has[kind]).total() for kind in has}
