"""The examples run, and show what their text says."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name, source=None):
    """Import an example by name, or the given text in its place."""
    path = EXAMPLES / f"{name}.py"
    spec = importlib.util.spec_from_loader(name, loader=None)
    module = importlib.util.module_from_spec(spec)
    exec(compile(source or path.read_text(), str(path), "exec"), module.__dict__)
    return module


def test_residual_unit_by_hand_equals_the_engine():
    assert load("residual_unit").main() < 1e-12


def test_residual_layers_learn_half_of_the_input_where_plain_ones_stall():
    plain, residual = load("half_of_the_input").main()
    assert residual < 1e-3
    assert plain > 100 * residual


def test_the_tutorial_runs_on_pytorch_after_changing_its_imports():
    """The same text with PyTorch's import lines trains just as well: the words really are PyTorch's."""
    ours = (EXAMPLES / "tutorial_resnet18.py").read_text()
    imports = {
        "import minires as torch": "import torch",
        "import minires.optim as optim": "import torch.optim as optim",
        "from minires import nn": "from torch import nn",
        "from minires.data import DataLoader, TensorDataset": "from torch.utils.data import DataLoader, TensorDataset",
    }
    theirs = ours
    for line, replacement in imports.items():
        assert theirs.count(line) == 1
        theirs = theirs.replace(line, replacement)
    assert "minires" not in theirs.split('"""', 2)[2]  # nothing but the imports named it
    for source in (ours, theirs):
        losses = load("tutorial_resnet18", source).main(epochs=2, images=64, width=8)
        assert len(losses) == 4
        assert np.isfinite(losses).all()
        assert np.mean(losses[-2:]) < np.mean(losses[:2])


def test_finetuning_a_new_head_learns():
    trained, tuned = load("finetune").main(count=800, epochs=1)
    assert np.isfinite(trained)
    assert tuned < np.log(5)  # better than guessing among five classes


def test_hooks_show_the_gradient_of_every_block():
    residual, plain = load("gradient_norms").main(depth=20, batch=4)
    assert list(residual) == list(plain)
    assert len(residual) == 9
    assert all(norm > 0 for norm in residual.values())


def test_deep_plain_nets_learn_worse_and_lose_their_gradients_direction():
    results = load("why_plain_nets_degrade").main(depths=(8, 20), count=300, steps=6)
    lengths = {name: length for name, (_, length) in results.items()}
    assert lengths["plain-20"] < lengths["plain-8"]
    assert lengths["plain-20"] < lengths["residual-20"]
    assert all(np.isfinite(loss) for loss, _ in results.values())  # six steps are too few to rank them


def test_the_identity_carries_the_gradient_whatever_the_depth():
    shares = {}
    for blocks in (2, 6):
        split, paths = load("what_the_identity_carries").main(blocks)
        assert len(split.blocks) == blocks
        assert all(block.identity for block in split.blocks)
        assert sum(length.share for length in paths.lengths) == pytest.approx(1)
        norms = [length.mean_norm for length in paths.lengths]
        assert norms == sorted(norms, reverse=True)
        assert paths.median_length < blocks / 2
        shares[blocks] = paths.lengths[0].mean_norm
    assert shares[2] == pytest.approx(shares[6], rel=0.5)


def test_gradcheck_finds_the_forgotten_half_of_the_product_rule():
    verdicts = load("check_your_backward").main()
    assert list(verdicts.values()) == [True, False, True]


def test_the_gpu_example_trains_on_what_there_is(capsys):
    losses = load("train_on_a_gpu").main(count=192, epochs=2)
    assert losses[1] < losses[0]
    output = capsys.readouterr().out
    assert "on cuda" in output or ("no GPU:" in output and "on cpu" in output)


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_every_example_is_a_script_with_its_command_in_the_docstring(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert f"python examples/{name}.py" in text
    assert 'if __name__ == "__main__":' in text


def test_the_first_example_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "residual_unit.py")], capture_output=True, text=True, check=True
    )
    assert "differ from minires by at most" in done.stdout
