"""What `etl check` finds, and the ways of asking that all findings share. What is asked of a server, and what follows
from the answer, is in that server's room: `etl.inbox.preflight`, `etl.inbox.preflight_lists`, `etl.store.preflight`.

A store that is away costs its own findings and no others. What can't be known is "unknown", which is no fault.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from etl.errors import ConfigurationError, EtlError, Forbidden

Verdict = Literal["fine", "warning", "wrong", "unknown"]
# How the connection to a store is protected: by TLS with or without a verified certificate, not at all, or because it
# doesn't leave this machine.
Line = Literal["verified", "unverified", "plain", "local"]

# Parts of servers' and systems' errors, in small letters.
_NOT_RUNNING = ("connection refused", "no such file or directory")
_NOT_LET_IN = ("refuses us", "authentication failed", "no password supplied", "does not exist")
_NO_HOST = ("name or service not known", "could not translate host name", "failed to resolve host", "name resolution")

# Leases go by Redis's clock alone, and days are closed an hour late: more than this is still a clock that nobody sets.
SKEW_SECONDS = 2.0
# If both stores differ by so much, loading waits.
WRONG_SKEW_SECONDS = 3_600.0


@dataclass(frozen=True, slots=True)
class Finding:
    """`says` is what was found, `advice` how to mend it or how to find out; each is one line, and a key of the JSON.
    `code` is that of the error, if it was one that told."""

    about: str
    verdict: Verdict
    says: str
    advice: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class RecallWindow:
    """For how long Redis keeps what was acknowledged; `most` says how much of it."""

    hours: int
    most: str

    @property
    def saves(self) -> str:
        """What becomes of confirmed calls that Postgres forgets, as the end of a sentence."""
        if not self.hours:
            return "nothing brings them back, since ETL_RECALL_HOURS is 0"
        return f"those of the last {self.hours} h come again by themselves (ETL_RECALL_HOURS), at most {self.most}"


def reachable(about: str, ask: Callable[[], object], setting: str) -> Finding:
    try:
        ask()
    except EtlError as error:
        return unreachable(about, error, setting)
    return Finding(about, "fine", "answers")


def unreachable(about: str, error: EtlError, setting: str) -> Finding:
    says = error.text.removeprefix(f"{about}: ")
    return Finding(about, "wrong", says, _way_out(says.lower(), setting), error.code)


def _way_out(error: str, setting: str) -> str:
    """A host that refuses a connection is up: what isn't is the server on it."""
    if any(sign in error for sign in _NOT_RUNNING):
        return f"is the server running? If it is, correct host and port in {setting}"
    if any(sign in error for sign in _NOT_LET_IN):
        return f"correct user, password or database in {setting}"
    if any(sign in error for sign in _NO_HOST):
        return f"correct the host in {setting}, or see why its name isn't found"
    return f"see whether the server is up and reachable from here, and whether {setting} names it"


def asked(about: str, ask: Callable[[], Sequence[Finding]]) -> Sequence[Finding]:
    """A question that is refused stays open; one that a store leaves unanswered is a fault."""
    try:
        return ask()
    except Forbidden as error:
        return [Finding(about, "unknown", error.text, code=error.code)]
    except ConfigurationError as error:
        return [Finding(about, "wrong", error.text, "correct the settings, or the server's", error.code)]
    except EtlError as error:
        return [Finding(about, "wrong", error.text, "look at the server: it answered a moment ago", error.code)]


def encryption(store: str, line: Line, setting: str, weakened: Sequence[str] = ()) -> Finding:
    """`setting` is the one that names the CA; `weakened` says what options and environment take away from TLS, which is
    wrong. A line where nobody asked for TLS is warned of: that may be wanted."""
    about = f"line to {store}"
    if weakened:
        advice = f"leave that out of the URL and of the environment; the CA's file goes into {setting}"
        return Finding(about, "wrong", f"TLS is weakened: {'; '.join(weakened)}", advice)
    if line == "verified":
        return Finding(about, "fine", "encrypted, and the server's certificate is verified")
    if line == "local":
        return Finding(about, "fine", "doesn't leave this machine")
    if line == "unverified":
        says = "encrypted, but nobody looks whose certificate it is: another server could answer, and hear the password"
        return Finding(about, "warning", says, f"name the CA in {setting}")
    says = "not encrypted: whoever is on the way reads passwords and calls"
    return Finding(about, "warning", says, f"let the server speak TLS, and name its CA in {setting}")


def clock(store: str, ask: Callable[[], float]) -> Finding:
    before = time.time()
    theirs = ask()
    return skew(store, theirs, before, time.time())


def skew(about: str, theirs: float, asked: float, answered: float) -> Finding:
    """`theirs` is the server's time, read between two moments of ours; what the way may have taken is no skew."""
    ahead = min(theirs - asked, 0) + max(theirs - answered, 0)
    if abs(ahead) <= SKEW_SECONDS:
        return Finding(f"clock of {about}", "fine", "agrees with this host's")
    way = "ahead of" if ahead > 0 else "behind"
    says = f"{abs(ahead):.0f} s {way} this host's"
    verdict: Verdict = "wrong" if abs(ahead) > WRONG_SKEW_SECONDS else "warning"
    return Finding(f"clock of {about}", verdict, says, "let NTP keep both clocks")
