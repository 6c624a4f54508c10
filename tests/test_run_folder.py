"""The folder of a run: nothing is lost whenever it is killed or the disk is full; two runs never share one."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from minires import nn
from minires.data import DataLoader, TensorDataset
from minires.device import manual_seed
from minires.io import files, write_whole
from minires.optim import SGD
from minires.optim.lr_scheduler import OneCycleLR
from minires.training import Checkpoint, RunFolder, RunLog, Trainer, log

EPOCHS = 3
NAMES = ["best.safetensors", "last.safetensors", "log.csv"]


def run(path, log_format="csv", resume="last.safetensors"):
    """Train a small net, from its beginning or from where the folder has it."""
    manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 3))
    rng = np.random.default_rng(0)
    data = TensorDataset(rng.standard_normal((20, 4)).astype(np.float32), rng.integers(0, 3, 20))
    loader = DataLoader(data, 6, shuffle=True, seed=0)
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    steps = EPOCHS * len(loader)
    folder = RunFolder(path, log_format)
    saved = Checkpoint.load(folder.path / resume) if (folder.path / resume).exists() else None
    folder.prepare(checkpoint=saved)
    try:
        schedule = OneCycleLR(optimizer, 0.1, steps, cycle_momentum=False)
        trainer = Trainer(net, optimizer, loader, steps, DataLoader(data, 20), schedule)
        if saved is not None:
            saved.restore(net, optimizer, schedule)
            trainer.step, trainer.best_accuracy = saved.step, saved.best_accuracy
        trainer.on_epoch = lambda report: folder.record(trainer, report, {})
        trainer.fit()
    finally:
        folder.release()


def rows(path):
    """The log without what depends on the clock."""
    if path.suffix == ".jsonl":
        found = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        found = list(csv.DictReader(path.read_text().splitlines()))
    return [{k: v for k, v in row.items() if k not in ("images_per_second", "seconds")} for row in found]


def end_of(path):
    return [sorted(os.listdir(path)), *((path / name).read_bytes() for name in NAMES[:2]), rows(path / "log.csv")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed")
    run(path)
    end = end_of(path)
    assert end[0] == NAMES
    assert [row["epoch"] for row in end[3]] == ["1", "2", "3"]
    return end


class Killed(BaseException):
    """Nothing that runs afterwards may count on being reached."""


def stop_at(monkeypatch, moment, error, after):
    """Raise ``error`` at the n-th time that a file is written to, synced or renamed: before that is done, or after.

    Of what follows a header, its arrays, only the time is counted at which all are written and synced.
    """
    done = 0

    def counted(function):
        def wrapper(*arguments):
            nonlocal done
            if isinstance(arguments[-1], memoryview):
                return function(*arguments)
            done += 1
            if done == moment and not after:
                raise error
            result = function(*arguments)
            if done == moment:
                raise error
            return result

        return wrapper

    for module in (files, log):
        monkeypatch.setattr(module, "write_all", counted(module.write_all))
    monkeypatch.setattr(os, "fsync", counted(lambda descriptor: None))
    monkeypatch.setattr(os, "replace", counted(os.replace))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [Killed(), OSError(errno.ENOSPC, "No space left on device")], ids=["killed", "full"])
def test_a_run_stopped_at_any_moment_of_saving_ends_as_the_undisturbed_one(
    undisturbed, tmp_path, monkeypatch, error, after
):
    stopped = 0
    for moment in range(1, 1000):
        path = tmp_path / str(moment)
        with monkeypatch.context() as patch:
            stop_at(patch, moment, error, after)
            if not after and isinstance(error, Killed):
                patch.setattr(os, "unlink", lambda path: None)  # a killed process cleans nothing up
            try:
                run(path)
                break
            except type(error):
                stopped += 1
        if isinstance(error, OSError):
            assert Path(error.filename).parent == path
        run(path)
        assert end_of(path) == undisturbed, moment
    assert stopped >= EPOCHS * (1 + 4)  # a line of the log and a checkpoint of four moments, at least


@pytest.mark.parametrize("log_format", ["csv", "jsonl"])
def test_a_run_goes_on_from_its_best_checkpoint_with_all_lines_of_its_log(tmp_path, monkeypatch, log_format):
    save = Checkpoint.save

    def killed_between_best_and_last(self, path):
        if Path(path).name == "last.safetensors" and self.step >= 8:
            raise Killed
        save(self, path)

    monkeypatch.setattr(Checkpoint, "save", killed_between_best_and_last)
    with pytest.raises(Killed):
        run(tmp_path, log_format)
    monkeypatch.undo()
    assert Checkpoint.load(tmp_path / "last.safetensors").step == 4
    assert Checkpoint.load(tmp_path / "best.safetensors").step == 8
    run(tmp_path, log_format, "best.safetensors")
    found = [int(row["epoch"]) for row in rows(tmp_path / f"log.{log_format}")]
    assert found == [1, 2, 3]


@pytest.mark.slow
def test_a_hundred_real_kills():
    script = Path(__file__).with_name("kill_runs.py")
    done = subprocess.run([sys.executable, str(script), "100"], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert "runs ended as the undisturbed one" in done.stdout


# The log


@pytest.mark.parametrize(
    ("name", "content", "kept"),
    [
        ("log.csv", "epoch,step\n1,4\n2,8\n3,12\n", "epoch,step\n1,4\n2,8\n"),
        ("log.csv", "epoch,step\n1,4\n2,8\n3,1", "epoch,step\n1,4\n2,8\n"),
        ("log.csv", "epoch,step\n1,4\n2,8\n", "epoch,step\n1,4\n2,8\n"),
        ("log.csv", "epoch,st", ""),
        ("log.csv", "", ""),
        ("log.csv", "another,table\n1,99\n", "another,table\n1,99\n"),
        ("log.csv", "epoch,step\nwritten by hand\n9,99\n", "epoch,step\nwritten by hand\n"),
        ("log.jsonl", '{"step": 4}\n{"step": 12}\n{"st', '{"step": 4}\n'),
        ("log.jsonl", '{"step": 4}\nno JSON\n[12]\n{"step": 12}\n', '{"step": 4}\nno JSON\n[12]\n'),
    ],
)
def test_cutting_a_log(tmp_path, name, content, kept):
    path = tmp_path / name
    path.write_text(content)
    RunLog(path).cut(8)
    assert path.read_text() == kept


def test_a_log_of_another_run_stays_where_a_new_one_begins(tmp_path):
    text = "epoch,step\n1,4\n2,8\n"
    (tmp_path / "log.csv").write_text(text)
    folder = RunFolder(tmp_path)
    folder.prepare()
    assert (tmp_path / "log.csv").read_text() == text


def test_a_log_that_the_disk_has_no_room_for_stays_as_it_was(tmp_path, monkeypatch):
    RunLog(tmp_path / "log.csv").write({"epoch": 1, "step": 4})
    before = (tmp_path / "log.csv").read_bytes()

    def half(file, data):
        file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log, "write_all", half)
    with pytest.raises(OSError, match=r"log\.csv"):
        RunLog(tmp_path / "log.csv").write({"epoch": 2, "step": 8})
    assert (tmp_path / "log.csv").read_bytes() == before


# Two at once


def test_two_runs_do_not_share_a_folder(tmp_path):
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    first.prepare()
    with pytest.raises(ValueError, match="another run is writing to this folder"):
        second.prepare()
    first.release()
    second.prepare()
    del second
    first.prepare()
    first.release()


def test_a_refused_run_leaves_the_folder_of_the_other(tmp_path):
    path = tmp_path / "new" / "run"
    first, second = RunFolder(path), RunFolder(path)
    first.prepare()
    with pytest.raises(ValueError, match="another run"):
        second.prepare()
    second.release()
    assert path.is_dir()
    first.release()
    assert os.listdir(tmp_path) == []
    second.prepare()
    (path / "last.safetensors").write_bytes(b"")
    second.release()
    assert os.listdir(path) == ["last.safetensors"]


def test_a_folder_removed_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    from minires.training import folder as module

    path = tmp_path / "run"
    lock, removed = module.lock, []

    def removing(descriptor, wait):
        if not removed:
            removed.append(path.rmdir())
        return lock(descriptor, wait)

    monkeypatch.setattr(module, "lock", removing)
    folder = RunFolder(path)
    folder.prepare()
    assert path.is_dir()
    assert removed == [None]
    folder.release()


def test_the_lock_of_a_folder_dies_with_its_process(tmp_path):
    script = """
import sys, time
from minires.training import RunFolder
folder = RunFolder(sys.argv[1])
folder.prepare()
print(1, flush=True)
time.sleep(99)
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"1\n"
        with pytest.raises(ValueError, match="another run"):
            RunFolder(tmp_path).prepare()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    RunFolder(tmp_path).prepare()


def test_a_folder_with_another_run_than_the_resumed_one_is_refused(tmp_path):
    for name in ("a", "b"):
        run(tmp_path / name)
    before = end_of(tmp_path / "b")
    saved = Checkpoint.load(tmp_path / "a" / "last.safetensors")
    with pytest.raises(ValueError, match="holds another run than"):
        RunFolder(tmp_path / "b").prepare(checkpoint=saved)
    copied = dataclasses.replace(saved, source=tmp_path / "b" / "copied.safetensors")
    RunFolder(tmp_path / "b").prepare(checkpoint=copied)
    assert end_of(tmp_path / "b") == before


def test_many_writers_of_one_path_leave_one_whole_file(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([number]) * 300_000 for number in range(8)]

    def write(content):
        for _ in range(20):
            write_whole(path, [content[:1000], content[1000:]])

    threads = [threading.Thread(target=write, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            assert path.read_bytes() in contents
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["file"]
