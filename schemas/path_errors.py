"""Which errors about a path tell of the path."""

import errno

OF_THE_PATH = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EACCES,
        errno.EPERM,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EINVAL,  # this and the next: a name that the file system does not take
        errno.EILSEQ,
    }
)
"""Any other error tells of the system, and may have passed when the path is asked for again: a mount that is away, a
disk that fails, no descriptors left."""
