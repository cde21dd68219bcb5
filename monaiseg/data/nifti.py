"""NIfTI files, checked field by field before a voxel is read.

nibabel accepts files that should be refused: it never reads a gzip stream to its end, so it never compares the
checksum, and it allocates whatever a header asks for. Here the declared size is checked against the file and a cap
before anything is allocated. A *note* is an oddity that is accepted and reported to the user.
"""

from __future__ import annotations

import math
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monaiseg.data.geometry import forms_of, header_grid
from monaiseg.data.grid import Grid
from monaiseg.errors import DataError, counted, reached_limit
from monaiseg.files import sha256_of
from monaiseg.machine import memory_limit

SUFFIXES = (".nii.gz", ".nii")


_CHUNK = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_DEFLATE_RATIO = 1100
"""Deflate compresses by a factor of at most 1032; a header that declares more than that cannot be right."""
_MAX_OFFSET = _MAX_TRAILING = 64 << 20
_ALWAYS_BYTES = 16 << 20
"""Volumes up to this size are read on every computer."""
_HEADERS = {1: nib.nifti1.header_dtype, 2: nib.nifti2.header_dtype}
_HEADER_BYTES = {1: 348, 2: 540}
_FIRST_DATA_BYTE = {1: 352, 2: 544}
_DTYPES = {
    2: np.uint8, 256: np.int8, 4: np.int16, 512: np.uint16, 8: np.int32, 768: np.uint32,
    1024: np.int64, 1280: np.uint64, 16: np.float32, 64: np.float64,
}  # fmt: skip
_OTHER_DTYPES = {
    1: "1-bit", 32: "complex", 1792: "complex", 2048: "complex", 128: "RGB colour", 2304: "RGBA colour",
    1536: "128-bit float",
}  # fmt: skip
_OTHER_FORMATS = {
    ".hdr": "a header/image pair", ".img": "a header/image pair", ".mgz": "FreeSurfer's format",
    ".mgh": "FreeSurfer's format", ".nrrd": "NRRD", ".nhdr": "NRRD", ".mha": "MetaImage", ".mhd": "MetaImage",
    ".dcm": "DICOM", ".ima": "DICOM", ".mnc": "MINC", ".bz2": "compressed with bzip2",
    ".xz": "compressed with xz", ".zst": "compressed with zstd", ".zip": "a zip archive",
}  # fmt: skip


@dataclass(frozen=True)
class VolumeHeader:
    """Properties of a volume file that are known before its voxels are read."""

    path: Path
    grid: Grid
    dtype: np.dtype[Any]
    """Data type of the numbers in the file, before scaling."""
    num_channels: int
    compressed: bool
    notes: tuple[str, ...] = ()


def is_volume_name(name: str) -> bool:
    """Whether a file name is that of a NIfTI volume."""
    return name.lower().endswith(SUFFIXES)


def volume_stem(path: str | Path) -> str:
    """File name without .nii or .nii.gz.

    >>> volume_stem("scans/S01.T1.nii.gz")
    'S01.T1'
    """
    name = Path(path).name
    return next((name[: -len(s)] for s in SUFFIXES if name.lower().endswith(s)), name)


def other_format(name: str) -> str | None:
    """The unsupported image format that a file name indicates, in words; None if it indicates none.

    >>> other_format("scan.mgz")
    "FreeSurfer's format"
    """
    return _OTHER_FORMATS.get(Path(name).suffix.lower())


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file in hexadecimal digits; raises DataError if it cannot be opened."""
    with opened(Path(path)) as file:
        return sha256_of(file)


def default_cap_bytes() -> int:
    """Most bytes that one volume may take in memory: half of the memory of the computer or its container."""
    return memory_limit() // 2


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn errors inside the block into DataErrors whose messages start with the path."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except zlib.error as error:
        raise DataError(
            f"{path}: its compressed data are damaged ({error}); copy the file again"
        ) from error
    except MemoryError as error:
        raise DataError(
            f"{path}: needs more memory than is available; close other programs, crop or resample it"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        advice = reached_limit(error) or "check the path and its permissions"
        raise DataError(f"{path}: cannot be read ({reason}); {advice}") from error


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file; anything else is refused, since a FIFO would block and a device would never end."""
    with naming(path):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            what = "is a link that leads nowhere" if path.is_symlink() else "is not there"
            raise DataError(f"{what}; check the path") from None
        if stat.S_ISDIR(mode):
            raise DataError(
                "is a folder; name a NIfTI file (convert a DICOM series to NIfTI first)"
            )
        if not stat.S_ISREG(mode):
            raise DataError("is not a regular file (a pipe, socket or device); name a NIfTI file")
        with path.open("rb") as file:
            yield file


def header_forms(path: str | Path) -> dict[str, Grid]:
    """The grids that the sform and the qform of a file describe, also where they contradict each other.

    Raises:
        DataError: the file cannot be opened, or is not NIfTI.
    """
    compressed = Path(path).name.lower().endswith(".gz")
    with opened(Path(path)) as file:
        block = _first_bytes(file, _Stream(file, compressed), compressed)
        _, fields, _ = _parse(block)
        return forms_of(fields, _axes(fields)[0][:3])


class NiftiSource:
    """One volume file, read from start to end: the header immediately, the voxels on request."""

    def __init__(
        self,
        file: IO[bytes],
        path: Path,
        cap_bytes: int | None,
        orientation: str | None = None,
    ) -> None:
        if (other := other_format(path.name)) is not None:
            raise DataError(f"is {other}; convert it to NIfTI (.nii or .nii.gz)")
        if not is_volume_name(path.name):
            raise DataError(
                "does not have the name of a NIfTI file; volumes end in .nii or .nii.gz"
            )
        self._size = os.fstat(file.fileno()).st_size
        compressed = path.name.lower().endswith(".gz")
        self._stream = _Stream(file, compressed)
        self._block = _first_bytes(file, self._stream, compressed)
        self.version, self.fields, notes = _parse(self._block)
        self._shape, axis_notes = _axes(self.fields)
        dtype, dtype_notes = _dtype(self.fields)
        self._offset = _offset(self.fields, self.version)
        self.scaling = _scaling(self.fields)
        grid, grid_notes = header_grid(self.fields, self._shape[:3], orientation)
        self.header = VolumeHeader(
            path,
            grid,
            dtype,
            self._shape[3] if len(self._shape) == 4 else 1,
            compressed,
            (*notes, *axis_notes, *dtype_notes, *grid_notes),
        )
        self._declared = self._offset + math.prod(self._shape) * dtype.itemsize
        self._check_size(cap_bytes)

    def _check_size(self, cap_bytes: int | None) -> None:
        need = max(self._declared, math.prod(self._shape) * 4)
        if not self.header.compressed and self._size < self._declared:
            raise DataError(
                f"ends after {self._size} of {self._declared} bytes; copy the file again"
            )
        if self.header.compressed and self._declared > _DEFLATE_RATIO * self._size + _CHUNK:
            raise DataError(
                f"declares {self._declared} bytes, which its {self._size} compressed bytes cannot "
                "hold; copy the file again"
            )
        if cap_bytes is None and need <= _ALWAYS_BYTES:
            return  # asking the system for its memory takes longer than reading the file
        cap_bytes = default_cap_bytes() if cap_bytes is None else cap_bytes
        if need > cap_bytes:
            raise DataError(
                f"takes {need / 2**30:.1f} GiB in memory and may take {cap_bytes / 2**30:.1f}; "
                "crop or resample it, or use a machine with more memory"
            )

    def voxels(self) -> tuple[NDArray[Any], VolumeHeader]:
        """Numbers as stored, in native byte order and the file's axis order, and the header with further notes."""
        buffer = bytearray(self._declared)
        start = min(len(self._block), self._declared)
        buffer[:start] = self._block[:start]
        filled = start + self._stream.fill(memoryview(buffer)[start:])
        if filled < self._declared:
            raise DataError(f"ends after {filled} of {self._declared} bytes; copy the file again")
        trailing = len(self._block) - start + self._stream.drain()
        notes = (f"{counted(trailing, 'byte')} after the voxels ignored",) if trailing else ()
        flat = np.frombuffer(buffer, self.header.dtype, offset=self._offset)
        native = flat.astype(flat.dtype.newbyteorder("="), copy=False)
        return native.reshape(self._shape, order="F"), replace(
            self.header, notes=self.header.notes + notes
        )

    def extensions(self) -> Iterator[bytes]:
        """Contents of the header extensions, with any code."""
        start = _HEADER_BYTES[self.version]
        block = bytearray(self._offset)
        block[: len(self._block)] = self._block[: self._offset]
        self._stream.fill(memoryview(block)[len(self._block) :])
        int32 = np.dtype(np.int32).newbyteorder(self.fields["dim"].dtype.byteorder)
        at = start + 4
        while block[start] and at + 8 <= len(block):
            size = int(np.frombuffer(block, int32, 1, at)[0])
            if size < 16 or at + size > len(block):
                return
            yield bytes(block[at + 8 : at + size]).rstrip(b"\0")
            at += size


class _Stream:
    """The bytes of a file, decompressed if it is gzip; the checksum of every gzip member is verified."""

    def __init__(self, file: IO[bytes], compressed: bool) -> None:
        self._pieces = self._unpacked(file) if compressed else iter(lambda: file.read(_CHUNK), b"")
        self._rest = b""
        self._junk = 0

    def fill(self, view: memoryview) -> int:
        """Read into `view` until it is full or the file ends; returns the number of bytes read."""
        done = 0
        while done < len(view):
            self._rest = self._rest or next(self._pieces, b"")
            if not self._rest:
                break
            count = min(len(self._rest), len(view) - done)
            view[done : done + count] = self._rest[:count]
            self._rest = self._rest[count:]
            done += count
        return done

    def drain(self) -> int:
        """Read to the end of the file; returns the number of remaining bytes."""
        count = len(self._rest)
        for piece in self._pieces:
            count += len(piece)
            if count > _MAX_TRAILING:
                raise DataError(
                    f"continues for more than {_MAX_TRAILING >> 20} MiB after the voxels that its header "
                    "declares; write the file again"
                )
        return count + self._junk

    def _unpacked(self, file: IO[bytes]) -> Iterator[bytes]:
        engine, packed = zlib.decompressobj(wbits=31), b""
        while True:
            packed = packed or file.read(_CHUNK)
            piece = engine.decompress(packed, _CHUNK)
            if piece:
                yield piece
            if engine.eof:
                following = engine.unused_data + file.read(_CHUNK)
                if not following.startswith(_GZIP_MAGIC):
                    self._junk = len(following)
                    return
                engine, packed = zlib.decompressobj(wbits=31), following
            elif not packed and not piece:
                raise DataError("its compressed data end too early; copy the file again")
            else:
                packed = engine.unconsumed_tail


def _first_bytes(file: IO[bytes], stream: _Stream, compressed: bool) -> bytes:
    """The header's bytes, after checking that the file is compressed or not as its name says."""
    raw = file.read(_FIRST_DATA_BYTE[2])
    file.seek(0)
    if not raw:
        raise DataError("is empty (0 bytes); copy the file again")
    if compressed and not raw.startswith(_GZIP_MAGIC):
        if _version(raw):
            raise DataError("is not compressed; rename it to end in .nii")
        what = "text, perhaps a web page or a pointer to a file" if _is_text(raw) else "not gzip"
        raise DataError(f"is {what}; put a NIfTI file in its place")
    if not compressed and raw.startswith(_GZIP_MAGIC):
        raise DataError("is compressed; rename it to end in .nii.gz")
    block = bytearray(_FIRST_DATA_BYTE[2])
    return bytes(block[: stream.fill(memoryview(block))])


def _is_text(raw: bytes) -> bool:
    return not re.search(rb"[\x00-\x08\x0e-\x1f]", raw)


def _version(block: bytes) -> int | None:
    """NIfTI version, 1 or 2, from the header's magic; None if it has none."""
    if block[344:347] in (b"n+1", b"ni1"):
        return 1
    return 2 if block[4:7] in (b"n+2", b"ni2") else None


def _parse(block: bytes) -> tuple[int, np.void, list[str]]:
    """Version, fields in the file's byte order, and notes."""
    version = _version(block)
    if version is None:
        if block and _is_text(block):
            raise DataError("is text; put a NIfTI file in its place")
        if len(block) < _HEADER_BYTES[1]:
            raise DataError(
                f"has {len(block)} bytes, but a NIfTI header has 348; copy the file again"
            )
        raise DataError("has no NIfTI magic (is it Analyze 7.5?); convert it to NIfTI")
    if len(block) < _HEADER_BYTES[version]:
        raise DataError(f"has {len(block)} bytes, but its header has 540; copy the file again")
    layouts = (_HEADERS[version].newbyteorder("<"), _HEADERS[version].newbyteorder(">"))
    both: list[np.void] = [np.frombuffer(block, layout, count=1)[0] for layout in layouts]
    fields = min(both, key=lambda candidate: abs(int(candidate["dim"][0])))
    if not 1 <= fields["dim"][0] <= 7:  # in the wrong byte order it is 256 or more
        raise DataError(
            f"has {fields['dim'][0]} axes (dim[0]); a volume has 3 or 4; convert it again"
        )
    notes = []
    if fields["sizeof_hdr"] != _HEADER_BYTES[version]:
        notes.append(
            f"sizeof_hdr is {fields['sizeof_hdr']}, not {_HEADER_BYTES[version]}, and is ignored"
        )
    if bytes(fields["magic"])[:2] == b"ni":
        notes.append("its magic is that of a header/image pair; read as a single file")
    return version, fields, notes


def _axes(fields: np.void) -> tuple[tuple[int, ...], list[str]]:
    """Shape (X, Y, Z) or (X, Y, Z, C)."""
    sizes = tuple(int(n) for n in fields["dim"][1 : 1 + int(fields["dim"][0])])
    if min(sizes) < 1:
        raise DataError(f"has the shape {sizes}; every axis needs at least one voxel")
    shape = sizes
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4):
        advice = "stack the slices into a volume" if len(shape) < 3 else "split it into volumes"
        raise DataError(f"has {len(shape)} axes, {sizes}; {advice}, X, Y, Z and perhaps channels")
    return shape, [f"shape {sizes} is read as {shape}"] if shape != sizes else []


def _dtype(fields: np.void) -> tuple[np.dtype[Any], list[str]]:
    code = int(fields["datatype"])
    if code not in _DTYPES:
        kind = _OTHER_DTYPES.get(code, "unknown")
        raise DataError(
            f"has {kind} numbers (datatype {code}); convert it to integers, float32 or float64"
        )
    dtype = np.dtype(_DTYPES[code]).newbyteorder(fields["dim"].dtype.byteorder)
    bits = int(fields["bitpix"])
    wrong = bits != dtype.itemsize * 8
    return dtype, [f"bitpix is {bits}, not {dtype.itemsize * 8}, and is ignored"] if wrong else []


def _offset(fields: np.void, version: int) -> int:
    """Offset of the voxels in bytes."""
    offset = float(fields["vox_offset"])
    first = _FIRST_DATA_BYTE[version]
    if not first <= offset <= _MAX_OFFSET or offset % 16:  # NaN fails the first test
        raise DataError(
            f"vox_offset is {offset:g}; voxels start at {first} or a later multiple of 16; write the file again"
        )
    return int(offset)


def _scaling(fields: np.void) -> tuple[float, float] | None:
    """Slope and intercept that map stored numbers to values; None if the numbers are the values."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if np.isnan(slope) and np.isnan(intercept):  # unset, as nibabel and fMRIPrep write them
        return None
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise DataError(
            f"scl_slope is {slope} and scl_inter {intercept}; write the file again with finite ones"
        )
    return None if slope == 0 or (slope, intercept) == (1, 0) else (slope, intercept)
