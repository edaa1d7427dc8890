"""Files that others see whole or not at all, in folders that one process at a time fills."""

import os
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

# Where training scripts, commands and pretrained/ lie: inside an installed package in a folder of
# their own (pyproject.toml), in a clone around it.
HERE = Path(__file__).resolve().parent
MODEL_CODE = HERE / "model_code" if (HERE / "model_code").is_dir() else HERE.parent


def kinds_of(paths):
    """How many there are of each suffix, in words: 3 .heic, 1 .txt, 1 without suffix."""
    kinds = Counter(Path(path).suffix.lower() or "without suffix" for path in paths)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


@contextmanager
def atomic_write(path, mode="wb", **options):
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


def lock(folder):
    """Keep other processes out of ``folder`` until what is returned, a descriptor, is closed or
    this process ends. BlockingIOError where another one is at work. None where there are no locks:
    on Windows, and on some network file systems."""
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        os.close(descriptor)
        if isinstance(problem, BlockingIOError):
            what = "another process is at work there"
            raise BlockingIOError(problem.errno, what, str(folder)) from None
        return None
    return descriptor
