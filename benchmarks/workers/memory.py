"""How much memory this process holds, and the most it has held."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
HOW = "VmHWM" if _STATUS.exists() else "ru_maxrss"


def resident() -> int:
    """Return the bytes of memory this process holds now; where the system does not say, the most it has held."""
    return _status("VmRSS") if _STATUS.exists() else peak()


def peak() -> int:
    """Return the most bytes of memory this process has held, since `forget_peak` where the system can forget."""
    if _STATUS.exists():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> bool:
    """Let the peak begin at what is held now, so that compilation does not count; return whether that worked."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # see proc(5)
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} does not say {name}")
