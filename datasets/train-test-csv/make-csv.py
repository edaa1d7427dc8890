"""Labels and splits from the folder and file names of a published image set, or of your photos,
and from the tables of labels that come with some.

    python datasets/train-test-csv/make-csv.py utk --images UTKFace
    python datasets/train-test-csv/make-csv.py faces --images UTKFace my-faces

writes, for the data set DATASET (afad, cacd, morph2, utk, or faces: any face crops, ages 0-100),

    DATASET_train.csv, DATASET_test.csv   what the training scripts read; the column ``age`` is the
    DATASET_valid.csv                     label: the age minus the youngest age of the set
    DATASET_rejected.csv                  the images left out, each with the reason
    DATASET_duplicates.csv                with --group_duplicates: the byte-identical files

Of ``faces`` an age may also be a range, 20-29 or 70+, or empty where it is unknown.

The same images, options and seed give the same files. datasets/README.md says how the folders of
the sets look and what is known to be wrong in them.
"""

import argparse
import functools
import hashlib
import io
import math
import os
import re
import shlex
import sys
import tempfile
import unicodedata
import warnings
from contextlib import ExitStack
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import ExifTags, Image, UnidentifiedImageError
from tqdm import tqdm

sys.path.append(str(Path(__file__).resolve().parents[2] / "model-code"))
sys.path.append(str(Path(__file__).resolve().parent))
import label_tables
from coral_age import raw
from coral_age.files import MODEL_CODE, atomic_write, kinds_of

# with pyarrow, where it is installed, a file name that is no UTF-8 could not be held
pd.set_option("mode.string_storage", "python")

AGES = {"afad": (15, 40), "cacd": (14, 62), "morph2": (16, 70), "utk": (21, 60), "faces": (0, 100)}

# Paths below --images. UTKFace has names that lack a field, and a blank or no dot after the time.
# "faces" stands for folders named by age; that data set takes each folder in the layout it has,
# and those after it are known to it alone.
PATTERNS = {
    "afad": r"(?P<age>[0-9]{1,3})/(?P<gender>111|112)/[^/]+",
    "cacd": r"(?P<age>[0-9]{1,3})_(?P<subject>[^/]*[^\W\d_][^/]*)_[0-9]+\.\w+",
    "morph2": r"(?P<subject>[0-9]+)_(?P<picture>[0-9]{1,2})(?P<gender>[MF])(?P<age>[0-9]{1,3})"
    r"\.\w+",
    "utk": r"(?P<age>[0-9]{1,3})_((?P<gender>[01])_|[0-9]+_)?[0-9]+_[0-9]+[^/_]*",
    "faces": rf"(?P<age>{label_tables.AGE})/[^/]+",
    "all-age-faces": r"(?P<number>[0-9]{5})A(?P<age>[0-9]{2})\.\w+",
    "fg-net": r"(?P<subject>[0-9]{3})A(?P<age>[0-9]{2})[a-z]?\.\w+",
    "genders": r"(?P<gender>(?i:male|female))/[^/]+",
}
FORMS = {
    "afad": "<age>/<111 or 112>/<file>.jpg",
    "cacd": "<age>_<name>_<number>.jpg",
    "morph2": "<subject>_<picture><M or F><age>.jpg",
    "utk": "<age>_<gender>_<race>_<time>.jpg.chip.jpg",
    "faces": "<age>/<file>.jpg",
    "all-age-faces": "<number of five digits>A<age>.jpg",
    "fg-net": "<person of three digits>A<age>.jpg",
    "genders": "<male or female>/<file>.jpg",
}
LAST_WOMAN = 7380  # photos of All-Age-Faces with this number or a lower one show women, others men
GENDERS = {"111": "male", "112": "female", "M": "male", "F": "female", "0": "male", "1": "female"}
MORPH2_KEY = ["id_num", "picture_num"]
MORPH2_EXTRA = ["race", "facial_hair", "glasses", "quality"]
COLUMNS = {
    "afad": ["file", "path", "age", "gender"],
    "cacd": ["", "file", "age"],
    "morph2": ["", *MORPH2_KEY, "race", "Male", "facial_hair", "age", "glasses", "quality"],
    "utk": ["", "file", "age"],
    "faces": ["file", "age", "gender"],
}
FACES_EXTRA = {"race": "", "weight": "1"}  # of tables, copied, and what stands where none tells
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp")
FACES_SUFFIXES = (*SUFFIXES, ".bmp", ".tif", ".tiff")  # the published sets have none
UNREAD = (".heic", ".heif", ".hif", ".avif", *raw.SUFFIXES)  # photos that training can't read
# Those of the training scripts; named, as Pillow would start another program for some others (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
PARTS = ("train", "valid", "test")
SQUEEZED = 1.05  # sides so much longer than the others are told of, as training makes squares


def name_order(path):
    """Key that sorts paths in an order that no file system changes."""
    return unicodedata.normalize("NFC", path), path


def image_paths(folder, suffixes=SUFFIXES):
    """What is below ``folder``: ``{posix path: real path}`` of the images, sorted, the real paths
    of the other files, and the links not followed. Raises OSError if a folder cannot be listed.

    Each real folder is listed once: under its own name, or under that of the first link to it.
    """
    images, others, skipped, listed = {}, set(), [], set()

    def stop(error):
        raise error

    starts = [str(folder)]
    for start in starts:  # grows by the links to folders, followed after what is really there
        for parent, folders, files in os.walk(start, onerror=stop):
            real = os.path.realpath(parent)
            if real in listed:
                skipped.append(f"{parent}: its folder is listed under another name")
                folders.clear()
                continue
            listed.add(real)
            inner = [os.path.join(parent, name) for name in sorted(folders, key=name_order)]
            starts += filter(os.path.islink, inner)
            for name in files:
                path = Path(parent) / name
                if path.is_symlink() and not path.exists():
                    skipped.append(f"{path}: leads nowhere")
                elif name.lower().endswith(suffixes):
                    images[path.relative_to(folder).as_posix()] = os.path.join(real, name)
                else:
                    others.add(os.path.join(real, name))
    return {path: images[path] for path in sorted(images, key=name_order)}, others, skipped


def is_dated(folder):
    """Is a folder one of a year (2019), or of a month or day in it (2019/07, 2019-07)? What is in
    it by number are months and days, no ages."""
    path = Path(os.path.abspath(folder)).as_posix()
    return bool(re.search(r"/(19|20)[0-9]{2}([-_. /]?[0-9]{1,2})*$", path))


def advice_for(others):
    """What to do with files that are no images here, if they are photos all the same."""
    unread = any(path.lower().endswith(UNREAD) for path in others)
    return "; convert HEIC, AVIF and raw photos to JPEG" * unread


def layout_of(dataset, folder, paths):
    """The layout, a key of PATTERNS, in which the paths below ``folder`` are named: that of the
    data set, of ``faces`` the one that most of them have. ValueError if they are not."""
    fits = {name: sum(bool(re.fullmatch(p, x)) for x in paths) for name, p in PATTERNS.items()}
    if is_dated(folder):
        fits["faces"] = 0
    likeliest = max(fits, key=fits.get)
    layout = likeliest if dataset == "faces" else dataset
    if fits[layout] == fits[likeliest] > 0:
        return layout
    forms = " or ".join(FORMS.values()) if dataset == "faces" else FORMS[dataset]
    problem = (
        f"{folder}: {fits[layout]} of {len(paths)} images are named as those of "
        f"{dataset} ({forms}), the first is {paths[0]!r}"
    )
    above, name = os.path.split(os.path.abspath(folder))
    genders = dataset == "afad" and all(re.match("11[12]/", path) for path in paths)
    inside = genders or (dataset == "faces" and not fits[likeliest])
    if (
        inside
        and re.fullmatch(f"{label_tables.AGE}|(?i:male|female)", name)
        and not is_dated(above)
    ):  # mine/* instead of mine
        raise ValueError(f"{problem}; try make-csv.py {dataset} --images {shlex.quote(above)}")
    if fits[likeliest]:
        use = likeliest if likeliest in AGES else "faces"
        problem += f"; {fits[likeliest]} as those of {likeliest}: use make-csv.py {use}"
        raise ValueError(problem)
    for path in paths:
        for name, pattern in PATTERNS.items():
            below = re.fullmatch(f"(?P<above>.+?)/{pattern}", path)
            if below and not (name == "faces" and is_dated(Path(folder) / below["above"])):
                inner = shlex.quote(str(Path(folder) / below["above"]))
                name = name if name in AGES and dataset != "faces" else "faces"
                raise ValueError(f"{problem}; try make-csv.py {name} --images {inner}")
    if any(is_dated(Path(folder) / path.rpartition("/")[0]) for path in paths):
        problem += "; folders of years, months and days tell no ages: name folders by age"
    raise ValueError(problem)


def check_age(dataset, age):
    """The age, a pair of years or None, without what lies outside the set's range; ValueError,
    ``kind: detail``, if all of it does."""
    if age is None:
        return None
    youngest, oldest = AGES[dataset]
    if age[0] > oldest or age[1] < youngest:
        given = label_tables.write_age(age, math.inf)
        raise ValueError(f"age outside {youngest}-{oldest}: {given}")
    return age[0], min(age[1], oldest)


def read_name(dataset, layout, path):
    """What a path tells, a dict: ``age``, a pair of years or None, ``gender`` (male, female or
    None), and where the layout has them ``subject`` and ``picture``. ValueError, ``kind: detail``,
    if it gives no label.
    """
    match = re.fullmatch(PATTERNS[layout], path)
    if not match:
        raise ValueError(f"unreadable name: not {FORMS[layout]}")
    told = match.groupdict()
    try:
        told["age"] = label_tables.read_age(told.get("age", ""))
    except ValueError as problem:
        raise ValueError(f"unreadable name: {problem}") from None
    gender = told.get("gender")
    told["gender"] = GENDERS.get(gender, gender and gender.lower())
    if layout == "all-age-faces":
        told["gender"] = "female" if int(told["number"]) <= LAST_WOMAN else "male"
    if dataset == "faces":
        if "/" in path:
            told |= read_file_name(told, path.rsplit("/", 1)[1])
        if "subject" in told:
            told["subject"] = f"{layout} {person(told['subject'])}"
    told["age"] = check_age(dataset, told["age"])
    return told


def read_file_name(told, file):
    """What the name of a file in a folder tells as well, if it is one as UTKFace's or MORPH-2's;
    others, as 12_05_2019.jpg, may say anything. ValueError if the folder told something else."""
    facts = {}
    for other in ("morph2", "utk"):
        name = re.fullmatch(PATTERNS[other], file)
        if not (name and name["gender"]):
            continue
        age, gender = int(name["age"]), GENDERS[name["gender"]]
        if told["age"] and not told["age"][0] <= age <= told["age"][1]:
            ages = f"{label_tables.write_age(told['age'], math.inf)} by its folder, {age}"
            raise ValueError(f"ages that disagree: {ages} by its name")
        if told["gender"] not in (None, gender):
            genders = f"{told['gender']} by its folder, {gender} by its name"
            raise ValueError(f"genders that disagree: {genders}")
        facts |= {"age": (age, age), "gender": gender}
    return facts


def person(name):
    """How a person is called, one way only: 00012 is 12, and Zoë is Zoë however it is encoded."""
    return int(name) if name.isascii() and name.isdigit() else unicodedata.normalize("NFC", name)


def check_writable(file):
    """ValueError, ``kind: detail``, if no CSV can hold the path."""
    try:
        file.encode()
    except UnicodeEncodeError:
        raise ValueError("unreadable name: not UTF-8, no CSV can hold it") from None
    if "\r" in file:  # to_csv does not quote it
        raise ValueError("unreadable name: holds a carriage return")


def absolute(folder):
    """The absolute path, through links only where '..' would lead elsewhere without."""
    return os.path.realpath(folder) if ".." in folder.parts else os.path.abspath(folder)


def read_labeled(labels, reasons, path):
    """As read_name, of a photo whose labels stand in tables."""
    if path in reasons:
        raise ValueError(reasons[path])
    return labels[path] | {"age": check_age("faces", labels[path]["age"])}


def read_folders(dataset, folders, tables=None, age="real"):
    """What the images below the folders are called, each image once. Of ``faces`` the labels may
    stand in ``tables``, or in those that lie in a folder.

    Returns the folder that their names start at, ``{file: what read_name says}`` of those that have
    a label, ``{file: reason}`` of the others and the paths of other files. Raises OSError if a
    folder cannot be listed, ValueError if one is not laid out as the data set.
    """
    root = folders[0]
    if len(folders) > 1:
        root = Path(os.path.commonpath([absolute(folder) for folder in folders]))
    found, others, count, all_tables = {}, set(), 0, []
    suffixes = FACES_SUFFIXES if dataset == "faces" else SUFFIXES
    for folder in folders:
        images, rest, skipped = image_paths(folder, suffixes)
        if not images:
            left = f" (left out: {kinds_of(rest)}{advice_for(rest)})" * bool(rest)
            raise ValueError(f"{folder}: no {', '.join(suffixes)} file in it{left}")
        given = tables or (label_tables.published_in(folder) if dataset == "faces" else [])
        if given:
            print(f"{len(images)} images in {folder}, labels in {', '.join(map(str, given))}")
            labels = label_tables.read_labels(given, list(images), age)
            read = functools.partial(read_labeled, *labels)
            rest = rest - {os.path.realpath(table) for table in given}
            all_tables += given
        else:
            layout = layout_of(dataset, folder, list(images))
            read = functools.partial(read_name, dataset, layout)
            if dataset == "faces":
                print(f"{len(images)} images in {folder}, named {FORMS[layout]}")
        for link in skipped:
            print(f"link not followed: {link}")
        others, count = others | rest, count + len(images)

        inside = os.path.relpath(absolute(folder), absolute(root))
        for path, real in images.items():
            file, told, reason = (Path(inside) / path).as_posix(), None, None
            try:
                check_writable(file)
                told = read(path)
            except ValueError as problem:
                reason = str(problem)
            # of folders in each other, one may have a layout in which the other's names say nothing
            if real not in found or (told and not found[real][1]):
                found[real] = file, told, reason
    if age == "apparent":
        label_tables.check_apparent(all_tables)
    if count > len(found):
        print(f"{count - len(found)} images lie in several of these folders and count once")
    found = sorted(found.values(), key=lambda entry: name_order(entry[0]))
    told = {file: told for file, told, _ in found if told}
    return root, told, {file: why for file, _, why in found if why}, others


def lies_on_its_side(image):
    """Whether the EXIF orientation says that the pixels are not upright."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
    except Exception:  # Pillow raises many kinds on damaged tags
        return False


def inspect(path):
    """SHA-256 of the file with whether its pixels lie on their side and its longer side by the
    other, and None; or None and why its pixels cannot be read. OSError (a failing disk) where the
    file cannot."""
    try:
        data = path.read_bytes()
    except OSError as problem:
        problem.filename = str(path)  # of a failing disk there is none
        raise
    try:
        raw.refuse(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            # a TIFF file in mode I has 32 bits, or a sign; PNG and PGM files in it have 16 bits
            if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
                raise ValueError("floats or 32-bit integers; save it with 8 or 16 bits")
            image.convert("RGB")
            longer = max(image.size) / min(image.size)
            turned = lies_on_its_side(image)  # not so a TIFF file: Pillow turned it just now
    except UnidentifiedImageError:
        return None, "unreadable pixels: not an image"
    except Exception as error:  # Pillow's decoders raise many kinds on corrupt files
        return None, f"unreadable pixels: {error}"
    return (hashlib.sha256(data).hexdigest(), turned, longer), None


def inspect_all(folder, files):
    """``{file: SHA-256}`` of the images that can be read, ``{file: why not}`` of the others, those
    of the first whose pixels lie on their side, and those that are no squares."""
    digests, reasons, turned, squeezed = {}, {}, [], []
    with ThreadPool(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter lock
        inspected = pool.imap(lambda file: inspect(folder / file), files, chunksize=16)
        bar = tqdm(inspected, total=len(files), desc="reading", unit="image", disable=None)
        for file, (facts, problem) in zip(files, bar, strict=True):
            if problem:
                reasons[file] = " ".join(problem.split())
            else:
                digests[file] = facts[0]
                turned += [file] * facts[1]
                squeezed += [file] * (facts[2] > SQUEEZED)
    return digests, reasons, turned, squeezed


def label_table(dataset, images):
    """A row per image of ``{file: what read_name says}``: ``image`` (the file), the CSV's columns
    as far as the name tells them, and ``subject`` where it tells persons apart."""
    files, told = list(images), pd.DataFrame(images.values())
    lowest, oldest = AGES[dataset]
    table = pd.DataFrame({"image": files, "file": files})
    for number, end in enumerate(("youngest", "oldest")):  # in labels, nan where unknown
        ages = [math.nan if age is None else age[number] - lowest for age in told["age"]]
        table[end] = pd.Series(ages, dtype=float)
    if dataset == "faces":
        table["age"] = [label_tables.write_age(age, oldest) for age in told["age"]]
        table["gender"] = told["gender"].fillna("")
        for name in FACES_EXTRA.keys() & {*told}:
            table[name] = told[name].fillna(FACES_EXTRA[name])
        if "subject" in told:  # who nothing tells is nobody else: no subject begins with a slash
            table["subject"] = told["subject"].fillna("/" + table["file"])
        return table
    table["age"] = table["youngest"].astype(int)
    if dataset == "afad":
        table["path"] = files
        table["file"] = [file.rsplit("/", 1)[1] for file in files]
        table["gender"] = told["gender"]
    elif dataset == "cacd":
        table["subject"] = [person(name) for name in told["subject"]]
    elif dataset == "morph2":
        table[""] = files
        table["id_num"] = table["subject"] = [person(number) for number in told["subject"]]
        table["picture_num"] = [int(number) for number in told["picture"]]
        table["Male"] = told["gender"].map({"male": 1, "female": -1})
    return table


def row_of_age(label, youngest, oldest):
    """Where decade_counts counts an age: the first and the last year of the row, and its name."""
    if math.isnan(youngest):
        return math.inf, math.inf, "not told"
    decade = int(youngest) // 10 * 10
    if oldest > decade + 9:
        return youngest, oldest, label
    return decade, decade + 9, f"{decade}-{decade + 9}" if decade < 100 else "100"


def decade_counts(table):
    """How many images of each gender there are in each decade of age, and in each range of ages
    that no decade holds."""
    ages = table[["age", "youngest", "oldest"]].drop_duplicates("age")
    rows = {row[0]: row_of_age(*row) for row in ages.itertuples(index=False)}
    genders = table["gender"].replace("", "not told")
    names = table["age"].map({label: name for label, (*_, name) in rows.items()})
    counts = pd.crosstab(names, genders, colnames=["ages"]).rename_axis(index=None)
    order = dict.fromkeys(name for *_, name in sorted(rows.values()))
    return counts.reindex(index=order, columns=["male", "female", "not told"], fill_value=0)


def with_metadata(table, metadata):
    """The table with MORPH-2's further columns, looked up by subject and picture number, and the
    number of rows found; rows that the metadata lacks, or describes in two ways, stay empty."""
    extra = [name for name in MORPH2_EXTRA if name in metadata]
    known = metadata[MORPH2_KEY + extra].drop_duplicates()
    known = known[~known.duplicated(MORPH2_KEY, keep=False)]
    table = table.merge(known, how="left", on=MORPH2_KEY, indicator="found")
    return table, (table["found"] == "both").sum()


def read_metadata(path):
    """The CSV as text, the two numbers of the key as integers; ValueError if columns lack."""
    table = label_tables.read_text(path)
    if not {*MORPH2_KEY} <= {*table} or not {*MORPH2_EXTRA} & {*table}:
        needed = f"{' and '.join(MORPH2_KEY)}, and of {', '.join(MORPH2_EXTRA)} at least one"
        raise ValueError(f"needs the columns {needed}; it has {', '.join(table)}")
    for name in MORPH2_KEY:
        bad = ~table[name].str.fullmatch("[0-9]{1,18}")
        if bad.any():
            row = bad.idxmax()
            raise ValueError(f"row {row + 1}: {name} is {table[name][row]!r}, not a number")
    return table.astype(dict.fromkeys(MORPH2_KEY, "int64"))


def group_numbers(table, keys):
    """A number per row, the same for rows that are linked, directly or through other rows, by an
    equal value in one of the columns ``keys``."""
    groups = pd.Series(range(len(table)))
    while True:
        merged = groups
        for key in keys:
            merged = merged.groupby(table[key]).transform("min")
        if merged.equals(groups):
            return pd.factorize(groups)[0]
        groups = merged


def split(groups, test_fraction, valid_fraction, seed):
    """Row numbers of each part. Whole groups, in an order drawn from ``seed``, go to the test part
    until it has its share of the rows, then to the validation part, the others to training; so the
    test part does not depend on ``valid_fraction``."""
    place = np.random.default_rng(seed).permutation(groups.max() + 1)[groups]
    rows = np.argsort(place, kind="stable")
    sizes = np.bincount(place)
    start = (np.cumsum(sizes) - sizes)[place[rows]]
    test = round(test_fraction * len(groups))
    valid = round(valid_fraction * len(groups))
    return {
        "train": rows[start >= test + valid],
        "valid": rows[(test <= start) & (start < test + valid)],
        "test": rows[start < test],
    }


def part_tables(dataset, table, parts):
    """The tables of the training scripts, by the name of the part; no table for an empty part."""
    tables, count = {}, 0
    for name in PARTS:
        extra = [column for column in FACES_EXTRA if dataset == "faces" and column in table]
        part = table.loc[parts[name]].reindex(columns=COLUMNS[dataset] + extra)
        if dataset in ("cacd", "utk"):  # their first column numbers the rows through all parts
            part[""] = range(count, count + len(part))
            count += len(part)
        if len(part):
            tables[name] = part
    return tables


def duplicates(table):
    """The byte-identical files, those of a group after each other. Labels disagree if no age fits
    all of the group's."""
    twins = table[table.duplicated("digest", keep=False)]
    groups = twins.groupby("digest", sort=False)
    return pd.DataFrame(
        {
            "group": groups.ngroup(),
            "file": twins["image"],
            "label": twins["age"],
            "labels_disagree": (
                groups["youngest"].transform("max") > groups["oldest"].transform("min")
            ).astype(int),
        }
    ).sort_values("group", kind="stable")


def write_csvs(tables):
    """Write each table of ``{path: table}`` under a temporary name, then rename them all."""
    with ExitStack() as stack:
        for path, table in tables.items():
            file = stack.enter_context(
                atomic_write(path, "w", encoding="utf-8", errors="backslashreplace", newline="")
            )
            table.to_csv(file, index=False, lineterminator="\n")
            file.flush()
            os.fsync(file.fileno())  # all on the disk before the first of them is renamed


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        description="Write the training scripts' CSV files from a folder of published images, "
        "or of face crops whose ages stand in the names of files or folders."
    )
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: error: {message}\n")
    parser.add_argument("dataset", choices=AGES)
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        nargs="+",
        action="extend",
        metavar="DIR",
        help="image folder; of faces any number",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).resolve().parent,
        metavar="DIR",
        help="folder of the CSV files (default: the folder of this script)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the data set's CSV files in --out; those that this split lacks are deleted",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random split (default: 0)")
    parser.add_argument(
        "--test_fraction", type=float, default=0.2, help="share of all images (default: 0.2)"
    )
    parser.add_argument(
        "--valid_fraction",
        type=float,
        default=0.0,
        help="share of all images, taken from the training part (default: 0, no file)",
    )
    parser.add_argument(
        "--by_subject",
        action="store_true",
        help="no person in two of the files; cacd, morph2, and faces where something tells persons",
    )
    parser.add_argument(
        "--group_duplicates",
        action="store_true",
        help="byte-identical images all in the same file; lists them",
    )
    parser.add_argument(
        "--metadata",
        type=Path,
        metavar="CSV",
        help=f"morph2: CSV with {', '.join(MORPH2_KEY)} and any of {', '.join(MORPH2_EXTRA)}",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        nargs="+",
        action="extend",
        metavar="CSV",
        help="faces, one folder: tables of labels, FairFace's, APPA-REAL's, Adience's or a CSV "
        "with file and age or gender (default: the published ones in the folder, if any)",
    )
    parser.add_argument(
        "--age",
        choices=("real", "apparent"),
        default="real",
        help="APPA-REAL: the age by birth (default), or the mean of people's guesses",
    )
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: must not be negative")
    if not (
        0 < args.test_fraction < 1
        and 0 <= args.valid_fraction < 1
        and args.test_fraction + args.valid_fraction < 1
    ):
        parser.error(
            f"--test_fraction {args.test_fraction} --valid_fraction {args.valid_fraction}: "
            "must lie in 0..1 and leave something for training"
        )
    if len(args.images) > 1 and args.dataset != "faces":
        parser.error(f"--images {shlex.join(map(str, args.images))}: {args.dataset} has one folder")
    if args.labels and (args.dataset != "faces" or len(args.images) > 1):
        parser.error("--labels: only faces has tables, with one folder of images")
    if args.age != "real" and args.dataset != "faces":
        parser.error("--age: only faces has tables")
    if args.by_subject and args.dataset not in ("cacd", "morph2", "faces"):
        parser.error(f"--by_subject: the file names of {args.dataset} do not tell who is shown")
    if args.metadata and args.dataset != "morph2":
        parser.error("--metadata: only morph2 has further columns")
    return args, parser.error


def output_files(args, error):
    """The files that can be written, by name, checked before the images are read."""
    names = (*PARTS, "rejected", "duplicates")
    files = {name: args.out / f"{args.dataset}_{name}.csv" for name in names}
    for path in files.values():
        if path.exists() and not args.overwrite:
            error(f"{path} exists already; --overwrite replaces it, --out writes elsewhere")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=args.out).close()
    except OSError as problem:
        error(f"--out {args.out}: {problem.strerror}")
    return files


def scripts_for(dataset):
    """The names of the scripts that train on the CSVs: of ``faces`` the user's own, as cells.py
    --new mine-coral --like faces-coral writes them, if there are any."""
    own = [
        path.name
        for path in sorted(MODEL_CODE.glob("*-coral.py"))
        if path.name.split("-")[0] not in AGES
        and re.search(rb"(?m)^YOUNGEST_AGE = 0\b", path.read_bytes())
    ]
    return own if own and dataset == "faces" else [f"{dataset}-coral.py"]


def report(root, digests, reasons, others):
    """Print how many images were found, and how many were rejected for which kind of reason."""
    count = len(digests) + len(reasons)
    left = f": {kinds_of(others)}{advice_for(others)}" * bool(others)
    print(f"{count} images in {root}, {len(reasons)} rejected, {len(others)} other files{left}")
    kinds = pd.Series(reasons.values(), dtype=object).str.split(":").str[0].value_counts()
    for kind, number in kinds.items():
        print(f"  {number:7d} {kind}")


def main(argv=None):
    args, error = parse_arguments(argv)
    dataset = args.dataset
    warnings.simplefilter("ignore", UserWarning)  # Pillow's, of damaged EXIF tags
    warnings.simplefilter("error", Image.DecompressionBombWarning)

    if args.metadata:
        try:
            metadata = read_metadata(args.metadata)
        except (OSError, ValueError) as problem:
            error(f"--metadata {args.metadata}: {' '.join(str(problem).split())}")
    try:
        found = read_folders(dataset, args.images, args.labels, args.age)
    except OSError as problem:
        error(f"--images {problem.filename}: {problem.strerror}")
    except label_tables.BadLabels as problem:
        error(str(problem))
    except ValueError as problem:
        error(f"--images {problem}")
    root, told, reasons, others = found
    if args.by_subject and not any("subject" in facts for facts in told.values()):
        error(f"--by_subject: the images of {dataset} in {root} do not tell who is shown")

    files = output_files(args, error)
    try:
        digests, unreadable, turned, squeezed = inspect_all(root, list(told))
    except OSError as problem:
        error(f"{problem.filename}: {problem.strerror}; mend or remove it; nothing was written")
    reasons |= unreadable

    reasons = {file: reasons[file] for file in sorted(reasons, key=name_order)}
    report(root, digests, reasons, others)
    if not digests:
        file, reason = next(iter(reasons.items()))
        error(f"--images {root}: no image is left, e.g. {file!r}: {reason}")
    if turned and dataset != "faces":
        print(
            f"make-csv.py: warning: {len(turned)} images have an EXIF orientation other than 1, "
            f"the first is {turned[0]!r}: training on {dataset} ignores it, as the paper's code "
            "did; turn their pixels if they do not stand upright",
            file=sys.stderr,
        )

    if squeezed and dataset != "morph2":  # whose scripts cut a square out
        cutter = "preprocess-cacd.py" if dataset == "cacd" else "preprocess-faces.py"
        print(
            f"make-csv.py: warning: {len(squeezed)} of {len(digests)} images are no squares, the "
            f"first is {squeezed[0]!r}: training squeezes them; to cut faces out: "
            f"datasets/image-preprocessing-code/{cutter}",
            file=sys.stderr,
        )

    table = label_table(dataset, {file: told[file] for file in digests})
    if args.metadata:
        table, found = with_metadata(table, metadata)
        print(f"{found} of {len(table)} images found in {args.metadata}")
    table["digest"] = digests.values()
    keys = ["subject"] * args.by_subject + ["digest"] * args.group_duplicates
    groups = group_numbers(table, keys) if keys else np.arange(len(table))
    parts = split(groups, args.test_fraction, args.valid_fraction, args.seed)
    for name in PARTS:
        if not len(parts[name]) and (name != "valid" or args.valid_fraction):
            of = f"{len(table)} images ({groups.max() + 1} groups)"
            error(f"no {name} part can be made of {of}; give more images, or another fraction")

    twins = duplicates(table)
    print(
        f"{twins.group.nunique()} groups of byte-identical files, "
        f"{twins.group[twins.labels_disagree == 1].nunique()} of them with labels that disagree"
        + ("" if args.group_duplicates or twins.empty else " (see --group_duplicates)")
    )
    if "subject" in table:
        seen = table.subject[parts["test"]].isin(table.subject[parts["train"]]).mean()
        print(f"{seen:.1%} of the test images show a person who is in the training part")
        nobody = table.subject.astype(str).str.startswith("/").sum()
        if nobody:
            print(f"{nobody} of {len(table)} images do not tell who is shown")

    if dataset == "faces":
        unknown, years = table["age"] == "", table["youngest"] == table["oldest"]
        if not years.all():
            ranges = len(table) - years.sum() - unknown.sum()
            print(f"ages: {years.sum()} years, {ranges} ranges, {unknown.sum()} not told")
        print(decade_counts(table).to_string())

    tables = part_tables(dataset, table, parts)
    rejected = [(file.replace("\r", "\\r"), reason) for file, reason in reasons.items()]
    lists = {"rejected": pd.DataFrame(rejected, columns=["file", "reason"])}
    if args.group_duplicates:
        lists["duplicates"] = twins
    try:
        write_csvs({files[name]: t for name, t in (tables | lists).items()})
        for name in files.keys() - tables.keys() - lists.keys():
            files[name].unlink(missing_ok=True)  # belongs to the split that is overwritten
    except OSError as problem:
        error(f"{problem.filename or args.out}: {problem.strerror}")
    for name, part in tables.items():
        print(f"  {len(part):7d} rows in {files[name]}")

    given = [f"--{name}_csv {shlex.quote(str(files[name]))}" for name in tables]
    script, *others = scripts_for(dataset)
    print(
        f"Train with: python model-code/{script} {' '.join(given)} "
        f"--image_path {shlex.quote(str(root))} --outpath run1"
    )
    if others:
        print(f"or with {', '.join(others)}")


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # in a notebook it has not
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has all characters
    try:
        main()
    except KeyboardInterrupt:
        print("make-csv.py: interrupted, nothing was written", file=sys.stderr)
        sys.exit(130)
