"""Probabilities of the ages, and the intervals that hold a share of them."""

import numpy as np


def class_probas(probas, count):
    """Probabilities of the K = ``count`` classes, float64 (..., K): those of ce, or from P(y > k),
    (..., K-1), sorted, which leaves the number above 0.5, the label, as it is."""
    probas = np.asarray(probas, np.float64)
    if probas.shape[-1] == count:
        return probas
    above, end = np.sort(probas)[..., ::-1], np.ones((*probas.shape[:-1], 1))
    above = np.concatenate([end, above, 0 * end], axis=-1)
    return above[..., :-1] - above[..., 1:]


def interval(classes, label, share=0.8):
    """The shortest run of neighbouring classes that contains ``label`` and at least ``share`` of
    the probability (of several, the most probable): its first and last class and its probability.
    """
    sums = np.concatenate([[0], np.cumsum(classes)])
    for length in range(1, len(classes) + 1):
        starts = np.arange(max(label - length + 1, 0), min(label, len(classes) - length) + 1)
        held = sums[starts + length] - sums[starts]
        if held.max() >= share or length == len(classes):
            first = starts[held.argmax()].item()
            return first, first + length - 1, held.max().item()


def intervals(classes, labels, shares):
    """interval() of each row of ``classes`` (n, K), ``labels`` and ``shares`` (n,): first and last
    classes, int64 (n,), and probabilities (n,). Of thousands at once; for one it takes fifteen
    times as long."""
    rows, count = classes.shape
    sums = np.pad(np.cumsum(classes, 1), [(0, 0), (1, 0)])
    labels, shares = np.asarray(labels)[:, None], np.asarray(shares)
    first, last, held = np.zeros(rows, int), np.zeros(rows, int), np.zeros(rows)
    open_rows = np.arange(rows)
    for length in range(1, count + 1):
        starts = np.arange(count - length + 1)
        inside = (starts <= labels[open_rows]) & (labels[open_rows] < starts + length)
        here = sums[open_rows]
        sure = np.where(inside, here[:, length:] - here[:, :-length], -1)
        start = sure.argmax(1)
        sure = sure.max(1)
        done = (sure >= shares[open_rows]) | (length == count)
        found = open_rows[done]
        first[found], last[found] = start[done], start[done] + length - 1
        held[found] = sure[done]
        open_rows = open_rows[~done]
    return first, last, held
