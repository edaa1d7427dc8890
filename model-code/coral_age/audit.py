"""How wrong a network's answers were on labelled photos, for whom, and how sure they may be taken.

    audit = Audit(photos, probas, youngest, groups)
    errors(audit)  # a DataFrame of figures, each with its count and 95 % interval

report.py makes a page of these figures. They are of the photos at hand, and no verdict.
"""

import math
import re

import numpy as np
import pandas as pd

from coral_age.labels import GENDERS, age_groups, bounds

LIMITS = 13, 16, 18, 21  # years
BUFFERS = 0, 3, 5, 7  # years above a limit from which an answer counts as over it
NEAR = 5  # years on either side of a limit that are told apart
SHARES = 1, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1  # of the photos, answered
FEW = 30  # photos: a group of fewer is marked
MOST = 20  # values of a column by which photos are grouped
RESAMPLES = 2000
RANGE = "true age as a range"  # of labels, where others are single years
Z = 1.959963984540054  # 97.5 % point of the normal distribution


class Audit:
    """Labelled photos, and what was answered for them.

    photos: DataFrame, a row for each: kind ("image" where a face was answered for, else "no face"
    or "error"); of the label true_age as labels.bounds() reads it (31, 20-29, 70+ or "") and
    true_gender (female, male or ""); of the answer age, age_low, age_high (years) and, if known,
    interval_probability, gender and gender_probability, as in predictions.csv.
    probas: (n, K), probabilities of the ages from ``youngest`` on; of what was not answered, any.
    groups: DataFrame of texts, a column for each further way to group the photos; "" is unknown.
    """

    def __init__(self, photos, probas, youngest, groups=None):
        texts = photos["true_age"].fillna("").reset_index(drop=True)
        photos = photos.reset_index(drop=True).assign(true_age=texts)
        for name in ("true_gender", "gender", "gender_probability", "interval_probability"):
            photos[name] = photos[name] if name in photos else None
        for name in ("age", "age_low", "age_high", "gender_probability", "interval_probability"):
            photos[name] = photos[name].astype(float)
        photos["low"], photos["high"] = np.array(list(map(bounds, texts))).reshape(-1, 2).T
        error = photos["age"] - photos["age"].clip(photos["low"], photos["high"])
        photos["error"] = error.where(photos["low"].notna())
        known = photos["true_gender"].isin(GENDERS) & photos["gender"].notna()
        right = (photos["gender"] == photos["true_gender"]).astype(float)
        photos["gender_right"] = right.where(known)
        self.photos, self.probas, self.youngest = photos, np.asarray(probas), youngest
        self.answered = (photos["kind"] == "image").to_numpy()
        self.age_group = age_groups(texts, photos["low"], photos["high"])
        ranges = photos["low"] < photos["high"]
        # how photos are grouped: {name: texts, "" or nan where unknown}; a range of ages and a
        # decade of single years make no group, as errors to them are no fair comparison
        self.ages = {"true age": self.age_group}
        if ranges.any() and (photos["low"] == photos["high"]).any():
            self.ages = {
                "true age": self.age_group.mask(ranges),
                RANGE: self.age_group.where(ranges),
            }
        self.by = self.ages | {"true gender": photos["true_gender"]}
        for name in [] if groups is None else groups:
            self.by[name] = groups[name].reset_index(drop=True)

    def parts(self, ages=True):
        """(name of the grouping, group, its photos as bool (n,)): all, by age if wanted, and so
        on."""
        yield "all", "all", np.ones(len(self.photos), bool)
        for name, texts in self.by.items():
            if ages or name not in self.ages:
                for text in sorted({text for text in texts.dropna() if text}, key=in_order):
                    yield name, text, (texts == text).to_numpy()


def in_order(text):
    """A key that sorts 5-9 before 10-19, and words behind numbers."""
    number = re.match(r"\d+", text)
    return int(number[0]) if number else math.inf, text


def few_valued(table):
    """The columns of texts by which photos can be grouped, of 2 to MOST values, as a DataFrame, and
    the others in words."""
    counts = {name: table[name][table[name] != ""].nunique() for name in table}
    kept = [name for name, count in counts.items() if 2 <= count <= MOST]
    counts = {name: count for name, count in counts.items() if name not in kept}
    out = [f"{name} ({count:,} value{'s' * (count != 1)})" for name, count in counts.items()]
    reason = f"; only columns of 2 to {MOST} different values make groups"
    return table[kept], ", ".join(out) + reason if out else ""


# %% Intervals of 95 %
def wilson(count, total):
    """Of a share of ``count`` in ``total`` (Wilson 1927, score interval); nan of none."""
    if not total:
        return math.nan, math.nan
    share, squared = count / total, Z * Z / total
    half = math.sqrt(squared * (share * (1 - share) + squared / 4))
    low, high = ((share + squared / 2 + side) / (1 + squared) for side in (-half, half))
    return max(low, 0.0), min(high, 1.0)


def resample(values, generator):
    """Means of RESAMPLES bootstrap resamples of ``values`` (n,), (RESAMPLES,); how often each
    value is drawn is drawn at once."""
    found, counts = np.unique(values, return_counts=True)
    step = max(2**20 // len(found), 1)  # resamples at once, for which there is memory
    sizes = [min(step, RESAMPLES - begin) for begin in range(0, RESAMPLES, step)]
    shares, total = counts / len(values), len(values)
    return np.concatenate([generator.multinomial(total, shares, n) @ found for n in sizes]) / total


def percentiles(means):
    return tuple(np.percentile(means, [2.5, 97.5]).tolist())


def bootstrap(values, seed=0):
    """Of the mean of ``values`` (n,), by the percentiles of bootstrap resamples."""
    return percentiles(resample(values, np.random.default_rng(seed)))


def amae(errors, groups, seed=0):
    """The mean over age ``groups`` (n,) of their MAEs, so that each age counts the same however
    many photos it has (Baccianella, Esuli and Sebastiani 2009), and its interval, each group
    resampled by itself."""
    errors, groups = np.abs(errors), np.asarray(groups)
    parts = [errors[groups == name] for name in pd.unique(groups)]
    generator = np.random.default_rng(seed)
    means = np.mean([resample(part, generator) for part in parts], axis=0)
    return float(np.mean([part.mean() for part in parts])), *percentiles(means)


def mean_of(name, values):
    """The columns {name}, its interval and the count that a table has of a mean."""
    values = np.asarray(values, float)
    if not len(values):
        return {f"{name}_of": 0}
    return told(name, len(values), values.mean(), *bootstrap(values))


def share_of(name, happened):
    """The columns that a table has of the share of ``happened``, bool (n,)."""
    count, total = int(np.sum(happened)), len(happened)
    if not total:
        return {f"{name}_of": 0}
    return {f"{name}_count": count} | told(name, total, count / total, *wilson(count, total))


def told(name, total, value, low, high):
    return {f"{name}_of": total, name: value, f"{name}_low": low, f"{name}_high": high}


def as_table(rows):
    """A DataFrame of rows, which are marked where a count in them is of few photos."""
    for row in rows:
        counts = [count for name, count in row.items() if name.endswith("_of") and count]
        row["few"] = bool(counts) and min(counts) < FEW
    return pd.DataFrame(rows)


# %% Errors
def errors(audit):
    """MAE, mean signed error (too_old_by) and AMAE of the ages in years, the share of ages inside
    labels that are ranges, and of right genders, of all photos and by group. The error of an age is
    its distance to the nearest one that the label allows, below 0 where it is too young."""
    rows = []
    for by, group, here in audit.parts():
        part = audit.photos[here & audit.answered]
        known = part["error"].dropna()
        row = {"by": by, "group": group, "photos": len(part)}
        row |= mean_of("mae", known.abs()) | mean_of("too_old_by", known)
        ages = audit.age_group[known.index]
        if ages.nunique() > 1:
            row |= told("amae", len(known), *amae(known.to_numpy(), ages))
        ranges = part["low"] < part["high"]
        row |= share_of("in_range", part["error"][ranges & part["error"].notna()] == 0)
        row |= share_of("gender_right", part["gender_right"].dropna() == 1)
        rows += [row] if len(part) else []
    return as_table(rows)


# %% Over an age limit
def at_least(low, high, limit):
    """Of ages in years, or as ranges from ``low`` to ``high``, whether they are ``limit`` or more:
    1, 0, or nan of ranges with ages on both sides, and of unknown ages."""
    return np.where(low >= limit, 1.0, np.where(high < limit, 0.0, np.nan))


def limit_figures(old, over):
    """The share let through, ``over`` though younger than a limit (the false positive rate), and
    the share sent on, not over though old enough (the false negative rate). old: of at_least();
    over: bool (n,), whether the answer counts as over the limit."""
    return share_of("let_through", over[old == 0]) | share_of("sent_on", ~over[old == 1])


def sides(audit, limit):
    """at_least() of the photos, nan where there is no answer as well."""
    old = at_least(audit.photos["low"], audit.photos["high"], limit)
    return np.where(audit.answered, old, np.nan)


def each_limit(audit):
    """(limit, buffer, sides(), whether answers count as over) for those limits that have photos on
    both sides."""
    age = audit.photos["age"].to_numpy()
    for limit in LIMITS:
        old = sides(audit, limit)
        if {0.0, 1.0} <= set(old):
            for buffer in BUFFERS:
                yield limit, buffer, old, age >= limit + buffer


def limits(audit):
    """limit_figures() of all photos, by limit and buffer, and how many were left out because
    their ranges have ages on both sides."""
    straddle = audit.answered & (audit.photos["low"].notna()).to_numpy()
    rows = []
    for limit, buffer, old, over in each_limit(audit):
        row = {"limit": limit, "buffer": buffer} | limit_figures(old, over)
        rows.append(row | {"left_out": int((straddle & np.isnan(old)).sum())})
    return as_table(rows)


def limits_by_group(audit):
    """The same by group, but not by age."""
    rows = []
    for limit, buffer, old, over in each_limit(audit):
        for by, group, here in audit.parts(ages=False):
            row = {"limit": limit, "buffer": buffer, "by": by, "group": group}
            row |= limit_figures(old[here], over[here])
            rows += [row] if row["let_through_of"] or row["sent_on_of"] else []
    return as_table(rows)


def bands(audit, limit):
    """Names of the true ages of photos around a limit: single years near it, wider parts further
    away, and ranges as the labels have them."""
    first, last = limit - NEAR, limit + NEAR - 1

    def name(text, low, high):
        if low < high:
            return text
        if low < first:
            return f"0-{first - 1}"
        if low < last + 1:
            return str(int(low))
        return f"{last + 1}-{last + 5}" if low < last + 6 else f"{last + 6}+"

    columns = (audit.photos[column] for column in ("true_age", "low", "high"))
    return np.array([name(*ends) for ends in zip(*columns, strict=True)], object)


def limits_by_age(audit):
    """The share of answers that count as over, by limit, buffer and true age, single ages first."""
    rows = []
    for limit, buffer, old, over in each_limit(audit):
        names, known = bands(audit, limit), ~np.isnan(old)
        for by, texts in audit.ages.items():
            some = known & texts.notna().to_numpy()
            for name in sorted(set(names[some]), key=in_order):
                here = some & (names == name)
                row = {"limit": limit, "buffer": buffer, "by": by, "true_age": name}
                row |= {"old_enough": bool(old[here][0])} | share_of("over", over[here])
                rows.append(row)
    return as_table(rows)


# %% Probabilities
def p_at_least(probas, youngest, limit):
    """P(age >= limit), (...), from probabilities of the ages from ``youngest`` on, (..., K)."""
    return np.clip(probas[..., max(limit - youngest, 0) :].sum(-1, dtype=float), 0, 1)


def reliability(probas, happened, bins=10):
    """A row for each of equal bins of ``probas`` (n,), P of what ``happened``, bool (n,): the
    number of photos, the mean P, and the share that happened."""
    place = np.minimum((probas * bins).astype(int), bins - 1)
    rows = []
    for number in np.unique(place):
        here = place == number
        row = {"p_from": number / bins, "p_to": (number + 1) / bins}
        row |= {"mean_p": probas[here].mean()} | share_of("share", happened[here])
        rows.append(row)
    return as_table(rows)


def ece(table):
    """The expected calibration error (Naeini, Cooper and Hauskrecht 2015) of a reliability(): the
    mean over photos of how far a bin's mean P is from what happened."""
    return np.average((table["mean_p"] - table["share"]).abs(), weights=table["share_of"])


def calibration(audit):
    """reliability() of P(age >= limit) by limit, and by limit the ECE, the mean P and the share of
    photos that are old enough."""
    bins, rows = [], []
    for limit in dict.fromkeys(limit for limit, *_ in each_limit(audit)):
        old = sides(audit, limit)
        known = ~np.isnan(old)
        given = p_at_least(audit.probas[known], audit.youngest, limit)
        table = reliability(given, old[known] == 1)
        table.insert(0, "limit", limit)
        bins.append(table)
        row = {"limit": limit, "ece": ece(table), "mean_p": given.mean()}
        rows.append(row | share_of("share", old[known] == 1))
    return (pd.concat(bins, ignore_index=True) if bins else pd.DataFrame()), as_table(rows)


def coverage(audit):
    """How many of the intervals hold the true age (of ranges: have an age in common), their mean
    width in years (20 to 42 are 22), and the probability that they were said to hold, by decade of
    the answer and by age group of the label."""
    photos = audit.photos[audit.answered]
    predicted = age_groups(photos["true_age"], photos["age"], photos["age"])
    ways = {"all": predicted.where(predicted.isna(), "all")}
    true = {name: texts[audit.answered] for name, texts in audit.ages.items()}
    ways |= {"predicted age": predicted} | true
    rows = []
    for by, texts in ways.items():
        for text in sorted(set(texts.dropna()), key=in_order):
            part = photos[texts == text]
            held = (part["age_low"] <= part["high"]) & (part["low"] <= part["age_high"])
            row = {"by": by, "group": text, "photos": len(part)}
            row |= share_of("coverage", held[part["low"] == part["high"]])
            row |= share_of("range_met", held[part["low"] < part["high"]])
            row |= mean_of("width", part["age_high"] - part["age_low"])
            if part["interval_probability"].notna().any():
                row["said"] = part["interval_probability"].mean()
            rows.append(row)
    return as_table(rows)


# %% What has no answer
def found(audit):
    """The share of photos that were answered for, and the numbers of those in which no face was
    found, and of those that could not be read, of all labelled ones and by group."""
    rows = []
    for by, group, here in audit.parts():
        kinds = audit.photos["kind"][here]
        row = {"by": by, "group": group} | share_of("answered", kinds == "image")
        row |= {"no_face": int((kinds == "no face").sum())}
        rows.append(row | {"unreadable": int((kinds == "error").sum())})
    return as_table(rows)


# %% Risk against coverage
def risk_coverage(loss, confidence):
    """If only photos of at least a confidence are answered: for each confidence that occurs, the
    highest first, it, the share answered, and their mean loss (El-Yaniv and Wiener 2010). loss,
    confidence: (n,)."""
    order = np.argsort(-confidence, kind="stable")
    loss, confidence = loss[order], confidence[order]
    last = np.append(confidence[1:] != confidence[:-1], True)  # of those of one confidence
    counts = np.arange(1, len(loss) + 1)[last]
    return confidence[last], counts / len(loss), np.cumsum(loss)[last] / counts


def losses(audit):
    """{answer: (loss, confidence)} where the truth is known: of ages the absolute error, and the
    width of the interval, negative; of genders 1 where they are wrong, and their probability."""
    photos, known = audit.photos[audit.answered], {}
    ages = photos[photos["error"].notna()]
    if len(ages):
        width = ages["age_high"] - ages["age_low"]
        known["age"] = ages["error"].abs().to_numpy(), -width.to_numpy()
    genders = photos[photos["gender_right"].notna()]
    if len(genders):
        sure = genders["gender_probability"].to_numpy()
        known["gender"] = 1 - genders["gender_right"].to_numpy(), sure
    return known


def curves(audit):
    """{answer: risk_coverage()}."""
    return {answer: risk_coverage(*both) for answer, both in losses(audit).items()}


def risk(audit):
    """MAE where only the photos with the narrowest intervals are answered, and the share of wrong
    genders where only those of the highest probability are: of SHARES of the photos, or the next
    larger share that a threshold gives."""
    rows = []
    for answer, (loss, confidence) in losses(audit).items():
        thresholds, shares, _ = risk_coverage(loss, confidence)
        places = [int(np.argmax(shares >= share - 1e-9)) for share in SHARES]
        for place in dict.fromkeys(places):
            some = loss[confidence >= thresholds[place]]
            row = {"answer": answer, "answered": shares[place]}
            if answer == "age":
                row |= {"width": -thresholds[place]} | mean_of("mae", some)
            else:
                row |= {"probability": thresholds[place]} | share_of("wrong", some == 1)
            rows.append(row)
    return as_table(rows)
