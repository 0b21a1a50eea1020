"""The adapters that are served, by name: found in one folder, loaded, replaced and removed while others run."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool

from propulsion.bank.adapter_bank import check_name
from propulsion.errors import AdapterNameError
from propulsion.mixed_batches import BASE_MODEL
from propulsion_tools.errors import is_one_sentence, near_misses
from propulsion_tools.export.bases import saved_whole
from propulsion_tools.serving.cards import Card, Sketch, make_card
from propulsion_tools.serving.errors import ApiError
from propulsion_tools.serving.fingerprints import TOKENIZER_FILES, fingerprint
from propulsion_tools.serving.logs import LOG
from propulsion_tools.tasks import ModelKind, Setup, get_task
from propulsion_tools.tasks.model_kinds import CAUSAL_LM
from propulsion_tools.training.base_models import load_tokenizer
from propulsion_tools.training.trained_files import ADAPTER_CONFIG, ADAPTER_FILE, refuse_changed

LONGEST_NAME = 128
_WORK = 50_000  # characters times characters that are compared to find near misses: some 20 ms
_TOKENIZER = "tokenizer_config.json"


class Shelf(Protocol):
    """Holds the vectors of adapters by the names of their rows: an `AdapterBank`, or what reaches those of replicas."""

    @property
    def resident(self) -> list[str] | None:
        """The names of those that are on the device; None where replicas decide each for itself."""

    def load(self, path: Path, name: str) -> object:
        """Hold the adapter of a folder, which is refused by whatever error its files deserve."""

    def remove(self, name: str) -> None:
        """Hold it no longer."""

    def num_labels(self, name: str) -> int | None:
        """How many its head has."""


@dataclass
class Adapters:
    """Adapters by name.

    A request holds its adapter from when it is accepted until it is answered: one that is removed or replaced
    meanwhile answers what it was asked.

    Args:
        bank: Holds their vectors.
        root: The folder that they may come from.
        kind: What is served.
        setup: The base model's tokenizer and configuration.
        vocabulary: How many tokens the base model knows; None: whoever holds the vectors asks about it.
        fresh_heads: Modules of the base model that start at random.
        limit: How many there may be.
    """

    bank: Shelf
    root: Path
    kind: ModelKind
    setup: Setup
    vocabulary: int | None = None
    fresh_heads: tuple[str, ...] = ()
    limit: int = 10_000
    _cards: dict[str, Card] = field(default_factory=dict)
    _users: Counter[str] = field(default_factory=Counter)
    _tokenizers: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _loading: threading.Lock = field(default_factory=threading.Lock)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.root = self.root.resolve()
        if self.kind is CAUSAL_LM:
            self._cards[BASE_MODEL] = Card(
                BASE_MODEL, BASE_MODEL, get_task("language-modelling"), self.setup, self.kind
            )

    @property
    def count(self) -> int:
        """How many there are beside the base model."""
        with self._lock:
            return len(self._cards) - (BASE_MODEL in self._cards)

    @property
    def cards(self) -> list[Card]:
        """All of them, in the order in which they came."""
        with self._lock:
            return list(self._cards.values())

    def described(self, cards: Sequence[Card]) -> list[dict[str, Any]]:
        """What clients are told of these."""
        resident = self.bank.resident
        if resident is None:
            return [card.described(None) for card in cards]
        here = {BASE_MODEL, *resident}
        return [card.described(card.row in here) for card in cards]

    def card(self, name: str) -> Card:
        """The one of this name.

        Raises:
            ApiError: 404; names the near misses.
        """
        with self._lock:
            if (card := self._cards.get(name)) is not None:
                return card
            near = [other for other in self._cards if abs(len(other) - len(name)) <= 3]
        near.sort(key=lambda other: other[:1] != name[:1])
        known = near[: _WORK // (len(name) + 1) ** 2 + 8]
        hint = near_misses(name, known) or " GET /v1/models lists what there is."
        raise ApiError(f"There is no adapter {name[:LONGEST_NAME]!r}.{hint}", 404, "adapter_not_found")

    def hold(self, name: str) -> Card:
        """The adapter of this name, which stays as it is until it was released as often as it is held.

        Raises:
            ApiError: 404; names the near misses.
        """
        while True:
            card = self.card(name)
            with self._lock:
                if self._cards.get(name) is card:
                    self._users[card.row] += 1
                    return card

    def hold_more(self, card: Card, times: int) -> None:
        """Hold one that is held some more times."""
        with self._lock:
            self._users[card.row] += times

    def release(self, card: Card) -> None:
        """Hold it once less."""
        with self._lock:
            self._users[card.row] -= 1
            self._drop_if_done(card)

    @contextmanager
    def in_use(self, name: str) -> Iterator[Card]:
        """Hold the adapter of this name meanwhile."""
        card = self.hold(name)
        try:
            yield card
        finally:
            self.release(card)

    async def load_in_turn(self, path: str, name: str | None = None) -> Card:
        """As `load`, in a thread: who waits for a turn holds none of the threads that other requests need."""
        async with self._turn:
            return await run_in_threadpool(self.load, path, name)

    def load(self, path: str, name: str | None = None, sketch: Sketch | None = None) -> Card:
        """Serve an adapter, in the place of one that has its name.

        Args:
            path: Its folder, from `root` on.
            name: What to call it; None: like its folder.
            sketch: What its small files say; None: it is read.

        Raises:
            ApiError: It may not be read (403), is not there (404), or cannot be served (422).
        """
        folder = self._inside(path)
        name = self._checked(folder.name if name is None else name)
        with self._loading:
            with self._lock:
                others = self._cards.keys() - {BASE_MODEL}
                if name not in others and len(others) >= self.limit:
                    raise ApiError(f"There are {self.limit} adapters: remove one first.", 409, "too_many_adapters")
            try:
                card = self._loaded(folder, name, sketch)
            except ApiError:
                raise
            except Exception as error:  # libraries read its files, and raise what they like
                raise _refused(error, folder, path) from error
            with self._lock:
                old = self._cards.pop(name, None)
                self._cards[name] = card
                if old is not None:
                    self._drop_if_done(old)
        return card

    def remove(self, name: str) -> None:
        """Serve an adapter no more.

        Raises:
            ApiError: There is none of this name (404), or it is the base model (403).
        """
        card = self.card(name)
        if card.row == BASE_MODEL:
            raise ApiError("The base model cannot be removed.", 403, "not_removable")
        with self._lock:
            if self._cards.get(name) is card:
                del self._cards[name]
                self._drop_if_done(card)

    def _drop_if_done(self, card: Card) -> None:
        if not self._users[card.row]:
            del self._users[card.row]
            if self._cards.get(card.name) is not card:
                self.bank.remove(card.row)

    def _loaded(self, folder: Path, name: str, sketch: Sketch | None) -> Card:
        refuse_changed(folder)
        sketch = sketch or Sketch.read(folder)
        setup = replace(self.setup, tokenizer=self._tokenizer(folder))
        row = f"{name}@{next(self._numbers)}"
        self.bank.load(folder, row)
        try:
            self._check_head(folder)
            return make_card(name, row, sketch, setup, self.kind, self.bank.num_labels(row))
        except BaseException:
            self.bank.remove(row)
            raise

    def _check_head(self, folder: Path) -> None:
        """Refuse an adapter that would be scored by a head that nobody has trained."""
        own = [] if not self.fresh_heads or not (folder / ADAPTER_FILE).is_file() else list(saved_whole(folder))
        for head in self.fresh_heads:
            if not any(key.startswith(f"{head}.") for key in own):
                raise ApiError(
                    f"The adapter has no {head} of its own, and the base model's is random.", 422, "adapter_refused"
                )

    def _tokenizer(self, folder: Path) -> Any:
        """The one that was saved with an adapter, which is the same object for equal files; or the base model's."""
        if not (folder / _TOKENIZER).is_file():
            return self.setup.tokenizer
        key = fingerprint(folder, TOKENIZER_FILES)
        if key not in self._tokenizers:
            tokenizer = load_tokenizer(str(folder))
            if self.vocabulary is not None and len(tokenizer) > self.vocabulary:
                raise ApiError(
                    f"The adapter's tokenizer has {len(tokenizer)} tokens, and the base model {self.vocabulary}.",
                    422,
                    "adapter_refused",
                )
            self._tokenizers[key] = tokenizer
        return self._tokenizers[key]

    def _inside(self, path: str) -> Path:
        """The folder that a path means, if it and all in it are under the root, links followed."""
        try:
            folder = (self.root / path).resolve()
        except (ValueError, OSError, RuntimeError) as error:  # a null character, too long, a loop of links
            raise ApiError("This cannot be a path.", 422, "bad_path") from error
        if not folder.is_relative_to(self.root):
            raise ApiError("Adapters are read from the server's own folder alone.", 403, "path_not_allowed")
        try:
            there = (folder / ADAPTER_CONFIG).is_file()
            found = os.walk(folder) if there else ()
            places = [Path(at, name) for at, *names in found for name in itertools.chain(*names)]
            outside = [place for place in places if not place.resolve().is_relative_to(self.root)]
        except (ValueError, OSError, RuntimeError) as error:
            raise ApiError("This cannot be a path.", 422, "bad_path") from error
        if not there:
            missing = f"There is no folder with an {ADAPTER_CONFIG} at this path of the folder of --adapters."
            raise ApiError(missing, 404, "path_not_found")
        if outside:
            raise ApiError("A file of this adapter is a link that leaves the server's folder.", 403, "path_not_allowed")
        return folder

    @staticmethod
    def _checked(name: str) -> str:
        try:
            check_name(name)
        except AdapterNameError as error:
            raise ApiError(str(error), 422, "bad_name") from error
        if len(name) > LONGEST_NAME:
            raise ApiError(f"A name has at most {LONGEST_NAME} characters.", 422, "bad_name")
        return name


def _refused(error: Exception, folder: Path, path: str) -> ApiError:
    """What a client is told of an adapter that cannot be loaded; paths of the server are the client's own."""
    if is_one_sentence(error):
        said = str(error).replace(str(folder), path)
    else:
        LOG.error("adapter refused", exc_info=error)
        said = f"its files are damaged ({type(error).__name__}): get it again."
    return ApiError(f"The adapter cannot be served: {said}", 422, "adapter_refused")
