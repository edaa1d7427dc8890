"""True ages and genders of photos, and how far predictions are from them."""

import collections
import re
import unicodedata
from pathlib import PurePath

import numpy as np
import pandas as pd

RANGE = re.compile(r"(\d{1,3})-(\d{1,3})")
OPEN_RANGE = re.compile(r"more than (\d{1,3})|(\d{1,3})\+")  # the former in FairFace's tables
OLDEST = 150
GENDERS = "female", "male"


def bounds(age):
    """Lowest and highest age in years that a label allows, of 31, 20-29, 70+ or "more than 70";
    ValueError if it is none of these."""
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
    and, if known, gender; ``note`` is called with what of it is not used. ValueError where it can't
    be used."""
    table, used = read_table(path), ("file", "age", "gender")
    for column in used[:2]:
        if column not in table:
            raise ValueError(f"{path}: has no column {column!r}")
    for column in used:
        if list(table).count(column) > 1:
            raise ValueError(f"{path}: has several columns {column!r}; leave one of them")
    if unused := [name for name in table if name and name not in used]:
        note(f"{path}: columns not used: {', '.join(unused)}")
    if "gender" not in table:
        table["gender"] = ""
    found = {}
    for number, row in enumerate(table[[*used]].itertuples(), 1):
        place, label = f"{path}: row {number}", (row.age, row.gender.lower())
        try:
            bounds(row.age)
        except ValueError:
            what = f"{place}: age {row.age!r}: give years, or a range as 20-29 or 70+"
            raise ValueError(what) from None
        if label[1] not in ("", *GENDERS):
            raise ValueError(f"{place}: gender {row.gender!r}: give male, female or nothing")
        if found.setdefault(parts_of(row.file), label) != label:
            raise ValueError(f"{place}: {row.file!r} has another label in an earlier row")
    return found


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


def scores(rows):
    """How far the answers are from the labels: a dict for each group of ``rows`` (dicts of age,
    true_age, true_gender, and gender where the network has that output): all, women, men, and by
    age, decades or the ranges that the labels give. The error of an age is its distance in years to
    the nearest one that the label allows."""
    if not rows:
        return []
    # no other columns of theirs: that named right is the side of a box
    table = pd.DataFrame(rows, columns=["age", "true_age", "true_gender", "gender"])
    table["low"], table["high"] = zip(*table["true_age"].map(bounds), strict=True)
    error = (table["age"] - table["age"].clip(table["low"], table["high"])).abs()
    table["error"], table["squared"], table["within_5"] = error, error**2, error <= 5
    known = table["true_gender"].isin(GENDERS) & table["gender"].notna()
    table["right"] = (table["gender"] == table["true_gender"]).where(known)

    decades = (table["low"] // 10).clip(upper=9).astype(int) * 10
    ends = (decades + 9).replace(99, 100)
    ranges = decades.astype(str) + "-" + ends.astype(str)
    table["group"] = table["true_age"].where(table["low"] < table["high"], ranges)
    groups = [("all", table)]
    groups += [(g, table[table["true_gender"] == g]) for g in GENDERS]
    groups += list(table.sort_values("low").groupby("group", sort=False))
    found = []
    for name, part in groups:
        row = {"group": name, "photos": len(part), "mae": part["error"].mean()}
        row |= {"rmse": part["squared"].mean() ** 0.5, "within_5": part["within_5"].mean()}
        if part["right"].notna().any():
            row["gender_accuracy"] = part["right"].dropna().astype(float).mean()
        if len(part):
            found.append(row)
    return found


def as_table(found):
    """scores() in lines for people; none of no scores."""
    if not found:
        return []
    wide = max(8, *(len(row["group"]) for row in found))
    lines = [
        f"{'group':<{wide}} {'photos':>6} {'MAE':>6} {'RMSE':>6} {'within 5':>9} {'gender':>7}"
    ]
    for row in found:
        numbers = f"{row['mae']:6.2f} {row['rmse']:6.2f} {row['within_5']:9.1%}"
        gender = f"{row['gender_accuracy']:7.1%}" if "gender_accuracy" in row else ""
        lines.append(f"{row['group']:<{wide}} {row['photos']:6} {numbers} {gender}".rstrip())
    return lines
