"""Which losses are better than which, and whether that is more than noise.

    resampled = resample([errors, ...])  # of each loss (seeds, photos), absolute, in years
    rows = verdicts([errors, ...], resampled)

The protocol of model-code/results/README.md: photos and seeds are resampled together, Holm's
procedure is over all pairs, and "equal" has a margin that was named beforehand.
"""

from itertools import combinations

import numpy as np
import pandas as pd

from coral_age.intervals import intervals

RESAMPLES = 10_000
LEVEL = 0.05
MARGIN = 0.10  # years: a smaller difference is of no use
UNIFORM = 0.01  # share of a uniform distribution in what the NLL is of
AT_ONCE = 2**22  # counts of photos in resamples, for which there is memory


def scores(above, labels, predicted, shares):
    """What the distributions of P(y > k) ``above`` (n, K-1), falling, are worth for ``labels``
    (n,): a dict of means over photos, and each photo's absolute error of the median, in years.

    ``predicted`` (n,) are the labels answered, in intervals that hold ``shares`` (n,), as of
    predict.py.
    """
    classes = -np.diff(above, prepend=1, append=0)
    errors = np.abs((above > 0.5).sum(1) - labels)
    first, last, _ = intervals(classes, predicted, shares)
    held = (first <= labels) & (labels <= last)
    return {
        "median_errors": errors,
        "median_amae": pd.Series(errors).groupby(labels).mean().mean(),
        "nll": nll(classes, labels),
        "coverage": 100 * held.mean(),
        "interval_years": (last - first).mean(),
    }


def nll(classes, labels):
    """- log P(y), mean over photos, of ``classes`` (n, K) mixed with a hundredth of a uniform
    distribution, which keeps it finite where an age has no probability."""
    given = classes[np.arange(len(labels)), labels]
    return -np.log((1 - UNIFORM) * given + UNIFORM / classes.shape[1]).mean()


def resample(errors, resamples=RESAMPLES):
    """MAEs of bootstrap resamples, (resamples, losses); errors: of each loss (seeds, photos),
    absolute and whole.

    In each resample photos are drawn with replacement, the same for all losses, and then of each
    loss its seeds. As n seeds resampled vary too little, by (n-1)/n of the variance, what the mean
    over the drawn seeds differs from that over all is multiplied by sqrt(n/(n-1)).
    """
    generator, photos = np.random.default_rng(0), len(errors[0][0])
    seeds = [len(part) for part in errors]
    columns, ends = np.concatenate(errors).T.astype(float), np.cumsum([0, *seeds])
    maes = np.empty((resamples, len(errors)))
    step = max(AT_ONCE // photos, 1)
    for begin in range(0, resamples, step):
        size = min(step, resamples - begin)
        counts = np.empty((size, photos))
        shares = np.zeros((size, len(columns.T)))  # of each loss's seeds
        for row in range(size):
            counts[row] = np.bincount(generator.integers(0, photos, photos), minlength=photos)
            for count, start in zip(seeds, ends, strict=False):
                drawn = np.bincount(generator.integers(0, count, count), minlength=count)
                shares[row, start : start + count] = drawn / count
        of_seeds = counts @ columns / photos
        for loss, count in enumerate(seeds):
            here = slice(ends[loss], ends[loss + 1])
            every = of_seeds[:, here].mean(1)
            drawn = (of_seeds[:, here] * shares[:, here]).sum(1)
            wider = np.sqrt(count / max(count - 1, 1))
            maes[begin : begin + size, loss] = every + wider * (drawn - every)
    return maes


def holm(p):
    """p-values (m,) corrected for their number by Holm's procedure (1979): the smallest times m,
    the next times m - 1, and so on, none below one before it, nor above 1."""
    order = np.argsort(p)
    raised = np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(raised, 1)
    return corrected


def verdicts(errors, maes):
    """A dict for each pair of losses, numbers ``a`` and ``b``, with the difference of their MAEs
    in years (a - b; below 0 where a is better), its 95 % interval ``low`` to ``high``, and, if both
    have several seeds, the corrected p-values ``better_p`` and ``equal_p``, and whether they make
    it ``better`` and ``equal``, bool. errors, maes: of resample()."""
    rows = []
    for a, b in combinations(range(len(errors)), 2):
        differences = np.round(maes[:, a] - maes[:, b], 9)  # what is 0 or the margin is just that
        row = {"a": a, "b": b, "difference": errors[a].mean() - errors[b].mean()}
        row["low"], row["high"] = np.percentile(differences, [2.5, 97.5])
        sides = (differences <= 0).mean(), (differences >= 0).mean()
        row["better_p"] = np.clip(2 * min(sides), 1 / len(maes), 1)
        outside = (differences <= -MARGIN).mean(), (differences >= MARGIN).mean()
        row["equal_p"] = max(outside)
        row["told"] = min(len(errors[a]), len(errors[b])) > 1
        rows.append(row)
    told = [row for row in rows if row["told"]]
    for what in ("better", "equal"):
        corrected = holm(np.array([row[f"{what}_p"] for row in told]))
        for row, p in zip(told, corrected, strict=True):
            row |= {f"{what}_p": p, what: bool(p < LEVEL)}
    return rows
