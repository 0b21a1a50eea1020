"""What Ray Serve is told of the replicas: what we set, and over it what a file says in Ray's own words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from propulsion_tools.errors import OptionError
from propulsion_tools.records.options import ServeOptions
from propulsion_tools.records.yaml_files import read_yaml


def deployment_settings(options: ServeOptions) -> dict[str, Any]:
    """Arguments of `ray.serve.deployment`, those of `--ray_settings` over ours.

    Raises:
        OptionError: The file cannot be read.
    """
    own = {} if options.ray_settings is None else _read(Path(options.ray_settings))
    if scales_to_zero(own) and not own["autoscaling_config"].get("initial_replicas"):
        own["autoscaling_config"]["initial_replicas"] = 1  # the server asks them about its adapters when it starts
    count = {} if {"autoscaling_config", "num_replicas"} & own.keys() else {"num_replicas": options.replicas}
    return {
        **count,
        # One batch that runs and one that waits: beyond, other replicas load the adapter too.
        "max_ongoing_requests": 2 * options.max_batch_size,
        "max_queued_requests": options.max_queue,
        "graceful_shutdown_timeout_s": options.request_timeout + 1,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": 2,
        "max_constructor_retry_count": 2,
        **own,
    }


def cores_needed(settings: dict[str, Any]) -> int:
    """Cores that all replicas take together, at most."""
    scaling = settings.get("autoscaling_config")
    count = scaling.get("max_replicas", 1) if isinstance(scaling, dict) else settings.get("num_replicas")
    each = (settings.get("ray_actor_options") or {}).get("num_cpus", 1)
    return max(1, round((count if isinstance(count, int) else 1) * each))


def scales_to_zero(settings: dict[str, Any]) -> bool:
    """Whether there may be no replica while nobody asks."""
    scaling = settings.get("autoscaling_config")
    return isinstance(scaling, dict) and scaling.get("min_replicas") == 0


def _read(file: Path) -> dict[str, Any]:
    try:
        values = read_yaml(file)
    except OSError as error:
        raise OptionError(f"{file} cannot be read: {error.strerror or error}.") from error
    if not isinstance(values, dict):
        raise OptionError(f"{file} must hold Ray Serve's settings of a deployment, as `name: value` lines.")
    return values
