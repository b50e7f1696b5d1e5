"""The one error that a user is meant to read, and other errors in one line.

ValueError
`-- Refused      bad input: says what was given, what is allowed, and what to do; the command line prints it as one line
"""


class Refused(ValueError):
    """A clear refusal of what the user gave; carries one line and pickles."""


def first_line(error: BaseException) -> str:
    """The first line that an error says; its type where it says nothing."""
    return _said(error) or type(error).__name__


def typed_line(error: BaseException) -> str:
    """The type of an error, and the first line that it says."""
    return ": ".join(filter(None, (type(error).__name__, _said(error))))


def _said(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")
