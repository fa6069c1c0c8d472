"""SystemMonitor: has MLflow measure the machine beside a run."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from hpm.errors import Notice


class SystemMonitor:
    """MLflow's monitor of processors, memory, disk and network.

    Args:
        uri: the server's address, with its secrets.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._monitor: Any = None
        self._works = True

    def watch(self, run_id: str) -> None:
        """Measure for a run, unless that goes on already; the monitor ends by itself when the server goes away."""
        if self._monitor is not None and self._monitor._process is not None and self._monitor._process.is_alive():
            return
        if not self._works:
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
        try:
            self._monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=self._uri)
            self._monitor.start()
        except Exception as error:  # psutil is missing, or cannot read this machine
            self._works = False
            warnings.warn(f"MLflowTracker.system_metrics cannot be measured: {error}", Notice, stacklevel=2)

    def finish(self) -> None:
        """End measuring."""
        if self._monitor is not None:
            self._monitor.finish()
