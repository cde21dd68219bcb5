"""Lists: written in EasyReg's form, read back whatever a path holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drawings import write_empty
from monaiseg.data.cases import Case
from monaiseg.data.list_files import read_list_file, write_list_file
from monaiseg.errors import DataError

ODD_NAMES = [
    "plain", "with space", "com,ma", "pi|pe", "pl+us", 'quo"te', "back\\slash", "new\nline", "ümläut",
    "no-break\u00a0space", "line\u2028separator", "None", "tab\tbed", "zero\u200bwidth",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_path_survives_the_lists(tmp_path, name):
    images = (tmp_path / f"{name}.nii", tmp_path / name / "second.nii")
    label = tmp_path / f"{name}_seg.nii"
    write_empty(*images, label)
    written = (Case("a b", images, label), Case("c", images[:1], None), Case("d", images, None))

    write_list_file(tmp_path / "file_path_list.txt", written)

    assert read_list_file(tmp_path / "file_path_list.txt") == written
    assert len((tmp_path / "file_path_list.txt").read_text().splitlines()) == 3


def test_plain_paths_are_written_as_easyreg_writes_them(tmp_path):
    case = Case("S1", (Path("/data/S1.nii.gz"),), Path("/data/S1_seg.nii.gz"))
    write_list_file(tmp_path / "file_path_list.txt", [case])
    assert (tmp_path / "file_path_list.txt").read_text() == (
        "/data/S1.nii.gz     /data/S1_seg.nii.gz\n"
    )
    assert (tmp_path / "file_name_list.txt").read_text() == "S1\n"


@pytest.mark.parametrize("separator", [" ", "\t", ",", "|", "+", "     ", ", "])
def test_all_of_easyregs_separators_are_read(tmp_path, separator):
    image, label = tmp_path / "S.1.nii.gz", tmp_path / "S1_seg.nii.gz"
    write_empty(image, label)
    (tmp_path / "file_path_list.txt").write_text(f"{image}{separator}{label}{separator}\r\n\n")
    assert read_list_file(tmp_path / "file_path_list.txt") == (Case("Sd1", (image,), label),)


def test_relative_paths_start_here_or_at_the_list(tmp_path, monkeypatch):
    write_empty(tmp_path / "lists/a.nii", tmp_path / "here/b.nii")
    (tmp_path / "lists/list.txt").write_text("a.nii\nb.nii None\n")
    monkeypatch.chdir(tmp_path / "here")
    first, second = read_list_file(tmp_path / "lists/list.txt")
    assert (first.images, second.images) == (
        (tmp_path / "lists/a.nii",),
        (tmp_path / "here/b.nii",),
    )


def test_all_that_a_list_cannot_name_is_named_at_once(tmp_path):
    write_empty(tmp_path / "a.nii")
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "list.txt").write_text(
        f"{tmp_path}/a.nii\n{tmp_path}/gone.nii\nhttps://host/x.nii\n\\\\host\\x.nii\n/dev/zero\n"
        f'{tmp_path}/pipe.nii\n{tmp_path}\n"{tmp_path}/a.nii\nNone {tmp_path}/a.nii\n"\\q"\n"a\\u0000b"\n'
        f"{'x' * 5000}\n"
    )
    with pytest.raises(DataError) as caught:
        read_list_file(tmp_path / "list.txt")
    lines = str(caught.value).splitlines()
    assert [int(line.split("line ")[1].split(":")[0]) for line in lines] == list(range(2, 13))
    for line, words in zip(
        lines,
        [
            "cannot be found", "not a path on this computer", "not a path on this computer", "not a regular file",
            "not a regular file", "not a regular file", "quotation mark", "path of the image must come first",
            "between quotation marks", "cannot be found", "cannot be found",
        ],
        strict=True,
    ):  # fmt: skip
        assert words in line


def test_a_declared_root_keeps_the_list_inside(tmp_path):
    write_empty(tmp_path / "in/a.nii", tmp_path / "out/b.nii")
    (tmp_path / "in/link.nii").symlink_to(tmp_path / "out/b.nii")
    listing = tmp_path / "list.txt"
    listing.write_text(f"{tmp_path}/in/a.nii\n")
    assert len(read_list_file(listing, root=tmp_path / "in")) == 1
    for path in ("in/../out/b.nii", "out/b.nii", "in/link.nii"):
        listing.write_text(f"{tmp_path}/{path}\n")
        assert len(read_list_file(listing)) == 1
        with pytest.raises(DataError, match="is outside"):
            read_list_file(listing, root=tmp_path / "in")


def test_names_are_one_for_each_line_and_all_different(tmp_path):
    write_empty(tmp_path / "a.nii", tmp_path / "b.nii")
    listing, names = tmp_path / "file_path_list.txt", tmp_path / "file_name_list.txt"
    listing.write_text(f"{tmp_path}/a.nii\n{tmp_path}/b.nii\n")
    names.write_text("one\n")
    with pytest.raises(DataError, match="1 names for 2 lines"):
        read_list_file(listing)
    names.write_text("one\none\n")
    with pytest.raises(DataError, match="case id 'one' is used 2 times"):
        read_list_file(listing)
    names.write_text("../one\ntwo\n")
    with pytest.raises(DataError, match=r"case id '\.\./one'"):
        read_list_file(listing)
