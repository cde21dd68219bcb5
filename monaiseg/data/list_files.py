"""Lists: the text files that list a split's cases, in EasyReg's format.

A *list file* has one line per case, with the paths of its images and its label map. The case names are in a second file
beside it, or are derived from the image names.
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
    """Cases of a list file in EasyReg's format, where each line has the paths of the image(s) and the label map.

    Paths are separated by white space, commas, | or +. A path that contains one of these is put in double quotes, as in
    JSON. The last of several paths is the label map; `None` means that there is none. Relative paths start at the
    current folder or, if no file is found there, at the list's folder. Case names are in `file_name_list.txt` beside a
    `file_path_list.txt`, or are derived from the first image's name.

    Args:
        path: list file.
        root: folder that all paths must be inside.

    Raises:
        DataError: lines cannot be read, or files are missing, not regular files, or outside of `root`; the message
            names all of them.
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
                raise DataError("starts with None; the path of the image must come first")
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
    """Write `file_path_list.txt` in EasyReg's format, and `file_name_list.txt` beside it."""
    lines, names = "", ""
    for case in cases:
        paths = [*map(str, case.images), str(case.label)]  # None if there is no label map
        lines += "     ".join(map(_quoted, paths)) + "\n"
        names += case.id + "\n"
    write_atomic(path, lines.encode())
    write_atomic(Path(path).with_name(NAMES_FILE), names.encode())


def _quoted(path: str) -> str:
    """A path as written in a list, in quotes if needed.

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
        raise DataError("a quotation mark has no partner; put the whole path in quotation marks")
    try:
        return [json.loads(t) if t.startswith('"') else t for t in re.findall(word, line)]
    except ValueError as error:
        raise DataError(f"{error}; between quotation marks, write \\\\ for \\") from error


def _located(token: str, folder: Path, root: str | Path | None) -> Path:
    """Absolute path of a listed file; raises DataError unless it is an existing regular file."""
    if re.match(r"(?i)[a-z][a-z0-9.-]+://|\\\\", token):
        raise DataError(
            f"{token!r} is not a path on this computer; download the file and list its path"
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
        raise DataError(f"{path} is outside {root}; list files inside it")
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
            f"{names_file}: has {len(names)} names for {len(images)} lines of {path.name}; give one name for each line"
        )
    return names
