"""Which adapters are on the device, which in host memory, which on disk."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from propulsion.bank.adapters import Adapter, Heads, Layout
from propulsion.bank.table import Table
from propulsion.errors import AdapterNameError, BankFullError

_GROWTH = 16  # a full table without a limit grows by a sixteenth


class Entry:
    """One known adapter. It has a row, or values, or a file; what it is changes under the shelf's lock alone."""

    def __init__(self, name: str, adapter: Adapter) -> None:
        self.name = name
        self.layout: Layout = adapter.layout
        self.values: Tensor | None = adapter.values
        self.heads: Heads | None = adapter.heads
        self.labels = adapter.labels
        self.modules: dict[str, nn.Module] = {}  # the heads on the device
        self.row: int | None = None
        self.file: Path | None = None
        self.users = 0
        self.pinned = False
        self.known = True
        self.head_bytes = sum(
            tensor.numel() * tensor.element_size() for state in adapter.heads.values() for tensor in state.values()
        )
        self.bytes = adapter.values.numel() * adapter.values.element_size() + self.head_bytes


class Shelf:
    """Known adapters, of which the most recently used are on the device.

    An adapter in use, or pinned, keeps its row. Batches take all of their rows at once, so that none waits for another
    that waits for it.
    """

    def __init__(
        self,
        device: torch.device,
        capacity: int | None,
        device_budget: int | None,
        host_budget: int | None,
        make_heads: Callable[[Heads], dict[str, nn.Module]],
    ) -> None:
        self.table = Table(device)
        self.entries: dict[str, Entry] = {}
        # The least recently used first: what is on the device, and what is in host memory. No call may take longer
        # because more adapters are known, so none looks at all of them.
        self._on_device: dict[Entry, None] = {}
        self._in_host: dict[Entry, None] = {}
        self._held: set[Entry] = set()  # in use, pinned or both; also those that were removed while in use
        self._capacity, self._device_budget, self._host_budget = capacity, device_budget, host_budget
        self._holders: Counter[int] = Counter()  # how many entries each thread uses
        self._largest_head = 0
        self._host_bytes = 0
        self._make_heads = make_heads
        self._changed = threading.Condition(threading.RLock())
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files = 0

    @property
    def limit(self) -> int | None:
        """How many adapters may be on the device."""
        return self._limit(self.table.width)

    def _limit(self, width: int) -> int | None:
        limits = [] if self._capacity is None else [self._capacity]
        if self._device_budget is not None:
            row = width * self.table.values.element_size() + self._largest_head
            limits.append(self._device_budget // max(1, row) - 1)  # one row is the base model's
        return min(limits) if limits else None

    @property
    def resident(self) -> list[str]:
        """The names of the adapters that are on the device."""
        with self._changed:
            return [entry.name for entry in self._on_device if entry.known]

    def put(self, name: str, adapter: Adapter) -> None:
        """Make an adapter known, in the place of one of the same name; whoever uses that one goes on with it.

        Raises:
            BankFullError: Not one adapter of this size fits into the budget.
        """
        entry = Entry(name, adapter)
        with self._changed:
            self._make_room_for(entry)
            old = self.entries.get(name)
            if old is not None:
                entry.pinned = old.pinned
                self._forget(old)
            self.entries[name] = entry
            if entry.pinned:
                self._held.add(entry)
            self._in_host[entry] = None
            self._host_bytes += entry.bytes
            if self._has_place():
                self._bring(entry)
            elif entry.pinned and any(other not in self._held for other in self._on_device):
                self._evict()
                self._bring(entry)
            self._spill()
            self._changed.notify_all()

    def remove(self, name: str) -> None:
        """Forget an adapter; whoever uses it goes on."""
        with self._changed:
            self._forget(self.entries.pop(self.check(name)))
            self._changed.notify_all()

    def check(self, name: str) -> str:
        """The name, if there is an adapter of this name."""
        if name not in self.entries:
            raise AdapterNameError.unknown(name, self.entries)
        return name

    def pin(self, name: str, pinned: bool) -> None:
        """Keep an adapter on the device whatever happens, or no longer.

        Raises:
            BankFullError: Nothing else would find a place beside what is pinned.
        """
        with self._changed:
            entry = self.entries[self.check(name)]
            others = sum(other.pinned and other.known for other in self._held if other is not entry)
            if pinned and self.limit is not None and others + 1 >= self.limit:
                raise BankFullError(
                    f"{name!r} cannot be pinned beside {others} others, where {self.limit} adapters fit onto the "
                    "device and one place is left to the rest: unpin another, or raise capacity or device_budget."
                )
            with self.in_use([name]):
                entry.pinned = pinned  # and on leaving it is held, or not

    @contextmanager
    def in_use(self, names: Sequence[str]) -> Iterator[list[Entry]]:
        """Have some adapters on the device and keep them there meanwhile.

        Args:
            names: Each adapter once.

        Yields:
            Their entries, with rows.

        Raises:
            AdapterNameError: One is not known.
            BankFullError: They do not fit onto the device together.
        """
        entries = self._take(names)
        try:
            yield entries
        finally:
            with self._changed:
                self._release(entries)
                self._changed.notify_all()

    def _release(self, entries: list[Entry]) -> None:
        for entry in entries:
            entry.users -= 1
            if entry.users:
                continue
            if not entry.known:
                self._give_up_row(entry)
            if not (entry.known and entry.pinned):
                self._held.discard(entry)
        self._holders[get_ident()] -= len(entries)
        if not self._holders[get_ident()]:
            del self._holders[get_ident()]

    def _wait(self) -> None:
        """Until others have changed something; never with a place that they may be waiting for."""
        if self._holders[get_ident()]:
            raise BankFullError(
                "The device has no place left, and this thread holds adapters itself: end its `steering` block first, "
                "or raise capacity or device_budget."
            )
        self._changed.wait()

    def _take(self, names: Sequence[str]) -> list[Entry]:
        with self._changed:
            entries = [self.entries[self.check(name)] for name in names]
            while not self._fit(entries):
                self._wait()
                entries = [self.entries[self.check(name)] for name in names]  # one may have been replaced meanwhile
            for entry in entries:
                entry.users += 1
                self._held.add(entry)
            self._holders[get_ident()] += len(entries)
            try:
                for entry in entries:
                    if entry.row is None:
                        if not self._has_place():
                            self._evict()
                        self._bring(entry)
                    self._on_device[entry] = self._on_device.pop(entry)
            except BaseException:
                self._release(entries)
                raise
            self._spill()
            return entries

    def _fit(self, entries: list[Entry]) -> bool:
        """Whether all of these can be on the device now; an error if they never can."""
        if self.limit is None:
            return True
        wanted = {*entries}
        others = [entry for entry in self._held if entry not in wanted and entry.row is not None]
        pinned = sum(entry.pinned and entry.known for entry in others)
        if len(wanted) + pinned > self.limit:
            raise BankFullError(
                f"The batch has {len(wanted)} adapters, and {max(0, self.limit - pinned)} fit onto the device beside "
                f"{pinned} pinned ones: take fewer at a time, or raise capacity or device_budget."
            )
        return len(wanted) + len(others) <= self.limit

    def _has_place(self) -> bool:
        """Whether there is a free row, after growing the table if it may grow."""
        rows, limit = self.table.rows, self.limit
        if not self.table.free_rows and (limit is None or rows < limit):
            grown = rows + max(1, rows // _GROWTH)
            self.table.resize(grown if limit is None else min(limit, grown))
        return bool(self.table.free_rows)

    def _make_room_for(self, entry: Entry) -> None:
        """Give the table the columns of an adapter that steers what no other did, which may leave fewer rows."""
        largest, width = max(self._largest_head, entry.head_bytes), self.table.width_with(entry.layout)
        before, self._largest_head = self._largest_head, largest
        limit = self._limit(width)
        pinned = sum(other.pinned and other.known for other in self._held)
        if limit is not None and limit < 1 + pinned:
            self._largest_head = before
            raise BankFullError(
                f"{entry.name!r} needs {width * 4 + largest:,} bytes for each row on the device, of which the budget "
                f"of {self._device_budget:,} has too few: raise device_budget."
            )
        while limit is not None and self.table.rows > limit:
            high = [other for other in self._on_device if other.row is not None and other.row > limit]
            idle = [other for other in high if not other.users]
            for other in idle:
                self._evict(other)
            if len(idle) == len(high) and self.table.is_free_above(limit):
                self.table.resize(limit)
            else:
                self._wait()
        self.table.add_columns(entry.layout)

    def _bring(self, entry: Entry) -> None:
        """Onto the device, where there is a free row."""
        values, heads = self._contents(entry)
        modules = self._make_heads(heads)
        entry.row = self.table.write(entry.layout, values)
        entry.modules, entry.values, entry.heads = modules, None, None
        self._on_device[entry] = None
        self._leave_host(entry)
        self._drop_file(entry)

    def _leave_host(self, entry: Entry) -> None:
        if entry in self._in_host:
            del self._in_host[entry]
            self._host_bytes -= entry.bytes

    def _contents(self, entry: Entry) -> tuple[Tensor, Heads]:
        if entry.values is not None and entry.heads is not None:
            return entry.values, entry.heads
        heads: Heads = {}
        tensors = load_file(str(entry.file))
        values = tensors.pop("values")
        for key, tensor in tensors.items():
            name, _, parameter = key.partition("/")
            heads.setdefault(name, {})[parameter] = tensor
        return values, heads

    def _evict(self, entry: Entry | None = None) -> None:
        """The least recently used that is neither in use nor pinned, or this one, to host memory."""
        if entry is None:
            entry = next(entry for entry in self._on_device if entry not in self._held)
        assert entry.row is not None
        entry.values = self.table.read(entry.row, entry.layout)
        entry.heads = {
            name: {key: tensor.cpu() for key, tensor in module.state_dict().items()}
            for name, module in entry.modules.items()
        }
        self._in_host[entry] = None
        self._host_bytes += entry.bytes
        self._give_up_row(entry)

    def _give_up_row(self, entry: Entry) -> None:
        if entry.row is not None:
            self.table.free(entry.row)
            del self._on_device[entry]
            entry.row, entry.modules = None, {}

    def _spill(self) -> None:
        """The least recently used of those in host memory to disk, until the rest is within the budget."""
        if self._host_budget is None:
            return
        while self._host_bytes > self._host_budget:
            self._write(next(iter(self._in_host)))

    def _write(self, entry: Entry) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="propulsion-bank-")
        values, heads = self._contents(entry)
        self._files += 1
        path = Path(self._folder.name, f"{self._files}.safetensors")
        tensors = {f"{name}/{key}": tensor for name, state in heads.items() for key, tensor in state.items()}
        save_file({"values": values, **{key: tensor.contiguous() for key, tensor in tensors.items()}}, path)
        entry.file, entry.values, entry.heads = path, None, None
        self._leave_host(entry)

    def _forget(self, entry: Entry) -> None:
        entry.known = False
        self._leave_host(entry)
        if not entry.users:
            self._give_up_row(entry)
            self._held.discard(entry)
        self._drop_file(entry)

    def _drop_file(self, entry: Entry) -> None:
        if entry.file is not None:
            entry.file.unlink(missing_ok=True)
            entry.file = None

    def close(self) -> None:
        """Forget everything."""
        with self._changed:
            for name in list(self.entries):
                self._forget(self.entries.pop(name))
            if self._folder is not None:
                self._folder.cleanup()
