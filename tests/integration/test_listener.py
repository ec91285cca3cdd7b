"""What is published while a listener is proven to listen is in audit_events, once."""

import json
from datetime import timedelta

from tests.world import Archive, eventually


def test_every_event_of_a_session_is_recorded_once_with_its_fields(archive: Archive) -> None:
    with archive.process("run", "--follow") as process:
        eventually(lambda: archive.redis.pubsub_numpat() == 1, what="it never subscribed")
        for number in range(1_000):
            body = {"type": "status", "payload": {"status": "busy", "campaign_ref": None, "ref": str(number), "n": number}}
            archive.redis.publish(f"enigma:notifications:agents:{number}", json.dumps(body))
        archive.redis.publish("enigma:notifications:agents:7", b"not json")
        eventually(lambda: archive.value("SELECT count(*) FROM audit_events") == 1_000)
        eventually(lambda: archive.value("SELECT count(*) FROM dead_letters") == 1)
        assert archive.rows("SELECT source_key, reason FROM dead_letters") == [
            {"source_key": "enigma:notifications:agents:7", "reason": "not_json"}
        ]
        process.terminate()
        assert process.wait(30) == 0
    archive.load()
    (session,) = archive.rows("SELECT * FROM listener_sessions")
    assert session["reason"] == "stopped"
    assert session["received"] == 1_001
    assert session["ended_at"] - session["proven_until"] < timedelta(seconds=1)
    gaps = archive.rows("SELECT * FROM audit_gaps ORDER BY gap_from")
    assert [gap["reason"] for gap in gaps] == ["never started", "stopped"]
