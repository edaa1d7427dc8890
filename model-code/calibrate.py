"""A run's output layer, fitted again on labelled photos so that its probabilities hold.

    python model-code/calibrate.py RUN --outpath NEW
    python model-code/calibrate.py RUN --labels ages.csv --images photos --outpath NEW

RUN is the folder that a training script filled, or model-code/pretrained. The network stays. Of
CORAL's output layer one scale and the biases are fitted, of other losses' a scale and a shift for
each output; and it is found out how wide intervals must be at each age (coral_age/calibration.py).
Without --labels this is done with RUN's stored answers for its test rows, on which it has not
learned. With it the photos of CSV, which has the columns of predict.py's --labels, are found,
framed and answered for as predict.py does; of several faces the largest is meant. 30 photos are the
fewest, 300 are good.

What is printed are figures before and after, of each photo by a fit to others. NEW has the files of
a run: predict.py, page.py, export.py and the other tools take it as they take RUN.
"""

import argparse
import functools
import json
import shutil
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from coral_age import calibration, detect, errors, labels, media
from coral_age.answers import LEVELS, share_due
from coral_age.errors import InputError, end_as_on_ctrl_c, reason_of
from coral_age.inputs import look_at_files
from coral_age.pictures import BATCH, SHOWN, Search
from coral_age.runs import SCRIPTS, digest_of, load, load_script, need_no_run, read_weights
from coral_age.threads import in_order, lists_of
from tqdm import tqdm

FEWEST = 30  # photos
DIFFERENT = 3  # ages, or ranges of them

refuse = functools.partial(errors.refuse, program="calibrate.py")
warn = functools.partial(errors.warn, program="calibrate.py")


def parse_settings(argv):
    """The settings as an argparse namespace, checked."""
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how, allow_abbrev=False)
    parser.error = refuse
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of a finished run")
    add("--labels", type=Path, metavar="CSV", help="columns file and age (years, 20-29 or 70+)")
    add("--images", type=Path, metavar="DIR", help="where the photos lie (the folder of CSV)")
    add("--crops", action="store_true", help="the photos are faces, cut as the training images")
    add("--outpath", type=Path, required=True, help="new folder for the calibrated run")
    add("--cuda", type=int, default=-1, help="CUDA device number; -1: the CPU (-1)")
    args = parser.parse_args(argv)
    if not args.labels and (args.images or args.crops):
        refuse("--images and --crops go with --labels")
    return args


# %% Labelled answers
# Namespaces of probas (n, M), and lowest and highest age in years, float64 (n,), nan where the age
# is unknown.
def stored_answers(run, model):
    """RUN's answers for its test rows; None if it has none."""
    prefix = Path(model.weights).name.removesuffix("model.pt")  # best_ or nothing
    table, probas = (run / f"{prefix}test_{name}" for name in ("predictions.csv", "probas.npy"))
    if not (table.exists() and probas.exists()):
        return None
    try:
        rows, found = pd.read_csv(table), np.load(probas, allow_pickle=False)
        ends = [rows.get(f"true_age_{end}", rows["true_age"]) for end in ("low", "high")]
        lowest, highest = (end.to_numpy(np.float64) for end in ends)
    except (ValueError, KeyError, EOFError) as error:
        raise InputError(f"{table} or {probas.name}: damaged ({reason_of(error)})") from None
    due = len(rows), model.script.NUM_PROBAS
    if found.shape != due or not ((found >= 0) & (found <= 1)).all():
        raise InputError(f"{probas}: no probabilities of the shape {due}")
    return SimpleNamespace(table=table, probas=found, lowest=lowest, highest=highest)


def labelled_photos(args):
    """{path: (lowest, highest) age in years} of the photos that --labels names."""
    folder, notes = args.images or args.labels.parent, []
    try:
        known = labels.read_labels(args.labels, notes.append)
        paths, _, unread = media.find_files([str(folder)], args.outpath)
    except ValueError as error:
        raise InputError(error) from None
    except OSError as error:
        raise InputError(f"{error.filename or args.labels}: {error.strerror}") from None
    try:
        labels.check_labels(known, paths, map(load_script, SCRIPTS))
    except ValueError as error:
        raise InputError(f"{args.labels}: {error}") from None
    if unread:
        raise unread[0]
    keys = {path: labels.key_of(path, known) for path in paths}
    if missing := [key for key in known if key not in set(keys.values())]:
        name = Path(*missing[0])
        notes.append(f"{len(missing)} of {len(known)} photos are not in {folder}, as {name}")
    for note in notes:
        warn(note)
    ends = {path: labels.bounds(known[key][0]) for path, key in keys.items() if key}
    return {path: pair for path, pair in ends.items() if np.isfinite(pair).all()}


def answer_photos(args, ends, model):
    """Answers for the photos of --labels, as of labelled_photos()."""
    given = {"search": Search(args.crops), "model": model, "batch_size": BATCH, "keep": False}
    parts = lists_of(ends, BATCH if args.crops else SHOWN)
    probas, kept, without = [], [], 0
    with tqdm(total=len(ends), unit="photos", disable=None) as bar:
        for told in in_order(functools.partial(look_at_files, **given), parts):
            for picture, answers, _ in told:
                bar.update()
                if picture.error or picture.clip:
                    why = reason_of(picture.error) if picture.error else "not an image"
                    warn(picture.source, f"{why}; left out")
                elif picture.boxes:
                    sides = np.array(picture.places)
                    largest = np.prod(sides[:, 2:] - sides[:, :2], axis=1).argmax()
                    probas.append(answers[largest].numpy())
                    kept.append(ends[picture.path])
                else:
                    without += 1
    if without:
        warn(f"{args.labels}: no face was found in {without} of {len(ends)} photos; left out")
    need_enough(kept, args.labels)
    lowest, highest = np.array(kept).T
    return SimpleNamespace(
        table=args.labels, probas=np.array(probas), lowest=lowest, highest=highest
    )


def need_enough(ends, source):
    """InputError unless there are enough photos and ages among ``ends``, pairs."""
    if len(ends) < FEWEST:
        what = f"{len(ends)} photos with an age and a face are there"
        raise InputError(f"{source}: {what}; a calibration takes {FEWEST} or more, better 300")
    kinds = sorted(set(map(tuple, ends)))
    if len(kinds) < DIFFERENT:
        told = " and ".join(f"{a:g}" if a == b else f"{a:g}-{b:g}" for a, b in kinds)
        what = f"all {len(ends)} photos have the age {told}"
        raise InputError(f"{source}: {what}; a calibration takes photos of many ages")


def usable(answers, script):
    """Those of the rows whose age says something: ``rows``, their numbers, and ``lowest`` and
    ``highest``, their labels, int64 (n,). Ranges are cut off where the model's ages end."""
    last, youngest = script.NUM_CLASSES - 1, script.YOUNGEST_AGE
    lowest, highest = np.floor(answers.lowest) - youngest, np.floor(answers.highest) - youngest
    outside = (highest < 0) | (lowest > last)
    lowest, highest = lowest.clip(0, last), highest.clip(0, last)
    tells = np.isfinite(lowest) & ~outside & ((lowest > 0) | (highest < last))
    if outside.any():
        what = f"{outside.sum()} photos are of ages outside the model's, {youngest} to"
        warn(f"{answers.table}: {what} {youngest + last}; left out")
    lowest, highest = (ends[tells].astype(np.int64) for ends in (lowest, highest))
    need_enough(np.stack([lowest, highest], axis=1) + youngest, answers.table)
    return SimpleNamespace(rows=np.flatnonzero(tells), lowest=lowest, highest=highest)


# %% The report
LINES = {  # of figures(): what it is, and its form
    "mae": ("MAE (years)", ".2f"),
    "too_old_by": ("too old by (years)", "+.2f"),
    "log_loss": ("log loss", ".3f"),
    "over_18_off": ("P(age >= 18) is off by (ECE)", ".1%"),
    "interval_holds": ("intervals of 80 % hold", ".1%"),
    "interval_years": ("and are wide (years)", ".1f"),
}
BY = {"predicted": ("interval_holds", "interval_years")}
BY |= {"true": ("mae", "too_old_by", "interval_holds")}


def report(before, after):
    """Two figures() of the same photos, in lines for people."""
    lines = [f"{'':29}  before   after"]
    for key, (what, form) in LINES.items():
        if key in before:
            one, other = (format(told[key], form) for told in (before, after))
            lines.append(f"{what:29} {one:>7} {other:>7}")
    for kind, keys in BY.items():
        names = ", ".join(LINES[key][0] for key in keys)
        lines.append(f"by {kind} age, before and after: photos, {names}")
        groups = [told[f"by_{kind}_age"] for told in (before, after)]
        for decade in sorted(groups[0] | groups[1], key=lambda name: int(name.split("-")[0])):
            line = f"{decade:>8}"
            for row in (group.get(decade, {"photos": 0}) for group in groups):
                cells = [f"{row[key]:{LINES[key][1]}}" if key in row else "" for key in keys]
                line += f" {row['photos']:8}" + "".join(f"{cell:>8}" for cell in cells)
            lines.append(line.rstrip())
    return lines


# %% The run folder
def check_outpath(args, script):
    """InputError where --outpath is no folder for a new run."""
    if args.outpath.exists() and not args.outpath.is_dir():
        raise InputError(f"--outpath {args.outpath}: is a file; give a new folder")
    need_no_run(args.outpath, script)


def write_weights(args, model, found):
    """model.pt: RUN's weights, the output layer as it was ``found``."""
    state, _ = read_weights(model.weights)
    if found.scale is not None:
        layer = calibration.layer_of(found, model)
        state = dict(state) | {name: new.to(state[name].dtype) for name, new in layer.items()}
    path = args.outpath / "model.pt"
    model.script.write_file(path, lambda file: torch.save(state, file))


def write_answers(args, model, stored, answers):
    """RUN's test rows with the calibrated ``answers``; their figures for run.json."""
    script, out = model.script, args.outpath
    rows = pd.read_csv(stored.table, dtype=str, keep_default_na=False)
    predicted = script.predict_labels(torch.tensor(answers))
    rows["predicted_age"] = predicted.numpy() + script.YOUNGEST_AGE
    text = rows.to_csv(index=False).encode()
    script.write_file(out / "test_predictions.csv", lambda file: file.write(text))
    script.write_file(out / "test_probas.npy", lambda file: np.save(file, answers))
    ends = np.nan_to_num(np.stack([stored.lowest, stored.highest]) - script.YOUNGEST_AGE)
    ends[1, np.isnan(stored.highest)] = script.NUM_CLASSES - 1
    scores = script.age_scores(torch.tensor(ends.T.astype(np.int64)), predicted)
    return {f"test_{name}": value for name, value in scores.items()}


def write_run(args, model, found, told):
    """run.json, as it is until all is done, and RUN's log; the facts in it."""
    script, out = model.script, args.outpath
    facts = json.loads((args.run / "run.json").read_bytes())
    facts["calibrated_from"] = digest_of(model.weights)
    facts["settings"] |= {"outpath": str(out), "calibrated_from": facts["calibrated_from"][:8]}
    facts |= {"status": "running", "calibration": told}
    facts["intervals"] = dict(zip(map(str, LEVELS), found.shares.tolist(), strict=True))
    script.write_facts(args, facts)
    for name in ("training.log", "history.csv"):
        if (args.run / name).exists():
            shutil.copyfile(args.run / name, out / name)
    return facts


def calibrate(args):
    """Fit, report, and fill --outpath."""
    began = time.monotonic()
    if args.labels:
        photos = labelled_photos(args)
        need_enough(list(photos.values()), args.labels)
        if not args.crops:
            detect.need_detector(", or give --crops")
    model = load(args.run, cuda=args.cuda)
    script = model.script
    check_outpath(args, script)
    stored = stored_answers(args.run, model)
    if not (args.labels or stored):
        raise InputError(f"{args.run}: holds no answers for test rows; give --labels")
    answers = answer_photos(args, photos, model) if args.labels else stored
    known = usable(answers, script)
    if script.LOSS not in calibration.LAYERS:
        what = f"no output layer of the loss {script.LOSS!r} can be fitted again"
        warn(f"{args.run}: {what}: answers stay as they are, only intervals are calibrated")

    probas = answers.probas[known.rows]
    due = [share_due(model, label) for label in calibration.classes_of(probas, model)[1]]
    before = calibration.figures(probas, due, known, model)
    by_others, shares = calibration.by_folds(probas, known, model)
    after = calibration.figures(by_others, shares, known, model)
    found = calibration.fitted(probas, known, model)
    found.shares = calibration.table(*calibration.classes_of(by_others, model), known)
    if np.median(found.shares[LEVELS.index(80)]) == 1:
        what = "give most true ages no probability at all: intervals can't be calibrated"
        raise InputError(f"{args.run}: its answers (loss {script.LOSS!r}) {what}")

    with script.locked(args.outpath):
        check_outpath(args, script)
        told = {"rows": answers.table.name, "rows_sha256": digest_of(answers.table)}
        told |= {"folds": calibration.FOLDS, "scale": found.scale}
        facts = write_run(args, model, found, told | {"before": before, "after": after})
        scores = {name: x for name, x in facts["metrics"].items() if "gender" in name}
        if stored:
            calibrated = calibration.applied(found, stored.probas, model)
            if not args.labels:
                calibrated[known.rows] = by_others
            scores |= write_answers(args, model, stored, calibrated)
        write_weights(args, model, found)
        of = f"{len(probas):,} photos of {answers.table}"
        folds = f"each answered for by a fit to others ({calibration.FOLDS} folds)"
        for line in (f"Calibrated: {args.run} on {of}, {folds}", *report(before, after)):
            script.log(args, line)
        facts |= {"metrics": scores, "status": "finished"}
        facts["minutes"] += (time.monotonic() - began) / 60
        script.write_facts(args, facts)
    if all(after[name] >= before[name] for name in ("mae", "log_loss")):
        warn(f"neither MAE nor log loss is lower than before: {args.run} answers as well")


def main(argv=None):
    """Run with the given command-line arguments."""
    args = parse_settings(argv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd tags and palettes, which a user cannot mend
            calibrate(args)
    except InputError as error:
        refuse(error)
    except OSError as error:
        refuse(f"{error.filename or args.outpath}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        refuse(f"interrupted; what {args.outpath} holds of the new run is not whole", 130)


if __name__ == "__main__":
    end_as_on_ctrl_c("SIGTERM", "SIGHUP")
    if hasattr(sys.stdout, "reconfigure"):  # in a notebook it has not
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has all characters
    main()
