"""Ages known as ranges, or not at all, and rows drawn by weight: costs, priors, figures and runs
against slow, obvious ones. Known ages alone must give what they gave without all that."""

import collections
import csv
import json
import math
import os
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import plain
import pytest
import torch
import torch.nn.functional as F
from conftest import MODEL_CODE, ROOT, begin, load
from coral_age import labels as labels_module

CE, CORAL, ORDINAL = (load(MODEL_CODE / f"faces-{loss}.py") for loss in ("ce", "coral", "ordinal"))
LOSSES = pytest.mark.parametrize("module", [CE, CORAL, ORDINAL], ids=lambda module: module.LOSS)
K = 101
SHAPES = {"ce": (K,), "coral": (K - 1,), "ordinal": (K - 1, 2)}
IMAGES = ROOT / "datasets" / "sample" / "faces" / "images"
# a known age, a range, the two that are open at an end, unknown
ENDS = [(34, 34), (20, 29), (70, 100), (0, 2), (0, 100), (0, 0), (100, 100), (99, 100)]
TASK_WEIGHTS = torch.linspace(0.2, 1, K - 1)


def some_logits(module, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(count, *SHAPES[module.LOSS], generator=generator)


def slow_cost(loss, logits, low, high, weights):
    """Of one image, in double precision, task by task, or the sum over the range's classes."""
    z = logits.double().numpy()
    if loss == "ce":
        probas = np.exp(z) / np.exp(z).sum()
        return 0 if (low, high) == (0, K - 1) else -math.log(sum(probas[low : high + 1]))
    cost = 0
    for k in range(K - 1):
        if loss == "coral":
            above = 1 / (1 + math.exp(-z[k]))
        else:
            above = math.exp(z[k, 1]) / (math.exp(z[k, 0]) + math.exp(z[k, 1]))
        if low > k:  # every age of the range is above k
            cost -= weights[k].item() * math.log(above)
        elif high <= k:  # none is
            cost -= weights[k].item() * math.log(1 - above)
    return cost


@LOSSES
def test_costs(module):
    logits = some_logits(module, len(ENDS))
    found = module.cost_fn(logits, torch.tensor(ENDS), TASK_WEIGHTS)
    due = [
        slow_cost(module.LOSS, row, *ends, TASK_WEIGHTS)
        for row, ends in zip(logits, ENDS, strict=True)
    ]
    assert found.tolist() == pytest.approx(due, rel=1e-5)
    assert found[4] == 0 and (found[:4] > 0).all()


@LOSSES
def test_what_a_range_does_not_tell_has_no_gradient(module):
    logits = some_logits(module, len(ENDS)).requires_grad_()
    module.cost_fn(logits, torch.tensor(ENDS), TASK_WEIGHTS).sum().backward()
    for gradient, (low, high) in zip(logits.grad, ENDS, strict=True):
        if module.LOSS == "ce":  # all classes are of the sum; an unknown age has none
            assert (gradient != 0).any() == ((low, high) != (0, K - 1))
            assert gradient.isfinite().all()
        else:
            asked = [low > k or high <= k for k in range(K - 1)]
            assert (gradient.view(K - 1, -1) != 0).all(1).tolist() == asked


@LOSSES
def test_known_ages_to_the_bit(module):
    """As labels and as ranges of one age: costs and gradients of the formulas without ranges."""
    labels = torch.randint(0, K, (64,), generator=torch.Generator().manual_seed(1))
    for imp in (torch.ones(1), TASK_WEIGHTS):
        results = []
        for given in (labels, torch.stack([labels, labels], 1), None):
            logits = some_logits(module, 64, 2).requires_grad_()
            if given is not None:
                costs = module.cost_fn(logits, given, imp)
            elif module.LOSS == "ce":
                costs = F.cross_entropy(logits, labels, reduction="none")
            elif module.LOSS == "coral":
                costs = paper_cost(logits, labels, imp)
            else:
                levels = (labels[:, None] > torch.arange(K - 1)).float()
                log_probas = F.log_softmax(logits, dim=2)
                terms = log_probas[:, :, 1] * levels + log_probas[:, :, 0] * (1 - levels)
                costs = -torch.sum(terms * imp, dim=1)
            (costs.sum() / 7).backward()
            results.append((costs, logits.grad))
        for costs, gradient in results[:2]:
            assert torch.equal(costs, results[2][0]) and torch.equal(gradient, results[2][1])


def paper_cost(logits, labels, imp):
    """plain.py's, with the classes of faces."""
    classes, plain.NUM_CLASSES = plain.NUM_CLASSES, K
    try:
        return plain.cost_fn(logits, labels, imp)
    finally:
        plain.NUM_CLASSES = classes


@pytest.mark.parametrize("module", [CORAL, ORDINAL], ids=("coral", "ordinal"))
def test_importance_weights_and_priors_of_tasks(module):
    """Rows count for the tasks that they answer."""
    labels = torch.tensor(ENDS[:5])
    answers = [
        [low > k if low > k or high <= k else None for low, high in ENDS] for k in range(100)
    ]
    roots, shares = [], []
    for k in range(K - 1):
        told = [answer for answer in answers[k][:5] if answer is not None]
        above = sum(told)
        roots.append(math.sqrt(max(above, len(told) - above)))
        shares.append(min(max(above, 0.5), len(told) - 0.5) / len(told) if told else 0.5)
    found = module.task_importance_weights(labels)
    assert found.tolist() == pytest.approx([root / max(roots) for root in roots], rel=1e-6)
    assert module.log_odds(labels).sigmoid().tolist() == pytest.approx(shares, rel=1e-5)
    # by hand: of y > 25 34 and 70-100 say yes, 0-2 says no, 20-29 and the unknown say nothing
    assert shares[25] == pytest.approx(2 / 3)

    # one range alone says nothing of 20 to 28; an unknown age says nothing at all
    labels = torch.tensor([[20, 29]])
    found = module.task_importance_weights(labels)
    assert found.tolist() == [1.0] * 20 + [0.0] * 9 + [1.0] * 71
    assert module.log_odds(labels)[20:29].tolist() == [0] * 9
    assert module.task_importance_weights(torch.tensor([[0, 100]])).tolist() == [0.0] * 100


def test_priors_of_classes():
    """By hand: 34 once, a tenth of an image for each of 20 to 29, 1/101 for what does not occur."""
    model = CE.ResNet34()
    CE.set_prior_bias(model, torch.tensor([(34, 34), (20, 29), (0, 100)]))
    counts = torch.full((K,), 1 / K, dtype=torch.float64)
    counts[34], counts[20:30] = 1, 0.1
    torch.testing.assert_close(model.fc.bias.data, (counts / 3).log().float())


@LOSSES
def test_cost_of_a_batch(module):
    """With genders and mixup: the sum over images / their number, and what processes have of it,
    one of which has no image, adds up to it."""
    torch.manual_seed(0)
    model = module.ResNet34(gender=1).eval()
    images, genders = torch.rand(4, 3, 40, 40), torch.tensor([1.0, math.nan, 0.0, 0.0])
    labels, lam = torch.tensor([(20, 29), (0, 100), (34, 34), (70, 100)]), [0.9, 0.4, 0.25, 1.0]
    imp = torch.ones(1)
    args = SimpleNamespace(amp=0, gender=1, gender_weight=3.0)

    def cost_of(mine, part, lam=None):
        batch = SimpleNamespace(images=images[part], labels=labels[mine], genders=genders[mine])
        batch.count, batch.known_genders = 4, 3
        batch.lam = None if lam is None else torch.tensor(lam)[part]
        return module.batch_cost(model, batch, imp, args).item()

    logits, male = (part.detach() for part in model(images))

    def slow(i, label):
        age = slow_cost(module.LOSS, logits[i], *labels[label].tolist(), torch.ones(K))
        if genders[label].isnan():
            return age / 4
        p_male = 1 / (1 + math.exp(-male[i].item()))
        return age / 4 - 3 * math.log(p_male if genders[label] else 1 - p_male) / 3

    whole = slice(0, 4)
    due = sum(slow(i, i) for i in range(4))
    assert cost_of(whole, whole) == pytest.approx(due, rel=1e-5)
    parts = (slice(0, 3), slice(0, 3)), (slice(3, 4), slice(3, 4)), (slice(4, 4), slice(0, 1))
    assert sum(cost_of(*part) for part in parts) == pytest.approx(due, rel=1e-5)
    due = sum(lam[i] * slow(i, i) + (1 - lam[i]) * slow(i, 3 - i) for i in range(4))
    assert cost_of(whole, whole, lam) == pytest.approx(due, rel=1e-5)


# Reading


def read(rows, tmp_path, *options, module=CORAL, header="file,age,gender,weight"):
    """The split of a CSV of these rows, each of which is one of the sample's photos."""
    files = sorted(path.relative_to(IMAGES).as_posix() for path in IMAGES.rglob("*.jpg"))
    lines = [",".join([file, *row]) for file, row in zip(files, rows, strict=False)]
    (tmp_path / "rows.csv").write_text("\n".join([header, *lines, ""]))
    options = [f"--image_path={IMAGES}", "--outpath=unused", *options]
    return module.read_split(tmp_path / "rows.csv", module.parse_settings(options))


def test_what_is_read(tmp_path):
    texts = ["34", "20-29", " 70-100 ", "70+", "", "0-100", "0+", "7-7", "100+", "34.0"]
    rows = [(text, "male", weight) for text, weight in zip(texts, [" 2.5", *[""] * 9], strict=True)]
    split = read(rows, tmp_path)
    ends = [(34, 34), (20, 29), (70, 100), (70, 100), *[(0, 100)] * 3, (7, 7), (100, 100), (34, 34)]
    assert split.labels.tolist() == [list(pair) for pair in ends]
    assert split.weights.tolist() == [2.5] + [1.0] * 9
    counts = {"exact_ages": 4, "age_ranges": 3, "unknown_ages": 3}
    assert {name: split.facts[name] for name in counts} == counts

    exact = read([("34", "", "1"), ("7-7", "", "1")], tmp_path)
    assert exact.labels.tolist() == [34, 7] and "age_ranges" not in exact.facts
    assert exact.weights is None  # as they are alike
    alone = read([("34",), ("20-29",)], tmp_path, header="file,age")
    assert alone.weights is None and alone.labels.dtype == torch.int64


@pytest.mark.parametrize(
    "age, weight, said",
    [
        ("29-20", "", "age is '29-20', must be a whole number from 0 to 100"),
        ("20-", "", "age is '20-'"),
        ("-5", "", "age is '-5'"),
        ("-5-10", "", "age is '-5-10'"),
        ("abc", "", "age is 'abc'"),
        ("nan", "", "age is 'nan'"),
        ("+", "", "age is '+'"),
        ("20 - 29", "", "age is '20 - 29'"),
        ("20.5-29", "", "age is '20.5-29'"),
        ("90-120", "", "age is '90-120'"),
        ("101+", "", "the age in years, a range as 20-29 or 70+, or empty where it is unknown\n"),
        ("101", "", "age is '101'"),
        ("34", "0", "weight is '0', must be a number above 0, at most a million, or empty for 1\n"),
        ("34", "-1", "weight is '-1'"),
        ("34", "x", "weight is 'x'"),
        ("34", "inf", "weight is 'inf'"),
        ("34", "nan", "weight is 'nan'"),
    ],
)
def test_what_is_refused(age, weight, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        read([("34", "", ""), (age, "", weight), ("20-29", "", "3")], tmp_path)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1
    assert "rows.csv: row 2" in err and said in err


def test_all_ages_unknown(tmp_path, capsys):
    """Only genders are left to learn, and nothing to choose the best epoch by."""
    rows = [("", "male", ""), ("0-100", "", "")]
    with pytest.raises(SystemExit) as stop:
        read(rows, tmp_path)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1
    assert "rows.csv: row 1 (" in err and "nothing to learn without --gender 1\n" in err
    assert len(read(rows, tmp_path, "--gender=1", "--imp_weight=1").labels) == 2
    with pytest.raises(SystemExit):
        read(rows, tmp_path, "--gender=1", f"--valid_csv={tmp_path / 'rows.csv'}")
    assert "nothing to choose the best epoch by\n" in capsys.readouterr().err


def test_only_faces_has_ranges(tmp_path, capsys):
    """Where a label is not an age in years, 20-29 would be read as 41 to 50."""
    module = load(MODEL_CODE / "utk-coral.py")
    for age in ("20-29", ""):
        with pytest.raises(SystemExit):
            read([(age, "", "0")], tmp_path, module=module)
        assert (
            f"age is {age!r}, must be a whole number from 0 to 39: the age in years minus 21\n"
            in (capsys.readouterr().err)
        )
    assert read([("20", "", "0")], tmp_path, module=module).weights is None


# Figures


def test_age_scores_by_hand():
    labels = torch.tensor([(30, 30), (40, 40), (20, 29), (20, 29), (30, 39), (70, 100), (0, 100)])
    predicted = torch.tensor([33, 36, 25, 31, 19, 35, 7])
    assert CORAL.age_scores(labels, predicted) == {
        "mae": 3.5,
        "rmse": math.sqrt((9 + 16) / 2),
        "mae_to_range": (0 + 2 + 11 + 35) / 4,
        "group_accuracy": 1 / 4,
        # 25; 31 and 35, in 30-39, which is next to 20-29 and to 70-100; not 19: below 20-29
        "one_off_accuracy": 3 / 4,
    }
    assert CORAL.age_scores(labels[:2, 0], predicted[:2]).keys() == {"mae", "rmse"}
    assert CORAL.age_scores(labels[6:], predicted[6:]) == {}
    over = CORAL.age_scores(torch.tensor([(20, 29), (25, 35)]), torch.tensor([20, 20]))
    assert over == {"mae_to_range": 2.5, "group_accuracy": 0.5}


def test_the_median_of_ranges():
    """No other age is nearer, on average, to what is known: 0 to 100 are tried."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, K, (41, 2), generator=generator).sort(1).values
    labels[:7] = torch.tensor([0, 100])
    known = labels[7:]
    off = [CORAL.years_off(known, torch.full((34,), age)).mean().item() for age in range(K)]
    assert off[labels.median()] == min(off)


def test_scores_of_predict_by_hand():
    """As the scripts have them, apart from those of all rows, whose error is the distance."""
    label = ["30", "40", "20-29", "20-29", "30-39", "more than 70", ""]
    ages = [33, 36, 25, 31, 19, 35, 7]
    rows = [{"age": age, "true_age": text} for age, text in zip(ages, label, strict=True)]
    rows = [row | {"true_gender": "male", "gender": "male"} for row in rows]
    del rows[6]["true_age"]
    every, men, *groups = labels_module.scores(rows)
    apart = {"mae_to_range": 48 / 4, "group_accuracy": 1 / 4, "one_off_accuracy": 3 / 4}
    assert every == pytest.approx(
        {"group": "all", "photos": 7, "mae": 55 / 6, "within_5": 4 / 6, "gender_accuracy": 1}
        | {"rmse": math.sqrt((9 + 16 + 4 + 121 + 1225) / 6), "mae_exact": 3.5}
        | apart
    )
    assert men == every | {"group": "male"}
    assert [row["group"] for row in groups] == ["20-29", "30-39", "40-49", "more than 70"]
    assert groups[2].keys().isdisjoint(apart)
    # 40-69, of which there is a label but no answer, lies between 35 and 70
    known = {i: (text, "") for i, text in enumerate([*label, "40-69"])}
    assert labels_module.scores(rows, known)[0]["one_off_accuracy"] == 2 / 4
    lines = labels_module.as_table([every])
    assert lines[0].split() == (
        "group photos MAE RMSE within 5 MAE exact to range group one off gender".split()
    )
    assert lines[1].split() == "all 7 9.17 15.14 66.7% 3.50 12.00 25.0% 75.0% 100.0%".split()


# Rows drawn by weight


def test_drawn_rows():
    """Against a loop over the images: each takes the row in whose share of 0 to N it falls."""
    draw = np.random.default_rng(0)
    for count in (1, 2, 7, 50):
        weights = np.exp(draw.normal(0, 1.5, count))
        shares = weights / weights.sum() * count
        for start in (0.0, draw.random(), 0.999):
            due, end, row = [], shares[0], 0
            for image in range(count):
                while image + start >= end and row < count - 1:
                    row += 1
                    end += shares[row]
                due.append(row)
            found = CORAL.drawn_rows(weights, start)
            assert found.tolist() == due
            times = np.bincount(found, minlength=count)
            assert (np.abs(times - shares) < 1 + 1e-9).all()
    starts = (np.arange(1000) + 0.5) / 1000
    times = sum(np.bincount(CORAL.drawn_rows(weights, s), minlength=50) for s in starts) / 1000
    assert times == pytest.approx(shares, abs=0.002)
    assert CORAL.drawn_rows(np.full(8, 2.0), 0.0).tolist() == list(range(8))
    for start in (0.001, 0.5, 0.999):
        alike = CORAL.drawn_rows(np.full(1000, 0.1), start)
        assert alike.tolist() == list(range(1000))


def test_batches_by_weight(tmp_path):
    """An epoch's rows are those drawn, a resumed epoch's its rest; equal weights change nothing."""
    split = read([(str(20 + i), "", str(1 + i % 3)) for i in range(12)], tmp_path)
    split.pixels = np.zeros((12, 3, 36, 36), np.uint8)
    options = ["--batch_size=5", "--image_size=34", "--outpath=unused"]
    args = CORAL.parse_settings(options)

    def rows(weights, first=0):
        torch.manual_seed(3)
        given = {"training": True, "first": first, "weights": weights}
        return [b.rows.tolist() for b in CORAL.batches(split, args, torch.device("cpu"), **given)]

    drawn = rows(split.weights)
    assert [len(batch) for batch in drawn] == [5, 5, 2]
    times = collections.Counter(sum(drawn, []))
    for row, weight in enumerate(split.weights):
        assert times[row] in (math.floor(weight / 2), math.ceil(weight / 2))
    assert sum(drawn, []) != sorted(sum(drawn, [])) and drawn != rows(None)
    assert rows(split.weights, first=1) == drawn[1:]
    assert sorted(sum(rows(None), [])) == list(range(12))  # as in evaluation
    assert rows(np.full(12, 3.0)) == rows(None)
    assert CORAL.drawn_labels(split).tolist() == [
        20 + row for row in CORAL.drawn_rows(split.weights, 0.5)
    ]


# Runs

TINY = ["--seed=1", "--epochs=2", "--batch_size=4", "--image_size=40", "--gender=1"]
ALL = ["--recipe=fast", "--augment=1", "--set=mixup=0.3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """CSVs of drawn faces, as options: known ages, ranges, unknown ages, weights."""
    folder = tmp_path_factory.mktemp("ranges")
    table = pd.read_csv(ROOT / "datasets/sample/faces/train.csv", dtype=str, nrows=26)
    ages = table["age"].astype(int)
    table["age"] = [
        [str(age), f"{age // 10 * 10}-{age // 10 * 10 + 9}", ""][i % 3]
        for i, age in enumerate(ages)
    ]
    table["weight"] = [str(0.5 + i % 4) for i in range(26)]
    words = [f"--image_path={IMAGES}"]
    for name, rows in {
        "train": slice(0, 11),
        "valid": slice(11, 17),
        "test": slice(17, 26),
    }.items():
        table[rows].to_csv(folder / f"{name}.csv", index=False)
        words.append(f"--{name}_csv={folder / name}.csv")
    return words


def figures_of(rows):
    """MAE, RMSE, mean distance to ranges, and share inside, of rows of test_predictions.csv."""
    exact = [int(r["predicted_age"]) - int(r["true_age"]) for r in rows if r["true_age"]]
    off = []
    for r in rows:
        if not r["true_age"] and r["true_age_low"]:
            low, high = int(r["true_age_low"]), int(r["true_age_high"])
            off.append(max(low - int(r["predicted_age"]), int(r["predicted_age"]) - high, 0))
    rmse = math.sqrt(sum(e * e for e in exact) / len(exact))
    return [sum(map(abs, exact)) / len(exact), rmse, sum(off) / len(off), off.count(0) / len(off)]


NAMES = "mae rmse mae_to_range group_accuracy".split()


@pytest.mark.parametrize(
    "module, options",
    [
        (CORAL, ["--imp_weight=1", *ALL]),
        pytest.param(ORDINAL, [], marks=pytest.mark.slow),
        pytest.param(CE, ALL, marks=pytest.mark.slow),
    ],
    ids=("coral", "ordinal", "ce"),
)
def test_a_run(module, options, data, tmp_path):
    out = tmp_path / "run"
    module.main([f"--outpath={out}", *TINY, *data, *options])
    facts = json.loads((out / "run.json").read_text())
    for prefix in ("", "best_"):
        with open(out / f"{prefix}test_predictions.csv") as file:
            rows = list(csv.DictReader(file))
        found = [facts["metrics"][f"{prefix}test_{name}"] for name in NAMES]
        assert found == pytest.approx(figures_of(rows))
    with open(str(data[-1]).partition("=")[2]) as file:
        texts = [row["age"] for row in csv.DictReader(file)]
    for row, text in zip(rows, texts, strict=True):
        low, _, high = text.partition("-")
        told = [row["true_age"], row["true_age_low"], row["true_age_high"]]
        assert told == ["" if high else text, low, high or low]

    metrics, log = facts["metrics"], (out / "training.log").read_text()
    said = [f"{metrics[f'{name}_{key}']:.4f}" for name in ("train", "valid") for key in NAMES[2:]]
    assert f"one-off: | Train: {said[0]}/{said[1]}/" in log
    assert f" | Valid: {said[2]}/{said[3]}/" in log
    with open(out / "history.csv") as file:
        history = list(csv.DictReader(file))
    assert float(history[-1]["valid_mae_to_range"]) == metrics["valid_mae_to_range"]

    # the best epoch has the lowest mean over the known ages (2 rows) and the ranges (2)
    errors = [(float(r["valid_mae"]) + float(r["valid_mae_to_range"])) / 2 for r in history]
    assert metrics["best_epoch"] == 1 + errors.index(min(errors))
    counts = {"exact_ages": 4, "age_ranges": 4, "unknown_ages": 3, "rows": 11}
    assert {name: facts["data"]["train"][name] for name in counts} == counts


def test_the_best_epoch(tmp_path, monkeypatch):
    """By hand: the errors of two known ages and a range together are 9, 8 and 9, the last with the
    lowest MAE; an unknown age has no part. Where all are known it is the MAE."""
    ranges = torch.tensor([(30, 30), (40, 40), (20, 29), (0, 100)])
    for labels, due in ((ranges, 1), (torch.tensor([30, 40, 29, 7]), 2)):
        progress, model = {"best": {}}, torch.nn.Linear(1, 1)
        state = SimpleNamespace(averaged=model, progress=progress)
        split = SimpleNamespace(labels=labels, genders=torch.full((4,), math.nan))
        answers = [[32, 43, 33, 90], [33, 44, 30, 90], [31, 40, 37, 7]]
        for epoch, ages in enumerate(answers):
            probas = (torch.tensor(ages)[:, None] > torch.arange(K - 1)).float()
            monkeypatch.setattr(CORAL, "evaluate", lambda *_, given=probas: (given, None))
            progress["epoch"] = epoch
            told = CORAL.validate(state, split, SimpleNamespace(outpath=tmp_path), None)
            assert len(told) == (4 if due == 1 else 2)
        assert progress["best"]["epoch"] == due
    log = (tmp_path / "training.log").read_text().splitlines()
    assert log[4:6] == [
        "MAE/RMSE: | Current Valid: 0.50/0.71 Ep. 2 | Best Valid : 3.50/3.54 Ep. 1",
        "MAE to range/group accuracy/one-off: | Current Valid: 8.0000/0.0000/0.0000 Ep. 2 | "
        "Best Valid : 1.0000/0.0000/0.0000 Ep. 1",
    ]


def test_a_resumed_run(data, tmp_path, monkeypatch):
    """Stopped by a signal after the fourth of six steps, it ends with the same bytes."""
    words = [*TINY, *data, *ALL, "--imp_weight=1"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    CORAL.main([f"--outpath={whole}", *words])
    augment_batch = CORAL.augment_batch

    def stop_in_the_fourth(batch, args, step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        augment_batch(batch, args, step)

    monkeypatch.setattr(CORAL, "augment_batch", stop_in_the_fourth)
    with pytest.raises(SystemExit, match="143"):
        CORAL.main([f"--outpath={stopped}", *words])
    monkeypatch.undo()
    CORAL.main([f"--outpath={stopped}", "--resume"])
    names = ["test_predictions.csv", "test_probas.npy", "best_test_probas.npy"]
    for name in names:
        assert (whole / name).read_bytes() == (stopped / name).read_bytes(), name
    states = [torch.load(out / "model.pt", weights_only=True) for out in (whole, stopped)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_weights_that_are_alike_and_ranges_of_one_age(data, tmp_path):
    """Give the weights of a run without either, byte for byte."""
    models = []
    for name, change in {"plain": lambda age: age, "twice": lambda age: f"{age}-{age}"}.items():
        table = pd.read_csv(ROOT / "datasets/sample/faces/train.csv", dtype=str, nrows=9)
        table["age"] = table["age"].map(change)
        if name == "twice":
            table["weight"] = "0.3"
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        csvs = [f"--{split}_csv={tmp_path / name}.csv" for split in ("train", "test")]
        words = [f"--outpath={tmp_path / name}", *TINY, *csvs, f"--image_path={IMAGES}"]
        CORAL.main([*words, *ALL, "--imp_weight=1"])
        models.append(torch.load(tmp_path / name / "model.pt", weights_only=True))
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())
    rows = [(tmp_path / n / "test_predictions.csv").read_text() for n in ("plain", "twice")]
    assert rows[1].replace(",0.3", "").replace(",weight", "") == rows[0]


def test_ranges_alone_and_genders_alone(data, tmp_path, capsys):
    """No MAE where no age is known; --imp_weight 1 weighs what is asked; summarize.py takes it."""
    table = pd.read_csv(ROOT / "datasets/sample/faces/train.csv", dtype=str, nrows=9)
    for name, age in {"ranges": "20-29", "genders": ""}.items():
        table.assign(age=age).to_csv(tmp_path / f"{name}.csv", index=False)
        csvs = [f"--{split}_csv={tmp_path / name}.csv" for split in ("train", "test")]
        csvs += [f"--valid_csv={tmp_path / 'ranges.csv'}"] if name == "ranges" else []
        words = [f"--outpath={tmp_path / name}", *TINY, *csvs, f"--image_path={IMAGES}"]
        CORAL.main([*words, *ALL, "--imp_weight=1"])
        metrics = json.loads((tmp_path / name / "run.json").read_text())["metrics"]
        assert "test_mae" not in metrics
        assert ("test_group_accuracy" in metrics) == (name == "ranges")
        assert 0 <= metrics["test_gender_accuracy"] <= 1
        capsys.readouterr()
        load(MODEL_CODE / "summarize.py").main([str(tmp_path / name)])
        header, _, row, *_ = capsys.readouterr().out.splitlines()
        told = dict(zip(header.split(" | "), row.split(" | "), strict=True))
        if name == "ranges":
            assert told["MAE to range"] == f"{metrics['test_mae_to_range']:.2f}"
        else:
            assert "MAE to range" not in told and "test MAE" not in told
    log = (tmp_path / "ranges" / "training.log").read_text()
    assert "MAE/RMSE: | Train: nan/nan" in log and "Best Valid : " in log


@pytest.mark.skipif(sys.platform != "linux", reason="gloo")
def test_two_processes(data, tmp_path):
    """Each computes its part of the batches that are drawn; the figures are of all rows."""
    out, launcher = tmp_path / "run", [sys.executable, "-m", "torch.distributed.run"]
    launcher += ["--standalone", "--nproc_per_node=2", MODEL_CODE / "faces-coral.py"]
    # of 64 pixels 2x2 stay: batch norm needs more than one value, also where there is one image
    process = begin(*launcher, f"--outpath={out}", *TINY, *data, *ALL, "--image_size=64")
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    facts = json.loads((out / "run.json").read_text())
    with open(out / "test_predictions.csv") as file:
        rows = list(csv.DictReader(file))
    found = [facts["metrics"][f"test_{name}"] for name in NAMES]
    assert facts["processes"] == 2 and found == pytest.approx(figures_of(rows))

    load(MODEL_CODE / "summarize.py").main([str(out), "--out", str(tmp_path / "report")])
    told = pd.read_csv(tmp_path / "report" / "results.csv")
    row = told[told["epoch"] == "last"].iloc[0]
    found = [row["test MAE"], row["test RMSE"], row["MAE to range"], row["group accuracy %"] / 100]
    assert found == pytest.approx(figures_of(rows), abs=0.006)
