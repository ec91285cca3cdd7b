"""How each report is asked of its view: which columns it has, and the aggregates by which totals are made of rows."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Ask(NamedTuple):
    """How a report is asked of its view."""

    view: str
    key: tuple[str, ...]  # columns that identify a row, in their order
    subject: str | None  # the column of the key by which there are totals over several days
    figures: Mapping[str, str]  # column → its aggregate
    also: Mapping[str, str] = MappingProxyType({})  # further columns → their expressions; null in totals
    rows: str = ""  # where they are looked for, if not in the view


def _ratio(part: str, whole: str, digits: int = 4) -> str:
    return f"round(({part})::numeric / nullif({whole}, 0), {digits})"


def _sums(*columns: str) -> dict[str, str]:
    return {column: f"sum({column})" for column in columns}


def _of_one(column: str, otherwise: str = "NULL") -> str:
    return f"CASE WHEN count(*) = 1 THEN min({column}) ELSE {otherwise} END"


def _known(column: str) -> str:
    return f"CASE WHEN count({column}) = count(*) THEN sum({column}) END"


def _all_known(*columns: str) -> dict[str, str]:
    return {column: _known(column) for column in columns}


def _known_ratio(part: str, whole: str, less: str = "", digits: int = 4) -> str:
    return _ratio(_known(part), f"({_known(whole)}{' - ' + _known(less) if less else ''})", digits)


_OUTCOMES = _sums("attempts", "answered", "reached_agent", "abandoned", "voicemail") | _sums(
    "busy", "no_answer", "rejected", "failed"
)
_OF_OUTCOMES = {
    "answer_seizure_ratio": _ratio("sum(answered)", "sum(attempts)"),
    "abandon_rate": _ratio("sum(abandoned)", "sum(answered)"),
    "average_talk_seconds": _ratio("sum(talk_seconds)", "sum(talked)", 1),
    "average_hold_seconds": _ratio("sum(hold_seconds)", "sum(held)", 1),
    **_sums("talk_seconds", "hold_seconds", "held"),
}
_CALLS = _OUTCOMES | _OF_OUTCOMES
_CONTACTS = {name: _of_one(name) for name in ("unique_contacts", "contacts_reached", "contact_rate")}
# What nobody knows isn't 0.
_TIMES = {
    name: f"CASE WHEN bool_or(states_known) THEN sum({name}) FILTER (WHERE states_known) END"
    for name in ("logged_in_seconds", "available_seconds", "busy_seconds", "wrapup_seconds")
}
_OCCUPANCY = _ratio(
    "sum(busy_seconds) + sum(wrapup_seconds)", "sum(available_seconds) + sum(busy_seconds) + sum(wrapup_seconds)"
)
_WRAPUP = "sum(wrapup_seconds)::numeric / nullif(sum(wrapped_calls), 0)"
_HANDLING = (
    "sum(talk_seconds)::numeric / nullif(sum(talked), 0)"
    " + coalesce(sum(hold_seconds)::numeric / nullif(sum(held), 0), 0)"
)
# Last, as in the views.
_ABSURD = _sums("absurd_durations", "talked")
_OF_OUTBOUND = {
    **_all_known("outbound_attempts", "outbound_answered", "outbound_machines", "outbound_reached"),
    **_all_known("outbound_dropped", "outbound_unclear", "outbound_short_dropped", "outbound_live"),
    "outbound_asr": _known_ratio("outbound_answered", "outbound_attempts"),
    "outbound_abandon_rate": _known_ratio("outbound_dropped", "outbound_live"),
}
_OF_CONTACTS = {
    name: _of_one(name)
    for name in (
        *("outbound_contacts", "outbound_contacts_reached", "outbound_contact_attempts", "outbound_contact_rate"),
        *("attempts_per_contact", "contacts_previewed", "list_penetration"),
    )
}
PERCENTILES = {"wait_p80": 80, "wait_p95": 95}
_OF_INBOUND = {
    **_all_known("inbound_calls", "inbound_offered", "inbound_reached", "inbound_abandoned", "inbound_short_abandoned"),
    "inbound_abandon_rate": _known_ratio("inbound_abandoned", "inbound_offered"),
    **_all_known("waits_known", "answered_in_time"),
    "service_level": _known_ratio("answered_in_time", "waits_known"),
    "service_level_without_short": _known_ratio("answered_in_time", "waits_known", less="inbound_short_abandoned"),
    **_all_known("answer_waits_known", "answer_wait_seconds"),
    "average_speed_of_answer": _known_ratio("answer_wait_seconds", "answer_waits_known", digits=1),
    "longest_wait": "max(longest_wait)",
    **dict.fromkeys(PERCENTILES, "NULL::integer"),
}
_UNKNOWN = _all_known("unknown_dispositions")


def _named(kind: str, column: str) -> dict[str, str]:
    """Of the rows and totals of one of them. Last: names came last."""
    return {
        name: f"CASE WHEN grouping({column}) = 0 THEN min({name}) END" for name in (f"{kind}_name", f"{kind}_group")
    }


FRESH = {"refreshed_at": "min(refreshed_at)"}

ASKS = {
    "campaign": Ask(
        "campaign_days",
        ("day", "campaign_ref"),
        "campaign_ref",
        _CALLS
        | _CONTACTS
        | _ABSURD
        | _OF_OUTBOUND
        | _OF_CONTACTS
        | _OF_INBOUND
        | _UNKNOWN
        | _named("campaign", "campaign_ref"),
    ),
    "hours": Ask("campaign_hours", ("day", "hour"), None, _CALLS | _ABSURD | _OF_OUTBOUND | _OF_INBOUND | _UNKNOWN),
    "agent": Ask(
        "agent_days",
        ("day", "extension"),
        "extension",
        {
            **_sums("calls", "talk_seconds", "hold_seconds"),
            "average_handle_seconds": f"round({_HANDLING}, 1)",
            **_TIMES,
            **_sums("unclosed"),
            "occupancy": _of_one("occupancy", _OCCUPANCY),
            **_ABSURD,
            **_sums("held"),
            **_all_known("outbound_calls", "inbound_calls"),
            "states_known": "bool_and(states_known)",
            **_sums("wrapped_calls"),
            "average_wrapup_seconds": _of_one("average_wrapup_seconds", f"round({_WRAPUP}, 1)"),
            "aht_seconds": _of_one("aht_seconds", f"round({_HANDLING} + coalesce({_WRAPUP}, 0), 1)"),
            "aht_of": "CASE WHEN count(DISTINCT aht_of) > 1 THEN 'talk + hold, and wrap-up where told'"
            " ELSE min(aht_of) END",
            **_named("agent", "extension"),
        },
    ),
    "reasons": Ask(
        "calls",
        ("end_reason",),
        None,
        {
            "calls": "count(*)",
            "answered": "count(*) FILTER (WHERE answered)",
            "reached_agent": "count(*) FILTER (WHERE reached_agent)",
            "absurd_durations": "count(*) FILTER (WHERE absurd_durations > 0)",
            "outbound_calls": "count(*) FILTER (WHERE call_dir = 'outbound')",
            "inbound_calls": "count(*) FILTER (WHERE call_dir = 'inbound')",
            "unknown_dispositions": "count(*) FILTER (WHERE NOT outcome_known)",
        },
        also={"disposition": "min(disposition)", "ended_by": "min(ended_by)"},
        rows="calls_between(:first, :last)",  # the view would lock every partition there is
    ),
}
