"""Age and gender of the faces in images and videos, by a network that one of the scripts trained.

    python model-code/predict.py photo.jpg
    python model-code/predict.py clip.mp4 --out predictions --every 2
    python model-code/predict.py faces/ --run run1 --crops --labels ages.csv
    python model-code/predict.py photo.jpg --weights model.pt --script afad-coral.py

An INPUT is an image, a video, or a folder, which is searched with the folders in it. RUN is the
folder a script filled (its --outpath); without it the model in model-code/pretrained answers. What
is found is printed; DIR receives it as predictions.csv and predictions.json, with a copy of each
input in which the faces are marked. In a program:

    import predict
    model = predict.load()
    for face in predict.faces(model, "photo.jpg"):
        print(face["age"], face["gender"])
"""

import argparse
import csv
import functools
import io
import json
import os
import sys
import warnings
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
from coral_age import detect, labels, media
from coral_age.answers import COVERAGE, NOTE, words_of
from coral_age.errors import InputError, Output, end_as_on_ctrl_c, reason_of, refuse, say, warn
from coral_age.files import atomic_write, lock
from coral_age.inputs import Sink, answer
from coral_age.marked import free_path
from coral_age.pictures import Search, faces, read_boxes, video
from coral_age.runs import SCRIPTS, load, load_script, title
from tqdm import tqdm

__all__ = ["NOTE", "InputError", "faces", "load", "main", "video"]  # for programs


def parse_settings(argv):
    """The settings as an argparse namespace, checked."""
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\n{NOTE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="predict.py INPUT... [--run RUN] [--out DIR] [options]",
        allow_abbrev=False,
    )
    parser.error = refuse
    add = parser.add_argument
    add("paths", nargs="+", metavar="INPUT", help="images, videos, and folders of them")
    add("--run", type=Path, help="folder of a finished run (that of the model that comes along)")
    add("--out", type=Path, metavar="DIR", help="folder that receives the results")
    add("--overwrite", action="store_true", help="use DIR though it holds files, and replace them")
    add("--json", action="store_true", help="print what predictions.json holds, and no table")
    add(
        "--labels",
        type=Path,
        metavar="CSV",
        help="true values, by which the answers are scored: columns file (the end of an input's "
        "path), age (in years, or 20-29), gender (male, female or empty); of several faces in a "
        "photo the largest is meant",
    )
    add("--weights", type=Path, metavar="FILE", help="state dict to take instead of --run's")
    add("--script", choices=SCRIPTS, metavar="NAME", help="what trained FILE, if there is no --run")
    add("--image_size", type=int, help="side of that network's input in pixels (120)")
    add("--crops", action="store_true", help="the images are faces, cut as the training images")
    add(
        "--boxes",
        type=Path,
        metavar="CSV",
        help="faces to take instead of the detector's: columns "
        "source, frame (of a video, from 0), left, top, right, bottom in pixels",
    )
    score, size = detect.MIN_SCORE, detect.MEGAPIXELS
    lowest = f"lowest detector score, 0.01 to 1 ({score})"
    add("--min_score", type=float, default=score, help=lowest)
    add(
        "--megapixels",
        type=float,
        default=size,
        help=f"larger pictures are searched for faces in "
        f"this size; more finds smaller faces ({size})",
    )
    add("--every", type=int, default=1, metavar="N", help="look at every Nth frame of a video (1)")
    add("--no_draw", action="store_true", help="no copies of the inputs with the faces marked")
    add("--cuda", type=int, default=-1, help="CUDA device number; -1: the CPU (-1)")
    add("--batch_size", type=int, default=16, help="faces that the network sees at once (16)")
    args = parser.parse_intermixed_args(argv)
    ranges = {"every": (1, 10**9), "batch_size": (1, 10**6), "megapixels": (0.1, 50)}
    ranges |= {"min_score": (0.01, 1), "cuda": (-1, 1023), "image_size": (32, 1024)}
    for name, (low, high) in ranges.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            refuse(f"--{name} {value}: must be from {low} to {high}")
    if args.boxes and args.crops:
        refuse("--boxes goes without --crops, whose images are faces as a whole")
    if args.image_size and not args.script:
        refuse("--image_size goes with --script; a run folder holds its own")
    if os.path.exists(os.path.join(args.paths[0], "run.json")):
        refuse(f"{args.paths[0]}: is a run, no input; now it is given as --run {args.paths[0]}")
    return args


# %% Output
LINE = "{:>13}  {:>8}  {:<11}  {:>4}  {}"  # of what is printed
HEAD = LINE.format("age", "interval", "gender", "face", "picture")


def line_of(row, model):
    """What is printed of a row."""
    source = row["source"]
    if row["kind"] == "track":
        source += f" {row['seconds']:.2f}-{row['until_seconds']:.2f} s"
    if "true_age" in row:
        source += f" (true: {row['true_age']} {row.get('true_gender', '')}".rstrip() + ")"
    return LINE.format(*words_of(row, model), row["face"], source)


@contextmanager
def report(out, known, model, printed):
    """What receives the answers: add(source, rows), which prints rows and adds them to
    predictions.csv and predictions.json, and the list of failures, which ends the latter.
    ``out``: their folder, or None. ``known``: of labels.read_labels(), or None. ``printed``: the
    file that receives the JSON in place of lines, or None."""
    script = model.script
    columns = "source kind frame seconds until_seconds face frames left top right bottom score "
    columns += "age age_low age_high interval_probability at_end_of_range"
    columns = columns.split()
    if model.network.fc_gender:
        columns += ["gender", "gender_probability"]
    if known is not None:
        columns += ["true_age", "true_gender"]
    oldest = script.YOUNGEST_AGE + script.NUM_CLASSES - 1
    facts = {"weights": model.weights, "dataset": script.DATASET, "loss": script.LOSS}
    facts |= {"ages": [script.YOUNGEST_AGE, oldest], "interval_coverage": COVERAGE}
    head = json.dumps({"note": NOTE, "model": facts}, indent=1).removesuffix("\n}")
    failures, labelled, count = [], [], 0
    with ExitStack() as files:
        if out:
            try:
                if (held := lock(out)) is not None:
                    files.callback(os.close, held)
            except BlockingIOError as error:
                raise InputError(f"--out {out}: {error.strerror}") from None
            path = out / "predictions.csv"
            table = files.enter_context(atomic_write(path, "w", encoding="utf-8", newline=""))
            file = files.enter_context(atomic_write(out / "predictions.json", "w"))
        else:
            table = files.enter_context(open(os.devnull, "w", encoding="utf-8"))
            file = io.StringIO() if printed else table
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        file.write(head + ',\n "faces": [')

        def add(source, rows):
            nonlocal count
            if known is not None and rows and rows[0]["kind"] == "image":
                add_labels(rows, source, known)
            for row in rows:
                writer.writerow(row)
                file.write((",\n  " if count else "\n  ") + json.dumps(row))
                count += 1
                labelled.extend([row] if "true_age" in row else [])
                if row["kind"] != "frame" and not printed:
                    say(line_of(row, model))
            if not rows:
                say(LINE.format("no face", "", "", "", source))

        yield add, failures
        file.write("\n ],\n")
        if known is not None:
            scores = labels.scores(labelled)
            file.write(f' "scores": {json.dumps(scores)},\n')
            say(f"{len(labelled)} of {len(known)} labelled photos are here, with a face")
            for line in labels.as_table(scores):
                say(line)
        file.write(f' "failures": {json.dumps(failures)}\n}}\n')
        text = file.getvalue() if printed and not out else ""
    if printed:
        printed.write(text or (out / "predictions.json").read_text())


def add_labels(rows, source, known):
    """Add its true age and gender to the row of the largest face, which a photo's label means."""
    key = labels.key_of(source, known)
    if key and rows:
        areas = [(r["right"] - r["left"]) * (r["bottom"] - r["top"]) for r in rows]
        label = dict(zip(("true_age", "true_gender"), known[key], strict=True))
        rows[int(np.argmax(areas))] |= {name: value for name, value in label.items() if value}


# %% From the command line
def checked(args):
    """The files that the inputs name, lines about those left out, OSErrors of folders that can't be
    read, true values or None, and how faces are looked for. InputError where that can't be."""
    try:
        paths, notes, unread = media.find_files(args.paths, args.out)
        known = labels.read_labels(args.labels) if args.labels else None
    except ValueError as error:
        raise InputError(error) from None
    if not args.crops:
        detect.need_detector(", or give --crops")
    if args.out and args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out}: is a file; give a folder")
    if args.out and args.out.exists() and any(args.out.iterdir()) and not args.overwrite:
        message = "holds files already; give another folder, or --overwrite"
        raise InputError(f"--out {args.out}: {message}")
    boxes = read_boxes(args.boxes) if args.boxes else None
    if boxes and not {source for source, _ in boxes} & set(map(os.path.realpath, paths)):
        message = "no source in it is one of the inputs; give their paths as from this folder"
        raise InputError(f"--boxes {args.boxes}: {message}")
    search = Search(args.crops, boxes, args.every, args.min_score, args.megapixels)
    return paths, notes, unread, known, search


def run(args, stdout):
    """Predict for all inputs; the list of failures. JSON is printed to ``stdout``."""
    paths, notes, unread, known, search = checked(args)
    given = {"weights": args.weights, "script": args.script, "image_size": args.image_size or 120}
    model = load(args.run, **given, cuda=args.cuda)
    if known is not None:
        try:
            labels.check_labels(known, paths, map(load_script, SCRIPTS))
        except ValueError as error:
            raise InputError(f"{args.labels}: {error}") from None
    say(title(model, model.weights))
    if not args.json:
        say(HEAD)
    path_for = None
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        if not args.no_draw:
            path_for = functools.partial(free_path, args.out, taken=set())
    with (
        report(args.out, known, model, stdout if args.json else None) as (add, failures),
        tqdm(total=len(paths), unit="pictures", disable=None) as bar,
    ):

        def fail(source, error, what=""):
            reason = what + reason_of(error)
            failures.append({"source": source, "reason": reason})
            say(f"predict.py: error: {source}: {reason}", sys.stderr)

        def count(done, more):
            bar.total += more
            bar.update(done)

        for error in unread:
            fail(error.filename, error)
        answer(paths, search, model, Sink(add, fail, warn, count, path_for), args.batch_size)
    for note in notes:
        say(note)
    say(NOTE)
    if args.out:
        say(f"{args.out / 'predictions.csv'}, {args.out / 'predictions.json'}: written")
    return failures


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
            failures = run(args, stdout)
    except InputError as error:
        refuse(error)
    except OSError as error:
        refuse(f"{error.filename or args.out or 'input'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        refuse("interrupted; no predictions were written", 130)
    stdout.flush()
    if stdout.error:
        # or Python, which flushes it once more at its end, complains in its own way
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        refuse(f"standard output: {stdout.error.strerror}", 1)
    return 1 if failures else 0


if __name__ == "__main__":
    end_as_on_ctrl_c("SIGTERM", "SIGHUP")
    if hasattr(sys.stdout, "reconfigure"):  # in a notebook it has not
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has all characters
    sys.exit(main())
