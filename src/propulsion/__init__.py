"""Propulsion: steer a frozen network by rescaling the outputs of its layers, as a Hugging Face PEFT method.

Importing this package registers the method with PEFT.
"""

from propulsion.register import register

register()

from propulsion.bank import AdapterBank  # noqa: E402
from propulsion.config import PropulsionConfig  # noqa: E402
from propulsion.head_start import start_head  # noqa: E402
from propulsion.hotswap import hotswap_adapter  # noqa: E402
from propulsion.inference import fixed_gains  # noqa: E402
from propulsion.tuner import PropulsionModel  # noqa: E402

__all__ = [
    "AdapterBank",
    "PropulsionConfig",
    "PropulsionModel",
    "fixed_gains",
    "hotswap_adapter",
    "start_head",
]
__version__ = "0.1.0"
