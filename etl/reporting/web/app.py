"""The wall's application: which path has which page, and what is said if there is none.

    /               today, new every few seconds
    /campaigns      figures of some days, as `etl report` has them; so are /agents, /hours, /reasons
    /agent/…        one agent's
    /chart/…        a picture on one of these pages
    /login          takes the token, if one is set
    /static/…       one style sheet and one script

Nothing else is answered, and nothing here writes.
"""

from asyncio import CancelledError
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from importlib.resources import files
from time import time
from typing import Any
from urllib.parse import parse_qs, quote

import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from etl import logs
from etl.errors import EtlError
from etl.logs import OutageLog
from etl.reporting.deadline import within
from etl.reporting.figures import Asked, Report, TooMany, ask, yesterday
from etl.reporting.spreadsheet import csv_of
from etl.reporting.today import Today, Wall
from etl.reporting.web import figures, pages
from etl.reporting.web.asked import Refused, Wanted, is_reference, wanted
from etl.reporting.web.guard import COOKIE, COOKIE_SECONDS, Guard, Token
from etl.reporting.web.pictures import WIDTHS, Pictures
from etl.reporting.web.shared import Full, Gate, Shared

REFRESH_SECONDS = 5
# Of the pages of figures, as many at a time ask Postgres; beside them somebody looks at today.
MOST_ASKING = 3
# Three who asked for 4,800 rows and their totals at a time took the process from 90 to 170 MB; a year of 100 campaigns
# took it to 470, and Kubernetes gives it 384 MiB. Drawing charts takes 120 more, once.
MOST_ROWS = 5_000
KINDS = {"/campaigns": "campaign", "/agents": "agent", "/hours": "hours", "/reasons": "reasons"}
# A chart takes a core for 0.1 s, the first one for 0.7: one is drawn at a time, and a page has some.
MOST_DRAWING, DRAWING_PATIENCE_SECONDS = 1, 30.0
_MOST_OF_A_FORM = 4_096  # bytes
_SOON = {"Retry-After": str(REFRESH_SECONDS)}
_STATIC = {"wall.css": "text/css; charset=utf-8", "wall.js": "text/javascript; charset=utf-8"}
_SAID = {
    HTTPStatus.BAD_REQUEST: "This name isn't one that the wall is called by: see ETL_WEB_HOSTS.",
    HTTPStatus.NOT_FOUND: "There is no such page.",
    HTTPStatus.METHOD_NOT_ALLOWED: "Pages can be looked at, and nothing else.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "That is no token.",
    HTTPStatus.SERVICE_UNAVAILABLE: "As many ask for figures as may at a time: try again in a moment.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "That is a bug: please report it, with the line request_failed of the log.",
}

log = logs.get()
# Messages waiting in each list, None where that can't be known; or None if Redis isn't to be asked.
Waiting = Callable[[], Mapping[str, int | None]] | None


@dataclass(frozen=True, slots=True)
class Site:
    """`names` are the hosts by which it's called, in lower case; without a token everybody is let in."""

    names: Collection[str]
    token: str | None


class _Pages:
    def __init__(self, engine: sa.Engine, waiting: Waiting, token: Token | None) -> None:
        self._templates = pages.environment()
        self._token = token
        self._engine = engine
        self._gate = Gate(MOST_ASKING)
        self._drawing = Gate(MOST_DRAWING, DRAWING_PATIENCE_SECONDS)
        self._pictures = Pictures()
        self._today = Shared("wall", Wall(engine).look, OutageLog(log, "wall_outage_began", "wall_outage_ended"))
        quiet = OutageLog(log.bind(store="Redis"), "wall_outage_began", "wall_outage_ended")
        self._waiting = Shared("waiting", waiting, quiet) if waiting else None

    def html(self, template: str, status: int = HTTPStatus.OK, **values: Any) -> Response:
        text = self._templates.get_template(template).render(values)
        return Response(text, status, media_type="text/html")

    async def today(self, request: Request) -> Response:
        waiting = await self._waiting.get() if self._waiting else None
        seen = await self._today.get()
        found: Today | None = seen.found if seen else None
        return self.html(
            "today.html",
            path="/",
            refresh=REFRESH_SECONDS,
            today=found,
            error=str(seen.error) if seen and seen.error else None,
            age=seen.seconds if seen else None,
            notes=pages.notes(found) if found else [],
            agents=pages.agents(found) if found else [],
            waiting=waiting.found if waiting and not waiting.error else None,
        )

    async def figures(self, request: Request) -> Response:
        path = request.url.path
        return await self._gate.through(
            "figures", partial(self._figures, wanted(KINDS[path], request.query_params), path)
        )

    async def agent(self, request: Request) -> Response:
        agent = request.path_params["agent"]
        if not is_reference(agent):
            raise HTTPException(HTTPStatus.NOT_FOUND)
        asked = wanted("agent", request.query_params)
        path = f"/agent/{quote(agent, safe='')}"
        return await self._gate.through("figures", partial(self._figures, asked, path, agent))

    async def chart(self, request: Request) -> Response:
        page, number, width = (request.path_params[name] for name in ("page", "number", "width"))
        agent = page.removeprefix("agent/") if page.startswith("agent/") else None
        kind = KINDS.get(f"/{page}") if agent is None else "agent"
        if kind is None or width not in WIDTHS or not is_reference("-" if agent is None else agent):
            raise HTTPException(HTTPStatus.NOT_FOUND)
        asked = wanted(kind, request.query_params)
        return await self._drawing.through("chart", partial(self._chart, asked, agent, number, width))

    def _chart(self, asked: Wanted, agent: str | None, number: int, width: str) -> Response:
        engine = within(self._engine)
        exactly = self._exactly(engine, asked)
        find = partial(self._found, engine, exactly, agent, with_timeline=agent is not None)
        svg = self._pictures.picture(exactly, agent, number, width, find)
        if svg is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return Response(svg, media_type="image/svg+xml")

    def _exactly(self, engine: sa.Engine, asked: Wanted) -> Asked:
        return asked.asked(asked.last or yesterday(engine))

    def _found(self, engine: sa.Engine, asked: Asked, agent: str | None, with_timeline: bool = False) -> Report:
        try:
            found = ask(engine, asked, MOST_ROWS, with_timeline, agent)
        except TooMany:
            raise Refused(
                f"that is more than {MOST_ROWS:,} rows: ask for fewer days, or `etl report` for all"
            ) from None
        return found if agent is None else figures.of_agent(found, agent)

    def _figures(self, asked: Wanted, path: str, agent: str | None = None) -> Response:
        """Takes some seconds at most."""
        engine = within(self._engine)
        found = self._found(engine, self._exactly(engine, asked), agent)
        if asked.form == "html":
            charts = self._pictures.of(found, path, agent)
            return self.html("figures.html", **figures.values(found, path, charts, agent))
        name = f"{asked.kind}-{found.asked.first}-{found.asked.last}.csv"
        answer = Response(csv_of(found), media_type="text/csv")
        answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        return answer

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _STATIC:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return Response((files("etl.reporting.web") / "static" / name).read_bytes(), media_type=_STATIC[name])

    async def login(self, request: Request) -> Response:
        """A form with the token; whoever has it gets a cookie."""
        given = parse_qs((await _body(request)).decode("utf-8", "replace")).get("token", [""])[0]
        if self._token is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        if not self._token.is_right(given):
            return self.log_in(wrong=True)
        answer = RedirectResponse("/", HTTPStatus.SEE_OTHER)
        encrypted = request.headers.get("x-forwarded-proto") == "https"  # a lie costs its teller their cookie only
        answer.set_cookie(
            COOKIE, self._token.cookie(time()), COOKIE_SECONDS, secure=encrypted, httponly=True, samesite="strict"
        )
        return answer

    def log_in(self, wrong: bool = False) -> Response:
        answer = self.html("login.html", HTTPStatus.UNAUTHORIZED, wrong=wrong)
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    def failed(self, status: int, headers: Mapping[str, str] | None = None, said: str = "") -> Response:
        known = HTTPStatus(status)
        text = said or _SAID.get(known, known.description)
        answer = self.html("failed.html", status, title=known.phrase, said=text)
        answer.headers.update(headers or {})
        return answer

    async def on_http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        return self.failed(error.status_code, error.headers)

    async def on_refused(self, request: Request, error: Exception) -> Response:
        return self.failed(HTTPStatus.BAD_REQUEST, said=f"That can't be asked: {error}.")

    async def on_full(self, request: Request, error: Exception) -> Response:
        return self.failed(HTTPStatus.SERVICE_UNAVAILABLE, _SOON)

    async def on_outage(self, request: Request, error: Exception) -> Response:
        return self.failed(HTTPStatus.SERVICE_UNAVAILABLE, _SOON, f"Postgres can't be asked: {error}")

    async def on_bug(self, request: Request, error: Exception) -> Response:
        return self.failed(HTTPStatus.INTERNAL_SERVER_ERROR)


def application(engine: sa.Engine, waiting: Waiting, site: Site) -> ASGIApp:
    """An ASGI application. Asks `engine` for what it shows: that should be read-only, and bounded by `deadline`."""
    token = Token(site.token) if site.token else None
    ours = _Pages(engine, waiting, token)
    routes = [
        Route("/", ours.today, methods=["GET"]),
        *(Route(path, ours.figures, methods=["GET"]) for path in KINDS),
        Route("/agent/{agent:path}", ours.agent, methods=["GET"]),
        Route("/chart/{number:int}/{width}/{page:path}", ours.chart, methods=["GET"]),
        Route("/login", ours.login, methods=["POST"]),
        Route("/static/{name}", ours.static, methods=["GET"]),
    ]
    handlers = {
        HTTPException: ours.on_http_error,
        Refused: ours.on_refused,
        Full: ours.on_full,
        EtlError: ours.on_outage,
        Exception: ours.on_bug,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        """A bug is told in one line, and the page is there for the next who asks."""
        try:
            if token and not _is_open(scope["path"]) and not token.lets_in(HTTPConnection(scope)):
                await ours.log_in()(scope, receive, send)
            else:
                await app(scope, receive, send)
        except (ClientDisconnect, CancelledError):  # they are gone, or we are told to end
            pass
        except Exception as error:  # whoever asked has been told
            log.warning("request_failed", error=repr(error))

    return Guard(answer, site.names, ours.failed(HTTPStatus.BAD_REQUEST))


def _is_open(path: str) -> bool:
    """What the login itself needs."""
    return path == "/login" or path.startswith("/static/")


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_OF_A_FORM:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return body
