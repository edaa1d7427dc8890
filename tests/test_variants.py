"""A network of one's own by the lines of docs/own-data-and-losses.md: a ResNet-18 that starts from
weights of torchvision, as the script, the tools and the report know it."""

import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import torch
import torchvision
from conftest import ROOT, SCRIPTS, first_rows, load
from torchvision.transforms import Normalize

PAGE = (ROOT / "docs/own-data-and-losses.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## A network of your own") :]
NAME = "utk-coral-resnet18"


def run(folder, line, *words):
    """What the line of a shell, and ``words`` behind it, print when started in ``folder``."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    words = ["bash", "-ec", f'{line} "$@"', "bash", *map(str, words)]
    environment = {**os.environ, "PATH": path}
    result = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of model-code with the variant, written and edited as the page says."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "model-code", folder / "model-code")
    bash, python = (
        re.search(rf"```{kind}\n(.*?)```", SECTION, re.S)[1] for kind in ("bash", "python")
    )
    assert "all the same where they should be" in run(folder, bash.strip())
    script = folder / "model-code" / f"{NAME}.py"
    text = script.read_text()
    for old, new in {
        "# %% ResNet-34 [all]": f"# %% ResNet-34 [{NAME}]",
        "BLOCKS = 3, 4, 6, 3": re.search("`(BLOCKS = .*?)`", SECTION)[1],
        "NORMALISATION = None": python.strip(),
    }.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    script.write_text(text)
    assert f"{len(SCRIPTS) + 1} scripts" in run(folder, "python model-code/cells.py")
    torch.manual_seed(2)
    torch.save(torchvision.models.resnet18().state_dict(), folder / "resnet18.pth")
    return folder


def test_it_computes_what_torchvisions_network_does(clone):
    """Up to the last map's means, of images normalised as torchvision's weights expect them."""
    module = load(clone / "model-code" / f"{NAME}.py")
    module.age_logits = lambda model, features: features
    model, theirs = module.ResNet34().eval(), torchvision.models.resnet18().eval()
    theirs.load_state_dict(torch.load(clone / "resnet18.pth", weights_only=True))
    module.init_weights(model, clone / "resnet18.pth")
    images, theirs.fc = torch.rand(2, 3, 96, 96), torch.nn.Identity()
    # the means and deviations that torchvision documents for its weights
    normalised = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(images)
    with torch.no_grad():
        found, expected = model(images)[0], theirs(normalised)
    assert torch.allclose(found.view(2, 512, 4), expected[:, :, None] * 16 / 49, atol=1e-5)


def test_weights_of_another_network(clone, tmp_path, capsys):
    """Are refused, also where all that the network has is in the file."""
    module = load(clone / "model-code" / f"{NAME}.py")
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "resnet34.pth")
    with pytest.raises(SystemExit) as stop:
        module.init_weights(module.ResNet34(), tmp_path / "resnet34.pth")
    assert (
        stop.value.code == 2 and "layer1.2.conv1.weight is not in this" in capsys.readouterr().err
    )


def test_the_tools_take_it(clone):
    """Training, prediction, report and ONNX file."""
    tiny = ["--seed=1", "--epochs=1", "--batch_size=4", "--image_size=64"]
    tiny += first_rows("utk", clone, train=9, test=25)
    for name, start in ((NAME, [f"--init_from={clone}/resnet18.pth"]), ("utk-coral", [])):
        words = [*tiny, *start, "--recipe=fast", f"--outpath={clone / name}"]
        load(clone / "model-code" / f"{name}.py").main(words)
    images = ROOT / "datasets" / "sample" / "utk" / "images"
    words = ["--crops", f"--run={NAME}", "--out=out", "--no_draw"]
    run(clone, "python model-code/predict.py", images, *words)
    told = pd.read_csv(clone / "out" / "predictions.csv").set_index("source")["age"]
    tested = pd.read_csv(clone / NAME / "test_predictions.csv").set_index("path")
    for path, age in tested["predicted_age"].items():
        assert told[str(images / path)] == age
    assert "| CORAL, resnet18 | 1 |" in run(
        clone, "python model-code/summarize.py", NAME, "utk-coral"
    )
    exported = run(clone, "python model-code/export.py", NAME, "small.onnx")
    assert "the answers of torch" in exported
