"""The official formats, from files written by hand here, whole and damaged; and the registry over them."""

import gzip
import hashlib
import io
import os
import pickle
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from minires.data import (
    CIFAR10,
    CIFAR100,
    MNIST,
    DataError,
    DataLoader,
    FashionMNIST,
    ImageFolder,
    available,
    checksums,
    dataset_info,
    describe,
    open_dataset,
    transforms,
)
from minires.data.datasets.folder import check_image, check_images, load_image
from minires.data.datasets.inert_pickle import RefusedPickle, read_pickle
from minires.device import generator

REAL = os.environ.get("MINIRES_DATA")
needs_real_data = pytest.mark.skipif(
    not REAL, reason="set MINIRES_DATA to a folder that holds cifar-10-batches-bin and fashion-mnist"
)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def refusal(call):
    """The message of the DataError that ``call`` raises, which must be one line."""
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


# CIFAR: files of 10 images instead of 10,000


@pytest.fixture(autouse=True)
def small_cifar(monkeypatch):
    for dataset, train in ((CIFAR10, 50), (CIFAR100, 10)):
        monkeypatch.setattr(dataset, "train_images", train)
        monkeypatch.setattr(dataset, "test_images", 10)


def cifar_image(seed):
    """Rows x columns x channels."""
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def planes(image):
    """Red plane, green plane, blue plane, each row by row, as the format has it."""
    return b"".join(bytes([image[y, x, c] for y in range(32) for x in range(32)]) for c in range(3))


def binary_record(labels, seed):
    return bytes(labels) + planes(cifar_image(seed))


def python2_pickle(labels_key, labels, pixels):
    """A dict as Python 2 and the NumPy of 2009 pickled it, opcode by opcode."""
    out = b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03"
    out += b"U" + bytes([len(labels_key)]) + labels_key.encode() + b"q\x04]q\x05("
    out += b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    out += b"U\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09"
    out += b"(K\x01M" + struct.pack("<H", len(labels)) + b"M\x00\x0c\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b"
    out += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", len(pixels)) + pixels
    return out + b"tbU\tfilenamesq\x0c]q\x0dU\x05a.pngq\x0eau."


def python3_pickle(labels_key, labels, pixels):
    array = np.frombuffer(pixels, np.uint8).reshape(len(labels), 3072)
    return pickle.dumps({b"data": array, labels_key.encode(): labels}, protocol=4)


def fill_binary(folder, names, labels):
    for number, name in enumerate(names):
        write(folder / name, b"".join(binary_record(label, 10 * number + i) for i, label in enumerate(labels)))


def fill_python(folder, names, key, labels, make=python2_pickle):
    for number, name in enumerate(names):
        pixels = b"".join(planes(cifar_image(10 * number + i)) for i in range(10))
        write(folder / name, make(key, labels, pixels))


C10_LABELS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 0]
C100_LABELS = [99, 0, 41, 7, 7, 12, 63, 80, 5, 1]
BATCHES = [f"data_batch_{number}" for number in range(1, 6)]


@pytest.fixture
def cifar10_bin(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    fill_binary(folder, [f"{name}.bin" for name in BATCHES], [[label] for label in C10_LABELS])
    fill_binary(folder, ["test_batch.bin"], [[label] for label in C10_LABELS[::-1]])
    return folder


@pytest.fixture
def cifar10_py(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    fill_python(folder, BATCHES, "labels", C10_LABELS)
    fill_python(folder, ["test_batch"], "labels", C10_LABELS[::-1])
    return folder


def assert_is_cifar(train, test, labels, test_labels):
    assert train.targets.tolist() == labels
    assert test.targets.tolist() == test_labels
    assert train.images.dtype == np.uint8
    assert train.targets.dtype == np.int64
    for index in (0, 7, len(train) - 1):
        np.testing.assert_array_equal(train.images[index], cifar_image(index))
    image, label = train[7]
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), cifar_image(7))
    assert label == labels[7]


@pytest.mark.parametrize("inside", [False, True], ids=["root above", "root inside"])
@pytest.mark.parametrize("kind", ["cifar10_bin", "cifar10_py"])
def test_cifar10(kind, inside, request):
    folder = request.getfixturevalue(kind)
    root = folder if inside else folder.parent
    assert_is_cifar(CIFAR10(root), CIFAR10(str(root), train=False), C10_LABELS * 5, C10_LABELS[::-1])
    assert CIFAR10(root).classes[3] == "cat"


@pytest.mark.parametrize("kind", ["binary", "python"])
def test_cifar100_gives_fine_labels(tmp_path, kind):
    if kind == "binary":
        fill_binary(tmp_path / "cifar-100-binary", ["train.bin", "test.bin"], [[19, fine] for fine in C100_LABELS])
    else:
        fill_python(tmp_path / "cifar-100-python", ["train", "test"], "fine_labels", C100_LABELS)
    assert_is_cifar(CIFAR100(tmp_path), CIFAR100(tmp_path, train=False), C100_LABELS, C100_LABELS)
    assert len(set(CIFAR100.class_names)) == 100
    assert list(CIFAR100.class_names) == sorted(CIFAR100.class_names)


def test_cifar_pickled_again_by_python_3(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    fill_python(folder, [*BATCHES, "test_batch"], "labels", C10_LABELS, python3_pickle)
    assert_is_cifar(CIFAR10(tmp_path), CIFAR10(tmp_path, train=False), C10_LABELS * 5, C10_LABELS)


def test_pickle_with_a_fortran_array_is_read_in_its_order():
    array = np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    np.testing.assert_array_equal(read_pickle(pickle.dumps({"a": array}, protocol=4))["a"], array)


def test_cifar_missing(tmp_path):
    message = refusal(lambda: CIFAR10(tmp_path / "nowhere"))
    assert "nowhere: holds no CIFAR-10: fetch cifar-10-binary.tar.gz from https://" in message


def test_cifar_not_unpacked(tmp_path):
    write(tmp_path / "cifar-10-python.tar.gz", b"")
    assert "unpack it first, with tar -xzf cifar-10-python.tar.gz" in refusal(lambda: CIFAR10(tmp_path))


@pytest.mark.parametrize("dataset", [CIFAR10, CIFAR100, MNIST, FashionMNIST])
def test_download_says_that_nothing_is_downloaded(dataset, tmp_path):
    assert "minires downloads nothing" in refusal(lambda: dataset(tmp_path, download=True))


def test_download_uses_what_is_there(cifar10_bin):
    assert len(CIFAR10(cifar10_bin.parent, download=True)) == 50


def test_cifar_one_file_missing(cifar10_bin):
    (cifar10_bin / "data_batch_3.bin").unlink()
    assert "data_batch_3.bin: no such file" in refusal(lambda: CIFAR10(cifar10_bin.parent))


@pytest.mark.parametrize(("size", "verdict"), [(5 * 3073, "truncated"), (7, "truncated"), (11 * 3073, "too long")])
def test_cifar_binary_of_the_wrong_size(cifar10_bin, size, verdict):
    path = cifar10_bin / "data_batch_2.bin"
    path.write_bytes((path.read_bytes() * 2)[:size])
    assert f"data_batch_2.bin: {verdict}: {size:,} bytes" in refusal(lambda: CIFAR10(cifar10_bin.parent))


def test_cifar_binary_mislabelled(cifar10_bin):
    path = cifar10_bin / "test_batch.bin"
    content = bytearray(path.read_bytes())
    content[4 * 3073] = 10
    path.write_bytes(content)
    message = refusal(lambda: CIFAR10(cifar10_bin.parent, train=False))
    assert "test_batch.bin: mislabelled: image 4 has label 10, but the labels of CIFAR-10 are 0 to 9" in message


def test_cifar100_file_under_the_name_of_cifar10(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    fill_python(folder, BATCHES, "fine_labels", C100_LABELS)
    assert 'holds no array "data" and list "labels"' in refusal(lambda: CIFAR10(tmp_path))


class Intruder:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_pickle_that_runs_code_is_refused_and_not_run(cifar10_py, tmp_path, protocol):
    mark = tmp_path / "ran"
    write(cifar10_py / "data_batch_1", pickle.dumps({"data": Intruder(mark)}, protocol=protocol))
    message = refusal(lambda: CIFAR10(tmp_path))
    assert "data_batch_1: refused" in message
    assert "mkdir" in message
    assert not mark.exists()


def test_cifar_pickle_too_long(cifar10_py):
    with (cifar10_py / "data_batch_1").open("ab") as file:
        file.truncate(10 * 3400)
    assert "data_batch_1: too long" in refusal(lambda: CIFAR10(cifar10_py.parent))


@pytest.mark.parametrize("size", [0, 1, 40, 5000, 30000])
def test_cifar_pickle_truncated(cifar10_py, size):
    path = cifar10_py / "data_batch_5"
    path.write_bytes(path.read_bytes()[:size])
    assert "data_batch_5: refused, it is no intact pickle" in refusal(lambda: CIFAR10(cifar10_py.parent))


@pytest.mark.parametrize(
    ("labels", "shape", "message"),
    [
        (C10_LABELS[:9], (10, 3072), "9 labels"),
        (C10_LABELS, (9, 3072), r"shape (9, 3072)"),
        ([*C10_LABELS[:9], 17], (10, 3072), "image 9 has label 17"),
        ([*C10_LABELS[:9], -1], (10, 3072), "no numbers of classes"),
        ([*C10_LABELS[:9], "cat"], (10, 3072), "no numbers of classes"),
    ],
)
def test_cifar_pickle_with_wrong_content(cifar10_py, labels, shape, message):
    content = {b"data": np.zeros(shape, np.uint8), b"labels": labels}
    write(cifar10_py / "test_batch", pickle.dumps(content, protocol=4))
    assert message in refusal(lambda: CIFAR10(cifar10_py.parent, train=False))


def nested_tuples(depth):
    """Pairs of the pair before: hashing or printing the last takes 2**depth steps."""
    return b"".join([b"\x80\x02)q\x00", *(b"h\x00h\x00\x86q\x00" for _ in range(depth))])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        b"\x80\x02}X\xff\xff\xff\x7fab.",  # a string that promises 2 GiB
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.",  # bytes that promise 2**60
        b"\x80\x02cos\nsystem\n.",
        b"\x80\x02cnumpy\nload\n.",
        b"\x80\x02cnumpy\ndtype\nU\x02O8\x85R.",
        b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",  # ndarray itself would allocate what it is asked for
        b"\x80\x02K\x01K\x02R.",
        b"\x80\x02K\x01}b.",
        b"\x80\x02K\x01K\x02a.",
        b"\x80\x02}K\x01K\x02s.",
        b"\x80\x02h\x07.",
        nested_tuples(200) + b"}h\x00K\x01s.",
        nested_tuples(200) + b"h\x00h\x00\x93.",
        b"(imodule\nname\n.",
        pickle.dumps(bytearray(3), protocol=5),
    ],
    ids=range(17),
)
def test_hostile_pickles_are_refused(content):
    with pytest.raises(RefusedPickle):
        read_pickle(content)


def test_a_pickle_of_millions_of_small_things_is_refused():
    with pytest.raises(RefusedPickle, match="more operations than"):
        read_pickle(b"\x80\x02" + b"]" * 10**6 + b".")


def test_a_pickle_of_many_images_with_names_and_labels_is_read(monkeypatch):
    count = 1000  # CIFAR-100 has as many operations for each image
    content = {
        b"data": np.zeros((count, 3072), np.uint8),
        b"filenames": [f"an_image_of_its_own_s_{number:06}.png" for number in range(count)],
        b"fine_labels": [number % 100 for number in range(count)],
        b"coarse_labels": [number % 20 for number in range(count)],
    }
    found = read_pickle(pickle.dumps(content, protocol=4))
    assert found[b"filenames"] == content[b"filenames"]
    assert found[b"fine_labels"] == content[b"fine_labels"]


# MNIST


def idx(array):
    """An idx file of unsigned bytes."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def digits(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), rng.integers(0, 10, count, dtype=np.uint8)


def fill_mnist(folder, compress, split="train", count=7, seed=0):
    suffix, pack = (".gz", gzip.compress) if compress else ("", bytes)
    images, labels = digits(count, seed)
    return (
        write(folder / f"{split}-images-idx3-ubyte{suffix}", pack(idx(images))),
        write(folder / f"{split}-labels-idx1-ubyte{suffix}", pack(idx(labels))),
    )


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize(
    ("dataset", "folder"), [(MNIST, "."), (MNIST, "MNIST/raw"), (FashionMNIST, "."), (FashionMNIST, "fashion-mnist")]
)
def test_mnist(tmp_path, dataset, folder, compress):
    fill_mnist(tmp_path / folder, compress)
    fill_mnist(tmp_path / folder, compress, "t10k", 3, seed=1)
    for data, (images, labels) in ((dataset(tmp_path), digits(7)), (dataset(tmp_path, train=False), digits(3, 1))):
        np.testing.assert_array_equal(data.images, images)
        np.testing.assert_array_equal(data.targets, labels)
        image, label = data[1]
        assert (image.mode, image.size, label) == ("L", (28, 28), labels[1])


def test_grey_batches_have_one_channel(tmp_path):
    fill_mnist(tmp_path, True)
    images, _ = next(iter(DataLoader(MNIST(tmp_path, transform=transforms.ToTensor()), 4)))
    assert images.shape == (4, 1, 28, 28)
    np.testing.assert_allclose(images.numpy()[:, 0], digits(7)[0][:4] / 255, rtol=1e-6)


def header(magic, *lengths):
    return struct.pack(f">{1 + len(lengths)}I", magic, *lengths)


@pytest.mark.parametrize("number", [0, 1])
def test_a_file_of_digits_far_too_long_is_not_read(tmp_path, number):
    path = fill_mnist(tmp_path, False)[number]
    with path.open("ab") as file:
        file.truncate(2**40)
    assert "too long: 1,099,511,627,776 bytes" in refusal(lambda: MNIST(tmp_path))


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (header(2051, 7, 28), "hold no whole idx header"),
        (header(2051, 7, 28, 28) + bytes(7 * 784 - 1), "truncated: its header promises 5,488 values"),
        (header(2051, 7, 28, 28) + bytes(7 * 784 + 1), "goes on after the 5,488 values"),
        (header(2049, 7) + bytes(20), "is no idx file of images, but one of labels"),
        (header(0x0D03, 7, 28, 28), "begins with 0x00000d03, not 0x00000803"),
        (
            header(2051, 2**32 - 1, 2**32 - 1, 2**32 - 1),
            "header promises 79,228,162,458,924,105,385,300,197,375 values",
        ),
        (header(2051, 60001, 28, 28), "47,040,000 are the most expected"),
        (header(2051, 7, 14, 56) + bytes(7 * 784), "images of shape (14, 56)"),
        (header(2051, 6, 28, 28) + bytes(6 * 784), "7 labels do not go with the 6 images"),
    ],
    ids=range(10),
)
def test_mnist_damaged_images(tmp_path, content, message, compress):
    images, _ = fill_mnist(tmp_path, compress)
    images.write_bytes(gzip.compress(content) if compress else content)
    found = refusal(lambda: MNIST(tmp_path))
    assert message in found
    assert str(tmp_path) in found


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-300], "truncated: the compressed data end too early"),
        (lambda content: content[:-1], "truncated: the compressed data end too early"),
        (lambda content: b"PK" + content[2:], "damaged or unreadable"),
        (lambda content: content[:-6] + b"\0\0" + content[-4:], "damaged or unreadable"),  # the check sum
        (lambda content: content[:40] + bytes(60) + content[100:], "damaged or unreadable"),
    ],
    ids=range(5),
)
def test_mnist_damaged_gzip(tmp_path, damage, message):
    images, _ = fill_mnist(tmp_path, True)
    images.write_bytes(damage(images.read_bytes()))
    assert message in refusal(lambda: MNIST(tmp_path))


def test_gzip_bomb_is_not_unpacked(tmp_path):
    # 256 MiB behind a header that promises 7 labels, read in a process that may not take 150 MiB more than it has.
    _, labels = fill_mnist(tmp_path, True)
    with gzip.open(labels, "wb", 1) as file:
        file.write(header(2049, 7))
        for _ in range(256):
            file.write(bytes(2**20))
    script = f"""
import resource
from minires.data import MNIST, DataError
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 150 * 2**20, resource.RLIM_INFINITY))
try:
    MNIST({str(tmp_path)!r})
except DataError as error:
    print(error)
"""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("the size of a process is read from /proc: run on Linux")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "goes on after the 7 values" in done.stdout, done.stderr


def test_mnist_mislabelled(tmp_path):
    _, labels = fill_mnist(tmp_path, False)
    labels.write_bytes(idx(np.array([1, 2, 30, 4, 5, 6, 7], np.uint8)))
    assert "labels-idx1-ubyte: mislabelled: image 2 has label 30" in refusal(lambda: MNIST(tmp_path))


@pytest.mark.parametrize("missing", [0, 1])
def test_mnist_one_file_missing(tmp_path, missing):
    path = fill_mnist(tmp_path, True)[missing]
    path.unlink()
    assert f"{path.name}: no such file" in refusal(lambda: MNIST(tmp_path))


def test_mnist_missing(tmp_path):
    assert "holds no Fashion-MNIST: put t10k-images-idx3-ubyte.gz" in refusal(
        lambda: FashionMNIST(tmp_path, train=False)
    )


# ImageFolder


def encoded(color, size=(6, 4), mode="RGB", form="PNG"):
    out = io.BytesIO()
    Image.new(mode, size, color).save(out, form)
    return out.getvalue()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    write(root / "bee" / "2.png", encoded((0, 255, 0)))
    write(root / "bee" / "10.PNG", encoded((0, 0, 255)))
    write(root / "bee" / "notes.txt", b"not an image")
    write(root / "ant" / "deep" / "a.jpeg", encoded((255, 0, 0), form="JPEG"))
    write(root / "ant" / "z.bmp", encoded(77, mode="L", form="BMP"))
    write(root / "stray.png", encoded((1, 2, 3)))
    return root


def test_image_folder_as_torchvision(folder):
    data = ImageFolder(folder)
    assert data.classes == ["ant", "bee"]
    assert data.class_to_idx == {"ant": 0, "bee": 1}
    names = [("ant/z.bmp", 0), ("ant/deep/a.jpeg", 0), ("bee/10.PNG", 1), ("bee/2.png", 1)]
    assert data.samples == data.imgs == [(str(folder / name), label) for name, label in names]
    assert data.targets == [0, 0, 1, 1]
    image, label = data[0]
    assert (image.mode, image.getpixel((0, 0)), label) == ("RGB", (77, 77, 77), 0)
    assert data[3][0].getpixel((0, 0)) == (0, 255, 0)


def test_image_folder_options(folder):
    data = ImageFolder(
        folder,
        transform=str.upper,
        target_transform=str,
        loader=os.path.basename,
        is_valid_file=lambda path: path.endswith(".png"),
        allow_empty=True,
    )
    assert list(map(data.__getitem__, range(len(data)))) == [("2.PNG", "1")]


def test_image_folder_in_a_loader(folder):
    transform = transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()])
    images, targets = next(iter(DataLoader(ImageFolder(folder, transform), 4, num_workers=2)))
    assert images.shape == (4, 3, 8, 8)
    assert targets.numpy().tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(images.numpy()[3, :, 5, 5], [0, 1, 0])


def test_image_folder_refusals(folder, tmp_path):
    assert "nowhere: no such file or directory" in refusal(lambda: ImageFolder(tmp_path / "nowhere"))
    (folder / "cat").mkdir()
    assert "cat: holds no images" in refusal(lambda: ImageFolder(folder))
    assert ImageFolder(folder, allow_empty=True).classes == ["ant", "bee", "cat"]
    assert "cat: holds no folders" in refusal(lambda: ImageFolder(folder / "cat"))


@pytest.mark.parametrize("name", ["text", "truncated", "postscript", "empty", "bomb", "gone"])
def test_unreadable_images_are_named(folder, name, monkeypatch):
    path = folder / "ant" / "z.bmp"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(noise).save(jpeg, "JPEG")
    contents = {
        "text": b"hello",
        "truncated": jpeg.getvalue()[:2000],
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "empty": b"",
        "bomb": encoded(0, (40, 40), "1"),
    }
    if name == "gone":
        data = ImageFolder(folder)
        path.unlink()
    else:
        path.write_bytes(contents[name])
        data = ImageFolder(folder)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1200 if name == "bomb" else 10**6)
    message = refusal(lambda: data[0])
    assert str(path) in message


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_grey_of_sixteen_bits_keeps_its_shades(tmp_path, form):
    values = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    path = tmp_path / "grey"
    if form == "PPM":
        path.write_bytes(b"P5 64 48 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path, form)
    image = np.asarray(load_image(path))
    assert image.shape == (48, 64, 3)
    assert (image[..., :1] == image).all()
    np.testing.assert_allclose(image[..., 0], values / 257, atol=1)


def test_grey_of_twelve_bits_in_its_own_scale(tmp_path):
    values = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    (tmp_path / "grey.pgm").write_bytes(b"P5 8 8 4095\n" + values.astype(">u2").tobytes())
    np.testing.assert_allclose(np.asarray(load_image(tmp_path / "grey.pgm"))[..., 0], values / 4095 * 255, atol=1)


def test_a_jpeg_of_thousands_of_scans_is_refused(tmp_path):
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 10, 10)).save(out, "JPEG", progressive=True)
    content = out.getvalue()
    path = write(tmp_path / "image.jpg", content)
    assert load_image(path).size == (64, 64)
    last = content[content.rindex(b"\xff\xda") : -2]
    path.write_bytes(content[:-2] + last * 5000 + content[-2:])
    for read in (load_image, check_image):
        assert "scans" in refusal(lambda read=read: read(path))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK", "YCbCr", "LA"])
def test_other_images_are_converted_as_pillow_does(tmp_path, mode):
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    image = Image.fromarray(noise).convert(mode)
    image.save(tmp_path / "image", "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    with Image.open(tmp_path / "image") as again:
        np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "image")), np.asarray(again.convert("RGB")))


@pytest.mark.parametrize("path", ["/dev/zero", "fifo", "folder"])
def test_only_plain_files_are_opened_as_images(tmp_path, path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    assert str(tmp_path / path) in refusal(lambda: load_image(tmp_path / path))


def test_links_up_in_image_folders_count_nothing_twice(folder):
    before = ImageFolder(folder).samples
    for name, target in {
        "bee/up": "..",
        "bee/above": "../..",
        "bee/self": ".",
        "ant/deep/up": "..",
        "self": ".",
    }.items():
        (folder / name).symlink_to(target)
    (folder / "ant" / "nowhere").symlink_to("missing")
    (folder / "ant" / "turning").symlink_to("turning")
    data = ImageFolder(folder)
    assert (data.samples, data.classes) == (before, ["ant", "bee"])


def test_links_to_other_folders_are_followed_once(folder, tmp_path):
    write(tmp_path / "elsewhere" / "3.png", encoded((1, 1, 1)))
    (tmp_path / "elsewhere" / "back").symlink_to(folder / "bee")
    for name in ("x", "y"):
        (folder / "bee" / name).symlink_to(tmp_path / "elsewhere")
    (folder / "cat").symlink_to(tmp_path / "elsewhere")
    names = [os.path.relpath(path, folder) for path, label in ImageFolder(folder).samples]
    assert [name for name in names if name.startswith("bee")] == ["bee/10.PNG", "bee/2.png", "bee/x/3.png"]
    assert [name for name in names if name.startswith("cat")] == ["cat/3.png", "cat/back/10.PNG", "cat/back/2.png"]


def cut_jpeg():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "JPEG")
    return out.getvalue()[:-100]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("decode", [False, True])
def test_unreadable_images_are_found_before_they_are_needed(folder, decode, workers):
    state = generator().bit_generator.state
    assert ImageFolder(folder).unreadable(decode, workers) == []
    assert generator().bit_generator.state == state
    write(folder / "ant" / "text.jpg", b"hello")
    write(folder / "ant" / "cut.jpg", cut_jpeg())
    write(folder / "bee" / "cut.png", encoded((1, 2, 3))[:-30])
    write(folder / "bee" / "cut.bmp", encoded(7, (20, 20), "L", "BMP")[:-50])
    write(folder / "bee" / "padded.png", encoded((1, 2, 3)) + b"\0\0")  # more than it needs does no harm
    os.mkfifo(folder / "bee" / "fifo.png")
    (folder / "bee" / "nowhere.png").symlink_to("missing")
    data = ImageFolder(folder)
    errors = data.unreadable(decode, workers)
    found = [str(error).removeprefix(f"{folder}/").split(":")[0] for error in errors]
    assert sorted(found) == [
        "ant/cut.jpg",
        "ant/text.jpg",
        "bee/cut.bmp",
        "bee/cut.png",
        "bee/fifo.png",
        "bee/nowhere.png",
    ]
    assert "6 of 11 images cannot be read" in refusal(lambda: check_images(data, workers=workers))
    assert ImageFolder(folder, loader=os.path.basename).unreadable() == []


# The registry


def test_describe_reads_the_images_of_a_folder(folder, tmp_path):
    root = tmp_path / "root"
    for split in ("train", "val"):
        shutil.copytree(folder, root / split)
    assert describe("imagefolder", root).complete
    write(root / "val" / "ant" / "text.jpg", b"hello")
    train, test = describe("imagefolder", root).splits
    assert (train.images, train.problem, test.images) == (4, None, 4)
    assert "1 of 5 images cannot be read" in test.problem
    assert "text.jpg" in test.problem


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_describe_does_not_read_a_file_that_is_far_too_long(tmp_path, name, monkeypatch, cifar10_bin):
    paths = fill_mnist(tmp_path, False) if name == "mnist" else [cifar10_bin / "data_batch_1.bin"]
    with paths[0].open("ab") as file:
        file.truncate(2**40)

    def checksum(path, algorithm):
        assert path != paths[0], "it was read"
        return ""

    monkeypatch.setattr("minires.data.registry.checksum", checksum)
    problem = describe(name, tmp_path).splits[0].problem
    assert "too long: 1,099,511,627,776 bytes" in problem
    assert paths[0].name in problem


def test_every_name_opens(tmp_path, cifar10_bin):
    fill_binary(tmp_path / "cifar-100-binary", ["train.bin", "test.bin"], [[1, fine] for fine in C100_LABELS])
    for split in ("train", "t10k"):
        fill_mnist(tmp_path / "MNIST" / "raw", True, split)
        fill_mnist(tmp_path / "fashion-mnist", True, split)
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            write(tmp_path / split / name / "1.png", encoded((1, 2, 3), (30, 40)))
    for name in available():
        info = dataset_info(name)
        for train in (True, False):
            data = open_dataset(name, tmp_path, train, info.transform(train, image_size=info.image_size))
            images, targets = next(iter(DataLoader(data, 2)))
            assert images.shape == (2, info.channels, info.image_size, info.image_size)
            assert targets.dtype == np.int64
            assert len(data.classes) == (info.num_classes or 2)
            assert len(info.mean) == len(info.std) == info.channels


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_describe_counts_images(tmp_path, name):
    fill_mnist(tmp_path, True)
    fill_mnist(tmp_path, True, "t10k", 3)
    report = describe(name, tmp_path)
    assert [(split.name, split.images, split.problem) for split in report.splits] == [
        ("train", 7, None),
        ("test", 3, None),
    ]


def test_registry_refusals(tmp_path):
    assert "unknown data set 'imagenet': choose one of shapes, cifar10" in refusal(lambda: open_dataset("imagenet"))
    assert "CIFAR-10: say where its files are" in refusal(lambda: open_dataset("cifar10"))
    assert "train/CLASS/" in refusal(lambda: open_dataset("imagefolder", tmp_path))


def test_describe_compares_checksums(cifar10_bin, monkeypatch):
    digest = hashlib.sha256((cifar10_bin / "test_batch.bin").read_bytes()).hexdigest()
    monkeypatch.setitem(checksums.OFFICIAL["cifar10"], "test_batch.bin", ("sha256", digest))
    monkeypatch.delitem(checksums.OFFICIAL["cifar10"], "data_batch_5.bin")
    train, test = describe("cifar10", cifar10_bin.parent).splits
    assert [file.official for file in train.files] == [False] * 4 + [None]
    assert [(file.digest, file.official, file.size) for file in test.files] == [(digest, True, 30730)]


def test_describe_reports_what_is_wrong(cifar10_bin):
    (cifar10_bin / "test_batch.bin").write_bytes(b"short")
    report = describe("cifar10", cifar10_bin.parent)
    train, test = report.splits
    assert train.problem is None
    assert train.images == 50
    assert "truncated" in test.problem
    assert test.images is None
    assert not report.complete


def test_shapes_need_no_root():
    report = describe("shapes")
    assert report.complete
    assert [(split.name, split.images) for split in report.splits] == [("train", 10_000), ("test", 2_000)]


# The real files


@needs_real_data
@pytest.mark.parametrize(("name", "count"), [("cifar10", 50_000), ("fashion-mnist", 60_000)])
def test_real_files(name, count, monkeypatch):
    monkeypatch.undo()  # full-sized CIFAR
    report = describe(name, REAL)
    assert report.complete
    assert [split.images for split in report.splits] == [count, 10_000]
    assert all(file.official for split in report.splits for file in split.files)
    data = open_dataset(name, REAL)
    assert np.bincount(data.targets).tolist() == [count // 10] * 10
    info = dataset_info(name)
    values = np.arange(256) / 255
    for channel, mean, std in zip(data.images.reshape(-1, info.channels).T, info.mean, info.std, strict=True):
        share = np.bincount(channel, minlength=256) / channel.size
        assert share @ values == pytest.approx(mean, abs=1e-4)
        assert np.sqrt(share @ (values - mean) ** 2) == pytest.approx(std, abs=1e-4)
