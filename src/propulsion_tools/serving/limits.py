"""How much one request may ask for, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass, fields

from propulsion_tools.records.options import ServeOptions


@dataclass(frozen=True)
class Limits:
    """The limits of an engine and its application; each field is the option of `propulsion serve` of its name."""

    max_batch_size: int = ServeOptions.max_batch_size
    max_wait_ms: float = ServeOptions.max_wait_ms
    max_queue: int = ServeOptions.max_queue
    max_body_bytes: int = ServeOptions.max_body_bytes
    max_inputs: int = ServeOptions.max_inputs
    max_input_tokens: int = ServeOptions.max_input_tokens
    max_new_tokens: int = ServeOptions.max_new_tokens
    request_timeout: float = ServeOptions.request_timeout
    body_timeout: float = ServeOptions.body_timeout
    capacity: int | None = ServeOptions.capacity

    @classmethod
    def of(cls, options: ServeOptions) -> Limits:
        """Those of a command."""
        return cls(**{item.name: getattr(options, item.name) for item in fields(cls)})
