"""The statements that compute kept figures, of a business day or of several: what `rollup` runs. What the figures mean
is in docs/reports.md, and in the comments of the views that show them.
"""

import sqlalchemy as sa


def _counted(which: str, what: str = "calls") -> str:
    return f"coalesce(sum({what}) FILTER (WHERE {which}), 0)"


# Of the views' calls, by the trade's definitions: which of them count. Whoever counts calls counts by these.
WHICH = {
    "outbound_attempts": "call_dir = 'outbound'",
    "outbound_answered": "call_dir = 'outbound' AND (answered OR machine)",
    "outbound_machines": "call_dir = 'outbound' AND machine",
    "outbound_reached": "call_dir = 'outbound' AND reached_agent AND NOT machine",
    "outbound_dropped": "call_dir = 'outbound' AND answered AND NOT reached_agent AND NOT machine AND outcome_known",
    "outbound_unclear": "call_dir = 'outbound' AND answered AND NOT reached_agent AND NOT outcome_known",
    "inbound_calls": "call_dir = 'inbound'",
    "inbound_offered": "call_dir = 'inbound' AND answered",
    "inbound_reached": "call_dir = 'inbound' AND reached_agent",
    "unknown_dispositions": "NOT outcome_known",
}
# Column of the kept figures → what it is of the counts of calls that are alike.
_COUNTS = {
    "attempts": "sum(calls)",
    "answered": _counted("answered"),
    "reached_agent": _counted("reached_agent"),
    "abandoned": _counted("answered AND NOT reached_agent"),
    "voicemail": _counted("end_reason = 'voicemail'"),
    "busy": _counted("end_reason = 'busy'"),
    "no_answer": _counted("end_reason = 'timeout'"),
    "rejected": _counted("end_reason = 'reject'"),
    "failed": _counted("end_reason IN ('error', 'failed')"),
    "talk_seconds": _counted("reached_agent", "talk_seconds"),
    "hold_seconds": _counted("answered", "hold_seconds"),
    "held": _counted("answered", "held"),
    "absurd_durations": "sum(absurd_durations)",
    "talk_unknown": _counted("reached_agent", "calls - talked"),
    "tells_number": "bool_or(tells_number)",
    **{name: _counted(which) for name, which in WHICH.items()},
    "outbound_contact_attempts": _counted(WHICH["outbound_attempts"], "with_contact"),
}
# Hours by a hash; a campaign may be null.
_SAME = (
    "coalesce({0}.hour, '-infinity') = coalesce(c.hour, '-infinity')"
    " AND {0}.campaign_ref IS NOT DISTINCT FROM c.campaign_ref"
)
# Campaigns and agents in one pass. Contacts are made different before they are counted: count(DISTINCT …) sorts them
# for every row of figures. Calls that are alike are counted once, and figures are made of these counts.
_CAMPAIGNS_AND_AGENTS = """
WITH calls AS MATERIALIZED (
    SELECT hour, campaign_ref, extension, answered, reached_agent, end_reason, call_dir, machine, outcome_known,
        talk_seconds, hold_seconds, absurd_durations > 0 AS is_absurd,
        CASE WHEN answered AND (call_dir = 'inbound' OR NOT reached_agent) THEN wait_seconds END AS wait_seconds,
        coalesce(nullif(contact_ref, ''), nullif(number, '')) AS contact,
        reporting.has_number(campaign_ref, number) AS tells_number
    FROM reporting.calls_unmasked_on(:day)
), calls_of_agents AS MATERIALIZED (
    SELECT hour, extension, count(*) AS calls, coalesce(sum(talk_seconds), 0) AS talk_seconds,
        coalesce(sum(hold_seconds), 0) AS hold_seconds, count(*) FILTER (WHERE is_absurd) AS absurd_durations,
        count(*) - count(talk_seconds) AS talk_unknown, count(*) - count(hold_seconds) AS hold_unknown,
        count(*) FILTER (WHERE call_dir = 'outbound') AS outbound_calls,
        count(*) FILTER (WHERE call_dir = 'inbound') AS inbound_calls
    FROM calls WHERE reached_agent
    GROUP BY hour, extension
), agents AS (
    INSERT INTO reporting.agent_call_figures (
        day, hour, extension, calls, talk_seconds, hold_seconds, absurd_durations, talk_unknown, hold_unknown,
        outbound_calls, inbound_calls
    )
    SELECT :day, hour, extension, sum(calls), sum(talk_seconds), sum(hold_seconds), sum(absurd_durations),
        sum(talk_unknown), sum(hold_unknown), sum(outbound_calls), sum(inbound_calls)
    FROM calls_of_agents
    GROUP BY GROUPING SETS ((hour, extension), (extension))
), contacted AS ( -- a bit each: reached, dialled, and reached by dialling
    SELECT hour, campaign_ref, count(*) AS contacts, count(*) FILTER (WHERE met & 1 > 0) AS contacts_reached,
        count(*) FILTER (WHERE met & 2 > 0) AS dialled, count(*) FILTER (WHERE met & 4 > 0) AS dialled_reached
    FROM (
        SELECT hour, campaign_ref, bit_or(
            CASE WHEN reached_agent THEN 1 ELSE 0 END
            | CASE WHEN call_dir = 'outbound' THEN CASE WHEN reached_agent AND NOT machine THEN 6 ELSE 2 END ELSE 0 END
        ) AS met
        FROM calls WHERE contact IS NOT NULL
        GROUP BY GROUPING SETS ((hour, campaign_ref, contact), (campaign_ref, contact))
    ) each_once
    GROUP BY hour, campaign_ref
), alike AS MATERIALIZED (
    SELECT hour, campaign_ref, call_dir, end_reason, answered, reached_agent, machine, outcome_known,
        count(*) AS calls, count(contact) AS with_contact, coalesce(sum(talk_seconds), 0) AS talk_seconds,
        count(talk_seconds) AS talked, coalesce(sum(hold_seconds), 0) AS hold_seconds, count(hold_seconds) AS held,
        count(*) FILTER (WHERE is_absurd) AS absurd_durations, bool_or(tells_number) AS tells_number
    FROM calls
    GROUP BY hour, campaign_ref, call_dir, end_reason, answered, reached_agent, machine, outcome_known
), waits AS MATERIALIZED (
    SELECT hour, campaign_ref, wait_seconds, count(*) FILTER (WHERE call_dir = 'inbound' AND reached_agent) AS answered,
        count(*) FILTER (WHERE call_dir = 'inbound' AND NOT reached_agent) AS abandoned,
        count(*) FILTER (WHERE call_dir = 'outbound') AS dropped
    FROM calls
    WHERE wait_seconds IS NOT NULL AND answered AND (
        call_dir = 'inbound' OR call_dir = 'outbound' AND NOT reached_agent AND NOT machine AND outcome_known
    )
    GROUP BY hour, campaign_ref, wait_seconds
), waited AS (
    SELECT hour, campaign_ref, array_agg(wait_seconds ORDER BY wait_seconds) AS waits,
        array_agg(answered ORDER BY wait_seconds) AS waits_answered,
        array_agg(abandoned ORDER BY wait_seconds) AS waits_abandoned,
        array_agg(dropped ORDER BY wait_seconds) AS waits_dropped
    FROM (
        SELECT hour, campaign_ref, wait_seconds, sum(answered)::integer AS answered,
            sum(abandoned)::integer AS abandoned, sum(dropped)::integer AS dropped
        FROM waits
        GROUP BY GROUPING SETS ((hour, campaign_ref, wait_seconds), (campaign_ref, wait_seconds))
    ) each_once
    GROUP BY hour, campaign_ref
), campaigns AS (
    SELECT hour, campaign_ref, {counts}
    FROM alike
    GROUP BY GROUPING SETS ((hour, campaign_ref), (campaign_ref))
)
INSERT INTO reporting.campaign_figures (
    day, hour, campaign_ref, {names}, contacts, contacts_reached, outbound_contacts, outbound_contacts_reached, waits,
    waits_answered, waits_abandoned, waits_dropped
)
SELECT :day, c.hour, c.campaign_ref, {names}, coalesce(contacts, 0), coalesce(contacts_reached, 0),
    coalesce(dialled, 0), coalesce(dialled_reached, 0), coalesce(waits, '{{}}'), coalesce(waits_answered, '{{}}'),
    coalesce(waits_abandoned, '{{}}'), coalesce(waits_dropped, '{{}}')
FROM campaigns c
LEFT JOIN contacted t ON {same_as_t}
LEFT JOIN waited w ON {same_as_w}"""
CALLS = (
    sa.text("DELETE FROM reporting.campaign_figures WHERE day = :day"),
    sa.text("DELETE FROM reporting.agent_call_figures WHERE day = :day"),
    sa.text(
        _CAMPAIGNS_AND_AGENTS.format(
            counts=",\n        ".join(f"{counted} AS {name}" for name, counted in _COUNTS.items()),
            names=", ".join(_COUNTS),
            **{f"same_as_{each}": _SAME.format(each) for each in "tw"},
        )
    ),
)
# Agents' statuses, and what the dialler previewed, in one pass.
CHANGES = (
    # By time, not by day: rows computed for another time zone have other days.
    sa.text(
        "DELETE FROM reporting.status_changes s USING reporting.settings WHERE (s.at AT TIME ZONE zone)::date = :day"
        " AND s.day BETWEEN CAST(:day AS date) - 2 AND CAST(:day AS date) + 2"
    ),
    sa.text("DELETE FROM reporting.preview_figures WHERE day = :day"),
    sa.text("""
WITH told AS MATERIALIZED (
    SELECT e.extension, e.captured_at, e.event_id, e.origin, e.status, e.campaign_ref, e.channel, e.reference,
        e.batch_id, CASE e.kind WHEN 'campaigns' THEN coalesce(e.payload -> 'callees', 'null') END AS callees
    FROM reporting.settings
    CROSS JOIN LATERAL (
        SELECT (CAST(:day AS timestamp) AT TIME ZONE zone) AS start,
            ((CAST(:day AS timestamp) + interval '1 day') AT TIME ZONE zone) AS stop
    ) business_day
    JOIN audit_events e ON captured_on BETWEEN (start AT TIME ZONE 'UTC')::date AND (stop AT TIME ZONE 'UTC')::date
        AND captured_on BETWEEN CAST(:day AS date) - 1 AND CAST(:day AS date) + 1 -- which the planner knows
        AND (captured_at AT TIME ZONE zone)::date = CAST(:day AS date)
    WHERE kind = 'agents' AND event_type = 'status' AND extension IS NOT NULL AND status IS NOT NULL
        OR kind = 'campaigns' AND event_type = 'dial_preview' AND campaign_ref IS NOT NULL
), previewed AS (
    INSERT INTO reporting.preview_figures (day, campaign_ref, contacts)
    SELECT :day, campaign_ref, count(DISTINCT coalesce(nullif(callee ->> 'contact_ref', ''), callee ->> 'number'))
    FROM told
    CROSS JOIN LATERAL jsonb_array_elements(CASE jsonb_typeof(callees) WHEN 'array' THEN callees END) AS callee
    WHERE callees IS NOT NULL AND coalesce(nullif(callee ->> 'contact_ref', ''), callee ->> 'number') <> ''
    GROUP BY campaign_ref
), claims AS MATERIALIZED ( -- by the ledger's key, never all of the ledger
    SELECT batch_id, server FROM load_batches WHERE batch_id = ANY (ARRAY(SELECT DISTINCT batch_id FROM told))
)
INSERT INTO reporting.status_changes (
    day, extension, at, event_id, origin, status, campaign_ref, server, channels
)
SELECT :day, extension, captured_at, event_id, origin, status, campaign_ref, server,
    CASE WHEN reference IS NULL THEN channel ELSE regexp_replace(channel, ':[^:]*$', '') END
FROM told LEFT JOIN claims USING (batch_id) WHERE callees IS NULL"""),
)
# Of consecutive days, so that each state is worked out once. A state counts on the day it began and on the next. It's
# cut into quarters of an hour: in every time zone an hour begins with one. Most states don't last that long.
STATES = (
    sa.text("DELETE FROM reporting.agent_state_figures WHERE day BETWEEN :first AND :last"),
    sa.text("""
WITH days AS MATERIALIZED (
    SELECT zone, day::date AS day, day AT TIME ZONE zone AS start, (day + interval '1 day') AT TIME ZONE zone AS stop
    FROM reporting.settings
    CROSS JOIN generate_series(CAST(:first AS timestamp), CAST(:last AS timestamp), interval '1 day') AS day
), parts AS MATERIALIZED (
    SELECT d.day, d.zone, d.start, s.extension, s.status, s.closed_by, s.state_from,
        greatest(s.state_from, d.start) AS since, least(coalesce(s.state_until, now()), d.stop) AS until,
        date_bin('15 minutes', greatest(s.state_from, d.start), '2000-01-01 00:00Z') AS quarter
    FROM reporting.agent_states_between(CAST(:first AS date) - 1, CAST(:last AS date)) s
    JOIN days d ON s.state_from < d.stop
        AND (d.day = s.day OR d.day = s.day + 1 AND coalesce(s.state_until, now()) > d.start)
), pieces AS (
    SELECT day, zone, extension, status, 0 AS unclosed, quarter, extract(epoch FROM until - since) AS seconds
    FROM parts WHERE closed_by <> 'login' AND until > since AND until <= quarter + interval '15 minutes'
    UNION ALL
    SELECT day, zone, extension, status, 0, piece,
        extract(epoch FROM least(until, piece + interval '15 minutes') - greatest(since, piece))
    FROM parts CROSS JOIN LATERAL generate_series(quarter, until - interval '1 microsecond', '15 minutes') AS piece
    WHERE closed_by <> 'login' AND until > quarter + interval '15 minutes'
    UNION ALL
    SELECT day, zone, extension, status, 1, state_from, 0 FROM parts WHERE closed_by = 'login' AND state_from >= start
)
INSERT INTO reporting.agent_state_figures (
    day, hour, extension, logged_in_seconds, available_seconds, busy_seconds, wrapup_seconds, unclosed
)
SELECT day, hour, extension, sum(seconds), coalesce(sum(seconds) FILTER (WHERE status = 'available'), 0),
    coalesce(sum(seconds) FILTER (WHERE status = 'busy'), 0),
    coalesce(sum(seconds) FILTER (WHERE status = 'wrapup'), 0),
    sum(unclosed)
FROM (SELECT *, date_trunc('hour', quarter, zone) AS hour FROM pieces) hours
GROUP BY GROUPING SETS ((day, hour, extension), (day, extension))"""),
)
