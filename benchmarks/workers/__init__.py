"""The processes that do the work: one module for each side, each run as ``python -m benchmarks.workers.NAME``."""
