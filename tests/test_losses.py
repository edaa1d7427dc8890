"""Losses, task importance weights, predictions and prior biases against slow, obvious ones."""

import math

import pytest
import torch
from conftest import ROOT, load

CE, CORAL, ORDINAL = (
    load(ROOT / f"model-code/utk-{loss}.py") for loss in ("ce", "coral", "ordinal")
)
K = 40


@pytest.fixture
def labels():
    torch.manual_seed(0)
    return torch.randint(0, K, (9,))


def weights():
    """Some task weights, as unequal as they get."""
    return torch.linspace(0.2, 1, K - 1)


def test_coral_cost_and_probas(labels):
    logits = 3 * torch.randn(9, K - 1)
    total = 0
    for i in range(9):
        for k in range(K - 1):
            p = 1 / (1 + math.exp(-logits[i, k]))
            assert CORAL.compute_probas(logits)[i, k] == pytest.approx(p, rel=1e-5)
            total -= weights()[k].item() * math.log(p if labels[i] > k else 1 - p)
    assert CORAL.cost_fn(logits, labels, weights()).mean().item() == pytest.approx(
        total / 9, rel=1e-5
    )


def test_ordinal_cost_and_probas(labels):
    logits = 3 * torch.randn(9, K - 1, 2)
    total = 0
    for i in range(9):
        for k in range(K - 1):
            below, above = (math.exp(z) for z in logits[i, k])
            p = above / (below + above)
            assert ORDINAL.compute_probas(logits)[i, k] == pytest.approx(p, rel=1e-5)
            total -= weights()[k].item() * math.log(p if labels[i] > k else 1 - p)
    assert ORDINAL.cost_fn(logits, labels, weights()).mean().item() == pytest.approx(
        total / 9, rel=1e-5
    )


def test_ce_cost_and_probas(labels):
    logits = 3 * torch.randn(9, K)
    total = 0
    for i in range(9):
        exps = [math.exp(z) for z in logits[i]]
        assert CE.compute_probas(logits)[i].tolist() == pytest.approx(
            [e / sum(exps) for e in exps], rel=1e-5
        )
        total -= math.log(exps[labels[i]] / sum(exps))
    assert CE.cost_fn(logits, labels, None).mean().item() == pytest.approx(total / 9, rel=1e-5)


@pytest.mark.parametrize(
    "module, shape",
    [(CE, (K,)), (CORAL, (K - 1,)), (ORDINAL, (K - 1, 2))],
    ids=("ce", "coral", "or"),
)
def test_gradients(module, shape, labels):
    logits = torch.randn(9, *shape, dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(
        lambda z: module.cost_fn(z, labels, weights()).mean(), logits
    )
    step = 1e-6
    for position in [
        (0,) * logits.dim(),
        (4, 7) + (1,) * (logits.dim() - 2),
        (8, 38, 0)[: logits.dim()],
    ]:
        shifted = []
        for sign in (1, -1):
            moved = logits.clone()
            moved[position] += sign * step
            shifted.append(module.cost_fn(moved, labels, weights()).mean().item())
        slope = (shifted[0] - shifted[1]) / (2 * step)
        assert gradient[position].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("module", [CORAL, ORDINAL], ids=("coral", "ordinal"))
def test_task_importance_weights(module):
    # 10 labels, none above 30: tasks beyond the highest label count as well (SPEC: all K-1)
    labels = torch.tensor([0, 0, 0, 1, 5, 5, 9, 20, 20, 30])
    roots = []
    for k in range(K - 1):
        above = sum(1 for label in labels if label > k)
        roots.append(math.sqrt(max(above, 10 - above)))
    expected = [root / max(roots) for root in roots]
    assert module.task_importance_weights(labels).tolist() == pytest.approx(expected, rel=1e-6)
    # by hand: 7 of 10 are above 0, 6 above 1, and none of the ten above 30
    assert expected[0] == pytest.approx(math.sqrt(0.7))
    assert expected[1] == pytest.approx(math.sqrt(0.6))
    assert expected[30:] == [1.0] * 9


def test_coral_probas_are_in_the_order_of_the_biases():
    torch.manual_seed(1)
    model = CORAL.ResNet34()
    features = torch.rand(200, 2048)
    with torch.no_grad():
        model.linear_1_bias.copy_(torch.randn(K - 1))
        logits = CORAL.age_logits(model, features)
        order = model.linear_1_bias.argsort()
        assert all(torch.equal(row.argsort(), order) for row in logits)
        model.linear_1_bias.copy_(model.linear_1_bias.sort(descending=True).values)
        probas = CORAL.compute_probas(CORAL.age_logits(model, features))
    assert (probas[:, :-1] >= probas[:, 1:]).all()
    for row, label in zip(probas.tolist(), CORAL.predict_labels(probas).tolist(), strict=True):
        assert label == sum(p > 0.5 for p in row)


def test_predicted_labels():
    probas = torch.tensor([[0.9, 0.5, 0.7] + [0.1] * 36, [0.6] * 39])
    assert CORAL.predict_labels(probas).tolist() == [2, 39]
    assert ORDINAL.predict_labels(probas).tolist() == [2, 39]
    assert CE.predict_labels(torch.eye(40)[[3, 39, 0]]).tolist() == [3, 39, 0]


def answer_to_zero_features(module, labels):
    model = module.ResNet34()
    module.set_prior_bias(model, labels)
    with torch.no_grad():
        return module.compute_probas(module.age_logits(model, torch.zeros(1, 2048)))[0]


@pytest.mark.parametrize("module", [CORAL, ORDINAL], ids=("coral", "ordinal"))
def test_prior_bias_of_tasks(module):
    labels = torch.tensor(list(range(K)) + [7] * 60)
    expected = [sum(1 for label in labels if label > k) / 100 for k in range(K - 1)]
    assert answer_to_zero_features(module, labels).tolist() == pytest.approx(expected, rel=1e-5)
    few = answer_to_zero_features(module, torch.tensor([5, 5, 6, 9]))
    assert few[5:9].tolist() == pytest.approx([0.5, 0.25, 0.25, 0.25])
    # never and always above: half an image of four
    assert few[:5].tolist() == pytest.approx([0.875] * 5)
    assert few[9:].tolist() == pytest.approx([0.125] * 30)


def test_prior_bias_of_classes():
    labels = torch.tensor(list(range(K)) + [7] * 60)
    expected = [0.61 if k == 7 else 0.01 for k in range(K)]
    assert answer_to_zero_features(CE, labels).tolist() == pytest.approx(expected, rel=1e-5)
    # 38 classes without an image count as a fortieth of one each
    few = answer_to_zero_features(CE, torch.tensor([5, 5, 6, 6]))
    assert few[[5, 6, 7]].tolist() == pytest.approx([2 / 4.95, 2 / 4.95, 1 / 40 / 4.95])
