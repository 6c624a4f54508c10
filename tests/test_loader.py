"""The loader: order, seeds, workers, errors, collation; and the sets it is most used with."""

import inspect
import threading
import time
from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image

from minires.autograd import Tensor
from minires.data import DataLoader, Dataset, Subset, TensorDataset, current_generator, default_collate, random_split
from minires.data import transforms as T
from minires.data.datasets import ImageArrays


class Numbers(Dataset):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return index, float(current_generator().random())


def image_set(n=20, transform=None, **options):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return ImageArrays(images, rng.integers(0, 4, n), "abcd", transform, **options)


AUGMENT = T.Compose([T.RandomCrop(8, padding=2), T.RandomHorizontalFlip(), T.ToTensor()])


def loaded(loader):
    return [[part.numpy().copy() for part in batch] for batch in loader]


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("minires-loader")]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (9, 3), (2, 5), (0, 4)])
@pytest.mark.parametrize("workers", [0, 2])
def test_lengths_as_torch(n, batch_size, drop_last, workers):
    ours = DataLoader(Numbers(n), batch_size, drop_last=drop_last, num_workers=workers)
    theirs = torch.utils.data.DataLoader(range(n), batch_size, drop_last=drop_last)
    assert len(ours) == len(theirs)
    assert [batch[0].shape[0] for batch in ours] == [len(batch) for batch in theirs]


def test_order_without_shuffle():
    assert [batch[0].numpy().tolist() for batch in DataLoader(Numbers(5), 2)] == [[0, 1], [2, 3], [4]]


def test_shuffle_gives_every_item_once_in_a_new_order_each_epoch():
    loader = DataLoader(Numbers(50), 8, shuffle=True, seed=1)
    first, second = ([int(i) for batch in loader for i in batch[0].numpy()] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first != list(range(50))


@pytest.mark.parametrize("transform", [AUGMENT, T.Compose([AUGMENT, lambda image: image])], ids=["batch", "item"])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches_do_not_depend_on_workers(transform, workers):
    def batches(num_workers):
        return loaded(DataLoader(image_set(transform=transform), 3, True, num_workers=num_workers, seed=7))

    assert_same(batches(0), batches(workers))


def test_one_transform_call_per_batch_for_sets_in_memory():
    seen = []

    class Spy(T.ToTensor):
        def __call__(self, image):
            seen.append(np.shape(image))
            return super().__call__(image)

    images, targets = next(iter(DataLoader(Subset(image_set(transform=Spy()), [4, 2, 7]), 2)))
    assert seen == [(2, 8, 8, 3)]
    expected = image_set().images[[4, 2]].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(images.numpy(), expected)
    np.testing.assert_array_equal(targets.numpy(), image_set().targets[[4, 2]])
    assert targets.dtype == np.int64


def test_batch_path_and_item_path_agree_where_nothing_is_random():
    steps = [T.CenterCrop(6), T.ToTensor(), T.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))]
    whole = loaded(DataLoader(image_set(transform=T.Compose(steps)), 6))
    single = loaded(DataLoader(image_set(transform=T.Compose([*steps, lambda image: image])), 6))
    assert_same(whole, single)


def test_a_subclass_with_its_own_getitem_is_asked_item_by_item():
    class Doubled(ImageArrays):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            return image, 2 * target

    base = image_set()
    loader = DataLoader(Doubled(base.images, base.targets, base.classes, T.ToTensor()), 20)
    np.testing.assert_array_equal(next(iter(loader))[1].numpy(), 2 * base.targets)


@pytest.mark.parametrize("transform", [T.ToTensor(), T.Compose([T.ToTensor(), lambda image: image])])
def test_target_transform_in_both_paths(transform):
    loader = DataLoader(image_set(transform=transform, target_transform=lambda label: 10 - label), 20)
    np.testing.assert_array_equal(next(iter(loader))[1].numpy(), 10 - image_set().targets)


@pytest.mark.parametrize("transform", [T.ToTensor(), T.Compose([T.ToTensor(), lambda image: image])])
def test_batches_lie_channels_last(transform):
    images, _ = next(iter(DataLoader(image_set(transform=transform), 4)))
    assert images.array.transpose(0, 2, 3, 1).flags.c_contiguous


def test_seed_repeats_a_run_and_set_epoch_takes_it_up_again():
    loader = DataLoader(image_set(transform=AUGMENT), 4, shuffle=True, seed=3)
    _, second = loaded(loader), loaded(loader)
    again = DataLoader(image_set(transform=AUGMENT), 4, shuffle=True, seed=3)
    again.set_epoch(1)
    assert_same(second, loaded(again))


def test_generator_repeats_a_run():
    def run():
        loader = DataLoader(Numbers(9), 4, shuffle=True, generator=np.random.default_rng(5))
        return loaded(loader) + loaded(loader)

    assert_same(run(), run())


def test_manual_seed_repeats_a_run():
    from minires.device import manual_seed

    def run():
        manual_seed(8)
        return loaded(DataLoader(Numbers(9), 4, shuffle=True))

    assert_same(run(), run())


def test_random_numbers_differ_between_batches_and_epochs():
    loader = DataLoader(Numbers(8), 2, seed=0)
    draws = [float(x) for _ in range(2) for batch in loader for x in batch[1].numpy()]
    assert len(set(draws)) == 16


class Failing(Numbers):
    def __getitem__(self, index):
        if index == 5:
            raise KeyError("item 5 is damaged")
        return index


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_comes_out_where_its_batch_would(workers):
    batches = iter(DataLoader(Failing(20), 2, num_workers=workers))
    assert [next(batches).numpy().tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(KeyError, match="item 5 is damaged"):
        next(batches)
    assert loader_threads() == []


@pytest.mark.parametrize("started", [0, 1])
def test_where_no_more_threads_can_be_started_the_loader_goes_on_with_fewer(started, monkeypatch):
    expected = loaded(DataLoader(image_set(transform=AUGMENT), 3, shuffle=True, seed=1))
    begin, left = threading.Thread.start, started

    def start(thread):
        nonlocal left
        if left == 0:
            raise RuntimeError("can't start new thread")
        left -= 1
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    batches = loaded(DataLoader(image_set(transform=AUGMENT), 3, shuffle=True, seed=1, num_workers=4))
    for batch, other in zip(batches, expected, strict=True):
        for part, same in zip(batch, other, strict=True):
            np.testing.assert_array_equal(part, same)


def test_leaving_early_ends_the_workers():
    for _ in DataLoader(Numbers(100), 2, num_workers=3):
        assert loader_threads()
        break
    assert loader_threads() == []


def test_workers_work_at_the_same_time_and_no_further_ahead_than_asked():
    started = []

    class Slow(Numbers):
        def __getitem__(self, index):
            started.append(index)
            time.sleep(0.05)
            return index

    begin = time.perf_counter()
    batches = iter(DataLoader(Slow(100), 1, num_workers=4, prefetch_factor=2))
    for _ in range(8):
        next(batches)
    assert time.perf_counter() - begin < 0.3  # one after the other: 0.4 s at least
    time.sleep(0.1)
    assert len(started) <= 8 + 4 * 2
    batches.close()


def test_sampler_sets_the_order():
    loader = DataLoader(Numbers(9), 2, sampler=[8, 1, 1])
    assert len(loader) == 2
    assert [batch[0].numpy().tolist() for batch in loader] == [[8, 1], [1]]


def test_batch_sampler_sets_the_batches():
    loader = DataLoader(Numbers(9), batch_sampler=[[8, 1, 1], [0]], num_workers=2)
    assert len(loader) == 2
    assert [batch[0].numpy().tolist() for batch in loader] == [[8, 1, 1], [0]]


def test_collate_fn_gets_the_items():
    loader = DataLoader(image_set(transform=AUGMENT), 4, collate_fn=len)
    assert list(loader) == [4] * 5


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "items",
    [
        [1, 2],
        [1.5, 2.0],
        [True, False],
        [np.float32(1), np.float32(2)],
        [np.zeros((2, 3)), np.ones((2, 3))],
        [np.arange(3, dtype=np.uint8)] * 2,
        [(1, 2.0), (3, 4.0)],
        [{"a": 1, "b": [2, 3]}, {"a": 4, "b": [5, 6]}],
        [Point(1, 2), Point(3, 4)],
        ["one", "two"],
    ],
    ids=str,
)
def test_collate_as_torch(items):
    def plain(batch):
        if isinstance(batch, dict):
            return {key: plain(value) for key, value in batch.items()}
        if isinstance(batch, tuple | list):
            return type(batch)(*map(plain, batch)) if hasattr(batch, "_fields") else [plain(each) for each in batch]
        return batch if isinstance(batch, str) else (batch.numpy().tolist(), str(batch.numpy().dtype))

    assert plain(default_collate(items)) == plain(torch.utils.data.default_collate(items))


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        ([Image.new("RGB", (2, 2))], TypeError, "ToTensor"),
        ([np.zeros((3, 4, 4)), np.zeros((3, 4, 5))], ValueError, r"\(3, 4, 4\) and \(3, 4, 5\).*Resize"),
        ([(1, 2), (1,)], ValueError, "different numbers"),
        ([object()], TypeError, "collate_fn"),
    ],
)
def test_collate_refusals(items, error, message):
    with pytest.raises(error, match=message):
        default_collate(items)


@pytest.mark.parametrize("transform", [None, T.CenterCrop(4)])
def test_images_without_to_tensor_say_what_to_do(transform):
    with pytest.raises(TypeError, match="ToTensor"):
        next(iter(DataLoader(image_set(transform=transform), 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an int of 1 or more, got 0"),
        ({"batch_size": 2.0}, "batch_size"),
        ({"num_workers": -1}, "num_workers"),
        ({"prefetch_factor": 0}, "prefetch_factor"),
        ({"seed": -1}, "seed"),
        ({"sampler": [1], "shuffle": True}, "shuffle must be False"),
        ({"batch_sampler": [[1]], "batch_size": 2}, "batch_sampler makes the batches"),
        ({"seed": 1, "generator": np.random.default_rng(0)}, "not both"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        DataLoader(Numbers(4), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 5},
        {"worker_init_fn": print},
        {"multiprocessing_context": "fork"},
        {"pin_memory_device": "cuda"},
        {"in_order": False},
    ],
)
def test_what_pytorch_has_and_threads_do_not_is_refused(options):
    (name, value), *_ = options.items()
    with pytest.raises(NotImplementedError, match=f"{name}={value!r} is not supported: .*; leave it at"):
        DataLoader(Numbers(4), **options)


def test_arguments_at_the_defaults_of_torch_change_nothing():
    signature = inspect.signature(torch.utils.data.DataLoader)
    defaults = {name: each.default for name, each in signature.parameters.items() if name != "dataset"}
    ours = list(inspect.signature(DataLoader).parameters)
    positional = [name for name, each in signature.parameters.items() if each.kind == each.POSITIONAL_OR_KEYWORD]
    assert ours[: len(positional)] == positional
    plain, spelled_out = DataLoader(Numbers(4)), DataLoader(Numbers(4), **defaults)
    assert [batch[0].tolist() for batch in spelled_out] == [batch[0].tolist() for batch in plain]


def test_a_generator_of_another_library_is_refused():
    with pytest.raises(TypeError, match=r"numpy.random.Generator, got a torch\.\S*Generator: use default_rng"):
        DataLoader(Numbers(4), generator=torch.Generator())


def test_set_epoch_needs_a_seed():
    with pytest.raises(ValueError, match="give the loader a seed"):
        DataLoader(Numbers(4)).set_epoch(2)


def test_tensor_dataset():
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6)
    data = TensorDataset(Tensor(x), y)
    assert len(data) == 6
    row, label = data[-1]
    assert (row.numpy().tolist(), label.item(), label.shape) == ([10.0, 11.0], 5, ())
    batches = loaded(DataLoader(data, 4))
    np.testing.assert_array_equal(batches[1][0], x[4:])
    np.testing.assert_array_equal(batches[0][1], y[:4])


@pytest.mark.parametrize("shapes", [[], [()], [(3,), (4,)], [(3, 2), ()]])
def test_tensor_dataset_refusals(shapes):
    with pytest.raises(ValueError, match="same first dimension"):
        TensorDataset(*(np.zeros(shape) for shape in shapes))


def test_subset_of_a_subset():
    data = Subset(Subset(Numbers(20), [10, 11, 12, 13]), [3, 0])
    assert len(data) == 2
    assert [data[i][0] for i in range(2)] == [13, 10]
    with pytest.raises(IndexError):
        data[2]


@pytest.mark.parametrize(
    ("n", "lengths"), [(10, [7, 3]), (10, [0.7, 0.3]), (11, [0.5, 0.25, 0.25]), (2, [0.5, 0.5]), (5, [1.0])]
)
def test_random_split_lengths_as_torch(n, lengths):
    parts = random_split(Numbers(n), lengths, np.random.default_rng(0))
    assert [len(part) for part in parts] == [len(part) for part in torch.utils.data.random_split(range(n), lengths)]
    assert sorted(index for part in parts for index in part.indices) == list(range(n))


@pytest.mark.parametrize("lengths", [[7, 4], [0.5, 0.6], [-1, 11], [5.5, 4.5]])
def test_random_split_refusals(lengths):
    with pytest.raises(ValueError, match="random_split"):
        random_split(Numbers(10), lengths)
