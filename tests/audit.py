"""An ear on the interpreter's audit events: it hears code that runs, sockets, processes, and writes outside a folder.

A hook cannot be taken off again, so it is put on in a child process, by `listen`, and deaf until `armed`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile", "pty.spawn",
    "subprocess.Popen", "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.Request",
    "ftplib.connect", "http.client.connect", "smtplib.connect", "webbrowser.open", "shutil.unpack_archive",
    "ctypes.dlopen", "ctypes.dlsym", "code.__new__", "builtins.input", "cpython.run_command", "cpython.run_file",
)  # fmt: skip
"""Events that reading data never needs."""
WRITES = {
    "os.mkdir": (0,), "os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,), "os.symlink": (1,), "os.link": (1,),
    "os.truncate": (0,), "os.chmod": (0,), "os.chown": (0,), "os.utime": (0,), "os.setxattr": (0,),
    "shutil.rmtree": (0,), "shutil.move": (0, 1), "shutil.copyfile": (1,), "tempfile.mkstemp": (0,),
    "tempfile.mkdtemp": (0,),
}  # fmt: skip
"""Events that change what a path leads to, with the places of the paths among their arguments."""
WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Ear:
    """What was heard while it was armed."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._allowed: tuple[Path, ...] | None = None

    @contextmanager
    def armed(self, *allowed: Path) -> Iterator[list[str]]:
        """Hears what a block does; writing is allowed inside these folders (and to /dev/null) alone."""
        self.heard.clear()
        self._allowed = (*(folder.resolve() for folder in allowed), Path(os.devnull))
        try:
            yield self.heard
        finally:
            self._allowed = None

    def __call__(self, event: str, arguments: Sequence[Any]) -> None:
        """The hook."""
        allowed, self._allowed = self._allowed, None  # deaf to its own work
        if allowed is None:
            return
        try:
            if event in FORBIDDEN or (event in ("exec", "compile") and _is_new_code(arguments)):
                self.heard.append(f"{event} {arguments!r:.200}")
            for path in _written(event, arguments):
                if not _lies_in(path, allowed):
                    self.heard.append(f"{event} {path}")
        finally:
            self._allowed = allowed


def listen() -> Ear:
    """Puts the hook on this process, for good."""
    ear = Ear()
    sys.addaudithook(ear)
    return ear


def _is_new_code(arguments: Sequence[Any]) -> bool:
    """Whether code is compiled or run that is no module of an installed library: a text, or a file from elsewhere."""
    if _is_parsed_for_a_traceback():
        return False
    name = getattr(arguments[0], "co_filename", None) or (arguments[1] if arguments[1:] else None)
    if name is None:
        return True
    text = os.fspath(name) if isinstance(name, str | os.PathLike) else repr(name)
    return not text.startswith(("<frozen", *_LIBRARIES))


def _is_parsed_for_a_traceback() -> bool:
    """Whether Python parses, and does not run, a line of source to underline a part of it in a traceback.

    MONAI formats one for each reader that is not installed.
    """
    frame: FrameType | None = sys._getframe(2)
    names = []
    while frame is not None and len(names) < 3:
        names.append((Path(frame.f_code.co_filename).name, frame.f_code.co_name))
        frame = frame.f_back
    return ("traceback.py", "_extract_caret_anchors_from_line_segment") in names


_LIBRARIES = tuple({sys.prefix, sys.base_prefix, str(Path(__file__).parent.parent / "monaiseg")})


def _written(event: str, arguments: Sequence[Any]) -> Iterator[Any]:
    if event == "open":
        path, mode, flags = arguments
        writes = any(letter in "wxa+" for letter in mode or "")
        if isinstance(path, str | bytes) and (writes or (flags or 0) & WRITING_FLAGS):
            yield path
    elif event in WRITES:
        yield from (arguments[place] for place in WRITES[event] if arguments[place] is not None)


def _lies_in(path: Any, folders: Sequence[Path]) -> bool:
    if isinstance(path, int):  # a file that is open already: its opening was heard
        return True
    where = Path(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100  a link itself is what is changed
    where = where.parent.resolve() / where.name
    return any(where == folder or folder in where.parents for folder in folders)
