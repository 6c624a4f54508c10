"""The loader: from a data set to shuffled batches of tensors, made ahead of time by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from minires.data.collate import default_collate
from minires.data.randomness import use_generator
from minires.device import generator as default_generator

SHUFFLE, BATCH = 0, 1  # which stream of an epoch's seed: the order of the items, or the transforms of one batch


class DataLoader:
    """Iterate over a data set in batches, as ``torch.utils.data.DataLoader`` does.

    Each batch is a list of what an item holds, commonly [images, targets]: a float32 Tensor (N, C, H, W), channels-last
    in memory, and an int64 Tensor (N,).

    The workers are threads, not processes: Pillow decodes and NumPy copies without the interpreter's lock, the data set
    is shared rather than sent, and forking would not go together with compiled kernels that run threads themselves. A
    transform written in plain Python gains nothing from workers.

    Sets in memory (CIFAR10, MNIST, Shapes, TensorDataset, Subsets of them) whose transforms all come from
    ``minires.data.transforms`` are transformed a whole batch at a time.

    Parameters
    ----------
    dataset : object with ``__len__`` and ``__getitem__``
    batch_size : int
    shuffle : bool
        Draw a new order every epoch.
    sampler : iterable of int with a length, optional
        The order of the items, instead of ``shuffle``.
    batch_sampler : iterable of sequences of int with a length, optional
        The batches themselves, instead of ``batch_size``, ``shuffle``, ``sampler`` and ``drop_last``.
    num_workers : int
        Number of threads; 0 makes each batch when it is asked for.
    collate_fn : callable, optional
        Makes a batch of a list of items; ``default_collate`` unless given. With one, items are made one by one.
    pin_memory, persistent_workers : bool
        Accepted so that PyTorch scripts run; threads have no use for them.
    drop_last : bool
        Leave out a last batch that is not full.
    generator : numpy.random.Generator, optional
        Seeds each epoch; the default generator of the CPU (see ``minires.manual_seed``) unless given.
    seed : int, optional
        Seeds the epochs instead: epoch e of a loader with this seed is always the same, see :meth:`set_epoch`.
    prefetch_factor : int, optional
        Batches that each worker makes ahead; 2 unless given.
    timeout, worker_init_fn, multiprocessing_context, pin_memory_device, in_order
        Accepted at PyTorch's defaults only: batches are waited for and come in order, threads need no set-up of their
        own, and there are no processes.

    The batches of an epoch, random transforms included, depend on its seed alone and not on ``num_workers``. Transforms
    of your own must draw from ``minires.data.current_generator()`` for that to hold.

    An error in a worker is raised where the batch was to come out, and leaving the loop early ends the workers.

    Raises
    ------
    ValueError
        If an argument is out of range, or two exclude each other.
    TypeError
        If the generator is no NumPy generator.
    NotImplementedError
        If one of the arguments that are accepted at their defaults only has another value.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        sampler: Iterable[int] | None = None,
        batch_sampler: Iterable[Sequence[int]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: None = None,
        multiprocessing_context: None = None,
        generator: np.random.Generator | None = None,
        *,
        seed: int | None = None,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        for name, value, default, reason in [
            ("timeout", timeout, 0, "workers are threads, whose batches are waited for"),
            ("worker_init_fn", worker_init_fn, None, "workers are threads, set up what they share before the loop"),
            ("multiprocessing_context", multiprocessing_context, None, "workers are threads, not processes"),
            ("pin_memory_device", pin_memory_device, "", "no memory is pinned"),
            ("in_order", in_order, True, "batches come in their order"),
        ]:
            if value != default:
                raise NotImplementedError(
                    f"DataLoader: {name}={value!r} is not supported: {reason}; leave it at {default!r}"
                )
        prefetch_factor = 2 if prefetch_factor is None else prefetch_factor
        for name, value, least in [
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("prefetch_factor", prefetch_factor, 1),
            ("seed", 0 if seed is None else seed, 0),
        ]:
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"DataLoader: {name} must be an int of {least} or more, got {value!r}")
        if sampler is not None and shuffle:
            raise ValueError("DataLoader: a sampler sets the order of the items, so shuffle must be False with it")
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
            raise ValueError(
                "DataLoader: a batch_sampler makes the batches, so leave out batch_size, shuffle, sampler and drop_last"
            )
        if generator is not None and not isinstance(generator, np.random.Generator):
            kind = f"{type(generator).__module__}.{type(generator).__qualname__}"
            raise TypeError(
                f"DataLoader: generator must be a numpy.random.Generator, got a {kind}: use default_rng(seed)"
            )
        if seed is not None and generator is not None:
            raise ValueError("DataLoader: give either a seed or a generator, not both")
        if shuffle and len(dataset) == 0:
            raise ValueError("DataLoader: the data set is empty, there is nothing to shuffle")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.num_workers = num_workers
        self.collate_fn = collate_fn
        self.drop_last = drop_last
        self.generator = generator
        self.seed = seed
        self.prefetch_factor = prefetch_factor
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Make ``epoch`` the next one, so that a run taken up again sees the batches it would have seen.

        Raises
        ------
        ValueError
            If the loader has no ``seed``, without which epochs have no numbers.
        """
        if self.seed is None:
            raise ValueError("DataLoader.set_epoch: give the loader a seed, without one its epochs are not repeatable")
        self.epoch = epoch

    def __len__(self) -> int:
        if self.batch_sampler is not None:
            return _length(self.batch_sampler)
        items = len(self.dataset) if self.sampler is None else _length(self.sampler)
        return items // self.batch_size if self.drop_last else -(-items // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        return self._epoch(deferring=False)

    def deferring(self) -> Iterator[Any]:
        """Iterate over an epoch, leaving transforms that a kernel can do as `DeferredImages`, where the set does so.

        The batches are those of ``iter``, random numbers included, once their ``floats()`` are taken.
        """
        return self._epoch(deferring=True)

    def _epoch(self, deferring: bool) -> Iterator[Any]:
        if self.seed is None:
            entropy = [int((self.generator or default_generator()).integers(2**63))]
        else:
            entropy = [self.seed, self.epoch]
            self.epoch += 1
        make = _BatchMaker(self.dataset, self.collate_fn, entropy, deferring)
        batches = enumerate(self._batches(_rng(entropy, SHUFFLE)))
        if self.num_workers == 0:
            return (make(number, indices) for number, indices in batches)
        return _made_ahead(make, batches, self.num_workers, self.num_workers * self.prefetch_factor)

    def _batches(self, rng: np.random.Generator) -> Iterator[Sequence[int]]:
        """Yield the indices of each batch."""
        if self.batch_sampler is not None:
            yield from self.batch_sampler
            return
        order = self.sampler
        if order is None:
            items = len(self.dataset)
            order = rng.permutation(items).tolist() if self.shuffle else range(items)
        remaining = iter(order)
        while indices := list(islice(remaining, self.batch_size)):
            if len(indices) == self.batch_size or not self.drop_last:
                yield indices


class _BatchMaker:
    """Makes the batch of a number and its indices: the same one, whichever thread asks."""

    def __init__(
        self, dataset: Any, collate_fn: Callable[[list[Any]], Any] | None, entropy: list[int], deferring: bool
    ) -> None:
        self.dataset, self.entropy = dataset, entropy
        self.collate = collate_fn or default_collate
        self.at_once = collate_fn is None and getattr(dataset, "loads_batches", False)
        self.defers = deferring and self.at_once and getattr(dataset, "defers_batches", False)

    def __call__(self, number: int, indices: Sequence[int]) -> Any:
        with use_generator(_rng(self.entropy, BATCH, number)):
            if self.at_once:
                make = self.dataset.defer_batch if self.defers else self.dataset.load_batch
                return make(np.asarray(indices, dtype=np.int64))
            return self.collate([self.dataset[index] for index in indices])


def _rng(entropy: list[int], *stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=stream))


class _Workers(ThreadPoolExecutor):
    """A pool that goes on with fewer threads where the system gives no more."""

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise
            self._max_workers = len(self._threads)


def _made_ahead(
    make: _BatchMaker, batches: Iterable[tuple[int, Sequence[int]]], workers: int, ahead: int
) -> Iterator[Any]:
    """Yield the batches in order while ``workers`` threads make the next ``ahead`` of them."""
    pending: deque[Callable[[], Any]] = deque()
    with _Workers(workers, thread_name_prefix="minires-loader") as pool:
        try:
            for number, indices in batches:
                try:
                    pending.append(pool.submit(make, number, indices).result)
                except RuntimeError:  # not one thread can be started
                    pending.append(partial(make, number, indices))
                if len(pending) > ahead:
                    yield pending.popleft()()
            while pending:
                yield pending.popleft()()
        finally:  # also where the caller leaves the loop: closing the generator raises GeneratorExit at the yield
            pool.shutdown(wait=False, cancel_futures=True)


def _length(sampler: Iterable[Any]) -> int:
    if not isinstance(sampler, Sized):
        raise TypeError(f"the length of this loader is unknown, because its {type(sampler).__name__} has no len()")
    return len(sampler)
