"""The method itself: all that a PEFT user needs, and nothing of the extras."""

from propulsion.adapter.register import register

register()

from propulsion.adapter.config import PropulsionConfig  # noqa: E402
from propulsion.adapter.tuner import PropulsionModel  # noqa: E402

__all__ = ["PropulsionConfig", "PropulsionModel", "register"]
