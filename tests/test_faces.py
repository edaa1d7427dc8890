"""Data of one's own: what the README's lines do, and ages that never occur."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from conftest import ROOT, load


def test_own_data_by_the_readmes_lines(tmp_path):
    """40 drawn faces in folders named by age: scripts of one's own, cells check, CSV, training,
    prediction, summary. Only the size of the training is cut down."""
    readme = (ROOT / "README.md").read_text()
    section = readme[readme.index("## Your own photos") :]
    lines = re.search(r"```bash\n(.*?)```", section, re.S)[1].splitlines()
    assert len(lines) <= 10
    for folder in ("model-code", "datasets/train-test-csv"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.csv"))
    table = pd.read_csv(ROOT / "datasets/sample/faces/train.csv", dtype=str).head(40)
    for file in table["file"]:
        target = tmp_path / "PHOTOS" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "datasets/sample/faces/images" / file, target)

    tiny = " --epochs 1 --batch_size 8 --image_size 40 --seed 1"
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    printed = []
    for line in lines:
        result = subprocess.run(
            ["bash", "-c", line + tiny * ("mine-coral.py --recipe" in line)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
        )
        assert result.returncode == 0, (line, result.stderr)
        printed.append(result.stdout)
    count = len(list((ROOT / "model-code").glob("*-*.py"))) + 1
    assert printed[0].splitlines()[-1].startswith(f"{count} scripts, ")

    facts = json.loads((tmp_path / "run-mine" / "run.json").read_text())
    assert (facts["script"], facts["dataset"], facts["num_classes"]) == (
        "mine-coral.py",
        "mine",
        101,
    )
    assert (facts["data"]["train"]["rows"], facts["data"]["test"]["rows"]) == (32, 8)
    rows = pd.read_csv(tmp_path / "run-mine" / "test_predictions.csv", dtype=str)
    ages = dict(zip(table["file"], table["age"], strict=True))
    assert [int(age) for age in rows["true_age"]] == [int(ages[path]) for path in rows["path"]]
    told = json.loads((tmp_path / "predictions-mine" / "predictions.json").read_text())
    assert (told["model"]["dataset"], told["model"]["ages"]) == ("mine", [0, 100])
    assert len(told["faces"]) == 40
    assert "mine" in (tmp_path / "report-mine" / "results.md").read_text()


@pytest.mark.parametrize("loss", ["ce", "coral", "ordinal"])
def test_ages_that_never_occur(loss, tmp_path):
    """Of a set with ages 30 and 32 only, all weights and probabilities stay finite, also with the
    biases started at the ages' frequencies and with task importance weights."""
    module = load(ROOT / f"model-code/faces-{loss}.py")
    for i in range(8):
        shade = np.full((40, 40, 3), 20 * i, np.uint8)
        PIL.Image.fromarray(shade).save(tmp_path / f"{i}.png")
    rows = [{"file": f"{i}.png", "age": 30 + 2 * (i % 2)} for i in range(8)]
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    csvs = [f"--{name}_csv={tmp_path / 'rows.csv'}" for name in ("train", "test")]
    tiny = ["--epochs=3", "--batch_size=4", "--image_size=33", "--set=prior_bias=1", "--seed=1"]
    weights = ["--imp_weight=1"] if loss != "ce" else []
    out = tmp_path / "run"
    module.main([*csvs, *tiny, *weights, f"--image_path={tmp_path}", f"--outpath={out}"])
    state = torch.load(out / "model.pt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in state.values())
    probas = np.load(out / "test_probas.npy")
    assert np.isfinite(probas).all() and (probas >= 0).all() and (probas <= 1).all()
    # by hand: half of the labels are above 30 and 31, all above 29, none above 32
    model = module.ResNet34()
    module.set_prior_bias(model, torch.tensor([30, 32] * 4))
    # six steps of the training moved what it began with by no more than 0.0005 each
    name = "linear_1_bias" if loss == "coral" else "fc.bias"
    assert state[name].tolist() == pytest.approx(model.state_dict()[name].tolist(), abs=0.004)
    start = module.compute_probas(module.age_logits(model, torch.zeros(1, 2048)))[0]
    if loss == "ce":  # each of the other 99 classes counts as 1/101 of an image
        expected = [4 / (8 + 99 / 101), 1 / 101 / (8 + 99 / 101), 4 / (8 + 99 / 101)]
        assert start[30:33].tolist() == pytest.approx(expected, rel=1e-5)
    else:
        assert start[[30, 31]].tolist() == pytest.approx([0.5, 0.5], abs=1e-6)
        assert start[29].item() == pytest.approx(7.5 / 8) and start[32].item() == pytest.approx(
            1 / 16
        )
