"""Charts on the wall's pages: pictures at addresses of their own, each drawn when a browser asks for it. So a page is
there at once, and without the extra `report` it's there without them.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from etl.reporting.charts import FROM_HOUR_TO_HOUR, of_an_agent, parts
from etl.reporting.drawing import CONFIG, NARROW, can_draw, drawn
from etl.reporting.figures import Asked, Report
from etl.reporting.specs import Spec, narrow
from etl.reporting.web.asked import Refused, query_of

WIDTHS = {"broad": CONFIG, "narrow": NARROW}
# What a page's pictures are of is remembered until they were fetched.
KEPT, KEPT_SECONDS = 16, 60.0
# To draw 20,000 of them takes 100 MB more, and 40,000 would take all that the wall has.
MOST_SPANS = 10_000

Part = tuple[str, str, Spec]  # a chart's heading and caption, and what is drawn


def _has_timeline(found: Report) -> bool:
    """Whether there is something on an agent's, as the figures tell: to look it up takes longer than the page."""
    is_a_day = found.asked.first == found.asked.last
    return is_a_day and any(row["calls"] or row["states_known"] for row in found.rows)


class Pictures:
    """What charts the last pages have. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Asked, str | None], tuple[list[Part], float]] = OrderedDict()

    def of(self, found: Report, path: str, agent: str | None) -> list[dict[str, str]]:
        """A page's pictures, as its template wants them; none without the library."""
        if not can_draw():
            return []
        if agent is None:
            charts = [(heading, caption) for heading, caption, _ in self._keep(found, agent)]
        else:
            charts = [FROM_HOUR_TO_HOUR] if _has_timeline(found) else []
        query = query_of(found.asked)
        return [
            {"heading": heading, "caption": caption}
            | {width: f"/chart/{number}/{width}{path}?{query}" for width in WIDTHS}
            for number, (heading, caption) in enumerate(charts)
        ]

    def picture(
        self, asked: Asked, agent: str | None, number: int, width: str, find: Callable[[], Report]
    ) -> str | None:
        """SVG; None if there is no such chart. `find` is called if its page isn't remembered. Raises `Refused` if there
        is too much to draw."""
        with self._lock:
            charts, until = self._kept.get((asked, agent), ([], 0.0))
        if until < time.monotonic():
            charts = self._keep(find(), agent)
        if number >= len(charts):
            return None
        heading, _, spec = charts[number]
        return drawn(spec if width == "broad" else narrow(spec), WIDTHS[width], heading, "c")

    def _keep(self, found: Report, agent: str | None) -> list[Part]:
        told = found.timeline
        if told and len(told.states) + len(told.calls) + len(told.gaps) > MOST_SPANS:
            raise Refused(f"those are more than {MOST_SPANS:,} states and calls: `etl report agent` draws them")
        charts = [*(parts(found) if agent is None else of_an_agent(found))]
        with self._lock:
            self._kept[found.asked, agent] = (charts, time.monotonic() + KEPT_SECONDS)
            self._kept.move_to_end((found.asked, agent))
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return charts
