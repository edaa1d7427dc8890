"""What is said to users: lines on the terminal, and the ends of commands."""

import errno
import signal
import sys

from tqdm import tqdm

EXTRAS = "pip install -r requirements-extras.txt"  # what to do where a package is missing


class InputError(ValueError):
    """What a user can mend, in one line."""


def printable(text):
    """A text whose control characters, which names in files may hold, are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(line, file=None):
    """Print a line, fit for a terminal."""
    tqdm.write(printable(line), file=file)


def warn(*parts, program="predict.py"):
    say(f"{program}: warning: {': '.join(filter(None, parts))}", sys.stderr)


def refuse(message, code=2, program="predict.py"):
    """End with one line for the user."""
    say(f"{program}: error: {message}", sys.stderr)
    raise SystemExit(code)


def reason_of(error):
    """One line that says why a file has failed."""
    if isinstance(error, ImportError) and error.name == "av":
        return f"not an image; videos need PyAV: {EXTRAS}"
    reason = getattr(error, "strerror", None) or str(error)  # without the path
    return " ".join(reason.split()) or type(error).__name__


def is_full(error):
    """Has an exception to do with a full disk?"""
    full = [getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT")]
    return isinstance(error, OSError) and error.errno in full


class Output:
    """Standard output, which may get full or be closed before the files are written: the rest of
    what it is given is dropped then, and ``error`` tells why."""

    def __init__(self, file):
        self.file, self.error = file, None

    def write(self, text):
        self.attempt(self.file.write, text)

    def flush(self):
        self.attempt(self.file.flush)

    def attempt(self, action, *given):
        try:
            if not self.error:
                action(*given)
        except OSError as error:
            self.error = error


def end_as_on_ctrl_c(*names):
    """Let signals do what Ctrl-C does, so that no half-written file stays, and return their
    numbers; not those that are ignored, as by nohup, nor those that a system does not have."""
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    numbers = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
    for number in numbers:
        signal.signal(number, signal.default_int_handler)
    return numbers
