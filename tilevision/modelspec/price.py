"""What a model costs: a price per call and per token, and what was used of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import astuple, dataclass
from typing import Any

from tilevision.errors import ModelError
from tilevision.findings import Findings

__all__ = ["Answers", "Price", "Usage", "count", "counting"]

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """What a model was made to do; adds up.

    Parameters
    ----------
    calls : int
        Requests sent, those that failed included.
    input_tokens, output_tokens : int
        As the backend counts them; 0 where it does not.
    uncounted : int
        Requests whose tokens the backend did not count.
    most_input, most_output : int
        The most tokens that those requests can have used.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    uncounted: int = 0
    most_input: int = 0
    most_output: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def split(self, parts: int) -> list[Usage]:
        """Return `parts` shares that add up to this exactly; the first ones have what is over."""
        return [
            Usage(*(total // parts + (part < total % parts) for total in astuple(self)))
            for part in range(parts)
        ]


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's use costs, in a currency of the user's.

    Parameters
    ----------
    call : float
        Per request.
    input, output : float
        Per million tokens read and written.
    """

    call: float = 0.0
    input: float = 0.0
    output: float = 0.0

    def of(self, usage: Usage) -> float:
        """Return what `usage` costs; tokens that nobody counted at their most."""
        tokens = self.input * (usage.input_tokens + usage.most_input)
        tokens += self.output * (usage.output_tokens + usage.most_output)
        return self.call * usage.calls + tokens / _MILLION

    @classmethod
    def parse(cls, value: Any) -> Price:
        """Read a number (per call), ``{"call": …, "input": …, "output": …}`` or a `Price`.

        Raises
        ------
        ModelError
            If it is none of these, or a number in it is negative.
        """
        if isinstance(value, Price):
            return value
        given = value if isinstance(value, Mapping) else {"call": value}
        known = {"call", "input", "output"}
        if not set(given) <= known or not all(_amount(number) for number in given.values()):
            raise ModelError(
                f"price is {value!r:.80}; give a number per call, or a dict with call (each), "
                "input and output (per million tokens)."
            )
        return cls(**{name: float(number) for name, number in given.items()})


class Answers(list[Findings]):
    """What a hosted model's `request` may return to say what it used: findings, with `usage`.

    Parameters
    ----------
    findings : iterable of Findings
        One for each tile.
    usage : Usage
        Of all of them together.
    remarks : sequence of str
        What the user should be shown about the model, one sentence each; each is shown once.
    """

    def __init__(
        self, findings: Iterable[Findings], usage: Usage, remarks: Sequence[str] = ()
    ) -> None:
        super().__init__(findings)
        self.usage = usage
        self.remarks = tuple(remarks)


_counted: ContextVar[list[Usage] | None] = ContextVar("tilevision_usage", default=None)


def count(usage: Usage) -> None:
    """For adapters: tell whoever counts around this call (`counting`) what it used."""
    counted = _counted.get()
    if counted is not None:
        counted.append(usage)


@contextmanager
def counting() -> Iterator[list[Usage]]:
    """Collect what calls use whose answer cannot say it: a text, a verdict.

    Yields
    ------
    list of Usage
        Grows with each `count` in this thread.
    """
    counted: list[Usage] = []
    token = _counted.set(counted)
    try:
        yield counted
    finally:
        _counted.reset(token)


def _amount(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= value < float("inf")
