"""The replicas of a model as an application of Ray Serve: on a cluster that is there, or on one of this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import Any

import ray
from ray import serve

from propulsion_tools.errors import OptionError
from propulsion_tools.records.options import ServeOptions
from propulsion_tools.serving.loading import load_all, make_plan
from propulsion_tools.serving.logs import JsonLines
from propulsion_tools.serving.ray_settings import cores_needed, deployment_settings, scales_to_zero
from propulsion_tools.serving.remote import RemoteEngine
from propulsion_tools.serving.replica import Replica
from propulsion_tools.training.notify import Notify
from propulsion_tools.training.ray_cluster import connect

DEPLOYMENT = "model"
_PERIOD = 1.0  # seconds between two looks at the replicas
_PATIENCE = 30.0  # seconds without replicas after which it is said that they are waited for

_LOGGING = {"encoding": "JSON", "enable_access_log": False}  # the server notes each request


def open_replicas(options: ServeOptions, notify: Notify) -> RemoteEngine:
    """Replicas that answer, and the adapters of the folder that they can serve.

    Args:
        options: Name them.
        notify: Is told which adapters are left out, and why.

    Raises:
        OptionError: It is not clear what is to be served, there is no cluster, or no replica starts.
    """
    plan = make_plan(options, notify)
    application = RayApplication(plan.options, notify)
    try:
        engine = RemoteEngine(application, plan)
        load_all(engine.adapters, plan, notify)
    except BaseException:
        application.close()
        raise
    return engine


class RayApplication:
    """The replicas of a model, and how they are. A program that is part of a cluster already stays in it.

    Args:
        options: With whole paths, as in a `Plan`.
        notify: Is told what is waited for.

    Raises:
        OptionError: There is no cluster, Ray does not take its settings, or no replica starts.
    """

    def __init__(self, options: ServeOptions, notify: Notify) -> None:
        self._name = options.ray_application
        settings = deployment_settings(options)
        deployment = _deployment(settings)
        address = options.ray_address or os.environ.get("RAY_ADDRESS")
        self._is_guest = ray.is_initialized()
        if not self._is_guest:
            connect(ray, address, max(os.cpu_count() or 1, cores_needed(settings)))
        self._ended = threading.Event()
        self._seen: tuple[int, bool, str] = (0, True, "")
        self._to_zero = scales_to_zero(settings)
        try:
            if not options.use_cpu and "ray_actor_options" not in settings and ray.cluster_resources().get("GPU"):
                deployment = deployment.options(ray_actor_options={"num_gpus": 1})
            self.handle = self._deployed(deployment.bind(options))
            self._await_replicas(notify)
        except BaseException:
            self.close()
            raise
        self._watching = threading.Thread(target=self._watch, name="replicas", daemon=True)
        self._watching.start()

    @property
    def running(self) -> int:
        """How many replicas there are that answer."""
        return self._seen[0]

    @property
    def alive(self) -> bool:
        """Whether the cluster is there."""
        return self._seen[1]

    @property
    def takes_requests(self) -> bool:
        """Whether a replica answers, or will be started for a request."""
        return self.alive and (self.running > 0 or self._to_zero)

    def close(self) -> None:
        """End the replicas, and leave the cluster, which ends if it was started here."""
        self._ended.set()
        if handle := getattr(self, "handle", None):
            with contextlib.suppress(Exception):
                handle.shutdown()  # or it goes on to count for a cluster that is not there, and Ray starts another
        with contextlib.suppress(Exception):  # the cluster may be gone
            serve.delete(self._name)
        if not self._is_guest:
            ray.shutdown()

    def _deployed(self, bound: Any) -> Any:
        _log_as_we_do()
        serve.start(proxy_location="Disabled", logging_config=_LOGGING)  # nothing listens but this process
        _log_as_we_do()
        target = serve.RunTarget(bound, name=self._name, route_prefix=None, logging_config=_LOGGING)
        return serve.run_many([target], wait_for_applications_running=False)[0]

    def _await_replicas(self, notify: Notify) -> None:
        """Until one answers."""
        patience = time.monotonic() + _PATIENCE
        while True:
            self._seen = self._look()
            running, _, failed = self._seen
            if failed:
                raise OptionError(f"No replica starts: {failed}")
            if running:
                return
            if time.monotonic() > patience:
                notify("Waiting for a replica to start: `ray status` says whether a machine has room for one.")
                patience = float("inf")
            time.sleep(_PERIOD)

    def _watch(self) -> None:
        while not self._ended.wait(_PERIOD):
            self._seen = self._look()

    def _look(self) -> tuple[int, bool, str]:
        """Replicas that answer, whether the cluster is there, and why none starts."""
        try:
            found = serve.status().applications.get(self._name)
        except Exception:  # whatever it is, Ray does not tell
            return 0, False, ""
        if found is None:
            return 0, True, ""
        deployment = found.deployments.get(DEPLOYMENT)
        states = deployment.replica_states.items() if deployment else ()
        running = sum(count for state, count in states if state == "RUNNING")
        why = deployment.message if deployment else found.message
        return running, True, _last_line(why) if found.status == "DEPLOY_FAILED" else ""


def _deployment(settings: dict[str, Any]) -> Any:
    try:
        return serve.deployment(name=DEPLOYMENT, **settings)(Replica)
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(f"Ray Serve does not take these settings: {' '.join(str(error).split())}") from error


def _last_line(message: str) -> str:
    """What an error has said, of its whole traceback."""
    return message.strip().splitlines()[-1].strip()


def _log_as_we_do() -> None:
    for handler in logging.getLogger("ray.serve").handlers:
        handler.setFormatter(JsonLines())
