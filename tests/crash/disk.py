"""A disk that fails at a chosen call, and one that loses what was not synced: stand-ins for `os` in `monaiseg.files`.

Everything that must survive is written through that module, call by call; so its calls can be counted, failed and kept.
"""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monaiseg import files

CALLS = ("open", "write", "fsync", "replace", "unlink")
Place = tuple[str, str]
"""Folder and name."""
Change = Callable[[dict[Place, "Inode"]], None]
"""Makes, moves or removes a name."""


class WatchedOs:
    """The module `os`, whose calls that touch the disk are told beforehand."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*args: Any, **named: Any) -> Any:
            self._tell(name)
            return real(*args, **named)

        return call


def watch(tell: Callable[[str], object]) -> None:
    """From now on and for good, `monaiseg.files` tells of its calls: only for children."""
    files.os = WatchedOs(tell)  # type: ignore[assignment]


def at_call(number: int, act: Callable[[], object]) -> Callable[[], None]:
    """For a child: `act` comes in place of the so-manieth call, counted from 1, if it raises or kills."""
    count = itertools.count(1)

    def tell(_: str) -> None:
        if next(count) == number:
            act()

    return lambda: watch(tell)


# ---------------------------------------------------------------- power cuts


@dataclass(frozen=True)
class Call:
    """One change of the disk. `place` is what it concerns: of a sync of a folder, the folder with no name."""

    kind: str
    place: Place
    target: Place | None = None
    content: bytes = b""


class Recorder(WatchedOs):
    """The module `os`, writing down each call that changes the disk: a line a call, in the file `kept`."""

    def __init__(self, kept: Path) -> None:
        super().__init__(lambda _: None)
        self._kept = kept.open("w", encoding="ascii", buffering=1)
        self._places: dict[int, Place] = {}

    def _keep(
        self, kind: str, place: Place, target: Place | None = None, content: bytes = b""
    ) -> None:
        self._kept.write(json.dumps([kind, place, target, content.hex()]) + "\n")

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        descriptor = os.open(path, flags, mode)
        self._places[descriptor] = (str(path), "") if Path(path).is_dir() else _place(path)
        if flags & os.O_CREAT:
            self._keep("create", _place(path))
        return descriptor

    def write(self, descriptor: int, data: Any) -> int:
        count = os.write(descriptor, data)
        self._keep("write", self._places[descriptor], content=bytes(data[:count]))
        return count

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)
        self._keep("fsync", self._places[descriptor])

    def replace(self, old: Any, new: Any) -> None:
        os.replace(old, new)  # noqa: PTH105
        self._keep("replace", _place(old), _place(new))

    def unlink(self, path: Any) -> None:
        os.unlink(path)  # noqa: PTH108
        self._keep("unlink", _place(path))


def recorded(kept: Path) -> Iterator[Call]:
    """The calls that a `Recorder` has written down."""
    for line in kept.read_text(encoding="ascii").splitlines():
        kind, place, target, content = json.loads(line)
        yield Call(kind, tuple(place), target and tuple(target), bytes.fromhex(content))


def _place(path: Any) -> Place:
    return str(Path(path).parent), Path(path).name


@dataclass
class Inode:
    """Content of a file: what is on the disk for sure, and what has been written since."""

    synced: bytes = b""
    written: bytes = b""

    def after_a_cut(self) -> list[bytes]:
        """What may be found: as synced, as written, or cut off in what was written since."""
        if self.written == self.synced:
            return [self.synced]
        start, end = len(self.synced), len(self.written)
        cuts = {start + (end - start) * part // 40 for part in range(1, 40)} | {end - 1, end}
        return [self.synced, *(self.written[:cut] for cut in sorted(cuts))]


class Disk:
    """Folders as the operating system shows them and as the disk has them."""

    def __init__(self) -> None:
        self.durable: dict[Place, Inode] = {}
        self.shown: dict[Place, Inode] = {}
        self.pending: list[tuple[str, Change]] = []
        """Folder and change of its names since its last sync; each may have come to the disk, or not."""

    def apply(self, call: Call) -> None:
        """One call more."""
        if call.kind == "write":
            self.shown[call.place].written += call.content
        elif call.kind == "fsync" and call.place in self.shown:
            inode = self.shown[call.place]
            inode.synced = inode.written
        elif call.kind == "fsync":
            for folder, change in self.pending:
                if folder == call.place[0]:
                    change(self.durable)
            self.pending = [entry for entry in self.pending if entry[0] != call.place[0]]
        else:
            change = self._change(call)
            change(self.shown)
            self.pending.append((call.place[0], change))

    def _change(self, call: Call) -> Change:
        inode = Inode() if call.kind == "create" else self.shown[call.place]

        def change(names: dict[Place, Inode]) -> None:
            names.pop(call.place, None)
            if call.kind != "unlink":
                names[call.target or call.place] = inode

        return change

    def after_a_cut(self, draw: random.Random, most: int) -> Iterator[dict[Place, bytes]]:
        """States that a power cut may leave: all of them, or `most` drawn ones where there are more."""
        keeps = list(itertools.product((True, False), repeat=len(self.pending)))
        for kept in keeps if len(keeps) <= most else draw.sample(keeps, most):
            names = dict(self.durable)
            for (_, change), is_kept in zip(self.pending, kept, strict=True):
                if is_kept:
                    change(names)
            places = list(names)
            contents = itertools.product(*(names[place].after_a_cut() for place in places))
            for chosen in itertools.islice(contents, most):
                yield dict(zip(places, chosen, strict=True))
