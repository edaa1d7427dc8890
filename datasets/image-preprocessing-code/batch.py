"""What the preprocessing scripts do around one image: read, write, share out, go on.

What a run finds out about an image (its size in bytes, why it was rejected, its landmarks) is a
line of OUT/progress.jsonl, written as soon as it is known. So a run that was interrupted, even by
kill -9, goes on with what is missing, and photos of another size than then are noticed.
"""

import argparse
import csv
import importlib.util
import io
import json
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

sys.path.append(str(Path(__file__).resolve().parents[2] / "model-code"))
from coral_age import media, raw
from coral_age.files import atomic_write, kinds_of, lock

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp")
# Those of the training scripts; named, as Pillow would start another program for some others (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")

warnings.simplefilter("ignore", UserWarning)  # Pillow's, of odd tags and palettes
warnings.simplefilter("error", Image.DecompressionBombWarning)  # rejects such an image


def argument_parser(description):
    """Parser with the options of all these scripts; its errors are one line, exit code 2."""
    parser = argparse.ArgumentParser(description=description)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: error: {message}\n")
    parser.add_argument("--images", type=Path, required=True, metavar="IN", help="image folder")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="OUT",
        help="folder of the results; what is in it from an interrupted run is not done again",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=min(os.cpu_count(), 61) if sys.platform == "win32" else os.cpu_count(),
        help="processes (default: one per core)",
    )
    return parser


@contextmanager
def one_line_errors(parser, out):
    """Ends the script with one line where a disk fails or the user interrupts it."""
    try:
        yield
    except OSError as problem:
        parser.error(f"{problem.filename or out}: {problem.strerror or problem}")
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)


def read_image(path):
    """The image as RGB, turned as its EXIF data says.

    Raises ValueError if its content is at fault, OSError (a failing disk) if it cannot be read.
    """
    data = path.read_bytes()
    with decoding():
        raw.refuse(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return media.as_rgb(image, turn=True)


@contextmanager
def decoding():
    """Raises ValueError, the reason of a rejection, for all that decoding raises."""
    try:
        yield
    except UnidentifiedImageError:
        raise ValueError("unreadable pixels: not an image") from None
    except Exception as error:  # Pillow's decoders raise many kinds on corrupt files
        raise ValueError(f"unreadable pixels: {' '.join(str(error).split())}") from None


def result_name(name):
    """The path below OUT of the result of an image, of whose path below IN this is."""
    return Path(name).with_name(f"{Path(name).stem}.jpg").as_posix()


def read_records(journal):
    """Settings and ``{file: record}`` of progress.jsonl, whose last line a kill can cut short.

    Raises an exception if it is something else.
    """
    settings, records = None, {}
    lines = [line for line in journal.read_text(encoding="ascii").splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            if 1 < number < len(lines):
                raise ValueError(f"line {number} is damaged") from None
            break
        if settings is None:
            settings = record
            continue
        for points in record.get("landmarks"), record.get("resized"):
            if points and not (len(points) == 136 and {*map(type, points)} <= {int, float}):
                raise ValueError("no landmarks")
        if not isinstance(record.get("rejected", ""), str):
            raise ValueError("no reason")
        if not isinstance(record.get("faces", 1), int):
            raise ValueError("no number")
        records[record["file"]] = record
    if settings is None:
        raise ValueError("no settings")
    return settings, records


def images_in(folder):
    """The names of the images in ``folder``, sorted, and what is left out, in words. ValueError
    where there is no image."""
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    files = [entry.name for entry in entries if entry.is_file()]
    names = [name for name in files if name.lower().endswith(SUFFIXES)]
    others = [name for name in files if not name.lower().endswith(SUFFIXES)]
    broken = [entry for entry in entries if entry.is_symlink() and not os.path.exists(entry)]
    left = [f"{len(others)} other files: {kinds_of(others)}"] * bool(others)
    left += [f"{len(broken)} links that lead nowhere"] * bool(broken)
    left = f"left out: {'; '.join(left)}" * bool(left)
    if not names:
        raise ValueError(
            f"no {', '.join(SUFFIXES)} file in it "
            f"(subfolders are not searched{'; ' * bool(left)}{left})"
        )
    return names, left


def start(parser, args, settings, packages, find=images_in):
    """Check folders and options; returns the names of the images and the records so far.

    ``settings``: what must be equal in all runs into the same OUT. ``packages``: {module: name on
    PyPI} of what the workers import. ``find`` is images_in, or what finds other images, named by
    their paths below IN.
    """
    if args.workers < 1:
        parser.error(f"--workers {args.workers}: must be at least 1")
    for module, package in packages.items():
        if importlib.util.find_spec(module) is None:
            parser.error(f"{package} is not installed: {media.EXTRAS}")
    try:
        names, left = find(args.images)
    except ValueError as problem:
        parser.error(f"--images {args.images}: {problem}")
    if left:
        print(f"{args.images}: {left}", flush=True)
    results, twins = {}, []
    for name in names:
        if (other := results.setdefault(result_name(name), name)) != name:
            twins.append(f"{other!r} and {name!r} both give {result_name(name)!r}")
    if twins:
        more = f"; and so on, {len(twins)} times" * (len(twins) > 1)
        parser.error(f"{args.images}: {twins[0]}; rename or remove one of them{more}")

    args.out.mkdir(parents=True, exist_ok=True)
    if args.out.samefile(args.images):
        parser.error(f"--out {args.out}: is the folder of --images; choose another folder")
    lock(args.out)  # until the end of this process
    journal, before, records = args.out / "progress.jsonl", settings, {}
    if journal.exists():
        try:
            before, records = read_records(journal)
        except OSError:
            raise
        except Exception as error:  # any, as it may hold anything
            why = error if "damaged" in str(error) else "not written by this script"
            parser.error(f"{journal}: {why}; choose another --out")
    elif any(not path.name.startswith(".") for path in args.out.iterdir()):
        parser.error(f"--out {args.out}: holds files not of this script; choose another folder")
    if before != settings:
        found = f"holds results of {before}, not of {settings}"
        parser.error(f"--out {args.out}: {found}; choose another folder")
    check_images(parser, args, names, results, records)
    with atomic_write(journal, "w", encoding="ascii") as file:
        for record in (settings, *records.values()):
            file.write(json.dumps(record) + "\n")
    return names, records


def check_images(parser, args, names, results, records):
    """Refuse results of photos that are not there any more, or are others now; those that were
    rejected and are others now are forgotten, and so tried again."""
    found = {path.relative_to(args.out).as_posix() for path in args.out.rglob("*.jpg")}
    strays = sorted(found - results.keys())
    if strays:
        what = f"{len(strays)} results of photos that are not in {args.images}: {strays[0]!r}, ..."
        parser.error(f"--out {args.out}: holds {what}; delete them, or choose another folder")
    for name in records.keys() & names:
        size = (args.images / name).stat().st_size
        if records[name].get("size", size) == size:
            continue
        if "rejected" not in records[name]:
            what = f"the result of another {name!r} than that in {args.images}"
            parser.error(f"--out {args.out}: holds {what}; choose another folder")
        del records[name]


def end_with_parent():
    """A worker whose parent was killed would wait for its next image for ever."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def run(parser, args, work, tasks, records, title):
    """Call ``work(*task)`` for all tasks in ``args.workers`` processes.

    What it returns, if not None, is a record: it goes to progress.jsonl and into ``records``. The
    first item of a task is the path of the image. An OSError of ``work`` (full disk) ends the run.
    """
    context = multiprocessing.get_context("spawn")  # forking a process with threads can hang
    waiting, running = iter(tasks), {}

    def submit():
        for task in islice(waiting, 4 * args.workers - len(running)):
            running[pool.submit(work, *task)] = task[0]

    with (
        open(args.out / "progress.jsonl", "a", encoding="ascii") as journal,
        tqdm(total=len(tasks), desc=title, unit="image", disable=None) as bar,
        ProcessPoolExecutor(args.workers, context, end_with_parent) as pool,
    ):
        try:
            # The workers inherit that Ctrl-C, which reaches them too, is ignored.
            handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
            submit()
            signal.signal(signal.SIGINT, handler)
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    record = future.result()
                    if record and records.get(record["file"]) != record:
                        journal.write(json.dumps(record) + "\n")
                        journal.flush()
                        records[record["file"]] = record
                    del running[future]
                    bar.update()
                submit()
        except (BrokenProcessPool, MemoryError):
            names = ", ".join(sorted(path.name for path in running.values()))
            parser.error(f"a process died (out of memory?) at one of {names}; try --workers 1")
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def finish(args, names, records):
    """List the rejected images in OUT/rejected.csv and print the counts."""
    rejected = [
        (name, records[name]["rejected"]) for name in names if "rejected" in records.get(name, ())
    ]
    write_list(args.out / "rejected.csv", [("file", "reason"), *rejected])
    print(f"{len(names)} images in {args.images}")
    count = sum((args.out / result_name(name)).exists() for name in names)
    print(f"  {count:7d} written to {args.out}")
    for kind, count in Counter(reason.split(":")[0] for _, reason in rejected).most_common():
        print(f"  {count:7d} rejected: {kind}")


def write_list(path, rows):
    """Write ``rows``, the first of them the header and the first of each a file's name, as CSV."""
    with atomic_write(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        for name, *others in rows:
            row = name.replace("\r", "\\r"), *others  # which csv does not quote
            csv.writer(file, lineterminator="\n").writerow(row)
