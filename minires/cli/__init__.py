"""The `minires` command: one file for each subcommand, each a thin face on the rooms below.

What is slow to import is imported when a command runs, so that ``--help`` answers at once.
"""

from minires.cli.app import app, main

__all__ = ["app", "main"]
