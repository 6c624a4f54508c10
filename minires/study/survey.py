"""A survey: a chosen set of instruments on one subject, put together as a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    size = subject.image_size
    training = (
        f"{options.steps} updates of {options.batch_size} images (SGD, momentum 0.9, weight decay 1e-4, one cycle up "
        f"to {options.learning_rate:g}), drawn from {len(subject.data[0]):,} without augmentation"
    )
    facts = {
        "Nets": ", ".join(f"{name} ({count_parameters(net):,} parameters)" for name, net in nets.items()),
        "Images": f"{options.data}, averaged to {size} x {size} pixels; gradients on {options.gradient_batch} of them, "
        f"errors on {len(subject.data[1]):,} held-out ones",
        "Training": "a checkpoint, trained before" if options.checkpoint is not None else training,
        "Seed": str(options.seed),
        "Software": f"minires {__version__} on {options.device}",
    }
    return Report(
        title=f"What the skip connections of {subject.name} do to its gradient",
        summary=_summary(subject.names),
        command=command,
        facts=facts,
        sections=sections,
    )


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
