"""The source lists and their decoders, from settings."""

import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from etl.app.stores import Stores, stores
from etl.errors import ConfigurationError, NotLetIn, Outage
from etl.inbox.claims import Source
from etl.inbox.rights import SourceList
from etl.inbox.watch import Answer, Watch
from etl.jobs.loader import Decode
from etl.jobs.pool import LOADERS
from etl.keys import SPOOL
from etl.metrics import Tally
from etl.settings import Settings, SourceSettings
from etl.wire.cdr import NUMBERS
from etl.wire.decode import Decoding, Records, SpoolDecoding
from etl.wire.faults import Reason
from etl.wire.packed import packer
from etl.wire.times import MICROSECONDS_PER_DAY, from_datetime

# A dialler's clock may run ahead so far, by time zone or by mistake; a later time is a broken message.
CLOCK_TOLERANCE = timedelta(days=1)


@contextlib.contextmanager
def each_for_itself() -> Iterator[None]:
    """What is wrong with one list is passed over; `NotLetIn` is wrong with all of them."""
    try:
        yield
    except NotLetIn:
        raise
    except ConfigurationError:
        return


def let_in(answers: Sequence[Answer]) -> None:
    """Raises the first of these answers that is `NotLetIn`, and the first `Outage` if they all are. What is wrong with
    one list is for its loader to find, and no reason not to begin; so is a node of a cluster that is away."""
    for answer in answers:
        if isinstance(answer, NotLetIn):
            raise answer
    if all(isinstance(answer, Outage) for answer in answers):
        for answer in answers:
            if isinstance(answer, Outage):
                raise answer


def waiting(settings: Settings) -> dict[str, int | None]:
    """How many messages wait, by source list; None if that list is broken or away. Raises `Outage` and `NotLetIn`."""
    with stores(settings) as clients:
        lists = sources(settings, clients)
        return dict(zip([source.key for source in lists], _numbers(Watch(clients.redis, lists).waiting()), strict=True))


def claimed_elsewhere(settings: Settings) -> int:
    """How many claims other workers hold, or left behind with a lease that still runs, as far as that can be known.
    Raises `Outage` and `NotLetIn`."""
    with stores(settings) as clients:
        return sum(filter(None, _numbers(Watch(clients.redis, sources(settings, clients)).claims())))


def _numbers(answers: Sequence[Answer]) -> list[int | None]:
    let_in(answers)
    return [answer if isinstance(answer, int) else None for answer in answers]


def source_lists(settings: Settings) -> list[SourceList]:
    """The dialler's lists, and last the spool, which is loaded like any other."""
    lists = [SourceList(source.key, source.take_from, source.forward_to) for source in settings.sources]
    return [*lists, SourceList(SPOOL, "right", None)]


def sources(settings: Settings, clients: Stores) -> list[Source]:
    """Those of `source_lists`."""
    return [
        Source(
            clients.redis,
            key,
            worker=settings.worker_name,
            take_from=take_from,
            forward_to=forward_to,
            batch_size=settings.batch_size,
            lease_ms=settings.lease_seconds * 1_000,
            keep_ms=settings.recall_hours * 3_600_000,
        )
        for key, take_from, forward_to in source_lists(settings)
    ]


def tally_of(settings: Settings) -> Tally:
    """A tally for one loader of each list, all at zero."""
    return Tally([*(source.key for source in settings.sources), SPOOL], [str(reason) for reason in Reason], NUMBERS)


def tallies_of(settings: Settings) -> list[Tally]:
    """Those of one process that follows: for the first loaders, and for those that help them."""
    return [tally_of(settings) for _ in range(LOADERS)]


def forget_key(settings: Settings) -> str | None:
    """Of the hashes of who was forgotten: with it they are erased on arrival."""
    return settings.forget_key.get_secret_value() if settings.forget_key else None


def decoders_of(settings: Settings) -> dict[str, Decode]:
    """The decoder of each list, by its key."""
    lists = {source.key: _of_a_list(settings, source) for source in settings.sources}
    return {**lists, SPOOL: _of_the_spool(settings)}


def _of_a_list(settings: Settings, source: SourceSettings) -> Decode:
    """A call later than its claim, by Redis' clock, and than now is of a broken time. Neither clock decides alone: this
    host's may be set between a claim and its decoding, and that of a 0.1 dated the letters that are replayed. How old
    it is goes by its claim alone: whoever adopts that decodes the same. What is wrong with the claim's own time is for
    who writes it, see `etl.store.claim_times`."""
    age = settings.oldest_days * MICROSECONDS_PER_DAY
    packing = packer(settings.decoder)

    def decode(messages: Sequence[bytes], batch_id: UUID, captured_at: int, first: int = 0) -> Records:
        oldest, latest, most = max(0, captured_at - age) if age else 0, _latest(captured_at), settings.max_message_bytes
        decoding = Decoding(
            messages,
            source=source.source,
            key=source.key,
            batch_id=batch_id,
            captured_at=captured_at,
            latest=latest,
            max_message_bytes=most,
            zone=source.time_zone,
        )
        if packing:
            decoding.packing(packing(source.source, batch_id.bytes, oldest, latest, most, source.time_zone))
        return decoding.not_before(oldest).beginning_at(first)

    return decode


def _of_the_spool(settings: Settings) -> Decode:
    return lambda messages, batch_id, captured_at, first=0: SpoolDecoding(
        messages,
        batch_id=batch_id,
        captured_at=captured_at,
        latest=_latest(captured_at),
        max_message_bytes=settings.max_message_bytes,
    ).beginning_at(first)


def _latest(captured_at: int) -> int:
    return max(captured_at, from_datetime(datetime.now(UTC))) + CLOCK_TOLERANCE // timedelta(microseconds=1)
