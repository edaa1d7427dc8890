"""The scripts train exactly as a plain loop over a torch DataLoader does.

The loop here is built from torch's and torchvision's own parts: DataLoader with worker processes,
torchvision's transforms and ResNet-34, torch's Adam. Costs agree in all printed decimals, on any
processor, because both sum in the same order.
"""

import re

import golden
import pytest
import torch
import torchvision
from conftest import ROOT, load, run
from plain import Images
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms


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
    script = ROOT / "model-code" / f"{name}.py"
    imp_weight = 0 if loss == "ce" else 1
    result = run(
        script,
        *("--seed=5", "--epochs=2", "--batch_size=24", "--log_every=1", "--numworkers=3"),
        *(f"--imp_weight={imp_weight}", f"--outpath={tmp_path / 'run'}", *options),
    )
    assert result.returncode == 0, result.stderr

    module = load(script)
    train = Images(module, tmp_path / "train.csv", tmp_path, transforms.RandomCrop)
    labels = torch.tensor(train.table["age"].to_numpy())
    imp = module.task_importance_weights(labels) if imp_weight else torch.ones(1)
    loader = DataLoader(train, batch_size=24, shuffle=True, num_workers=3)
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
    assert re.findall("Epoch: .*", result.stdout) == lines

    network.eval()
    test = Images(module, tmp_path / "test.csv", tmp_path, transforms.CenterCrop)
    test_loader = DataLoader(test, batch_size=24, num_workers=3)
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
    assert metrics in result.stdout
