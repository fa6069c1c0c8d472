"""Errors that are the user's to mend, told in a sentence."""


class UserError(Exception):
    """Bad input: a binding, file or value. The command line prints the message alone and exits with code 2."""


class TrainingError(Exception):
    """A run that cannot go on, e.g. a loss that is no longer finite. Exits with code 3; checkpoints are kept."""
