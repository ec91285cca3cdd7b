"""Tallies and gauges as Prometheus wants them. Its client brings an HTTP server along, so loaders don't import this."""

from collections.abc import Iterator, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from etl.metrics import ASKED, COUNTED, LIST_BROKEN, TIMED, Counter, Gauges, Histogram, Labels, Tally


class Exposition:
    """All metrics, for prometheus_client to write down: a collector. Tallies, all of the same labels, add up."""

    def __init__(self, tallies: Sequence[Tally], gauges: Gauges) -> None:
        self._tallies = tallies
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for counter in COUNTED:
            count = CounterMetricFamily(counter.name, counter.help, labels=counter.labels)
            for labels in self._tallies[0].labels_of(counter):
                [total] = self._sums(counter, labels)
                count.add_metric(labels, total)
            yield count
        for histogram in TIMED:
            spread = HistogramMetricFamily(histogram.name, histogram.help, labels=histogram.labels)
            for labels in self._tallies[0].labels_of(histogram):
                *counts, total = self._sums(histogram, labels)
                spread.add_metric(labels, list(_buckets(histogram.bounds, counts)), total)
            yield spread
        broken = GaugeMetricFamily(LIST_BROKEN.name, LIST_BROKEN.help, labels=LIST_BROKEN.labels)
        of_any = {key for tally in self._tallies for key in tally.broken()}
        for key in self._tallies[0].silent_seconds():
            broken.add_metric([key], float(key in of_any))
        yield broken
        for gauge in ASKED:
            level = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
            for labels, value in self._gauges.get(gauge, {}).items():
                level.add_metric(labels, value)
            yield level

    def _sums(self, metric: Counter | Histogram, labels: Labels) -> list[float]:
        return [sum(each) for each in zip(*(tally.figures(metric, labels) for tally in self._tallies), strict=True)]


def _buckets(bounds: Sequence[float], counts: Sequence[float]) -> Iterator[tuple[str, float]]:
    """As Prometheus has them: each counts all below its bound."""
    below = 0.0
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        below += count
        yield bound, below
