"""What a server did, in numbers for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BATCH_SIZES = (1, 2, 4, 8, 16)
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one server, in a registry of its own.

    Attributes:
        jobs: finished, by what became of them.
        refused: requests that were answered without a job, by HTTP status.
        batches: pictures that were made together.
        seconds: from the first array to the last pixel of a batch.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        common = {"registry": self._registry, "namespace": "colorize"}
        self.jobs = Counter("jobs", "Finished jobs.", ["status"], **common)
        self.refused = Counter("refused_requests", "Refused requests.", ["code"], **common)
        self.batches = Histogram(
            "batch_pictures", "Pictures a batch.", buckets=BATCH_SIZES, **common
        )
        self.seconds = Histogram("batch_seconds", "Seconds a batch.", buckets=SECONDS, **common)
        self._queue = Gauge("queue_pictures", "Pictures that wait.", **common)

    def text(self, waiting: int) -> bytes:
        """Return all numbers in Prometheus' text format."""
        self._queue.set(waiting)
        return generate_latest(self._registry)
