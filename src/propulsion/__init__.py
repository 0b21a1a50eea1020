"""Propulsion: steer a frozen network by rescaling the outputs of its layers, as a Hugging Face PEFT method.

Importing this package registers the method with PEFT.
"""

from propulsion.adapter import PropulsionConfig, PropulsionModel

__all__ = ["PropulsionConfig", "PropulsionModel"]
__version__ = "0.1.0"
