"""Labels from tables: those that come with FairFace, APPA-REAL and Adience, or a CSV of your own.

A table is known by its columns:

    file, and any of age, gender, race, weight, subject    FairFace, or your own
    file, gender, race, ... without an age                 APPA-REAL, allcategories_*.csv
    file_name, apparent_age_avg, real_age, ...             APPA-REAL, gt_avg_*.csv
    user_id, original_image, face_id, age, gender, ...     Adience, fold_*_data.txt
    img_name                                               photos to leave out

An age is a pair of years, the youngest and the oldest, both included, or None where it is unknown.
"""

import math
import posixpath
import re

import pandas as pd

# folders that are called by an age or a range of ages; the label of a photo may be more (read_age)
AGE = r"[0-9]{1,3}|[0-9]{1,3}-[0-9]{1,3}|[0-9]{1,3}\+|more than [0-9]{1,3}"
PUBLISHED = (
    r"fairface_label_(train|val)\.csv|(gt_avg|allcategories)_(train|valid|test)\.csv"
    r"|ignore_list\.csv|fold_[0-9]_data\.txt"
)
APPA_REAL = {"file_name", "apparent_age_avg", "real_age"}
ADIENCE = {"user_id", "original_image", "face_id", "age", "gender"}
FACE = re.compile(r"(?<=\.jpg)_face\.\w+$")  # of APPA-REAL's 000000.jpg in 000000.jpg_face.jpg
TOLD = ("age", "gender", "race", "weight", "subject")
GENDERS = {"male": "male", "female": "female", "m": "male", "f": "female", "u": None, "": None}


class BadLabels(ValueError):
    """What is wrong, beginning with the name of the table or option."""


def read_age(text):
    """The age that ``34``, ``20-29``, ``(25, 32)``, ``70+`` or ``more than 70`` tells; of an empty
    text, and Adience's ``None``, None. ValueError if it is none of these."""
    text = " ".join(text.split())
    if text in ("", "None"):
        return None
    year = re.fullmatch(r"([0-9]{1,3})(\.0)?", text)
    if year:
        return int(year[1]), int(year[1])
    # the group after FairFace's 60-69 is called "more than 70"
    over = re.fullmatch(r"([0-9]{1,3}) ?\+|more than ([0-9]{1,3})", text)
    if over:
        return int(over[1] or over[2]), math.inf
    ends = re.fullmatch(r"([0-9]{1,3}) ?- ?([0-9]{1,3})|\(([0-9]{1,3}), ?([0-9]{1,3})\)", text)
    if not ends:
        day = re.fullmatch("[0-9]+-[A-Z][a-z]{2}|[A-Z][a-z]{2}-[0-9]+", text)
        date = "; a spreadsheet made a date of it" * bool(day)
        raise ValueError(f"age {text!r} is not of the form 34, 20-29, 70+ or empty{date}")
    youngest, oldest = (int(end) for end in ends.groups() if end)
    if youngest > oldest:
        raise ValueError(f"age {text!r} ends before it begins")
    return youngest, oldest


def write_age(age, limit):
    """As the training scripts read it; ``70+`` if nothing up to the age ``limit`` is ruled out."""
    if age is None:
        return ""
    youngest, oldest = age
    if youngest == oldest:
        return f"{youngest}"
    return f"{youngest}+" if oldest >= limit else f"{youngest}-{oldest}"


def published_in(folder):
    """The tables in ``folder`` that are called as those of FairFace, APPA-REAL and Adience."""
    return [path for path in sorted(folder.iterdir()) if re.fullmatch(PUBLISHED, path.name)]


def read_text(path):
    """The table, all of it as text, separated by commas or by tabs; ValueError if it is none."""
    with open(path, encoding="utf-8-sig") as file:
        separator = "\t" if "\t" in file.readline() else ","
    options = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
    table = pd.read_csv(path, sep=separator, **options)
    if not isinstance(table.index, pd.RangeIndex):  # pandas makes row names of the first fields
        raise ValueError("its rows have more fields than its header")
    return table


def rows_of(table, age):
    """The rows of a table of any kind as dicts: ``photo``, the end of its path, and what TOLD has
    of it, as text. ``age`` says which one of APPA-REAL's is told, ``real`` or ``apparent``."""
    columns = {*table}
    if APPA_REAL <= columns:
        column = "real_age" if age == "real" else "apparent_age_avg"
        table = table[["file_name", column]].set_axis(["photo", "age"], axis=1)
        if age == "apparent":
            table["age"] = table["age"].map(rounded)
    elif ADIENCE <= columns:
        photo = table["user_id"] + "/" + table["face_id"] + "." + table["original_image"]
        table = table[["age", "gender"]].assign(photo=photo, subject="adience " + table["user_id"])
    elif "file" in columns and columns & {"age", "gender"}:
        table = table[[name for name in ("file", *TOLD) if name in columns]]
        table = table.rename(columns={"file": "photo"})
        if "subject" in table:
            table["subject"] = table["subject"].where(table["subject"] == "", "of " + table.subject)
    elif "img_name" in columns:
        table = table[["img_name"]].set_axis(["photo"], axis=1).assign(ignored="yes")
    else:
        kinds = "file and age or gender, or those of FairFace, APPA-REAL (gt_avg) or Adience"
        raise ValueError(f"needs the columns {kinds}; it has {', '.join(table)}")
    return table.to_dict("records")


def rounded(text):
    """The year nearest to an age such as 24.56; what is no number stays, for read_age to refuse."""
    number = re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?", text)
    return str(math.floor(float(text) + 0.5)) if number else text


def read_row(row):
    """The facts of a row: age, gender (male, female or None), race, weight, subject. ValueError if
    one of them is not as it should be."""
    facts = {name: row[name].strip() or None for name in row.keys() & {"race", "subject"}}
    facts["age"] = read_age(row.get("age", ""))
    gender = row.get("gender", "").strip().lower()
    if gender not in GENDERS:
        raise ValueError(f"gender {row['gender']!r} is not male, female or empty")
    facts["gender"] = GENDERS[gender]
    weight = row.get("weight", "").strip()
    if weight:
        number = re.fullmatch(r"[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?", weight)
        if not number or not 0 < float(weight) <= 10**6:
            raise ValueError(f"weight {weight!r} is not a number above 0, at most a million")
        facts["weight"] = weight
    if row.get("ignored"):
        facts["ignored"] = True
    return facts


def key_of(path):
    """What a row calls a photo: the path without what the collections put before or after it, and
    without its suffix, which cutting the face out may have changed."""
    path = re.sub(r"(coarse_tilt|landmark)_aligned_face\.", "", path)
    return posixpath.splitext(FACE.sub("", path))[0]


def photos_by_key(paths):
    """``{key: its photos}``, without the whole photos whose faces are there too, and of those
    ``{whole photo: why it is left out}``."""
    photos, left_out = {}, {}
    for path in paths:
        photos.setdefault(key_of(path), []).append(path)
    for key, those in photos.items():
        faces = [path for path in those if FACE.search(path)]
        if faces:
            photos[key] = faces
            whole = [path for path in those if path not in faces]
            left_out |= dict.fromkeys(whole, "whole photo, whose face is beside it")
    return photos, left_out


def keys_by_end(photos):
    """``{last part of a key: the keys}``."""
    ends = {}
    for key in photos:
        ends.setdefault(posixpath.basename(key), []).append(key)
    return ends


def find_photo(photos, ends, name):
    """The path that the row's ``name`` is, or else the only one that it ends. None if there is
    none, ValueError if there are several."""
    name = posixpath.normpath(name)
    key = key_of(name)
    found = photos.get(key)
    if not found:
        longer = [
            long for long in ends.get(posixpath.basename(key), []) if long.endswith(f"/{key}")
        ]
        found = [path for long in longer for path in photos[long]]
    if len(found) > 1 and name not in found:
        raise ValueError(f"{name!r} may be {found[0]!r} or {found[1]!r}; give one of their folders")
    return name if name in found else found[0] if found else None


def check_apparent(tables):
    """BadLabels if none of the tables tells apparent ages beside real ones."""
    if not any(APPA_REAL <= {*read_text(table)} for table in tables):
        raise BadLabels("--age apparent: no table has the column apparent_age_avg")


def read_labels(tables, paths, age):
    """``{path: facts of read_row}`` and ``{path: reason}``, of the photos left out, for all
    ``paths``. Says how many rows have no photo. BadLabels names the table and the row."""
    photos, reasons = photos_by_key(paths)
    ends, labels = keys_by_end(photos), {}
    for table in tables:
        try:
            rows = rows_of(read_text(table), age)
        except (OSError, ValueError) as problem:
            text = getattr(problem, "strerror", None) or " ".join(str(problem).split())
            raise BadLabels(f"{table}: {text}") from None
        lacking = []
        for number, row in enumerate(rows, 1):
            try:
                facts = read_row(row)
                path = find_photo(photos, ends, row["photo"])
                if path:
                    labels[path] = merged(labels.get(path, {}), facts)
                else:
                    lacking.append(f"row {number}, {row['photo']!r}")
            except ValueError as problem:
                raise BadLabels(f"{table}: row {number}: {problem}") from None
        if lacking:
            print(f"{table}: no photo of {len(lacking)} of {len(rows)} rows, first {lacking[0]}")
    for path in paths:
        facts = labels.get(path)
        if facts and facts.pop("ignored", False):
            reasons[path] = "in the list of photos to leave out"
        elif facts and facts["age"] is None and facts["gender"] is None:
            reasons[path] = "no label: its row has neither age nor gender"
        elif not facts and path not in reasons:
            reasons[path] = "no label: it is in no row"
    return {path: facts for path, facts in labels.items() if path not in reasons}, reasons


def merged(known, facts):
    """What two rows tell of one photo; ValueError if they contradict each other."""
    for name in sorted(facts.keys() & known.keys()):
        here, before = facts[name], known[name]
        if None not in (here, before) and here != before:
            if name == "age":
                here, before = write_age(here, math.inf), write_age(before, math.inf)
            raise ValueError(f"{name} {here}, but {before} in another row of this photo")
    return known | {name: fact for name, fact in facts.items() if known.get(name) is None}
