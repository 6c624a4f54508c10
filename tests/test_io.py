"""Weights on disk: a round trip, other programs, damage, and an interrupted write."""

from __future__ import annotations

import errno
import json
import os
import stat
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import minires
from minires import models
from minires.io import FileError, one_line, printable, shown, write_whole
from minires.io.messages import LONGEST_MESSAGE
from minires.io.tensor_file import write_tensors


def test_a_state_dict_comes_back_bit_for_bit(tmp_path):
    net = models.CifarResNet(8)
    minires.save(net.state_dict(), tmp_path / "net.safetensors")
    state = minires.load(tmp_path / "net.safetensors")
    assert set(state) == set(net.state_dict())
    other = models.CifarResNet(8)
    other.load_state_dict(state)
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name].numpy(), value.numpy())
        assert other.state_dict()[name].dtype == value.dtype


def test_pytorch_reads_and_writes_the_same_files(tmp_path):
    linear = minires.nn.Linear(3, 2)
    minires.save(linear.state_dict(), tmp_path / "ours")
    theirs = torch.nn.Linear(3, 2)
    theirs.load_state_dict(load_file(tmp_path / "ours"))
    np.testing.assert_array_equal(theirs.weight.detach().numpy(), linear.weight.detach().numpy())
    save_file({name: value + 1 for name, value in theirs.state_dict().items()}, tmp_path / "theirs")
    linear.load_state_dict(minires.load(tmp_path / "theirs"))
    np.testing.assert_array_equal(linear.weight.detach().numpy(), theirs.weight.detach().numpy() + 1)


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path):
    for wrong in ([1], {"a": 1}, {1: minires.ones(2)}, {"nested": {"a": minires.ones(2)}}):
        with pytest.raises(TypeError, match="save takes"):
            minires.save(wrong, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_or_a_pickle_is_named(tmp_path):
    path = tmp_path / "net.safetensors"
    minires.save({"a": minires.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-8])
    torch.save({"a": torch.ones(2)}, tmp_path / "net.pth")
    for broken in (path, tmp_path / "net.pth"):
        with pytest.raises(ValueError, match=broken.name):
            minires.load(broken)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full_disk(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


EVERY_DTYPE = {
    "float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2, "float8_e8m0fnu": torch.float8_e8m0fnu,
    "float8_e4m3fnuz": torch.float8_e4m3fnuz, "float8_e5m2fnuz": torch.float8_e5m2fnuz,
    "int64": torch.int64, "int32": torch.int32, "int16": torch.int16, "int8": torch.int8, "uint8": torch.uint8,
    "uint16": torch.uint16, "uint32": torch.uint32, "uint64": torch.uint64, "bool": torch.bool,
}  # fmt: skip


def numpy_dtype(name):
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name, None) or name)


@pytest.mark.parametrize("name", EVERY_DTYPE)
def test_every_dtype_comes_back_and_is_pytorchs(tmp_path, name):
    array = np.arange(1, 13).astype(numpy_dtype(name)).reshape(2, 6)
    state = {"whole": array, "part": array[:, ::2], "scalar": array[0, 1].reshape(()), "empty": array[:0]}
    minires.save({key: minires.Tensor(value) for key, value in state.items()}, tmp_path / "ours")
    ours, theirs = minires.load(tmp_path / "ours"), load_file(tmp_path / "ours")
    assert ours.keys() == theirs.keys() == state.keys()
    save_file({key: value.clone() for key, value in theirs.items()}, tmp_path / "theirs")
    again = minires.load(tmp_path / "theirs")
    for key, value in state.items():
        assert theirs[key].dtype == EVERY_DTYPE[name]
        assert tuple(theirs[key].shape) == value.shape
        for found in (ours[key], again[key]):
            assert (found.dtype, found.shape) == (value.dtype, value.shape)
            assert found.numpy().tobytes() == value.tobytes()
            assert found.numpy().flags.writeable


@pytest.mark.parametrize("name", ["float8_e4m3", "float8_e3m4", "int4", "longdouble", "complex128", "datetime64[s]"])
def test_a_dtype_that_the_format_lacks_is_refused_before_anything_is_written(tmp_path, name):
    wrong = np.zeros(3, numpy_dtype(name))
    with pytest.raises(TypeError, match=r"'b' is of .*, which safetensors does not hold"):
        write_tensors(tmp_path / "file", {"a": np.ones(3), "b": wrong})
    assert list(tmp_path.iterdir()) == []


def test_big_endian_numbers_are_saved_as_numbers(tmp_path):
    write_tensors(tmp_path / "file", {"a": np.arange(3, dtype=">f4")})
    np.testing.assert_array_equal(load_file(tmp_path / "file")["a"].numpy(), [0, 1, 2])


@pytest.mark.parametrize(("name", "words"), [("__metadata__", "keeps that name"), ("\udcff", "no Unicode text")])
def test_a_name_that_could_not_be_loaded_is_not_saved(tmp_path, name, words):
    with pytest.raises(ValueError, match=words):
        minires.save({name: minires.ones(2)}, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def file_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "content",
    [
        file_of([]),
        file_of({"a": entry()}, bytes(7)),
        file_of({"a": entry()}, bytes(9)),
        file_of({"a": entry(shape=(3,))}, bytes(8)),
        file_of({"a": entry(offsets=(1, 9))}, bytes(9)),
        file_of({"a": entry(), "b": entry()}, bytes(8)),
        file_of({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
        file_of({"a": entry(dtype="F4")}, bytes(8)),
        file_of({"a": entry(dtype=["F32"])}, bytes(8)),
        file_of({"a": entry(shape=(-2,))}, bytes(8)),
        file_of({"a": entry(shape=(True, 2))}, bytes(8)),
        file_of({"a": entry(shape=(1,) * 100 + (2,))}, bytes(8)),
        file_of({"a": entry(shape=(2.0,))}, bytes(8)),
        file_of({"a": entry(shape=(2**40, 2**40), offsets=(0, 2**82))}, bytes(8)),
        file_of({"a": {**entry(), "more": 1}}, bytes(8)),
        file_of({"a": 3}),
        file_of({"__metadata__": {"a": 3}}),
        file_of({"__metadata__": "text"}),
        file_of(b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}", bytes(8)),
        file_of(b"[" * 10**6),
        file_of(b'{"a":' + b"1" * 10_000 + b"}"),
        file_of(b"\xff\xfe"),
        struct.pack("<Q", 2**63),
        b"",
        b"1234567",
    ],
    ids=range(25),
)
def test_a_header_that_does_not_describe_its_file_is_refused(tmp_path, content):
    (tmp_path / "net.safetensors").write_bytes(content)
    with pytest.raises(FileError, match=r"net\.safetensors: no safetensors file, or a damaged"):
        minires.load(tmp_path / "net.safetensors")


def test_a_file_without_tensors_and_one_of_others_metadata(tmp_path):
    (tmp_path / "file").write_bytes(file_of({}))
    assert minires.load(tmp_path / "file") == {}
    (tmp_path / "file").write_bytes(
        file_of({"__metadata__": {"format": "pt"}, "a": entry()}, np.ones(2, "<f4").tobytes())
    )
    assert minires.load(tmp_path / "file")["a"].tolist() == [1, 1]


def test_a_sparse_file_is_refused_by_its_header(tmp_path):
    with (tmp_path / "net.safetensors").open("wb") as file:
        file.write(file_of({"a": entry()}))
        file.truncate(2**40)
    with pytest.raises(FileError, match=r"1,099,511,627,.* bytes where its header promises 8"):
        minires.load(tmp_path / "net.safetensors")


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "socket", "link to a fifo"])
def test_only_plain_files_are_opened_and_replaced(tmp_path, kind):
    import socket

    path = tmp_path / "special"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = "/dev/zero"
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(os.path.relpath(path))  # a short name: the system allows no long ones
    else:
        os.mkfifo(tmp_path / "fifo")
        path.symlink_to("fifo")
        path = path if kind.startswith("link") else tmp_path / "fifo"
    before = os.stat(path).st_mode
    for use in (lambda: minires.load(path), lambda: minires.save({"a": minires.ones(1)}, path)):
        with pytest.raises(OSError, match=r"plain file was expected|Is a directory"):
            use()
    assert os.stat(path).st_mode == before
    assert not stat.S_ISREG(before)


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "behind").mkdir()
    link = tmp_path / "link"
    link.symlink_to("behind/file")
    for content in (b"first", b"second"):
        write_whole(link, content)
        assert (tmp_path / "behind" / "file").read_bytes() == content
    assert link.is_symlink()
    assert os.listdir(tmp_path / "behind") == ["file"]


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full_disk(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"No space left on device: '.*net"):
        minires.save({"a": minires.ones(3)}, tmp_path / "net")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain \u00e4\u65e5\u672c", "plain \u00e4\u65e5\u672c"),
        ("one\n  two\r\n\n three ", "one two three"),
        ("red \x1b[31mred\x07\x00", "red \\x1b[31mred\\x07\\x00"),
        ("c1 \x9b31m, tab\tand \u202eright to left", "c1 \\x9b31m, tab\\tand \\u202eright to left"),
        ("not UTF-8: \udcff", "not UTF-8: \\udcff"),
        ("a\u00a0b\u3000c", "a\u00a0b\u3000c"),
    ],
)
def test_messages_are_printable_lines(text, line):
    assert one_line(text) == str(FileError(text)) == line


def test_long_messages_lose_their_middle():
    for text in ("begin" + "x" * 10**7 + "end", "begin" + "\x1b" * 10**5 + "end"):
        line = one_line(text)
        assert len(line) <= LONGEST_MESSAGE
        assert line.startswith("begin")
        assert line.endswith("end")
        assert " ... " in line
    assert len(shown("x" * 10**7)) < 100
    assert len(shown({"a": ["x" * 10**6] * 1000})) < 400
    assert printable("\x1b" * 3) == "\\x1b" * 3


def test_a_missing_folder_is_named_once(tmp_path):
    path = tmp_path / "missing" / "x.safetensors"
    with pytest.raises(FileNotFoundError) as error:
        minires.save({"x": minires.ones(1)}, path)
    assert str(error.value).endswith(f"'{path}'")
