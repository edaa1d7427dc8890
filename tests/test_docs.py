"""The pages: links and anchors that are there, commands whose options exist, figures as stored."""

import csv
import hashlib
import json
import re
import runpy
import shlex
import subprocess
import sys
from functools import cache
from statistics import fmean, stdev

import numpy as np
import pandas as pd
import pytest
from conftest import MODEL_CODE, ROOT, SCRIPTS, load
from coral_age import answers, doubts, labels
from PIL import Image

FOLDERS = "*.md", "docs/*.md", "datasets/*.md", "model-code/*.md", "model-code/*/*.md"
PAGES = [path for pattern in FOLDERS for path in sorted(ROOT.glob(pattern))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CARD = (MODEL_CODE / "pretrained/README.md").read_text(encoding="utf-8")
RECORDS = (MODEL_CODE / "results/README.md").read_text(encoding="utf-8")
COMMANDS = MODEL_CODE / "results/commands.sh"
STORED = sorted(path.parent for path in (MODEL_CODE / "results").glob("*/*/run.json"))


def record(folder):
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def of_losses(setting):
    """{loss: its folders} of the stored runs of a setting."""
    losses = {}
    for folder in STORED:
        if folder.parent.name == setting:
            losses.setdefault(record(folder)["loss"], []).append(folder)
    return losses


def mae(folders):
    """Mean MAE of runs, with the standard deviation if they are several, as the pages tell it."""
    errors = [record(folder)["metrics"]["test_mae"] for folder in folders]
    return f"{fmean(errors):.2f}" + (f" ± {stdev(errors):.2f}" if len(errors) > 1 else "")


# ---- Links


def prose(page):
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```|^    .*?$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


@cache
def anchors(page):
    """What GitHub calls the page's headings: in lower case, hyphens for spaces, no punctuation."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    """Each file that a page links to, or shows, is there, and so is the heading."""
    links = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", prose(page))
    for link in filter(None, sum(links, ())):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: {link}"
        assert target.is_relative_to(ROOT) and (not anchor or anchor in anchors(target)), link


def test_anchors_are_githubs():
    """Of a heading with a link's punctuation, by the address that GitHub gives it."""
    assert "weight-averaging-of-two-runs-model-soup" in anchors(
        ROOT / "docs/own-data-and-losses.md"
    )
    assert "mixed-precision-bfloat16" in anchors(ROOT / "docs/speed.md")


# ---- Commands

HELP = {}  # of each script, the options that it offers


def commands(text):
    """(script, its words) of each command that starts a script, also within a sentence."""
    for line in re.findall(r"(?:python|torchrun)\b[^\n`|]*?\b[\w$/-]+\.py[^\n`]*", text):
        script, rest = re.match(r".*?([\w$./-]+\.py)(.*)", line).groups()
        yield script, re.split(r" && |;| #|\)$", rest)[0].split()


@pytest.mark.parametrize("page", [*PAGES, COMMANDS], ids=lambda page: str(page.relative_to(ROOT)))
def test_the_options_of_all_commands_exist(page, monkeypatch, capsys):
    """Each script that a page starts is there, or is made by a command of the pages, and offers the
    options that it is given."""
    text = page.read_text(encoding="utf-8")
    for script, words in commands(text):
        if script.startswith("tests/test_"):  # pytest's
            assert (ROOT / script).exists()
            continue
        found = [path for path in (ROOT / script, MODEL_CODE / script) if path.exists()]
        if not found:
            assert "$" in script or "<" in script or f"--new {script[11:-3]}" in text, script
            found = [MODEL_CODE / "faces-coral.py"]
        if found[0] in SCRIPTS and "..." not in words and "$" not in " ".join(words):
            load(found[0]).make_parser().parse_args(words)  # values and rows of the recipe, too
        given = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
        assert given <= options(found[0], monkeypatch, capsys), (script, words)


def options(script, monkeypatch, capsys):
    """The options that the script's --help tells, when it is started in this process."""
    if script not in HELP:
        monkeypatch.setattr(sys, "argv", [str(script), "--help"])
        monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(script), run_name="__main__")
        assert not end.value.code
        HELP[script] = set(re.findall(r"(?<![\w-])--\w+", capsys.readouterr().out))
    return HELP[script]


def test_the_commands_of_the_stored_runs():
    """commands.sh has one for each, and today's script takes it for the settings of run.json."""
    elsewhere = {"outpath", "train_csv", "test_csv", "image_path", "recipe", "resume", "trust_csv"}
    lines = re.findall(r"^python (model-code/utk-\w+\.py) (.*)$", COMMANDS.read_text(), re.M)
    told = {}
    for script, words in lines:
        module = load(ROOT / script)
        args = module.parse_settings(shlex.split(words))
        told[args.outpath.relative_to("runs").as_posix()] = script, vars(args)
    assert set(told) == {folder.relative_to(MODEL_CODE / "results").as_posix() for folder in STORED}
    assert len(lines) == len(STORED)
    for name, (script, args) in told.items():
        facts = record(MODEL_CODE / "results" / name)
        assert script == f"model-code/{facts['script']}"
        for key, value in facts["settings"].items():
            if key not in elsewhere and (key != "bias_lr" or facts["loss"] == "coral"):
                # an option that has gone since was off
                assert args.get(key, 0) == value, (name, key)


@pytest.mark.slow
def test_the_readmes_commands_for_photos(tmp_path):
    """They run one after another, on NASA's portrait of Eileen Collins and a video of it."""
    data = pytest.importorskip("skimage.data")
    from test_predict import save_video  # which skips without PyAV

    pixels = data.astronaut()
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "photos/a.jpg"):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "ages.csv").write_text("file,age,gender\na.jpg,42,female\n")
    save_video(tmp_path / "clip.mp4", [Image.fromarray(pixels)] * 10, "mpeg4", rate=10)
    blocks = "".join(re.findall(r"```bash\n(.*?)```", README, re.S))
    lines = re.findall(r"^python model-code/predict\.py (?:photo|clip).*$", blocks, re.M)
    lines = [line for line in lines if "calibrated" not in line]
    assert len(lines) == 6
    for line in lines:
        words = [sys.executable, str(ROOT / "model-code/predict.py"), *line.split()[2:]]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        # her gender is not sure, so that --sure leaves it out
        assert ("female" in done.stdout) == ("--sure" not in line)
        assert ("18+" in done.stdout) == ("--over" in line)
    assert (tmp_path / "report/index.html").exists()
    assert (tmp_path / "predictions/photo.jpg").exists()


def run_block(page, folder, monkeypatch):
    """Run the Python of a page in ``folder``."""
    [block] = re.findall(r"```python\n(.*?)```", page, re.S)
    monkeypatch.chdir(folder)
    exec(block, {})


def test_the_cards_weights(tmp_path, monkeypatch):
    """By hand for world1: the decades weigh 0.2 (0-2), 3.5, 2 and 1 (70 and more), 1.675 on
    average, and each is multiplied by the root of 1.675 over its own."""
    rows = ["utkface,25", "utkface,25", "utkface,85", "appa-real,14", "fairface-val,10-19"]
    (tmp_path / "csv").mkdir()
    text = "\n".join(["collection,age", *rows, "fairface-men,0-2"])
    (tmp_path / "csv/world.csv").write_text(text)
    run_block(CARD, tmp_path, monkeypatch)
    weights = pd.read_csv("csv/world1_train.csv")["weight"]
    due = [0.9152, 0.9152, 1.2942, 1.0377, 1.3836, 0.5788]
    assert list(weights) == pytest.approx(due, abs=1e-4)
    assert (tmp_path / "csv/world2_train.csv").exists()


def test_the_protocols_ranges(tmp_path, monkeypatch):
    """FairFace's groups, as the tools read them."""
    (tmp_path / "csv").mkdir()
    ages = [0, 2, 3, 9, 10, 29, 30, 69, 70, 100]
    (tmp_path / "csv/faces_train.csv").write_text("\n".join(map(str, ["age", *ages])))
    run_block(RECORDS, tmp_path, monkeypatch)
    names = list(pd.read_csv("csv/faces_groups.csv", dtype=str)["age"])
    assert names == "0-2 0-2 3-9 3-9 10-19 20-29 30-39 60-69 70+ 70+".split()
    ends = [labels.bounds(name) for name in names]
    assert all(low <= age <= high for age, (low, high) in zip(ages, ends, strict=True))


# ---- Figures


def test_the_picture():
    """Its caption tells what prediction.csv holds: true ages, and answers of the model that comes
    along. Where that is another one, draw-prediction.py draws the picture anew."""
    with open(ROOT / "images/prediction.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    ages = [int(row["true_age"]) for row in rows]
    weights = hashlib.sha256((MODEL_CODE / "pretrained/model.pt").read_bytes()).hexdigest()
    assert {row["model"] for row in rows} == {weights[:8]}
    assert len(rows) == 12 and f"Twelve astronaut candidates, {min(ages)} to {max(ages)}" in README
    errors = [abs(int(row["age"]) - age) for row, age in zip(rows, ages, strict=True)]
    readme = " ".join(README.split())
    assert f"off by {sum(errors) / 12:.1f} years on average" in readme
    ends = [(int(row["age_low"]), int(row["age_high"])) for row in rows]
    inside = [low <= age <= high for (low, high), age in zip(ends, ages, strict=True)]
    width = sum(high - low for low, high in ends) / 12
    told = f"intervals, {width:.0f} years wide on average, hold {sum(inside)} of the 12 true ages"
    assert told in readme


def test_how_good_it_is():
    """The table of the first screen: the card's first one, and run.json of the stored runs."""
    [card] = re.findall(r"^## How good it is.*?^### ", CARD, re.M | re.S)
    rows = re.findall(r"^\| ([^|]+) \| ([\d,]+) \| ([\d.]+) \| \S+ \| ([\d.]*)", card, re.M)
    rows = {name: told for name, *told in rows}
    count, distance, right = rows["FairFace: years outside the age group"]
    told = f"{distance} outside the true age group (0 inside it), gender right {float(right):.0f} %"
    assert f"{told} | {count} photos" in README
    names = {"APPA-REAL": "APPA-REAL, age by birth", "All-Age-Faces": "All-Age-Faces"}
    names["FG-NET"] = "FG-NET, never learned from"
    *first, last = (f"{rows[full][1]} on {name}" for name, full in names.items())
    counts = [rows[full][0] for full in names.values()]
    told = f"{', '.join(first)}, {last} | {', '.join(counts[:2])} and {counts[2]} photos"
    assert told in README
    coral = ["20-minutes", "45-minutes-zen5", "150-minutes-zen5"]
    errors = ", ".join(mae(of_losses(setting)["coral"])[:4] for setting in coral)
    test = record(STORED[0])["data"]["test"]
    assert f"two CPU cores | {errors} | {test['rows']:,} held-out photos" in README
    assert f"median age | {test['median_mae']:.2f} | the same {test['rows']:,} photos" in README


def test_which_loss_to_take():
    """MAE by the median, how many intervals of 80 % hold, and their width (20 minutes)."""
    for loss, folders in of_losses("20-minutes").items():
        errors, held, widths = [], [], []
        for folder in folders:
            with open(folder / "test_predictions.csv", newline="") as file:
                true = np.array([int(row["true_age"]) for row in csv.DictReader(file)]) - 21
            classes = answers.class_probas(np.load(folder / "test_probas.npy"), 40)
            medians = (classes.cumsum(1) < 0.5).sum(1)
            errors.append(abs(medians - true).mean())
            ends = np.array(
                [answers.interval(row, m)[:2] for row, m in zip(classes, medians, strict=True)]
            )
            held.append(((ends[:, 0] <= true) & (true <= ends[:, 1])).mean())
            widths.append((ends[:, 1] - ends[:, 0]).mean())
        name = {"ce": "CE", "ordinal": "OR-CNN", "coral": "CORAL"}[loss]
        told = f"{fmean(errors):.2f} ± {stdev(errors):.2f}"
        row = f"| {name} | {told} | intervals of 80 % hold {100 * fmean(held):.0f} %, "
        row += f"{fmean(widths):.1f} years wide |"
        assert row in README, row
        if loss == "ce":
            own = fmean(record(folder)["metrics"]["test_mae"] for folder in folders)
            assert f"its most probable age costs {own - fmean(errors):.1f} years" in README


def test_the_records():
    """Those of stored runs, from run.json."""
    rows = re.findall(
        r"^\| (\d+) \| ([\d.± ]+) \| .* \| \[([\w-]+)\]\(\3\) \| \w{7} \|$", RECORDS, re.M
    )
    assert {setting for *_, setting in rows} == {folder.parent.name for folder in STORED}
    for minutes, error, setting in rows:
        folders = of_losses(setting)["coral"]
        assert error == mae(folders)
        assert int(minutes) == round(fmean(record(folder)["minutes"] for folder in folders))


def test_the_limits_of_what_is_not_sure():
    page = (ROOT / "docs/predict.md").read_text(encoding="utf-8")
    assert f"a side of less than {doubts.SMALL} pixels" in page
    assert f"less than {doubts.INSIDE} of that square" in page
    assert f"the detector's score is below {doubts.CLEAR} |" in page
    assert f"the age answered is below {doubts.CHILD} years" in page
    assert f"its probability is below {doubts.LIKELY} |" in page
