"""What a check has found, as data: printed by `report`, written as JSON by `to_dict`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from minires.verify.verdict import ORDER, Verdict


class GradcheckError(RuntimeError):
    """A check did not pass; the message says what is wrong and where. ``result`` holds everything that was found."""

    def __init__(self, message: str, result: Result | None = None):
        super().__init__(message)
        self.result = result


@dataclass(frozen=True)
class Entry:
    """One derivative: of an element of an output by an element of an input, or along a random direction.

    ``expected_error`` bounds how far the numerical value may be off.
    """

    output: str
    input: str
    analytical: float
    numerical: float
    expected_error: float
    verdict: Verdict

    def __str__(self) -> str:
        return (
            f"the derivative of {self.output} by {self.input} is {self.analytical:.8g}, finite differences give "
            f"{self.numerical:.8g} ± {self.expected_error:.1g}"
        )


@dataclass(frozen=True)
class Diagnosis:
    """A known pattern that the wrong derivatives follow: ``pattern`` names it, ``text`` explains it."""

    pattern: str
    text: str


@dataclass(frozen=True)
class Block:
    """The derivatives of one output by one input.

    ``counts`` says how many derivatives got which verdict; ``worst`` holds the worst of them, worst first. Arrays are
    kept out: this is data for people and JSON.
    """

    output: str
    input: str
    output_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    counts: dict[Verdict, int]
    worst: tuple[Entry, ...] = ()
    diagnoses: tuple[Diagnosis, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst that any derivative got."""
        return max((v for v, count in self.counts.items() if count), key=ORDER.index, default=Verdict.EQUAL)


@dataclass(frozen=True)
class Result:
    """A check as a whole; true only if every derivative is equal.

    Attributes
    ----------
    mode : "full", "directions" or "parameters"
    redrawn, nudged : how often a direction was drawn again, and the inputs moved, because of a kink
    evaluations : of the function
    notes : what else a reader should know
    """

    blocks: tuple[Block, ...]
    mode: str
    redrawn: int = 0
    nudged: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = field(default=())
    failure: tuple[Verdict, str] | None = None  # of the function as a whole, such as not deterministic

    @property
    def verdict(self) -> Verdict:
        """The worst of the blocks' verdicts."""
        verdicts = [block.verdict for block in self.blocks]
        verdicts += [] if self.failure is None else [self.failure[0]]
        return max(verdicts, key=ORDER.index, default=Verdict.EQUAL)

    @property
    def worst(self) -> Block | None:
        """The first of the blocks with the worst verdict."""
        return max(self.blocks, key=lambda block: ORDER.index(block.verdict), default=None)

    def __bool__(self) -> bool:
        return self.verdict is Verdict.EQUAL

    def with_notes(self, *notes: str) -> Result:
        """Return a copy with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        return {"verdict": str(self.verdict), "passed": bool(self), **plain(asdict(self))}

    def __str__(self) -> str:
        if self.failure is not None:
            return self.failure[1]
        counts = self.counts()
        total = sum(counts.values())
        how = f"{total} derivatives ({self.mode}), {self.evaluations} evaluations in {self.seconds:.2g} s"
        if self.redrawn or self.nudged:
            how += f"; because of kinks directions were redrawn {self.redrawn} times, inputs nudged {self.nudged} times"
        if self:
            return f"equal: {how}"
        block = self.worst
        assert block is not None  # else the verdict were equal
        lines = [f"{self.verdict}: {counts[self.verdict]} of {how}"]
        if self.verdict is Verdict.IGNORED:
            lines.append(f"{block.input} has no influence: leave it out, or pass allow_unused=True")
        lines += [str(entry) for entry in block.worst[:1]]
        lines += [diagnosis.text for diagnosis in block.diagnoses]
        return "; ".join([*lines, *self.notes])

    def counts(self) -> dict[Verdict, int]:
        """Return how many derivatives got which verdict."""
        return {verdict: sum(block.counts.get(verdict, 0) for block in self.blocks) for verdict in ORDER}

    def __rich__(self) -> Any:
        from minires.verify.report import rendered

        return rendered(self)


def plain(value: Any) -> Any:
    """Enums as their text, and floats that JSON does not know as theirs."""
    if isinstance(value, dict):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Verdict):
        return str(value)
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value
