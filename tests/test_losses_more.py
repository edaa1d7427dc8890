"""CORN, DLDL-v2, SORD and L1 against slow, obvious computations, ranges of ages among them."""

import math
from types import SimpleNamespace

import pytest
import torch
from conftest import MODEL_CODE, load, refused
from test_scripts import slow_label

LOSSES = "corn", "dldl", "l1", "sord"
MODULES = {loss: load(MODEL_CODE / f"utk-{loss}.py") for loss in LOSSES}
K = 40
WIDTH = {"corn": K - 1, "dldl": K, "l1": 1, "sord": K}
# known ages, ranges, the two that are open at an end, one of two ages, unknown
ENDS = [(0, 0), (17, 17), (39, 39), (5, 14), (0, 3), (30, 39), (38, 39), (0, 39)]
EACH = pytest.mark.parametrize("loss", LOSSES)


def some_logits(loss, count=8, seed=0):
    logits = torch.randn(count, WIDTH[loss], generator=torch.Generator().manual_seed(seed))
    return 12 * logits + 20 if loss == "l1" else 3 * logits


def slow_classes(loss, z):
    """Probabilities of the classes by one image's logits, a list."""
    if loss != "corn":
        exps = [math.exp(x) for x in z]
        return [e / sum(exps) for e in exps]
    probas, left = [], 1.0
    for x in z:
        above = 1 / (1 + math.exp(-x))
        probas.append(left * (1 - above))
        left *= above
    return [*probas, left]


def slow_cost(loss, z, low, high):
    """Of one image, the age in the range [low, high], by the papers' sums; z a list of floats."""
    if (low, high) == (0, K - 1):
        return 0.0
    if loss == "l1":
        return max(low - z[0], z[0] - high, 0)
    probas = slow_classes(loss, z)
    mean = sum(k * p for k, p in enumerate(probas))
    off = max(low - mean, mean - high, 0) if loss == "dldl" else 0
    if low < high:
        return off - math.log(sum(probas[low : high + 1]))
    if loss == "corn":  # task by task, of whose subset the image is
        cost = 0
        for k in range(K - 1):
            if low > k - 1:
                above = 1 / (1 + math.exp(-z[k]))
                cost -= math.log(above if low > k else 1 - above)
        return cost
    width = {"dldl": 2 * 2.0**2, "sord": 1}[loss]
    heights = [math.exp(-((k - low) ** 2) / width) for k in range(K)]
    cost = off
    for height, proba in zip(heights, probas, strict=True):
        target = height / sum(heights)
        cost -= target * math.log(proba)
        cost += target * math.log(target) if loss == "dldl" and target else 0
    return cost


@EACH
def test_costs(loss):
    logits = some_logits(loss)
    logits[7] -= 50  # L1's is then below all ages, of an unknown one as well
    found = MODULES[loss].cost_fn(logits, torch.tensor(ENDS), torch.ones(1))
    due = [slow_cost(loss, row, *ends) for row, ends in zip(logits.tolist(), ENDS, strict=True)]
    assert found.dtype == torch.float32 and found.tolist() == pytest.approx(due, rel=1e-5, abs=1e-6)
    assert found[7] == 0 and (found[:3] > 0).all()
    none = MODULES[loss].cost_fn(logits[:0], torch.tensor(ENDS)[:0], torch.ones(1))
    assert none.shape == (0,)  # as a process has it whose part of a batch is empty


@EACH
def test_known_ages_to_the_bit(loss):
    """Labels and ranges of one age have the same costs and gradients."""
    labels, results = torch.randint(0, K, (64,), generator=torch.Generator().manual_seed(1)), []
    for given in (labels, torch.stack([labels, labels], 1)):
        logits = some_logits(loss, 64, 2).requires_grad_()
        costs = MODULES[loss].cost_fn(logits, given, torch.ones(1))
        costs.sum().backward()
        results.append((costs, logits.grad))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_corn_by_the_papers_formula():
    """- 1 / sum_j |S_j| times the sum over j of the log-likelihoods over the subset S_j, which is
    the images of y > j-1: the scripts' sum over images, divided by the number of terms."""
    logits, labels = some_logits("corn", 9), torch.tensor([0, 0, 1, 5, 17, 17, 30, 38, 39])
    total, size = 0, 0
    for j in range(K - 1):
        subset = [i for i in range(9) if labels[i] > j - 1]
        size += len(subset)
        for i in subset:
            f = 1 / (1 + math.exp(-logits[i, j]))
            total -= math.log(f) if labels[i] > j else math.log(1 - f)
    costs = MODULES["corn"].cost_fn(logits, labels, torch.ones(1))
    assert costs.sum().item() / size == pytest.approx(total / size, rel=1e-5)
    # by hand: an image of label y has the tasks 0 to y, and of the highest one there is none
    assert size == sum(min(label + 1, K - 1) for label in labels.tolist())


@EACH
def test_gradients(loss):
    """Slopes by differences, of all that a label or range asks; none of what it does not."""
    logits, labels = some_logits(loss).double().requires_grad_(), torch.tensor(ENDS)
    MODULES[loss].cost_fn(logits, labels, torch.ones(1)).sum().backward()
    for row, ends in enumerate(ENDS):
        z = logits[row].tolist()
        for k in {0, 3, 17, 38} & set(range(len(z))):
            moved = [[*z[:k], z[k] + step, *z[k + 1 :]] for step in (1e-6, -1e-6)]
            slope = (slow_cost(loss, moved[0], *ends) - slow_cost(loss, moved[1], *ends)) / 2e-6
            assert logits.grad[row, k].item() == pytest.approx(slope, rel=1e-5, abs=1e-7)
    assert (logits.grad[7] == 0).all()
    if loss == "corn":  # whoever is at most 3 is asked nothing beyond
        assert (logits.grad[4, :4] != 0).all() and (logits.grad[4, 4:] == 0).all()


@EACH
@pytest.mark.parametrize("size", [1e3, 1e6])
def test_extreme_logits(loss, size):
    """Costs and gradients are finite where probabilities are 0 and 1 in float32."""
    signs = some_logits(loss, seed=5).sub(20 * (loss == "l1")).sign()
    logits = (size * signs).requires_grad_()
    module = MODULES[loss]
    costs = module.cost_fn(logits, torch.tensor(ENDS), torch.ones(1))
    costs.sum().backward()
    assert costs.isfinite().all() and logits.grad.isfinite().all()
    probas = module.compute_probas(logits)
    labels = module.predict_labels(probas)
    assert ((0 <= probas) & (probas <= 1)).all() and ((0 <= labels) & (labels < K)).all()


@EACH
def test_bfloat16(loss):
    """With --amp 1 the network computes in bfloat16, output layer and cost in float32."""
    module = MODULES[loss]
    torch.manual_seed(0)
    model = module.ResNet34().eval()
    module.set_prior_bias(model, torch.tensor([3, 17, 30]))
    images, labels = torch.rand(3, 3, 33, 33), torch.tensor([17, 3, 39])
    batch = SimpleNamespace(images=images, labels=labels, count=3, lam=None)
    costs = [
        module.batch_cost(model, batch, torch.ones(1), SimpleNamespace(amp=amp, gender=0))
        for amp in (0, 1)
    ]
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images)[0]
    pairs = zip(logits.tolist(), labels.tolist(), strict=True)
    due = sum(slow_cost(loss, z, label, label) for z, label in pairs)
    assert logits.dtype == costs[1].dtype == torch.float32
    assert costs[1].item() == pytest.approx(due / 3, rel=1e-5)
    assert costs[0] != costs[1] and costs[0].item() == pytest.approx(costs[1].item(), rel=0.02)


@EACH
def test_probabilities_and_labels(loss):
    module, logits = MODULES[loss], some_logits(loss, 50)
    probas = module.compute_probas(logits)
    for z, found in zip(logits.tolist(), probas.tolist(), strict=True):
        if loss == "l1":  # nothing but the step, and the mean is what the network says
            due = [1 if k + 1 <= z[0] else max(z[0] - k, 0) for k in range(K - 1)]
            assert sum(found) == pytest.approx(min(max(z[0], 0), K - 1), abs=1e-4)
        else:
            due = slow_classes(loss, z)
            due = [sum(due[k + 1 :]) for k in range(K - 1)] if loss == "corn" else due
        assert found == pytest.approx(due, rel=1e-4, abs=1e-6)
    due = [slow_label(loss, row) for row in probas.double().numpy()]
    assert module.predict_labels(probas).tolist() == due and len(set(due)) > 5


def test_labels_by_hand():
    """L1 and DLDL-v2 answer the nearest label to the mean, of images and of the mean of two views;
    SORD the most probable one, CORN the number above 0.5."""
    l1, dldl, sord, corn = (MODULES[loss] for loss in ("l1", "dldl", "sord", "corn"))
    z = torch.tensor([[-3.0], [0.49], [0.51], [17.4], [38.6], [99.0]])
    probas = l1.compute_probas(z)
    assert l1.predict_labels(probas).tolist() == [0, 0, 1, 17, 39, 39]
    assert l1.predict_labels((probas[[1, 3]] + probas[[3, 4]]) / 2).tolist() == [9, 28]
    assert probas[3, 15:19].tolist() == pytest.approx([1, 1, 0.4, 0], abs=1e-5)

    probas = torch.zeros(1, K)
    probas[0, 10], probas[0, 20], probas[0, 30] = 0.5, 0.25, 0.25
    assert dldl.predict_labels(probas).tolist() == [18]  # 17.5, to the even label
    assert sord.predict_labels(probas).tolist() == [10]
    probas = torch.tensor([[0.9, 0.6, 0.5] + [0.1] * 36, [0.6] * 39])
    assert corn.predict_labels(probas).tolist() == [2, 39]


def test_corn_is_consistent():
    """P(y > k) never rises with k, also of logits that rise, and in means over views."""
    module = MODULES["corn"]
    logits = 4 * torch.randn(500, K - 1, generator=torch.Generator().manual_seed(3))
    logits[:20] = logits[:20].sort(1).values
    probas = module.compute_probas(logits)
    assert (probas.diff(dim=1) <= 0).all() and (probas.diff(dim=1) < 0).any(1).all()
    assert ((probas + probas.flip(0)) / 2).diff(dim=1).max() <= 0
    assert (logits.diff(dim=1) > 0).any()
    torch.manual_seed(1)
    model = module.ResNet34().eval()
    probas, _ = module.predict_batch(model, torch.rand(4, 3, 40, 40), flip=1, shifts=1)
    assert (probas.diff(dim=1) <= 0).all()


def test_prior_biases():
    """What each begins with, before it has seen an image: the labels' frequencies, of ranges in
    equal parts, what never occurs as 1/40 of an image; L1 the median."""
    ends = [(2, 2)] * 3 + [(5, 5)] * 2 + [(6, 9), (0, 39)]
    counts = [1 / K] * K
    counts[2], counts[5], counts[6:10] = 3, 2, [0.25] * 4
    shares = [count / sum(counts) for count in counts]
    above = [sum(shares[k + 1 :]) for k in range(K - 1)]
    for loss, due in (("dldl", shares), ("sord", shares), ("corn", above), ("l1", None)):
        module = MODULES[loss]
        model = module.ResNet34()
        module.set_prior_bias(model, torch.tensor(ends))
        with torch.no_grad():
            logits = module.age_logits(model, torch.zeros(1, 2048))
        if loss == "l1":  # the lower middle one of 2 2 2 2 2 2 5 5 5 5 6 9
            assert logits.item() == 2
        else:
            assert module.compute_probas(logits)[0].tolist() == pytest.approx(due, rel=1e-4)


@EACH
def test_no_task_importance_weights(loss, capsys):
    message = refused(MODULES[loss], capsys, "--imp_weight=1", "--outpath=run")
    assert f"--imp_weight 1: {loss} has no task importance weights; leave it out" in message
