"""The README is a promise: its Python runs as printed, and its commands and links exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", PYTHON, ids=[f"block {i}" for i in range(len(PYTHON))])
def test_python_blocks_print_what_their_comments_say(block, capsys):
    exec(compile(block, "README.md", "exec"), {})
    expected = re.findall(r"print\(.*\)\s*# (.*)", block)
    assert capsys.readouterr().out.splitlines() == expected
    assert expected


def test_links_lead_to_files():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_ci_runs_the_test_command_of_the_readme():
    commands = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    test_command = next(command.strip() for command in commands if "pytest" in command)
    assert test_command in (ROOT / ".ci" / "run").read_text()
