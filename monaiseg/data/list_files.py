"""Lists: the text files that name a split's cases, as EasyReg writes and reads them.

A *list file* has a line a case: the paths of its images and of its label map. Names stand beside it in a file of their
own, or follow from the images'.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from monaiseg.data.cases import Case, in_channel_order
from monaiseg.data.nifti import volume_stem
from monaiseg.data.pairing import check_ids
from monaiseg.errors import DataError, collecting, listed
from monaiseg.files import read_text, write_atomic

PATHS_FILE, NAMES_FILE = "file_path_list.txt", "file_name_list.txt"


def read_list_file(path: str | Path, root: str | Path | None = None) -> tuple[Case, ...]:
    """Cases of a list file as EasyReg writes it: a line has the paths of image(s) and label map.

    White space, commas, | and + separate paths; a path that holds one of them stands in double quotes, as in JSON.
    The last of several paths is the label map, `None` means that there is none. Relative paths start at the current
    folder or, where nothing is there, at the list's. Names stand in `file_name_list.txt` beside a
    `file_path_list.txt`, or follow from the image's.

    Args:
        path: list file.
        root: folder that no path may lead out of.

    Raises:
        DataError: a line cannot be read, or files are missing, no regular files, or outside of `root`; all are named.
    """
    path = Path(path)
    problems: list[str] = []
    rows: list[tuple[Path, ...]] = []
    labels: list[Path | None] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        with collecting(problems, f"{path}, line {number}: "):
            tokens = _tokens(line)
            files = tuple(_located(t, path.parent, root) for t in tokens if t != "None")
            if tokens and (not files or "None" in tokens[:-1]):
                raise DataError("starts with None; put the image's path first")
            if tokens:
                labelled = len(tokens) > 1 and tokens[-1] != "None"
                rows.append(tuple(in_channel_order(files[:-1] if labelled else files)))
                labels.append(files[-1] if labelled else None)
    if problems:
        raise DataError(listed(problems))
    names = _listed_names(path, [images[0] for images in rows])
    check_ids(names, str(path))
    return tuple(map(Case, names, rows, labels))


def write_list_file(path: str | Path, cases: Iterable[Case]) -> None:
    """Writes `file_path_list.txt` in EasyReg's form, and `file_name_list.txt` beside it."""
    lines, names = "", ""
    for case in cases:
        paths = [*map(str, case.images), str(case.label)]  # a case without label map says None
        lines += "     ".join(map(_quoted, paths)) + "\n"
        names += case.id + "\n"
    write_atomic(path, lines.encode())
    write_atomic(Path(path).with_name(NAMES_FILE), names.encode())


def _quoted(path: str) -> str:
    """A path as it stands in a list.

    >>> _quoted("/data/S01 left, right.nii.gz")
    '"/data/S01 left, right.nii.gz"'
    """
    if not re.search(r'[\s,|+"]', path) and path.isprintable():
        return path
    printable = all(letter.isprintable() for letter in path)
    return json.dumps(path, ensure_ascii=not printable)


def _tokens(line: str) -> list[str]:
    word = r'"(?:[^"\\]|\\.)*"|[^\s,|+"]+'
    if re.sub(word, "", line).strip(" \t\r\f\v,|+\ufeff"):
        raise DataError("a quotation mark stands alone; put the whole path in a pair of them")
    try:
        return [json.loads(t) if t.startswith('"') else t for t in re.findall(word, line)]
    except ValueError as error:
        raise DataError(f"{error}; between quotation marks, \\ is written \\\\") from error


def _located(token: str, folder: Path, root: str | Path | None) -> Path:
    """Absolute path of a listed file, which is there and is a regular file."""
    if re.match(r"(?i)[a-z][a-z0-9.-]+://|\\\\", token):
        raise DataError(
            f"{token!r} is no path of this machine; download the file and list its path"
        )
    for path in (Path(token).absolute(), (folder / token).absolute()):
        try:
            mode = path.stat().st_mode
            break
        except (OSError, ValueError):  # ValueError: a NUL
            continue
    else:
        raise DataError(
            f"{token!r} cannot be found; check it, and put a path with a space, comma, | or + in double quotes"
        )
    if root is not None and Path(root).resolve() not in path.resolve().parents:
        raise DataError(f"{path} lies outside of {root}; list files inside it")
    if not stat.S_ISREG(mode):
        raise DataError(f"{path} is not a regular file; list a NIfTI file")
    return path


def _listed_names(path: Path, images: Sequence[Path]) -> list[str]:
    names_file = path.with_name(NAMES_FILE)
    if path.name != PATHS_FILE or not names_file.exists():
        return [volume_stem(image).replace(".", "d") for image in images]  # as EasyReg derives them
    names = [line.strip() for line in read_text(names_file).splitlines() if line.strip()]
    if len(names) != len(images):
        raise DataError(
            f"{names_file}: has {len(names)} names for {len(images)} lines of {path.name}; give one a line"
        )
    return names
