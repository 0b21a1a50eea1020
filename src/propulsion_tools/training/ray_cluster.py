"""Becoming part of a Ray cluster: one that is running already, by its address, or one on this machine."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from types import ModuleType

from propulsion_tools.errors import OptionError, require


def _is_of_this_machine(address: str | None) -> bool:
    """Whether a cluster is started here; "local" is Ray's word for it."""
    return address in (None, "", "local")


def import_ray(module: str, extra: str, address: str | None) -> ModuleType:
    """Ray, or a part of it, which not every installation has.

    A cluster that is started here listens on all of this machine's addresses, as Ray does, and whoever is let in may
    run what they like. It lets in who has a token, which this process and those that it starts have. Ray reads the
    token when it is imported; a program that has imported it before decides for itself.

    Args:
        module: Its name.
        extra: What installs it.
        address: Of a running cluster; None or "local": one will be started on this machine.

    Raises:
        MissingExtraError: It is not installed.
    """
    if _is_of_this_machine(address) and "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    return require(module, extra)


def connect(ray: ModuleType, address: str | None, cores: int) -> None:
    """Become part of a cluster.

    Args:
        ray: The package, from `import_ray`.
        address: Of a running cluster; None or "local": one is started on this machine, and ended with this process.
        cores: That a cluster has which is started here.

    Raises:
        OptionError: There is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address:
        _check_reachable(address)
    alone = {"num_cpus": cores, "include_dashboard": False} if _is_of_this_machine(address) else {}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="error", **alone)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise OptionError(f"There is no Ray cluster at {address!r}: {' '.join(str(error).split())}") from error


def _check_reachable(address: str) -> None:
    """Refuse an address where nobody answers, for which Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # "auto", or a name that Ray resolves
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise OptionError(f"There is no Ray cluster at {address!r}: {error.strerror or error}.") from error
