"""What the README says of the scripts is so."""

import csv
import json
import re
import shutil
import sys

import pytest
import torch
from conftest import ROOT, SCRIPTS, chromium, first_rows, load, run
from PIL import Image

README = (ROOT / "README.md").read_text(encoding="utf-8")
OPTIONS = (ROOT / "docs/options.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs/results.md").read_text(encoding="utf-8")
STORED = sorted(path.parent for path in (ROOT / "model-code/results").glob("*/*/run.json"))


def snippets():
    """The README's pieces of Python."""
    return re.findall(r"```python\n(.*?)```", README, re.S)


def test_coral_in_twelve_lines():
    """The cost of the paper's equation 4 and the labels of its equation 1, as the scripts compute
    them, and the gradients too."""
    script = load(ROOT / "model-code/utk-coral.py")
    lines = [line for line in snippets()[0].splitlines() if line]
    assert len(lines) <= 12
    torch.manual_seed(1)
    given = {"features": torch.randn(50, 2048), "labels": torch.randint(0, 40, (50,))}
    begin = [i for i, line in enumerate(lines) if line.startswith("bias = ")][0] + 1
    exec("\n".join(lines[:begin]), given)
    given["bias"].data = torch.linspace(3, -3, 39)
    exec("\n".join(lines[begin:]), given)
    logits = given["weight"](given["features"]) + given["bias"]
    due = script.cost_fn(logits, given["labels"], torch.ones(1)).mean()
    assert torch.allclose(given["cost"], due)
    parameters = given["weight"].weight, given["bias"]
    gradients = [torch.autograd.grad(cost, parameters) for cost in (given["cost"], due)]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))
    predicted = script.predict_labels(script.compute_probas(logits))
    assert torch.equal(given["predicted"], predicted) and len(predicted.unique()) > 5


def test_every_option_is_explained():
    """The options of --help stand in the table of docs/options.md, and no others."""
    explained = set(re.findall(r"--\w+", re.search(r"\| option.*?\n\n", OPTIONS, re.S)[0]))
    for script in SCRIPTS[:2]:
        offered = set(re.findall(r"^  (--\w+)", run(script, "--help").stdout, re.M))
        assert explained == offered


def test_the_two_commands():
    """That set up and test: in one block, each on one line, whose files and options exist."""
    section = README[README.index("\n## Train it\n") :]
    commands = re.search(r"```bash\n(.*?)```", section, re.S)[1].splitlines()
    assert len(commands) == 2
    assert commands[0].startswith(
        "pip install -r requirements.txt && python model-code/afad-coral.py"
    )
    assert commands[1] == "pip install -r requirements-dev.txt && python -m pytest"
    options = commands[0].split("afad-coral.py ")[1].split()
    args = load(ROOT / "model-code/afad-coral.py").parse_settings(options)
    assert (args.seed, args.imp_weight, args.cuda, str(args.outpath)) == (1, 1, -1, "run1")


def test_the_table_of_the_recipes():
    """Its figures are those of the scripts, row by row."""
    rows = re.findall(r"^\| `(\w+)`" + 4 * r" \| ([\d.]+)" + r" \|", RESULTS, re.M)
    rows = {name: tuple(map(float, columns)) for name, *columns in rows}
    recipes = load(ROOT / "model-code/afad-coral.py").RECIPES
    assert rows == {name: columns[:4] for name, columns in recipes.items()}


def test_the_settings_of_the_stored_runs():
    """The table's words for a folder are the settings of its runs, but for seed and paths."""
    script = load(ROOT / "model-code/utk-coral.py")
    told = dict(re.findall(r"^\| ([\w-]+) \| `(--recipe .*)` \|$", RESULTS, re.M))
    for folder in STORED:
        stored = json.loads((folder / "run.json").read_text())["settings"]
        if "coral" not in folder.name:  # bias_lr is of CORAL alone
            stored["bias_lr"] = 10.0 if "long" in told[folder.parent.name] else 1.0
        args = script.parse_settings([*told[folder.parent.name].split(), "--outpath=unused"])
        for name, columns in script.RECIPES.items():
            assert stored.get(name, columns[0]) == getattr(args, name), (folder, name)


def test_the_results_in_the_docstrings():
    """The mean MAE of the stored runs of a script, and of the model that comes along."""
    means = {}
    for folder in STORED:
        record = json.loads((folder / "run.json").read_text())
        key = record["script"], folder.parent.name
        means.setdefault(key, []).append(record["metrics"]["test_mae"])
    told = {"utk-coral": ["20-minutes", "45-minutes-zen5"]}
    told |= {"utk-ce": ["20-minutes"], "utk-ordinal": ["20-minutes"]}
    for stem, folders in told.items():
        doc = load(ROOT / "model-code" / f"{stem}.py").__doc__
        due = [means[f"{stem}.py", folder] for folder in folders]
        found = [float(figure) for figure in re.findall(r"(?<!\d)\d\.\d\d\b", doc)]
        assert found == [round(sum(maes) / len(maes), 2) for maes in due]
    record = json.loads((ROOT / "model-code" / "pretrained" / "run.json").read_text())
    doc = load(ROOT / "model-code" / "faces-coral.py").__doc__
    assert f"MAE {record['metrics']['test_mae']:.2f} years" in doc


def test_snippet_predicts_as_the_run_did(tmp_path, monkeypatch, capsys):
    """With what its comments name; test_pretrained.py has the model that comes along."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    script = ROOT / "model-code/afad-coral.py"
    tiny = ["--seed=1", "--recipe=fast", "--epochs=1", "--batch_size=4", "--outpath=run1"]
    tiny += ["--gender=1"]
    result = run(script, *tiny, *first_rows("afad", tmp_path, train=8, test=8), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    with open(tmp_path / "run1" / "test_predictions.csv") as file:
        rows = list(csv.DictReader(file))
    snippet = snippets()[1]
    snippet = snippet.replace('"model-code"', f'"{ROOT}/model-code"')
    for old, new in {"load()": 'load("run1")', '"photo.jpg"': '"photo.jpg", crops=True'}.items():
        assert snippet.count(old) == 1
        snippet = snippet.replace(old, new)
    monkeypatch.chdir(tmp_path)
    told = []
    for row in rows:
        image = ROOT / "datasets/sample/afad/images" / row["path"]
        (tmp_path / "photo.jpg").write_bytes(image.read_bytes())
        exec(snippet, {})
        told.append(capsys.readouterr().out)
    genders = ["male" if float(row["p_male"]) > 0.5 else "female" for row in rows]
    due = zip([row["predicted_age"] for row in rows], genders, strict=True)
    assert told == [f"{age} {gender}\n" for age, gender in due]


def test_the_results_are_those_of_the_stored_runs():
    """The tables of docs/results.md are what its command prints from the clone alone, and its
    intervals those of the report."""
    assert "    python model-code/summarize.py model-code/results/20-minutes/*\n" in RESULTS
    folders = [folder for folder in STORED if folder.parent.name == "20-minutes"]
    printed = run(ROOT / "model-code/summarize.py", *folders)
    assert (printed.returncode, printed.stderr) == (0, "")
    tables = printed.stdout.strip().split("\n\n")
    assert len(tables) == 2 and all(f"\n\n{table}\n\n" in RESULTS for table in tables)
    module = load(ROOT / "model-code/summarize.py")
    results = [result for folder in folders for result in module.read_run(folder, {}, [])]
    assert {(result["loss"], result["seed"]) for result in results} >= {
        (loss, seed) for loss in ("ce", "coral", "ordinal") for seed in (1, 2, 3)
    }
    for row in module.paired_table(1, module.compare(results, [])[0]):
        for name in ("over images", "over seeds") if row["B"] == "CORAL" else ():
            low, high = map(float, row[name].split(" to "))
            assert f"{low:.2f} to {high:.2f}" in RESULTS, row


def test_the_verdicts_on_the_stored_runs():
    """The tables of docs/results.md are what its command prints, and its picture is small."""
    assert (
        "    python model-code/summarize.py model-code/results/20-minutes/* --compare\n" in RESULTS
    )
    folders = [folder for folder in STORED if folder.parent.name == "20-minutes"]
    printed = run(ROOT / "model-code/summarize.py", *folders, "--compare")
    assert (printed.returncode, printed.stderr) == (0, "")
    *tables, sentence = printed.stdout.strip().split("\n\n")
    assert len(tables) == 4 and all(f"\n\n{table}\n\n" in RESULTS for table in tables[2:])
    assert f"\n\n> {sentence}\n\n" in RESULTS
    assert "    python images/draw-report.py model-code/results/20-minutes/*\n" in RESULTS
    assert (ROOT / "images/report.png").stat().st_size < 200_000


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="no Chromium installed")
def test_the_picture_of_the_report(tmp_path):
    pytest.importorskip("playwright.sync_api")
    folders = [folder for folder in STORED if folder.parent.name == "20-minutes"]
    drawn = run(ROOT / "images/draw-report.py", *folders, "--out", tmp_path / "report.png")
    assert (drawn.returncode, drawn.stdout) == (0, "")
    with Image.open(tmp_path / "report.png") as new, Image.open(ROOT / "images/report.png") as old:
        assert new.size == old.size
    refused = run(ROOT / "images/draw-report.py", tmp_path, "--out", tmp_path / "other.png")
    assert refused.returncode == 2 and "holds no run" in refused.stderr


def test_the_errors_against_minutes_are_those_of_the_stored_runs(tmp_path):
    """The table is what its command prints, the means of run.json, and the picture is written; what
    is no finished run on the same images is refused."""
    script, picture = ROOT / "images/draw-recipes.py", tmp_path / "recipes.png"
    assert "    python images/draw-recipes.py model-code/results/*/*\n" in RESULTS
    printed = run(script, *STORED, "--out", picture)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert f"\n\n{printed.stdout}\n" in RESULTS
    first = [folder for folder in STORED if folder.match("20-minutes/utk-ce-seed*")]
    records = [json.loads((folder / "run.json").read_text()) for folder in first]
    errors = [record["metrics"]["test_mae"] for record in records]
    minutes = [record["minutes"] for record in records]
    assert [record["loss"] for record in records] == ["ce"] * 3
    cell = f"{sum(errors) / 3:.2f} after {sum(minutes) / 3:.0f} min (3 seeds)"
    assert printed.stdout.splitlines()[2].split(" | ")[1] == cell
    with Image.open(picture) as drawn:
        assert drawn.size == (960, 540)
    other = tmp_path / "other"
    shutil.copytree(first[0], other)
    text = (other / "run.json").read_text()
    test_images = records[0]["data"]["test"]["images_sha256"]
    for changed, why in (
        (text.replace(test_images, "0" * 64), f"{other}: tested on other images than"),
        (text.replace('"minutes"', '"m"'), f"{other}: no folder of a finished run"),
        (text.replace('"loss": "ce"', '"loss": "rps"'), f"{other}: rps has no colour"),
    ):
        (other / "run.json").write_text(changed)
        refused = run(script, first[0], other, "--out", picture)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1
        assert why in refused.stderr
    refused = run(script, first[0], "--out", tmp_path)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1


def test_the_stored_runs_are_small_and_of_no_machine():
    """Kilobytes; neither weights nor photos; no folder of the machine that trained."""
    files = {"run.json", "history.csv", "training.log", "test_predictions.csv", "test_probas.npy"}
    for folder in STORED:
        assert {file.name for file in folder.iterdir()} == files
        assert sum(file.stat().st_size for file in folder.iterdir()) < 2e6
        for name in files - {"test_probas.npy"}:
            assert not re.search(r"(?<![\w.])[/\\]\w", (folder / name).read_text()), name
