"""A loss of one's own by the lines of docs/own-data-and-losses.md: the ranked probability score, of
products as CORN's, and the same network with class probabilities."""

import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from conftest import ROOT, first_rows, load

PAGE = (ROOT / "docs/own-data-and-losses.md").read_text(encoding="utf-8")
PRODUCTS = '''def compute_probas(logits):
    """P(y > k), the products of P(y > j | y > j-1); (batch, K-1)."""
    return torch.sigmoid(logits).cumprod(1)
'''
COST = '''def cost_fn(logits, labels, imp):
    """Squared differences of P(y > k) from what was, summed over tasks; (batch,)."""
    levels = (labels[:, None] > torch.arange(NUM_CLASSES - 1)).float()
    terms = (torch.sigmoid(logits).cumprod(1) - levels).square()
    return torch.sum(terms * imp, dim=1)
'''
CLASSES = '''def compute_probas(logits):
    """P(y = k); (batch, K)."""
    above = F.pad(torch.sigmoid(logits).cumprod(1), (1, 1))
    above[:, 0] = 1
    return above[:, :-1] - above[:, 1:]
'''
MODE = '''def predict_labels(probas):
    """The most probable class; int64 (batch,)."""
    return probas.argmax(1)
'''


def function(text, name, body):
    """``text`` with another body of a function."""
    changed, count = re.subn(rf"def {name}\(.*?\n(?=\n\n)", lambda _: body, text, flags=re.S)
    assert count == 1
    return changed


@pytest.mark.parametrize("classes", [False, True], ids=["thresholds", "classes"])
def test_the_pages_lines(classes, tmp_path):
    """Copy, check, training, prediction, comparison; only the size of the training is cut down."""
    section = PAGE[PAGE.index("## A loss of your own") :]
    shutil.copytree(ROOT / "model-code", tmp_path / "model-code")
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])

    def run(*words, code=0):
        environment = {**os.environ, "PATH": path}
        result = subprocess.run(
            list(map(str, words)), capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        assert result.returncode == code, result.stderr
        return result.stdout + result.stderr

    shown = run("bash", "-ec", re.search(r"```bash\n(.*?)```", section, re.S)[1])
    assert "all the same where they should be" in shown
    script = tmp_path / "model-code" / "faces-rps.py"
    text = function(script.read_text(), "compute_probas", CLASSES if classes else PRODUCTS)
    text = function(text, "cost_fn", COST)
    if classes:
        text = function(text, "predict_labels", MODE)
        text = text.replace("NUM_PROBAS = NUM_CLASSES - 1", "NUM_PROBAS = NUM_CLASSES")
    script.write_text(text)

    assert "all the same" in run(sys.executable, "model-code/cells.py")
    tiny = ["--seed=1", "--epochs=2", "--image_size=40", "--gender=1"]
    tiny += first_rows("faces", tmp_path, train=9, test=25)
    load(script).main([*tiny, f"--outpath={tmp_path / 'rps'}"])
    words = ["model-code/predict.py", ROOT / "datasets/sample/faces/images", "--crops"]
    run(sys.executable, *words, "--run", "rps", "--out", "out", "--no_draw")
    predictions = pd.read_csv(tmp_path / "rps" / "test_predictions.csv").set_index("path")
    told = pd.read_csv(tmp_path / "out" / "predictions.csv")
    answers = dict(zip(told["source"], told["age"], strict=True))
    for path, age in predictions["predicted_age"].items():
        assert answers[str(ROOT / "datasets/sample/faces/images" / path)] == age

    if classes:
        return
    load(ROOT / "model-code" / "faces-coral.py").main([*tiny, f"--outpath={tmp_path / 'coral'}"])
    shown = run(sys.executable, "model-code/summarize.py", "rps", "coral", "--out", "report")
    [pair] = pd.read_csv(tmp_path / "report" / "paired.csv").to_dict("records")
    assert [pair[side] for side in "AB"] == ["CORAL", "rps"]
    shown = run(sys.executable, "model-code/export.py", "rps", "rps.onnx", code=2)
    assert "its loss is 'rps'; export.py knows the output layers of ce, dldl, sord, coral" in shown
