"""Errors that are told in a sentence, and the exit code of each."""


class UserError(Exception):
    """Bad input: a binding, file or value. The command line prints the message alone and exits with code 2."""


class MainProcessError(UserError):
    """The main process found a mistake, and tells it."""


class TrainingError(Exception):
    """A run that cannot go on, e.g. because losses are no longer finite. Exits with code 3; checkpoints are kept."""


class Interrupted(Exception):
    """A run that was told to stop by SIGTERM or SIGUSR1, and saved. Exits with code 75, "try again later"."""


class Notice(UserWarning):
    """What a user should know though nothing has to stop: shown as a line, without a place in our source."""
