"""The one exception that is answered with a sentence instead of a traceback."""


class UserError(ValueError):
    """A mistake of the user's: the message says what was wrong, what was received and what to do."""
