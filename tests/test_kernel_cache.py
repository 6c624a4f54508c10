"""Compiled kernels on disk: where they are, what is trusted, and what pip finds when it installs and removes."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import minires
from minires.kernels.cpu import cache

ROOT = Path(minires.__file__).parents[1]

# Computes something with one compiled kernel; prints how many functions were compiled for it, and their folder.
PROGRAM = """
import numpy as np
from numba.core import event
from minires.kernels.cpu import cache, relu
with event.install_recorder("numba:compile") as recorder:
    y = relu(np.linspace(-1, 1, 1 << 16, dtype=np.float32))
assert y.min() == 0 and y.max() == 1 and (y > 0).sum() == 1 << 15
print(len(recorder.buffer) // 2, cache.folder())
"""


def run(program=PROGRAM, *options, **environment):
    """Run a program in a process of its own; return what it printed, and its warnings."""
    own = {name: value for name, value in os.environ.items() if name not in ("MINIRES_CACHE_DIR", "NUMBA_CACHE_DIR")}
    environment = {**own, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in environment.items()}}
    command = [sys.executable, *options, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    compiled, folder = result.stdout.split()
    return int(compiled), Path(folder), result.stderr


def has_numba_files(folder):
    return any(path.suffix in (".nbi", ".nbc") for path in folder.rglob("*"))


def test_the_second_process_compiles_nothing(tmp_path):
    first, folder, _ = run(MINIRES_CACHE_DIR=tmp_path)
    assert first >= 2
    assert folder == tmp_path / "kernels" / f"{minires.__version__}-{cache.CHECKSUM}"
    assert len(list(folder.glob("*.kernel"))) == first
    assert run(MINIRES_CACHE_DIR=tmp_path) == (0, folder, "")


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="they have a standard of their own")
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HOME": "home"}, "home/.cache/minires"),
        ({"HOME": "home", "XDG_CACHE_HOME": "xdg"}, "xdg/minires"),
        ({"HOME": "home", "NUMBA_CACHE_DIR": "numba", "XDG_CACHE_HOME": "xdg"}, "numba/minires"),
        ({"HOME": "home", "NUMBA_CACHE_DIR": "numba", "MINIRES_CACHE_DIR": "own"}, "own"),
        ({"HOME": "home", "MINIRES_CACHE_DIR": ""}, "home/.cache/minires"),
    ],
)
def test_the_folder_follows_the_environment(environment, expected, tmp_path, monkeypatch):
    for name in ("XDG_CACHE_HOME", "MINIRES_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache.config, "CACHE_DIR", "")
    for name, value in environment.items():
        path = str(tmp_path / value) if value else ""
        if name == "NUMBA_CACHE_DIR":
            monkeypatch.setattr(cache.config, "CACHE_DIR", path)
        monkeypatch.setenv(name, path)
    assert cache._cache_directory() == tmp_path / expected


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="they have a standard of their own")
def test_a_relative_xdg_cache_home_is_ignored(monkeypatch, tmp_path):
    monkeypatch.delenv("MINIRES_CACHE_DIR", raising=False)
    monkeypatch.setattr(cache.config, "CACHE_DIR", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert cache._cache_directory() == tmp_path / ".cache/minires"


@pytest.mark.parametrize("other", sorted(path.name for path in (ROOT / "minires/kernels/cpu").glob("*.py")))
def test_the_checksum_covers_every_file_of_the_room(other, tmp_path, monkeypatch):
    room = shutil.copytree(ROOT / "minires/kernels/cpu", tmp_path / "cpu")
    monkeypatch.setattr(cache, "files", lambda package: room)
    assert cache._checksum() == cache.CHECKSUM
    (room / other).write_text((room / other).read_text() + "\n")
    assert cache._checksum() != cache.CHECKSUM


def test_a_change_of_what_a_kernel_inlines_is_seen(tmp_path):
    shutil.copytree(ROOT / "minires", tmp_path / "minires", ignore=shutil.ignore_patterns("__pycache__"))
    program = """
import numpy as np
from minires.kernels import cpu
from minires.kernels.geometry import Conv2dGeometry
x, w, ones = np.ones((1, 8, 4, 4), np.float32), np.ones((8, 1, 1, 1), np.float32), np.ones(8, np.float32)
geometry = Conv2dGeometry(x.shape, w.shape, (1, 1), ((0, 0), (0, 0)), groups=8)
print(int(cpu.conv2d_add_relu(x, w, ones, None, True, geometry).max()), "-")
"""
    settings = {"PYTHONPATH": tmp_path, "MINIRES_CACHE_DIR": tmp_path / "cache", "PYTHONDONTWRITEBYTECODE": 1}
    assert run(program, "-P", **settings)[0] == 2
    file = tmp_path / "minires/kernels/cpu/epilogue.py"  # its `finish` is inlined in the kernels of depthwise.py
    assert "value += bias\n" in file.read_text()
    file.write_text(file.read_text().replace("value += bias\n", "value += 41 * bias\n"))
    assert run(program, "-P", **settings)[0] == 42


def test_kernels_of_other_files_are_not_kept():
    """The checksum would not show that they have changed."""

    def double(x):
        return 2 * x

    kernel = cache.compiler()(double)
    assert kernel(4) == 8
    assert kernel.stats.cache_path is None


def test_processes_that_start_at_once_share_one_cache(tmp_path):
    environment = {**os.environ, "MINIRES_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    for process in processes:
        process.stdout.close()
    compiled, folder, _ = run(MINIRES_CACHE_DIR=tmp_path)
    assert compiled == 0
    assert {path.suffix for path in folder.iterdir()} == {".kernel", ""}
    assert len([path for path in folder.iterdir() if path.suffix == ""]) == 1  # no file half written


def test_damaged_files_are_made_anew(tmp_path):
    compiled, folder, _ = run(MINIRES_CACHE_DIR=tmp_path)
    kernels = sorted(folder.glob("*.kernel"))
    assert len(kernels) == compiled >= 2
    kernels[0].write_bytes(b"\0" * 5000)
    kernels[1].write_bytes(kernels[1].read_bytes()[:-1])
    assert run(MINIRES_CACHE_DIR=tmp_path)[::2] == (2, "")
    assert run(MINIRES_CACHE_DIR=tmp_path)[::2] == (0, "")


def test_a_file_of_another_kernel_is_not_taken(tmp_path):
    path = tmp_path / "relu.kernel"
    cache._write(path, b"relu", [1, 2])
    assert cache._read(path, b"relu") == [1, 2]
    assert cache._read(path, b"add") is None


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners")
def test_what_others_could_have_written_is_not_loaded(tmp_path):
    path = tmp_path / "relu.kernel"
    cache._write(path, b"relu", 1)
    assert path.stat().st_mode & 0o777 & ~0o644 == 0
    path.chmod(0o664)
    assert cache._read(path, b"relu") is None
    path.chmod(0o644)
    assert cache._read(path, b"relu") == 1
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
        assert cache._read(path, b"relu") is None


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners")
def test_a_folder_of_others_is_left_for_the_temporary_one(tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    folder = tmp_path / "kernels" / f"{minires.__version__}-{cache.CHECKSUM}"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    _, found, warning = run(MINIRES_CACHE_DIR=tmp_path, TMPDIR=temporary)
    assert found.is_relative_to(temporary / f"minires-{os.geteuid()}")
    assert (temporary / f"minires-{os.geteuid()}").stat().st_mode & 0o777 == 0o700
    assert f"cannot be kept in {folder} (it belongs to another user, or others may write to it)" in warning
    assert f"they are in {found}" in warning
    assert warning.count("RuntimeWarning") == 1
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners")
@pytest.mark.parametrize("trap", ["file", "link", "writable"])
def test_without_a_place_each_process_compiles(trap, tmp_path):
    own = tmp_path / f"minires-{os.geteuid()}"
    if trap == "file":
        own.touch()
    elif trap == "link":
        (tmp_path / "elsewhere").mkdir(0o700)
        own.symlink_to(tmp_path / "elsewhere")
    else:
        own.mkdir()
        own.chmod(0o777)
    (tmp_path / "no folder").touch()
    program = PROGRAM.replace("cache.folder()", "str(cache.folder()).replace(' ', '')")
    compiled, folder, warning = run(program, MINIRES_CACHE_DIR=tmp_path / "no folder" / "x", TMPDIR=tmp_path)
    assert compiled >= 2
    assert folder == Path("None")
    assert "each process compiles them anew. The environment variable MINIRES_CACHE_DIR may name" in warning
    assert warning.count("RuntimeWarning") == 1
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".kernel"]


def test_a_full_disk_stops_no_kernel(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_can_write", True)

    def replace(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.os, "replace", replace)
    with pytest.warns(RuntimeWarning, match=r"cannot be kept in .* \(No space left on device\): each process compiles"):
        cache._write(tmp_path / "relu.kernel", b"relu", 1)
    cache._write(tmp_path / "add.kernel", b"add", 1)  # said once
    assert list(tmp_path.iterdir()) == []


def make_version(kernels, name, age):
    folder = kernels / name
    folder.mkdir(parents=True)
    (folder / cache.IN_USE).touch()
    (folder / "relu.kernel").write_bytes(b"code")
    os.utime(folder, (1e9 - age, 1e9 - age))
    return folder


def test_old_versions_are_removed_but_for_the_last_and_those_in_use(tmp_path):
    kernels = tmp_path / "kernels"
    versions = [make_version(kernels, f"0.0.{age}-0", age) for age in range(8)]
    (kernels / "of somebody else").mkdir()
    hold = (
        "import sys; from pathlib import Path; from minires.kernels.cpu import cache\n"
        "cache.__version__, cache.CHECKSUM = '0.0.7', '0'\n"
        "print(cache._prepare(Path(sys.argv[1])), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as user:
        assert user.stdout.readline().strip() == str(versions[7])
        os.utime(versions[7], (1, 1))
        own = cache._prepare(tmp_path)
        kept = {own, *versions[: cache.KEPT_VERSIONS - 1], versions[7], kernels / "of somebody else"}
        assert set(kernels.iterdir()) == kept
        user.communicate("")
    shutil.rmtree(own)
    cache._prepare(tmp_path)
    assert set(kernels.iterdir()) == kept - {versions[7]}


def test_numba_code_of_the_user_is_kept_where_numba_keeps_it(tmp_path):
    (tmp_path / "own.py").write_text("import numba\n@numba.njit(cache=True)\ndef f(x):\n    return x + 1\n")
    program = "from own import f\n" + PROGRAM + "assert f(1) == 2\n"
    run(program, MINIRES_CACHE_DIR=tmp_path / "cache", PYTHONPATH=tmp_path)
    assert has_numba_files(tmp_path / "__pycache__")
    assert not has_numba_files(tmp_path / "cache")


class Environment:
    """A virtual environment with all that this one has, but for minires, and a copy of the checkout; no network."""

    def __init__(self, folder):
        self.checkout, self.cache = folder / "checkout", folder / "cache"
        shutil.copytree(ROOT / "minires", self.checkout / "minires", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, self.checkout)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        self.python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.site = Path(subprocess.check_output([self.python, "-c", code], text=True).strip())
        self.others = folder / "others"
        self.others.mkdir()
        for path in map(Path, sys.path):
            for entry in path.iterdir() if path.name in ("site-packages", "dist-packages") else ():
                if "minires" not in entry.name.lower() and not (self.others / entry.name).exists():
                    (self.others / entry.name).symlink_to(entry)
        (self.site / "others.pth").write_text(f"{self.others}\n")
        self.empty = self.packages()

    def packages(self):
        return {str(path.relative_to(self.site)) for path in self.site.rglob("*")}

    def pip(self, *arguments):
        command = [self.python, "-m", "pip", "--disable-pip-version-check", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, cwd=self.site, check=False)
        assert result.returncode == 0, result.stderr

    def install(self, *options):
        self.pip("install", "--no-deps", "--no-build-isolation", "--no-index", *options, self.checkout)

    def uninstall(self):
        self.pip("uninstall", "--yes", "minires")
        assert self.packages() == self.empty

    def use(self, folder, *options):
        """Compile a kernel, and import much else; minires is found in ``folder``."""
        program = PROGRAM + "import minires.models, minires.training, minires.cli\nprint(minires.__file__)"
        environment = {**os.environ, "MINIRES_CACHE_DIR": str(self.cache)}
        command = [self.python, *options, "-c", program]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.cache.parent)
        assert result.returncode == 0, result.stderr
        assert Path(result.stdout.splitlines()[-1]) == folder / "minires" / "__init__.py"


@pytest.fixture
def environment(tmp_path):
    if find_spec("pip") is None or find_spec("setuptools") is None:
        pytest.skip("no pip and setuptools here")
    return Environment(tmp_path)


@pytest.mark.slow
def test_pip_installs_and_removes_in_any_order(environment):
    environment.install()
    environment.use(environment.site)
    environment.install("--editable")  # the two commands of the README
    environment.use(environment.checkout)
    environment.uninstall()
    environment.install("--editable")
    environment.use(environment.checkout)
    environment.install()
    environment.use(environment.site)
    version = environment.checkout / "minires" / "version.py"
    version.write_text(version.read_text().replace(minires.__version__, "99.0.0"))
    environment.install()  # an upgrade
    environment.use(environment.site)
    environment.uninstall()
    environment.install()
    environment.uninstall()
    assert {path.name.partition("-")[0] for path in (environment.cache / "kernels").iterdir()} == {
        minires.__version__,
        "99.0.0",
    }


def test_the_commands_of_the_readme_one_after_the_other(environment):
    environment.install()
    environment.use(environment.site)
    left = environment.site / "minires/kernels/cpu/__pycache__/conv._columns-1.py311.1.nbc"  # by an earlier version
    left.touch()
    environment.install("--editable")
    assert [path for path in environment.site.rglob("minires/**/*") if path.is_file()] == [left]
    environment.use(environment.checkout)
