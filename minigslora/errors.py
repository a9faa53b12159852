"""Errors that a user can act on: what was given, what was expected, what to do next."""

from __future__ import annotations


class MiniGSLoRAError(Exception):
    """Base of every error this library raises on purpose."""


class ModelError(MiniGSLoRAError):
    """A model cannot be used as asked: no such layer, a rank that does not fit, a wrong file."""


class DataError(MiniGSLoRAError):
    """Images, labels or splits are not as expected."""


class ConfigError(MiniGSLoRAError):
    """A configuration key or value is not allowed."""


class TrainingDiverged(MiniGSLoRAError):
    """A loss term stopped being finite; the model was put back to its last good state."""


class OutputError(MiniGSLoRAError):
    """Results cannot be written where they were asked for."""


class Advice(UserWarning):
    """What is asked can be done, but there is something to know about it."""


class FewImages(Advice):
    """There are so few images at hand that what is kept may suffer."""


class UnknownMoves(Advice):
    """The model does not know its own images once they are augmented, so that they are not."""


class WeakOracle(Advice):
    """A reference model knows clearly less of the classes that stay than the model under audit."""


class RunFailed(MiniGSLoRAError):
    """A notebook's run did not come to its end."""


def first_line(problem: BaseException) -> str:
    """Return the first line of what an exception of somebody else's says, or its kind where it says none."""
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]
