"""Age and gender of the faces in images and videos, by a network that one of the scripts trained.

    python model-code/predict.py photo.jpg
    python model-code/predict.py clip.mp4 --out predictions --every 2
    python model-code/predict.py faces/ --run run1 --crops --labels ages.csv --report report
    python model-code/predict.py photo.jpg --weights model.pt --script afad-coral.py

An INPUT is an image, a video, or a folder, which is searched with the folders in it. RUN is the
folder a script filled (its --outpath); without it the model in model-code/pretrained answers. What
is found is printed; DIR receives it as predictions.csv and predictions.json, with a copy of each
input in which the faces are marked. More than 10,000 rows are in files of so many, which are
written while they come: a job that was stopped goes on with --resume. In a program:

    import predict
    model = predict.load()
    for face in predict.faces(model, "photo.jpg"):
        print(face["age"], face["gender"])
"""

import argparse
import functools
import hashlib
import importlib.util
import json
import os
import re
import sys
import time
import warnings
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path

import numpy as np
import pandas as pd
from coral_age import audit, detect, doubts, labels, media, pages
from coral_age.answers import NOTE, heading, shares_over, words_of
from coral_age.errors import (
    EXTRAS,
    InputError,
    Output,
    end_as_on_ctrl_c,
    is_full,
    reason_of,
    refuse,
    say,
    warn,
)
from coral_age.files import atomic_write, lock
from coral_age.inputs import Sink, answer, read_list, source_of
from coral_age.intervals import class_probas
from coral_age.marked import free_path
from coral_age.options import parse_options
from coral_age.pictures import Search, faces, read_boxes, video
from coral_age.runs import SCRIPTS, digest_of, load, load_script, title
from coral_age.table import FACES, FORMATS, JOB, Table, columns_of, need_parquet, write_csv
from tqdm import tqdm

__all__ = ["NOTE", "InputError", "faces", "load", "main", "video"]  # for programs


def parse_settings(argv):
    """The settings as an argparse namespace, checked."""
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\n{NOTE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="predict.py INPUT... [--list FILE] [--run RUN] [--out DIR] [options]",
        allow_abbrev=False,
    )
    parser.error = refuse
    add = parser.add_argument
    add("paths", nargs="*", metavar="INPUT", help="images, videos, and folders of them")
    add(
        "--part",
        metavar="K/N",
        help="only the Kth of N parts of the inputs, which a hash of each path chooses",
    )
    add("--out", type=Path, metavar="DIR", help="folder that receives the results")
    add("--overwrite", action="store_true", help="use DIR though it holds files, and replace them")
    add(
        "--format",
        choices=FORMATS,
        default="csv",
        help="of DIR's tables (csv); parquet, which needs pyarrow, is always in parts",
    )
    add("--json", action="store_true", help="print what predictions.json holds, and no table")
    add(
        "--labels",
        type=Path,
        metavar="CSV",
        help="true values, by which the answers are scored: columns file (the end of an input's "
        "path), age (in years, 20-29, 70+ or empty), gender (male, female or empty); of several "
        "faces in a photo the largest is meant",
    )
    add(
        "--report",
        type=Path,
        metavar="DIR",
        help="folder for a page on the errors by these labels, for whom they are larger, at age "
        "limits, and how far probabilities hold; by age, gender and the CSV's other columns",
    )
    add(
        "--boxes",
        type=Path,
        metavar="CSV",
        help="faces to take instead of the detector's: columns "
        "source, frame (of a video, from 0), left, top, right, bottom in pixels as the picture is "
        "shown, turned as EXIF says",
    )
    add("--sure", action="store_true", help="leave out faces, and genders, that are not sure")
    add("--no_draw", action="store_true", help="no copies of the inputs with the faces marked")
    add("--cuda", type=int, default=-1, help="CUDA device number; -1: the CPU (-1)")
    args = parse_options(parser, argv, cuda=(-1, 1023))
    if not args.paths and not args.list:
        refuse("the following arguments are required: INPUT")
    if args.part is not None:
        numbers = re.fullmatch(r"(\d{1,6})/(\d{1,6})", args.part)
        if not numbers or not 1 <= int(numbers[1]) <= int(numbers[2]):
            refuse(f"--part {args.part}: give K/N, from 1/N to N/N")
    if args.resume and args.overwrite:
        refuse("give --resume or --overwrite, not both")
    if not args.out and (args.resume or args.format != "csv"):
        refuse("--resume and --format go with --out")
    if args.report and not args.labels:
        refuse("--report needs the true values: give --labels CSV")
    if args.report and args.sure:
        refuse("--report goes without --sure: it shows what answers that are not sure cost")
    if args.report and args.resume:
        what = "the probabilities of photos that were answered before are not kept"
        refuse(f"--report goes without --resume: {what}; give --overwrite to begin anew")
    if args.boxes and args.crops:
        refuse("--boxes goes without --crops, whose images are faces as a whole")
    if args.paths and os.path.exists(os.path.join(args.paths[0], "run.json")):
        refuse(f"{args.paths[0]}: is a run, no input; now it is given as --run {args.paths[0]}")
    return args


# %% Output
WORDS, PLACE = "{:>13}  {:>8}  {:<11}", "  {:>4}  {}"  # of what is printed


def as_line(words, shares, face, source):
    """A line: age, interval and gender, the ``shares`` of --over, number of the face, and input."""
    return WORDS.format(*words) + "".join(f"  {s:>4}" for s in shares) + PLACE.format(face, source)


def line_of(row, model):
    """What is printed of a row."""
    source = row["source"]
    if row["kind"] == "track":
        source += f" {row['seconds']:.2f}-{row['until_seconds']:.2f} s"
    if is_labelled(row):
        known = [row[name] for name in ("true_age", "true_gender") if name in row]
        source += f" (true: {' '.join(known)})"
    if "not_sure" in row:
        source += f" (not sure: {row['not_sure']})"
    shares = [share for _, share in shares_over(row, model)]
    return as_line(words_of(row, model), shares, row["face"], source)


# what --report takes of a row
AUDITED = "kind age age_low age_high interval_probability gender gender_probability".split()


class Report:
    """Receives the answers, and prints them, or with ``quiet`` what is wrong alone. ``known``: of
    labels.read_labels(), or None; ``table``: a Table that keeps the rows, or None; ``audited``: a
    list that receives (key of the label, row, probabilities) of each labelled photo, or None."""

    sure = False  # are faces left out that are not sure?

    def __init__(self, model, known, table, quiet, audited=None):
        self.model, self.known, self.table, self.quiet = model, known, table, quiet
        self.audited, self.probas = audited, None  # that of the labelled face
        self.told = []  # the rows of the input that is told, but those of a video's faces
        self.kept = []  # all rows, if they are to be printed in the end, and there is no table
        self.labelled, self.failed = [], 0
        self.found = 0  # rows of the input that is told
        self.films = 0  # labels of videos, which are not scored
        self.unsure = 0  # faces that are left out

    def add(self, source, rows):
        self.found += len(rows)
        film = bool(rows) and rows[0]["kind"] != "image"
        if self.known is not None and not film:
            add_labels(rows, source, self.known)
        none = "no face"
        if self.sure and rows:
            self.unsure += sum("not_sure" in row and row["kind"] != "frame" for row in rows)
            rows, none = doubts.sure(rows), "not sure"
        if film:
            self.keep(rows)
        else:
            self.told += rows or [{"source": source, "kind": none}]
            self.labelled += filter(is_labelled, rows)
        for row in rows:
            if row["kind"] != "frame" and not self.quiet:
                say(line_of(row, self.model))

    def keep_probas(self, rows, probas):
        """Put down the probabilities of the classes for the labelled one of an image's rows."""
        for row, some in zip(rows, probas, strict=True):
            if is_labelled(row):
                self.probas = class_probas(some, self.model.script.NUM_CLASSES).astype(np.float32)

    def keep_for_audit(self, source):
        """Put down a labelled photo that has been told, answered or not."""
        key = labels.key_of(source, self.known)
        if not key or not any(self.known[key]):
            return
        kinds = [row["kind"] for row in self.told]
        row = next(filter(is_labelled, self.told), None)
        row = row or {"kind": "no face" if "no face" in kinds else "error"}
        label = dict(zip(("true_age", "true_gender"), self.known[key], strict=True))
        self.audited.append((key, {name: row.get(name) for name in AUDITED} | label, self.probas))
        self.probas = None

    def keep(self, rows):
        if self.table:
            self.table.add(rows)
        elif self.quiet:
            self.kept += rows

    def fail(self, source, error, what=""):
        reason = what + reason_of(error)
        self.failed += 1
        self.told.append({"source": source, "kind": "error", "reason": reason})
        say(f"predict.py: error: {source}: {reason}", sys.stderr)

    def done(self, source, frames):
        if not self.found and not any(row["kind"] == "error" for row in self.told):
            say(as_line(("no face", "", ""), [""] * len(self.model.over), "", source))
        self.found = 0
        if frames:
            self.told.append({"source": source, "kind": "video", "frames": frames})
            self.films += self.has_label(source)
        elif self.audited is not None:
            self.keep_for_audit(source)
        if self.table:
            self.table.end(source, self.told)
        self.keep(self.told)
        self.told = []

    def resume(self, path_for):
        """Take up the job in the table; the inputs that it has answered. ``path_for`` names the
        marked copies once more, that others get other names."""
        ended = set()
        for source, rows in self.table.resume():
            ended.add(source)
            self.labelled += filter(is_labelled, rows)
            self.failed += sum(row["kind"] == "error" for row in rows)
            self.films += sum(row["kind"] == "video" for row in rows) * self.has_label(source)
            kinds = {row["kind"] for row in rows}
            if path_for and kinds & {"image", "no face", "not sure", "video"}:
                path_for(source, ".mp4" if "video" in kinds else ".jpg")
        return ended

    def has_label(self, source):
        return bool(self.known and labels.key_of(source, self.known))

    def scores(self):
        """Those of labels.scores(), printed, as a part of the JSON."""
        if self.known is None:
            return {}
        scores = labels.scores(self.labelled, self.known)
        films = f"; not scored: {self.films} that are videos" * bool(self.films)
        count = f"{len(self.labelled)} of {len(self.known)}"
        say(f"{count} labelled photos are here, with a face{films}")
        for line in labels.as_table(scores):
            say(line)
        return {"scores": scores}

    def finish(self):
        """Write predictions.csv, if the rows are few, and predictions.json, whose text it gives."""
        table, scores, head = self.table, self.scores(), heading(self.model)
        if table and not table.is_small():
            if table.last[1] or not table.last[0]:
                table.save()
            names = [path.name for _, path in table.files()]
            told = {"inputs": table.inputs, "inputs_with_errors": table.failed, "files": names}
            text = json.dumps(head | told | scores, indent=1) + "\n"
        else:
            rows = table.last[1] if table else self.kept
            found = [row for row in rows if row["kind"] in FACES]
            failures = [
                {"source": row["source"], "reason": row["reason"]}
                for row in rows
                if row["kind"] == "error"
            ]
            text = json.dumps(head, indent=1).removesuffix("\n}") + ',\n "faces": ['
            text += ",".join("\n  " + json.dumps(row) for row in found) + "\n ],\n"
            text += f' "scores": {json.dumps(scores["scores"])},\n' if scores else ""
            text += f' "failures": {json.dumps(failures)}\n}}\n'
            if table:
                columns = columns_of(self.model, self.known is not None)
                write_csv(table.out / "predictions.csv", found, columns)
        if table:
            with atomic_write(table.out / "predictions.json", "w") as file:
                file.write(text)
            table.finish()
        return text


def is_labelled(row):
    """Is a true age or gender known of the face?"""
    return "true_age" in row or "true_gender" in row


def add_labels(rows, source, known):
    """Add its true age and gender to the row of the largest face, which a photo's label means."""
    key = labels.key_of(source, known)
    if key and rows:
        areas = [(r["right"] - r["left"]) * (r["bottom"] - r["top"]) for r in rows]
        label = dict(zip(("true_age", "true_gender"), known[key], strict=True))
        rows[int(np.argmax(areas))] |= {name: value for name, value in label.items() if value}


# %% The page of --report
def groups_for_report(args, note):
    """{key of a label: {column: value}}, by which the report tells photos apart, and the columns
    left out in words, with which ``note`` is called. InputError where no report can be made."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(f"--report: matplotlib is not installed: {EXTRAS}")
    pages.check_folder("--report", args.report, args.overwrite, pages.AUDITS)
    keys, table = labels.read_groups(args.labels)
    groups, left_out = audit.few_valued(table)
    if left_out:
        note(f"{args.labels}: columns not used: {left_out}")
    of_key = {}
    for key, values in zip(keys, groups.to_dict("records"), strict=True):
        of_key.setdefault(key, values)  # of two rows of one photo, as read_labels() has it
    return of_key, left_out


def write_report(args, model, audited, groups):
    """Write the page about the ``audited`` photos, of Report, into the folder --report; groups: of
    groups_for_report()."""
    from coral_age import report

    of_key, left_out = groups
    keys, rows, probas = zip(*audited, strict=True)
    nothing = np.zeros(model.script.NUM_CLASSES, np.float32)
    probas = np.stack([nothing if some is None else some for some in probas])
    groups = pd.DataFrame([of_key[key] for key in keys])
    told = audit.Audit(pd.DataFrame(rows), probas, model.script.YOUNGEST_AGE, groups)
    file = Path(model.weights)
    facts = {
        "model": f"{title(model, file.name)}",
        "its SHA-256": digest(file),
        "labels": args.labels.name,
        "their SHA-256": digest(args.labels),
        "columns left out": left_out,
        "date": time.strftime("%Y-%m-%d"),
    }
    about = report.About(
        f"{file.parent.name}/{file.name}",
        f"labels: {args.labels.name}",
        facts,
        heading(model)["model"]["interval_coverage"],
        args.crops,
    )
    pages.write(args.report, report.pages(told, about))


# %% From the command line
def in_part(path, part):
    """Is the input ``path`` in the ``part``, as K/N, of all inputs?"""
    number, count = map(int, part.split("/"))
    digest = hashlib.sha256(os.fsencode(path)).digest()
    return int.from_bytes(digest[:8], "big") % count == number - 1


def checked(args):
    """The files that the inputs name, lines about those left out, OSErrors of folders that can't be
    read, true values or None, and how faces are looked for. InputError where that can't be."""
    try:
        paths, notes, unread = media.find_files(args.paths, args.out)
        note = notes.append if not args.report else lambda what: None  # which uses other columns
        known = labels.read_labels(args.labels, note) if args.labels else None
    except ValueError as error:
        raise InputError(error) from None
    if args.list:
        here = set(map(str, paths))
        paths += [path for path in read_list(args.list) if path not in here]
        if not paths:
            raise InputError(f"--list {args.list}: no path in it")
    if not args.crops:
        detect.need_detector(", or give --crops")
    if args.format == "parquet":
        need_parquet()
    if args.out and args.out.exists():
        check_folder(args)
    boxes = read_boxes(args.boxes) if args.boxes else None
    if boxes:
        others = boxes.keys() - set(map(os.path.realpath, paths))
        if len(others) == len(boxes):
            message = "no source in it is one of the inputs; give their paths as from this folder"
            raise InputError(f"--boxes {args.boxes}: {message}")
        count = sum(len(some) for source in others for some in boxes[source].values())
        if count:
            notes.append(f"--boxes {args.boxes}: {count} boxes of files that are no inputs")
    search = Search(args.crops, boxes, args.every, args.min_score, args.megapixels)
    return paths, notes, unread, known, search


def check_folder(args):
    """InputError where --out can't be used."""
    if not args.out.is_dir():
        raise InputError(f"--out {args.out}: is a file; give a folder")
    there = [path for path in args.out.iterdir() if not path.match(".*.tmp")]  # of a killed process
    if args.overwrite or not there:
        return
    stopped = (args.out / JOB).exists()
    if args.resume and not stopped:
        raise InputError(f"--out {args.out}: holds files, but no job to resume")
    if not args.resume:
        message = "holds files already; give another folder, or --overwrite"
        if stopped:
            message = "holds a job that was stopped; give --resume, another folder, or --overwrite"
        raise InputError(f"--out {args.out}: {message}")


def digest(path):
    """The SHA-256 of a file, or None of none."""
    return digest_of(path) if path else None


def job_of(args, model):
    """What may not change when a job is resumed."""
    names = "crops", "every", "min_score", "megapixels", "interval", "format", "part", "sure"
    files = {"weights": model.weights, "boxes": args.boxes, "labels": args.labels}
    job = {n: getattr(args, n) for n in names} | {n: digest(path) for n, path in files.items()}
    return job | {"over": list(args.over)}


@contextmanager
def table_in(args, columns, model):
    """The table in --out, locked; None without that. Where the job ends early, what was answered
    stays, or nothing if that is nothing."""
    if not args.out:
        yield None
        return
    args.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        try:
            if (held := lock(args.out)) is not None:
                files.callback(os.close, held)
        except BlockingIOError as error:
            raise InputError(f"--out {args.out}: {error.strerror}") from None
        table = Table(args.out, [*columns, "reason"], args.format, job_of(args, model))
        if args.resume and (args.out / JOB).exists():
            for path in args.out.glob(".*.tmp"):  # of a process that was killed
                path.unlink()
        else:
            table.begin()
        try:
            yield table
        except BaseException as error:
            with suppress(OSError):
                table.stop()
            if isinstance(error, KeyboardInterrupt) and table.inputs:
                kept = f"interrupted; the answers to {table.inputs:,} inputs are kept"
                raise KeyboardInterrupt(f"{kept}: go on with --resume") from None
            raise


def run(args, stdout):
    """Predict for all inputs; the number of failures. JSON is printed to ``stdout``."""
    finished = args.out and (args.out / "predictions.json").exists()
    if args.resume and finished and not (args.out / JOB).exists():
        say(f"{args.out}: the job there is finished")
        return 0
    paths, notes, unread, known, search = checked(args)
    groups = groups_for_report(args, notes.append) if args.report else None
    given = {"weights": args.weights, "script": args.script, "image_size": args.image_size or 120}
    model = load(args.run, **given, cuda=args.cuda, over=args.over)
    model.interval = args.interval
    if known is not None:
        try:
            labels.check_labels(known, paths, map(load_script, SCRIPTS))
        except ValueError as error:
            raise InputError(f"{args.labels}: {error}") from None
    if args.part:
        paths = [path for path in paths if in_part(path, args.part)]
        unread = [error for error in unread if in_part(error.filename, args.part)]
    say(title(model, model.weights))
    if not args.json:
        limits = [f"{limit}+" for limit in model.over]
        say(as_line(("age", "interval", "gender"), limits, "face", "picture"))
    path_for = None
    if args.out and not args.no_draw:
        path_for = functools.partial(free_path, args.out, taken=set())
    with table_in(args, columns_of(model, known is not None), model) as table:
        audited = [] if args.report else None
        report = Report(model, known, table, args.json, audited)
        report.sure = args.sure
        if table:
            table.total = len(paths) + len(unread)
            ended = report.resume(path_for)
            paths = [path for path in paths if source_of(path) not in ended]
            unread = [error for error in unread if source_of(error.filename) not in ended]
            del ended  # which may be large
        with tqdm(total=len(paths), unit="pictures", disable=None) as bar:

            def count(done, more):
                bar.total += more
                bar.update(done)

            for error in unread:
                report.fail(source_of(error.filename), error)
                report.done(source_of(error.filename), None)
            sink = Sink(report.add, report.fail, warn, count, report.done, path_for)
            sink.probas = report.keep_probas if args.report else None
            answer(paths, search, model, sink, args.batch_size)
        text = report.finish()
    if audited:
        write_report(args, model, audited, groups)
    if args.json:
        stdout.write(text)
    if report.unsure:
        say(f"{report.unsure} faces are left out, as their answers are not sure")
    for note in notes:
        say(note)
    say(NOTE)
    if args.out:
        rows = "predictions.csv" if table.is_small() else f"{len(table.files())} tables"
        say(f"{args.out / rows}, {args.out / 'predictions.json'}: written")
    if args.report:
        none = "not written: no labelled input is a photo"
        say(f"{args.report / 'index.html'}: {'written' if audited else none}")
    return report.failed


def main(argv=None):
    """Run with the given command-line arguments; the exit code."""
    args = parse_settings(argv)
    stdout = Output(sys.stdout)  # with --json for nothing else
    try:
        with (
            redirect_stdout(sys.stderr if args.json else stdout),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # of odd tags and palettes, which a user cannot mend
            failed = run(args, stdout)
    except InputError as error:
        refuse(error)
    except OSError as error:
        reason = error.strerror or error
        if is_full(error):
            reason = f"the disk is full ({reason}); make room, then give --resume"
        refuse(f"{error.filename or args.out or 'input'}: {reason}", 1)
    except KeyboardInterrupt as stop:
        refuse(str(stop) or "interrupted; no predictions were written", 130)
    stdout.flush()
    if stdout.error:
        # or Python, which flushes it once more at its end, complains in its own way
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        refuse(f"standard output: {stdout.error.strerror}", 1)
    return 1 if failed else 0


if __name__ == "__main__":
    end_as_on_ctrl_c("SIGTERM", "SIGHUP")
    os.environ.pop("MPLBACKEND", None)  # that of a notebook may be unknown here; nothing needs one
    if hasattr(sys.stdout, "reconfigure"):  # in a notebook it has not
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has all characters
    sys.exit(main())
