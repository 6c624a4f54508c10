"""Benchmarks: minires against PyTorch on the same cores. ``python -m benchmarks --help`` says how to run them.

Each side runs in a process of its own, and only the PyTorch worker imports PyTorch:

    cases        what can be measured, by name and group
    inputs       the numbers both sides work on, and the digests their results are compared by
    workers/     one process for each side, which builds a case and runs steps of it when asked
    process      the other end of the pipe to a worker
    measure      the choice of the rival's fastest variant, alternating turns, statistics
    environment  the machine, versions and commit
    results      the JSON file
    report       the tables for people
"""
