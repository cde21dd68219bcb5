"""Fuzzers: drawn files that monaiseg must read or refuse, and nothing else.

A *fuzzer* draws inputs and feeds them to one door of the library. An *input* is a file's bytes, a pure function of
(fuzzer, seed, number), so three words repeat any of them. A *verdict* is accepted, refused (with a `MonaisegError`),
or a failure: another exception, an answer that an independent reader contradicts, a crash, a hang, too much memory.

Files of past failures lie in `corpus/<fuzzer>/`; `tests/test_fuzz.py` feeds them again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from monaiseg.errors import MonaisegError

CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Fuzzer:
    """One door of the library, and what is pushed through it.

    Args:
        name: of the fuzzer, and of its folder in the corpus.
        sound: an input that must be accepted: it is the first.
        draw: the bytes of an input.
        feed: hands bytes to the library inside a folder of its own. Raises `MonaisegError` where they are refused and
            `AssertionError` where what came through is not what an independent reader finds.
    """

    name: str
    sound: Callable[[], bytes]
    draw: Callable[[random.Random], bytes]
    feed: Callable[[bytes, Path], None]

    def input(self, seed: int, number: int) -> bytes:
        """The bytes of one input; number 0 is the sound one."""
        if number == 0:
            return self.sound()
        return self.draw(random.Random(f"{self.name} {seed} {number}"))

    def accepts(self, raw: bytes, folder: Path) -> bool:
        """Whether the library accepted the input; anything but a refusal that helps is raised."""
        try:
            self.feed(raw, folder)
        except MonaisegError as error:
            said = str(error).strip()
        else:
            return True
        assert said, "the refusal says nothing"
        return False

    def corpus(self) -> list[Path]:
        """Files that once made it fail."""
        return sorted((CORPUS / self.name).glob("*"))
