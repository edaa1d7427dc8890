"""Files that others see whole or not at all."""

import os
from contextlib import contextmanager


@contextmanager
def written(path, mode="wb", **options):
    """A file to write to, which becomes ``path`` when all of it is on the disk.

    Until then it has another name beside it (``.NAME.tmp``), which is gone if anything fails: what
    was ``path`` before stays. ``options`` are those of ``open``. An OSError of the writing names
    ``path``: that of a full disk would name no file at all.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as problem:
        if problem.filename in (None, str(temporary)):
            problem.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
