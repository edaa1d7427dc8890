"""summarize.py: tables against slow loops, published logs, bad input, the page in a browser."""

import contextlib
import csv
import hashlib
import html
import itertools
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, chromium, load, looks_of, run
from coral_age import plots
from coral_age.groups import colour

SCRIPT = ROOT / "model-code" / "summarize.py"
PUBLISHED = ROOT.parent / "shared" / "published-logs"
FACTS = {  # classes, youngest age; mine stands for a data set that nothing is known of
    **{"afad": (26, 15), "cacd": (49, 14), "morph2": (55, 16), "utk": (40, 21)},
    **{"faces": (101, 0), "mine": (11, 5)},
}


@pytest.fixture(scope="session")
def summarize():
    return load(SCRIPT)


def write_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def images_of(dataset, count, seed=7):
    """Made-up rows of a test CSV: path, true age, gender, and the data set's own columns."""
    draw = np.random.default_rng(seed)
    classes, youngest = FACTS[dataset]
    rows = []
    for number in range(count):
        age = youngest + int(classes * draw.beta(1.6, 2.6))
        male = draw.random() < 0.7
        gender = "male" if male else "female"
        race = int(draw.choice(5, p=[0.45, 0.2, 0.2, 0.1, 0.05]))
        own = {
            "afad": {"path": f"{age}/{112 - male}/{number}-0.jpg", "gender": gender},
            "cacd": {"path": f"{age}_A_Name_{number:04d}.jpg"},
            "morph2": {
                "path": f"{number:06d}_01M{age}.jpg",
                "race": "BWHA"[race % 4],
                "Male": 1 if male else -1,
            },
            "utk": {"path": f"{age}_{1 - male}_{race}_2017{number:013d}.jpg.chip.jpg"},
            # names like UTKFace's, which say the wrong gender and must not be believed
            "faces": {"path": f"{age}_{1 * male}_{race}_2017{number:013d}.jpg", "gender": gender},
            "mine": {"path": f"{age}_{1 * male}_{race}_2017{number:013d}.jpg"},
        }[dataset]
        rows.append({"true_age": age, "gender": gender, **own})
    return rows


def write_run(
    folder,
    *,
    dataset="morph2",
    loss="coral",
    seed=0,
    imp_weight=0,
    gender=0,
    count=200,
    processes=1,
    valid=False,
    images_seed=7,
    spread=None,
    status="finished",
    **settings,
):
    """A run folder as a training script leaves it, with made-up but plausible content."""
    folder.mkdir(parents=True)
    classes, youngest = FACTS[dataset]
    draw = np.random.default_rng([seed, imp_weight, sum(map(ord, loss))])
    spread = spread or {"ce": 4.3, "ordinal": 3.7, "coral": 3.5}[loss]
    images = images_of(dataset, count, images_seed)
    epochs = 30
    sha = {
        "csv_sha256": hashlib.sha256(f"{images}".encode()).hexdigest(),
        "images_sha256": "ab" * 32,
    }
    metrics = {}
    for prefix, wider in {"best_": 1.0, "": 1.1}.items() if valid else [("", 1.0)]:
        labels = np.array([row["true_age"] for row in images]) - youngest
        score = labels * 0.9 + 2 + draw.normal(0, spread * wider, count) + draw.normal(0, 0.1)
        logits = (score[:, None] - 0.5 - np.arange(classes - 1)) / 1.5
        if loss == "ordinal":
            logits = logits + draw.normal(0, 0.4, logits.shape)
        probas = 1 / (1 + np.exp(-logits))
        predicted = (probas > 0.5).sum(axis=1)
        if loss == "ce":
            probas = np.exp(-((score[:, None] - np.arange(classes)) ** 2) / 8)
            probas /= probas.sum(axis=1, keepdims=True)
            predicted = probas.argmax(axis=1)
        np.save(folder / f"{prefix}test_probas.npy", probas.astype(np.float32))
        rows = []
        for row, label in zip(images, predicted, strict=True):
            own = {k: v for k, v in row.items() if k not in ("path", "true_age", "gender")}
            written = {"path": row["path"], "true_age": row["true_age"]}
            written["predicted_age"] = label + youngest
            if gender:
                known = row["true_age"] % 10  # gender is unknown for some
                p_male = 1 / (
                    1 + math.exp(-(3 if row["gender"] == "male" else -3) - draw.normal(0, 2))
                )
                written |= {"true_gender": row["gender"] if known else "", "p_male": p_male}
            if dataset in ("afad", "faces"):
                own["gender"] = row["gender"]
            rows.append(written | own)
        write_csv(folder / f"{prefix}test_predictions.csv", rows)
        error = predicted - labels
        metrics[f"{prefix}test_mae"] = float(np.abs(error).mean())
        metrics[f"{prefix}test_rmse"] = float(np.sqrt((error**2).mean()))
    history = []
    for epoch in range(1, epochs + 1):
        mae = 3 + 9 * 0.85**epoch + draw.normal(0, 0.15)
        cost = {"ce": 3, "ordinal": 12, "coral": 14}[loss] * (0.15 + 0.9**epoch)
        history.append(
            {
                "epoch": epoch,
                "cost": cost,
                "seconds": 60,
                "wait_seconds": 1,
                "images_per_second": 300,
                "valid_mae": mae if valid else "",
                "valid_rmse": mae * 1.3 if valid else "",
            }
        )
    write_csv(folder / "history.csv", history)
    data = {"train": {**sha, "rows": 1000, "median_age": 33.0, "median_mae": 9.0}}
    data["test"] = {**sha, "rows": count, "median_age": 33.0, "median_mae": 9.32}
    if valid:
        data["valid"] = {**data["train"], "images_sha256": "cd" * 32, "rows": 100}
    record = {
        "script": f"{dataset}-{loss}.py",
        "script_sha256": loss,
        "dataset": dataset,
        "loss": loss,
        "num_classes": classes,
        "youngest_age": youngest,
        "gender": gender,
        "seed": seed,
        "processes": processes,
        "settings": {
            "imp_weight": imp_weight,
            "epochs": epochs,
            "batch_size": 256,
            "lr": 0.0005,
            "recipe": "paper",
            "prior_bias": 0,
            "image_size": 120,
            "valid_csv": "valid.csv" if valid else None,
            "outpath": str(folder),
            **settings,
        },
        "data": data,
        "status": status,
        "minutes": 12.5 + seed,
        "metrics": metrics if status == "finished" else {},
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "training.log").write_text("Random Seed: 0\n")
    return folder


def published_run(folder, loss, seed=0, best=(2.5, 3.25), last=(2.75, 3.5), predictions=None):
    """A small imitation of a published run folder (validation after each of three epochs)."""
    folder.mkdir(parents=True)
    lines = ["PyTorch Version: 1.5.0", "CUDA device available: True", f"Random Seed: {seed}"]
    lines += [] if loss == "ce" else ["Task Importance Weight: 0"]
    lines += [f"Output Path: morph-{loss}__seed{seed}", f"Script: morph-{loss}.py"]
    for epoch, valid in enumerate(("9.50", "2.60", "2.80")):
        for batch in (0, 50):
            cost = f"{40.0 - 10 * epoch - batch / 10:.4f}"
            lines.append(f"Epoch: 00{epoch + 1}/003 | Batch {batch:04d}/0055 | Cost: {cost}")
        lines.append(
            f"MAE/RMSE: | Current Valid: {valid}/3.90 Ep. {epoch} | Best Valid : 2.60/3.40 Ep. 1"
        )
        lines.append(f"Time elapsed: {epoch + 1}.50 min")
    lines.append(f"MAE/RMSE: | Train: 0.72/1.05 | Valid: 2.80/3.90 | Test: {last[0]}/{last[1]:.2f}")
    lines.append("Total Training Time: 5.25 min")
    lines.append(
        "MAE/RMSE: | Best Train: 0.38/0.69 | Best Valid: 2.60/3.40 | "
        f"Best Test: {best[0]:.2f}/{best[1]:.2f}"
    )
    (folder / "training.log").write_text("\n".join(lines) + "\n")
    if predictions is not None:
        (folder / "test_predictions.log").write_text(",".join(map(str, predictions)))
    return folder


def read_all(summarize, folders, own_rates=False):
    """(comparisons, notes) of these folders, without a report."""
    notes = []
    results = [result for folder in folders for result in summarize.read_run(folder, {}, notes)]
    results = summarize.with_own_rates(results) if own_rates else results
    return summarize.compare(results, notes), notes


def keys(comparisons):
    return [
        (g["dataset"], g["epoch"], key, [r["seed"] for r in group])
        for groups in comparisons
        for key, group in groups.items()
        for g in group[:1]
    ]


def error_line(capsys, summarize, *args):
    """The one line on stderr with which main must stop, exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        summarize.main([str(arg) for arg in args])
    assert stopped.value.code == 2
    output = capsys.readouterr()
    assert re.fullmatch(r"summarize\.py: error: [^\n]+\n", output.err), output.err
    return output.err


# Every number of the tables, from the raw predictions by slow loops.


@pytest.fixture(scope="module")
def full_report(tmp_path_factory, summarize):
    """UTKFace and MORPH-2 runs with everything in them, and the report on them."""
    folder = tmp_path_factory.mktemp("full")
    runs = []
    for loss in ("coral", "ce", "ordinal"):
        for seed in (3, 1):
            run_folder = folder / f"utk-{loss}-{seed}"
            options = {"gender": 1, "valid": True, "count": 60}
            runs.append(write_run(run_folder, dataset="utk", loss=loss, seed=seed, **options))
    for seed in (1, 2, 3):
        options = {"imp_weight": 1, "gender": 1, "valid": True, "count": 60}
        runs.append(
            write_run(folder / f"utk-w-{seed}", dataset="utk", loss="coral", seed=seed, **options)
        )
    runs.append(write_run(folder / "morph2-coral", count=80))
    runs.append(write_run(folder / "unfinished", status="running", count=80))
    summarize.main([*map(str, runs), "--out", str(folder / "report")])
    return folder / "report", runs


def slow_classes(probas, loss):
    """The probability of each class, from a row of a test_probas.npy as a list."""
    if loss == "ce":
        return probas
    above = [1, *sorted(probas, reverse=True), 0]
    return [above[k] - above[k + 1] for k in range(len(above) - 1)]


def slow_crps(classes, label):
    """E|X - label| - E|X - X'| / 2 for independent X and X' of these probabilities, another form
    of the score (Gneiting and Raftery 2007, equation 21)."""
    ages = range(len(classes))
    spread = sum(classes[i] * classes[j] * abs(i - j) for i in ages for j in ages)
    return sum(classes[i] * abs(i - label) for i in ages) - spread / 2


def slow_median(classes):
    """The age whose expected absolute error is the smallest, by trying all."""
    ages = range(len(classes))
    return min(ages, key=lambda age: sum(classes[i] * abs(i - age) for i in ages))


def slow_decoding(folder, prefix):
    """[own rule, median, mean]: the errors (years) of that answer, an image after the other."""
    record = json.loads((folder / "run.json").read_text())
    errors = [[], [], []]
    probas = np.load(folder / f"{prefix}test_probas.npy").tolist()
    for row, of_image in zip(
        read_csv(folder / f"{prefix}test_predictions.csv"), probas, strict=True
    ):
        classes, age = slow_classes(of_image, record["loss"]), int(row["true_age"])
        errors[0].append(float(row["predicted_age"]) - age)
        errors[1].append(slow_median(classes) + record["youngest_age"] - age)
        mean = sum(i * p for i, p in enumerate(classes))
        errors[2].append(mean + record["youngest_age"] - age)
    return errors


def slow_facts(folder, prefix):
    """What the results table says of one run, from its files."""
    record = json.loads((folder / "run.json").read_text())
    rows = read_csv(folder / f"{prefix}test_predictions.csv")
    errors = [float(row["predicted_age"]) - float(row["true_age"]) for row in rows]
    total = squares = within = within10 = 0
    of_ages = {}
    for row, error in zip(rows, errors, strict=True):
        total += abs(error)
        squares += error * error
        within += abs(error) <= 5
        within10 += abs(error) <= 10
        of_ages.setdefault(row["true_age"], []).append(abs(error))
    right = known = 0
    for row in rows:
        if row.get("true_gender"):
            known += 1
            right += (float(row["p_male"]) > 0.5) == (row["true_gender"] == "male")
    crossed = crps = 0
    for row, probas in zip(
        rows, np.load(folder / f"{prefix}test_probas.npy").tolist(), strict=True
    ):
        label = int(row["true_age"]) - record["youngest_age"]
        crps += slow_crps(slow_classes(probas, record["loss"]), label)
        if record["loss"] == "ce":
            probas = [sum(probas[k + 1 :]) for k in range(len(probas) - 1)]
        for k in range(len(probas) - 1):
            crossed += probas[k + 1] > probas[k]
    return {
        "mae": total / len(rows),
        "rmse": math.sqrt(squares / len(rows)),
        "amae": statistics.mean(map(statistics.mean, of_ages.values())),
        "cs5": 100 * within / len(rows),
        "cs10": 100 * within10 / len(rows),
        "crps": crps / len(rows),
        "gender": 100 * right / known if known else None,
        "crossed": crossed / len(rows),
        "minutes": record["minutes"],
        "rows": rows,
        "errors": errors,
    }


NAMES = {"ce": "CE", "ordinal": "OR-CNN", "coral": "CORAL"}


def group_facts(runs, dataset, loss, imp_weight, prefix):
    facts = []
    for folder in runs:
        record = json.loads((folder / "run.json").read_text())
        same = (record["dataset"], record["loss"]) == (dataset, loss)
        if same and record["settings"]["imp_weight"] == imp_weight:
            if record["status"] == "finished":
                facts.append(slow_facts(folder, prefix))
    return facts


def average(facts, name):
    return statistics.mean(fact[name] for fact in facts)


def test_results_table_from_raw_predictions(full_report):
    report, runs = full_report
    rows = read_csv(report / "results.csv")
    wanted = [("utk", "best_", *key) for key in GROUPS] + [("utk", "", *key) for key in GROUPS]
    wanted = [("morph2", "", "coral", 0), *wanted]
    assert len(rows) == len(wanted)
    for row, (dataset, prefix, loss, imp_weight) in zip(rows, wanted, strict=True):
        facts = group_facts(runs, dataset, loss, imp_weight, prefix)
        assert row["data set"] == dataset
        assert row["loss"] == NAMES[loss]
        assert row["imp. weights"] == str(imp_weight)
        assert row["epoch"] == ("best on validation" if prefix else "last")
        assert row["gender"] == str(int(dataset == "utk"))
        assert row["runs"] == str(len(facts))
        assert row["seeds"] == {1: "0", 2: "1 3", 3: "1 2 3"}[len(facts)]
        assert row["test MAE"] == f"{average(facts, 'mae'):.2f}"
        assert row["test RMSE"] == f"{average(facts, 'rmse'):.2f}"
        assert row["AMAE"] == f"{average(facts, 'amae'):.2f}"
        assert row["CS(5) %"] == f"{average(facts, 'cs5'):.2f}"
        assert row["CS(10) %"] == f"{average(facts, 'cs10'):.2f}"
        assert row["CRPS"] == f"{average(facts, 'crps'):.2f}"
        assert row["rank inconsistencies"] == f"{average(facts, 'crossed'):.3f}"
        assert row["minutes"] == f"{average(facts, 'minutes'):.1f}"
        assert (row["MAE of median"], row["epochs"]) == ("9.32", "30")
        if len(facts) == 1:
            assert (row["MAE sd"], row["RMSE sd"], row["gender accuracy %"]) == ("", "", "")
        else:
            assert row["MAE sd"] == f"{statistics.stdev(fact['mae'] for fact in facts):.2f}"
            assert row["RMSE sd"] == f"{statistics.stdev(fact['rmse'] for fact in facts):.2f}"
            assert row["gender accuracy %"] == f"{average(facts, 'gender'):.2f}"
    crossed = {row["loss"]: float(row["rank inconsistencies"]) for row in rows}
    assert crossed["OR-CNN"] > 1 and crossed["CORAL"] == crossed["CE"] == 0


GROUPS = [("ce", 0), ("ordinal", 0), ("coral", 0), ("coral", 1)]


def test_decoding_table_from_raw_predictions(full_report):
    report, runs = full_report
    rows = read_csv(report / "decoding.csv")
    wanted = [("2", "best_", *key) for key in GROUPS] + [("3", "", *key) for key in GROUPS]
    wanted = [("1", "", "coral", 0), *wanted]
    assert len(rows) == len(wanted)
    for row, (number, prefix, loss, imp_weight) in zip(rows, wanted, strict=True):
        name = "morph2-coral" if number == "1" else f"utk-{'w' if imp_weight else loss}-"
        folders = sorted(folder for folder in runs if folder.name.startswith(name))
        of_seeds = [slow_decoding(folder, prefix) for folder in folders]
        assert (row["comparison"], row["loss"]) == (number, NAMES[loss] + ", weighted" * imp_weight)
        assert row["seeds"] == {1: "0", 2: "1 3", 3: "1 2 3"}[len(folders)]
        for i, answer in enumerate(("own rule", "median", "mean")):
            maes = [statistics.mean(map(abs, errors[i])) for errors in of_seeds]
            squares = [statistics.mean(error**2 for error in errors[i]) for errors in of_seeds]
            for error, values in ("MAE", maes), ("RMSE", list(map(math.sqrt, squares))):
                said = f"{statistics.mean(values):.2f}"
                if len(values) > 1:
                    said += f" ± {statistics.stdev(values):.2f}"
                assert row[f"{error}: {answer}"] == said
        if loss != "ce":
            assert row["MAE: median"] == row["MAE: own rule"]
            assert row["RMSE: median"] == row["RMSE: own rule"] != row["RMSE: mean"]


def test_paired_table_from_raw_predictions(full_report):
    report, runs = full_report
    rows = read_csv(report / "paired.csv")
    pairs = [(a, b) for index, a in enumerate(GROUPS) for b in GROUPS[index + 1 :]]
    assert len(rows) == 2 * len(pairs)
    for row, (prefix, a, b) in zip(
        rows, [(prefix, *pair) for prefix in ("best_", "") for pair in pairs], strict=True
    ):
        facts = [group_facts(runs, "utk", *key, prefix) for key in (a, b)]
        assert row["A"] == NAMES[a[0]] and row["B"] == NAMES[b[0]] + ", weighted" * b[1]
        assert row["images"] == "60"
        maes = [[fact["mae"] for fact in of_seeds] for of_seeds in facts]
        for side, values in zip("AB", maes, strict=True):
            assert row[f"seeds of {side}"] == str(len(values))
            assert row[f"MAE of {side}"] == f"{statistics.mean(values):.2f}"
            assert row[f"sd of {side}"] == f"{statistics.stdev(values):.2f}"
        differences = []
        for image in range(60):
            means = [statistics.mean(abs(f["errors"][image]) for f in fact) for fact in facts]
            differences.append(means[0] - means[1])
        middle = statistics.mean(differences)
        assert float(row["A - B"]) == pytest.approx(middle, abs=6e-4)
        low, high = (float(end) for end in row["over images"].split(" to "))
        normal = 1.96 * statistics.stdev(differences) / math.sqrt(60)
        assert low == pytest.approx(middle - normal, abs=0.15 * normal)
        assert high == pytest.approx(middle + normal, abs=0.15 * normal)
        # Two-sample t: 97.5 % points for 2 and 3 degrees of freedom.
        freedom = len(maes[0]) + len(maes[1]) - 2
        pooled = sum(statistics.variance(v) * (len(v) - 1) for v in maes) / freedom
        half = {2: 4.3027, 3: 3.1824}[freedom] * math.sqrt(pooled * sum(1 / len(v) for v in maes))
        ends = [float(end) for end in row["over seeds"].split(" to ")]
        assert ends == pytest.approx([middle - half, middle + half], abs=0.002 * half + 6e-4)
        beyond = [low > 0 or high < 0, ends[0] > 0 or ends[1] < 0]
        verdicts = {(True, True): "yes", (True, False): "of images: yes, of seeds: no"}
        assert row["more than noise"] == verdicts.get(tuple(beyond), "no")


def slow_verdicts(errors):
    """(A - B, low, high) of each pair of losses, from absolute errors (seeds, images), a resample
    after the other."""
    generator, maes, images = np.random.default_rng(0), [], len(errors[0][0])
    for _ in range(10_000):
        drawn, row = generator.integers(0, images, images), []
        for part in errors:
            seeds = generator.integers(0, len(part), len(part))
            every, some = part[:, drawn].mean(), part[seeds][:, drawn].mean()
            row.append(every + math.sqrt(len(part) / (len(part) - 1)) * (some - every))
        maes.append(row)
    maes = np.array(maes)
    for a, b in itertools.combinations(range(len(errors)), 2):
        ends = np.percentile(maes[:, a] - maes[:, b], [2.5, 97.5])
        yield errors[a].mean() - errors[b].mean(), *ends


def test_verdict_table_from_raw_predictions(full_report):
    """Errors by the median, seeds in their order, whatever that of the folders."""
    report, runs = full_report
    rows = [row for row in read_csv(report / "verdicts.csv") if row["comparison"] == "3"]
    errors = []
    for name in ("ce", "ordinal", "coral", "w"):
        folders = sorted(folder for folder in runs if folder.name.startswith(f"utk-{name}-"))
        errors.append(np.abs([slow_decoding(folder, "")[1] for folder in folders]))
    assert [len(part) for part in errors] == [2, 2, 2, 3]
    names = [NAMES[loss] + ", weighted" * weighted for loss, weighted in GROUPS]
    pairs = list(itertools.combinations(names, 2))
    for row, pair, due in zip(rows, pairs, slow_verdicts(errors), strict=True):
        assert (row["A"], row["B"]) == pair
        assert [row["A - B"], row["95 % interval"]] == [
            f"{due[0]:.3f}",
            f"{due[1]:.3f} to {due[2]:.3f}",
        ]
        assert 0 < float(row["p better"]) <= 1 and 0 <= float(row["p equal"]) <= 1
        better = row["A"] if due[0] < 0 else row["B"]
        sure = float(row["p better"]) < 0.05
        assert row["verdict"] == (f"{better} is better" if sure else "not settled")


def test_probabilities_table_from_raw_predictions(full_report):
    report, runs = full_report
    rows = [row for row in read_csv(report / "probabilities.csv") if row["comparison"] == "3"]
    for row, (loss, weighted) in zip(rows, GROUPS, strict=True):
        start, found = f"utk-{'w' if weighted else loss}-", []
        for folder in sorted(folder for folder in runs if folder.name.startswith(start)):
            found.append(slow_scores(folder, loss) | {"minutes": slow_facts(folder, "")["minutes"]})
        columns = {"NLL": ("nll", 3), "AMAE: median": ("amae", 2), "in interval %": ("held", 1)}
        columns |= {"interval years": ("years", 1), "minutes": ("minutes", 1)}
        for column, (name, decimals) in columns.items():
            values = [its[name] for its in found]
            mean, deviation = statistics.mean(values), statistics.stdev(values)
            assert row[column] == f"{mean:.{decimals}f} ± {deviation:.{decimals}f}"
        assert row["lr"] == "0.0005"


def slow_scores(folder, loss):
    """NLL, AMAE of the median, and % of true ages in intervals of 80 % and their mean years."""
    nll, of_ages, held, years = [], {}, [], []
    rows = read_csv(folder / "test_predictions.csv")
    probas = np.load(folder / "test_probas.npy").astype(float).tolist()
    for row, error, of_image in zip(rows, slow_decoding(folder, "")[1], probas, strict=True):
        classes, label = slow_classes(of_image, loss), int(row["true_age"]) - 21
        nll.append(-math.log(0.99 * classes[label] + 0.01 / 40))
        of_ages.setdefault(label, []).append(abs(error))
        said, runs = int(row["predicted_age"]) - 21, []
        for first in range(said + 1):
            for last in range(said, 40):
                share = sum(classes[first : last + 1])
                runs += [(last - first, -share, first, last)] if share >= 0.8 else []
        length, _, first, last = min(runs)
        held.append(first <= label <= last)
        years.append(length)
    amae = statistics.mean(map(statistics.mean, of_ages.values()))
    held = 100 * sum(held) / len(held)
    return {
        "nll": statistics.mean(nll),
        "amae": amae,
        "held": held,
        "years": statistics.mean(years),
    }


def test_sentences(summarize, tmp_path):
    """What won, and whether that is sure; with one seed, few images or ranges alone nothing is."""

    def said(**spreads):
        runs = []
        for loss, (spread, seeds) in spreads.items():
            for seed in range(seeds):
                folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
                runs.append(write_run(folder, loss=loss, seed=seed, spread=spread, count=400))
        [groups], _ = read_all(summarize, runs)
        pairs, errors = summarize.judge(groups), summarize.median_errors(groups)
        maes = {key[0]: f"{part.mean():.2f}" for key, part in errors.items()}
        return summarize.conclusion(groups, pairs), maes

    text, mae = said(coral=(3, 2), ordinal=(9, 2), ce=(9, 3))
    assert text == (
        f"CORAL has the lowest mean absolute error, {mae['coral']} years by the median of its "
        f"probabilities; it is better than CE ({mae['ce']}) and OR-CNN ({mae['ordinal']})."
    )
    text, mae = said(coral=(3, 2), ordinal=(9, 2), ce=(3.02, 2))
    names = {"ce": "CE", "coral": "CORAL"}

    def two(mae):
        """The better one and its MAE; the other one with its own in brackets."""
        best, other = sorted(names, key=mae.get)
        return names[best], mae[best], f"{names[other]} ({mae[other]})"

    best, error, other = two(mae)
    assert text == (
        f"{best} has the lowest mean absolute error, {error} years by the median of its "
        f"probabilities; it is better than OR-CNN ({mae['ordinal']}); whether it is better than "
        f"{other} is not settled."
    )
    text, mae = said(coral=(3, 2), ce=(3.02, 2))
    best, error, other = two(mae)
    assert text == (
        f"Which loss is best is not settled: {best} has the lowest mean absolute error, {error} "
        f"years by the median of its probabilities, but {other} may be as good."
    )
    text, mae = said(coral=(3, 1), ordinal=(9, 2))
    assert text.endswith(
        f"; whether it is better than OR-CNN ({mae['ordinal']}), one seed cannot tell."
    )
    text, mae = said(coral=(3, 2))
    assert (
        text
        == f"CORAL is off by {mae['coral']} years on average, by the median of its probabilities."
    )


def pair_of(summarize, **facts):
    pair = {"A": "CE", "B": "CORAL", "difference": -0.05, "told": True, "better": False}
    return summarize.verdict_on(pair | {"equal": False} | facts)


def test_verdicts_in_words(summarize):
    assert pair_of(summarize) == "not settled"
    assert pair_of(summarize, better=True) == "CE is better"
    assert pair_of(summarize, better=True, difference=0.2) == "CORAL is better"
    assert pair_of(summarize, equal=True) == "equal"
    assert pair_of(summarize, equal=True, better=True) == "CE is better, by less than 0.10"
    assert pair_of(summarize, told=False) == "unknown: one seed"


def test_each_loss_with_its_own_learning_rate(summarize, tmp_path, capsys):
    """With --compare, and nothing else may differ; a loss that has several is as many variants."""
    runs = [write_run(tmp_path / f"a{seed}", seed=seed, lr=0.1) for seed in (1, 0)]
    runs += [write_run(tmp_path / f"b{seed}", seed=seed, loss="ce") for seed in (0, 1)]
    words = [*map(str, runs)]
    summarize.main(words)
    apart = capsys.readouterr().out
    summarize.main([*words, "--compare"])
    results, decoding, probabilities, verdicts, text = capsys.readouterr().out.split("\n\n")
    assert "| lr 0.1 | CORAL |" in apart and "lr" not in results + decoding
    rows = [row.split(" | ")[:3] for row in probabilities.splitlines()[2:]]
    assert rows == [["| CE", "0, 1", "0.0005"], ["| CORAL", "0, 1", "0.1"]]
    header, _, row = verdicts.splitlines()
    assert row.startswith("| CE | CORAL | ") and header.endswith(" | p equal | verdict |")
    assert text.startswith("CORAL has the lowest mean absolute error, ") and text.endswith(".\n")

    other = write_run(tmp_path / "other", seed=2, lr=0.2)
    [groups], _ = read_all(summarize, [*runs, other], own_rates=True)
    assert list(map(summarize.label, groups)) == ["CE", "CORAL, lr 0.1", "CORAL, lr 0.2"]
    other = write_run(tmp_path / "last", seed=2, lr=0.1, loss="ordinal", batch_size=8)
    assert len(read_all(summarize, [*runs, other], own_rates=True)[0]) == 2


def test_by_group_table_from_raw_predictions(full_report):
    report, runs = full_report
    rows = read_csv(report / "by_group.csv")
    wanted = {}
    for dataset, prefix, number in (("morph2", "", 1), ("utk", "best_", 2), ("utk", "", 3)):
        for loss, imp_weight in GROUPS:
            for fact in group_facts(runs, dataset, loss, imp_weight, prefix):
                for row, error in zip(fact["rows"], fact["errors"], strict=True):
                    decade = int(row["true_age"]) // 10 * 10
                    if dataset == "morph2":
                        gender = {"1": "male", "-1": "female"}[row["Male"]]
                        race = row["race"]
                    else:
                        gender = row["true_gender"]
                        race = "White Black Asian Indian other".split()[
                            int(row["path"].split("_")[2])
                        ]
                    right = None
                    if row.get("true_gender"):
                        right = (float(row["p_male"]) > 0.5) == (row["true_gender"] == "male")
                    parts = [("age", f"{decade}-{decade + 9}"), ("gender", gender), ("race", race)]
                    for by, part in parts:
                        name = NAMES[loss] + ", weighted" * imp_weight
                        if part:
                            here = wanted.setdefault((str(number), by, part, name), [])
                            here.append((error, right, row["path"]))
    assert len(rows) == len(wanted)
    for row in rows:
        here = wanted[row["comparison"], row["by"], row["group"], row["loss"]]
        assert row["images"] == str(len({path for _, _, path in here}))
        assert float(row["MAE"]) == pytest.approx(
            statistics.mean(abs(error) for error, _, _ in here), abs=0.0051
        )
        assert float(row["bias"]) == pytest.approx(
            statistics.mean(error for error, _, _ in here), abs=0.0051
        )
        known = [right for _, right, _ in here if right is not None]
        if known:
            share = 100 * sum(known) / len(known)
            assert float(row["gender accuracy %"]) == pytest.approx(share, abs=0.0051)
        else:
            assert row["gender accuracy %"] == ""


def test_markdown_says_the_same_as_the_csv(full_report):
    report, _ = full_report
    markdown = (report / "results.md").read_text()
    for name in CSVS:
        for row in read_csv(report / f"{name}.csv"):
            row.pop("settings", None)  # cut to what sets a group apart, in Markdown
            cells = [value for value in row.values() if value]
            assert re.search(r"[ |]+".join(map(re.escape, cells)), html.unescape(markdown))
    assert "unfinished: unfinished (30 of 30 epochs done), left out of all but" in markdown


CSVS = "results", "decoding", "probabilities", "paired", "by_group", "verdicts"


def tables_of(page):
    """The page's tables, each a list of rows of texts; of a figure its small print comes last."""
    tables = []
    for table in re.findall("<table>(.*?)</table>", html.unescape(page), re.S):
        rows = [re.split("<t[hd][^>]*>", row)[1:] for row in table.split("<tr")[1:]]
        rows = [[re.sub("<[^>]+>", " ", cell).strip() for cell in row] for row in rows]
        tables.append(
            [[re.sub("\\s+", " ", cell.replace("\u2212", "-")) for cell in row] for row in rows]
        )
    return tables


def test_the_page_says_the_same_as_the_csv(full_report):
    """Losses side by side; the second comparison, of the best epoch."""
    report, _ = full_report
    csvs = {name: read_csv(report / f"{name}.csv") for name in CSVS}
    here = {name: [r for r in rows if r["comparison"] == "2"] for name, rows in csvs.items()}
    page = (report / "index.html").read_text().split("<h2 id=c2>")[1].split("<h2 id=c3>")[0]
    verdicts, figures, maes, bias, genders, runs, paired = tables_of(page)
    names = [row["loss"] for row in here["decoding"]]
    assert figures[0] == ["", *(name.replace("-", "\u2011") for name in names)]
    rows = dict((cells[0], cells[1:]) for cells in reversed(figures))  # the MAEs come first
    assert rows["own rule"] == [row["MAE: own rule"] for row in here["decoding"]]
    assert rows["median"] == [row["MAE: median"] for row in here["decoding"]]
    of_probabilities = {"NLL": "NLL", "AMAE, median": "AMAE: median", "learning rate": "lr"}
    of_probabilities |= {"80 % intervals hold (%)": "in interval %", "minutes": "minutes"}
    for what, column in of_probabilities.items():
        assert rows[what] == [row[column] for row in here["probabilities"]]
    assert rows["within 5 years"] == [row["CS(5) %"] for row in here["results"]]
    found = [
        [f"{r['A']} - {r['B']} {r['verdict']}", f"{r['A - B']} {r['95 % interval']}"]
        for r in here["verdicts"]
    ]
    assert verdicts[1:] == found
    assert [row[1:] for row in paired[1:]] == [list(row.values())[2:] for row in here["paired"]]
    for table, column in ((maes, "MAE"), (bias, "bias"), (genders, "gender accuracy %")):
        told = {(row[0], row[1], *row[2:]) for row in table[1:] if len(row) > 1}
        groups = dict.fromkeys((row["by"], row["group"]) for row in here["by_group"])
        for by, group in groups:
            of_losses = [r for r in here["by_group"] if (r["by"], r["group"]) == (by, group)]
            assert (group, of_losses[0]["images"], *(r[column] for r in of_losses)) in told
    assert len(runs) == 1 + 9 and page.count("<svg ") == 7 + len(names)


def test_the_page_links_to_each_run_and_file(full_report):
    """All that it names is there, and all that is there it names."""
    report, runs = full_report
    page = html.unescape((report / "index.html").read_text())
    linked = {link for link in re.findall(r'\bhref="([^"#]+)"', page)}
    linked = {link for link in linked if not link.startswith("data:")}
    assert all((report / link).exists() for link in linked)
    for folder in runs:
        assert {f"../{folder.name}/", f"../{folder.name}/training.log"} <= linked
    files = {path.name for path in report.iterdir()} - {"index.html"}
    assert files == {link for link in linked if "/" not in link}
    assert page.count("<svg ") == len(list(report.glob("*.svg"))) == 2 * (7 + 4) + 6
    assert not re.search("<script|<img|<link rel=.stylesheet", page)


def test_printed_tables(full_report):
    """The CSV's figures in Markdown on stdout, the notes on stderr; nothing is written."""
    report, runs = full_report
    before = {path: path.stat().st_mtime_ns for path in report.parent.rglob("*")}
    process = run(SCRIPT, *runs)
    assert process.returncode == 0 and process.stderr.count("\n") == 1
    assert "unfinished (30 of 30 epochs done)" in process.stderr
    assert {path: path.stat().st_mtime_ns for path in report.parent.rglob("*")} == before

    results = [
        "| data set | gender | epoch | loss | seeds | test MAE | RMSE | within 5 years | CRPS "
        "| rank inconsistencies | minutes |",
        "| --- " * 11 + "|",
    ]
    places = {}
    for row in read_csv(report / "results.csv"):
        weighted = ", weighted" if row["imp. weights"] == "1" else ""
        place = places[row["comparison"]] = [row["data set"], row["gender"], row["epoch"]]
        cells = [*place, row["loss"] + weighted, row["seeds"].replace(" ", ", ")]
        for name in ("MAE", "RMSE"):
            sd = row[f"{name} sd"]
            cells.append(f"{row[f'test {name}']} ± {sd}" if sd else row[f"test {name}"])
        cells += [f"{row['CS(5) %']} %", row["CRPS"], row["rank inconsistencies"], row["minutes"]]
        results.append(f"| {' | '.join(cells)} |")
    for dataset in ("morph2", "utk"):
        results.append(f"| {dataset} |  |  | always the median age |  | 9.32 " + "|  " * 5 + "|")

    rows = read_csv(report / "decoding.csv")
    names = ["data set", "gender", "epoch", *list(rows[0])[1:]]
    decoding = [f"| {' | '.join(names)} |", "| --- " * 11 + "|"]
    for row in rows:
        cells = [*places[row["comparison"]], row["loss"], row["seeds"].replace(" ", ", ")]
        decoding.append(f"| {' | '.join([*cells, *list(row.values())[3:]])} |")
    assert process.stdout == "\n".join([*results, "", *decoding, ""])


def test_printed_tables_of_one_comparison_are_the_readmes(summarize, tmp_path, capsys):
    runs = [write_run(tmp_path / f"{seed}", seed=seed) for seed in (2, 1)]
    summarize.main([*map(str, runs)])
    results, decoding = capsys.readouterr().out.split("\n\n")
    facts = [slow_facts(folder, "") for folder in runs]
    sd = {name: statistics.stdev(fact[name] for fact in facts) for name in ("mae", "rmse")}
    assert results.splitlines() == [
        "| loss | seeds | test MAE | RMSE | within 5 years | CRPS | rank inconsistencies "
        "| minutes |",
        "| --- " * 8 + "|",
        f"| CORAL | 1, 2 | {average(facts, 'mae'):.2f} ± {sd['mae']:.2f} "
        f"| {average(facts, 'rmse'):.2f} ± {sd['rmse']:.2f} | {average(facts, 'cs5'):.2f} % "
        f"| {average(facts, 'crps'):.2f} | 0.000 | 14.0 |",
        "| always the median age |  | 9.32 |  |  |  |  |  |",
    ]
    assert decoding.startswith("| loss | seeds | MAE: own rule | MAE: median | MAE: mean |")
    assert decoding.count("\n") == 3


def test_patterns(summarize, tmp_path, capsys):
    """Not every shell fills them in; a folder may be called like one."""
    for name in ("[a]", "[b]", "a"):
        write_run(tmp_path / name, count=20, seed=int(name == "[b]"))
    shown = []
    for words in ([tmp_path / "[[]*"], [tmp_path / "[a]", tmp_path / "[b]"]):
        summarize.main([*map(str, words)])
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] and "| 0, 1 |" in shown[0]


def test_printed_settings_are_those_that_differ(summarize, tmp_path, capsys):
    runs = [write_run(tmp_path / "a", count=20), write_run(tmp_path / "b", count=20, lr=0.1)]
    summarize.main([*map(str, runs)])
    for table in capsys.readouterr().out.split("\n\n"):
        rows = [row.split(" | ")[:3] for row in table.splitlines()]
        assert rows[0] == ["| settings", "loss", "seeds"]
        assert rows[2:4] == [["| lr 0.0005", "CORAL", "0"], ["| lr 0.1", "CORAL", "0"]]


def test_an_epoch_chosen_on_the_test_images(summarize, tmp_path):
    folder = write_run(tmp_path / "run", count=20, valid=True)
    facts = json.loads((folder / "run.json").read_text())
    for images, due in (("cd" * 32, []), (facts["data"]["test"]["images_sha256"], [folder])):
        facts["data"]["valid"]["images_sha256"] = images
        (folder / "run.json").write_text(json.dumps(facts))
        _, notes = read_all(summarize, [folder])
        assert notes == [f"{f}: its best epoch was chosen on its test images." for f in due]


def test_training_images_among_the_others(summarize, tmp_path, capsys):
    """Their number, where a run knows it, is said beside the tables and in the report."""
    folder = write_run(tmp_path / "run", count=20, valid=True)
    facts = json.loads((folder / "run.json").read_text())
    for name, count in (("valid", 0), ("test", 3)):
        facts["data"][name]["in_training"] = count
    (folder / "run.json").write_text(json.dumps(facts))
    due = f"{folder}: 3 of its 20 test images are, byte for byte, training images."
    summarize.main([str(folder)])
    assert due in capsys.readouterr().err.splitlines()
    summarize.main([str(folder), "--out", str(tmp_path / "report")])
    assert due in (tmp_path / "report" / "results.md").read_text().splitlines()


def test_starts_from_one_file(summarize, tmp_path):
    """By what is in it: a file of another content starts another comparison, its path does not."""
    folders = []
    for name, path, digest in (("a", "x/m.pt", "1"), ("b", "y/m.pt", "1"), ("c", "x/m.pt", "2")):
        folders.append(write_run(tmp_path / name, count=20, init_from=path))
        facts = json.loads((folders[-1] / "run.json").read_text())
        facts["init_from_sha256"] = digest * 64
        (folders[-1] / "run.json").write_text(json.dumps(facts))
    comparisons, _ = read_all(summarize, folders[:2])
    assert len(comparisons) == 1
    comparisons, _ = read_all(summarize, [folders[0], folders[2]])
    assert len(comparisons) == 2


def test_few_images(summarize, tmp_path, capsys):
    """Of one image every resample is the same: no interval, and no verdict."""
    for count, due in ((1, "unknown"), (19, "unknown"), (20, None)):
        runs = [
            write_run(tmp_path / f"{loss}{count}", loss=loss, count=count)
            for loss in ("ce", "coral")
        ]
        summarize.main([*map(str, runs), "--out", str(tmp_path / f"report{count}")])
        for row in read_csv(tmp_path / f"report{count}" / "paired.csv"):
            assert (row["over images"] == "") == bool(due)
            assert row["more than noise"] == due or not due
        verdicts = (tmp_path / f"report{count}" / "verdicts.csv").read_text()
        assert ("unknown: one seed" in verdicts) == (not due)


def test_printed_medians_of_several_tests(summarize, tmp_path, capsys):
    """Of two sets of test images each has its own, beside what tells their runs apart."""
    runs = [write_run(tmp_path / "a", count=20), write_run(tmp_path / "b", count=30, lr=0.1)]
    facts = json.loads((runs[1] / "run.json").read_text())
    facts["data"]["test"]["median_mae"] = 9.06
    (runs[1] / "run.json").write_text(json.dumps(facts))
    summarize.main([*map(str, runs)])
    table, _ = capsys.readouterr().out.split("\n\n")
    rows = [row for row in table.splitlines() if "| always the median age |" in row]
    for row, (place, mae) in zip(rows, [("lr 0.0005", 9.32), ("lr 0.1", 9.06)], strict=True):
        assert row.startswith(f"| {place}") and f"| always the median age |  | {mae} |" in row


# Single quantities against known cases.


def slow_inconsistencies(probas):
    count = 0
    for row in probas.tolist():
        for k in range(len(row) - 1):
            if row[k + 1] > row[k]:
                count += 1
    return count / len(probas)


def test_rank_inconsistencies(summarize):
    assert summarize.rank_inconsistencies(np.array([[0.9, 0.5, 0.5, 0.1], [1, 0.2, 0.1, 0]])) == 0
    assert summarize.rank_inconsistencies(np.array([[0.1, 0.2, 0.3, 0.2], [1, 0.2, 0.1, 0]])) == 1
    crossing = np.random.default_rng(0).random((50, 39))
    assert summarize.rank_inconsistencies(crossing) == slow_inconsistencies(crossing) > 15
    ordered = -np.sort(-crossing, axis=1)
    assert summarize.rank_inconsistencies(ordered) == slow_inconsistencies(ordered) == 0


def test_crps_of_known_distributions(summarize):
    """Of a certain age the absolute error; of two ages like 0 and 1, each 1/2, 1/4 of a year."""
    labels = np.array([3, 0, 5, 2])
    certain = (np.array([3, 4, 1, 2])[:, None] > np.arange(5)).astype(float)
    assert summarize.crps(certain, labels) == (0 + 4 + 4 + 0) / 4
    assert summarize.crps(np.array([[0.5]]), np.array([0])) == 0.25
    assert summarize.crps(np.array([[1, 0.5, 0]]), np.array([3])) == 1.25  # ages 1 and 2; 3 is true
    draw = np.random.default_rng(0)
    probas = -np.sort(-draw.random((1, 30)))
    classes = slow_classes(probas[0].tolist(), "coral")
    first, second = draw.choice(31, (2, 400_000), p=classes)
    sampled = abs(first - 7).mean() - abs(first - second).mean() / 2
    assert summarize.crps(probas, np.array([7])) == pytest.approx(sampled, abs=0.05)


def of_probas(summarize, path, probas, labels, loss, dtype=np.float32):
    np.save(path, np.array(probas, dtype))
    classes = len(probas[0]) + (loss not in ("ce", "dldl", "sord"))
    return summarize.read_probas(path, loss, np.array(labels), classes)


def test_answers_of_known_distributions(summarize, tmp_path):
    """The label is 0 in all, so that the MAE is the answer."""
    path = tmp_path / "probas.npy"
    for loss, probas, median, mean in [
        ("ce", [0.4, 0.3, 0.2, 0.1], 1, 1.0),  # the most probable is 0
        ("ce", [0.5, 0.0, 0.0, 0.5], 0, 1.5),  # the sum reaches 0.5 at 0
        ("ce", [0.25, 0.0, 0.125, 0.625], 3, 2.125),
        ("ce", [1 / 101] * 101, 50, 50.0),  # which float16 rounds to a sum of 1.0002
        ("coral", [0.75, 0.625, 0.25], 2, 1.625),
        ("ordinal", [0.25, 0.75, 0.625], 2, 1.625),  # the same, crossing
        ("coral", [0.5, 0.5, 0.25], 0, 1.25),
        ("corn", [0.75, 0.625, 0.25], 2, 1.625),
        ("dldl", [0.25, 0.0, 0.125, 0.625], 3, 2.125),
        ("sord", [0.5, 0.0, 0.0, 0.5], 0, 1.5),
        ("l1", [1.0, 1.0, 0.25], 2, 2.25),
    ]:
        known = {"median": (median, median), "mean": (mean, mean)}
        for dtype in (np.float32, np.float16):
            decoded = of_probas(summarize, path, [probas], [0], loss, dtype)["decoded"]
            for answer, figures in known.items():
                assert decoded[answer] == pytest.approx(figures, abs=1e-3)


def test_bootstrap_against_known_cases(summarize):
    """Of a constant the mean is certain; of 0s and 1s it is binomial; pairs share resamples."""
    draw = np.random.default_rng(1)
    coins = (draw.random(400) < 0.3).astype(float)
    means = summarize.bootstrap(np.stack([np.full(400, 0.04), coins, 2 * coins]))
    assert means.shape == (2000, 3)
    np.testing.assert_allclose(means[:, 0], 0.04, rtol=1e-12)
    share = coins.mean()
    deviation = math.sqrt(share * (1 - share) / 400)
    assert means[:, 1].mean() == pytest.approx(share, abs=3 * deviation / math.sqrt(2000))
    assert means[:, 1].std() == pytest.approx(deviation, rel=0.05)
    np.testing.assert_allclose(means[:, 2], 2 * means[:, 1], rtol=1e-12)
    two = summarize.bootstrap(np.array([[0.0, 1.0]]))  # resamples of two: 0, 1/2, 1/2, 1
    shares = [(two == value).mean() for value in (0, 0.5, 1)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.04)


def test_interval_over_seeds(summarize):
    # Pooled variance (2 * 1 + 2 * 4) / 4 = 2.5; t for 4 degrees of freedom is 2.776.
    half = summarize.over_seeds([1, 2, 3], [2, 4, 6])
    assert half == pytest.approx(2.776 * math.sqrt(2.5 * 2 / 3), rel=2e-3)
    assert math.isnan(summarize.over_seeds([1, 2, 3], [2]))
    points = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228]
    assert summarize.T_975 == points


@pytest.mark.parametrize(
    ("low", "high", "half", "says"),
    [
        (-0.01, 0.09, 0.01, "no"),
        (0.01, 0.07, 0.01, "yes"),
        (0.01, 0.07, 0.05, "of images: yes, of seeds: no"),
        (0.01, 0.07, float("nan"), "of images: yes, of seeds: unknown"),
    ],
)
def test_verdict(summarize, low, high, half, says):
    assert summarize.verdict(0.04, low, high, half) == says
    assert summarize.verdict(-0.04, -high, -low, half) == says


@pytest.mark.parametrize("loss", ["ce", "ordinal"])
def test_reliability_by_a_slow_loop(summarize, tmp_path, loss):
    folder = write_run(tmp_path / "run", loss=loss, dataset="utk", count=40)
    (groups,), _ = read_all(summarize, [folder])
    pairs, given, happened = ([0] * 10, [0.0] * 10, [0] * 10)
    probas = np.load(folder / "test_probas.npy").tolist()
    rows = read_csv(folder / "test_predictions.csv")
    for row, of_image in zip(rows, probas, strict=True):
        for k in range(39):
            p = sum(of_image[k + 1 :]) if loss == "ce" else of_image[k]
            place = min(int(p * 10), 9)
            pairs[place] += 1
            given[place] += p
            happened[place] += int(row["true_age"]) - 21 > k
    counted = groups[loss, 0, ""][0]["reliability"]
    assert counted[0].tolist() == pairs
    np.testing.assert_allclose(counted[1], given, rtol=1e-5)
    assert counted[2].tolist() == happened


def test_plots_show_the_numbers(summarize, full_report):
    _, runs = full_report
    comparisons, _ = read_all(summarize, [run for run in runs if run.name.startswith("utk")])
    groups = comparisons[1]  # the last epoch
    colours = {"ce": "#d55e00", "ordinal": "#0072b2", "coral": "#009e73"}
    by_age, score = plots.plot_mae_by_age(groups), plots.plot_cumulative_score(groups)
    for index, (loss, imp_weight) in enumerate(GROUPS):
        facts = group_facts(runs, "utk", loss, imp_weight, "")
        ages = {}
        for fact in facts:
            for row, error in zip(fact["rows"], fact["errors"], strict=True):
                ages.setdefault(int(row["true_age"]), []).append(abs(error))
        drawn = by_age.axes[0].lines[index]
        assert drawn.get_xdata().tolist() == sorted(ages)
        expected = [statistics.mean(ages[age]) for age in sorted(ages)]
        np.testing.assert_allclose(drawn.get_ydata(), expected)
        absolute = [abs(error) for fact in facts for error in fact["errors"]]
        expected = [100 * sum(e <= years for e in absolute) / len(absolute) for years in range(21)]
        np.testing.assert_allclose(score.axes[0].lines[index].get_ydata(), expected)
        for line in (drawn, score.axes[0].lines[index]):
            assert line.get_color() == colours[loss]
            assert line.get_linestyle() == ("--" if imp_weight else "-")
    counts = [bar.get_height() for bar in by_age.axes[1].patches]
    assert counts == [len(ages[age]) / len(facts) for age in sorted(ages)]

    folders = sorted(folder for folder in runs if folder.name.startswith("utk-ce-"))
    medians = [statistics.mean(map(abs, slow_decoding(folder, "")[1])) for folder in folders]
    own = average(group_facts(runs, "utk", "ce", 0, ""), "mae")
    seeds, rule, mean, *_ = plots.plot_errors(groups).axes[0].lines
    assert seeds.get_xdata() == pytest.approx(medians)
    assert (*rule.get_xdata(), *mean.get_xdata()) == pytest.approx((own, statistics.mean(medians)))

    rows = summarize.frame(summarize.verdict_table, [summarize.judge(groups)])
    drawn = plots.plot_differences(rows).axes[0]
    for row, bar in zip(rows.to_dict("records"), drawn.containers, strict=True):
        assert bar.lines[0].get_xdata() == [float(row["A - B"])]
        ends = bar.lines[2][0].get_segments()[0][:, 0]
        assert ends == pytest.approx([*map(float, row["95 % interval"].split(" to "))])
    ce = plots.plot_predicted_against_true({("ce", 0, ""): groups["ce", 0, ""]}).axes[0]
    assert ce.collections[0].get_array().sum() == sum(
        len(r["rows"]) for r in group_facts(runs, "utk", "ce", 0, "")
    )
    for name in plots.pictures(1, groups):
        assert re.fullmatch(r"1-[a-z-]+(-\d)?", name)
    for plot in (
        plots.plot_curves,
        plots.plot_validation,
        plots.plot_reliability,
        plots.plot_errors,
    ):
        figure = plot(groups)
        assert all(ax.get_ylabel() or plot is plots.plot_errors for ax in figure.axes)
        assert figure.axes[-1].get_xlabel() and figure.legends


# Which runs are averaged and compared.


def test_what_is_averaged(summarize, tmp_path):
    """Only seeds: anything else that changes the numbers makes another group or comparison."""
    n = iter(range(100))

    def made(**options):
        return write_run(tmp_path / f"run{next(n)}", count=20, **options)

    same = [made(), made(seed=1, log_every=2, trust_csv=1, skip_missing=1)]
    same.append(made(seed=2, cuda=0, cache_dir="elsewhere"))
    comparisons, notes = read_all(summarize, same)
    assert keys(comparisons) == [("morph2", "last", ("coral", 0, ""), [0, 1, 2])] and not notes
    weighted = [made(imp_weight=1), made(loss="ce"), made(loss="ordinal")]
    comparisons, _ = read_all(summarize, same + weighted)
    assert len(comparisons) == 1 and list(comparisons[0]) == [(*key, "") for key in GROUPS]
    # of CORAL's biases' rate too, which CE and OR-CNN lack; a run from before there was one had 1
    rates = [made(bias_lr=1.0, seed=3), made(loss="ce", bias_lr=10.0, seed=4), made(bias_lr=10.0)]
    comparisons, notes = read_all(summarize, same + rates)
    names = {"coral": ("coral", 0, ""), "ce": ("ce", 0, ""), "faster": ("coral", 0, "bias_lr 10")}
    assert keys(comparisons) == [
        ("morph2", "last", names["ce"], [4]),
        ("morph2", "last", names["coral"], [0, 1, 2, 3]),
        ("morph2", "last", names["faster"], [0]),
    ]
    assert not notes
    losses = [row["loss"] for row in summarize.decoding_table(1, comparisons[0])]
    assert losses == ["CE", "CORAL", "CORAL, bias_lr 10"]
    table = summarize.short_tables(comparisons).split("\n\n")[0]
    assert "| CORAL, bias_lr 10 | 0 |" in table and "| CORAL | 0, 1, 2, 3 |" in table
    # and of variants, which their scripts' names tell
    record = json.loads((rates[0] / "run.json").read_text())
    record |= {"script": "morph2-coral-resnet18.py"}
    (rates[0] / "run.json").write_text(json.dumps(record))
    [groups], _ = read_all(summarize, same + rates)
    assert [summarize.label(key) for key in groups] == [
        "CE",
        "CORAL",
        "CORAL, bias_lr 10",
        "CORAL, resnet18",
    ]
    assert len({colour(key) for key in groups}) == 4
    # a loss of one's own may have such biases
    own = [made(seed=6), made(seed=7, bias_lr=10.0)]
    for folder in own:
        record = json.loads((folder / "run.json").read_text()) | {"loss": "rps"}
        (folder / "run.json").write_text(json.dumps(record))
    assert [key for _, _, key, _ in keys(read_all(summarize, own)[0])] == [
        ("rps", 0, ""),
        ("rps", 0, "bias_lr 10"),
    ]
    # with class weights it is another group of the same comparison
    comparisons, notes = read_all(summarize, [*same, made(balance=1), made(balance=0, seed=5)])
    assert [key for _, _, key, _ in keys(comparisons)] == [
        ("coral", 0, ""),
        ("coral", 0, "balanced"),
    ]
    assert keys(comparisons)[0][3] == [0, 1, 2, 5] and not notes
    # a former or later option that is off is none
    assert len(read_all(summarize, [*same, made(mixup=0.0, some_path=None, seed=5)])[0]) == 1
    for other in (
        made(dataset="utk", seed=5),
        made(gender=1, seed=5),
        made(recipe="fast", seed=5),
        made(epochs=31, seed=5),
        made(prior_bias=1, seed=5),
        made(image_size=64, seed=5),
        made(some_later_option="x", seed=5),
        made(numworkers=2, seed=5),
        made(processes=2, seed=5),
        made(images_seed=8, seed=5),
    ):
        comparisons, notes = read_all(summarize, [*same, other])
        assert sorted(seeds for *_, seeds in keys(comparisons)) == [[0, 1, 2], [5]] and not notes
        assert [summarize.paired_table(1, groups) for groups in comparisons] == [[], []]
    comparisons, _ = read_all(summarize, [*same, made(recipe="fast", lr=0.1)])
    firsts = [groups["coral", 0, ""][0] for groups in comparisons]
    apart = sorted(summarize.apart(first, firsts) for first in firsts)
    assert apart == ["lr 0.0005, recipe paper", "lr 0.1, recipe fast"]


def shipped(folder):
    """``folder`` as the repository ships a run: without weights, in float16, last epoch only."""
    small = folder.with_name(f"{folder.name}-shipped")
    small.mkdir()
    for name in ("run.json", "history.csv", "training.log", "test_predictions.csv"):
        shutil.copy(folder / name, small)
    np.save(small / "test_probas.npy", np.load(folder / "test_probas.npy").astype(np.float16))
    return small


@pytest.mark.parametrize("loss", ["ce", "ordinal", "coral"])
def test_a_run_as_shipped_gives_the_same_figures(summarize, tmp_path, loss):
    """But for answers within 1/4096 of a border, and the crossings, which float16 does not tell."""
    whole = write_run(tmp_path / "run", dataset="utk", loss=loss, count=1315, valid=True)
    small = shipped(whole)
    assert sum(path.stat().st_size for path in small.iterdir()) < 250_000
    notes = []
    last, best = summarize.read_run(whole, {}, notes)
    (half,) = summarize.read_run(small, {}, notes)
    assert notes == [] and (last["epoch"], best["epoch"]) == ("last", "best on validation")
    assert half["settings"] == last["settings"]
    for name in ("mae", "rmse", "amae", "cs5", "cs10", "median_mae", "minutes"):
        assert half[name] == last[name]
    assert half["crps"] == pytest.approx(last["crps"], abs=0.001)
    assert half["nll"] == pytest.approx(last["nll"], abs=0.005)
    assert half["coverage"] == pytest.approx(last["coverage"], abs=0.5)
    both = summarize.compare([half, half | {"seed": 1}], [])
    [row] = summarize.probabilities_table(1, *both)
    assert row["rank inconsistencies"] == ("0.000 ± 0.000" if loss == "ce" else "")
    assert half.get("inconsistencies") == (0 if loss == "ce" else None)
    assert ("inconsistencies" in last) and (last["inconsistencies"] > 1) == (loss == "ordinal")
    for answer, figures in last["decoded"].items():
        assert half["decoded"][answer] == pytest.approx(figures, abs=0.005)


def test_an_unfinished_run_is_in_the_curves_only(summarize, tmp_path):
    """Of the comparisons with its settings, whatever their epoch and test images."""
    runs = [
        write_run(tmp_path / "a", count=20, valid=True),
        write_run(tmp_path / "b", count=20, valid=True, loss="ordinal"),
        write_run(tmp_path / "c", count=20, valid=True, images_seed=8),
        write_run(tmp_path / "d", count=20, valid=True, lr=0.1),
        write_run(tmp_path / "e", count=20, valid=True, loss="ce", seed=5, status="running"),
    ]
    for folder in runs:  # c has other test images, but was trained on the same
        record = json.loads((folder / "run.json").read_text())
        record["data"]["train"]["csv_sha256"] = "cd" * 32
        (folder / "run.json").write_text(json.dumps(record))
    history = (runs[-1] / "history.csv").read_text().splitlines(keepends=True)
    (runs[-1] / "history.csv").write_text("".join(history[:8]) + history[8][:5])
    comparisons, notes = read_all(summarize, runs)
    assert notes == [
        f"{runs[-1]}: unfinished (7 of 30 epochs done), left out of all but the learning curves."
    ]
    homes = {
        r["folder"].name
        for groups in comparisons
        if ("ce", 0, "") in groups
        for group in groups.values()
        for r in group
    }
    assert homes == {"a", "b", "c", "e"} and len(comparisons) == 6
    for number, groups in enumerate(comparisons, 1):
        for table in summarize.TABLES.values():
            assert "CE" not in {v for row in table(number, groups) for v in row.values()}
        assert "CE" not in {pair[side] for pair in summarize.judge(groups) for side in "AB"}
        assert summarize.first_of(groups)["epoch"] in ("last", "best on validation")
        if ("ce", 0, "") not in groups:
            continue
        (left,), (right,) = plots.plot_curves(groups).axes, plots.plot_validation(groups).axes
        (line,) = [line for line in left.lines if line.get_label() == "CE, unfinished"]
        assert (line.get_color(), line.get_linestyle()) == ("#d55e00", ":")
        assert line.get_xdata().tolist() == list(range(1, 8))
        costs = [float(row["cost"]) for row in read_csv(runs[-1] / "history.csv")[:7]]
        assert line.get_ydata().tolist() == pytest.approx([100 * c / costs[0] for c in costs])
        labels = [line.get_label() for line in right.lines]
        assert "CE, unfinished" in labels and "CORAL" in labels


def test_a_report_on_unfinished_runs_alone(summarize, tmp_path, capsys):
    runs = [write_run(tmp_path / "a", status="running", count=20)]
    runs.append(write_run(tmp_path / "b", status="running", count=20, seed=1))
    runs.append(write_run(tmp_path / "c", status="running", count=20, lr=0.1, loss="ce"))
    out = tmp_path / "report"
    summarize.main([*map(str, runs), "--out", str(out)])
    names = [f"{number}-{plot}.svg" for number in (1, 2) for plot in ("curves", "validation")]
    assert sorted(path.name for path in out.glob("*.svg")) == [names[0], names[2]]
    page = (out / "index.html").read_text()
    assert (
        page.count("<svg ") == page.count("<table") == 2 and page.count("unfinished</small>") == 3
    )
    notes = (out / "results.md").read_text().split("\n\n")
    assert [note.split(": ")[0] for note in notes[2:]] == [*map(str, runs), ""]
    assert notes[:2] == ["There are no errors of known ages."] * 2
    comparisons, _ = read_all(summarize, runs)
    (pair,) = [groups for groups in comparisons if ("coral", 0, "") in groups]
    figure = plots.plot_curves(pair)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["CORAL, unfinished"] and len(figure.axes[0].lines) == 2
    capsys.readouterr()
    assert "no finished run among" in error_line(capsys, summarize, *runs)


def test_runs_on_different_test_images_are_never_paired(summarize, tmp_path):
    coral = write_run(tmp_path / "coral", count=20)
    ordinal = write_run(tmp_path / "ordinal", loss="ordinal", count=20)
    comparisons, _ = read_all(summarize, [coral, ordinal])
    assert [len(summarize.paired_table(1, groups)) for groups in comparisons] == [1]
    record = json.loads((ordinal / "run.json").read_text())
    for change in ("csv_sha256", "images_sha256"):
        changed = json.loads(json.dumps(record))
        changed["data"]["test"][change] = "0" * 64
        (ordinal / "run.json").write_text(json.dumps(changed))
        comparisons, _ = read_all(summarize, [coral, ordinal])
        assert [summarize.paired_table(1, groups) for groups in comparisons] == [[], []]
    (ordinal / "run.json").write_text(json.dumps(record))
    rows = read_csv(ordinal / "test_predictions.csv")
    rows[0]["path"], rows[1]["path"] = rows[1]["path"], rows[0]["path"]
    write_csv(ordinal / "test_predictions.csv", rows)
    comparisons, _ = read_all(summarize, [coral, ordinal])
    assert [summarize.paired_table(1, groups) for groups in comparisons] == [[], []]


def test_duplicate_seed_is_left_out_and_said(summarize, tmp_path):
    first = write_run(tmp_path / "a", count=20)
    second = write_run(tmp_path / "b", count=20, spread=9.0)
    comparisons, notes = read_all(summarize, [first, second, first])
    assert keys(comparisons) == [("morph2", "last", ("coral", 0, ""), [0])]
    assert comparisons[0]["coral", 0, ""][0]["folder"] == first
    assert len(notes) == 2 and all("has seed 0 already" in note for note in notes)
    assert notes[0].startswith(f"{second}: left out")


def test_a_changed_script_is_said(summarize, tmp_path):
    first = write_run(tmp_path / "a", count=20, valid=True)
    second = write_run(tmp_path / "b", count=20, valid=True, seed=1)
    record = json.loads((second / "run.json").read_text())
    (second / "run.json").write_text(json.dumps(record | {"script_sha256": "changed"}))
    comparisons, notes = read_all(summarize, [first, second])
    epochs = ("best on validation", "last")
    assert keys(comparisons) == [("morph2", epoch, ("coral", 0, ""), [0, 1]) for epoch in epochs]
    assert notes == [f"{second}: its script differs from {first}'s."]


@pytest.mark.parametrize("dataset", FACTS)
def test_gender_and_race_come_from_the_data_set(summarize, tmp_path, dataset):
    """With --gender 0 too: columns of afad, faces, morph2, names of utk, nothing for the others."""
    folder = write_run(tmp_path / "run", dataset=dataset, count=50)
    (groups,), _ = read_all(summarize, [folder])
    rows = {(r["by"], r["group"]): r["images"] for r in summarize.by_group_table(1, groups)}
    made = images_of(dataset, 50)
    genders = [row["gender"] for row in made]
    expected = {}
    if dataset not in ("cacd", "mine"):
        expected = {("gender", g): str(genders.count(g)) for g in ("female", "male")}
    assert {key: count for key, count in rows.items() if key[0] == "gender"} == expected
    races = {"morph2": set("ABHW"), "utk": {"White", "Black", "Asian", "Indian", "other"}}
    assert {group for by, group in rows if by == "race"} == races.get(dataset, set())


def test_faces_by_group_from_known_rows(summarize, tmp_path):
    """The gender column, empty in one row; decades in the order of age, up to 100 years."""
    folder = write_run(tmp_path / "run", dataset="faces", count=6)
    ages, predicted = [8, 9, 15, 99, 100, 100], [10, 9, 12, 95, 99, 98]  # errors 2 0 -3 -4 -1 -2
    genders = ["female", "male", "male", "", "female", "male"]
    rows = [
        {"path": f"{n}.jpg", "true_age": age, "predicted_age": said, "gender": gender}
        for n, (age, said, gender) in enumerate(zip(ages, predicted, genders, strict=True))
    ]
    write_csv(folder / "test_predictions.csv", rows)
    metrics = {"test_mae": 2.0, "test_rmse": math.sqrt(34 / 6)}
    corrupt_json(lambda record: record.update(metrics=metrics))(folder / "run.json")
    (groups,), notes = read_all(summarize, [folder])
    assert notes == []
    table = summarize.by_group_table(1, groups)
    assert [[row[key] for key in ("by", "group", "images", "MAE", "bias")] for row in table] == [
        ["age", "0-9", "2", "1.00", "1.00"],
        ["age", "10-19", "1", "3.00", "-3.00"],
        ["age", "90-99", "1", "4.00", "-4.00"],
        ["age", "100-109", "2", "1.50", "-1.50"],
        ["gender", "female", "2", "1.50", "0.50"],
        ["gender", "male", "3", "1.67", "-1.67"],
    ]


def run_of_ranges(folder, rows, **settings):
    """A run on ``rows``, tuples of true age, predicted age and gender, with its figures by hand."""
    write_run(folder, dataset="faces", count=len(rows), **settings)
    table = []
    for number, (age, said, gender) in enumerate(rows):
        low, _, high = age.partition("-")
        true = {"true_age": "" if high else age, "true_age_low": low, "true_age_high": high or low}
        table.append({"path": f"{number}.jpg", **true, "predicted_age": said, "gender": gender})
    write_csv(folder / "test_predictions.csv", table)
    errors = [said - int(age) for age, said, _ in rows if age.isdigit()]
    ends = [(*map(int, age.split("-")), said) for age, said, _ in rows if "-" in age]
    off = [max(low - said, said - high, 0) for low, high, said in ends]
    metrics = {"test_mae_to_range": sum(off) / len(off)}
    if errors:
        metrics["test_mae"] = sum(map(abs, errors)) / len(errors)
        metrics["test_rmse"] = math.sqrt(sum(e * e for e in errors) / len(errors))
    else:
        corrupt_json(lambda record: record["data"]["test"].pop("median_mae"))(folder / "run.json")
    corrupt_json(lambda record: record.update(metrics=metrics))(folder / "run.json")
    return folder


RANGES = [("20-29", 25, "male"), ("20-29", 31, "male"), ("30-39", 19, "female"), ("70-100", 35, "")]


def test_ages_known_as_ranges(summarize, tmp_path):
    """Their figures stand apart from those of known ages, which alone have errors, and from the
    unknown one, which has a gender alone."""
    rows = [("30", 33, "male"), ("40", 36, "female"), *RANGES, ("", 7, "male")]
    folder = run_of_ranges(tmp_path / "run", rows)
    other = run_of_ranges(tmp_path / "other", [(a, said + 1, g) for a, said, g in rows], loss="ce")
    (groups,), notes = read_all(summarize, [folder, other])
    assert notes == []
    row = next(r for r in summarize.results_table(1, groups) if r["loss"] == "CORAL")
    due = {"test MAE": "3.50", "test RMSE": "3.54", "AMAE": "3.50", "CS(5) %": "100.00"}
    due |= {"MAE to range": "12.00", "group accuracy %": "25.00", "one-off %": "75.00"}
    assert {name: row[name] for name in due} == due

    [crps] = [result["crps"] for result in groups["coral", 0, ""]]
    probas = np.load(folder / "test_probas.npy")[:2].astype(float)
    probas = -np.sort(-probas, axis=1)
    happened = np.array([30, 40])[:, None] > np.arange(100)
    assert crps == pytest.approx(((probas - happened) ** 2).sum(1).mean())

    table = [row for row in summarize.by_group_table(1, groups) if row["loss"] == "CORAL"]
    names = "by", "group", "images", "MAE", "bias", "MAE to range", "group accuracy %"
    assert [[row[key] for key in names] for row in table] == [
        ["age", "30-39", "1", "3.00", "3.00", "", ""],
        ["age", "40-49", "1", "4.00", "-4.00", "", ""],
        ["gender", "female", "2", "4.00", "-4.00", "11.00", "0.00"],
        ["gender", "male", "4", "3.00", "3.00", "1.00", "50.00"],
        ["range", "20-29", "2", "", "", "1.00", "50.00"],
        ["range", "30-39", "1", "", "", "11.00", "0.00"],
        ["range", "70-100", "1", "", "", "35.00", "0.00"],
    ]
    [pair] = summarize.paired_table(1, groups)
    assert (pair["images"], pair["A - B"]) == ("2", "0.000")  # |4| and |-3| for |3| and |-4|

    # with another range they are other images
    rows[2] = ("10-19", *rows[2][1:])
    last = run_of_ranges(tmp_path / "last", rows, loss="ordinal")
    comparisons, notes = read_all(summarize, [folder, other, last])
    assert sorted(map(len, comparisons)) == [1, 2] and notes == []


@pytest.mark.parametrize(
    "age, change, said",
    [
        ("30", {"true_age_low": "20"}, "true_age_low and true_age_high do not go with true_age"),
        ("20-29", {"true_age_high": "19"}, "true_age_low and true_age_high do not go with true_a"),
        ("20-29", {"true_age_high": ""}, "true_age_low and true_age_high do not go with true_age"),
        ("20-29", {"true_age_high": "101"}, "row 1: true_age 101, 0 to 100 by run.json"),
        ("20-29", {"predicted_age": ""}, "predicted_age must be a number in every row"),
        ("20-29", {"predicted_age": "60"}, "where it says 12.00 (epoch: last)"),
    ],
)
def test_damaged_ranges(age, change, said, summarize, tmp_path, capsys):
    folder = run_of_ranges(tmp_path / "run", [(age, 25, ""), *RANGES[1:]])
    rows = read_csv(folder / "test_predictions.csv")
    rows[0] |= change
    write_csv(folder / "test_predictions.csv", rows)
    with contextlib.suppress(SystemExit):
        summarize.main([str(folder)])
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1


def test_ranges_alone(summarize, tmp_path, capsys):
    """The tables and the report without an MAE."""
    folder = run_of_ranges(tmp_path / "run", RANGES)
    summarize.main([str(folder)])
    header, _, row, *_ = capsys.readouterr().out.splitlines()
    cells = dict(zip(header.split("|"), row.split("|"), strict=True))
    assert " test MAE " not in cells
    found = [cells[f" {name} "] for name in ("MAE to range", "group accuracy %", "one-off %")]
    assert found == [" 12.00 ", " 25.00 ", " 75.00 "]
    other = run_of_ranges(tmp_path / "other", RANGES, loss="ce")
    summarize.main([str(folder), str(other), "--out", str(tmp_path / "report")])
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert "1-curves.svg" in names and "1-mae-by-age.svg" not in names


def test_report_on_data_of_ones_own(summarize, tmp_path):
    """Two losses on a data set that no tool knows, one of them with a gender output."""
    losses = ("coral", "ordinal")
    runs = [write_run(tmp_path / loss, dataset="mine", loss=loss, count=30) for loss in losses]
    runs.append(write_run(tmp_path / "gender", dataset="mine", gender=1, count=30))
    summarize.main([*map(str, runs), "--out", str(tmp_path / "report")])
    rows = read_csv(tmp_path / "report" / "results.csv")
    assert [(row["data set"], row["loss"], row["gender"]) for row in rows] == [
        ("mine", "OR-CNN", "0"),
        ("mine", "CORAL", "0"),
        ("mine", "CORAL", "1"),
    ]
    for row, name in zip(rows, ("ordinal", "coral", "gender"), strict=True):
        facts = slow_facts(tmp_path / name, "")
        assert row["test MAE"] == f"{facts['mae']:.2f}"
        assert row["rank inconsistencies"] == f"{facts['crossed']:.3f}"
        assert row["gender accuracy %"] == (f"{facts['gender']:.2f}" if facts["gender"] else "")
    by_group = read_csv(tmp_path / "report" / "by_group.csv")
    assert {(row["comparison"], row["by"]) for row in by_group} == {
        *(("1", "age"), ("2", "age"), ("2", "gender"))
    }


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"youngest_age": 6}, "row 1: true_age 5, 6 to 16 by run.json"),
        ({"num_classes": 10}, "row 3: true_age 15, 5 to 14 by run.json"),
        ({"dataset": "my-data"}, "no data set or no loss: my-data, coral"),
        ({"dataset": "Mine"}, "no data set or no loss: Mine, coral"),
        ({"dataset": None}, "run.json cannot be used (TypeError"),
    ],
)
def test_run_json_is_not_believed_against_the_predictions(summarize, tmp_path, capsys, facts, said):
    folder = write_run(tmp_path / "run", dataset="mine", count=3)
    rows = read_csv(folder / "test_predictions.csv")
    for row, age in zip(rows, (5, 10, 15), strict=True):
        row["true_age"] = age
    write_csv(folder / "test_predictions.csv", rows)
    corrupt_json(lambda record: record.update(facts))(folder / "run.json")
    assert said in error_line(capsys, summarize, folder, "--out", tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_utk_names_of_three_fields_have_no_gender(summarize, tmp_path):
    folder = write_run(tmp_path / "run", dataset="utk", count=4)
    rows = read_csv(folder / "test_predictions.csv")
    for row, name in zip(
        rows,
        ["39_1_20170116174525125.jpg", "x/26_0_3_2017 .jpg.chip.jpg", "61_3_20170109.jpg", "a.jpg"],
        strict=True,
    ):
        row["path"] = name
    write_csv(folder / "test_predictions.csv", rows)
    (groups,), _ = read_all(summarize, [folder])
    images = groups["coral", 0, ""][0]["images"]
    assert images["gender"].astype(object).fillna("").tolist() == ["", "male", "", ""]
    assert images["race"].astype(object).fillna("").tolist() == ["", "Indian", "", ""]

    # columns of UTKFace's own codes: of gender the names tell more, the races are translated
    for row, gender, race in zip(rows, "1010", "0340", strict=True):
        row |= {"gender": gender, "race": race}
    write_csv(folder / "test_predictions.csv", rows)
    (groups,), _ = read_all(summarize, [folder])
    images = groups["coral", 0, ""][0]["images"]
    assert images["gender"].astype(object).fillna("").tolist() == ["", "male", "", ""]
    assert images["race"].tolist() == ["White", "Indian", "other", "White"]


def test_genders_of_morph2_in_other_digits(summarize, tmp_path):
    """1 or -1, however written, as the training script takes them."""
    folder = write_run(tmp_path / "run", dataset="morph2", count=4)
    rows = read_csv(folder / "test_predictions.csv")
    for row, male in zip(rows, ["1", "1.0", "-1.0", "x"], strict=True):
        row["Male"] = male
    write_csv(folder / "test_predictions.csv", rows)
    (groups,), _ = read_all(summarize, [folder])
    genders = groups["coral", 0, ""][0]["images"]["gender"]
    assert genders.astype(object).fillna("").tolist() == ["male", "male", "female", ""]


# Published logs.


def test_imitation_of_published_logs(summarize, tmp_path, capsys):
    """Figures from the logs; predictions used where they agree, reported where they do not."""
    ages = [0, 10, 20, 30, 40, 50]
    made = [{"": f"{age:06d}_01M.jpg", "race": "B", "Male": 1, "age": age} for age in ages]
    write_csv(tmp_path / "test.csv", made)
    good = [1, 12, 17, 30, 44, 44]  # errors 1 2 -3 0 4 -6: MAE 16/6, RMSE sqrt(66/6)
    runs = [
        published_run(tmp_path / "morph-coral__seed0", "coral", 0, (2.67, 3.32), predictions=good),
        published_run(
            tmp_path / "morph-ordinal__seed0", "ordinal", 0, (2.66, 3.31), predictions=good
        ),
        published_run(tmp_path / "morph-ce__seed0", "ce", 0, (3.26, 4.62), predictions=[0, 1] * 3),
    ]
    out = tmp_path / "report"
    option = f"morph2={tmp_path / 'test.csv'}"
    summarize.main([*map(str, runs), "--out", str(out), "--published_test_csv", option])
    rows = read_csv(out / "results.csv")
    figures = [
        [row[name] for name in ("data set", "loss", "epoch", "test MAE", "test RMSE", "CS(5) %")]
        for row in rows
    ]
    assert figures == [
        ["morph2", "CE", "best on validation", "3.26", "4.62", ""],
        ["morph2", "OR-CNN", "best on validation", "2.67", "3.32", "83.33"],
        ["morph2", "CORAL", "best on validation", "2.67", "3.32", "83.33"],
        ["morph2", "CE", "last", "2.75", "3.50", ""],
        ["morph2", "OR-CNN", "last", "2.75", "3.50", ""],
        ["morph2", "CORAL", "last", "2.75", "3.50", ""],
    ]
    assert {(row["epochs"], row["minutes"], row["seeds"]) for row in rows} == {("3", "5.2", "0")}
    assert {row["settings"].split(",")[0] for row in rows} == {"source published log"}
    assert [(row["A"], row["B"]) for row in read_csv(out / "paired.csv")] == [("OR-CNN", "CORAL")]
    # 0/1 answers to labels 0..50: errors 0 9 20 29 40 49.
    note = (
        f"MAE/RMSE of 24.50/{math.sqrt((81 + 400 + 841 + 1600 + 2401) / 6):.2f}, the log says 3.26"
    )
    printed = capsys.readouterr().out
    assert str(runs[2]) in printed and note in printed and str(runs[0]) not in printed
    (curves,) = [r["curves"] for r in summarize.read_run(runs[0], {}, []) if r["epoch"] == "last"]
    assert curves[["epoch", "cost", "valid_mae"]].to_numpy().tolist() == [
        [1, 37.5, 9.5],
        [2, 27.5, 2.6],
        [3, 17.5, 2.8],
    ]


def test_published_log_without_validation_or_test_csv(summarize, tmp_path):
    """The log of January 2019: last epoch only; data set and loss from the folder's name."""
    folder = tmp_path / "afad-ordinal-imp__seed2"
    folder.mkdir()
    (folder / "training.log").write_text(
        "PyTorch Version: 1.0.0\nRandom Seed: 2\nTask Importance Weight: 1\nOutput Path: x\n"
        "Epoch: 001/001 | Batch 0000/0513 | Cost: 17.3160\nTime elapsed: 0.73 min\n"
        "MAE/RMSE: | Train: 2.34/3.21 | Test: 3.47/4.71\nTotal Training Time: 144.50 min\n"
    )
    comparisons, notes = read_all(summarize, [folder])
    assert keys(comparisons) == [("afad", "last", ("ordinal", 1, ""), [2])]
    result = comparisons[0]["ordinal", 1, ""][0]
    assert (result["mae"], result["rmse"], result["minutes"]) == (3.47, 4.71, 144.5)
    assert len(notes) == 1 and "--published_test_csv afad=PATH" in notes[0]


def test_a_log_cut_anywhere_gives_all_or_nothing(summarize, tmp_path):
    folder = published_run(tmp_path / "morph-coral__seed0", "coral")
    whole = (folder / "training.log").read_text()
    end = len(whole.rstrip("\n"))
    for length in [*range(0, 200, 7), *range(end - 260, end)]:
        (folder / "training.log").write_text(whole[:length])
        notes = []
        assert summarize.read_run(folder, {}, notes) == []
        assert len(notes) == 1 and "unfinished or cut off" in notes[0]
    (folder / "training.log").write_text(whole[:end])
    assert [r["mae"] for r in summarize.read_run(folder, {}, [])] == [2.75, 2.5]


@pytest.mark.skipif(not PUBLISHED.exists(), reason="no published logs beside the project")
def test_the_published_morph2_logs(summarize, tmp_path, capsys):
    folders = sorted(PUBLISHED.glob("morph-*__seed0"))
    option = f"morph2={PUBLISHED / 'morph2_test.csv'}"
    out = tmp_path / "report"
    summarize.main([*map(str, folders), "--out", str(out), "--published_test_csv", option])
    printed = capsys.readouterr().out
    assert "MAE/RMSE of 16.16/19.48, the log says 3.26/4.62" in printed
    assert "morph-ce__seed0: only its log is used" in printed and printed.count("\n") == 2
    rows = {(row["loss"], row["epoch"]): row for row in read_csv(out / "results.csv")}
    best, last = "best on validation", "last"
    assert {key: (row["test MAE"], row["test RMSE"]) for key, row in rows.items()} == {
        ("CE", best): ("3.26", "4.62"),
        ("OR-CNN", best): ("2.87", "4.08"),
        ("CORAL", best): ("2.66", "3.69"),
        ("CE", last): ("3.47", "4.96"),
        ("OR-CNN", last): ("2.91", "4.15"),
        ("CORAL", last): ("2.82", "3.92"),
    }
    labels = [int(row["age"]) for row in read_csv(PUBLISHED / "morph2_test.csv")]
    for loss, name, logged in (("ordinal", "OR-CNN", 2.87), ("coral", "CORAL", 2.66)):
        text = (PUBLISHED / f"morph-{loss}__seed0" / "test_predictions.log").read_text()
        errors = [int(p) - y for p, y in zip(text.split(","), labels, strict=True)]
        assert sum(map(abs, errors)) / len(errors) == pytest.approx(logged, abs=0.01)
        within = 100 * sum(abs(error) <= 5 for error in errors) / len(errors)
        assert rows[name, best]["CS(5) %"] == f"{within:.2f}"
    assert rows["CE", best]["CS(5) %"] == ""
    assert [(row["A"], row["B"]) for row in read_csv(out / "paired.csv")] == [("OR-CNN", "CORAL")]


# Bad input: one line, exit code 2, nothing written.


def corrupt_json(change):
    def corrupt(path):
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))

    return corrupt


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_last_row(path):
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")


class Touch:
    """An object whose pickle, when loaded, makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def pickled(path):
    np.save(path, np.array([Touch(f"{path}.loaded")]), allow_pickle=True)


def zipped(path):
    with open(path, "wb") as file:
        np.savez(file, a=np.zeros(3))


@pytest.mark.parametrize(
    ("name", "corrupt"),
    [
        ("run.json", cut_in_half),
        ("run.json", lambda path: path.write_bytes(b"\xff\xfe{}")),
        ("run.json", lambda path: path.write_text("[1]")),
        ("run.json", lambda path: path.write_text("[" * 100_000)),
        ("run.json", corrupt_json(lambda record: record.pop("seed"))),
        ("run.json", corrupt_json(lambda record: record.update(loss="Focal"))),
        ("run.json", corrupt_json(lambda record: record.update(dataset="../../etc"))),
        ("run.json", corrupt_json(lambda record: record.update(minutes="long"))),
        ("run.json", corrupt_json(lambda record: record["metrics"].clear())),
        ("run.json", corrupt_json(lambda record: record.update(settings=[]))),
        ("history.csv", lambda path: path.unlink()),
        ("history.csv", lambda path: path.write_text("")),
        ("history.csv", lambda path: path.write_text("epoch,cost\n1,2\n")),
        ("test_predictions.csv", lambda path: path.unlink()),
        ("test_predictions.csv", cut_in_half),
        ("test_predictions.csv", without_last_row),
        ("test_predictions.csv", lambda path: path.write_bytes(b"\x00\xff" * 500)),
        (
            "test_predictions.csv",
            lambda path: path.write_text(re.sub(r",\d+,", ",x,", path.read_text(), count=1)),
        ),
        (
            "test_predictions.csv",
            lambda path: path.write_text(re.sub(r"(,\d+),\d+,", r"\1,nan,", path.read_text())),
        ),
        ("test_probas.npy", lambda path: path.unlink()),
        ("test_probas.npy", cut_in_half),
        ("test_probas.npy", lambda path: path.write_bytes(b"")),
        ("test_probas.npy", pickled),
        ("test_probas.npy", zipped),
        ("test_probas.npy", lambda path: np.save(path, np.zeros((20, 55), np.float32))),
        ("test_probas.npy", lambda path: np.save(path, np.zeros((20, 54), np.float64))),
        ("test_probas.npy", lambda path: np.save(path, np.full((20, 54), np.nan, np.float32))),
        ("test_probas.npy", lambda path: np.save(path, np.full((20, 54), 1.5, np.float32))),
        ("test_probas.npy", lambda path: np.save(path, np.full((20, 54), 1.5, np.float16))),
    ],
)
def test_damaged_file_is_named_in_one_line(summarize, tmp_path, capsys, name, corrupt):
    folder = write_run(tmp_path / "run", count=20)
    corrupt(folder / name)
    line = error_line(capsys, summarize, folder, "--out", tmp_path / "report")
    assert f"{folder / name} cannot be used (" in line
    assert not (tmp_path / "report").exists()
    assert not list(folder.glob("*.loaded"))


def test_class_probabilities_must_add_up_to_1(summarize, tmp_path, capsys):
    folder = write_run(tmp_path / "run", count=20, loss="ce")
    probas = np.load(folder / "test_probas.npy")
    for factor in (0, 0.98):
        probas[7] *= factor
        np.save(folder / "test_probas.npy", probas)
        line = error_line(capsys, summarize, folder)
        assert "test_probas.npy cannot be used (ValueError: the probabilities of an image" in line


def test_other_bad_input(summarize, tmp_path, capsys):
    good = write_run(tmp_path / "run", count=20)
    out = tmp_path / "report"
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "missing", good / "run.json"):
        line = error_line(capsys, summarize, good, folder, "--out", out)
        assert f"{folder} holds no run: neither run.json nor training.log" in line
    unfinished = write_run(tmp_path / "unfinished", status="running")
    (unfinished / "history.csv").unlink()
    for args in (["--out", out], []):
        line = error_line(capsys, summarize, unfinished, *args)
        assert "no finished run" in line and "0 of 30 epochs" in line
    for option in ("morph=x.csv", "morph2", "morph2="):
        line = error_line(capsys, summarize, good, "--out", out, "--published_test_csv", option)
        assert f"--published_test_csv {option}: write DATASET=CSV" in line
    missing = f"morph2={tmp_path / 'no.csv'}"
    line = error_line(capsys, summarize, good, "--out", out, "--published_test_csv", missing)
    assert "no.csv cannot be used (FileNotFoundError" in line
    log = published_run(tmp_path / "morph-coral__seed0", "coral", predictions=[1, 2, 3])
    write_csv(tmp_path / "two.csv", [{"": "a.jpg", "age": 1}, {"": "b.jpg", "age": 2}])
    two = f"morph2={tmp_path / 'two.csv'}"
    line = error_line(capsys, summarize, log, "--out", out, "--published_test_csv", two)
    assert "test_predictions.log cannot be used (ValueError: 3 predictions, 2 rows" in line
    assert not out.exists()
    process = run(SCRIPT, tmp_path / "empty", "--out", out)
    assert process.returncode == 2 and process.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "off", "used"),
    [("mae", 0.009, 1), ("mae", -0.009, 1), ("mae", 0.011, 0), ("mae", -0.011, 0)]
    + [("rmse", 0.009, 1), ("rmse", 0.011, 0)],
)
def test_predictions_must_agree_with_the_log_to_a_hundredth(summarize, tmp_path, name, off, used):
    folder = write_run(tmp_path / "run", count=20)
    record = json.loads((folder / "run.json").read_text())
    record["metrics"][f"test_{name}"] += off
    (folder / "run.json").write_text(json.dumps(record))
    notes = []
    (result,) = summarize.read_run(folder, {}, notes)
    assert ("images" in result) == used != len(notes)


def test_without_matplotlib_the_tables_are_printed_all_the_same(tmp_path):
    folder = write_run(tmp_path / "run", count=20)
    (tmp_path / "matplotlib.py").write_text("raise ImportError")
    process = run(SCRIPT, folder, PYTHONPATH=str(tmp_path))
    assert (process.returncode, process.stderr) == (0, "") and "CORAL" in process.stdout
    process = run(SCRIPT, folder, "--out", tmp_path / "report", PYTHONPATH=str(tmp_path))
    line = "summarize.py: error: --out draws plots: pip install -r requirements-extras.txt first\n"
    assert (process.returncode, process.stderr, process.stdout) == (2, line, "")
    assert not (tmp_path / "report").exists()


def test_predictions_that_disagree_with_run_json_are_not_used(summarize, tmp_path):
    folder = write_run(tmp_path / "run", count=20)
    corrupt_json(lambda record: record["metrics"].update(test_mae=1.25))(folder / "run.json")
    (groups,), notes = read_all(summarize, [folder])
    (row,) = summarize.results_table(1, groups)
    assert (row["test MAE"], row["CS(5) %"], row["rank inconsistencies"]) == ("1.25", "", "")
    assert len(notes) == 1 and "the log says 1.25" in notes[0]
    assert summarize.by_group_table(1, groups) == []


def test_out_is_never_overwritten_unasked(summarize, tmp_path, capsys):
    coral = write_run(tmp_path / "coral", count=20)
    gendered = write_run(tmp_path / "gender", count=20, gender=1)
    out = tmp_path / "new" / "report"
    summarize.main([str(coral), str(gendered), "--out", str(out)])
    assert (out / "2-curves.svg").exists()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    line = error_line(capsys, summarize, coral, "--out", out)
    assert "holds a report already" in line and "--overwrite" in line
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "mine.svg").write_text("kept")
    index = (out / "index.html").read_text()
    (out / "index.html").write_text(f'{index}<img src="1-curves.png">')  # of earlier reports
    (out / "1-curves.png").write_text("")
    summarize.main([str(coral), "--out", str(out), "--overwrite"])
    assert len(read_csv(out / "results.csv")) == 1
    names = {path.name for path in out.iterdir()}
    assert "mine.svg" in names and not names & {"2-curves.svg", "1-curves.png"}
    assert len(names) == 15
    for taken in (coral, coral / "run.json"):
        content = [path.read_bytes() for path in sorted(coral.iterdir())]
        line = error_line(capsys, summarize, coral, "--out", taken, "--overwrite")
        assert "something other than a report" in line
        assert [path.read_bytes() for path in sorted(coral.iterdir())] == content


def test_a_full_disk_leaves_the_old_report(summarize, tmp_path, capsys, monkeypatch):
    folder, out = write_run(tmp_path / "run", count=20), tmp_path / "report"
    summarize.main([str(folder), "--out", str(out)])
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fill(figure, file, **options):
        file.write("half of a picture")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots.Figure, "savefig", fill)
    other = write_run(tmp_path / "other", seed=1, count=20)
    line = error_line(capsys, summarize, other, "--out", out, "--overwrite")
    assert f"--out {out} cannot be written: [Errno 28] No space left" in line
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_strings_from_files_are_escaped(summarize, tmp_path):
    evil = "<script>alert(1)</script>|x"
    rest = {"recipe": evil, "init_from": "a|b"}
    runs = [write_run(tmp_path / "a", count=20, **rest), write_run(tmp_path / "b", count=20)]
    rows = read_csv(runs[0] / "test_predictions.csv")
    for row in rows:
        row["race"] = evil
    write_csv(runs[0] / "test_predictions.csv", rows)
    runs.append(shutil.copytree(runs[0], tmp_path / "<b>c"))
    summarize.main([*map(str, runs), "--out", str(tmp_path / "report")])
    for name in ("index.html", "results.md"):
        text = (tmp_path / "report" / name).read_text()
        assert "<script" not in text and "<b>c" not in text and "&lt;script&gt;" in text
    table = (tmp_path / "report" / "results.md").read_text().split("\n\n")[2].splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table if line[0] == "|"} == {20}
    assert read_csv(tmp_path / "report" / "by_group.csv")[-1]["group"] in (evil, "W")


WRITER = """
import json, os, sys
from pathlib import Path
folder = Path(sys.argv[1])
record = json.loads((folder / "run.json").read_text())
finished = json.dumps(record)
running = json.dumps(record | {"status": "running", "metrics": {}})
while True:
    for text in (running, finished):
        (folder / "run.json.tmp").write_text(text)
        os.replace(folder / "run.json.tmp", folder / "run.json")
        with open(folder / "history.csv", "a") as file:
            file.write("31,1.0,1,1,1,,\\n")
            file.flush()
"""


def test_reading_while_a_run_is_written(summarize, tmp_path):
    folder = write_run(tmp_path / "run", count=20)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)])
    try:
        seen = set()
        deadline = time.monotonic() + 20
        while len(seen) < 2 and time.monotonic() < deadline:
            notes = []
            (result,) = summarize.read_run(folder, {}, notes)
            assert ("mae" in result) != bool(notes)
            seen.add("mae" in result)
        assert seen == {False, True}
    finally:
        writer.kill()
        writer.wait()


def test_every_stage_of_a_young_run(summarize, tmp_path):
    whole = write_run(tmp_path / "whole", count=20, status="running")
    young = tmp_path / "young"
    young.mkdir()
    (young / "training.log").write_text("PyTorch Version: 2.14.1\n")
    assert read_all(summarize, [young])[0] == []
    shutil.copy(whole / "run.json", young)
    head = "epoch,cost,seconds,wait_seconds,images_per_second,valid_mae,valid_rmse\n"
    one = head + "1,2.5,60,1,300,,\n"
    for text, done in ((None, 0), ("", 0), (head[:9], 0), (head, 0), (one + "2,1", 1)):
        if text is not None:
            (young / "history.csv").write_text(text)
        comparisons, notes = read_all(summarize, [young])
        assert len(comparisons) == done and f"({done} of 30 epochs done)" in notes[0]
    assert comparisons[0]["coral", 0, ""][0]["curves"]["cost"].tolist() == [2.5]


# The page in a real browser.


@pytest.mark.skipif(chromium() is None, reason="no Chromium installed")
@pytest.mark.parametrize(
    ("width", "theme", "ink"),
    [(1280, "light", "rgb(27, 35, 43)"), (390, "dark", "rgb(230, 235, 239)")],
)
def test_page_in_a_browser(full_report, width, theme, ink):
    """On a desk, and on a telephone, dark: nothing is wider than the window but what can be moved
    in itself, the pictures have the theme's colours, and their letters can be read."""
    found = looks_of(full_report[0] / "index.html", width, theme)
    assert found["wide"] <= 0 and found["tables"] == 1
    assert found["ink"] == ink and found["pictures"] > 150 and found["letters"] > 8


# 36 runs: the whole comparison of the paper, three data sets, three seeds.


def many_runs(folder, count):
    for dataset in ("afad", "morph2", "cacd"):
        for seed in (0, 1, 2):
            for loss, imp_weight in GROUPS:
                name = f"{dataset}-{loss}-{imp_weight}-{seed}"
                options = {"seed": seed, "imp_weight": imp_weight, "count": count}
                yield write_run(folder / name, dataset=dataset, loss=loss, **options)


def summarize_many(tmp_path, count):
    """Seconds and peak memory (GiB) of a process that summarizes 36 runs."""
    runs = list(many_runs(tmp_path, count))
    start, peak = time.monotonic(), 0
    command = [sys.executable, str(SCRIPT), *map(str, runs), "--out", str(tmp_path / "report")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:  # ru_maxrss would count what this process had when it forked
        if sys.platform == "linux":
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max([peak, *map(int, re.findall(r"VmHWM:\s+(\d+)", status))])
        time.sleep(0.02)
    assert process.returncode == 0
    rows = read_csv(tmp_path / "report" / "results.csv")
    assert [row["seeds"] for row in rows] == ["0 1 2"] * 12
    assert len(read_csv(tmp_path / "report" / "paired.csv")) == 3 * 6
    return time.monotonic() - start, peak / 2**20


def test_36_small_runs(tmp_path):
    summarize_many(tmp_path, 40)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_36_runs_of_30000_images_in_a_minute_and_a_gibibyte(tmp_path):
    seconds, gibibytes = summarize_many(tmp_path, 30_000)
    print(f"36 runs of 30,000 images: {seconds:.1f} s, {gibibytes:.2f} GiB")
    assert seconds < 60 and 0 < gibibytes < 1
