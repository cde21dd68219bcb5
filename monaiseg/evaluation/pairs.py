"""Pairs: predictions and references from two folders or lists, matched by name."""

from __future__ import annotations

from pathlib import Path

from monaiseg.data import check_ids, is_volume_name, read_list_file, volume_stem
from monaiseg.errors import DataError
from monaiseg.files import is_folder


def pair_label_maps(predictions: Path, references: Path) -> dict[str, tuple[Path, Path]]:
    """Case id -> prediction and reference; names of predictions may end in `_pred`, as `predict` writes them.

    Args:
        predictions: a folder of label maps, or a text file that lists one label map a line.
        references: likewise.

    Raises:
        DataError: one of them has no label map, two label maps have the same name, or one has no counterpart; each is
            named.
    """
    predicted = _by_name(predictions, "_pred")
    referenced = _by_name(references, "")
    lonely = [
        f"{source}: no {what} in {other} for {', '.join(sorted(names))}"
        for source, what, other, names in (
            (predictions, "reference", references, predicted.keys() - referenced.keys()),
            (references, "prediction", predictions, referenced.keys() - predicted.keys()),
        )
        if names
    ]
    if lonely:
        paired = len(referenced.keys() & predicted.keys())
        advice = f"{paired} cases pair; give the others the same name, or list the files to score"
        raise DataError("\n".join([*lonely, advice]))
    return {name: (predicted[name], referenced[name]) for name in predicted}


def _by_name(source: Path, ending: str) -> dict[str, Path]:
    """The label maps of a folder or a list by name, without the ending."""
    files = _in_folder(source) if is_folder(source) else _in_list(source)
    names = [volume_stem(path).removesuffix(ending) for path in files]
    check_ids(names, str(source))
    return dict(zip(names, files, strict=True))


def _in_folder(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if is_volume_name(path.name))
    if not files:
        raise DataError(
            f"{folder}: has no .nii or .nii.gz files; give the folder of the label maps"
        )
    return files


def _in_list(path: Path) -> list[Path]:
    cases = read_list_file(path)
    if not cases:
        raise DataError(f"{path}: lists no label map; list one per line")
    several = [case.id for case in cases if len(case.files) > 1]
    if several:
        raise DataError(f"{path}: lists several files for {', '.join(several)}; list one per line")
    return [case.images[0] for case in cases]
