"""Parts of very many inputs, each answered for by one process and written to a file of its own.

Inputs lie on disks that all machines see, in buckets (s3://, gs://) or in columns of Parquet files.
A part's file has its name from the inputs in it, and is there whole or not at all. So a part may be
done twice, as after the loss of a machine: its rows are there once.
"""

import functools
import hashlib
import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.fs
import pyarrow.parquet

from coral_age.errors import InputError, is_full, reason_of, warn
from coral_age.files import atomic_write
from coral_age.inputs import Sink, answer, source_of
from coral_age.pictures import Search
from coral_age.runs import load
from coral_age.table import arrow_table, columns_of

PART = 256  # files in a part; of a Parquet file each row group is one
LOADS = 8  # files that are fetched from a bucket at once


# %% Places: paths, and URIs like s3://bucket/photos
def file_system(place):
    """pyarrow's file system for ``place``, and the path there."""
    if "://" not in place:
        return pyarrow.fs.LocalFileSystem(), os.path.abspath(place)
    scheme, path = place.split("://", 1)
    name = path.split("/")[0]  # with what stands before an @, as in gs://anonymous@bucket
    return bucket(f"{scheme}://{name}"), path.rstrip("/")[name.find("@") + 1 :]


@functools.cache
def bucket(uri):
    try:
        return pyarrow.fs.FileSystem.from_uri(uri)[0]
    except (OSError, ValueError) as error:  # pyarrow's are both
        raise InputError(f"{uri}: {reason_of(error)}") from None


def files_in(place, suffixes):
    """The files in ``place`` that have one of the ``suffixes``, sorted, or ``place``, if it is a
    file."""
    system, root = file_system(place)
    kind = system.get_file_info(root).type
    if kind == pyarrow.fs.FileType.File:
        return [place]
    if kind == pyarrow.fs.FileType.NotFound:
        raise InputError(f"{place}: no such file or folder")
    before = place.rstrip("/").removesuffix(root) if "://" in place else ""
    found = system.get_file_info(pyarrow.fs.FileSelector(root, recursive=True))
    files = [before + info.path for info in found if info.is_file]
    return sorted(path for path in files if Path(path).suffix.lower() in suffixes)


def save(content, folder, name):
    """Write bytes to a file, which is there whole or not at all."""
    system, root = file_system(folder)
    if "://" not in folder:
        with atomic_write(Path(root, name)) as file:
            file.write(content)
    else:
        with system.open_output_stream(f"{root}/{name}") as file:
            file.write(content)


# %% Parts
def parts_of_files(paths, done):
    """Parts of files, without those whose source is in ``done``. Which files make a part does not
    depend on what is done, and so neither does the name of one that is to be done again."""
    for begin in range(0, len(paths), PART):
        files = {source_of(path): path for path in paths[begin : begin + PART]}
        left = {source: path for source, path in files.items() if source not in done}
        if left:
            paths_there = [p if "://" in p else os.path.abspath(p) for p in map(str, left.values())]
            yield {"sources": list(left), "paths": paths_there}


def parts_of_table(place, column, done):
    """Parts of a Parquet file, whose ``column`` holds images as bytes: a source is FILE#ROW."""
    system, path = file_system(place)
    try:
        with pyarrow.parquet.ParquetFile(path, filesystem=system) as file:
            counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            names = file.schema_arrow.names
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: {reason_of(error)}") from None
    if column not in names:
        raise InputError(f"{place}: no column {column}; there are {', '.join(names)}")
    for group, count in enumerate(counts):
        begin = sum(counts[:group])
        sources = [f"{source_of(place)}#{row}" for row in range(begin, begin + count)]
        if not done.issuperset(sources):
            file = place if "://" in place else path
            yield {"sources": sources, "file": file, "group": group, "column": column}


def name_of(part):
    """The name of the file that tells of a part."""
    digest = hashlib.sha256("\n".join(part["sources"]).encode()).hexdigest()
    return f"part-{digest[:32]}.parquet"


def fetch(part, folder):
    """Yield (source, path) of a part's inputs, in their order: where they lie on no disk, copies in
    ``folder``. In place of the path of one that can't be had stands the exception."""
    if "file" in part:
        system, path = file_system(part["file"])
        with pyarrow.parquet.ParquetFile(path, filesystem=system) as file:
            batches = file.iter_batches(16, [part["group"]], [part["column"]])
            cells = (cell for batch in batches for cell in batch[0].to_pylist())
            for i, (source, cell) in enumerate(zip(part["sources"], cells, strict=True)):
                # data sets of Hugging Face hold bytes and path of an image in one cell
                content = cell.get("bytes") if isinstance(cell, dict) else cell
                copy = Path(folder, str(i))
                copy.write_bytes(content or b"")
                yield source, copy
        return

    def copied(i, path):
        if "://" not in path:
            return path
        copy = Path(folder, f"{i}{Path(path).suffix[:9]}")
        try:
            system, inside = file_system(path)
            with system.open_input_stream(inside) as file, open(copy, "wb") as local:
                shutil.copyfileobj(file, local)
        except OSError as error:
            return error
        return copy

    with ThreadPoolExecutor(LOADS) as pool:
        copies = pool.map(copied, range(len(part["paths"])), part["paths"])
        yield from zip(part["sources"], copies, strict=True)


# %% Answers
def rows_of(part, search, model, batch_size):
    """The rows of a part's inputs, as predict.py's tables of many rows have them."""
    rows, told, lost, names = [], [], [], {}

    def add(path, found):
        found = [row | {"source": names[path]} for row in found]
        if found and found[0]["kind"] != "image":
            rows.extend(found)
        else:
            told.extend(found or [{"source": names[path], "kind": "no face"}])

    def fail(path, error, what=""):
        told.append({"source": names[path], "kind": "error", "reason": what + reason_of(error)})

    def done(path, frames):
        if frames:
            told.append({"source": names[path], "kind": "video", "frames": frames})
        rows.extend(told)
        told.clear()
        if Path(path).parent == Path(folder):
            Path(path).unlink()

    def paths():
        for source, path in fetch(part, folder):
            if isinstance(path, Exception):
                lost.append({"source": source, "kind": "error", "reason": reason_of(path)})
            else:
                names[source_of(path)] = source
                yield path

    def note(path, what):
        warn(names[path], what, program="predict_ray.py")

    sink = Sink(add, fail, note, lambda *counts: None, done)
    with tempfile.TemporaryDirectory(prefix="coral-age-") as folder:
        answer(paths(), search, model, sink, batch_size)
    return rows + lost


class Worker:
    """A model that answers for one part after the other. ``given``: of load(); ``search``: of
    Search()."""

    def __init__(self, out, search, batch_size, interval, given):
        self.out, self.batch_size = out, batch_size
        self.search, self.model = Search(**search), load(**given)
        self.model.interval = interval
        self.columns = [*columns_of(self.model, False), "reason"]

    def __call__(self, batch):
        """Answer for the parts in batch["part"], each as JSON; tell how many inputs they had, and
        why a part could not be done."""
        told = {"inputs": [], "problem": []}
        for part in map(json.loads, batch["part"]):
            problem = ""
            try:
                self.answer(part)
            except InputError as error:
                problem = str(error)
            except OSError as error:  # those of inputs are rows
                problem = f"{self.out}: {'the disk is full: ' * is_full(error)}{reason_of(error)}"
            told["inputs"].append(len(part["sources"]))
            told["problem"].append(problem)
        return told

    def answer(self, part):
        rows = rows_of(part, self.search, self.model, self.batch_size)
        buffer = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(arrow_table(rows, self.columns), buffer)
        save(buffer.getvalue(), self.out, name_of(part))
