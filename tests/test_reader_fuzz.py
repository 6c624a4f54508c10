"""All readers of files on 3,000 damaged and hostile ones: documented errors only, and bounded memory and time.

Damage comes from a seed. A file that fails is named by its kind and number, and can be made again from them.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
import os
import pickle
import random
import resource
import struct
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image

import minires
from minires import nn
from minires.cli.errors import MENDABLE
from minires.data import DataError, TensorDataset
from minires.data.datasets.cifar import CIFAR10
from minires.data.datasets.folder import check_image, load_image
from minires.data.datasets.inert_pickle import RefusedPickle, read_pickle
from minires.data.datasets.mnist import read_idx
from minires.io import FileError, read_tensors, write_tensors
from minires.io.messages import LONGEST_MESSAGE
from minires.training import Checkpoint, CheckpointError, Experiment, RunLog, recipe_for
from minires.training.checkpoint import _digest

SECONDS = 10  # of the processor, for one file: a thousand times of what it commonly takes
SLACK = 6 * 2**20  # bytes that a reader may take besides its multiple of the file's size


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)
    monkeypatch.setattr(CIFAR10, "test_images", 3)


def damaged(rng, content, other):
    """A copy of ``content`` with some bytes changed, missing, doubled, or from another file."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, size = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 8, 100))
        match rng.randrange(8):
            case 0:
                del data[at:]
            case 1:
                data[at : at + size] = rng.randbytes(size)
            case 2:
                data[at:at] = rng.randbytes(size)
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = data[at : at + 200]
            case 5:
                data[at : at + size] = rng.choice((b"\xff", b"\0", b"\x7f", b"\x1b[2J")) * size
            case 6:
                begin = rng.randrange(len(other))
                data[at : at + size] = other[begin : begin + size]
            case 7 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def bounded(read, size, multiple, allowed, named="", slack=SLACK):
    """Call ``read``: only ``allowed`` errors, with a short printable line, and little memory and time."""
    begin = time.process_time()
    tracemalloc.start()
    try:
        read()
    except allowed as error:
        message = str(error)
        assert named in message
        assert message.isprintable()
        assert len(message) <= LONGEST_MESSAGE
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= multiple * size + slack
    assert time.process_time() - begin < SECONDS


def picture(form, mode="RGB", size=(23, 17)):
    rng = np.random.default_rng(0)
    shape = size[::-1] + ((3,) if mode == "RGB" else ())
    image = Image.fromarray(rng.integers(0, 256, shape).astype(np.uint16 if mode == "I;16" else np.uint8))
    out = io.BytesIO()
    image.convert(mode).save(out, form)
    return out.getvalue()


def cifar_pickle(protocol):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
    return pickle.dumps({b"data": pixels, b"labels": [3, 1, 2], b"filenames": ["a.png"] * 3}, protocol=protocol)


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def tensors(path):
    state = {"weight": minires.ones(3, 4), "half": minires.ones(5).to(minires.bfloat16), "count": minires.tensor(3)}
    minires.save(state, path)
    return path.read_bytes()


def checkpoint(path):
    Checkpoint.capture(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), step=7, description={"a": 1}).save(path)
    return path.read_bytes()


def read_cifar(root):
    CIFAR10(root, train=False)


DIGITS = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
READERS = {  # name: file name, whole contents, how it is read, errors, multiple of the size
    "weights": ("x.safetensors", [tensors], minires.load, FileError, 30),
    "checkpoint": ("x.safetensors", [checkpoint], Checkpoint.load, CheckpointError, 30),
    "picture": (
        "x.png",
        [picture("PNG"), picture("PNG", "L"), picture("PNG", "I;16"), picture("JPEG"), picture("PPM"), picture("BMP"),
         picture("TIFF"), picture("TIFF", "I;16"), picture("WEBP")],
        load_image, DataError, 8,
    ),
    "checked picture": ("x.png", [picture("PNG"), picture("JPEG"), picture("WEBP")], check_image, DataError, 8),
    "pickle": (
        "x", [cifar_pickle(protocol) for protocol in (3, 4)], lambda path: read_pickle(path.read_bytes()),
        RefusedPickle, 8,
    ),
    "digits": ("x", [idx(DIGITS)], lambda path: read_idx(path, 3, 60_000 * 784), DataError, 8),
    "compressed digits": ("x.gz", [gzip.compress(idx(DIGITS))], lambda path: read_idx(path, 3, 10_000), DataError, 8),
    "cifar pickle": (
        "cifar-10-batches-py/test_batch", [cifar_pickle(3), cifar_pickle(4)], lambda path: read_cifar(path.parents[1]),
        DataError, 8,
    ),
    "cifar": (
        "cifar-10-batches-bin/test_batch.bin", [(b"\3" + bytes(3072)) * 3], lambda path: read_cifar(path.parents[1]),
        DataError, 8,
    ),
    "log": ("log.csv", [b"epoch,step\n1,4\n2,8\n"], lambda path: RunLog(path).cut(4), (), 8),
    "log of JSON": ("log.jsonl", [b'{"step": 4}\n{"step": 8}\n'], lambda path: RunLog(path).cut(4), (), 8),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")
def test_damaged_files(kind, tmp_path):
    name, contents, read, allowed, multiple = READERS[kind]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    contents = [content(path) if callable(content) else content for content in contents]
    for content in contents:
        path.write_bytes(content)
        read(path)  # whole ones are read
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(200):
        rng = random.Random(f"{kind} {number}")
        data = damaged(rng, rng.choice(contents), rng.choice(contents))
        path.write_bytes(data)
        named = "" if allowed in ((), RefusedPickle) else tmp_path.name
        bounded(lambda: read(path), len(data), multiple, allowed, named)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # decoders count here


# Checkpoints whose checksum is right, whatever they say

HOSTILE = [
    None, True, False, -1, 0, 1, 2**70, 10**400, -0.5, 0.5, 1e300, float("inf"), float("nan"), "", "x", "\x1b[2J",
    "resnet152", "y" * 100_000, [], [[]], [0] * 1000, {}, {"dict": []}, {"tuple": [1]}, {"tensor": "model.fc.weight"},
    {"array": "nothing"}, {"dict": [[{"tuple": []}, {}]]}, {"a": {"b": "c"}}, "0", 300_000, ["z"] * 300_000,
]  # fmt: skip


def nodes(value, path=()):
    """The path of every part of a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from nodes(each, (*path, key))


def changed(rng, content):
    """A copy of a JSON value with a part of it replaced, removed, or exchanged with another one."""
    content = copy.deepcopy(content)
    places = [path for path in nodes(content) if path]
    interesting = [path for path in places if path[0] not in ("optimizer",)]
    path = rng.choice(interesting if rng.random() < 0.7 else places)
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    choice = rng.random()
    if choice < 0.8:
        parent[path[-1]] = rng.choice(HOSTILE)
    elif choice < 0.9:
        del parent[path[-1]]
    else:
        parent[path[-1]] = copy.deepcopy(content[rng.choice(list(content))])
    return content


def changed_arrays(rng, arrays):
    name = rng.choice(list(arrays))
    array = arrays.pop(name)
    match rng.randrange(6):
        case 0:
            arrays[name] = array.astype(rng.choice((np.int64, np.bool_, np.float64, np.uint8, np.uint16)))
        case 1:
            arrays[name] = array.reshape(-1)
        case 2:
            arrays["\x1b[2J" + name] = array
        case 3:
            arrays[name] = array[..., :0] if array.ndim else array[None]
        case 4:
            arrays[name] = np.full_like(array, -1)


def use(path):
    """Everything that `minires train --resume` does with a checkpoint, up to one more update."""
    saved = Checkpoint.load(path)
    experiment = Experiment.from_checkpoint(saved)
    net = experiment.restored_model(saved)
    images = np.zeros((8, experiment.channels, 8, 8), np.float32)
    data = TensorDataset(images, np.arange(8) % len(experiment.classes))
    trainer = experiment.trainer(net, data, data, checkpoint=saved)
    trainer.steps, trainer.test_loader = min(trainer.steps, trainer.step + 1), None
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["quick", "paper"])
def test_checkpoints_that_say_what_none_says(recipe, tmp_path):
    chosen = recipe_for(recipe, "cifar10", "resnet110").changed(batch_size=4, steps=500)
    experiment = Experiment("cifar10", "resnet20", chosen, tuple("abcdefghij"), amp="float16")
    data = TensorDataset(np.zeros((8, 3, 8, 8), np.float32), np.arange(8))
    trainer = experiment.trainer(experiment.build_model(), data, data)
    trainer.steps, trainer.test_loader = 2, None
    trainer.fit()
    whole = tmp_path / "whole.safetensors"
    Checkpoint.capture(
        trainer.model, trainer.optimizer, trainer.scheduler, 2, 0.5, experiment.to_json(), trainer.scaler
    ).save(whole)
    arrays, metadata = read_tensors(whole)
    content = json.loads(metadata["minires"])
    use(whole).fit()
    taken, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(400):
        rng = random.Random(f"{recipe} {number}")
        path = tmp_path / "x.safetensors"
        text, its_arrays = json.dumps(content), dict(arrays)
        if number % 4:
            text = json.dumps(changed(rng, content))
        else:
            changed_arrays(rng, its_arrays)
        write_tensors(path, its_arrays, {"minires": text, "sha256": _digest(text, its_arrays)})

        def read(path=path):
            nonlocal taken
            trainer = use(path)
            taken += 1
            with contextlib.suppress(MENDABLE):  # a learning rate of 1e300, a schedule at its end
                trainer.fit()

        # The weights of a ResNet-152 that the file does not hold are allocated, but never written to.
        bounded(read, path.stat().st_size, 12, CheckpointError, "x.safetensors", slack=250 * 2**20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
    assert 20 < taken < 250  # some changes do no harm, most must be noticed


# The multiple of a file's size, for files made to reach it

MANY = 2 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02" + b"]" * MANY + b".",
        b"\x80\x02" + b"}\x94" * (MANY // 2) + b".",
        b"\x80\x04" + b"\x8c\xff" * 5 + ("\U0001f600" + 251 * "x").encode().join([b"\x8c\xff"] * (MANY // 257)),
        b"\x80\x02" + b"N" * (MANY // 70) + b"T" + struct.pack("<i", MANY) + bytes(MANY),
        b"\x80\x02(" + b"K\x01" * (MANY // 2) + b"t.",
        b"\x80\x02K\x01q\x00" + b"h\x00" * (MANY // 2),
    ],
    ids=["lists", "dicts", "text", "bytes", "tuple", "memo"],
)
def test_the_pickle_reader_takes_at_most_eight_times_the_size_of_the_file(content):
    bounded(lambda: read_pickle(content), len(content), 7, RefusedPickle)  # the content itself is the eighth


@pytest.mark.slow
@pytest.mark.parametrize(
    "header",
    [
        b"[" + b"[]," * (MANY // 3) + b"[]]",
        b'{"":[' + b"{}," * (MANY // 3) + b"{}]}",
        b'{"":[' + b'{"":0},' * (MANY // 7) + b"{}]}",
        b'{"":[' + b"1.5," * (MANY // 4) + b"1]}",
        b"{" + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(MANY // 55)) + b"}",
        b'{"__metadata__":{"":"\\ud83d\\ude00' + b"x" * MANY + b'"}}',
        b"[" * MANY,
    ],
    ids=["lists", "objects", "pairs", "numbers", "tensors", "text", "deep"],
)
def test_a_header_takes_at_most_thirty_times_its_size(tmp_path, header):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    for read in (minires.load, Checkpoint.load):
        bounded(lambda read=read: read(path), len(header), 30, FileError, "x.safetensors")
