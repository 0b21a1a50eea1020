"""What a replica counts, where Ray collects the numbers of all processes: each node has a place for Prometheus."""

from __future__ import annotations

import threading
import time
from typing import Any

from ray.serve import metrics as ray_metrics

from propulsion_tools.serving.logs import LOG
from propulsion_tools.serving.metrics import Metrics

_PERIOD = 2.0  # seconds


def report(metrics: Metrics) -> None:
    """Give Ray each number from time to time, with the replica's name; from a thread that ends with the process."""
    threading.Thread(target=_report, args=(metrics,), name="metrics", daemon=True).start()


def _report(metrics: Metrics) -> None:
    gauges: dict[str, Any] = {}
    while True:
        try:
            for name, text, labels, value in metrics.samples():
                if name not in gauges:
                    keys: Any = tuple(labels)
                    gauges[name] = ray_metrics.Gauge(name, description=text, tag_keys=keys)
                gauges[name].set(value, tags=dict(labels))
        except Exception as error:
            LOG.error("metrics", exc_info=error)
        time.sleep(_PERIOD)
