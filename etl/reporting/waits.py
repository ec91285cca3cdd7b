"""How long callers waited for an agent, as a chart of a report."""

from typing import TYPE_CHECKING

from etl.reporting import specs
from etl.reporting.shown import count
from etl.reporting.specs import AMBER, GREEN, Datum, Parts

if TYPE_CHECKING:
    from etl.reporting.figures import Report

# Seconds at which a column ends, beside those of the settings; the last one has no end.
ENDS = (10, 30, 60, 120, 300)
COLOURS = {"an agent answered": GREEN, "gave up": AMBER}


def spread(found: "Report") -> Parts:
    """Nothing if no wait is known."""
    if not found.waits:
        return
    short, in_time = (found.settings[f"{name}_seconds"] for name in ("short_abandon", "service_level"))
    data: list[Datum] = []
    names: list[str] = []
    began = -1
    for end in [*sorted({*ENDS, short, in_time}), None]:
        called = f"{began + 1} to {end} s" if end is not None else f"above {began} s"
        waited = [each for each in found.waits if began < each.seconds and (end is None or each.seconds <= end)]
        parts = (sum(each.answered for each in waited), sum(each.abandoned for each in waited))
        for order, (part, number) in enumerate(zip(COLOURS, parts, strict=True)):
            text = f"{called}: {count(number)} {part}"
            data.append({"place": len(names), "part": part, "value": float(number), "text": text, "order": order})
        names.append(called)
        began = end if end is not None else began
    yield (
        "How long callers waited",
        f"For an agent, or until they gave up: {_known(found)}. In time is up to {in_time} s",
        specs.columns(data, names, COLOURS),
    )


def _known(found: "Report") -> str:
    """Of how many calls, and of how many others it isn't known."""
    known = sum(each.answered + each.abandoned for each in found.waits)
    offered = found.total["inbound_offered"] if found.total else None
    if offered is None:
        return f"{count(known)} offered calls, and of others it isn't known"
    unknown = offered - known
    return f"{count(known)} offered calls" + (f"; of {count(unknown)} others it isn't known" if unknown > 0 else "")
