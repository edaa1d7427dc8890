"""The gender output: which value means male, what is said of it, and that nothing else changes."""

import csv
import json

import pytest
import torch
from conftest import ROOT, first_rows, load, read_split, sample

AFAD = load(ROOT / "model-code/afad-coral.py")


@pytest.mark.parametrize(
    "dataset, is_male",
    [
        ("afad", lambda row: "/111/" in row["path"]),
        ("morph2", lambda row: "M" in row[""]),
        ("utk", lambda row: row["file"].split("_")[1] == "0"),
        ("faces", lambda row: row["gender"] == "male"),
    ],
)
def test_who_is_male(dataset, is_male):
    """1 is male and 0 female, as file names tell, or the column's word."""
    module = load(ROOT / f"model-code/{dataset}-coral.py")
    with open(sample(module) / "train.csv") as file:
        due = [float(is_male(row)) for row in csv.DictReader(file)]
    assert 0 < sum(due) < len(due)
    split = read_split(module, sample(module) / "train.csv", sample(module) / "images", gender=1)
    assert split.genders.tolist() == due


def test_what_a_run_says(tmp_path):
    """True genders, and the share of them that P(male) gets right, in all three places."""
    out = tmp_path / "run"
    tiny = ["--seed=1", "--epochs=1", "--batch_size=4", "--image_size=40", "--gender=1"]
    AFAD.main([f"--outpath={out}", *tiny, *first_rows("afad", tmp_path, train=9, test=7)])
    with open(out / "test_predictions.csv") as file:
        rows = list(csv.DictReader(file))
    codes = {"111": "male", "112": "female"}
    due = [codes[row["path"].split("/")[1]] for row in rows]
    assert [row["true_gender"] for row in rows] == due
    right = [(float(row["p_male"]) > 0.5) == (row["true_gender"] == "male") for row in rows]
    metrics = json.loads((out / "run.json").read_text())["metrics"]
    assert metrics["test_gender_accuracy"] == sum(right) / 7
    log = (out / "training.log").read_text()
    shares = [f"{metrics[f'{name}_gender_accuracy']:.4f}" for name in ("train", "test")]
    assert f"Gender accuracy: | Train: {shares[0]} | Test: {shares[1]}\n" in log


def test_all_else_stays():
    """The other weights, and what the generator draws next: the order of the images."""
    states, generators, labels = [], [], torch.zeros(3, dtype=torch.int64)
    for gender in (0, 1):
        args = AFAD.parse_settings(["--outpath=unused", "--seed=1", f"--gender={gender}"])
        states.append(AFAD.build_model(args, labels).state_dict())
        generators.append(torch.get_rng_state())
    assert torch.equal(*generators)
    assert states[1].keys() - states[0].keys() == {"fc_gender.weight", "fc_gender.bias"}
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())
