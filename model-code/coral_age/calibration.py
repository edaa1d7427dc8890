"""Output layers fitted again on labelled photos, and intervals that hold what they say.

The network stays. Its logits x, of y > k, or of the classes where it has those, become

    a x + d

with one scale a for all and shifts d, which change smoothly from one output to the next. Both are
those of the greatest likelihood of the labels, times a prior, by which the shifts are small and
smooth: the fewer photos there are, the nearer they stay to 0. CORAL's x is a score for each photo
plus its biases, which are smoothed first: where a collection's ages are heaped (30, 35, 40) its
biases are so, too, and ages of people are not.

One scale leaves the young too wide an interval and the old too narrow a one. So what an interval of
80 % has to hold of the network's probability is a table by predicted age: the share that would have
been enough for 80 % of the photos nearest in predicted age (conformal prediction, as of Izbicki et
al., arXiv 1910.05575, in groups by the answer).
"""

from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F

from coral_age.answers import LEVELS
from coral_age.intervals import class_probas, intervals

FOLDS = 10
NEAREST = 200  # photos that say what an interval at a predicted age has to hold
# The prior's weights of shifts, squared, by what is fitted, and of their second differences. Those
# of classes are small: they move the most probable class, which is no better for being likelier.
FREE = {"biases": 0.3, "pairs": 10.0, "steps": 3.0, "classes": 100.0}
SMOOTH = 300.0
SCALE_SPREAD = 0.5  # standard deviation of log a in the prior
HEAPS = 2.5  # years over which CORAL's biases are smoothed; less below 20, where ages are exact

# What a loss's output layer has: CORAL's biases, pairs of outputs for y > k, steps, which are y > k
# given that y > k-1, or K classes. Of other losses the answers stay, and only intervals are
# calibrated.
LAYERS = {"coral": "biases", "ordinal": "pairs", "corn": "steps"}
LAYERS |= {"ce": "classes", "dldl": "classes", "sord": "classes"}


# %% Logits
def biases_of(model):
    """CORAL's biases, float64 (K-1,), as they are and smoothed."""
    biases = model.network.linear_1_bias.detach().cpu().double().numpy()
    return biases, smoothed(biases, model.script.YOUNGEST_AGE)


def smoothed(biases, youngest):
    """CORAL's biases, (K-1,), falling, their steps means over neighbouring ages."""
    steps = -np.diff(np.sort(biases)[::-1])
    ages = youngest + 1 + np.arange(len(steps))
    widths = np.clip(ages / 8, 0.3, HEAPS)
    weights = np.exp(-0.5 * ((ages - ages[:, None]) / widths[:, None]) ** 2)
    steps = weights @ steps / weights.sum(1)
    found = -np.concatenate([[0], np.cumsum(steps)])
    return found + (biases - found).mean()


def logits_of(probas, model):
    """The logits x, float64 (n, M), that gave ``probas`` (n, M). CORAL's are a score for each photo
    plus smoothed biases: the score is the mean of logits minus biases, weighted by P (1 - P)."""
    layer, probas = LAYERS[model.script.LOSS], np.asarray(probas, np.float64)
    if layer == "steps":
        probas = probas / np.pad(probas, [(0, 0), (1, 0)], constant_values=1)[:, :-1].clip(1e-9)
    probas = np.clip(probas, 1e-9, 1 - 1e-9)
    if layer == "classes":
        return np.log(probas)
    logits = np.log(probas) - np.log1p(-probas)
    if layer != "biases":
        return logits
    biases, smooth = biases_of(model)
    scores = np.average(logits - biases, axis=1, weights=probas * (1 - probas))
    return scores[:, None] + smooth


# %% The fit
def log_probas(logits, layer):
    """Those of the classes, in torch; (n, K)."""
    if layer == "classes":
        return logits.log_softmax(1)
    if layer == "steps":
        above = F.logsigmoid(logits)
        return F.pad(above.cumsum(1), (1, 0)) + F.pad(above - logits, (0, 1))
    a, b = F.pad(logits, (1, 0), value=50.0), F.pad(logits, (0, 1), value=-50.0)
    apart = (a - b).clamp(min=1e-4)  # log(s(a) - s(b)), s the sigmoid:
    return F.logsigmoid(a) + F.logsigmoid(-b) + torch.log(-torch.expm1(-apart))


def costs(logits, lowest, highest, layer):
    """- log likelihood of labels from ``lowest`` to ``highest``, int64 (n,), in torch; (n,). Of
    pairs, whose P(y > k) may rise with k, the sum over the thresholds that the labels answer."""
    lowest, highest = lowest[:, None], highest[:, None]
    if layer == "pairs":
        levels = lowest > torch.arange(logits.shape[1])
        asked = levels | (highest <= torch.arange(logits.shape[1]))
        each = F.binary_cross_entropy_with_logits(logits, levels.double(), reduction="none")
        return (each * asked).sum(1)
    found = log_probas(logits, layer)
    ages = torch.arange(found.shape[1])
    return -found.masked_fill((ages < lowest) | (ages > highest), -torch.inf).logsumexp(1)


def fit(logits, lowest, highest, layer):
    """Scale a and shifts d, (M,), for ``logits`` (n, M), and the labels' ends, int64 (n,)."""
    count = logits.shape[1]
    second = np.diff(np.eye(count), 2, axis=0)
    precision = FREE[layer] * np.eye(count) + SMOOTH * second.T @ second
    # d = basis @ z with independent z of deviation 1, which is soon optimised
    basis = torch.tensor(np.linalg.inv(np.linalg.cholesky(precision)).T)
    logits, lowest, highest = map(torch.as_tensor, (logits, lowest, highest))
    free = torch.zeros(count + 1, dtype=torch.float64, requires_grad=True)
    given = {"max_iter": 500, "tolerance_grad": 1e-6, "tolerance_change": 1e-12}
    search = torch.optim.LBFGS([free], line_search_fn="strong_wolfe", **given)

    def cost():
        search.zero_grad()
        moved = (SCALE_SPREAD * free[0]).exp() * logits + basis @ free[1:]
        total = costs(moved, lowest, highest, layer).sum() + free.square().sum() / 2
        total.backward()
        return total

    search.step(cost)
    free = free.detach()
    return (SCALE_SPREAD * free[0]).exp().item(), (basis @ free[1:]).numpy()


def fitted(probas, rows, model):
    """What calibrates the answers ``probas`` (n, M) for ``rows``, of lowest and highest labels: a
    namespace of scale and shifts, both None if the layer stays."""
    if not (layer := LAYERS.get(model.script.LOSS)):
        return SimpleNamespace(scale=None, shifts=None)
    scale, shifts = fit(logits_of(probas, model), rows.lowest, rows.highest, layer)
    if layer == "biases":  # which must not rise, however odd the labels
        smooth = scale * biases_of(model)[1]
        shifts = np.minimum.accumulate(smooth + shifts) - smooth
    return SimpleNamespace(scale=scale, shifts=shifts)


def applied(found, probas, model):
    """What the calibrated network answers in place of ``probas``; float32 (n, M)."""
    if found.scale is None:
        return np.asarray(probas, np.float32)
    logits = torch.tensor(found.scale * logits_of(probas, model) + found.shifts)
    layer = LAYERS[model.script.LOSS]
    answers = logits.softmax(1) if layer == "classes" else logits.sigmoid()
    return (answers.cumprod(1) if layer == "steps" else answers).float().numpy()


def layer_of(found, model):
    """The tensors of the calibrated output layer, float64, by their names in the state dict."""
    fc, kind = model.network.fc, LAYERS[model.script.LOSS]
    weight = found.scale * fc.weight.detach().cpu().double()
    shifts = torch.tensor(found.shifts)
    if kind == "biases":
        smooth = torch.tensor(biases_of(model)[1])
        return {"fc.weight": weight, "linear_1_bias": found.scale * smooth + shifts}
    if kind == "pairs":
        shifts = torch.stack([-shifts / 2, shifts / 2], dim=1).flatten()
    return {"fc.weight": weight, "fc.bias": found.scale * fc.bias.detach().cpu().double() + shifts}


def classes_of(probas, model):
    """Probabilities of the classes, (n, K), and predicted labels, (n,), of ``probas``."""
    labels = model.script.predict_labels(torch.as_tensor(probas)).numpy()
    return class_probas(probas, model.script.NUM_CLASSES), labels


# %% Intervals
def enough(classes, labels):
    """For each photo and age, (n, K), what an interval has to hold, more than that, of the
    probabilities ``classes`` (n, K), for the age to be inside; as of intervals.interval()."""
    count = classes.shape[1]
    sums = np.pad(np.cumsum(classes, 1), [(0, 0), (1, 0)])
    ages, here = np.arange(count), labels[:, None]
    found = np.zeros_like(classes)
    for length in range(1, count):
        starts = np.arange(count - length + 1)
        held = sums[:, length:] - sums[:, :-length]
        held = np.where((starts <= here) & (here < starts + length), held, -1)
        start = held.argmax(1)[:, None]
        outside = (ages < start) | (ages >= start + length)
        found = np.where(outside, held.max(1, keepdims=True), found)
    return found


def ages_allowed(rows, classes):
    """Which classes the labels of ``rows`` allow, bool (n, K)."""
    ages = np.arange(classes.shape[1])
    return (ages >= rows.lowest[:, None]) & (ages <= rows.highest[:, None])


def likely(classes, allowed):
    """The probabilities of the allowed ages among themselves, float64 (n, K)."""
    some = np.where(allowed, classes + 1e-12, 0)
    return some / some.sum(1, keepdims=True)


def table(classes, labels, rows):
    """What the interval at each of LEVELS must hold, by predicted label, (levels, K): more than
    would miss that share of the NEAREST photos. Of a range each age counts as likely as it is."""
    scores, weights = enough(classes, labels), likely(classes, ages_allowed(rows, classes))
    found = np.empty((len(LEVELS), classes.shape[1]))
    for label in range(classes.shape[1]):
        distance = np.abs(labels - label)
        near = distance <= np.sort(distance)[min(NEAREST, len(labels)) - 1]
        counted = near[:, None] & (weights > 0)
        some, order = scores[counted], scores[counted].argsort()
        reached = np.cumsum(weights[counted][order]) / (near.sum() + 1)
        places = np.searchsorted(reached, np.array(LEVELS) / 100)
        found[:, label] = some[order][places.clip(max=len(some) - 1)]
    return np.minimum(np.ceil(found * 1e5 + 0.1) / 1e5, 1)  # more than that, by a little


# %% Figures
def by_folds(probas, rows, model):
    """Each row's calibrated answer by a fit to other rows, float32 (n, M), and what its interval of
    80 % must hold, (n,), by a table() of the other rows' answers. (One of a fit's own rows would
    hold too little, the less the fewer there are.)"""
    folds = np.random.default_rng(0).permutation(len(probas)) % FOLDS
    answers, shares = np.empty(probas.shape, np.float32), np.empty(len(probas))
    for here in (folds == fold for fold in range(FOLDS)):
        found = fitted(probas[~here], part_of(rows, ~here), model)
        answers[here] = applied(found, probas[here], model)
    classes, labels = classes_of(answers, model)
    for here in (folds == fold for fold in range(FOLDS)):
        by_others = table(classes[~here], labels[~here], part_of(rows, ~here))
        shares[here] = by_others[LEVELS.index(80), labels[here]]
    return answers, shares


def part_of(rows, chosen):
    return SimpleNamespace(lowest=rows.lowest[chosen], highest=rows.highest[chosen])


def figures(probas, shares, rows, model):
    """How good the answers ``probas`` are for ``rows``, the intervals holding ``shares`` (n,): a
    dict of years, shares of the photos and log loss. What a range leaves open, the probabilities
    tell."""
    classes, labels = classes_of(probas, model)
    allowed = ages_allowed(rows, classes)
    first, last, _ = intervals(classes, labels, shares)
    ages = np.arange(classes.shape[1])
    inside = (ages >= first[:, None]) & (ages <= last[:, None])
    off = labels - labels.clip(rows.lowest, rows.highest)
    by_row = {"mae": np.abs(off), "too_old_by": off}
    by_row["log_loss"] = -np.log((classes * allowed).sum(1).clip(1e-6))
    by_row["interval_holds"] = (likely(classes, allowed) * inside).sum(1)
    by_row["interval_years"] = last - first

    found = {"photos": len(labels)} | {name: each.mean() for name, each in by_row.items()}
    youngest = model.script.YOUNGEST_AGE
    if 0 <= (task := 17 - youngest) < classes.shape[1] - 1:
        over = classes[:, task + 1 :].sum(1)
        known = (rows.lowest > task) | (rows.highest <= task)
        found["over_18_off"] = calibration_error(over[known], rows.lowest[known] > task)
    found["by_predicted_age"] = by_decade(labels + youngest, by_row)
    found["by_true_age"] = by_decade((rows.lowest + rows.highest) / 2 + youngest, by_row)
    return found


def by_decade(years, by_row):
    """The means of ``by_row``, {name: (n,)}, by decade of ``years`` (n,)."""
    decades, found = np.minimum(years // 10, 9).astype(int), {}
    for decade in np.unique(decades).tolist():
        here, last = decades == decade, 100 if decade == 9 else 10 * decade + 9
        means = {name: each[here].mean() for name, each in by_row.items()}
        found[f"{10 * decade}-{last}"] = {"photos": int(here.sum())} | means
    return found


def calibration_error(probas, right):
    """How far probabilities (n,) are from the shares of ``right``, bool (n,), on average over
    photos, in ten bins of equal width (ECE)."""
    bins = (probas * 10).astype(int).clip(max=9)
    return sum(abs((probas - right)[bins == b].sum()) for b in range(10)) / max(len(bins), 1)
