"""Every way to fine-tune, one builder per name."""

from propulsion_tools.methods.registry import Method, get_method, method_names, register

__all__ = ["Method", "get_method", "method_names", "register"]
