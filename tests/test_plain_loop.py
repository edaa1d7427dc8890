"""The scripts train exactly as a plain loop over a torch DataLoader does, and so does plain.py.

The loops, plain.py's and for further data sets and losses the one here, are built from torch's and
torchvision's own parts: DataLoader with worker processes, torchvision's transforms and ResNet-34,
torch's Adam. Costs agree in all printed decimals, on any processor, because both sum in the same
order.
"""

import platform
import re

import golden
import plain
import pytest
import torch
import torchvision
from conftest import ROOT, first_rows, load, plain_dataset, run
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

FIGURES = r"^Epoch: .*|^MAE/RMSE: .*"  # the lines of a log that hold them


@pytest.mark.parametrize("imp_weight", [0, 1])
def test_plain_is_the_script(imp_weight, tmp_path):
    """plain.py's costs, errors and final weights are those of utk-coral.py."""
    options = first_rows("utk", tmp_path, train=18, test=6)  # five batches for the four workers
    options += ["--seed=5", "--epochs=2", "--batch_size=4", "--log_every=1"]
    options += [f"--imp_weight={imp_weight}"]
    result = run(ROOT / "model-code" / "plain.py", *options, f"--outpath={tmp_path / 'plain'}")
    assert result.returncode == 0, result.stderr
    script = load(ROOT / "model-code" / "utk-coral.py")
    script.main([*options, f"--outpath={tmp_path / 'utk-coral'}"])
    log = (tmp_path / "utk-coral" / "training.log").read_text()
    printed, weights = {}, {}
    for name, text in (("plain", result.stdout), ("utk-coral", log)):
        printed[name] = re.findall(FIGURES, text, re.M)
        weights[name] = torch.load(tmp_path / name / "model.pt", weights_only=True)
    assert printed["plain"] == printed["utk-coral"] and len(printed["plain"]) == 2 * 5 + 1
    assert list(weights["plain"]) == list(weights["utk-coral"])
    for name, tensor in weights["plain"].items():
        assert torch.equal(tensor, weights["utk-coral"][name]), name


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64")
    or torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="here torch draws weights that differ from the published code's in the last bit",
)
def test_plain_is_the_published_code(tmp_path, capsys, monkeypatch):
    """plain.py's costs in double precision, where processors agree; the evaluation, which the test
    above compares, is left out."""
    make_transform, draw_weights = plain.make_transform, plain.draw_weights

    def double_images(crop):
        to_double = transforms.ConvertImageDtype(torch.float64)
        return transforms.Compose([make_transform(crop), to_double])

    def draw_and_convert(network):
        draw_weights(network)
        network.double()

    monkeypatch.setattr(plain, "make_transform", double_images)
    monkeypatch.setattr(plain, "draw_weights", draw_and_convert)
    monkeypatch.setattr(plain, "compute_mae_and_mse", lambda *args: (0, 0))
    options = ["--seed=1", "--epochs=1", "--batch_size=16", "--log_every=1", "--imp_weight=1"]
    options += golden.write_images("utk", tmp_path)
    plain.main([*options, f"--outpath={tmp_path / 'run'}"])

    due = golden.FIGURES64["utk-coral imp_weight=1"]["cost_per_step"][:4]
    costs = re.findall("Cost: (.*)", capsys.readouterr().out)
    assert list(map(float, costs)) == pytest.approx(due, abs=1e-4)  # printed with four decimals


def test_plain_keeps_an_earlier_model(tmp_path, capsys):
    (tmp_path / "model.pt").write_text("earlier")
    options = first_rows("utk", tmp_path, train=2, test=2)
    with pytest.raises(SystemExit) as end:
        plain.main([*options, "--epochs=1", f"--outpath={tmp_path}"])
    assert end.value.code == 2 and "name another --outpath" in capsys.readouterr().err
    assert (tmp_path / "model.pt").read_text() == "earlier"


class Network(nn.Module):
    """torchvision's ResNet-34 with the paper's pool, and the output layer of ``model``."""

    def __init__(self, model):
        super().__init__()
        with torch.random.fork_rng():  # its own first weights are not used
            self.body = torchvision.models.resnet34()
        self.body.avgpool, self.body.fc = nn.AvgPool2d(7, stride=1, padding=2), nn.Identity()
        self.model, state = [model], model.state_dict()
        output = {name for name in state if name.startswith(("fc", "linear_1_bias"))}
        self.body.load_state_dict({n: t for n, t in state.items() if n not in output})
        self.output = nn.ParameterList([p for n, p in model.named_parameters() if n in output])

    def forward(self, module, x):
        return module.age_logits(self.model[0], self.body(x))


@pytest.mark.parametrize("name", ["afad-coral", "morph2-ordinal", "cacd-ce"])
def test_costs_and_metrics(name, tmp_path):
    dataset, loss = name.split("-")
    options = golden.write_images(dataset, tmp_path)
    for split, rows in (("train", 20), ("test", 12)):
        lines = (tmp_path / f"{split}.csv").read_text().splitlines(keepends=True)
        (tmp_path / f"{split}.csv").write_text("".join(lines[: rows + 1]))
    module = load(ROOT / "model-code" / f"{name}.py")
    imp_weight = 0 if loss == "ce" else 1
    options += ["--seed=5", "--epochs=2", "--batch_size=8", "--log_every=1", "--numworkers=3"]
    module.main([*options, f"--imp_weight={imp_weight}", f"--outpath={tmp_path / 'run'}"])
    told = (tmp_path / "run" / "training.log").read_text()

    train = plain_dataset(module, tmp_path / "train.csv", tmp_path, transforms.RandomCrop)
    imp = module.task_importance_weights(train.labels) if imp_weight else torch.ones(1)
    loader = DataLoader(train, batch_size=8, shuffle=True, num_workers=3)
    torch.manual_seed(5)
    network = Network(module.ResNet34())
    optimizer = torch.optim.Adam(network.parameters(), lr=0.0005)
    lines = []
    for epoch in range(2):
        for number, (images, labels) in enumerate(loader):
            cost = module.cost_fn(network(module, images), labels, imp).mean()
            optimizer.zero_grad()
            cost.backward()
            optimizer.step()
            lines.append(f"Epoch: 00{epoch + 1}/002 | Batch 000{number}/0002 | Cost: {cost:.4f}")
    assert re.findall("Epoch: .*", told) == lines

    network.eval()
    test = plain_dataset(module, tmp_path / "test.csv", tmp_path, transforms.CenterCrop)
    test_loader = DataLoader(test, batch_size=8, num_workers=3)
    metrics = "MAE/RMSE:"
    for title, batches in (("Train", loader), ("Test", test_loader)):
        errors = []
        for images, labels in batches:
            with torch.no_grad():
                probas = module.compute_probas(network(module, images))
            for proba, label in zip(probas.tolist(), labels.tolist(), strict=True):
                above = sum(p > 0.5 for p in proba)
                errors.append((proba.index(max(proba)) if loss == "ce" else above) - label)
        mae = sum(abs(e) for e in errors) / len(errors)
        rmse = (sum(e * e for e in errors) / len(errors)) ** 0.5
        metrics += f" | {title}: {mae:.2f}/{rmse:.2f}"
    assert metrics in told
