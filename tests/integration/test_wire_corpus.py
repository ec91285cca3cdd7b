"""What decodes can be loaded: the messages that fuzzing found worth keeping, all in one claim, into a real Postgres."""

from etl.settings import SourceSettings
from etl.wire.faults import Reason
from etl.wire.spool import pack_heard
from tests.fuzz import corpus
from tests.fuzz.properties import CAPTURED_AT, CHANNEL, KEYS
from tests.lake import SPOOL
from tests.world import Archive


def test_no_stored_message_is_refused_by_postgres(archive: Archive) -> None:
    messages = corpus.everything()
    archive.sources = [SourceSettings(key=key, source=f"system-{n}") for n, key in enumerate(KEYS)]
    for key in KEYS:
        archive.push(*messages, key=key)
    archive.push(*(pack_heard(n.to_bytes(16), CAPTURED_AT, CHANNEL, raw) for n, raw in enumerate(messages)), key=SPOOL)
    archive.push(*messages, key=SPOOL)

    books = archive.load()

    assert books.claimed == 5 * len(messages)
    reasons = {row["reason"] for row in archive.rows("SELECT DISTINCT reason FROM dead_letters")}
    assert Reason.NOT_JSON in reasons
    assert Reason.REFUSED_BY_DATABASE not in reasons
    archive.assert_books_balance()
