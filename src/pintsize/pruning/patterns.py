"""Which layers a shell-style pattern names."""

from fnmatch import fnmatchcase


def matches(path: str, pattern: str) -> bool:
    """Whether `pattern` names the module at `path`, or one that holds it."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}.*")
