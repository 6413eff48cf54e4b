"""The one exception that commands turn into a single line and exit code 1."""


class UserError(ValueError):
    """Something the person at the keyboard can mend: a config key, a path, a checkpoint, a prompt."""
