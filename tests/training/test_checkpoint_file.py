"""The checkpoint's files: every flipped bit is seen, each known attack on the format is refused, and no code runs."""

from __future__ import annotations

import random
import warnings

import pytest
import torch

from checkpoint_files import (
    made,
    saying,
    state_of,
    the_only_value,
)
from children import in_child
from monaiseg.errors import CheckpointError, MonaisegWarning
from monaiseg.training import checkpoint_file
from monaiseg.training.checkpoint import commit, load_checkpoint, newest
from monaiseg.training.checkpoint_file import (
    decode,
    decode_record,
    encode,
    encode_record,
    separate,
)

SMALL = {"a": torch.arange(4.0), "b": {"c": torch.tensor(True), "d": [0.5, "x", None]}}
RECORD = {"schema_version": 1, "size": 8, "sha256": "0f", "step": 3, "best": {"value": 0.75}}


def small() -> bytes:
    return encode(*separate(SMALL))


def flipped(payload: bytes, bit: int) -> bytes:
    broken = bytearray(payload)
    broken[bit // 8] ^= 1 << bit % 8
    return bytes(broken)


# ---------------------------------------------------------------- flipped bits


def test_whichever_bit_of_a_file_flips_it_is_seen():
    good = small()
    assert decode(good, "good")["b"] == SMALL["b"]

    for bit in range(8 * len(good)):
        with pytest.raises(CheckpointError, match="the file: "):
            decode(flipped(good, bit), "the file")


def test_whichever_bit_of_a_record_flips_it_is_seen():
    good = encode_record(RECORD)
    assert decode_record(good, "good") == RECORD

    for bit in range(8 * len(good)):
        with pytest.raises(CheckpointError, match=r"the record: is damaged, or not the record"):
            decode_record(flipped(good, bit), "the record")


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_two_hundred_flipped_bits_of_the_newest_generation_are_all_seen(tmp_path, suffix):
    commit(tmp_path, made(10))
    path = commit(tmp_path, made(20)).with_suffix(suffix)
    good, draw = path.read_bytes(), random.Random(0)

    for _ in range(200):
        path.write_bytes(flipped(good, draw.randrange(8 * len(good))))
        with pytest.warns(MonaisegWarning, match=r"damaged(.|\n)*the older .*step-000000010"):
            assert the_only_value(newest(tmp_path)) == 10


def test_three_hundred_flipped_bits_of_a_file_without_its_record_are_all_seen(tmp_path):
    path, draw = tmp_path / "model.safetensors", random.Random(1)
    good = commit(tmp_path, made(20)).read_bytes()

    for _ in range(300):
        path.write_bytes(flipped(good, draw.randrange(8 * len(good))))
        with pytest.raises(CheckpointError, match=rf"{path}: "):
            load_checkpoint(path)


def test_a_file_cut_anywhere_is_refused():
    good = small()

    for length in range(len(good)):
        with pytest.raises(CheckpointError, match="damaged or not a monaiseg checkpoint"):
            decode(good[:length], "the file")


def test_random_harm_raises_nothing_but_our_own(tmp_path):
    draw = random.Random(3)
    good = saying(state_of(made(optimizer=None)))

    for _ in range(300):
        broken = bytearray(good)
        for _ in range(draw.randrange(1, 6)):
            start = draw.choice([draw.randrange(len(good)), draw.randrange(2500)])
            broken[start : start + draw.randrange(9)] = draw.randbytes(draw.randrange(9))
        with pytest.raises(CheckpointError):
            decode(bytes(broken), tmp_path)


# ---------------------------------------------------------------- what is not written


def sparse() -> torch.Tensor:
    return torch.eye(3).to_sparse()


def compressed_rows() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.eye(3).to_sparse_csr()


def quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    "plant",
    [
        lambda: torch.zeros(4, dtype=torch.complex64),
        lambda: torch.zeros(4, device="meta"),
        sparse,
        compressed_rows,
        quantized,
        lambda: {1: 0, "b": 0},
        lambda: {(1, 2): 3},
        lambda: {True: 3},
        lambda: {"$tensor": "a"},
        lambda: {"$numbered": {}},
    ],
)
def test_what_could_not_be_read_back_is_not_written(plant):
    with pytest.raises(TypeError, match=r"optimizer\.planted "):
        separate({"optimizer": {"planted": plant()}})


def test_two_tensors_with_one_name_are_not_written():
    with pytest.raises(TypeError, match=r"a\.b names two tensors; rename one"):
        separate({"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}})


def test_views_parameters_and_expanded_tensors_are_written_whole():
    state = {
        "view": torch.zeros(100)[:10],
        "turned": torch.arange(12.0).reshape(3, 4).t(),
        "expanded": torch.ones(1).expand(3, 4),
        "learned": torch.nn.Parameter(torch.ones(2)),
    }

    back = decode(encode(*separate(state)), "a")

    assert all(torch.equal(back[name], value) for name, value in state.items())
    assert {type(value) for value in back.values()} == {torch.Tensor}
    assert not back["learned"].requires_grad


def test_equal_content_has_equal_bytes_whatever_it_was_made_of():
    one = {"a": torch.arange(6.0).reshape(2, 3), "b": (1, 2), "c": {0: "x"}}
    two = {
        "a": torch.arange(6.0).reshape(3, 2).reshape(2, 3).clone(),
        "b": [1, 2],
        "c": {0: "".join(["x"])},
    }

    assert encode(*separate(one)) == encode(*separate(two))


def test_a_header_that_nobody_can_have_written_is_not_written_either(monkeypatch):
    monkeypatch.setattr(checkpoint_file, "MAX_HEADER_BYTES", 100)

    with pytest.raises(CheckpointError, match="to be written: .*at most 100 are read"):
        small()


# ---------------------------------------------------------------- memory


def test_reading_takes_the_files_size_in_tensors_and_no_more(tmp_path):
    megabytes = 128
    payload = encode(*separate({str(i): torch.ones(1 << 18) for i in range(megabytes)}))
    (tmp_path / "a").write_bytes(payload)
    del payload

    def read() -> int:
        return len(decode((tmp_path / "a").read_bytes(), "a"))

    child = in_child(read)

    assert child.result == megabytes
    assert child.peak_bytes < 2.5 * megabytes * 2**20  # the file and its tensors
