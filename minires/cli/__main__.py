"""``python -m minires.cli``: the command where its script is not on the path."""

from minires.cli import main

main()
