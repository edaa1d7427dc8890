"""True ages and genders of photos, and how far predictions are from them."""

import collections
import itertools
import re
import unicodedata
from pathlib import PurePath

import numpy as np
import pandas as pd

RANGE = re.compile(r"(\d{1,3})-(\d{1,3})")
OPEN_RANGE = re.compile(r"more than (\d{1,3})|(\d{1,3})\+")  # the former in FairFace's tables
OLDEST = 150
GENDERS = "female", "male"
USED = "file", "age", "gender"  # columns of a CSV of labels


def bounds(age):
    """Lowest and highest age in years that a label allows, of 31, 20-29, 70+ or "more than 70", nan
    of an empty one; ValueError if it is none of these."""
    if not age:
        return np.nan, np.nan
    parts, begin = RANGE.fullmatch(age), OPEN_RANGE.fullmatch(age)
    given = parts.groups() if parts else (begin[1] or begin[2], OLDEST) if begin else (age, age)
    low, high = map(float, given)
    if not 0 <= low <= high <= OLDEST:
        raise ValueError(age)
    return low, high


def parts_of(path):
    """The parts of a path, the same for the ways in which systems and spreadsheets write one name:
    accents as letters of their own or not (NFD, NFC), .JPG or .jpg."""
    path = PurePath(unicodedata.normalize("NFC", str(path)))
    return path.with_suffix(path.suffix.lower()).parts if path.name else path.parts


def read_table(path):
    """A CSV as text, without blanks around its names and values; two columns may have one name.
    ValueError where it is none."""
    try:
        table = pd.read_csv(
            path,
            header=None,  # pandas would give one of two columns of one name another
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            compression=None,  # whatever its name ends in
        )
    except ValueError as error:
        raise ValueError(f"{path}: no CSV ({' '.join(str(error).split())})") from None
    table.columns = table.iloc[0].fillna("").str.strip()
    return table.iloc[1:].fillna("").apply(lambda column: column.str.strip())


def read_labels(path, note):
    """{end of a photo's path, as of parts_of(): (age, gender)} of a CSV with the columns file, age
    and, if known, gender, which may both be ""; ``note`` is called with what of it is not used.
    ValueError where it can't be used."""
    table = read_table(path)
    for column in USED[:2]:
        if column not in table:
            raise ValueError(f"{path}: has no column {column!r}")
    for column in USED:
        if list(table).count(column) > 1:
            raise ValueError(f"{path}: has several columns {column!r}; leave one of them")
    if unused := [name for name in table if name and name not in USED]:
        note(f"{path}: columns not used: {', '.join(unused)}")
    if "gender" not in table:
        table["gender"] = ""
    found = {}
    for number, row in enumerate(table[[*USED]].itertuples(), 1):
        place, label = f"{path}: row {number}", (row.age, row.gender.lower())
        try:
            bounds(row.age)
        except ValueError:
            what = f"{place}: age {row.age!r}: give years, or a range as 20-29 or 70+, or nothing"
            raise ValueError(what) from None
        if label[1] not in ("", *GENDERS):
            raise ValueError(f"{place}: gender {row.gender!r}: give male, female or nothing")
        if found.setdefault(parts_of(row.file), label) != label:
            raise ValueError(f"{place}: {row.file!r} has another label in an earlier row")
    return found


def read_groups(path):
    """The photos of a CSV that read_labels() has read, as its keys, and its other columns, by which
    they may be grouped, as a DataFrame; without those that share a name."""
    table = read_table(path)
    names = [name for name in table if name and name not in USED]
    names = [name for name in names if names.count(name) == 1]
    return list(map(parts_of, table["file"])), table[names]


def check_labels(found, sources, scripts):
    """ValueError where a label is that of several ``sources``, none is that of any, or the ages are
    the classes of a training CSV: lower by the youngest age of one of the ``scripts``, modules,
    than the files' names tell."""
    counts = collections.Counter(key_of(source, found) for source in sources)
    if counts.keys() == {None}:
        raise ValueError("no file in it is the end of an input's path; shorten its paths")
    for key, count in counts.items():
        if key and count > 1:
            more = "give more of its path"
            raise ValueError(f"{str(PurePath(*key))!r} is the end of {count} inputs; {more}")
    names = pd.Series([PurePath(*key).as_posix() for key in found], dtype=str)
    ages = np.array([bounds(age)[0] for age, _ in found.values()])
    for script in scripts:
        told, youngest = names.str.extract(script.AGE_IN_NAME)[0].astype(float), script.YOUNGEST_AGE
        if youngest and told.nunique() > 1 and (told - ages == youngest).mean() > 0.9:
            what = f"its ages are those of the file names minus {youngest}"
            raise ValueError(f"{what}, classes for training; give ages in years")


def key_of(source, found):
    """The key of read_labels() that is the longest end of the path ``source``; None if there is
    none."""
    parts = parts_of(source)
    return next((end for i in range(len(parts)) if (end := parts[i:]) in found), None)


def scores(rows, known=None):
    """How far the answers are from the labels: a dict for each group of ``rows`` (dicts of age, of
    true_age and true_gender where they are known, and gender where the network has that output):
    all, women, men, and by age, decades or the ranges that the labels give.

    The error of an age is its distance in years to the nearest one that the label allows. Where
    labels are ranges, the figures of these alone are told apart: mae_to_range; group_accuracy, the
    share of ages inside; and, unless ranges of ``known``, of read_labels(), or else of the rows,
    overlap, one_off_accuracy, the share inside or no farther than the group next to it. Beside
    ranges mae_exact is the MAE of the other rows.
    """
    if not rows:
        return []
    # no other columns of theirs: that named right is the side of a box
    table = pd.DataFrame(rows, columns=["age", "true_age", "true_gender", "gender"])
    table["true_age"] = table["true_age"].fillna("")
    table["low"], table["high"] = zip(*table["true_age"].map(bounds), strict=True)
    error = (table["age"] - table["age"].clip(table["low"], table["high"])).abs()
    table["error"] = error.where(table["low"].notna())
    is_range = table["low"] < table["high"]
    table["to_range"], table["exact"] = error.where(is_range), table["error"].mask(is_range)
    given = [age for age, _ in known.values()] if known else table["true_age"]
    wider = one_off(map(bounds, given))
    ends = [wider.get(bounds(age), (np.nan, np.nan)) for age in table["true_age"]]
    low, high = np.array(ends).T
    table["near"] = table["age"].between(low, high).where(is_range & ~np.isnan(low))
    of_gender = table["true_gender"].isin(GENDERS) & table["gender"].notna()
    table["right"] = (table["gender"] == table["true_gender"]).where(of_gender)

    table["group"] = age_groups(table["true_age"], table["low"], table["high"])
    groups = [("all", table)]
    groups += [(g, table[table["true_gender"] == g]) for g in GENDERS]
    groups += list(table.sort_values("low").groupby("group", sort=False))
    return [figures(name, part) for name, part in groups if len(part)]


def age_groups(texts, low, high):
    """Of each label its decade, 20-29 of 23 (90-100 from 90 on), or the range that it is, as it is
    written; nan where the age is unknown. low, high: of bounds(); all are Series."""
    decades = (low // 10).clip(upper=9) * 10
    last = (decades + 9).replace(99, 100)
    spans = np.array([f"{a:.0f}-{b:.0f}" for a, b in zip(decades, last, strict=True)])
    return texts.where(low < high, spans).where(low.notna())


def one_off(ends):
    """{(lowest, highest) of a range: those of it and the groups next to it} of the ranges among
    ``ends``, such pairs; empty where two of them overlap."""
    groups = sorted({(low, high) for low, high in ends if low < high})
    if any(high >= low for (_, high), (low, _) in itertools.pairwise(groups)):
        return {}
    before, after = [*groups[:1], *groups], [*groups[1:], *groups[-1:]]
    return {own: (a[0], b[1]) for a, own, b in zip(before, groups, after, strict=False)}


def figures(name, part):
    """The scores of a group, of the rows ``part`` of the table in scores()."""
    row = {"group": name, "photos": len(part)}
    error = part["error"].dropna()
    if len(error):
        row |= {"mae": error.mean(), "rmse": (error**2).mean() ** 0.5}
        row["within_5"] = (error <= 5).mean()
    if part["to_range"].notna().any():
        to_range = part["to_range"].dropna()
        row |= {"mae_to_range": to_range.mean(), "group_accuracy": (to_range == 0).mean()}
        shares = {"one_off_accuracy": part["near"], "mae_exact": part["exact"]}
        row |= {k: v.dropna().astype(float).mean() for k, v in shares.items() if v.notna().any()}
    if part["right"].notna().any():
        row["gender_accuracy"] = part["right"].dropna().astype(float).mean()
    return row


# of as_table(): heading, its width, key, form; those of ranges only where there are any
COLUMNS = [
    ("MAE", 6, "mae", ".2f"),
    ("RMSE", 6, "rmse", ".2f"),
    ("within 5", 9, "within_5", ".1%"),
    ("MAE exact", 9, "mae_exact", ".2f"),
    ("to range", 8, "mae_to_range", ".2f"),
    ("group", 7, "group_accuracy", ".1%"),
    ("one off", 7, "one_off_accuracy", ".1%"),
    ("gender", 7, "gender_accuracy", ".1%"),
]
ALWAYS = "mae", "rmse", "within_5", "gender_accuracy"


def as_table(found):
    """scores() in lines for people; none of no scores."""
    if not found:
        return []
    wide = max(8, *(len(row["group"]) for row in found))
    shown = [c for c in COLUMNS if c[2] in ALWAYS or any(c[2] in row for row in found)]
    lines = [" ".join([f"{'group':<{wide}} photos", *(f"{h:>{w}}" for h, w, *_ in shown)])]
    for row in found:
        line = f"{row['group']:<{wide}} {row['photos']:6}"
        for _, width, key, form in shown:
            text = format(row[key], form) if key in row else ""
            line += f" {text:>{width}}"
        lines.append(line.rstrip())
    return lines
