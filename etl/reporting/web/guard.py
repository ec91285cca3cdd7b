"""What stands before every page: who may ask, by which name, and what the browser may do with the answer."""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
COOKIE = "etl_wall"
COOKIE_SECONDS = 30 * 86_400  # a wall isn't logged in every morning
_A_PORT = re.compile(r":[0-9]{1,5}\Z")


class Token:
    """What a small site shares. A cookie proves that its browser was told the token once, and doesn't tell it: it's
    signed with the token, so a new token ends all of them."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def is_right(self, given: str) -> bool:
        """In constant time, whatever its length."""
        key = secrets.token_bytes(32)
        return hmac.compare_digest(_hash(key, given.encode(errors="replace")), _hash(key, self._token))

    def cookie(self, now: float) -> str:
        until = str(int(now) + COOKIE_SECONDS)
        return f"{until}.{self._signature(until)}"

    def lets_in(self, connection: HTTPConnection) -> bool:
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_right(given.strip()):
            return True
        until, _, signature = connection.cookies.get(COOKIE, "").partition(".")
        signed = hmac.compare_digest(self._signature(until).encode(), signature.encode(errors="replace"))
        return signed and until.isascii() and until.isdigit() and int(until) > time.time()

    def _signature(self, until: str) -> str:
        return _hash(self._token, f"{COOKIE} {until}".encode(errors="replace")).hex()


class Guard:
    """An ASGI application around another one, which hears of no request by a name that isn't ours."""

    def __init__(self, app: ASGIApp, names: Collection[str], refused: ASGIApp) -> None:
        """`names` are hosts without port, in lower case; `refused` answers whoever asks for another one."""
        self._app = app
        self._names = frozenset(names)
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] == "http":
            app = self._app if self._is_ours(Headers(scope=scope).getlist("host")) else self._refused
            await app(scope, receive, with_headers)

    def _is_ours(self, hosts: list[str]) -> bool:
        """A page of somebody else's, whose name was made to lead here, asks by that name: its browser would let it
        read the answer."""
        return len(hosts) == 1 and _A_PORT.sub("", hosts[0].lower()) in self._names


def _hash(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, hashlib.sha256)
