"""The protocol of model-code/results/README.md, by plain loops and by hand."""

import math

import numpy as np
import pytest
from coral_age import significance
from coral_age.intervals import interval, intervals


def slow_resample(errors, resamples):
    """One resample after the other, one photo after the other; errors: lists of lists."""
    generator, photos = np.random.default_rng(0), len(errors[0][0])
    found = []
    for _ in range(resamples):
        drawn, maes = generator.integers(0, photos, photos).tolist(), []
        for of_loss in errors:
            count = len(of_loss)
            seeds = generator.integers(0, count, count).tolist()
            total = 0
            for photo in drawn:
                every = sum(of_seed[photo] for of_seed in of_loss) / count
                chosen = sum(of_loss[seed][photo] for seed in seeds) / count
                wider = math.sqrt(count / (count - 1)) if count > 1 else 0
                total += every + wider * (chosen - every)
            maes.append(total / photos)
        found.append(maes)
    return np.array(found)


def made_errors(*seeds, photos=30):
    draw = np.random.default_rng(3)
    return [draw.integers(0, 9, (count, photos)) for count in seeds]


def test_resamples_by_a_plain_loop(monkeypatch):
    """Photos are the same for all losses, seeds are drawn for each; in parts as well."""
    errors = made_errors(3, 1, 2, 5)
    due = slow_resample([part.tolist() for part in errors], 40)
    np.testing.assert_allclose(significance.resample(errors, 40), due, rtol=1e-12)
    monkeypatch.setattr(significance, "AT_ONCE", 30 * 7)  # 7, 7, ... and 5 resamples
    np.testing.assert_allclose(significance.resample(errors, 40), due, rtol=1e-12)


def test_spread_over_seeds():
    """Photos alike, seeds of 4, 5 and 6 years: the standard error of their mean is 1 / sqrt(3)."""
    errors = [np.full((3, 10), 5) + np.array([[-1], [0], [1]])]
    maes = significance.resample(errors)
    assert maes.shape == (10_000, 1) and maes.mean() == pytest.approx(5, abs=0.03)
    assert maes.std() == pytest.approx(1 / math.sqrt(3), rel=0.03)


def test_interval_over_photos_as_scipy_has_it():
    """One seed each: the percentile bootstrap of the paired differences' mean."""
    stats = pytest.importorskip("scipy.stats")
    a, b = made_errors(1, 1, photos=200)
    [pair] = significance.verdicts([a, b], significance.resample([a, b]))
    due = stats.bootstrap(((a - b)[0],), np.mean, n_resamples=10_000, method="percentile", rng=0)
    assert pair["low"] == pytest.approx(due.confidence_interval.low, abs=0.02)
    assert pair["high"] == pytest.approx(due.confidence_interval.high, abs=0.02)
    assert not pair["told"] and "better" not in pair and "equal" not in pair


def test_holm_by_hand():
    """0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which may not be below the one before it."""
    p = significance.holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert p == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm(np.array([0.7, 0.6])).tolist() == [1, 1]
    assert significance.holm(np.array([0.2])).tolist() == [0.2]
    assert significance.holm(np.array([])).tolist() == []


def slow_verdicts(maes):
    """{(a, b): (better, equal)} of resampled MAEs, by Holm's procedure step by step."""
    resamples, losses = maes.shape
    p = {"better": {}, "equal": {}}
    for a in range(losses):
        for b in range(a + 1, losses):
            d = [x - y for x, y in zip(maes[:, a].tolist(), maes[:, b].tolist(), strict=True)]
            below, above = sum(x <= 0 for x in d), sum(x >= 0 for x in d)
            p["better"][a, b] = max(2 * min(below, above) / resamples, 1 / 10_000)
            below, above = sum(x <= -0.1 for x in d), sum(x >= 0.1 for x in d)
            p["equal"][a, b] = max(below, above) / resamples
    found = {}
    for what, of_pairs in p.items():
        left, rejected = sorted(of_pairs, key=of_pairs.get), set()
        while left and of_pairs[left[0]] * len(left) < 0.05:
            rejected.add(left.pop(0))
        found[what] = rejected
    return {pair: tuple(pair in found[what] for what in found) for pair in p["better"]}


def test_verdicts_by_a_plain_loop():
    """Resampled MAEs around 5, 5.02, 5.3, 5.33, ...: pairs of all four kinds."""
    draw = np.random.default_rng(1)
    middles = [5.0, 5.02, 5.3, 5.33, 5.37, 5.6]
    maes = np.array(middles) + draw.normal(0, [0.02, 0.02, 0.02, 0.01, 0.01, 0.2], (10_000, 6))
    errors = [np.full((2, 5), middle) for middle in middles]
    due, kinds = slow_verdicts(maes), set()
    for pair in significance.verdicts(errors, maes):
        a, b = pair["a"], pair["b"]
        assert (pair["better"], pair["equal"]) == due[a, b]
        kinds.add(due[a, b])
        assert pair["difference"] == pytest.approx(middles[a] - middles[b])
        ends = np.quantile(maes[:, a] - maes[:, b], [0.025, 0.975])
        assert [pair["low"], pair["high"]] == pytest.approx(ends.tolist(), abs=1e-6)
    assert kinds == {(True, True), (True, False), (False, True), (False, False)}


def test_the_same_answers_are_not_better():
    """Of two losses that err alike all differences are 0: equal, for certain, and p is 1."""
    errors = [np.full((2, 50), 3)] * 2
    [pair] = significance.verdicts(errors, significance.resample(errors))
    assert (pair["better"], pair["better_p"]) == (False, 1)
    assert (pair["equal"], pair["equal_p"]) == (True, 0)
    for a, b in ((5.2, 5.3), (5.3, 5.2)):  # just the margin, which is not inside
        [pair] = significance.verdicts(errors, np.tile([a, b], (10, 1)))
        assert (pair["equal"], pair["equal_p"]) == (False, 1)


def test_p_is_of_both_sides():
    """300 of 10,000 resamples at 0 or below: p is 0.06."""
    maes = np.zeros((10_000, 2))
    maes[300:, 0] = 1
    [pair] = significance.verdicts([np.ones((2, 3)), np.zeros((2, 3))], maes)
    assert pair["better_p"] == 0.06 and not pair["better"]


def test_one_seed_leaves_the_others_their_verdict():
    """Holm's procedure is over the pairs that have one."""
    errors = [np.full((2, 40), 3), np.full((1, 40), 4), np.full((2, 40), 5)]
    first, second, third = significance.verdicts(errors, significance.resample(errors))
    assert [pair["told"] for pair in (first, second, third)] == [False, True, False]
    assert second["better"] and second["better_p"] == 1 / 10_000


def test_scores_by_hand():
    """Three ages; P(y > k) of four photos. Medians 1, 0, 2, 1 for labels 1, 2, 2, 0."""
    above = np.array([[0.75, 0.25], [0.5, 0.25], [1, 1], [1, 0]])
    labels, predicted = np.array([1, 2, 2, 0]), np.array([1, 0, 2, 1])
    found = significance.scores(above, labels, predicted, np.full(4, 0.7))
    assert found["median_errors"].tolist() == [0, 2, 0, 1]
    # labels 0, 1, 2 have MAEs of 1, 0, (2 + 0) / 2
    assert found["median_amae"] == pytest.approx((1 + 0 + 1) / 3)
    given = [0.5, 0.25, 1, 0]
    due = [-math.log(0.99 * p + 0.01 / 3) for p in given]
    assert found["nll"] == pytest.approx(sum(due) / 4) and max(due) == pytest.approx(math.log(300))
    # 0 to 1 holds 0.75, as 1 to 2 does, and 0 to 1 comes first; 0 to 1 0.75; 2; 1
    assert found["coverage"] == 50 and found["interval_years"] == (1 + 1 + 0 + 0) / 4


def test_intervals_of_many_are_those_of_each():
    """The shortest around the label with enough, of several the most probable: by trying all."""
    draw = np.random.default_rng(5)
    classes = draw.dirichlet(np.full(9, 0.4), 300)
    labels, shares = draw.integers(0, 9, 300), draw.choice([0.5, 0.8, 0.99, 1.01], 300)
    first, last, held = intervals(classes, labels, shares)
    for i in range(300):
        row, enough = classes[i].tolist(), []
        for a in range(labels[i] + 1):
            for b in range(labels[i], 9):
                if sum(row[a : b + 1]) >= shares[i] or b - a == 8:
                    enough.append((b - a, -sum(row[a : b + 1]), a, b))
        _, most, a, b = min(enough)
        assert (first[i], last[i]) == (a, b) and held[i] == pytest.approx(-most)
        assert interval(classes[i], labels[i], shares[i]) == (first[i], last[i], held[i])
