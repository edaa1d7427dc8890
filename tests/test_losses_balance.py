"""--balance 1: images of rare ages weigh more, in every loss."""

import json
import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from conftest import LOSSES, MODEL_CODE, first_rows, load

MODULES = {loss: load(MODEL_CODE / f"utk-{loss}.py") for loss in LOSSES}
FACES = load(MODEL_CODE / "faces-coral.py")
TINY = ["--seed=1", "--epochs=1", "--batch_size=4", "--image_size=33", "--gender=1"]


def test_weights_by_hand():
    """Four images of age 7 and one of age 9: 1/2 and 1, divided by their mean over the images."""
    found = FACES.class_weights(torch.tensor([7, 9, 7, 7, 7]))
    assert found[[7, 9]].tolist() == pytest.approx([0.5 / 0.6, 1 / 0.6])
    assert found.dtype == torch.float32 and found.shape == (101,)
    # 20-29 is a tenth of an image for each of its ages; what is unknown counts for nothing
    ends = torch.tensor([(7, 7), (20, 29), (25, 25), (0, 100)])
    found = FACES.class_weights(ends)
    of_range = (9 * math.sqrt(10) + 1 / math.sqrt(1.1)) / 10
    mean = (1 + of_range + 1 / math.sqrt(1.1)) / 3
    due = [1 / mean, math.sqrt(10) / mean, 1 / math.sqrt(1.1) / mean]
    assert found[[7, 20, 25]].tolist() == pytest.approx(due)
    images = FACES.mean_over_labels(found, ends)
    assert images[1].item() == pytest.approx(of_range / mean)
    assert images[:3].mean().item() == pytest.approx(1)
    # nothing is known: costs are 0, whatever they are multiplied by
    assert FACES.class_weights(torch.tensor([(0, 100)])).isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_cost_of_a_batch(loss):
    """The mean of the costs, each times its image's weight, the gender's as it was; with mixup of
    the other image's label and weight."""
    module = MODULES[loss]
    torch.manual_seed(0)
    model, imp = module.ResNet34(gender=1).eval(), torch.ones(1)
    images, weights = torch.rand(3, 3, 33, 33), torch.linspace(0.5, 2, 40)
    labels = torch.tensor([(3, 3), (10, 19), (39, 39)])
    args = SimpleNamespace(amp=0, gender=1, gender_weight=2.0)
    batch = SimpleNamespace(images=images, labels=labels, count=3, lam=None)
    batch.genders, batch.known_genders = torch.tensor([1.0, 0.0, math.nan]), 2
    logits = model(images)[0]
    factors = [weights[3].item(), weights[10:20].mean().item(), weights[39].item()]

    def age_costs(labels):
        return module.cost_fn(logits, labels, imp).tolist()

    plain = module.batch_cost(model, batch, imp, args).item()
    gender = plain - sum(age_costs(labels)) / 3
    found = module.batch_cost(model, batch, imp, args, weights).item()
    own = [cost * factor for cost, factor in zip(age_costs(labels), factors, strict=True)]
    assert found == pytest.approx(sum(own) / 3 + gender, rel=1e-5) and found != plain

    batch.lam, args.gender = torch.tensor([0.9, 0.4, 0.25]), 0
    found = module.batch_cost(model, batch, imp, args, weights).item()
    others = [c * f for c, f in zip(age_costs(labels.flip(0)), factors[::-1], strict=True)]
    due = [lam * a + (1 - lam) * b for lam, a, b in zip((0.9, 0.4, 0.25), own, others, strict=True)]
    assert found == pytest.approx(sum(due) / 3, rel=1e-5)


def trained(folder, name, *options, module=FACES):
    module.main([f"--outpath={folder / name}", *TINY, *options])
    return (folder / name / "model.pt").read_bytes()


@pytest.mark.parametrize("ages", ["even", "drawn"])
def test_in_training(ages, tmp_path):
    """By the training images as they are drawn; of ages that are all as frequent as each other
    nothing changes, to the bit."""
    texts, labels = ["20"] * 6 + ["40", "41", "20-29"], [(20, 20)] * 6 + [(40, 40), (41, 41)]
    # of rows that weigh 12 in all, of which the last one 4: 0, 2, 3, 4, 6, 7 and three times 8
    labels = labels[:4] + labels[6:] + [(20, 29)] * 3
    if ages == "even":
        texts, labels = [str(5 * i) for i in range(9)], [5 * i for i in range(9)]
    rows = first_rows("faces", tmp_path, train=9, test=5)
    table = pd.read_csv(tmp_path / "train.csv", dtype=str).assign(age=texts)
    if ages == "drawn":
        table["weight"] = [1] * 8 + [4]
    table.to_csv(tmp_path / "train.csv", index=False)

    module, seen = load(MODEL_CODE / "faces-coral.py"), []
    batch_cost = module.batch_cost
    module.batch_cost = lambda *given: seen.append(given[4]) or batch_cost(*given)
    plain = trained(tmp_path, "plain", *rows, module=module)
    assert seen == [None] * 3
    balanced = trained(tmp_path, "balanced", *rows, "--balance=1", module=module)
    assert (plain == balanced) == (ages == "even")
    torch.testing.assert_close(seen[-1], module.class_weights(torch.tensor(labels)))
    settings = json.loads((tmp_path / "balanced" / "run.json").read_text())["settings"]
    assert settings["balance"] == 1


def test_older_runs_are_resumed_without(tmp_path):
    """Their run.json does not know it."""
    rows = first_rows("faces", tmp_path, train=9, test=5)
    trained(tmp_path, "run", *rows)
    path = tmp_path / "run" / "run.json"
    facts = json.loads(path.read_text())
    del facts["settings"]["balance"]
    path.write_text(json.dumps(facts))
    FACES.main([f"--outpath={tmp_path / 'run'}", "--resume"])
    with pytest.raises(SystemExit):
        FACES.main([f"--outpath={tmp_path / 'run'}", "--resume", "--balance=1"])


def test_off_in_every_recipe():
    for module in MODULES.values():
        assert module.RECIPES["balance"][:-1] == (0, 0, 0, 0)
