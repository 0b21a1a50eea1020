"""Thousands of adapters on one frozen model, each row of a batch with its own.

`adapters` reads an adapter as ready gains and heads; `table` holds the gains of those that are on the device, `shelf`
decides which, and keeps the others; `steering` lets the model's layers use them; `adapter_bank` is what a user calls.
"""

from propulsion.bank.adapter_bank import AdapterBank

__all__ = ["AdapterBank"]
