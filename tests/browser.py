"""A real Chromium, told what to do over a pipe by its DevTools protocol: no driver, and nothing of npm's.

It's Debian's; where there is none, tests that want one skip.
"""

import base64
import contextlib
import fcntl
import json
import os
import select
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.screenshots import CHROMIUM
from tests.tools import tool

# For a machine on which others work, too.
ANSWER_SECONDS = 120.0
LOADED = """new Promise(done =>
    document.readyState === "complete" ? done(true) : addEventListener("load", () => done(true)))"""
# Above those that Chromium takes for the pipe.
_LOW, _IN, _OUT = 10, 3, 4


class Refused(Exception):
    """The browser can't do that: as when the page is another one meanwhile."""


class Pipe:
    """JSON objects, each with a NUL behind it."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._buffer = b""

    def send(self, message: dict[str, Any]) -> None:
        os.write(self._write, json.dumps(message).encode() + b"\0")

    def receive(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the browser doesn't answer"
            more = os.read(self._read, 1 << 20)
            assert more, "the browser has ended"
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


@dataclass
class Tab:
    """One page. `events` are what the browser told meanwhile, by method."""

    pipe: Pipe
    session: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    _number: int = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        session = {"sessionId": self.session} if self.session else {}
        self.pipe.send({"id": self._number, "method": method, "params": parameters, **session})
        until = time.monotonic() + ANSWER_SECONDS
        while (message := self.pipe.receive(until)).get("id") != self._number:
            self.events.append(message)
        if "error" in message:
            raise Refused(message["error"])
        result: dict[str, Any] = message["result"]
        return result

    def open(self, address: str) -> None:
        """Returns when the document is there, whole."""
        assert "errorText" not in self.call("Page.navigate", url=address)
        assert self.run(LOADED)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, a promise's when it's kept."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def complaints(self) -> list[object]:
        """What scripts threw, and what the page's policy or the server refused it."""
        told = ("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening", "Runtime.consoleAPICalled")
        return [each["params"] for each in self.events if each.get("method") in told]


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """A window of 1000 to 800 pixels with an empty page; `folder` gets the profile."""
    commands, results = (_raised(os.pipe()) for _ in range(2))

    def connect() -> None:
        os.dup2(commands[0], _IN)
        os.dup2(results[1], _OUT)

    process = subprocess.Popen(
        [
            tool("chromium"),
            *CHROMIUM,
            f"--user-data-dir={folder / 'profile'}",
            "--remote-debugging-pipe",
            "about:blank",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(_IN, _OUT),
        preexec_fn=connect,  # noqa: PLW1509  (two calls of the system's)
    )
    os.close(commands[0])
    os.close(results[1])
    try:
        tab = Tab(Pipe(results[0], commands[1]))
        target = tab.call("Target.createTarget", url="about:blank")["targetId"]
        tab.session = tab.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            tab.call(f"{domain}.enable")
        resize(tab, 1000)
        yield tab
    finally:
        process.kill()
        process.wait()
        os.close(commands[1])
        os.close(results[0])


def resize(tab: Tab, width: int) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)


def _raised(pipe: tuple[int, int]) -> tuple[int, int]:
    """With other numbers, which nobody takes for the browser's."""
    read, write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _LOW) for end in pipe)
    for end in pipe:
        os.close(end)
    return read, write


@dataclass(frozen=True)
class Picture:
    """What is painted, pixel by pixel."""

    width: int
    rows: list[bytes]
    channels: int

    def light(self, x: int, y: int) -> float:
        """From 0, black, to 255."""
        at = min(max(x, 0), self.width - 1) * self.channels
        red, green, blue = self.rows[min(max(y, 0), len(self.rows) - 1)][at : at + 3]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def screenshot(tab: Tab, height: float) -> Picture:
    """Of the page's upper part, so many pixels high, also of what must be scrolled to."""
    width = tab.run("document.documentElement.scrollWidth")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    told = tab.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    return _decoded(base64.b64decode(told["data"]))


def _decoded(png: bytes) -> Picture:
    """Chromium's have eight bits a channel, and aren't interlaced."""
    place, packed, width, channels = 8, b"", 0, 0
    while place < len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        chunk = png[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            width, _, depth, colours, *_ = struct.unpack(">IIBBBBB", chunk)
            assert (depth, colours) in ((8, 2), (8, 6))
            channels = 3 if colours == 2 else 4
        elif kind == b"IDAT":
            packed += chunk
        place += length + 12
    data, stride = zlib.decompress(packed), width * channels
    rows, above = [], bytes(stride)
    for start in range(0, len(data), stride + 1):
        above = _unfiltered(data[start], data[start + 1 : start + 1 + stride], above, channels)
        rows.append(above)
    return Picture(width, rows, channels)


def _unfiltered(kind: int, row: bytes, above: bytes, channels: int) -> bytes:
    """By the PNG specification, 9.2."""
    if kind == 0:
        return row
    made = bytearray(row)
    for at in range(len(made)):
        left, before = (made[at - channels], above[at - channels]) if at >= channels else (0, 0)
        made[at] = (made[at] + _predicted(kind, left, above[at], before)) & 255
    return bytes(made)


def _predicted(kind: int, left: int, above: int, before: int) -> int:
    if kind < 4:
        return (left, above, (left + above) // 2)[kind - 1]
    distances = [abs(left + above - before - each) for each in (left, above, before)]
    return (left, above, before)[distances.index(min(distances))]
