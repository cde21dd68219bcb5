"""Fuzzers of NIfTI files: headers, gzip streams, label tables in header extensions."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import logging
import zlib
from pathlib import Path
from random import Random
from typing import Any

import nibabel as nib
import numpy as np

from fuzz import Fuzzer
from fuzz.mutators import mutated, mutated_text
from monaiseg.data.labels import LabelTable
from monaiseg.data.volumes import read_header, read_label_map, read_label_table, read_volume
from monaiseg.errors import MonaisegError

CAP_BYTES = 32 << 20
"""Volumes of the fuzzers may take this much memory."""
SHAPE = (3, 4, 5)
AFFINE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, 0.2, 0.3) @ np.diag([1, 1.5, 2.0]), [-10, 20, 30]
)
_INTEGERS = (
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    9,
    16,
    32,
    64,
    255,
    256,
    348,
    352,
    512,
    540,
    1024,
    1280,
    -1,
    -5,
)
_FLOATS = (
    0,
    -0.0,
    1,
    -1,
    0.5,
    2,
    100,
    101,
    348,
    351,
    352,
    353,
    368,
    544,
    1e30,
    3e38,
    1e-40,
    np.nan,
    np.inf,
    -np.inf,
)
logging.getLogger("nibabel").setLevel(logging.CRITICAL)


def volume(
    dtype: str, shape: tuple[int, ...] = SHAPE, *, version: int = 1, order: str = "<"
) -> bytes:
    """A sound NIfTI file's bytes; each value tells its place."""
    kind: Any = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    voxels = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    header = kind(voxels, None, dtype=dtype).header.as_byteswapped(order)
    image = kind(voxels, None, header, dtype=dtype)
    image.header.set_sform(AFFINE, 2)
    image.header.set_qform(AFFINE, 1)
    image.header.set_xyzt_units("mm", "sec")
    raw: bytes = image.to_bytes()
    return raw


@functools.cache
def volumes() -> tuple[tuple[bytes, np.dtype[Any]], ...]:
    """Sound files of many kinds, with the layout of their headers."""
    kinds = [
        (version, order, dtype, shape)
        for version in (1, 2)
        for order in "<>"
        for dtype in ("u1", "i2", "f4", "f8")
        for shape in (SHAPE, (*SHAPE, 2))
    ]
    layouts = {1: nib.nifti1.header_dtype, 2: nib.nifti2.header_dtype}
    return tuple(
        (volume(dtype, shape, version=version, order=order), layouts[version].newbyteorder(order))
        for version, order, dtype, shape in kinds
    )


# ---------------------------------------------------------------- headers


def draw_header(rng: Random) -> bytes:
    """A file with some header fields at values that no library writes."""
    sound, layout = rng.choice(volumes())
    raw = bytearray(sound)
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.7:
            _set_field(np.frombuffer(raw, layout, 1)[0], layout, rng)
        else:
            raw[rng.randrange(layout.itemsize)] = rng.randrange(256)
    return mutated(bytes(raw), rng, 2) if rng.random() < 0.1 else bytes(raw)


def _set_field(header: Any, layout: np.dtype[Any], rng: Random) -> None:
    name = rng.choice(layout.names)
    field = header[name]
    if field.dtype.kind not in "iuf":
        header[name] = rng.randbytes(field.dtype.itemsize)
        return
    number = rng.choice(_FLOATS if field.dtype.kind == "f" else _limits(field.dtype))
    if field.shape:
        field[rng.randrange(len(field))] = number
    else:
        header[name] = number


def _limits(dtype: np.dtype[Any]) -> tuple[int, ...]:
    limits = np.iinfo(dtype)
    few = tuple(n for n in _INTEGERS if limits.min <= n <= limits.max)
    return (*few, int(limits.min), int(limits.max))


def feed_header(raw: bytes, folder: Path) -> None:
    """Reads the file by every door; nibabel's reader must find the same voxels on the same grid."""
    path = folder / "scan.nii"
    path.write_bytes(raw)
    for door in (read_label_map, read_label_table):
        _refusing(door, path)
    header = read_header(path, CAP_BYTES)
    voxels, header_again = read_volume(path, cap_bytes=CAP_BYTES)
    assert header.grid == header_again.grid
    assert header.path == path
    assert voxels.shape[:3] == header.grid.shape
    assert np.isfinite(voxels).all()
    assert np.isfinite(header.grid.array).all()
    _compare_with_nibabel(raw, voxels, header.grid.array)


def _refusing(door: Any, path: Path) -> None:
    """A door that may refuse what another accepts."""
    try:
        door(path)
    except MonaisegError as error:
        said = str(error)
    else:
        return
    assert said.startswith(str(path))


def _compare_with_nibabel(raw: bytes, voxels: Any, affine: Any) -> None:
    kind: Any = nib.Nifti2Image if raw[4:7] in (b"n+2", b"ni2") else nib.Nifti1Image
    try:
        image = kind.from_bytes(raw)
        theirs = np.asanyarray(image.dataobj)
    except Exception:  # noqa: BLE001  what it cannot read it cannot contradict
        return
    assert theirs.size == voxels.size, (theirs.shape, voxels.shape)
    assert np.allclose(voxels, theirs.reshape(voxels.shape, order="F"), rtol=1e-5, atol=1e-30)
    if min(int(image.header[f"{form}_code"]) for form in ("sform", "qform")) >= 0:
        assert np.allclose(affine, image.affine, rtol=1e-4, atol=1e-4), (affine, image.affine)


# ---------------------------------------------------------------- gzip


@functools.cache
def packed_volumes() -> tuple[bytes, ...]:
    """One volume as gzip at several levels, as stored blocks, in members, and with a name in its header."""
    raw = volume("i2", (6, 7, 8))
    named = io.BytesIO()
    with gzip.GzipFile("scan.nii", "wb", 6, named, mtime=7) as file:
        file.write(raw)
    members = b"".join(gzip.compress(raw[at : at + 200], mtime=0) for at in range(0, len(raw), 200))
    levels = (gzip.compress(raw, level, mtime=0) for level in (0, 1, 6, 9))
    return (*levels, named.getvalue(), members)


def draw_gzip(rng: Random) -> bytes:
    """A gzip file with flipped bits, lost or doubled parts, a wrong trailer, other flags, or too much inside."""
    raw = rng.choice(packed_volumes())
    kind = rng.randrange(12)
    if kind == 0:
        return _with_flags(raw, rng)
    if kind == 1:
        return raw + rng.choice(
            (bytes(9), rng.randbytes(20), rng.choice(packed_volumes()), b"\x1f\x8b")
        )
    if kind == 2:
        return _inflated(rng.choice((1, 8, 70)) if rng.random() < 0.05 else 0)
    if kind == 3:
        return gzip.compress(mutated(gzip.decompress(raw), rng), 1, mtime=0)
    return mutated(raw, rng, rng.choice((1, 1, 4)))


@functools.cache
def _inflated(mebibytes: int) -> bytes:
    """A file that goes on after its voxels."""
    engine = zlib.compressobj(1, wbits=31)
    pieces = [engine.compress(volume("u1") + bytes(5000))]
    pieces += [engine.compress(bytes(1 << 20)) for _ in range(mebibytes)]
    return b"".join([*pieces, engine.flush()])


def _with_flags(raw: bytes, rng: Random) -> bytes:
    """The gzip header with optional parts: extra field, name, comment, CRC of the header."""
    flags = rng.randrange(256)
    extra = rng.randbytes(rng.randrange(20))
    added = b""
    if flags & 4:
        added += rng.choice((len(extra), rng.randrange(65536))).to_bytes(2, "little") + extra
    if flags & 8:
        added += rng.randbytes(5).replace(b"\0", b"n") + b"\0"
    if flags & 16:
        added += b"comment\0" * rng.randrange(3)
    head = raw[:3] + bytes([flags]) + raw[4:10] + added
    if flags & 2:
        head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    return head + raw[10:]


def feed_gzip(raw: bytes, folder: Path) -> None:
    """Accepted voxels are the packed ones, or what Python's own gzip module makes of the whole file."""
    path = folder / "scan.nii.gz"
    path.write_bytes(raw)
    voxels, header = read_volume(path, cap_bytes=CAP_BYTES)
    sound = np.arange(6 * 7 * 8).reshape(6, 7, 8)
    if voxels.shape == sound.shape and np.array_equal(voxels, sound):
        return
    unpacked = b""
    with gzip.open(io.BytesIO(raw)) as file, contextlib.suppress(gzip.BadGzipFile):  # what follows
        while piece := file.read1(1 << 16):
            unpacked += piece
    _compare_with_nibabel(unpacked, voxels, header.grid.array)


# ---------------------------------------------------------------- label tables in extensions

_TABLE = """<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0"><LabelTable>
<Label Key="0" Red="0" Green="0" Blue="0" Alpha="0">background</Label>
<Label Key="21" Red="1" Green="0.5" Blue="0.25" Alpha="1" Partner="22">left insula</Label>
<Label Key="22" Red="0.5" Green="1" Blue="0.25" Alpha="1" Partner="21"><![CDATA[right insula]]></Label>
</LabelTable></VolumeInformation></CaretExtension>"""
_XML_WORDS = (
    "<", ">", "&", "&amp;", "&#0;", "&#x110000;", "<!DOCTYPE l [<!ENTITY a 'aaaa'>]>", "<!ENTITY", "<!--", "-->",
    "<![CDATA[", "]]>", 'Key="21"', 'Key="1e3"', 'Partner="0"', 'Red="nan"', 'Red="1e400"', "<Label/>", "</Label>",
    "<a>" * 3000, 'encoding="utf-16"', "<?xml?>",
)  # fmt: skip


def with_table(content: bytes) -> bytes:
    """A label map whose header extension holds this."""
    image = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("caret", content))
    raw: bytes = image.to_bytes()
    return raw


def draw_extension(rng: Random) -> bytes:
    """A label map with a mutated table, now and then of a wrong length."""
    content = mutated_text(_TABLE, rng, _XML_WORDS)
    raw = bytearray(with_table(content))
    if rng.random() < 0.1:
        size = rng.choice((0, 8, 15, 16, 17, len(content), 2**31 - 1, -1, -(2**31)))
        raw[352:356] = size.to_bytes(4, "little", signed=True)
    return bytes(raw)


def feed_extension(raw: bytes, folder: Path) -> None:
    """A table that is found is one: it survives its journey through records."""
    path = folder / "labels.nii"
    path.write_bytes(raw)
    table = read_label_table(path)
    if table is not None:
        assert LabelTable.from_records(table.to_records()) == table
        assert all(0 <= level <= 255 for label in table.labels for level in label.color)


FUZZERS = (
    Fuzzer("nifti_headers", lambda: volume("i2"), draw_header, feed_header),
    Fuzzer("gzip_bodies", lambda: packed_volumes()[0], draw_gzip, feed_gzip),
    Fuzzer("label_extensions", lambda: with_table(_TABLE.encode()), draw_extension, feed_extension),
)
