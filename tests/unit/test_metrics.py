"""Tallies: what several processes count adds up, and what one counted outlives it."""

import multiprocessing
import os
import signal
import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from etl import metrics
from etl.app.exposition import Exposition
from etl.metrics import BATCH_SECONDS, CLAIMED, DEAD, LAG_SECONDS, RUNWAY, SET_ASIDE, Tally

KEYS = ("a", "b")
REASONS = ("not_json", "bad_type")
FIELDS = ("end_code", "hold_time")


def exposed(*tallies: Tally, gauges: metrics.Gauges | None = None) -> dict[str, float]:
    """Each sample by its name and its labels' values, these in the order of their names."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Exposition(tallies, gauges or {}))
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def count_and_die(tally: Tally) -> None:
    tally.of("a").add(CLAIMED, 2)
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_counted_stays() -> None:
    own, shared = Tally(KEYS, REASONS), Tally(KEYS, REASONS)
    own.of("a").add(CLAIMED, 40)
    spawn = multiprocessing.get_context("spawn")
    for _ in range(2):
        process = spawn.Process(target=count_and_die, args=(shared,))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL

    figures = exposed(own, shared)
    assert figures["etl_claimed_messages_total a"] == 44
    assert figures["etl_claimed_messages_total b"] == 0


def test_every_figure_has_its_own_place() -> None:
    tally = Tally(KEYS, REASONS, FIELDS)
    places = [(key, counter) for key in KEYS for counter in metrics.COUNTED if counter not in (DEAD, SET_ASIDE)]
    for amount, (key, counter) in enumerate(places, start=1):
        tally.of(key).add(counter, amount)
    for amount, (key, reason) in enumerate([(key, reason) for key in KEYS for reason in REASONS], start=100):
        tally.of(key).add(DEAD, amount, reason)
    for amount, (key, field) in enumerate([(key, field) for key in KEYS for field in FIELDS], start=200):
        tally.of(key).add(SET_ASIDE, amount, field)

    figures = exposed(tally)
    assert [figures[f"{counter.name} {key}"] for key, counter in places] == [*range(1, len(places) + 1)]
    assert figures["etl_dead_letters_total not_json a"] == 100
    assert figures["etl_dead_letters_total bad_type b"] == 103
    assert figures["etl_set_aside_values_total end_code a"] == 200
    assert figures["etl_set_aside_values_total hold_time b"] == 203


def test_a_bucket_counts_all_that_isnt_above_its_bound() -> None:
    one, two = Tally(KEYS, REASONS), Tally(KEYS, REASONS)
    now = 10**15
    ages = [700_000, 0, -3, 5, 1, 1.5, 604_800]  # the third lies ahead
    one.of("a").observe_ages(LAG_SECONDS, [now - int(age * 1_000_000) for age in ages], now)
    two.of("a").observe_ages(LAG_SECONDS, [now - 15_000_000], now)
    two.of("a").observe_ages(LAG_SECONDS, [], now)
    for seconds in (0.02, 0.025, 61):
        two.of("b").observe(BATCH_SECONDS, seconds)

    figures = exposed(one, two)
    name = LAG_SECONDS.name
    buckets = [figures[f"{name}_bucket {bound} a"] for bound in (*map(str, LAG_SECONDS.bounds), "+Inf")]
    assert buckets == [3, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8]
    assert figures[f"{name}_count a"] == 8
    assert figures[f"{name}_sum a"] == 1_304_822.5
    assert figures[f"{name}_count b"] == 0
    assert figures["etl_batch_seconds_bucket 0.01 b"] == 0
    assert figures["etl_batch_seconds_bucket 0.025 b"] == figures["etl_batch_seconds_bucket 60 b"] == 2
    assert figures["etl_batch_seconds_bucket +Inf b"] == 3
    assert figures["etl_batch_seconds_sum b"] == 61.045


def test_a_gauge_that_nobody_could_read_is_absent_not_zero() -> None:
    gauges: metrics.Gauges = {RUNWAY: {(): float("inf")}}

    figures = exposed(Tally(KEYS, REASONS), gauges=gauges)
    assert figures["etl_runway_seconds"] == float("inf")
    assert not [name for name in figures if name.startswith("etl_backlog_messages")]


def test_silence_is_known_by_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally(KEYS, REASONS)
    then = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: then + 1_000)
    tally.of("b").beat()

    silent = tally.silent_seconds()
    assert silent["a"] == pytest.approx(1_000, abs=10)
    assert silent["b"] == 0


def test_names_are_said_once_with_their_unit() -> None:
    everything = (*metrics.COUNTED, *metrics.TIMED, *metrics.ASKED, *metrics.TOLD)
    listed = {
        value
        for value in vars(metrics).values()
        if isinstance(value, metrics.Counter | metrics.Histogram | metrics.Gauge)
    }

    assert listed == {*everything}
    assert len({each.name for each in everything}) == len(everything)
    assert all(each.name.startswith("etl_") for each in everything)
    assert all(counter.name.endswith("_total") for counter in metrics.COUNTED)
    assert all(histogram.name.endswith("_seconds") for histogram in metrics.TIMED)
