"""The exceptions that are answered with a sentence instead of a traceback."""


class UserError(ValueError):
    """A user's mistake: its message says what was wrong, what was received and what to do."""


class SearchError(UserError):
    """What every trial would meet: no trial's fault, so no search goes on."""


class DiskError(SearchError):
    """The disk is full or refuses to be written."""
