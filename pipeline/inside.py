"""Paths that a file of a dataset names: they lie in the dataset's folder, or they are not followed."""

from pathlib import PurePosixPath


def is_inside(path: object) -> bool:
    """Return whether a value is a relative path that cannot leave the folder that it is joined to.

    Links are not looked at: who hands over a folder with links in it decides where they lead.
    """
    if not isinstance(path, str) or not path or path[0] == "/" or "://" in path or "::" in path:
        return False
    if any(mark in path for mark in ("\\", "\0")) or not path.isprintable():
        return False
    parts = PurePosixPath(path).parts
    return bool(parts) and ".." not in parts
