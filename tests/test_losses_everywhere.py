"""Each loss for each data set: scripts that cells.py composes train for two steps and answer."""

import json
import shutil

import cells
import numpy as np
import pandas as pd
import pytest
from conftest import LOSSES, MODEL_CODE, first_rows, load
from test_scripts import CLASSES, OF_CLASSES, YOUNGEST, slow_label

SUMMARIZE = load(MODEL_CODE / "summarize.py")
TINY = ["--seed=1", "--epochs=1", "--batch_size=4", "--image_size=33", "--log_every=1"]
PRODUCTS = [f"{dataset}-{loss}" for dataset in CLASSES for loss in LOSSES]
FEW = ["afad-corn", "cacd-dldl", "morph2-sord", "faces-l1", "faces-corn"]


@pytest.fixture(scope="module")
def model_code(tmp_path_factory):
    """A copy of the scripts and cells.py, to which others are added."""
    folder = tmp_path_factory.mktemp("model-code")
    for path in MODEL_CODE.glob("*-*.py"):
        shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize(
    "name",
    [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in PRODUCTS],
)
def test_two_steps(name, model_code, tmp_path, capsys):
    script, (dataset, loss) = model_code / f"{name}.py", name.split("-")
    if not script.exists():
        assert cells.main(["--folder", str(model_code), "--new", name]) == 0
        assert f"wrote {name}.py\n" in capsys.readouterr().out
    rows = first_rows(dataset, tmp_path, train=8, test=5)
    if dataset == "faces":  # with ranges
        table = pd.read_csv(tmp_path / "train.csv", dtype=str)
        table.assign(age=["20-29", "", "70+", *table["age"][3:]]).to_csv(
            tmp_path / "train.csv", index=False
        )
    module = load(script)
    out = tmp_path / "run"
    gender = ["--gender=1"] if dataset == "faces" else []
    module.main([f"--outpath={out}", *TINY, *rows, *gender, "--recipe=fast", "--balance=1"])

    log = (out / "training.log").read_text().split("Cost: ")
    costs = [float(part.split("\n")[0]) for part in log[1:]]
    assert len(costs) == 2 and np.isfinite(costs).all() and costs[0] > 0
    facts = json.loads((out / "run.json").read_text())
    assert (facts["dataset"], facts["loss"], facts["status"]) == (dataset, loss, "finished")
    assert (facts["num_classes"], facts["youngest_age"]) == (CLASSES[dataset], YOUNGEST[dataset])

    probas = np.load(out / "test_probas.npy").astype(float)
    assert probas.shape == (5, CLASSES[dataset] - (loss not in OF_CLASSES))
    assert (probas >= 0).all() and (probas <= 1).all()
    if loss in OF_CLASSES:
        assert probas.sum(1) == pytest.approx(1, abs=1e-5)
    elif loss != "ordinal":
        assert (np.diff(probas, axis=1) <= 0).all()
    table = pd.read_csv(out / "test_predictions.csv")
    labels, told = (table[name] - YOUNGEST[dataset] for name in ("true_age", "predicted_age"))
    assert told.tolist() == [slow_label(loss, row) for row in probas]

    [result] = SUMMARIZE.read_run(out, {}, [])
    nll, medians = [], []
    for label, row in zip(labels, probas, strict=True):
        above = np.append(1, -np.sort(-row))  # and of losses that answer y > k, P(y > -1)
        classes = row if loss in OF_CLASSES else above - np.append(above[1:], 0)
        nll.append(-np.log(0.99 * classes[label] + 0.01 / CLASSES[dataset]))
        medians.append(np.argmax(np.cumsum(classes) >= 0.5))
    assert result["nll"] == pytest.approx(np.mean(nll), rel=1e-4)
    assert result["median_errors"].tolist() == np.abs(labels - medians).tolist()
