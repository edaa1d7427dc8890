"""The scripts as a user meets them: alone, from the command line, and what they leave."""

import ast
import csv
import doctest
import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import PAPER, ROOT, SCRIPTS, first_rows, load, run

# tiny: a run takes about a second after the imports
TINY = ["--epochs=2", "--batch_size=4", "--image_size=33", "--log_every=2"]
CLASSES = {"afad": 26, "cacd": 49, "morph2": 55, "utk": 40, "faces": 101}
YOUNGEST = {"afad": 15, "cacd": 14, "morph2": 16, "utk": 21, "faces": 0}
# A user's own data set has no drawn sample, and nothing about it is known beforehand.
KNOWN = [script for script in SCRIPTS if script.stem.split("-")[0] in CLASSES]


def tiny_options(script, folder):
    """Options for the first rows of the sample."""
    folder.mkdir(exist_ok=True)
    return [*TINY, *first_rows(script.stem.split("-")[0], folder, train=10, test=6)]


def names_and_shapes(loss, classes):
    """The reference's state dict as SPEC.md words it: names and shapes."""
    shapes = {}

    def norm(name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    shapes["conv1.weight"] = (64, 3, 7, 7)
    norm("bn1", 64)
    before = 64
    for stage, (blocks, channels) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], start=1):
        for i in range(blocks):
            block = f"layer{stage}.{i}"
            shapes[f"{block}.conv1.weight"] = (channels, before, 3, 3)
            norm(f"{block}.bn1", channels)
            shapes[f"{block}.conv2.weight"] = (channels, channels, 3, 3)
            norm(f"{block}.bn2", channels)
            if before != channels:
                shapes[f"{block}.downsample.0.weight"] = (channels, before, 1, 1)
                norm(f"{block}.downsample.1", channels)
            before = channels
    outputs = {"coral": 1, "l1": 1, "corn": classes - 1, "ordinal": 2 * (classes - 1)}
    outputs = outputs.get(loss, classes)
    shapes["fc.weight"] = (outputs, 2048)
    if loss == "coral":
        shapes["linear_1_bias"] = (classes - 1,)
    else:
        shapes["fc.bias"] = (outputs,)
    return shapes


def slow_label(loss, proba):
    """What the loss answers of one image's probabilities."""
    if loss in ("ce", "sord"):
        return list(proba).index(max(proba))
    if loss == "dldl":
        return round(sum(k * p for k, p in enumerate(proba)))
    return round(sum(proba)) if loss == "l1" else sum(p > 0.5 for p in proba)


@pytest.mark.parametrize("script", KNOWN, ids=lambda script: script.stem)
def test_the_network(script):
    """Names and shapes of its state dict."""
    dataset, loss = script.stem.split("-")
    with torch.device("meta"):  # draws nothing
        state = load(script).ResNet34().state_dict()
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert found == names_and_shapes(loss, CLASSES[dataset])


def test_the_papers_twelve_are_there():
    assert set(PAPER) <= set(SCRIPTS) and len(PAPER) == 12


ORDER = "Imports, Paths, Facts of the data set, Output layer, LOSS, Recipes, "
ORDER += "ResNet-34, One run and its training loop, Batches, Data augmentation, "
ORDER += "Optimiser and schedule, Evaluation, From here on"
OF_CLASSES = ["ce", "dldl", "sord"]
OF_LOSS = {"coral": ["Task importance weights"], "corn": ["Likelihood"], "l1": []}
OF_LOSS |= {"ordinal": OF_LOSS["coral"]}
OF_LOSS |= dict.fromkeys(OF_CLASSES, ["Loss and prediction", "Likelihood"])
# beginnings of words of processes, signals, files, locks and the command line
MACHINERY = """process rank world distributed all_ at_least_one signal sigterm interrupt
kill stop file folder open json hashlib tempfile flush fsync rename disk os sys lock flock thread
argparse parser argv command""".split()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_story_is_on_top(script):
    """The cells come as a newspaper has it, and above the divider, from the loss on, there is no
    word of what a paper does not speak of."""
    chunks = re.split(r"(?m)^# %% (.+) \[.+\]$", script.read_text())
    titles, bodies = chunks[1::2], chunks[2::2]
    order = ORDER.split(", ")
    order[4:5] = OF_LOSS[script.stem.split("-")[1]]
    for title, due in zip(titles, order, strict=False):
        assert title.startswith(due)
    story = "".join(bodies[3 : len(order) - 1])
    for name in "cost_fn run train batches augment build_optimizer evaluate".split():
        assert f"\ndef {name}(" in story, name
    assert ".backward()" in story and "optimizer.step()" in story
    words = set(re.findall(r"[a-z_]+", story.lower()))
    assert {word for word in words if word.startswith(tuple(MACHINERY))} == set()
    assert "dist" not in words  # torch's; a distribution is of the story


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_worked_example(script):
    """In the docstring of the loss: its value is what the code gives."""
    module = load(script)
    [example] = doctest.DocTestFinder().find(module.cost_fn, "cost_fn", globs=vars(module))
    assert len(example.examples) == 2
    assert doctest.DocTestRunner().run(example) == (0, 2)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_functions_fit_a_screen(script):
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_import_has_no_effect(script, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    state = torch.get_rng_state()
    module = load(script)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(torch.get_rng_state(), state)
    dataset, loss = script.stem.split("-")[:2]
    assert (module.DATASET, module.LOSS) == (dataset, loss)
    names = ["TRAIN_CSV_PATH", "VALID_CSV_PATH", "TEST_CSV_PATH", "IMAGE_PATH"]
    assert all(hasattr(module, name) for name in [*names, "compute_mae_and_mse"])
    assert module.cost_fn
    assert bool(module.task_importance_weights) == (loss in ("coral", "ordinal"))
    if script in KNOWN:
        facts = (module.NUM_CLASSES, module.YOUNGEST_AGE)
        assert facts == (CLASSES[dataset], YOUNGEST[dataset])


# each data set; the other losses train in test_losses_everywhere.py
FEW = "afad-ce", "cacd-ordinal", "morph2-coral", "utk-l1", "faces-coral"


@pytest.mark.parametrize(
    "script",
    [
        script if script.stem in FEW else pytest.param(script, marks=pytest.mark.slow)
        for script in KNOWN
    ],
    ids=lambda script: script.stem,
)
def test_alone_in_an_empty_folder(script, tmp_path):
    """Copied away and run with ``python -I``; the run folder holds what DESIGN.md says."""
    options = tiny_options(script, tmp_path / "data")
    alone = tmp_path / "alone" / script.name
    alone.parent.mkdir()
    shutil.copy(script, alone)
    words = ["-I", alone.name, "--seed=1", "--outpath=deep/er/run", *options]
    result = run(*words, cwd=alone.parent)
    assert (result.returncode, result.stderr) == (0, "")
    out = alone.parent / "deep" / "er" / "run"
    assert sorted(path.name for path in out.iterdir()) == [
        "history.csv",
        "model.pt",
        "run.json",
        "test_predictions.csv",
        "test_probas.npy",
        "training.log",
    ]
    dataset, loss = script.stem.split("-")

    assert result.stdout == (out / "training.log").read_text()
    weights = ["Task Importance Weight: 0"] if loss in ("coral", "ordinal") else []
    expected = [
        f"PyTorch Version: {re.escape(torch.__version__)}",
        r"CUDA device available: (True|False)",
        "Using CUDA device: cpu",
        "Random Seed: 1",
        *weights,
        "Output Path: deep/er/run",
        r"Epoch: 001/002 \| Batch 0000/0002 \| Cost: \d+\.\d{4}",
        r"Epoch: 001/002 \| Batch 0002/0002 \| Cost: \d+\.\d{4}",
        r"Time elapsed: \d+\.\d\d min",
        r"Epoch: 002/002 \| Batch 0000/0002 \| Cost: \d+\.\d{4}",
        r"Epoch: 002/002 \| Batch 0002/0002 \| Cost: \d+\.\d{4}",
        r"Time elapsed: \d+\.\d\d min",
        r"MAE/RMSE: \| Train: \d+\.\d\d/\d+\.\d\d \| Test: \d+\.\d\d/\d+\.\d\d",
        r"Total Training Time: \d+\.\d\d min",
    ]
    lines = result.stdout.splitlines()
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line)

    state = torch.load(out / "model.pt", weights_only=True)
    shapes = names_and_shapes(loss, CLASSES[dataset])
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == shapes

    facts = json.loads((out / "run.json").read_text())
    assert facts["script"] == script.name
    assert facts["script_sha256"] == hashlib.sha256(script.read_bytes()).hexdigest()
    assert (facts["dataset"], facts["loss"], facts["gender"]) == (dataset, loss, 0)
    assert (facts["num_classes"], facts["youngest_age"]) == (CLASSES[dataset], YOUNGEST[dataset])
    assert (facts["seed"], facts["device"], facts["status"]) == (1, "cpu", "finished")
    assert facts["settings"]["batch_size"] == 4 and facts["settings"]["lr"] == 0.0005
    for name, rows in (("train", 10), ("test", 6)):
        path = tmp_path / "data" / f"{name}.csv"
        assert facts["data"][name]["rows"] == rows
        assert facts["data"][name]["csv_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()

    with open(tmp_path / "data" / "test.csv") as file:
        rows = list(csv.DictReader(file))
    module = load(script)
    column = "" if dataset == "morph2" else module.FILE_COLUMN
    images = ROOT / "datasets" / "sample" / dataset / "images"
    content = b"".join((images / row[column]).read_bytes() for row in rows)
    assert facts["data"]["test"]["images_sha256"] == hashlib.sha256(content).hexdigest()
    labels = [int(row["age"]) for row in rows]
    with open(tmp_path / "data" / "train.csv") as file:
        train_labels = sorted(int(row["age"]) for row in csv.DictReader(file))
    median = train_labels[(len(train_labels) - 1) // 2]
    assert facts["data"]["test"]["median_age"] == median + YOUNGEST[dataset]
    assert facts["data"]["test"]["median_mae"] == pytest.approx(
        sum(abs(label - median) for label in labels) / 6
    )

    with open(out / "test_predictions.csv") as file:
        predictions = list(csv.DictReader(file))
    probas = np.load(out / "test_probas.npy")
    assert probas.dtype == np.float32
    assert probas.shape == (6, CLASSES[dataset] - (loss not in OF_CLASSES))
    assert list(predictions[0])[:3] == ["path", "true_age", "predicted_age"]
    others = {"afad": ["file", "gender"], "cacd": [], "utk": [], "faces": ["gender"]}
    others["morph2"] = "id_num picture_num race Male facial_hair glasses quality".split()
    assert list(predictions[0])[3:] == others[dataset]
    errors = []
    for row, prediction, proba in zip(rows, predictions, probas, strict=True):
        assert prediction["path"] == row[column]
        assert int(prediction["true_age"]) == int(row["age"]) + YOUNGEST[dataset]
        assert all(prediction[name] == row[name] for name in others[dataset])
        label = slow_label(loss, proba.astype(float))
        assert int(prediction["predicted_age"]) == label + YOUNGEST[dataset]
        errors.append(label - int(row["age"]))
    mae, rmse = sum(map(abs, errors)) / 6, (sum(e * e for e in errors) / 6) ** 0.5
    assert facts["metrics"]["test_mae"] == pytest.approx(mae)
    assert facts["metrics"]["test_rmse"] == pytest.approx(rmse)
    assert f"Test: {mae:.2f}/{rmse:.2f}" in result.stdout

    with open(out / "history.csv") as file:
        history = list(csv.DictReader(file))
    assert [row["epoch"] for row in history] == ["1", "2"]
    assert all(float(row["wait_seconds"]) < float(row["seconds"]) for row in history)
    assert all(
        float(row["images_per_second"]) == pytest.approx(10 / float(row["seconds"]))
        for row in history
    )


def train_tiny(tmp_path, name, *options, script="utk-coral"):
    """A tiny run in this process; its folder."""
    path = ROOT / "model-code" / f"{script}.py"
    out = tmp_path / name
    load(path).main([f"--outpath={out}", *tiny_options(path, tmp_path / "data"), *options])
    return out


def test_mean_cost_in_history(tmp_path):
    out = train_tiny(tmp_path, "run", "--seed=1", "--log_every=1", "--epochs=1")
    costs = [float(cost) for cost in re.findall("Cost: (.*)", (out / "training.log").read_text())]
    with open(out / "history.csv") as file:
        [row] = csv.DictReader(file)
    assert float(row["cost"]) == pytest.approx(
        (4 * costs[0] + 4 * costs[1] + 2 * costs[2]) / 10, 1e-4
    )


def test_seeds(tmp_path):
    """The same seed gives the same weights, another one others; -1 draws one and records it."""
    once = "--epochs=1"
    first, same = (train_tiny(tmp_path, name, "--seed=1", once) for name in ("first", "same"))
    other, drawn = (
        train_tiny(tmp_path, *words, once) for words in (["other", "--seed=2"], ["drawn"])
    )
    assert (first / "model.pt").read_bytes() == (same / "model.pt").read_bytes()
    weights = [torch.load(out / "model.pt")["conv1.weight"] for out in (first, other, drawn)]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    seed = json.loads((drawn / "run.json").read_text())["seed"]
    assert f"Random Seed: {seed}\n" in (drawn / "training.log").read_text()
    again = train_tiny(tmp_path, "again", f"--seed={seed}", once)
    assert (again / "model.pt").read_bytes() == (drawn / "model.pt").read_bytes()


def test_a_run_is_kept_unless_overwritten(tmp_path, capsys):
    out = train_tiny(tmp_path, "run", "--seed=1")
    content = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(SystemExit) as stop:
        train_tiny(tmp_path, "run", "--seed=2")
    assert stop.value.code == 2
    assert "holds a run" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == content
    with pytest.raises(SystemExit):  # bad data: the run is not replaced
        train_tiny(tmp_path, "run", "--overwrite", f"--test_csv={tmp_path / 'no.csv'}")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == content
    train_tiny(tmp_path, "run", "--seed=2", "--overwrite")
    assert "Random Seed: 2" in (out / "training.log").read_text()
    assert (out / "model.pt").read_bytes() != content["model.pt"]
