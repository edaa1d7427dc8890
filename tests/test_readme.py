"""What the README says of the scripts is so."""

import csv
import re
import sys

from conftest import ROOT, SCRIPTS, load, run

README = (ROOT / "README.md").read_text()


def test_every_option_is_explained():
    """The options of --help stand in the README's tables, and no others."""
    explained = set(re.findall(r"--\w+", re.search(r"\| option.*?\n\n", README, re.S)[0]))
    for script in SCRIPTS[:2]:
        offered = set(re.findall(r"^  (--\w+)", run(script, "--help").stdout, re.M))
        assert explained == offered


def test_first_code_block():
    """Two commands, each on one line, whose files and options exist."""
    commands = re.search(r"\n\n((    .*\n)+)", README)[1].splitlines()
    assert len(commands) == 2
    assert commands[0].startswith(
        "    pip install -r requirements.txt && python model-code/afad-coral.py"
    )
    assert commands[1] == "    pip install -r requirements-dev.txt && python -m pytest"
    options = commands[0].split("afad-coral.py ")[1].split()
    args = load(ROOT / "model-code/afad-coral.py").parse_settings(options)
    assert (args.seed, args.imp_weight, args.cuda, str(args.outpath)) == (1, 1, -1, "run1")


def test_the_table_of_the_fast_recipe():
    """The README's figures are those of the scripts."""
    rows = re.findall(r"^\| `--(\w+)` \| ([\d.]+) \| ([\d.]+) \|", README, re.M)
    rows = {name: (float(paper), float(fast)) for name, paper, fast in rows}
    settings = load(ROOT / "model-code/afad-coral.py").SETTINGS
    assert rows == {name: settings[name][:2] for name in rows}
    assert {name for name, (paper, fast, *_) in settings.items() if paper != fast} <= set(rows)


def test_snippet_predicts_as_the_run_did(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [*sys.path])
    script = ROOT / "model-code/afad-coral.py"
    sample = ROOT / "datasets/sample/afad"
    for name in ("train", "test"):
        lines = (sample / f"{name}.csv").read_text().splitlines(keepends=True)
        (tmp_path / f"{name}.csv").write_text("".join(lines[:9]))
    result = run(
        script,
        *("--seed=1", "--recipe=fast", "--epochs=1", "--batch_size=4", "--outpath=run1"),
        *("--train_csv=train.csv", "--test_csv=test.csv"),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    with open(tmp_path / "run1" / "test_predictions.csv") as file:
        rows = list(csv.DictReader(file))
    snippet = re.search(r"```python\n(.*?)```", README, re.S)[1]
    snippet = snippet.replace('"model-code"', f'"{ROOT}/model-code"')
    monkeypatch.chdir(tmp_path)
    ages = []
    for row in rows:
        (tmp_path / "face.jpg").write_bytes((sample / "images" / row["path"]).read_bytes())
        exec(snippet, {})
        ages.append(capsys.readouterr().out)
    assert ages == [f"{row['predicted_age']} years\n" for row in rows]
