"""Tables and plots from run folders: the losses compared over seeds, as in the paper.

    python summarize.py run1 run2 run3                   the two main tables, as Markdown
    python summarize.py run1 run2 run3 --compare         and which loss is better, or if it is noise
    python summarize.py run1 run2 run3 --out report      all tables and plots
    python summarize.py run1 --out report --audit        and a page on the errors of each run

A RUN is a folder written by a training script, whatever its data set, or a folder with a published
training.log (and test_predictions.log). The report: index.html (opens from disk, links to the
runs), results.md, each table as CSV and each plot as SVG. Of an unfinished run only the learning
curve is drawn. With --audit the page links to another one for each run, that of predict.py
--report: for whom errors are larger, errors at age limits, how far probabilities hold.

Runs are averaged over seeds only where all else agrees: data set, loss, task importance weights,
class weights, the rate of CORAL's biases, gender output, epoch (the last, or the one chosen on
validation), and every setting and data file that changes the numbers. Groups that differ in nothing
but loss, those weights and that rate form a comparison; losses are compared image by image only
within one. With --compare each loss may have a learning rate of its own in it, as tuned for it.
"""

import argparse
import contextlib
import glob
import hashlib
import html
import io
import json
import os
import re
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from coral_age import pages, significance
from coral_age.errors import EXTRAS, InputError
from coral_age.groups import (
    LOSSES,
    OF_CLASSES,
    OURS,
    first_of,
    having,
    key_of,
    label,
    median_errors,
    named,
    per_image,
)
from coral_age.intervals import class_probas, intervals
from coral_age.labels import one_off
from tqdm import tqdm

if __name__ == "__main__":
    os.environ.pop("MPLBACKEND", None)  # that of a notebook may be unknown here; SVG needs none

# The published logs and their CSVs speak of labels, of which the lowest has this age.
PUBLISHED_YOUNGEST_AGE = {"afad": 15, "cacd": 14, "morph2": 16, "utk": 21}
GENDERS = ["female", "male"]
UTK_RACES = {"0": "White", "1": "Black", "2": "Asian", "3": "Indian", "4": "other"}
# Settings that may differ within a group: where files lie, and what leaves the result alone. One
# unknown here counts, so that it splits a group in sight rather than being averaged over unseen.
NOT_COMPARED = set(
    "seed imp_weight gender outpath cuda cache_dir checkpoint_minutes log_every resume overwrite "
    "train_csv test_csv valid_csv image_path trust_csv skip_missing bias_lr balance".split()
)
ENOUGH = 20  # images for an interval by bootstrap
# 97.5 % points of Student's t for 1 to 10 degrees of freedom; the last also serves for more.
T_975 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228]


def fail(message):
    print(f"summarize.py: error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)


def read(reader, path, *args):
    """``reader(path, *args)``; a missing or damaged file ends the program in one line."""
    try:
        return reader(path, *args)
    except Exception as error:  # a damaged file can provoke any
        fail(f"{path} cannot be used ({type(error).__name__}: {error}); repair it or leave it out")


# Reading a run gives results (dicts): one for the last epoch, and one for the epoch chosen on
# validation where there is one. "images" is in those with usable predictions only. A run that is
# still running gives one with its curves, but no "mae".


def read_run(folder, test_csvs, notes):
    """The results in ``folder``; a line in ``notes`` where the run is unfinished, or more is to be
    said."""
    if (folder / "run.json").exists():
        return read(read_run_json, folder / "run.json", notes)
    if (folder / "training.log").exists():
        return read(read_published_log, folder / "training.log", test_csvs, notes)
    fail(f"{folder} holds no run: neither run.json nor training.log is there")


def read_run_json(path, notes):
    folder, record = path.parent, json.loads(path.read_text(encoding="utf-8"))
    options, finished = record["settings"], record["status"] == "finished"
    curves = read(read_history, folder / "history.csv", finished)
    if not finished:
        notes.append(
            f"{folder}: unfinished ({len(curves)} of {options['epochs']} epochs done), left out of "
            "all but the learning curves."
        )
        if curves.empty or "data" not in record:
            return []
    result = {
        "folder": folder,
        "script": record["script_sha256"],
        "seed": int(record["seed"]),
        "dataset": record["dataset"],
        "loss": record["loss"],
        "imp_weight": int(bool(options["imp_weight"])),
        "variant": variant_of(record),
        "gender": int(bool(record["gender"])),
        "epochs": int(options["epochs"]),
        "lr": f"{float(options['lr']):g}" if "lr" in options else "",
        "curves": curves,
    }
    if not all(re.fullmatch("[a-z0-9]+", result[name]) for name in ("dataset", "loss")):
        raise ValueError(f"no data set or no loss: {result['dataset']}, {result['loss']}")
    LOSSES.setdefault(result["loss"], result["loss"])
    # what is off, 0 or None, other versions of the script may not know
    settings = {key: value for key, value in options.items() if value and key not in NOT_COMPARED}
    settings |= {key: record[key] for key in ("num_classes", "youngest_age", "processes")}
    if digest := record.get("init_from_sha256"):  # a file may change, and have several paths
        settings["init_from"] = f"{Path(options['init_from']).name} {digest[:8]}"
    settings["train"] = image_set(record["data"]["train"])
    if not finished:
        return [result | {"epoch": "unfinished", "settings": settings}]
    return read_results(folder, record, result | {"settings": settings}, notes)


def variant_of(record):
    """What sets the script's runs apart from those of <data set>-<loss>.py: the third part of its
    name, class weights, and of CORAL, and losses of one's own, which may have its biases, their
    rate; runs from before there was a choice had 1."""
    parts = Path(record["script"]).stem.split("-")[2:]
    bias_lr = record["settings"].get("bias_lr", 1)
    if (record["loss"] == "coral" or record["loss"] not in OURS) and bias_lr != 1:
        parts.append(f"bias_lr {bias_lr:g}")
    if record["settings"].get("balance"):
        parts.append("balanced")
    return ", ".join(parts)


def read_results(folder, record, result, notes):
    """``result`` with the test figures of the last epoch, and with those of the epoch chosen on
    validation, where its files are there."""
    data, results, prefixes, shares = record["data"], [], [""], shares_due(record)
    for name in ("test", "valid"):  # runs from before it was counted do not tell
        if known := data.get(name, {}).get("in_training"):
            count = f"{known} of its {data[name]['rows']} {name} images"
            notes.append(f"{folder}: {count} are, byte for byte, training images.")
    if record["settings"].get("valid_csv") and list(folder.glob("best_test_*")):
        prefixes.append("best_")
    for prefix in prefixes:
        file = folder / f"{prefix}test_predictions.csv"
        images = read(read_predictions, file, record)
        labels = images["true_age"].to_numpy() - record["youngest_age"]  # nan of ranges
        metrics, median_mae = record["metrics"], data["test"].get("median_mae", np.nan)
        if images["true_age"].isna().all():  # ranges alone
            metrics = {f"{prefix}test_{name}": np.nan for name in ("mae", "rmse")} | metrics
        file = folder / f"{prefix}test_probas.npy"
        of_probas = read(read_probas, file, record["loss"], labels, record["num_classes"])
        above = of_probas.pop("above", None)
        if above is not None:
            known, last = np.isfinite(labels), record["num_classes"] - 1
            predicted = (images["predicted_age"] - record["youngest_age"])[known]
            predicted = predicted.clip(0, last).astype(int).to_numpy()
            given = labels[known].astype(int), predicted, shares[predicted]
            of_probas |= significance.scores(above, *given)
        used = {"valid": image_set(data["valid"])} if prefix else {}
        if prefix and data["valid"]["images_sha256"] == data["test"]["images_sha256"]:
            notes.append(f"{folder}: its best epoch was chosen on its test images.")
        used["test"] = image_set(data["test"], rows_of(images))
        figures = {
            "epoch": "best on validation" if prefix else "last",
            "prefix": prefix,
            "settings": result["settings"] | used,
            "mae": float(metrics[f"{prefix}test_mae"]),
            "rmse": float(metrics[f"{prefix}test_rmse"]),
            "median_mae": float(median_mae),
            "minutes": float(record["minutes"]),
            "to_range": float(metrics.get(f"{prefix}test_mae_to_range", np.nan)),
        }
        results.append(score(result | figures, images, notes, of_probas))
    return results


def shares_due(record):
    """The share of the probability that an interval of 80 % must hold by predicted label, (K,):
    0.8, or as calibrate.py found."""
    count = record["num_classes"]
    shares = np.full(count, 0.8)
    if table := record.get("intervals"):
        shares = np.array(table["80"], float)
    if shares.shape != (count,) or not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(
            f"its intervals are no {count} numbers from 0 to 1; run calibrate.py again"
        )
    return shares


def checksum(*texts):
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]


def image_set(facts, *more):
    """Number of rows, and a short name for a CSV, the bytes of its images, and ``more``."""
    return f"{facts['rows']} {checksum(facts['csv_sha256'], facts['images_sha256'], *more)}"


def rows_of(images):
    names = ["path", "true_age"]
    names += ["low", "high"] if images["true_age"].isna().any() else []
    return images[names].to_csv(index=False)


def read_history(path, finished):
    """epoch, cost and valid_mae, a row per epoch."""
    columns = ["epoch", "cost", "valid_mae"]
    text = path.read_text(encoding="utf-8") if finished or path.exists() else ""
    if not finished:  # the last line may be half written
        text = text[: text.rfind("\n") + 1] or ",".join(columns)
    return pd.read_csv(io.StringIO(text))[columns].astype(float)


def read_predictions(path, record):
    table = pd.read_csv(path, keep_default_na=False, dtype={"path": str}, low_memory=False)
    if len(table) != (rows := record["data"]["test"]["rows"]):
        raise ValueError(f"{len(table)} rows, {rows} expected")
    images = standard_images(table, record["dataset"])
    youngest, oldest = record["youngest_age"], record["youngest_age"] + record["num_classes"] - 1
    for name in ("low", "high"):
        outside = images[name].notna() & ~images[name].between(youngest, oldest)
        if outside.any():
            row, age = outside.idxmax() + 1, images[name][outside.idxmax()]
            raise ValueError(f"row {row}: true_age {age:g}, {youngest} to {oldest} by run.json")
    return images


def standard_images(table, dataset):
    """path, true_age, predicted_age (years), age (decade), range, gender, race, p_male if known.

    Where an age is known as a range, true_age is nan and low and high are its ends; where it is
    unknown, all three are nan; else all three are the age. Gender and race come from the table's
    columns; from file names for UTKFace only.
    """
    images = table[["path"]].copy()
    ranges = "true_age_low" in table
    for name in ["true_age", "predicted_age", "p_male"][: 3 if "p_male" in table else 2]:
        images[name] = numbers(table[name]) if ranges else table[name].astype(float)
        if not (np.isfinite(images[name]) | (ranges and name == "true_age")).all():
            raise ValueError(f"{name} must be a number in every row")
    for name in ("low", "high"):
        images[name] = numbers(table[f"true_age_{name}"]) if ranges else images["true_age"]
    low, high, exact = images["low"], images["high"], images["true_age"]
    told = (low <= high) & (exact.isna() | ((low == exact) & (high == exact)))
    if not (told | (low.isna() & high.isna() & exact.isna())).all():
        raise ValueError("true_age_low and true_age_high do not go with true_age")
    decades = images["true_age"] // 10 * 10
    texts = pd.Series([f"{decade:.0f}-{decade + 9:.0f}" for decade in decades], images.index)
    images["age"] = texts.where(decades.notna())
    texts = [f"{a:.0f}-{b:.0f}" for a, b in zip(low, high, strict=True)]
    images["range"] = pd.Series(texts, images.index, dtype=object).where(low < high)
    gender = race = pd.Series(None, table.index, dtype=object)
    if dataset == "utk":
        in_name = table["path"].str.extract(r"(?:^|/)\d+_([01])_(\d+)_[^_/]+$")
        gender, race = in_name[0].map({"0": "male", "1": "female"}), in_name[1].map(UTK_RACES)
    if "Male" in table:
        gender = pd.to_numeric(table["Male"], errors="coerce").map({1: "male", -1: "female"})
    for name in ("gender", "true_gender"):
        if name in table and table[name].isin(GENDERS).any():  # else in a code of its own
            gender = table[name]
    images["gender"] = gender.where(gender.isin(GENDERS))
    race = table["race"].astype(str) if "race" in table else race
    race = race.replace(UTK_RACES) if dataset == "utk" else race
    images["race"] = race.where(race != "")
    return images.astype({name: "category" for name in ("age", "range", "gender", "race")})


def numbers(column):
    """float64, nan where there is nothing."""
    return column.replace("", np.nan).astype(float)


def read_probas(path, loss, labels, num_classes):
    """What the P(y > k) in one .npy file are worth: rank inconsistencies per image, reliability,
    CRPS, and MAE and RMSE (years) of the distribution's median and mean as the answer, and the P(y
    > k) themselves, falling ("above"); all but the first over the images whose label is known, not
    nan.

    The file is (images, K-1) P(y > k), or for OF_CLASSES (images, K) class probabilities, of a loss
    of one's own either, in float32 or float16. ``open_memmap`` reads plain arrays only, never a
    pickle.
    """
    probas = np.lib.format.open_memmap(path, mode="r")
    half = probas.dtype == np.float16
    own_of_classes = loss not in OURS and probas.shape[1:] == (num_classes,)
    of_classes = loss in OF_CLASSES or own_of_classes
    expected = (len(labels), num_classes if of_classes else num_classes - 1)
    if probas.shape != expected or not (half or probas.dtype == np.float32):
        raise ValueError(f"{probas.dtype} {probas.shape}, float32 {expected} expected")
    if not (probas.min() >= 0 and probas.max() <= 1):
        raise ValueError("a value is no probability")
    probas = probas.astype(np.float64)
    if of_classes:  # from P(y = k) to P(y > k)
        sums = probas.sum(axis=1, keepdims=True)
        if abs(sums - 1).max() > 0.01:
            raise ValueError("the probabilities of an image do not add up to 1")
        probas = np.cumsum(probas[:, :0:-1] / sums, axis=1)[:, ::-1]
    of_probas, known = {}, np.isfinite(labels)
    if of_classes or not half:  # rounding hides crossings near 1
        of_probas["inconsistencies"] = rank_inconsistencies(probas)
    if not known.any():
        return of_probas
    probas, labels = probas[known], labels[known]
    of_probas["reliability"] = reliability(probas, labels)
    probas = -np.sort(-probas, axis=1)  # which makes a distribution of them, where they cross
    answers = {"median": (probas > 0.5).sum(axis=1), "mean": probas.sum(axis=1)}
    decoded = {name: mae_and_rmse(answer - labels) for name, answer in answers.items()}
    return of_probas | {"crps": crps(probas, labels), "decoded": decoded, "above": probas}


def crps(probas, labels):
    """Continuous ranked probability score, mean over images, in years; probas (images, K-1) are
    P(y > k), not increasing. The integral of the squared difference between the distribution
    function and the step at the true age (Gneiting and Raftery 2007, section 4.2), for whole years
    a sum; the absolute error, where one age is certain."""
    happened = labels[:, None] > np.arange(probas.shape[1])
    return ((probas - happened) ** 2).sum(axis=1).mean()


def mae_and_rmse(errors):
    return np.abs(errors).mean(), (errors**2).mean() ** 0.5


def rank_inconsistencies(probas):
    """Mean over images of the number of k with P(y > k+1) > P(y > k); probas (images, K-1)."""
    return (probas[:, 1:] > probas[:, :-1]).sum(axis=1).mean()


def reliability(probas, labels, bins=10):
    """(3, bins): pairs (image, k), the sum of their P(y > k), the number of them with y > k."""
    happened = labels[:, None] > np.arange(probas.shape[1])
    place = np.minimum((probas * bins).astype(int), bins - 1).ravel()
    weights = [None, probas.ravel(), happened.ravel()]
    return np.stack([np.bincount(place, weight, minlength=bins) for weight in weights])


def score(result, images, notes, of_probas=None):
    """``result`` with what its predictions say (years, %), where they agree with its log."""
    errors = images["predicted_age"] - images["true_age"]
    mae, rmse = mae_and_rmse(errors)
    images = images.assign(error=errors, right=np.nan, **to_ranges(images)).drop(columns="path")
    figures = {"mae": mae, "rmse": rmse, "to_range": images["to_range"].mean()}
    if any(abs(value - result.get(name, np.nan)) > 0.01 + 1e-9 for name, value in figures.items()):
        to_range = ""
        if np.isfinite(result.get("to_range", np.nan)):
            to_range = f", {figures['to_range']:.2f} years to ranges where it says "
            to_range += f"{result['to_range']:.2f}"
        notes.append(
            f"{result['folder']}: only its log is used, not its predictions: they give a test "
            f"MAE/RMSE of {mae:.2f}/{rmse:.2f}, the log says "
            f"{result['mae']:.2f}/{result['rmse']:.2f}{to_range} (epoch: {result['epoch']})."
        )
        return result.copy()
    scores = {"mae": mae, "rmse": rmse, "images": images}
    scores |= {name: images[name].mean() for name in RANGE_FIGURES}
    if "p_male" in images:
        right = (images["p_male"] > 0.5) == (images["gender"] == "male")
        images["right"] = (100.0 * right).where(images["gender"].notna())
        scores["gender_accuracy"] = images["right"].mean()
    exact = images[images["error"].notna()]
    if len(exact):
        errors = exact["error"].abs()
        scores |= {"exact": exact, "amae": errors.groupby(exact["true_age"]).mean().mean()}
        scores |= {f"cs{years}": 100 * (errors <= years).mean() for years in (5, 10)}
    if of_probas and "decoded" in of_probas:
        of_probas["decoded"]["own rule"] = (mae, rmse)
    return result | (of_probas or {}) | scores


RANGE_FIGURES = "to_range", "inside", "one_off"


def to_ranges(images):
    """Of each image whose age is known as a range the years from it to the predicted age, whether
    that is inside (%), and whether it is or is no farther than the group next to it (%), where the
    ranges of all images are such groups; nan of others."""
    low, high, age = images["low"], images["high"], images["predicted_age"]
    off = (age - age.clip(low, high)).abs().where(low < high)
    wider = one_off(zip(low, high, strict=True))
    near = [wider.get(ends, (np.nan, np.nan)) for ends in zip(low, high, strict=True)]
    first, last = np.array(near, float).reshape(-1, 2).T
    shares = {"inside": (off == 0).where(off.notna())}
    shares["one_off"] = age.between(first, last).where(~np.isnan(first))
    return {"to_range": off} | {name: 100 * share.astype(float) for name, share in shares.items()}


def read_published_log(path, test_csvs, notes):
    folder, log = path.parent, path.read_text(encoding="utf-8")
    costs = re.findall(r"^Epoch: (\d+)/(\d+) \| Batch .*\| Cost: (\S+)$", log, re.M)
    valid = re.findall(r"Current Valid: (\d+\.\d\d)/\S+ Ep\. (\d+) ", log)
    minutes = re.search(r"^Total Training Time: (\d+\.\d\d) min$", log, re.M)
    number = r"(\d+\.\d\d)"
    figures = {
        epoch: re.search(rf"^MAE/RMSE: \| {b}Train: .*\| {b}Test: {number}/{number}$", log, re.M)
        for epoch, b in {"last": "", "best on validation": "Best "}.items()
        if valid or not b
    }
    if not (costs and minutes and all(figures.values())):
        reached = f"{costs[-1][0]} of {costs[-1][1]}" if costs else "none"
        notes.append(f"{folder}: left out, its log is unfinished or cut off (epoch: {reached}).")
        return []
    script = re.findall(r"^Script: .*", log, re.M)
    names = "\n".join([*script, folder.resolve().name, log])
    name = re.search(r"(afad|cacd|morph|utk)2?-(ce|ordinal|coral)", names)
    seed = re.search(r"^Random Seed: (-?\d+)$", log, re.M)
    if not name or not seed:
        raise ValueError("data set, loss or seed unknown: name the folder like morph-coral__seed0")
    dataset, epochs = name[1].replace("morph", "morph2"), int(costs[-1][1])
    images = test_csvs.get(dataset)
    test = "unknown" if images is None else f"{len(images)} {checksum(rows_of(images))}"
    curves = pd.DataFrame(costs, columns=["epoch", "epochs", "cost"]).astype(float)
    curves = curves.groupby("epoch", as_index=False).mean()
    curves["valid_mae"] = curves["epoch"].map({int(ep) + 1: float(mae) for mae, ep in valid})
    result = {
        "folder": folder,
        "script": None,
        "seed": int(seed[1]),
        "dataset": dataset,
        "loss": name[2],
        "imp_weight": int("\nTask Importance Weight: 1\n" in log),
        "variant": "",
        "gender": 0,
        "epochs": epochs,
        "lr": "",
        "minutes": float(minutes[1]),
        "median_mae": np.nan,
        "curves": curves,
        "settings": {"source": "published log", "epochs": epochs, "test": test},
    }
    results = [
        result | {"epoch": epoch, "mae": float(figure[1]), "rmse": float(figure[2])}
        for epoch, figure in figures.items()
    ]
    predictions = folder / "test_predictions.log"
    if images is None or not predictions.exists():
        notes.append(
            f"{folder}: only its log is used; its predictions need a test_predictions.log and "
            f"--published_test_csv {dataset}=PATH."
        )
        return results
    labels = read(read_labels, predictions, len(images))
    images = images.assign(predicted_age=labels + PUBLISHED_YOUNGEST_AGE[dataset])
    # The predictions are those of the epoch chosen on validation, where one was chosen.
    return [*results[:-1], score(results[-1], images, notes)]


def read_labels(path, rows):
    labels = np.array(re.findall(r"[^\s,]+", path.read_text(encoding="utf-8")), dtype=float)
    if len(labels) != rows:
        raise ValueError(f"{len(labels)} predictions, {rows} rows in the CSV")
    return labels


def read_test_csv(path, dataset):
    """The images of a published CSV, whose ages are labels; nothing is predicted for them yet."""
    table = pd.read_csv(path, keep_default_na=False, dtype={0: str}, low_memory=False)
    paths = next(table[name] for name in ("path", "file", table.columns[0]) if name in table)
    ages = table["age"].astype(int) + PUBLISHED_YOUNGEST_AGE[dataset]
    return standard_images(table.assign(path=paths, true_age=ages, predicted_age=ages), dataset)


# Groups and tables. A table is a list of rows, a row a dict of texts, the same in CSV and page.


def compare(results, notes):
    """[{(loss, imp_weight, variant): [results, one per seed]}], one dict per comparison.

    An unfinished run joins each comparison of its data set and settings, whatever the test images,
    or else forms one with others like it.
    """
    comparisons, unfinished = {}, []
    for result in results:
        if "mae" not in result:
            unfinished.append(result)
            continue
        group = group_of(comparisons, result)
        twin = next((other for other in group if other["seed"] == result["seed"]), None)
        if twin:
            notes.append(
                f"{result['folder']}: left out, its group has seed {result['seed']} already, "
                f"from {twin['folder']} (epoch: {result['epoch']})."
            )
            continue
        first = group[0] if group else result
        note = f"{result['folder']}: its script differs from {first['folder']}'s."
        if first["script"] != result["script"] and note not in notes:  # a run may have two epochs
            notes.append(note)
        group.append(result)
    for result in unfinished:
        homes = [groups for groups in comparisons.values() if trained_alike(groups, result)]
        for groups in homes:
            groups.setdefault(key_of(result), []).append(result)
        if not homes:
            group_of(comparisons, result).append(result)
    losses = list(LOSSES)
    return [
        {key: groups[key] for key in sorted(groups, key=lambda key: (losses.index(key[0]), *key))}
        for _, groups in sorted(comparisons.items())
    ]


def with_own_rates(results):
    """The results, their learning rates no longer among the settings that must agree. A loss that
    has several, all else being alike, is as many variants."""
    free = [
        result | {"settings": {k: v for k, v in result["settings"].items() if k != "lr"}}
        for result in results
    ]
    rates = {}
    for result in free:
        rates.setdefault((conditions(result), key_of(result)), set()).add(result["lr"])
    for result in free:
        if len(rates[conditions(result), key_of(result)]) > 1:
            result["variant"] = ", ".join(filter(None, [result["variant"], f"lr {result['lr']}"]))
    return free


def conditions(result):
    """What must agree in a comparison."""
    told = [result[key] for key in ("dataset", "epoch", "gender", "settings")]
    return json.dumps(told, sort_keys=True)


def group_of(comparisons, result):
    return comparisons.setdefault(conditions(result), {}).setdefault(key_of(result), [])


def trained_alike(groups, result):
    """Whether ``groups`` has finished runs, trained on the same data and settings as ``result``."""

    def training(result):
        settings = {k: v for k, v in result["settings"].items() if k not in ("valid", "test")}
        return result["dataset"], result["gender"], settings

    first = first_of(groups)
    return "mae" in first and training(first) == training(result)


def mean(values, decimals=2):
    known = [value for value in values if np.isfinite(value)]
    return f"{np.mean(known):.{decimals}f}" if known else ""


def deviation(values, decimals=2):
    """Sample standard deviation; a single value has none."""
    return f"{np.std(values, ddof=1):.{decimals}f}" if len(values) > 1 else ""


def plus_minus(average, deviation):
    return f"{average} ± {deviation}" if average and deviation else average


def seeds_of(group):
    return " ".join(str(seed) for seed in sorted(result["seed"] for result in group))


def results_table(number, groups):
    rows = []
    for key, group in having(groups, "mae").items():
        first = group[0]
        values = {
            name: [result.get(name, np.nan) for result in group]
            for name in "mae rmse amae cs5 cs10 crps gender_accuracy inconsistencies "
            "median_mae minutes to_range inside one_off".split()
        }
        rows.append(
            {
                "comparison": str(number),
                "data set": first["dataset"],
                "loss": LOSSES[key[0]],
                "imp. weights": str(key[1]),
                "variant": key[2],
                "gender": str(first["gender"]),
                "epoch": first["epoch"],
                "runs": str(len(group)),
                "seeds": seeds_of(group),
                "test MAE": mean(values["mae"]),
                "MAE sd": deviation(values["mae"]),
                "test RMSE": mean(values["rmse"]),
                "RMSE sd": deviation(values["rmse"]),
                "AMAE": mean(values["amae"]),
                "CS(5) %": mean(values["cs5"]),
                "CS(10) %": mean(values["cs10"]),
                "CRPS": mean(values["crps"]),
                "MAE to range": mean(values["to_range"]),
                "group accuracy %": mean(values["inside"]),
                "one-off %": mean(values["one_off"]),
                "gender accuracy %": mean(values["gender_accuracy"]),
                "rank inconsistencies": mean(values["inconsistencies"], 3),
                "MAE of median": mean(values["median_mae"]),
                "epochs": str(first["epochs"]),
                "minutes": mean(values["minutes"], 1),
                "settings": ", ".join(settings_of(first)),
            }
        )
    return rows


def decoding_table(number, groups):
    """MAE and RMSE, mean ± sd over seeds, of three answers that the same probabilities give."""
    rows = []
    for key, group in having(groups, "decoded").items():
        row = {"comparison": str(number), "loss": label(key), "seeds": seeds_of(group)}
        for i, error in enumerate(("MAE", "RMSE")):
            for answer in ("own rule", "median", "mean"):
                values = [result["decoded"][answer][i] for result in group]
                row[f"{error}: {answer}"] = plus_minus(mean(values), deviation(values))
        rows.append(row)
    return rows


def probabilities_table(number, groups):
    """What the distributions are worth, mean ± sd over seeds."""
    figures = {  # column: (figure, its decimals)
        "AMAE: median": ("median_amae", 2),
        "CRPS": ("crps", 2),
        "NLL": ("nll", 3),
        "in interval %": ("coverage", 1),
        "interval years": ("interval_years", 1),
        "rank inconsistencies": ("inconsistencies", 3),
        "minutes": ("minutes", 1),
    }
    rows = []
    for key, group in having(groups, "nll").items():
        row = {"comparison": str(number), "loss": label(key), "seeds": seeds_of(group)}
        row["lr"] = group[0]["lr"]
        for column, (name, decimals) in figures.items():
            values = [result.get(name, np.nan) for result in group]
            row[column] = plus_minus(mean(values, decimals), deviation(values, decimals))
        rows.append(row)
    return rows


def judge(groups):
    """significance.verdicts() of each pair of losses, with their names ``A`` and ``B``; none where
    there are few images."""
    errors = median_errors(groups)
    if len(errors) < 2 or next(iter(errors.values())).shape[1] < ENOUGH:
        return []
    names, errors = list(map(label, errors)), list(errors.values())
    pairs = significance.verdicts(errors, significance.resample(errors))
    return [pair | {"A": names[pair["a"]], "B": names[pair["b"]]} for pair in pairs]


def verdict_table(number, pairs):
    """Of each of judge()'s pairs the difference of their MAEs by the median, and what it means."""
    rows = []
    for pair in pairs:
        row = {"comparison": str(number), "A": pair["A"], "B": pair["B"]}
        row["A - B"] = f"{pair['difference']:.3f}"
        row["95 % interval"] = f"{pair['low']:.3f} to {pair['high']:.3f}"
        for what in ("better", "equal"):
            row[f"p {what}"] = f"{pair[f'{what}_p']:.4f}" if pair["told"] else ""
        row["verdict"] = verdict_on(pair)
        rows.append(row)
    return rows


def verdict_on(pair):
    if not pair["told"]:
        return "unknown: one seed"
    if pair["better"]:
        less = f", by less than {significance.MARGIN:.2f}" if pair["equal"] else ""
        return f"{pair['A'] if pair['difference'] < 0 else pair['B']} is better{less}"
    return "equal" if pair["equal"] else "not settled"


def conclusion(groups, pairs):
    """What a comparison says, in a sentence; pairs: of judge()."""
    maes = {label(key): errors.mean() for key, errors in median_errors(groups).items()}
    way = "by the median of its probabilities"
    if not maes:  # of published logs
        maes = {label(k): np.mean([r["mae"] for r in g]) for k, g in having(groups, "mae").items()}
        maes = {name: value for name, value in maes.items() if np.isfinite(value)}
        way = "by its own rule"
    if not maes:
        return "There are no errors of known ages."
    best = min(maes, key=maes.get)
    if len(maes) == 1:
        return f"{best} is off by {maes[best]:.2f} years on average, {way}."
    lead = f"{best} has the lowest mean absolute error, {maes[best]:.2f} years {way}"
    found = {}
    for pair in pairs:
        if best in (pair["A"], pair["B"]):
            other = pair["B"] if pair["A"] == best else pair["A"]
            found.setdefault(verdict_on(pair), []).append(f"{other} ({maes[other]:.2f})")
    said = []
    for verdict, names in sorted(found.items(), key=lambda pair: "better" not in pair[0]):
        *first, last = names
        names = f"{', '.join(first)} and {last}" if first else last
        if verdict.startswith(best):
            said.append(f"it {verdict[len(best) + 1 :].replace('better', f'better than {names}')}")
        elif verdict == "not settled":
            if len(found) == 1:
                return f"Which loss is best is not settled: {lead}, but {names} may be as good."
            said.append(f"whether it is better than {names} is not settled")
        elif verdict == "equal":
            said.append(f"equal to it, within {significance.MARGIN:.2f} years: {names}")
        else:
            said.append(f"whether it is better than {names}, one seed cannot tell")
    said = said or ["whether that is more than noise, these runs cannot tell"]
    return f"{lead}; {'; '.join(said)}."


def settings_of(result):
    return [f"{key} {value}" for key, value in result["settings"].items() if value is not None]


def apart(result, others):
    """The settings of ``result`` that set it apart from ``others`` like it in all else."""
    alike = [o for o in others if all(o[k] == result[k] for k in ("dataset", "epoch", "gender"))]
    shared = set.intersection(*(set(settings_of(other)) for other in alike))
    return ", ".join(text for text in settings_of(result) if text not in shared)


def frame(table, comparisons):
    """The rows of ``table`` for all comparisons, which count from 1."""
    numbered = enumerate(comparisons, 1)
    return pd.DataFrame([row for pair in numbered for row in table(*pair)], dtype=str)


def results_apart(comparisons):
    """The results table, of whose settings only those are left that set a comparison apart."""
    table, firsts = frame(results_table, comparisons), [first_of(groups) for groups in comparisons]
    if not table.empty:
        numbers = table["comparison"].astype(int)
        table["settings"] = [apart(firsts[number - 1], firsts) for number in numbers]
    return table


def short_tables(comparisons, judgements=None):
    """The two main tables in Markdown, results and decoding; with ``judgements``, those of judge(),
    what the probabilities are worth, the verdicts, and a sentence on each comparison. Where there
    are several, the first columns are those that tell them apart."""
    results = results_apart(comparisons)
    telling = [n for n in ("data set", "gender", "epoch", "settings") if results[n].nunique() > 1]
    short, always = [], {}
    for row in results.to_dict("records"):
        share, weighted = row["CS(5) %"], row["imp. weights"] == "1"
        loss = named(row["loss"], weighted, row["variant"])
        columns = {name: row[name] for name in telling}
        columns |= {"loss": loss, "seeds": row["seeds"].replace(" ", ", ")}
        columns["test MAE"] = plus_minus(row["test MAE"], row["MAE sd"])
        columns["RMSE"] = plus_minus(row["test RMSE"], row["RMSE sd"])
        columns["within 5 years"] = share and f"{share} %"
        of_ranges = ["MAE to range", "group accuracy %", "one-off %"]
        of_ranges = of_ranges if (results[of_ranges] != "").any(axis=None) else []
        columns |= {n: row[n] for n in ("CRPS", *of_ranges, "rank inconsistencies", "minutes")}
        short.append(columns)
        if row["MAE of median"]:
            always[row["data set"], row["MAE of median"]] = row
    datasets = [name for name, _ in always]
    for (name, median), row in always.items():
        told = [n for n in telling if n == "data set" or datasets.count(name) > 1]
        place = {n: row[n] for n in told} | {"loss": "always the median age", "test MAE": median}
        short.append(place)
    texts = [to_markdown(pd.DataFrame(short).fillna(""))]
    places = results.drop_duplicates("comparison").set_index("comparison")[telling]
    tables = [frame(decoding_table, comparisons)]
    if judgements:
        tables += [frame(probabilities_table, comparisons), frame(verdict_table, judgements)]
    for table in filter(len, tables):
        table = table.join(places, on="comparison")
        columns = [*telling, *(n for n in table if n not in ("comparison", *telling))]
        if "seeds" in columns:
            table["seeds"] = table["seeds"].str.replace(" ", ", ")
        texts.append(to_markdown(table[columns]))
    for number, place in places.iterrows() if judgements else ():
        here = int(number) - 1
        said = conclusion(comparisons[here], judgements[here])
        texts.append(": ".join(filter(None, [", ".join(filter(None, place)), f"{said}\n"])))
    return "\n".join(texts)


def paired_table(number, groups):
    """MAE of loss A minus MAE of loss B on the same images, with 95 % intervals."""
    scored, rows = having(groups, "exact"), []
    pairs = list(combinations(scored, 2))
    if not pairs:
        return []
    absolute = {key: per_image(group, "exact")["MAE"].to_numpy() for key, group in scored.items()}
    differences = np.stack([absolute[a] - absolute[b] for a, b in pairs])
    lows, highs = np.percentile(bootstrap(differences), [2.5, 97.5], axis=0)
    for (a, b), values, low, high in zip(pairs, differences, lows, highs, strict=True):
        row = {"comparison": str(number), "images": str(len(values))}
        maes = [[result["mae"] for result in scored[key]] for key in (a, b)]
        for side, key, of_seeds in zip("AB", (a, b), maes, strict=True):
            row |= {side: label(key), f"seeds of {side}": str(len(of_seeds))}
            row |= {f"MAE of {side}": mean(of_seeds), f"sd of {side}": deviation(of_seeds)}
        difference, half = values.mean(), over_seeds(*maes)
        row["A - B"] = f"{difference:.3f}"
        row["over images"] = f"{low:.3f} to {high:.3f}" if len(values) >= ENOUGH else ""
        row["over seeds"] = (
            f"{difference - half:.3f} to {difference + half:.3f}" if half >= 0 else ""
        )
        known = verdict(difference, low, high, half)
        row["more than noise"] = known if len(values) >= ENOUGH else "unknown"
        rows.append(row)
    return rows


def bootstrap(differences, resamples=2000, seed=0):
    """(resamples, pairs): means of ``differences`` (pairs, images) over resampled images."""
    generator, (pairs, images) = np.random.default_rng(seed), differences.shape
    means = np.empty((resamples, pairs))
    for row in range(resamples):
        counts = np.bincount(generator.integers(0, images, images), minlength=images)
        means[row] = (differences * counts).sum(axis=1) / images
    return means


def over_seeds(a, b):
    """Half the 95 % interval of mean(a) - mean(b) by a two-sample t; NaN under two seeds each."""
    if min(len(a), len(b)) < 2:
        return np.nan
    freedom = len(a) + len(b) - 2
    variance = (np.var(a) * len(a) + np.var(b) * len(b)) / freedom
    return T_975[min(freedom, len(T_975)) - 1] * (variance * (1 / len(a) + 1 / len(b))) ** 0.5


def verdict(difference, low, high, half):
    if low <= 0 <= high:
        return "no"
    if np.isnan(half):
        return "of images: yes, of seeds: unknown"
    return "yes" if abs(difference) > half else "of images: yes, of seeds: no"


def by_group_table(number, groups):
    """MAE, bias and gender accuracy (means over seeds) by age decade, true gender and race; where
    ages are known as ranges, by range as well."""
    rows = []
    for by in ("age", "range", "gender", "race"):
        for key, group in having(groups, "images").items():
            for part, images in per_image(group).groupby(by, observed=True):
                row = {"comparison": str(number), "by": by, "group": part, "loss": label(key)}
                row |= {"images": str(len(images)), "MAE": mean(images["MAE"])}
                row |= {"bias": mean(images["bias"]), "MAE to range": mean(images["to_range"])}
                row |= {
                    "group accuracy %": mean(images["inside"]),
                    "gender accuracy %": mean(images["right"]),
                }
                rows.append(row)

    def order(row):
        by, part = row["by"], row["group"]
        # 100-109 comes after 90-99
        return by, int(part.split("-")[0]) if by in ("age", "range") else 0, part

    return sorted(rows, key=order)


# The report.

TABLES = {
    "results": results_table,
    "decoding": decoding_table,
    "probabilities": probabilities_table,
    "paired": paired_table,
    "by_group": by_group_table,
}


def all_tables(comparisons, judgements):
    """{name: DataFrame} of all comparisons."""
    tables = {name: frame(table, comparisons) for name, table in TABLES.items()}
    return tables | {"verdicts": frame(verdict_table, judgements)}


# Audits: a page for each run whose probabilities are there.

# columns of test_predictions.csv that make no groups of their own
NO_GROUPS = set("path file age true_age true_age_low true_age_high predicted_age".split())
NO_GROUPS |= set("true_gender p_male gender Male race".split())


def audits(comparisons):
    """{(folder, epoch): (folder of its page, {name of a file: text} of report.pages())}."""
    from coral_age import report  # which imports torch

    results = [r for groups in comparisons for group in groups.values() for r in group]
    found = {}
    for result in tqdm([r for r in results if "images" in r and "prefix" in r], disable=None):
        told, about = read(audit_of, result["folder"] / "run.json", result)
        name = f"audit-{len(found) + 1}"
        found[result["folder"], result["epoch"]] = name, report.pages(told, about)
    return found


def audit_of(path, result):
    """An Audit of the run whose run.json is at ``path``, and what is said of it."""
    from coral_age import audit, report

    record, images, prefix = json.loads(path.read_text("utf-8")), result["images"], result["prefix"]
    youngest, count = record["youngest_age"], record["num_classes"]
    file = path.parent / f"{prefix}test_predictions.csv"
    table = pd.read_csv(file, keep_default_na=False, dtype=str)
    probas = np.load(path.parent / f"{prefix}test_probas.npy")
    probas = class_probas(probas, count)
    probas /= probas.sum(axis=1, keepdims=True)  # those of ce may have been rounded
    labels = (images["predicted_age"] - youngest).astype(int)
    first, last, held = intervals(probas, labels, shares_due(record)[labels])
    low, high = images["low"], images["high"]
    texts = [
        "" if np.isnan(a) else f"{a:g}" if a == b else f"{a:g}-{b:g}"
        for a, b in zip(low, high, strict=True)
    ]
    photos = pd.DataFrame({"kind": "image", "true_age": texts, "age": images["predicted_age"]})
    photos["age_low"], photos["age_high"] = youngest + first, youngest + last
    photos["interval_probability"] = held
    photos["true_gender"] = images["gender"].astype(object)
    if "p_male" in images:
        male = images["p_male"]
        photos["gender"] = np.where(male > 0.5, "male", "female")
        photos["gender_probability"] = np.maximum(male, 1 - male)
    groups = table[[name for name in table if name not in NO_GROUPS]]
    if images["race"].notna().any():
        groups = groups.assign(race=images["race"].astype(object).fillna(""))
    groups, left_out = audit.few_valued(groups)
    facts = {"run": path.parent, "script": f"{record['script']}, epoch: {result['epoch']}"}
    facts |= {"columns left out": left_out}
    name = f"{path.parent.name}/{prefix}model.pt"
    about = report.About(name, "the test photos of its run", facts, 0.8, True)
    return audit.Audit(photos, probas, youngest, groups), about


NOTES = {
    "results": """MAE and RMSE in years: mean over seeds, and sample standard deviation (sd).
AMAE: mean of the MAEs of the single ages, of which some have few images. CS(5), CS(10):
images with an error of at most 5 and 10 years. CRPS: continuous ranked probability score in years,
lower is better; it scores the whole distribution, and is the MAE where an age is certain. All these
are of images whose age is known; of those whose age is known as a range: MAE to range, the mean
number of years from it to the predicted age; group accuracy, the share inside; one-off, the share
inside or no farther than the group next to it, where the ranges are groups. Rank
inconsistencies: mean number per image of k with P(y > k+1) > P(y > k), 0 by construction for all
but OR-CNN and CORAL; float16 probabilities do not tell.
MAE of median: of always answering the training images' median age. Settings: those that set a group
apart from others like it; train, valid, test are the number of images and a checksum of CSV and
images.""",
    "decoding": """The same probabilities answered three ways; years, mean over seeds ± sample
standard deviation. Own rule: the most probable age for CE and SORD, the mean, rounded, for DLDL-v2
and L1, the number of P(y > k) above 0.5 for OR-CNN, CORAL and CORN. Median and mean: of the
predicted distribution, the mean not rounded, inconsistent P(y > k) sorted first. The median is the
own rule of OR-CNN, CORAL and CORN.""",
    "probabilities": """Mean over seeds ± sample standard deviation. AMAE: mean of the MAEs of the
single ages, by the median. NLL: mean of -log(0.99 P(y) + 0.01/K) of the true age y among K. In
interval: true ages in the intervals of predict.py, which hold 80 % of the probability, or what
calibrate.py found; interval years: their mean length. lr: learning rate.""",
    "verdicts": f"""A - B: difference of the MAEs by the median (years), below 0 where A is better.
95 % interval, p: of {significance.RESAMPLES:,} bootstrap resamples of the test images (20 at least)
and the seeds together, p by Holm's procedure over all pairs. Better: p better, of a difference of
0, is below 5 %. Equal: p equal, of {significance.MARGIN:.2f} years or more, is. Not settled:
neither. Of one seed the interval is over images alone.""",
    "paired": """By each loss's own rule. A - B: difference of the mean MAEs (years), below 0 where
A is better. Over images: 95 % interval from 2000 bootstrap resamples of the test images (20 at
least), the trained networks being given. Over seeds: 95 % interval of a two-sample t, the test
images being given; needs two seeds each. More than noise: yes if neither interval holds 0. Nothing
is corrected for the number of pairs.""",
    "by_group": """Means over seeds, by true gender, age (decade or range) and race as far as known.
Bias: mean of predicted minus true age (years).""",
}


def filled(table):
    """``table`` without its empty columns."""
    return table.loc[:, (table != "").any()]


def to_markdown(table):
    table = filled(table)
    rows = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
    cells = [[html.escape(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def markdown_of(tables, conclusions, notes):
    """results.md: the conclusions, all tables with what they mean, and the notes."""
    told = [name for name, table in tables.items() if len(table)]
    texts = [*conclusions] + [f"{to_markdown(tables[name])}\n{NOTES[name]}" for name in told]
    return "\n\n".join([*texts, *map(html.escape, notes), ""])


def write_report(comparisons, notes, out, audited):
    """All files of the report into the folder ``out``, when all are made; index.html last. audited:
    of audits()."""
    from coral_age import results

    index = out / "index.html"
    old = index.read_text(encoding="utf-8", errors="replace") if index.is_file() else ""
    judgements = list(map(judge, comparisons))
    tables = all_tables(comparisons, judgements)
    files = {f"{name}.csv": table.to_csv(index=False) for name, table in tables.items()}
    tables["results"] = results_apart(comparisons)
    conclusions = list(map(conclusion, comparisons, judgements))
    files["results.md"] = markdown_of(tables, map(html.escape, conclusions), notes)
    about = results.About(
        out, conclusions, notes, {run: name for run, (name, _) in audited.items()}
    )
    files |= results.pages(comparisons, tables, about)
    for name, its in audited.values():
        pages.write(out / name, its)
    pages.write(out, files)
    for name in set(re.findall(r'<a href="(audit-\d+)/', old)):
        if f'"{name}/' not in files["index.html"]:
            remove_audit(out / name)


def remove_audit(folder):
    """Remove the files of report.pages() in ``folder``, and it, if there are no others."""
    for path in folder.glob("*"):
        if path.suffix in (".html", ".csv", ".svg"):
            path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def main(argv=None):
    parser = argparse.ArgumentParser(
        description="Tables and plots from run folders: the losses compared over seeds."
    )
    parser.error = fail
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run or published log")
    parser.add_argument(
        "--out",
        help="folder for the report, made if need be; without it the main "
        "tables are printed as Markdown",
    )
    parser.add_argument(
        "--published_test_csv",
        action="append",
        default=[],
        metavar="DATASET=CSV",
        help="test CSV that a data set's published predictions are for, as in morph2=PATH",
    )
    parser.add_argument(
        "--audit", action="store_true", help="a page as of predict.py --report for each run"
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="say which loss is better, and whether that is more than noise; each loss may have a "
        "learning rate of its own",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the report in --out")
    args = parser.parse_args(argv)

    notes, test_csvs, results = [], {}, []
    if args.audit and not args.out:
        fail("--audit writes pages: give --out as well")
    if args.out:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            fail(f"--out draws plots: {EXTRAS} first")
        out = Path(args.out)
        try:
            pages.check_folder("--out", out, args.overwrite, pages.SUMMARIES)
        except InputError as error:
            fail(error)
    for option in args.published_test_csv:
        dataset, _, path = option.partition("=")
        if dataset not in PUBLISHED_YOUNGEST_AGE or not path:
            fail(f"--published_test_csv {option}: write DATASET=CSV, as in morph2=morph2_test.csv")
        test_csvs[dataset] = read(read_test_csv, path, dataset)
    runs = []
    for word in args.runs:  # not every shell fills a pattern in
        runs += [word] if Path(word).exists() else sorted(glob.glob(word)) or [word]
    for folder in tqdm(runs, disable=None):
        results += read_run(Path(folder), test_csvs, notes)
    if not any(args.out or "mae" in result for result in results):
        fail(f"no finished run among those given. {' '.join(notes)}")
    comparisons = compare(with_own_rates(results) if args.compare else results, notes)
    if not args.out:
        print("\n".join(notes), end="\n" * bool(notes), file=sys.stderr)
        judgements = list(map(judge, comparisons)) if args.compare else None
        print(short_tables(comparisons, judgements), end="")
        return
    try:
        audited = audits(comparisons) if args.audit else {}
        if args.audit and not audited:
            notes.append("No run has predictions and probabilities for a page of --audit.")
        write_report(comparisons, notes, out, audited)
    except OSError as error:
        fail(f"--out {out} cannot be written: {error}")
    print("\n".join([*notes, f"Report: {out / 'index.html'}"]))


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # in a notebook it has not
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has all characters
    main()
