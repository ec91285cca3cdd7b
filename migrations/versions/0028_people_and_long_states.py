"""One person, however their name is spelled; and how long a state may last is a setting.

A name that looks the same may be other bytes: letters with their accents beside them, no-break spaces, spaces at the
ends. `etl names import` writes one spelling only, but plain SQL writes any, so persons are added up by that spelling.
It's written out in the view, and no function of ours: whoever may ask a view may not therefore call what is in it.
"""

from alembic import context

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

# White space of Unicode; what is none but isn't seen stays, since letters of some scripts are joined by it.
SPACES = r"[\s\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"
ONE_SPELLING = f"nullif(normalize(btrim(regexp_replace({{0}}, '{SPACES}', ' ', 'g')), NFC), '')"
NAME, GROUP = ONE_SPELLING.format("n.name"), ONE_SPELLING.format('n."group"')

# Seconds. Who rings, or talks, or rests for so long forgot to say so, most likely.
OVER_LONG = {"logging_in": 120, "available": 3_600, "busy": 3_600, "wrapup": 300, "logging_out": 120}


def upgrade() -> None:
    masks, named, trade = (context.script.get_revision(number).module for number in ("0020", "0025", "0024"))
    persons = dict(named.PERSONS)
    persons["person"] = (f"coalesce(min({ONE_SPELLING.format('agent_name')}), min(extension))", "")
    persons["agent_group"] = (f"min({ONE_SPELLING.format('agent_group')})", "")
    # By the names as they are: two may be masked alike.
    masks._replace(
        "person_days",
        persons,
        "FROM reporting.agent_days d LEFT JOIN reporting.names n ON n.kind = 'agent' AND n.reference = d.extension"
        f" GROUP BY day, {NAME}, {GROUP}, CASE WHEN {NAME} IS NULL THEN extension END",
    )
    trade._add(
        "settings",
        {
            f"over_long_{status}_seconds": (
                f"integer DEFAULT {seconds} CHECK (over_long_{status}_seconds BETWEEN 1 AND 604800)",
                f"After how many seconds of {status} the wall marks an agent's state as over-long; null: never",
            )
            for status, seconds in OVER_LONG.items()
        },
        masks,
    )


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")
