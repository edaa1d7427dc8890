"""The rows of predictions, saved in whole files while they come, from which a stopped job goes on.

OUT/predictions-00000.csv and so on have PART rows each, the last one fewer. Besides those of faces
(of the kind image, frame or track) there are rows that tell the end of an input: a photo with no
face, a video with its number of frames, an error with its reason. The last file is written anew
each minute, so that a job that is killed loses a minute's work at most.
"""

import csv
import importlib.util
import json
import re
import time

from coral_age.errors import InputError
from coral_age.files import atomic_write

PART = 10_000  # rows of a file, a few more if the last photo has several faces
SECONDS = 60  # from one saving to the next
FACES = "image", "frame", "track"  # kinds of rows that tell a face
INSIDE = "frame", "track"  # that are followed by others of the same input

COLUMNS = {"source": str, "kind": str, "frame": int, "seconds": float, "until_seconds": float}
COLUMNS |= dict.fromkeys("face frames left top right bottom".split(), int)
COLUMNS |= {"score": float, "turn": int, "age": int, "age_low": int, "age_high": int}
COLUMNS |= {"interval_probability": float, "at_end_of_range": bool}
COLUMNS |= {"gender": str, "gender_probability": float}
COLUMNS |= {"not_sure": str, "gender_not_sure": str}
COLUMNS |= {"true_age": str, "true_gender": str, "reason": str}
OVER = "at_end_of_range"  # after which columns as over_18 come


def columns_of(model, labelled):
    """The columns of predictions.csv."""
    left = set() if labelled else {"true_age", "true_gender"}
    genders = {"gender", "gender_probability", "gender_not_sure"}
    left |= set() if model.network.fc_gender else genders
    names = [name for name in COLUMNS if name not in left | {"reason"}]
    place = names.index(OVER) + 1
    return names[:place] + [f"over_{limit}" for limit in model.over] + names[place:]


def kind_of(name):
    """The type of a column's values."""
    return float if name.startswith("over_") else COLUMNS[name]


JOB = "unfinished.json"  # in OUT, what the job is, as long as it has not ended
LOG = "progress.log"
PART_NAME = re.compile(r"predictions-(\d{5,})\.(csv|parquet)")


def need_parquet():
    if importlib.util.find_spec("pyarrow") is None:
        raise InputError("--format parquet: pyarrow is not installed: pip install pyarrow")


def write_csv(path, rows, columns):
    with atomic_write(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            typed = {name: kind_of(name)(value) for name, value in row.items() if value}
            if "at_end_of_range" in typed:
                typed["at_end_of_range"] = row["at_end_of_range"] == "True"
            yield typed


def arrow_table(rows, columns):
    """The rows as a table of pyarrow, which other readers understand."""
    import pyarrow

    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    kinds[bool] = pyarrow.bool_()
    schema = pyarrow.schema([(name, kinds[kind_of(name)]) for name in columns])
    return pyarrow.Table.from_pylist(rows, schema)


def write_parquet(path, rows, columns):
    import pyarrow.parquet

    with atomic_write(path) as file:
        pyarrow.parquet.write_table(arrow_table(rows, columns), file)


def read_parquet(path):
    import pyarrow.parquet

    for row in pyarrow.parquet.read_table(path).to_pylist():
        yield {name: value for name, value in row.items() if value is not None}


FORMATS = {"csv": (write_csv, read_csv), "parquet": (write_parquet, read_parquet)}


class Table:
    """The rows in the folder ``out``, of these ``columns``, as files of this ``suffix``; ``job``, a
    dict fit for JSON, tells what they answer."""

    def __init__(self, out, columns, suffix, job):
        self.out, self.columns, self.suffix, self.job = out, columns, suffix, job
        self.write, self.read = FORMATS[suffix]
        self.last = 0, []  # number and rows of the last file, in one, as Ctrl-C may come any time
        self.total = 0  # inputs of the job,
        self.inputs, self.failed = 0, 0  # those that have ended, and those with an error,
        self.before = 0  # and those that an earlier process has answered
        self.ready = False  # for rows
        self.began = self.saved = time.monotonic()

    def path(self, number):
        return self.out / f"predictions-{number:05}.{self.suffix}"

    def files(self):
        """(number, path) of the saved files, in their order."""
        names = [(PART_NAME.fullmatch(path.name), path) for path in self.out.iterdir()]
        return sorted((int(name[1]), path) for name, path in names if name)

    def begin(self):
        """Remove what an earlier job has left, and put down what this one is."""
        self.clear()
        with atomic_write(self.out / JOB, "w") as file:
            json.dump(self.job, file)

    def clear(self):
        for path in (self.out / JOB, self.out / LOG, *(path for _, path in self.files())):
            path.unlink(missing_ok=True)

    def resume(self):
        """Yield (source, rows) of each input that is told whole in the files, all its rows but
        those of frames and tracks, to go on after these: none after begin(). What there is of a
        video that was not done is dropped. InputError if they are of another job."""
        try:
            before = dict(json.loads((self.out / JOB).read_bytes()))
        except (ValueError, TypeError) as error:
            raise InputError(f"--resume: {self.out / JOB}: damaged ({error})") from None
        for name, value in self.job.items():
            if before.get(name) != value:
                message = f"the job there has {name} {before.get(name)!r}, not {value!r}"
                raise InputError(f"--resume: {self.out}: {message}")
        source, kept, kind, begin = None, [], None, (0, 0)
        for number, path in self.files():
            self.last = number, list(self.read(path))
            for i, row in enumerate(self.last[1]):
                if row["source"] != source:
                    if kept:
                        yield self.end(source, kept)
                    source, kept, begin = row["source"], [], (number, i)
                kind = row["kind"]
                kept += [row] if kind not in INSIDE else []
        if kind in INSIDE:
            for number, path in self.files()[::-1]:
                if number > begin[0]:
                    path.unlink()
            self.last = begin[0], list(self.read(self.path(begin[0])))[: begin[1]]
        elif kept:
            yield self.end(source, kept)
        self.before, self.ready = self.inputs, True
        self.go_on()

    def add(self, rows):
        """Append rows, and save them where it is time."""
        self.last[1].extend(rows)
        if len(self.last[1]) >= PART or time.monotonic() - self.saved >= SECONDS:
            self.save()
            self.go_on()

    def end(self, source, rows):
        """Count an input that has ended, of whose ``rows`` some may be errors."""
        self.inputs += 1
        self.failed += any(row["kind"] == "error" for row in rows)
        return source, rows

    def go_on(self):
        number, rows = self.last
        if len(rows) >= PART:
            self.last = number + 1, []

    def save(self):
        """Write the last file, and once a minute a line of progress."""
        number, rows = self.last
        self.write(self.path(number), rows, self.columns)
        now = time.monotonic()
        if now - self.saved >= SECONDS:
            with open(self.out / LOG, "a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {self.progress(now)}\n")
            self.saved = now

    def progress(self, now):
        """Inputs, their rate, and the time that is left, in words."""
        text = f"{self.inputs:,} of {self.total:,} inputs, {self.failed:,} with errors"
        rate = (self.inputs - self.before) / max(now - self.began, 1e-9)
        if not rate:
            return text
        minutes = round((self.total - self.inputs) / rate / 60)
        return f"{text}, {rate:.1f} a second, {minutes // 60}:{minutes % 60:02} hours left"

    def is_small(self):
        """Are all rows at hand, in ``last``, for one CSV?"""
        return self.suffix == "csv" and self.last[0] == 0

    def finish(self):
        """The job has ended, its rows are saved; a small one's in another file."""
        (self.out / JOB).unlink()
        other = self.path(0) if self.is_small() else self.out / "predictions.csv"
        other.unlink(missing_ok=True)

    def stop(self):
        """The job is stopped: save what there is, if an input has ended; else nothing stays."""
        if self.ready and self.inputs:
            self.save()
        elif self.ready:
            self.clear()
