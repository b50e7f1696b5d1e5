"""The one error that a user is meant to read.

ValueError
`-- Refused      bad input: says what was given, what is allowed, and what to do; the command line prints it as one line
"""


class Refused(ValueError):
    """A clear refusal of what the user gave; carries one line and pickles."""
