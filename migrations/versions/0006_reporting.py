"""The schema `reporting`: what a call centre's manager asks, as views; and the figures that are kept for them.

Each view's columns are listed with their comments, so that no column is without one.
"""

from collections.abc import Sequence

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

Columns = dict[str, tuple[str, str]]  # name → expression, comment

END_REASONS = (
    ("hungup", True, "The conversation ended; the system doesn't say who hung up", "unknown"),
    ("callee_hungup", True, "The other side hung up", "callee"),
    ("agent_hungup", True, "The agent hung up", "agent"),
    ("voicemail", True, "An answering machine took the call, as far as can be told", "dialler"),
    ("busy", False, "The other side was on the phone", "network"),
    ("reject", False, "The call was turned down before it was accepted", "callee"),
    ("timeout", False, "Nobody answered in time", "dialler"),
    ("error", False, "The network could not carry the call", "network"),
    ("failed", False, "The dialler itself failed", "dialler"),
)

ISDN_CAUSES = (
    (1, "Unallocated number", "The number isn't assigned to anybody"),
    (2, "No route to transit network", "The network that should pass the call on isn't known"),
    (3, "No route to destination", "The network that was reached doesn't serve the number"),
    (4, "Send special information tone", "The number can't be reached, and won't be soon; a tone says so"),
    (5, "Misdialled trunk prefix", "The number begins with a prefix that doesn't belong there"),
    (6, "Channel unacceptable", "The channel that was offered can't be used for this call"),
    (7, "Call awarded in established channel", "The call comes in on a channel that is open already"),
    (8, "Preemption", "A call of higher precedence took the line"),
    (9, "Preemption, circuit reserved", "A call of higher precedence took the line and keeps it"),
    (14, "Ported number", "The number has moved to another network"),
    (16, "Normal call clearing", "One of the two hung up"),
    (17, "User busy", "The called line is engaged"),
    (18, "No user responding", "The called equipment gave no sign in time"),
    (19, "No answer from user", "It rang, and nobody answered"),
    (20, "Subscriber absent", "The mobile is off or out of reach"),
    (21, "Call rejected", "The called side turned the call down"),
    (22, "Number changed", "The number belongs to nobody any more; a new one may be told"),
    (23, "Redirection to new destination", "The call is to go to another number"),
    (24, "Rejected by a feature", "A service at the destination turned the call down"),
    (25, "Exchange routing error", "Too many exchanges were passed"),
    (26, "Non-selected user clearing", "Another device took the call"),
    (27, "Destination out of order", "The line to the destination doesn't work"),
    (28, "Invalid number format", "The number is incomplete or malformed"),
    (29, "Facility rejected", "The network refuses a service that was asked for"),
    (30, "Response to status enquiry", "An answer to a question about the state of the call"),
    (31, "Normal, unspecified", "Ended normally, with no other cause to tell"),
    (34, "No circuit available", "All lines are taken"),
    (38, "Network out of order", "The network is down, and may be for a while"),
    (39, "Permanent connection out of service", "A permanent frame mode connection is down"),
    (40, "Permanent connection operational", "A permanent frame mode connection works"),
    (41, "Temporary failure", "The network failed for a moment: trying again may help"),
    (42, "Switching equipment congestion", "An exchange is overloaded"),
    (43, "Access information discarded", "What was sent along could not be delivered"),
    (44, "Requested channel not available", "The other side can't provide the channel that was asked for"),
    (46, "Precedence call blocked", "No line could be taken from calls of lower precedence"),
    (47, "Resource unavailable, unspecified", "Something was lacking, with no other cause to tell"),
    (49, "Quality of service unavailable", "The quality that was asked for can't be had"),
    (50, "Facility not subscribed", "The service needs a subscription that is lacking"),
    (53, "Outgoing calls barred in group", "A closed group doesn't let its members call out"),
    (55, "Incoming calls barred in group", "A closed group doesn't let its members be called"),
    (57, "Bearer capability not authorized", "The caller may not use this kind of connection"),
    (58, "Bearer capability not available", "This kind of connection can't be had at present"),
    (62, "Inconsistent access information", "What was sent contradicts the caller's subscription"),
    (63, "Service not available, unspecified", "A service can't be had, with no other cause to tell"),
    (65, "Bearer capability not implemented", "The equipment doesn't know this kind of connection"),
    (66, "Channel type not implemented", "The equipment doesn't know this kind of channel"),
    (69, "Facility not implemented", "The equipment doesn't know this service"),
    (70, "Only restricted digital information", "The connection carries restricted digital information only"),
    (79, "Service not implemented, unspecified", "The equipment doesn't know something, with no other cause to tell"),
    (81, "Invalid call reference", "A message names a call that doesn't exist"),
    (82, "Identified channel does not exist", "A channel was asked for that isn't set up"),
    (83, "Suspended call under another identity", "A call is held, and not under this identity"),
    (84, "Call identity in use", "The identity for holding a call is taken"),
    (85, "No call suspended", "There is no held call to take up again"),
    (86, "Suspended call was cleared", "The held call ended meanwhile"),
    (87, "User not member of group", "The called side isn't in the closed group"),
    (88, "Incompatible destination", "The called equipment can't take this kind of call"),
    (90, "Non-existent group", "The closed group doesn't exist"),
    (91, "Invalid transit network selection", "The transit network's number is malformed"),
    (95, "Invalid message, unspecified", "A message was malformed, with no other cause to tell"),
    (96, "Mandatory element missing", "A message lacked a necessary part"),
    (97, "Message type unknown", "A message is of a kind that doesn't exist or isn't known here"),
    (98, "Message not compatible with state", "A message came at the wrong moment, or of an unknown kind"),
    (99, "Element unknown", "A message had a part that isn't known here"),
    (100, "Invalid element contents", "A part of a message could not be understood"),
    (101, "Message at the wrong moment", "A message doesn't fit the state of the call"),
    (102, "Recovery on timer expiry", "A time ran out while the call was set up or ended"),
    (103, "Parameter unknown, passed on", "A parameter wasn't known here and was passed on"),
    (110, "Message discarded", "A message had an unknown parameter and was thrown away"),
    (111, "Protocol error, unspecified", "The signalling went wrong, with no other cause to tell"),
    (127, "Interworking, unspecified", "Another network was passed, and it tells no causes"),
)

ZONE = "(SELECT zone FROM reporting.settings)"
# A number that stands where a campaign should: Click2Dial before 3.0. Dialect B, which has a uuid, never has a number.
# `etl forget` may have put its hash there.
NUMBER_FOR_CAMPAIGN = (
    r"c.number IS NULL AND c.uuid IS NULL AND c.campaign_ref ~ '^(\+?[0-9]{6,}|forgotten:[0-9a-f]{16})$'"
)
RANKED = "coalesce(r.answered, false) OR c.answered_at IS NOT NULL"


def _listed(columns: Columns) -> str:
    return ",\n    ".join(f"{expression} AS {column}" for column, (expression, _) in columns.items())


def _seconds(told: str, start: str, end: str) -> str:
    """Whichever dialect gave it: the one tells the seconds, the other the moments. These by their whole seconds, since
    of the call's beginning there are no others."""
    between = f"extract(epoch FROM date_trunc('second', {end}) - date_trunc('second', {start}))::integer"
    return f"coalesce({told}, CASE WHEN {end} < {start} THEN 0 ELSE {between} END)"


def _by_business_day(table: str, day: str, moment: str) -> str:
    """The rows of `table` with their business day as `day`.

    A business day lies on up to three UTC days, which are the partitions: a branch for each. `day` is plain arithmetic
    on the partition's column there, so that what is asked of it excludes partitions: directly in the first branch, by
    the CHECK that each partition has in the others. In UTC these two read nothing.
    """
    local = f"(t.{moment} AT TIME ZONE {ZONE})::date"
    return f"""(
    SELECT t.{day} AS day, t.{day} + 1 AS next_day, t.{day} - 1 AS previous_day, t.* FROM {table} t
    WHERE {ZONE} = 'UTC' OR {local} = t.{day}
    UNION ALL
    SELECT t.{day} - 1, t.{day}, t.{day} - 2, t.* FROM {table} t WHERE {ZONE} <> 'UTC' AND {local} = t.{day} - 1
    UNION ALL
    SELECT t.{day} + 1, t.{day} + 2, t.{day}, t.* FROM {table} t WHERE {ZONE} <> 'UTC' AND {local} = t.{day} + 1
)"""


CALLS: Columns = {
    "day": ("c.day", "Business day of dialed_at, in the zone of reporting.settings; dates asked of it prune"),
    "hour": (f"date_trunc('hour', c.dialed_at, {ZONE})", "Beginning of the business hour of dialed_at"),
    "dialed_on": ("c.dialed_on", "UTC day of dialed_at: the partition"),
    "source": ("c.source", "The system that reported the call: dialler or click2dial"),
    "call_ref": ("c.call_ref", "The call's own reference within its system"),
    "leg": ("c.leg", "Leg of a transferred call, from 1; 0 if the system doesn't say"),
    "dialed_at": ("c.dialed_at", "When the call was placed or came in"),
    "answered_at": ("c.answered_at", "When the callee answered, if dialect B was there"),
    "connected_at": ("c.connected_at", "When an agent was connected, if dialect B was there"),
    "ended_at": ("c.ended_at", "When the call ended, if dialect B was there"),
    "call_dir": ("c.call_dir", "outbound or inbound"),
    "campaign_ref": (
        f"CASE WHEN {NUMBER_FOR_CAMPAIGN} THEN 'click-dial' ELSE c.campaign_ref END",
        "Campaign; click-dial for all of Click2Dial",
    ),
    "contact_ref": ("c.contact_ref", "The integrator's reference for the callee; empty or null if it has none"),
    "extension": ("c.extension", "The agent; null if none was reached"),
    "number": (
        f"CASE WHEN {NUMBER_FOR_CAMPAIGN} THEN c.campaign_ref ELSE c.number END",
        "The client's number; empty if withheld",
    ),
    "dial_number": ("c.dial_number", "The dialler's own number"),
    "end_reason": ("c.end_reason", "Disposition"),
    "disposition": ("r.meaning", "What the disposition means; null for one that isn't in reporting.end_reasons"),
    "ended_by": ("r.ended_by", "Who ended it: callee, agent, dialler, network or unknown"),
    "end_code": ("c.end_code", "ISDN hang-up cause (Q.850)"),
    "cause": ("i.name", "The cause's name; null for a code that Q.850 doesn't have, as 0"),
    "answered": (RANKED, "By the network: its disposition counts as answered, or it has an answered_at"),
    "reached_agent": (f"({RANKED}) AND c.extension IS NOT NULL", "Answered, and an agent was on it"),
    "abandoned": (
        f"({RANKED}) AND c.extension IS NULL",
        "Answered, and no agent was on it: abandoned in the queue. Answering machines are among them",
    ),
    "voicemail": ("coalesce(c.end_reason = 'voicemail', false)", "An answering machine, as far as can be told"),
    "ring_seconds": (
        _seconds("c.ring_time", "c.dialed_at", "c.answered_at"),
        "Ringing, from whichever dialect told it; null if none did",
    ),
    "hold_seconds": (
        _seconds("c.hold_time", "c.answered_at", "c.connected_at"),
        "On hold, from whichever dialect told it; null if none did",
    ),
    "talk_seconds": (
        _seconds("c.call_time", "c.connected_at", "c.ended_at"),
        "Talk with an agent, from whichever dialect told it; null if none did",
    ),
    "recording_url": ("c.recording_url", "Where the recording lies"),
    "uuid": ("c.uuid", "The dialler's own id of the call, if dialect B was there"),
    "loaded_at": ("c.loaded_at", "When this version came into the archive"),
}
# For comparing what may lie on two days.
NEXT_DAY = {"next_day": ("c.next_day", "The business day after day; dates asked of it prune")}
PREVIOUS_DAY = {"previous_day": ("e.previous_day", "The business day before day; dates asked of it prune")}


def _calls_from(cdrs: str) -> str:
    return f"""
FROM {cdrs} c
LEFT JOIN reporting.end_reasons r ON r.end_reason = c.end_reason
LEFT JOIN reporting.isdn_causes i ON i.code = c.end_code"""


CALLS_FROM = _calls_from(_by_business_day("cdrs", "dialed_on", "dialed_at"))

MASKED: Columns = {name: (f"c.{name}", comment) for name, (_, comment) in CALLS.items()} | {
    "number": (
        "CASE WHEN (SELECT reporting.sees_numbers()) THEN c.number"
        " ELSE repeat('*', length(c.number) - 4) || right(c.number, 4) END",
        "The client's number; only its last four digits for who isn't in etl_reporting_numbers; empty if withheld",
    ),
}

EVENTS: Columns = {
    "day": ("e.day", "Business day of captured_at, in the zone of reporting.settings; dates asked of it prune"),
    "captured_on": ("e.captured_on", "UTC day of captured_at: the partition"),
    "captured_at": ("e.captured_at", "When it was heard, or claimed if it lay on a list"),
    "event_id": ("e.event_id", "Given when the event was captured"),
    "origin": ("e.origin", "pubsub or list"),
    "kind": ("e.kind", "agents, campaigns, …"),
    "event_type": ("e.event_type", "status, call, stats, …"),
    "status": ("e.status", "New status, of a status event"),
    "campaign_ref": ("e.campaign_ref", "Campaign"),
    "extension": ("e.extension", "Agent"),
    "call_ref": ("e.call_ref", "Call, of an agent connection or an inbound call"),
}
EVENTS_FROM = f"FROM {_by_business_day('audit_events', 'captured_on', 'captured_at')} e"

STATES: Columns = {
    "day": ("s.day", "Business day of state_from, in the zone of reporting.settings"),
    "extension": ("s.extension", "The agent"),
    "status": ("s.status", "logging_in, available, busy, wrapup or logging_out; offline is no state to be in"),
    "campaign_ref": ("s.campaign_ref", "Campaign; null if the dialler didn't say"),
    "state_from": ("s.at", "When the dialler told it"),
    "state_until": (
        "CASE WHEN g.gap_from IS NOT NULL THEN greatest(g.gap_from, s.at) ELSE n.at END",
        "When the next status was told, or from when on nobody listened; null while it lasts",
    ),
    "closed_by": (
        "CASE WHEN g.gap_from IS NOT NULL THEN 'gap' WHEN n.at IS NULL THEN 'open'"
        " WHEN n.status = 'logging_in' THEN 'login' ELSE 'status' END",
        "status: the next one. gap: nobody listened from then on. login: the next login, so the logout was never told"
        " and the true end isn't known. open: it lasts",
    ),
}
# The next status of the agent; and the first stretch before it of which nobody knows what was said. What came on a list
# can't have been missed.
STATES_WITH = """
WITH gaps AS MATERIALIZED (
    SELECT coalesce(gap_from, '-infinity') AS gap_from, coalesce(gap_until, 'infinity') AS gap_until
    FROM audit_gaps
)"""
STATES_FROM = """
FROM reporting.status_changes s
LEFT JOIN LATERAL (
    SELECT n.at, n.status FROM reporting.status_changes n
    WHERE n.extension = s.extension AND (n.at, n.event_id) > (s.at, s.event_id)
    ORDER BY n.at, n.event_id LIMIT 1
) n ON true
LEFT JOIN LATERAL (
    SELECT gaps.gap_from FROM gaps
    WHERE s.origin = 'pubsub' AND gaps.gap_until > s.at AND gaps.gap_from < coalesce(n.at, 'infinity')
    ORDER BY gaps.gap_from LIMIT 1
) g ON true
WHERE s.status <> 'offline'"""

COUNTED = {  # figure → what counts, comment
    "attempts": ("true", "Calls, answered or not"),
    "answered": ("answered", "Answered by the network, machines among them"),
    "reached_agent": ("reached_agent", "Answered, and an agent was on it"),
    "abandoned": ("abandoned", "Answered, and no agent was on it; answering machines are among them"),
    "voicemail": ("voicemail", "Answering machines, as far as can be told"),
    "busy": ("end_reason = 'busy'", "Engaged"),
    "no_answer": ("end_reason = 'timeout'", "Nobody answered in time"),
    "rejected": ("end_reason = 'reject'", "Turned down before being accepted"),
    "failed": ("end_reason IN ('error', 'failed')", "The network or the dialler failed"),
}
CAMPAIGN_KEY: Columns = {
    "day": ("f.day", "Business day, in the zone of reporting.settings"),
    "campaign_ref": ("f.campaign_ref", "Campaign; click-dial for all of Click2Dial; null if the dialler didn't say"),
}
REFRESHED = "When these figures were computed; reporting.load_days says whether the day has changed since"


def _ratio(part: str, whole: str, digits: int = 4) -> str:
    return f"round({part}::numeric / nullif({whole}, 0), {digits})"


CAMPAIGN_FIGURES: Columns = {
    **{name: (f"f.{name}", comment) for name, (_, comment) in COUNTED.items()},
    "answer_seizure_ratio": (_ratio("f.answered", "f.attempts"), "answered / attempts"),
    "abandon_rate": (_ratio("f.abandoned", "f.answered"), "abandoned / answered"),
    "average_talk_seconds": (_ratio("f.talk_seconds", "f.reached_agent", 1), "talk_seconds / reached_agent"),
    "average_hold_seconds": (_ratio("f.hold_seconds", "f.held", 1), "Of the answered calls whose hold time is known"),
    "talk_seconds": ("f.talk_seconds", "All talk with agents"),
    "hold_seconds": ("f.hold_seconds", "All hold of the answered calls"),
    "held": ("f.held", "Answered calls whose hold time is known: average_hold_seconds is hold_seconds / held"),
    "unique_contacts": ("f.contacts", "Different callees, by reference or, where there is none, number"),
    "contacts_reached": ("f.contacts_reached", "Of these, those who talked to an agent"),
    "contact_rate": (_ratio("f.contacts_reached", "f.contacts"), "contacts_reached / unique_contacts"),
    "refreshed_at": ("f.refreshed_at", REFRESHED),
}


AGENT_KEY: Columns = {
    "day": ("f.day", "Business day, in the zone of reporting.settings"),
    "extension": ("f.extension", "The agent"),
}
AGENT_FIGURES: Columns = {
    "calls": ("f.calls", "Answered calls that the agent was on, from CDRs"),
    "talk_seconds": ("f.talk_seconds", "Talk, from CDRs"),
    "hold_seconds": ("f.hold_seconds", "Hold, from CDRs"),
    "average_handle_seconds": (
        _ratio("(f.talk_seconds + f.hold_seconds)", "f.calls", 1),
        "(talk + hold) / calls, from CDRs; what follows a call is in wrapup_seconds",
    ),
    "logged_in_seconds": (
        "round(f.logged_in_seconds)",
        "In any state but offline, from audit events; a state counts on the day it began and the next",
    ),
    "available_seconds": ("round(f.available_seconds)", "Waiting for a call, from audit events"),
    "busy_seconds": ("round(f.busy_seconds)", "On a call, from audit events"),
    "wrapup_seconds": ("round(f.wrapup_seconds)", "Finishing what a call left to do, from audit events"),
    "occupancy": (
        _ratio("(f.busy_seconds + f.wrapup_seconds)", "f.available_seconds + f.busy_seconds + f.wrapup_seconds"),
        "(busy + wrapup) / (available + busy + wrapup)",
    ),
    "unclosed": ("f.unclosed", "States that began then and whose end nobody told: their time isn't counted"),
    "refreshed_at": ("f.refreshed_at", REFRESHED),
}
AGENTS_FROM = """
FROM (
    SELECT day, hour, extension, sum(calls) AS calls, sum(talk_seconds) AS talk_seconds,
        sum(hold_seconds) AS hold_seconds, sum(logged_in_seconds) AS logged_in_seconds,
        sum(available_seconds) AS available_seconds, sum(busy_seconds) AS busy_seconds,
        sum(wrapup_seconds) AS wrapup_seconds, sum(unclosed) AS unclosed, min(refreshed_at) AS refreshed_at
    FROM (
        SELECT day, hour, extension, calls, talk_seconds, hold_seconds, 0 AS logged_in_seconds, 0 AS available_seconds,
            0 AS busy_seconds, 0 AS wrapup_seconds, 0 AS unclosed, refreshed_at
        FROM reporting.agent_call_figures
        UNION ALL
        SELECT day, hour, extension, 0, 0, 0, logged_in_seconds, available_seconds, busy_seconds, wrapup_seconds,
            unclosed, refreshed_at
        FROM reporting.agent_state_figures
    ) both_books
    GROUP BY day, hour, extension
) f
WHERE f.hour IS {which}"""

OUTCOMES = """CASE
        max(CASE WHEN c.reached_agent THEN 3 WHEN c.voicemail THEN 1 WHEN c.answered THEN 2 ELSE 0 END) OVER contact
        WHEN 3 THEN 'reached an agent' WHEN 2 THEN 'answered' WHEN 1 THEN 'answering machine' ELSE 'not reached' END"""
HISTORY: Columns = {
    "contact_ref": ("c.contact_ref", "The integrator's reference for the callee"),
    "attempt": ("row_number() OVER so_far", "From 1, in the order of dialing"),
    "attempts": ("count(*) OVER contact", "Of this contact in all"),
    **{
        name: MASKED[name]
        for name in (
            *("day", "dialed_at", "source", "call_ref", "leg", "call_dir", "campaign_ref", "extension", "number"),
            *("end_reason", "disposition", "answered", "reached_agent", "talk_seconds"),
        )
    },
    "since_previous": ("c.dialed_at - lag(c.dialed_at) OVER so_far", "Since the attempt before; null for the first"),
    "best_outcome": (OUTCOMES, "Of all attempts: reached an agent, answered, answering machine or not reached"),
    "numbers_tried": ("max(c.number_rank) OVER contact", "Different numbers, a withheld one among them"),
}
# Of all days, since windows keep what is asked of a day from excluding any: so without the branches of business days.
HISTORY_FROM = f"""
FROM (
    SELECT calls.*, dense_rank() OVER (PARTITION BY contact_ref ORDER BY number) AS number_rank
    FROM (
        SELECT {_listed(CALLS)} {
    _calls_from(f"(SELECT (t.dialed_at AT TIME ZONE {ZONE})::date AS day, t.* FROM cdrs t WHERE contact_ref <> '')")
}
    ) calls
) c
WINDOW contact AS (PARTITION BY c.contact_ref),
    so_far AS (PARTITION BY c.contact_ref ORDER BY c.dialed_at, c.source, c.call_ref, c.leg)"""

AUDITED = {name: comment for name, (_, comment) in CALLS.items() if name not in ("uuid", "recording_url")}
AUDIT: Columns = {
    **{name: (f"c.{name}", comment) for name, comment in AUDITED.items()},
    "events": (
        "c.events",
        "Events that carry its call_ref, from its business day or the next, in order; null if there are none",
    ),
    "agent_states": (
        """(
        SELECT jsonb_agg(jsonb_build_object('status', s.status, 'from', s.state_from, 'until', s.state_until,
            'closed_by', s.closed_by, 'campaign_ref', s.campaign_ref) ORDER BY s.state_from)
        FROM reporting.agent_states s
        WHERE s.extension = c.extension AND s.day BETWEEN c.day - 1 AND c.day + 1
            AND s.state_from < coalesce(c.ended_at, c.dialed_at + make_interval(
                secs => coalesce(c.ring_seconds, 0) + coalesce(c.hold_seconds, 0) + coalesce(c.talk_seconds, 0)
            )) + interval '1 minute'
            AND coalesce(s.state_until, 'infinity') > c.dialed_at - interval '1 minute'
    )""",
        "States of its agent from a minute before the call to a minute after it, in order; null if there are none",
    ),
}


def _events_as_calls(day: str) -> str:
    columns = ", ".join({"day": day, "call_ref": "call_ref"}.get(name, "NULL") for name in AUDITED)
    return f"""SELECT {columns}, captured_at, event_id, jsonb_build_object('captured_at', captured_at, 'kind', kind,
            'event_type', event_type, 'extension', extension, 'campaign_ref', campaign_ref)
        FROM reporting.events WHERE call_ref IS NOT NULL"""


# No joins here and below, but windows: through their partitions what is asked of the day comes to both tables.
AUDIT_FROM = f"""
FROM (
    SELECT *, jsonb_agg(event) FILTER (WHERE event IS NOT NULL) OVER (
        PARTITION BY day, call_ref ORDER BY captured_at, event_id
        ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
    ) AS events
    FROM (
        SELECT {", ".join(AUDITED)}, NULL::timestamptz AS captured_at, NULL::uuid AS event_id, NULL::jsonb AS event
        FROM reporting.calls
        UNION ALL
        {_events_as_calls("day")}
        UNION ALL
        {_events_as_calls("previous_day")}
    ) calls_and_events
) c
WHERE c.event IS NULL"""

# The dialler tells of a connection; Click2Dial, whose agents dial themselves, doesn't.
UNMATCHED: Columns = {
    "day": ("u.day", "Business day of at, in the zone of reporting.settings; dates asked of it prune"),
    "lacks": (
        "u.lacks",
        "CDR: an agent was connected, and there's no CDR (yet). event: a CDR with no connection event",
    ),
    "at": ("u.at", "When the connection was told, or when the call was dialled"),
    "call_ref": ("u.call_ref", "The call"),
    "extension": ("u.extension", "The agent"),
    "campaign_ref": ("u.campaign_ref", "Campaign"),
}
CONNECTED = "kind = 'agents' AND event_type = 'call' AND call_ref IS NOT NULL"
UNMATCHED_FROM = f"""
FROM (
    SELECT day, 'CDR' AS lacks, at, call_ref, extension, campaign_ref
    FROM (
        SELECT *, bool_and(is_event) OVER (PARTITION BY day, call_ref) AS is_alone
        FROM (
            SELECT day, captured_at AS at, call_ref, extension, campaign_ref, true AS is_event
            FROM reporting.events WHERE {CONNECTED}
            UNION ALL
            SELECT day, NULL, call_ref, NULL, NULL, false FROM reporting.calls_unmasked
            UNION ALL
            SELECT next_day, NULL, call_ref, NULL, NULL, false FROM reporting.calls_unmasked
        ) events_and_calls
    ) e
    WHERE is_event AND is_alone
    UNION ALL
    SELECT day, 'event', at, call_ref, extension, campaign_ref
    FROM (
        SELECT *, bool_and(is_call) OVER (PARTITION BY day, call_ref) AS is_alone
        FROM (
            SELECT day, dialed_at AS at, call_ref, extension, campaign_ref, true AS is_call,
                coalesce(connected_at, ended_at, dialed_at + make_interval(
                    secs => coalesce(ring_seconds, 0) + coalesce(hold_seconds, 0) + coalesce(talk_seconds, 0)
                )) AS connected_by
            FROM reporting.calls_unmasked WHERE reached_agent AND source <> 'click2dial'
            UNION ALL
            SELECT day, NULL, call_ref, NULL, NULL, false, NULL FROM reporting.events WHERE {CONNECTED}
            UNION ALL
            SELECT previous_day, NULL, call_ref, NULL, NULL, false, NULL FROM reporting.events WHERE {CONNECTED}
        ) calls_and_events
    ) c
    WHERE is_call AND is_alone AND NOT EXISTS (
        SELECT FROM audit_gaps g
        WHERE coalesce(g.gap_until, 'infinity') > c.at
            AND coalesce(g.gap_from, '-infinity') < c.connected_by + interval '1 minute'
    )
) u"""

LOAD_DAYS: Columns = {
    "day": ("b.day", "UTC day, as the books have it"),
    "cdrs": ("b.cdrs", "CDRs by the ledger"),
    "cdrs_updated": ("b.cdrs_updated", "How often one was completed or contradicted"),
    "events": ("b.events", "Audit events by the ledger"),
    "gap_seconds": ("round(g.seconds)", "How long nobody listened: events of that time may be missing"),
    "dead_letters": ("d.letters", "Messages received that day which are dead letters and unresolved"),
    "exported_revision": ("x.revision", "The CDRs' revision in the lake; null if they were never exported"),
    "export_current": ("x.entries = b.cdr_entries", "Whether that revision has all CDRs that are here"),
    "dropped": ("x.dropped_at IS NOT NULL", "Whether Postgres forgot the CDRs, on the proof of that revision"),
    "figures_current": (
        "r.cdrs = b.cdr_entries AND r.events = b.event_entries",
        "Whether kept figures have it all, in the zone of reporting.settings",
    ),
    "trusted": (
        "g.seconds = 0 AND d.letters = 0 AND r.cdrs = b.cdr_entries AND r.events = b.event_entries",
        "No gap, no open dead letter, and kept figures that have it all",
    ),
}
LOAD_DAYS_FROM = """
FROM (
    SELECT day,
        coalesce(sum(inserted) FILTER (WHERE dataset = 'cdrs'), 0) AS cdrs,
        coalesce(sum(updated) FILTER (WHERE dataset = 'cdrs'), 0) AS cdrs_updated,
        coalesce(sum(inserted) FILTER (WHERE dataset = 'audit_events'), 0) AS events,
        count(*) FILTER (WHERE dataset = 'cdrs') AS cdr_entries,
        count(*) FILTER (WHERE dataset = 'audit_events') AS event_entries
    FROM load_batch_days GROUP BY day
) b
CROSS JOIN LATERAL (
    SELECT b.day::timestamp AT TIME ZONE 'UTC' AS start, (b.day + 1)::timestamp AT TIME ZONE 'UTC' AS stop
) t
CROSS JOIN LATERAL (
    SELECT coalesce(extract(epoch FROM sum(
        least(coalesce(gap_until, now()), t.stop) - greatest(gap_from, t.start))), 0) AS seconds
    FROM audit_gaps
    WHERE coalesce(gap_until, now()) > t.start AND coalesce(gap_from, '-infinity') < t.stop
) g
CROSS JOIN LATERAL (
    SELECT count(*) AS letters FROM dead_letters
    WHERE resolved_at IS NULL AND received_at >= t.start AND received_at < t.stop
) d
CROSS JOIN LATERAL (
    SELECT coalesce(sum(entries) FILTER (WHERE dataset = 'cdrs'), 0) AS cdrs,
        coalesce(sum(entries) FILTER (WHERE dataset = 'audit_events'), 0) AS events
    FROM reporting.rolled_up WHERE day = b.day AND zone = (SELECT zone FROM reporting.settings)
) r
LEFT JOIN LATERAL (
    SELECT revision, entries, dropped_at FROM exports
    WHERE dataset = 'cdrs' AND day = b.day AND published_at IS NOT NULL ORDER BY revision DESC LIMIT 1
) x ON true"""


def _view(name: str, comment: str, columns: Columns, body: str, with_: str = "") -> None:
    _execute(f"CREATE VIEW reporting.{name} AS{with_}\nSELECT\n    {_listed(columns)}\n{body}")
    _comment(f"VIEW reporting.{name}", comment)
    for column, (_, told) in columns.items():
        _comment(f"COLUMN reporting.{name}.{column}", told)


def _comment(subject: str, text: str) -> None:
    quoted = text.replace("'", "''")
    _execute(f"COMMENT ON {subject} IS '{quoted}'")


def _execute(statement: str) -> None:
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))


def _table(name: str, comment: str, columns: dict[str, tuple[str, str]], *more: str) -> None:
    listed = ",\n    ".join([*(f"{column} {kind}" for column, (kind, _) in columns.items()), *more])
    _execute(f"CREATE TABLE reporting.{name} (\n    {listed}\n)")
    _comment(f"TABLE reporting.{name}", comment)
    for column, (_, told) in columns.items():
        _comment(f"COLUMN reporting.{name}.{column}", told)


def _fill(name: str, rows: Sequence[tuple[object, ...]]) -> None:
    marks = ", ".join(["%s"] * len(rows[0]))
    op.get_bind().exec_driver_sql(f"INSERT INTO reporting.{name} VALUES ({marks})", [*rows])


_COUNT = "integer NOT NULL"
_FIGURES_KEY = {
    "day": ("date NOT NULL", "Business day"),
    "hour": ("timestamptz", "Beginning of the business hour; null in the row of the whole day"),
}
_REFRESHED = {"refreshed_at": ("timestamptz NOT NULL DEFAULT now()", REFRESHED)}


def upgrade() -> None:
    _execute("CREATE SCHEMA reporting")
    _comment("SCHEMA reporting", "What a manager asks of the archive: views, and the figures and settings behind them")
    _settings()
    _reference()
    _kept()
    _indexes()
    _views()


def downgrade() -> None:
    _execute("DROP SCHEMA reporting CASCADE")


def _settings() -> None:
    _table(
        "settings",
        "One row: how days are cut. After a change, `etl rollup` computes the kept figures anew; days that only the"
        " lake has keep theirs",
        {
            "one": ("boolean PRIMARY KEY DEFAULT true CHECK (one)", "There is one row"),
            "zone": (
                # An unknown zone is an error right here.
                "text NOT NULL DEFAULT 'UTC' CHECK (timestamptz '2000-01-01 00:00Z' AT TIME ZONE zone IS NOT NULL)",
                "Time zone of business days and hours, like Europe/London",
            ),
        },
    )
    _execute("INSERT INTO reporting.settings DEFAULT VALUES")
    calls = op.get_bind().exec_driver_sql("SELECT quote_literal(format('%%I.cdrs', current_schema()))").scalar_one()
    # From whoever may read the table itself, there's nothing to hide.
    _execute(f"""CREATE FUNCTION reporting.sees_numbers() RETURNS boolean LANGUAGE sql STABLE AS $$
SELECT has_table_privilege({calls}, 'SELECT') OR EXISTS (
    SELECT FROM pg_catalog.pg_roles WHERE rolname = 'etl_reporting_numbers' AND pg_has_role(oid, 'MEMBER')
) $$""")
    _comment("FUNCTION reporting.sees_numbers()", "Whether the user sees whole telephone numbers")


def _reference() -> None:
    _table(
        "end_reasons",
        "Dispositions: how a call ended",
        {
            "end_reason": ("text PRIMARY KEY", "Disposition, as in cdrs.end_reason"),
            "answered": ("boolean NOT NULL", "Whether it counts as answered by the network"),
            "meaning": ("text NOT NULL", "In words"),
            "ended_by": ("text NOT NULL", "Who ended it: callee, agent, dialler, network or unknown"),
        },
    )
    _fill("end_reasons", END_REASONS)
    _table(
        "isdn_causes",
        "Hang-up causes of ITU-T Q.850",
        {
            "code": ("integer PRIMARY KEY", "As in cdrs.end_code"),
            "name": ("text NOT NULL", "Short name"),
            "meaning": ("text NOT NULL", "In words"),
        },
    )
    _fill("isdn_causes", ISDN_CAUSES)


def _kept() -> None:
    counts = {name: (_COUNT, comment) for name, (_, comment) in COUNTED.items()}
    _table(
        "campaign_figures",
        "Kept figures of campaigns by business hour and day: what campaign_hours and campaign_days show",
        {
            **_FIGURES_KEY,
            "campaign_ref": ("text", CAMPAIGN_KEY["campaign_ref"][1]),
            **counts,
            "talk_seconds": ("bigint NOT NULL", "All talk with agents"),
            "hold_seconds": ("bigint NOT NULL", "Hold time of the answered calls"),
            "held": (_COUNT, "Answered calls whose hold time is known"),
            "contacts": (_COUNT, "Different callees"),
            "contacts_reached": (_COUNT, "Of these, those who talked to an agent"),
            **_REFRESHED,
        },
        "UNIQUE NULLS NOT DISTINCT (day, hour, campaign_ref)",
    )
    _table(
        "agent_call_figures",
        "Kept figures of agents' calls by business hour and day, from CDRs",
        {
            **_FIGURES_KEY,
            "extension": ("text NOT NULL", "The agent"),
            "calls": (_COUNT, "Answered calls that the agent was on"),
            "talk_seconds": ("bigint NOT NULL", "Talk"),
            "hold_seconds": ("bigint NOT NULL", "Hold"),
            **_REFRESHED,
        },
        "UNIQUE NULLS NOT DISTINCT (day, hour, extension)",
    )
    _table(
        "agent_state_figures",
        "Kept figures of agents' states by business hour and day, from audit events",
        {
            **_FIGURES_KEY,
            "extension": ("text NOT NULL", "The agent"),
            "logged_in_seconds": ("numeric NOT NULL", "In any state but offline"),
            "available_seconds": ("numeric NOT NULL", "Waiting for a call"),
            "busy_seconds": ("numeric NOT NULL", "On a call"),
            "wrapup_seconds": ("numeric NOT NULL", "Finishing what a call left to do"),
            "unclosed": (_COUNT, "States that began then and whose end nobody told: their time isn't counted"),
            **_REFRESHED,
        },
        "UNIQUE NULLS NOT DISTINCT (day, hour, extension)",
    )
    _table(
        "status_changes",
        "Agents' status events, kept apart from all the others: what agent_states is made of",
        {
            "day": ("date NOT NULL", "Business day of at"),
            "extension": ("text NOT NULL", "The agent"),
            "at": ("timestamptz NOT NULL", "When it was heard"),
            "event_id": ("uuid NOT NULL", "As in audit_events"),
            "origin": ("text NOT NULL", "pubsub or list"),
            "status": ("text NOT NULL", "New status"),
            "campaign_ref": ("text", "Campaign"),
        },
        "PRIMARY KEY (extension, at, event_id)",
    )
    _execute("CREATE INDEX status_changes_day_idx ON reporting.status_changes (day)")
    _table(
        "rolled_up",
        "What the kept figures contain of each UTC day's ledger entries",
        {
            "dataset": ("text NOT NULL", "cdrs or audit_events"),
            "day": ("date NOT NULL", "UTC day"),
            "entries": (_COUNT, "Ledger entries (load_batch_days) that are in the figures"),
            "zone": ("text NOT NULL", "Time zone by which the figures were cut"),
            "refreshed_at": ("timestamptz NOT NULL DEFAULT now()", "When they were computed"),
        },
        "PRIMARY KEY (dataset, day)",
    )


def _indexes() -> None:
    """Who computes figures isn't the partitions' owner."""
    quoted = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema()), quote_literal(current_schema())")
    schema, literal = quoted.one()
    _execute(f"""CREATE FUNCTION reporting.index_contacts(day date) RETURNS void
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition regclass := to_regclass(format('%I.%I', {literal}, {schema}.partition_name('cdrs', day)));
BEGIN
    IF partition IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
        WHERE indrelid = partition AND attname = 'contact_ref'
    ) THEN
        EXECUTE format('CREATE INDEX ON %s (contact_ref)', partition);
    END IF;
END
$$""")
    _comment("FUNCTION reporting.index_contacts(date)", "Gives a UTC day of cdrs an index of contacts, if it has none")
    _execute("REVOKE ALL ON FUNCTION reporting.index_contacts(date) FROM PUBLIC")


def _views() -> None:
    _view(
        "calls_unmasked",
        "As reporting.calls, with whole numbers: the other views are made of it",
        CALLS | NEXT_DAY,
        CALLS_FROM,
    )
    _view("calls", "Every call attempt, with what can be derived from it", MASKED, "FROM reporting.calls_unmasked c")
    _view("events", "The audit trail, without payloads", EVENTS | PREVIOUS_DAY, EVENTS_FROM)
    _view(
        "agent_states",
        "One row per agent and state: from when to when, and how its end is known. As fresh as the last `etl rollup`",
        STATES,
        STATES_FROM,
        STATES_WITH,
    )
    hour = {"hour": ("f.hour", "Beginning of the business hour")}
    campaigns = "FROM reporting.campaign_figures f WHERE f.hour IS"
    _view("campaign_days", "A campaign's day", CAMPAIGN_KEY | CAMPAIGN_FIGURES, f"{campaigns} NULL")
    _view("campaign_hours", "A campaign's hour", CAMPAIGN_KEY | hour | CAMPAIGN_FIGURES, f"{campaigns} NOT NULL")
    _view("agent_days", "An agent's day", AGENT_KEY | AGENT_FIGURES, AGENTS_FROM.format(which="NULL"))
    _view("agent_hours", "An agent's hour", AGENT_KEY | hour | AGENT_FIGURES, AGENTS_FROM.format(which="NOT NULL"))
    _view("contact_history", "Attempts to reach a contact, in order, and what came of them", HISTORY, HISTORY_FROM)
    _view("call_audit", "A call beside what the audit trail says of it and of its agent", AUDIT, AUDIT_FROM)
    _view("unmatched_calls", "Where CDRs and the audit trail disagree, outside known gaps", UNMATCHED, UNMATCHED_FROM)
    _view("load_days", "Can this day's report be trusted? The books of each UTC day", LOAD_DAYS, LOAD_DAYS_FROM)
