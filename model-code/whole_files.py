"""Writing files that nobody sees half of, for the tools; training scripts stand alone."""

import os
from contextlib import contextmanager


@contextmanager
def written(path, mode="wb", **options):
    """A file to write to, which becomes ``path`` when all of it is on the disk."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
