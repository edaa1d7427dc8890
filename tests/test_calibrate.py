"""calibrate.py: fits beside slow computations and known laws, what its intervals hold on other
rows, and run folders before and after."""

import functools
import json
import math
import shutil
from types import SimpleNamespace

import conftest
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MODEL_CODE, ROOT, first_rows, load
from coral_age import answers, calibration, runs
from test_predict import slow_interval

calibrate = load(MODEL_CODE / "calibrate.py")
predict = load(MODEL_CODE / "predict.py")
refused = functools.partial(conftest.refused, calibrate, begins="calibrate.py: error: ")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# ---- The fit
def slow_cost(scale, shifts, logits, ends, layer):
    """What fit() makes as small as it can be, term by term."""
    total = (math.log(scale) / 0.5) ** 2 / 2
    total += sum(calibration.FREE[layer] * d**2 / 2 for d in shifts)
    for a, b, c in zip(shifts, shifts[1:], shifts[2:], strict=False):
        total += 300 * (a - 2 * b + c) ** 2 / 2
    for row, (low, high) in zip(logits, ends, strict=True):
        moved = [scale * x + d for x, d in zip(row, shifts, strict=True)]
        above = [1, *(1 / (1 + math.exp(-x)) for x in moved), 0]
        if layer == "classes":
            odds = [math.exp(x) for x in moved]
            total -= math.log(sum(odds[low : high + 1]) / sum(odds))
        elif layer == "biases":
            total -= math.log(above[low] - above[high + 1])
        elif layer == "steps":
            reached = [math.prod(above[: k + 1]) for k in range(len(above))]
            total -= math.log(reached[low] - reached[high + 1])
        else:
            total -= sum(math.log(p) for k, p in enumerate(above[1:-1]) if low > k)
            total -= sum(math.log(1 - p) for k, p in enumerate(above[1:-1]) if high <= k)
    return total


LAYERS = ["biases", "pairs", "steps", "classes"]


@pytest.mark.parametrize("layer", LAYERS)
def test_no_other_fit_is_better(layer):
    """Every scale and shift a bit lower or higher costs more; some labels are ranges. (The cost is
    convex but for the scale's prior, so this is the lowest there is.)"""
    rng = np.random.default_rng(1)
    count = 6 if layer == "classes" else 5
    logits = rng.normal(0, 2, (40, 1)) + np.linspace(2, -2, count)
    if layer != "biases":
        logits = logits + rng.normal(0, 1, logits.shape)
    lowest = rng.integers(0, 6, 40)
    highest = np.minimum(lowest + rng.integers(0, 3, 40), 5)
    ends = np.stack([lowest, highest], 1).tolist()
    scale, shifts = calibration.fit(logits, lowest, highest, layer)
    best = slow_cost(scale, shifts, logits, ends, layer)
    assert best < slow_cost(1, 0 * shifts, logits, ends, layer) - 1
    for step in (-0.003, 0.003):
        assert slow_cost(scale + step, shifts, logits, ends, layer) > best
        for k in range(count):
            other = shifts + step * (np.arange(count) == k)
            assert slow_cost(scale, other, logits, ends, layer) > best


@pytest.mark.parametrize("layer", LAYERS)
def test_few_photos_change_little(layer):
    """The same photos ten times over move the fit farther from the old layer."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, (40, 1)) + np.linspace(3, -3, 9)
    labels = rng.integers(0, 9, 40)
    few = calibration.fit(logits, labels, labels, layer)
    many = calibration.fit(np.tile(logits, (10, 1)), *[np.tile(labels, 10)] * 2, layer)

    def distance(scale, shifts):
        bends = np.diff(shifts, 2)
        free = calibration.FREE[layer]
        return 4 * math.log(scale) ** 2 + free * (shifts**2).sum() + 300 * (bends**2).sum()

    assert 0 < distance(*few) < distance(*many)


def model_of(loss="coral", count=61, **more):
    """What calibration asks of a model: a script of ages from 10 on, and a network's layers."""
    script = SimpleNamespace(
        LOSS=loss,
        YOUNGEST_AGE=10,
        NUM_CLASSES=count,
        NUM_PROBAS=count - (loss not in ("ce",)),
        predict_labels=lambda p: p.argmax(1) if p.shape[1] == count else (p > 0.5).sum(1),
    )
    return SimpleNamespace(script=script, interval=80, shares=None, **more)


def drawn(count, rng, wide=lambda age: 3 + age / 8):
    """Answers of CORAL for photos whose true labels have the mean m of a score's photo and the
    deviation ``wide`` of it: P(y > k) of a network that is too unsure by half and 3 years off; the
    biases, and the labels."""
    means = rng.uniform(5, 50, count)
    labels = np.round(rng.normal(means, wide(means))).clip(0, 60).astype(int)
    biases = (29.5 - np.arange(60)) / 7
    scores = (means + 3 - 29.5) / 7
    return sigmoid(scores[:, None] + biases), biases, labels


def rows_of(labels):
    return SimpleNamespace(lowest=labels, highest=labels)


def with_biases(biases):
    return SimpleNamespace(linear_1_bias=torch.tensor(biases))


def test_a_known_law_is_found():
    """Labels drawn from P(y > k) = s(1.8 x + d_k), d a line: these are found, and P within 0.02."""
    rng = np.random.default_rng(2)
    biases = (29.5 - np.arange(60)) / 7
    x = rng.uniform(-3, 3, 4000)[:, None] + biases
    shifts = 0.5 - np.arange(60) / 40
    due = sigmoid(1.8 * x + shifts)
    labels = (rng.uniform(size=(4000, 1)) < due).sum(1)
    scale, found = calibration.fit(x, labels, labels, "biases")
    assert scale == pytest.approx(1.8, abs=0.08)
    assert np.abs(sigmoid(scale * x + found) - due).max() < 0.05
    assert np.abs(sigmoid(scale * x + found) - due).mean() < 0.01


def test_heaped_biases_are_smoothed():
    """Steps between biases that are three times as wide at each fifth age become even from 20 on;
    their sum stays, and those of children, whose ages are exact, stay as they are."""
    steps = np.where(np.arange(1, 80) % 5, 0.1, 0.3)
    biases = 4 - np.concatenate([[0], np.cumsum(steps)])
    found = -np.diff(calibration.smoothed(biases, youngest=0))
    assert (found > 0).all()
    assert found[30:60].max() / found[30:60].min() < 1.15
    assert found.sum() == pytest.approx(steps.sum(), rel=0.02)
    np.testing.assert_allclose(found[:2], steps[:2], atol=0.02)


def test_the_score_of_averaged_answers():
    """Of P(y > k), of which float32 rounds some to 1, and of the mean over two views that differ by
    0.2."""
    biases = np.linspace(25, -25, 60)
    model = model_of(network=with_biases(biases))
    smooth = calibration.smoothed(biases, 10)
    for views in ([0.7], [0.6, 0.8]):
        probas = np.mean([sigmoid(x + biases) for x in views], 0)[None]
        found = calibration.logits_of(probas.astype(np.float32), model) - smooth
        np.testing.assert_allclose(found, np.full((1, 60), 0.7), atol=0.005)


@pytest.mark.parametrize("loss", ["ordinal", "corn", "ce"])
def test_logits_and_back(loss):
    """A scale of 1 and no shifts change no answer; of CORN, with P(y > k | y > k-1) and shifts, the
    products of probabilities are those of the shifted logits."""
    model, rng = model_of(loss, count=6), np.random.default_rng(7)
    probas = rng.uniform(0.1, 0.9, (9, model.script.NUM_PROBAS))
    if loss == "ce":
        probas /= probas.sum(1, keepdims=True)
    steps, shifts = probas, np.linspace(-1, 1, 5)
    if loss == "corn":
        probas = np.cumprod(steps, 1)
        moved = sigmoid(1.5 * np.log(steps / (1 - steps)) + shifts)
        found = calibration.applied(SimpleNamespace(scale=1.5, shifts=shifts), probas, model)
        np.testing.assert_allclose(found, np.cumprod(moved, 1), atol=1e-6)
    found = calibration.applied(SimpleNamespace(scale=1, shifts=0), probas, model)
    np.testing.assert_allclose(found, probas, atol=1e-6)


# ---- Intervals
def test_enough():
    """An age is inside an interval that must hold more than that, and outside one of just that."""
    rng = np.random.default_rng(4)
    classes = rng.dirichlet(np.ones(7) / 2, 20)
    labels = rng.integers(0, 7, 20)
    found = calibration.enough(classes, labels)
    for i, age in np.ndindex(found.shape):
        for share in np.linspace(0.01, 0.99, 50):
            first, last, _ = answers.interval(classes[i], labels[i], share)
            assert first <= age <= last or share <= found[i, age]
        first, last, _ = answers.interval(classes[i], labels[i], found[i, age])
        assert (first <= age <= last) == (age == labels[i])


def test_a_table_by_hand():
    """Ten photos answered 2 of 0..4 with P = 0.1 0.2 0.4 0.2 0.1; true are 2 (six times), 1 (three
    times) and 0. An interval of 50 % is 2 alone; of 70 %, which is 8 of 11, it must hold 1 as well:
    more than the 0.4 of 2 alone; of 90 % and more 0 as well: more than the 0.8 of 1 to 3, and of
    the 0.9 of 1 to 4 or 0 to 3, of which the first is taken."""
    classes = np.tile([0.1, 0.2, 0.4, 0.2, 0.1], (10, 1))
    labels = np.full(10, 2)
    true = np.array([2] * 6 + [1] * 3 + [0])
    table = calibration.table(classes, labels, rows_of(true))
    due = dict(zip(answers.LEVELS, table[:, 2], strict=True))
    inside = {}
    for level, share in due.items():
        inside[level] = answers.interval(classes[0], 2, share)[:2]
    assert inside[50] == (2, 2)
    assert inside[60][0] == inside[70][0] == inside[80][0] == 1
    assert inside[90][0] == inside[99][0] == 0


def test_intervals_hold_what_they_say():
    """On other photos, drawn from the same law, whose deviation grows with age: 2 points overall,
    and 7, two standard errors of 200 photos, by decade of the answer."""
    rng = np.random.default_rng(5)
    probas, biases, labels = drawn(2500, rng)
    model = model_of(network=with_biases(biases))
    found = calibration.fitted(probas, rows_of(labels), model)
    by_others, _ = calibration.by_folds(probas, rows_of(labels), model)
    table = calibration.table(*calibration.classes_of(by_others, model), rows_of(labels))
    probas, _, labels = drawn(4000, rng)
    due = [0.8] * 4000
    before = calibration.figures(probas, due, rows_of(labels), model)
    new = calibration.applied(found, probas, model)
    predicted = calibration.classes_of(new, model)[1]
    for level in (50, 80, 90, 95):
        due = table[answers.LEVELS.index(level), predicted]
        after = calibration.figures(new, due, rows_of(labels), model)
        assert after["interval_holds"] == pytest.approx(level / 100, abs=0.02)
        for decade in after["by_predicted_age"].values():
            if decade["photos"] > 300:
                assert decade["interval_holds"] == pytest.approx(level / 100, abs=0.07)
        if level == 80:
            assert after["mae"] < before["mae"] - 0.3
            assert abs(after["too_old_by"]) < 0.3 < before["too_old_by"]
            assert after["over_18_off"] < 0.02 < before["over_18_off"]
            assert after["interval_years"] < before["interval_years"]


def test_few_photos_have_one_number_for_all_ages():
    probas, biases, labels = drawn(calibration.NEAREST, np.random.default_rng(6))
    classes, predicted = calibration.classes_of(probas, model_of())
    table = calibration.table(classes, predicted, rows_of(labels))
    assert np.ptp(table, axis=1).max() == 0
    assert (np.diff(table[:, 0]) > 0).all()


# ---- Figures
def test_figures_by_hand():
    """Three photos of classes 10 to 13 years: of one the label is a range."""
    model = model_of(count=4)
    probas = np.array([[0.9, 0.6, 0.1], [0.4, 0.2, 0.1], [0.9, 0.9, 0.8]])  # answers 12, 10, 13
    rows = SimpleNamespace(lowest=np.array([1, 0, 1]), highest=np.array([1, 0, 2]))
    found = calibration.figures(probas, [0.5, 0.5, 0.9], rows, model)
    assert found["mae"] == pytest.approx((1 + 0 + 1) / 3)
    assert found["too_old_by"] == pytest.approx((1 + 0 + 1) / 3)
    logs = [math.log(0.3), math.log(0.6), math.log(0.1)]
    assert found["log_loss"] == pytest.approx(-sum(logs) / 3)
    # 12 alone holds 0.5, 10 alone 0.6; of the third 13 alone holds 0.8, 12 and 13 hold 0.9
    assert found["interval_years"] == pytest.approx((0 + 0 + 1) / 3)
    # and all of the range 11 to 12 that is likely: 11 has probability 0
    assert found["interval_holds"] == pytest.approx((0 + 1 + 1) / 3)
    assert "over_18_off" not in found
    assert found["by_true_age"].keys() == {"10-19"}


def test_calibration_error():
    """0.2 and 0.2 where one of two is right: 0.3 off; 0.3 where it is not: 0.3; 0.9 where it is:
    0.1."""
    probas, right = np.array([0.2, 0.2, 0.3, 0.9]), np.array([True, False, False, True])
    assert calibration.calibration_error(probas, right) == pytest.approx((2 * 0.3 + 0.3 + 0.1) / 4)


# ---- Run folders
@pytest.fixture(autouse=True)
def few_folds(monkeypatch):
    monkeypatch.setattr(calibration, "FOLDS", 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of utk-coral.py, with genders, mirror images and 40 test rows."""
    folder = tmp_path_factory.mktemp("runs")
    words = [*first_rows("utk", folder, train=8, test=40), "--seed=1", "--image_size=33"]
    words += ["--gender=1", "--epochs=1", "--batch_size=8", "--set", "prior_bias=1", "flip=1"]
    load(MODEL_CODE / "utk-coral.py").main([*words, f"--outpath={folder / 'run'}"])
    return folder / "run"


def calibrated(run, out, *words):
    calibrate.main([str(run), *map(str, words), "--outpath", str(out)])
    return json.loads((out / "run.json").read_text())


def weights(run, name="model.pt"):
    return torch.load(run / name, weights_only=True)


@pytest.mark.parametrize("loss", ["coral", "ordinal", "ce"])
def test_the_layer(loss):
    """A network with it answers for any features as applied() says."""
    script = load(MODEL_CODE / f"utk-{loss}.py")
    model = SimpleNamespace(script=script, network=script.ResNet34())
    features = torch.rand(50, 2048) / 20  # whose probabilities are none that float32 rounds to 1
    if loss == "coral":
        model.network.linear_1_bias.data = torch.linspace(3, -3, 39)

    def answers_of():
        with torch.no_grad():
            return script.compute_probas(script.age_logits(model.network, features))

    before, shifts = answers_of(), np.linspace(1, -2, script.NUM_PROBAS)
    found = SimpleNamespace(scale=1.3, shifts=shifts)
    due = calibration.applied(found, before.numpy(), model)
    new = {name: tensor.float() for name, tensor in calibration.layer_of(found, model).items()}
    model.network.load_state_dict(model.network.state_dict() | new)
    np.testing.assert_allclose(answers_of(), due, atol=1e-4)
    assert np.abs(due - before.numpy()).max() > 0.02


def test_a_run(run, tmp_path, capsys):
    """The network stays but for the layer; the stored answers are those of fits to other rows, and
    the figures are theirs."""
    out = tmp_path / "new"
    facts = calibrated(run, out)
    shown = capsys.readouterr().out
    old, new = weights(run), weights(out)
    layer = {name for name in old if not torch.equal(old[name], new[name])}
    assert layer == {"fc.weight", "linear_1_bias"}
    assert all(old[name].dtype == new[name].dtype for name in old)

    model, before = runs.load(out), runs.load(run)
    stored, table = np.load(run / "test_probas.npy"), pd.read_csv(run / "test_predictions.csv")
    known = rows_of(table["true_age"].to_numpy() - 21)
    found = calibration.fitted(stored, known, before)
    due = calibration.layer_of(found, before)
    assert found.scale == facts["calibration"]["scale"]
    for name in layer:
        np.testing.assert_allclose(new[name], due[name], rtol=1e-5)
    assert (np.diff(new["linear_1_bias"]) <= 0).all()
    by_others = calibration.by_folds(stored, known, before)[0]
    table_due = calibration.table(*calibration.classes_of(by_others, before), known)
    np.testing.assert_array_equal(model.shares, table_due)
    assert before.shares is None

    np.testing.assert_array_equal(np.load(out / "test_probas.npy"), by_others)
    told = pd.read_csv(out / "test_predictions.csv")
    assert told.drop(columns="predicted_age").equals(table.drop(columns="predicted_age"))
    mae = np.abs(told["predicted_age"] - told["true_age"]).mean()
    assert facts["metrics"]["test_mae"] == pytest.approx(mae)
    assert facts["calibration"]["after"]["mae"] == pytest.approx(mae)
    first = json.loads((run / "run.json").read_text())
    same = "test_gender_accuracy"
    assert facts["metrics"][same] == first["metrics"][same]
    assert facts["status"] == "finished" and facts["calibration"]["before"]["photos"] == 40
    assert facts["calibrated_from"] == calibrate.digest_of(run / "model.pt")
    was = facts["calibration"]["before"]["mae"]
    assert was == pytest.approx(first["metrics"]["test_mae"])
    assert f"MAE (years){was:26.2f} {mae:7.2f}\n" in shown
    assert shown in (out / "training.log").read_text()


def test_predict_with_an_interval(run, tmp_path, capsys):
    """--interval: of a run without a table that share of the probability, of a calibrated one what
    its table says; in predictions.json, on the page and in a program as well."""
    out = tmp_path / "new"
    facts = calibrated(run, out)
    for level, low in zip(answers.LEVELS, np.linspace(0.2, 0.8, 7), strict=True):
        facts["intervals"][str(level)] = np.linspace(low, low + 0.15, 40).tolist()
    (out / "run.json").write_text(json.dumps(facts))
    images = sorted((ROOT / "datasets/sample/utk/images").glob("*.jpg"))[:3]
    words = ["--crops", "--no_draw", *map(str, images)]
    for folder, level in ((run, 93), (out, 50), (out, 93)):
        told = tmp_path / f"{folder.name}{level}"
        given = ["--run", str(folder), "--interval", str(level), "--out", str(told)]
        assert predict.main([*words, *given]) == 0
        facts = json.loads((told / "predictions.json").read_text())
        assert facts["model"]["interval_coverage"] == level / 100
        assert facts["model"].get("interval_calibrated", False) == (folder == out)
        model = runs.load(folder)
        model.interval = level
        faces = [some[0] for some in predict.faces(model, images, crops=True)]
        for row, face in zip(facts["faces"], faces, strict=True):
            label, classes = row["age"] - 21, face["age_probas"]
            share = level / 100
            if folder == out:  # 93 lies between 90 and 95
                below, above = (model.shares[answers.LEVELS.index(p), label] for p in (90, 95))
                share = model.shares[0, label] if level == 50 else 0.4 * below + 0.6 * above
            first, last, _ = slow_interval(classes, label, share)
            assert [row["age_low"], row["age_high"]] == [first + 21, last + 21]
            assert face["age_low"] == first + 21 and face["age_high"] == last + 21
    assert load(MODEL_CODE / "page.py").about(model)["coverage"] == 0.93
    capsys.readouterr()
    for number in ("49", "100", "0.9"):
        with pytest.raises(SystemExit) as end:
            predict.main([*words, "--interval", number])
        assert end.value.code == 2
        err = capsys.readouterr().err
        assert f"--interval: {number}: must be a whole number from 50 to 99\n" in err
    model.interval = 0.9
    with pytest.raises(runs.InputError, match="model.interval is 0.9: give percent, from 50 to 99"):
        predict.faces(model, images[0], crops=True)


def test_the_other_tools_take_it(run, tmp_path, capsys):
    """summarize.py tells it apart from its run; average.py and --init_from take it; it can be
    calibrated again."""
    out = tmp_path / "new"
    calibrated(run, out)
    capsys.readouterr()
    load(MODEL_CODE / "summarize.py").main([str(run), str(out)])
    name = f"calibrated_from {calibrate.digest_of(run / 'model.pt')[:8]}"
    assert f"| {name} | CORAL | 1 |" in capsys.readouterr().out
    script = load(MODEL_CODE / "utk-coral.py")
    network = script.ResNet34(gender=1)
    script.init_weights(network, out / "model.pt")
    bias = weights(out)["linear_1_bias"]
    assert torch.equal(network.linear_1_bias, bias)

    tuned, mean = tmp_path / "tuned", tmp_path / "mean"  # a run that began from the first one
    shutil.copytree(run, tuned)
    facts = json.loads((run / "run.json").read_text())
    facts["init_from_sha256"] = calibrate.digest_of(run / "model.pt")
    (tuned / "run.json").write_text(json.dumps(facts))
    load(MODEL_CODE / "average.py").main([str(out), str(tuned), f"--outpath={mean}"])
    due = (bias + weights(run)["linear_1_bias"]) / 2
    np.testing.assert_allclose(weights(mean)["linear_1_bias"], due, rtol=1e-5)
    again = calibrated(out, tmp_path / "again")
    assert again["calibrated_from"] == calibrate.digest_of(out / "model.pt")


def test_as_onnx(run, tmp_path, monkeypatch):
    """export.py compares the file's ages and intervals with predict.py's."""
    pytest.importorskip("onnxruntime")
    export = load(MODEL_CODE / "export.py")
    monkeypatch.setattr(export, "CHECKED", 12)
    calibrated(run, tmp_path / "new")
    file = tmp_path / "model.onnx"
    export.main([str(tmp_path / "new"), str(file), "--interval", "90"])
    facts = {prop.key: prop.value for prop in export.onnx.load(file).metadata_props}
    assert facts["interval_coverage"] == "0.9"
    kinds = {node.op_type for node in export.onnx.load(file).graph.node}
    assert "Gather" in kinds


def test_photos_with_labels(run, tmp_path, capsys):
    """The test rows' photos, as crops with their ages, give what their stored answers give."""
    table = pd.read_csv(run / "test_predictions.csv")
    ages = pd.DataFrame({"file": table["path"], "age": table["true_age"]})
    ages.to_csv(tmp_path / "ages.csv", index=False)
    images = ["--labels", tmp_path / "ages.csv", "--images", ROOT / "datasets/sample/utk/images"]
    told = [
        calibrated(run, tmp_path / "one", *images, "--crops"),
        calibrated(run, tmp_path / "two"),
    ]
    one, two = (facts["calibration"] for facts in told)
    assert one["scale"] == pytest.approx(two["scale"], rel=1e-3)
    assert one["before"]["mae"] == pytest.approx(two["before"]["mae"], abs=0.06)
    assert one["rows"] == "ages.csv" and two["rows"] == "test_predictions.csv"
    assert one["rows_sha256"] == calibrate.digest_of(tmp_path / "ages.csv")
    found = np.load(tmp_path / "one" / "test_probas.npy")
    assert np.abs(found - np.load(run / "test_probas.npy")).max() > 0.01


def test_the_best_epochs_answers(run, tmp_path):
    """Of a run with validation: these are calibrated, and stand in model.pt."""
    valid, out = tmp_path / "valid", tmp_path / "new"
    shutil.copytree(run, valid)
    for name in ("model.pt", "test_predictions.csv", "test_probas.npy"):
        (valid / name).rename(valid / f"best_{name}")
    np.save(valid / "test_probas.npy", np.zeros((40, 39), np.float32))
    torch.save({}, valid / "model.pt")
    facts = calibrated(valid, out)
    assert torch.equal(weights(out)["conv1.weight"], weights(run)["conv1.weight"])
    assert facts["calibration"]["scale"] != 1 and facts["calibration"]["before"]["mae"] < 20
    assert not (out / "best_model.pt").exists() and np.load(out / "test_probas.npy").any()


def test_a_loss_whose_layer_is_unknown(run, tmp_path, monkeypatch, capsys):
    """Its answers stay, its intervals are calibrated."""
    monkeypatch.setattr(calibration, "LAYERS", {})
    facts = calibrated(run, tmp_path / "new")
    err = capsys.readouterr().err
    assert "no output layer of the loss 'coral' can be fitted again: answers stay" in err
    old, new = weights(run), weights(tmp_path / "new")
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert facts["calibration"]["scale"] is None
    assert runs.load(tmp_path / "new").shares.shape == (7, 40)


# ---- Refusals
def labels_in(tmp_path, ages, name="ages.csv"):
    """A CSV of the sample's photos with these ages, and the options that name them."""
    files = sorted(path.name for path in (ROOT / "datasets/sample/utk/images").glob("*.jpg"))
    frame = pd.DataFrame({"file": files[: len(ages)], "age": ages})
    frame.to_csv(tmp_path / name, index=False)
    return ["--labels", tmp_path / name, "--images", ROOT / "datasets/sample/utk/images", "--crops"]


def test_refusals(run, tmp_path, capsys):
    """One line, and nothing is written."""
    out = ["--outpath", tmp_path / "new"]

    def told(*words):
        return refused(capsys, run, *words, *out)

    csv = tmp_path / "ages.csv"
    assert f"{csv}: 3 photos with an age and a face are there; a calibration takes 30" in told(
        *labels_in(tmp_path, [20, 30, 40])
    )
    assert f"{csv}: all 40 photos have the age 30; a calibration takes photos of many" in told(
        *labels_in(tmp_path, [30] * 40)
    )
    assert "all 40 photos have the age 30 and 40-49; " in told(
        *labels_in(tmp_path, [30] * 20 + ["40-49"] * 20)
    )
    assert "3 photos with an age" in told(*labels_in(tmp_path, [30, 31, 32, *[""] * 40]))
    assert f"{csv}: row 2: age 'old': give years" in told(*labels_in(tmp_path, [30, "old"]))
    (tmp_path / "wrong.csv").write_text("name,years\na.jpg,3\n")
    assert "wrong.csv: has no column 'file'" in told("--labels", tmp_path / "wrong.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00" * 9)
    assert "binary.csv" in told("--labels", tmp_path / "binary.csv", *labels_in(tmp_path, [1])[2:])
    assert "none.csv" in told("--labels", tmp_path / "none.csv")
    assert "no image or video in this folder" in told(*labels_in(tmp_path, [30] * 40)[:2])
    (tmp_path / "photos").mkdir()
    shutil.copy(
        next((ROOT / "datasets/sample/utk/images").glob("*.jpg")), tmp_path / "photos/other.jpg"
    )
    words = [*labels_in(tmp_path, list(range(21, 61)))[:2], "--images", tmp_path / "photos"]
    assert f"{csv}: no file in it is the end of an input's path" in told(*words, "--crops")
    assert "--images and --crops go with --labels" in told("--crops")
    assert "no such file" in told("--labels", csv, "--images", tmp_path / "nowhere")
    assert not (tmp_path / "new").exists()


def test_runs_that_cannot_be_calibrated(run, tmp_path, capsys):
    out = ["--outpath", tmp_path / "new"]
    other = tmp_path / "other"
    shutil.copytree(run, other)
    probas = other / "test_probas.npy"
    np.save(probas, np.zeros((3, 39), np.float32))
    assert f"{probas}: no probabilities of the shape (40, 39)" in refused(capsys, other, *out)
    probas.write_bytes(b"")
    assert "test_probas.npy: damaged" in refused(capsys, other, *out)
    probas.unlink()
    assert f"{other}: holds no answers for test rows; give --labels" in refused(capsys, other, *out)
    assert "no run.json" in refused(capsys, tmp_path / "nothing", *out)
    assert not (tmp_path / "new").exists()
    before = (other / "model.pt").read_bytes()
    err = refused(capsys, run, "--outpath", other)
    assert f"--outpath {other} holds a run (run.json); give a new folder" in err
    assert (other / "model.pt").read_bytes() == before
    err = refused(capsys, run, "--outpath", other / "model.pt")
    assert f"--outpath {other / 'model.pt'}: is a file; give a new folder" in err


def test_answers_without_any_width(run, tmp_path, monkeypatch, capsys):
    """Of a regression: P(y > k) are 0 and 1, and its layer is not known."""
    monkeypatch.setattr(calibration, "LAYERS", {})
    other = tmp_path / "other"
    shutil.copytree(run, other)
    steps = (np.load(other / "test_probas.npy") > 0.5).astype(np.float32)
    np.save(other / "test_probas.npy", steps)
    with pytest.raises(SystemExit) as end:
        calibrate.main([str(other), "--outpath", str(tmp_path / "new")])
    assert end.value.code == 2 and not (tmp_path / "new").exists()
    err = capsys.readouterr().err
    assert "its answers (loss 'coral') give most true ages no probability at all" in err


@pytest.mark.parametrize("table", [[], {"50": [0.5]}, {"50": "x"}, 3])
def test_a_damaged_table(table, run, tmp_path, capsys):
    (tmp_path / "model.pt").symlink_to(run / "model.pt")
    facts = json.loads((run / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(facts | {"intervals": table}))
    with pytest.raises(runs.InputError, match="its intervals are no 40 numbers from 0 to 1"):
        runs.load(tmp_path)


def test_photos_that_are_left_out(run, tmp_path, capsys):
    """Of ages that the model does not know, that are no images, that are not there."""
    words = labels_in(tmp_path, [*range(21, 58), 12, "61-70", 75])
    folder = tmp_path / "photos"
    shutil.copytree(ROOT / "datasets/sample/utk/images", folder)
    files = pd.read_csv(tmp_path / "ages.csv")["file"]
    (folder / files[0]).write_bytes(b"Dear reader,")
    (folder / files[1]).unlink()
    words[3] = folder
    facts = calibrated(run, tmp_path / "new", *words)
    err = capsys.readouterr().err
    assert f"1 of 40 photos are not in {folder}, as {files[1]}" in err
    assert f"{folder / files[0]}: " in err and "left out" in err
    assert "3 photos are of ages outside the model's, 21 to 60; left out" in err
    assert facts["calibration"]["before"]["photos"] == 35
