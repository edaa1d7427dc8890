"""A loss of one's own by the lines of model-code/README.md: CORN (Shi, Cao and Raschka,
arXiv 2111.08851), of conditional probabilities, and the same network with class probabilities."""

import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from conftest import ROOT, first_rows

README = (ROOT / "model-code" / "README.md").read_text(encoding="utf-8")
CORN = '''def compute_probas(logits):
    """P(y > k), the products of P(y > j | y > j-1); (batch, K-1)."""
    return torch.sigmoid(logits).cumprod(1)
'''
COST = '''def cost_fn(logits, labels, imp):
    """Binary cross-entropies of y > k among the images of y > k-1; (batch,)."""
    levels = (labels[:, None] > torch.arange(NUM_CLASSES - 1)).float()
    asked = torch.cat([torch.ones_like(levels[:, :1]), levels[:, :-1]], 1)
    terms = F.binary_cross_entropy_with_logits(logits, levels, reduction="none")
    return torch.sum(terms * asked * imp, dim=1)
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
def test_the_readmes_lines(classes, tmp_path):
    """Copy, check, training, prediction, comparison; only the size of the training is cut down."""
    section = README[README.index("## A loss of your own") :]
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
    script = tmp_path / "model-code" / "faces-corn.py"
    text = function(script.read_text(), "compute_probas", CLASSES if classes else CORN)
    text = function(text, "cost_fn", COST)
    if classes:
        text = function(text, "predict_labels", MODE)
        text = text.replace("NUM_PROBAS = NUM_CLASSES - 1", "NUM_PROBAS = NUM_CLASSES")
    script.write_text(text)

    assert "all the same" in run(sys.executable, "model-code/cells.py")
    tiny = ["--seed=1", "--epochs=2", "--image_size=40", "--gender=1"]
    tiny += first_rows("faces", tmp_path, train=9, test=25)
    for loss in ("corn", "coral"):
        run(sys.executable, f"model-code/faces-{loss}.py", *tiny, f"--outpath={loss}")
    words = ["model-code/predict.py", ROOT / "datasets/sample/faces/images", "--crops"]
    run(sys.executable, *words, "--run", "corn", "--out", "out", "--no_draw")
    predictions = pd.read_csv(tmp_path / "corn" / "test_predictions.csv").set_index("path")
    told = pd.read_csv(tmp_path / "out" / "predictions.csv")
    answers = dict(zip(told["source"], told["age"], strict=True))
    for path, age in predictions["predicted_age"].items():
        assert answers[str(ROOT / "datasets/sample/faces/images" / path)] == age

    shown = run(sys.executable, "model-code/summarize.py", "corn", "coral", "--out", "report")
    [pair] = pd.read_csv(tmp_path / "report" / "paired.csv").to_dict("records")
    assert [pair[side] for side in "AB"] == ["CORAL", "corn"]
    shown = run(sys.executable, "model-code/export.py", "corn", "corn.onnx", code=2)
    assert "its loss is 'corn'; export.py knows the output layers of ce, coral and" in shown
