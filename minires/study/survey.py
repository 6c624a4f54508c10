"""A survey: a chosen set of instruments on one subject, put together as a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minires.data import dataset_info
from minires.models.summary import count_parameters
from minires.study.report import Report
from minires.study.sections import run_instrument
from minires.study.subject import Subject
from minires.version import __version__


def survey(
    subject: Subject,
    instruments: Sequence[str],
    command: str,
    on_section: Callable[[str, list[str]], None] = lambda title, findings: None,
) -> Report:
    """Run instruments by name and return the report.

    Parameters
    ----------
    command : what made the report, to be quoted in it
    on_section : called with the title and the findings (or the problem) of each section when it is done

    Raises
    ------
    StudyError
        If there is no such instrument, or the subject cannot be built.
    """
    nets = subject.fresh()
    sections = []
    for name in instruments:
        section = run_instrument(name, subject)
        sections.append(section)
        on_section(section.title, list(section.findings) or [section.problem])
    options = subject.options
    facts = {
        "Nets": ", ".join(f"{name} ({count_parameters(net):,} parameters)" for name, net in nets.items()),
        "Images": _images(subject),
        "Training": _training(subject),
        "Seed": str(options.seed),
        "Software": f"minires {__version__} on {options.device}",
    }
    return Report(
        title=f"The gradient in {subject.name}{', with and without skips' if len(subject.names) > 1 else ''}",
        summary=_summary(subject.names),
        command=command,
        facts=facts,
        sections=sections,
    )


def _images(subject: Subject) -> str:
    size, data = subject.image_size, subject.options.data
    averaged = "averaged to " if data != "imagefolder" and size != dataset_info(data).image_size else ""
    return (
        f"{data}, {averaged}{size} x {size} pixels; gradients on {len(subject.batch[0])} of them, errors on "
        f"{len(subject.data[1]):,} held-out ones"
    )


def _training(subject: Subject) -> str:
    recipe, said = subject.recipe, []
    if subject.options.checkpoint is not None:
        said.append(f"{subject.name}: before this run")
    trained = [name + (" (stopped early)" if curve.failure else "") for name, curve in subject.trained_here.items()]
    if trained:
        said.append(
            f"{', '.join(trained)}: {recipe.steps} updates of {recipe.batch_size} images (SGD, Nesterov "
            f"momentum {recipe.momentum:g}, weight decay {recipe.weight_decay:g}, one cycle up to "
            f"{recipe.learning_rate:g}), drawn from {len(subject.data[0]):,} without augmentation"
        )
    return "; ".join(said) or "none: these instruments look at fresh nets"


def _summary(names: list[str]) -> str:
    if len(names) == 1:
        return (
            f"Instruments that follow the gradient through {names[0]}, each with its figure, the numbers behind it and "
            "a paragraph on how to read it."
        )
    return (
        f"Instruments that follow the gradient through {names[0]} and through the same net without its skip "
        "connections, each with its figure, the numbers behind it and a paragraph on how to read it."
    )
