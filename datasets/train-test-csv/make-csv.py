"""Labels and splits from the folder and file names of a published image set.

    python datasets/train-test-csv/make-csv.py utk --images UTKFace

writes, for the data set DATASET (afad, cacd, morph2 or utk),

    DATASET_train.csv, DATASET_test.csv   what the training scripts read; the column ``age`` is the
    DATASET_valid.csv                     label: the age minus the youngest age of the set
    DATASET_rejected.csv                  the images left out, each with the reason
    DATASET_duplicates.csv                with --group_duplicates: the byte-identical files

The same images, options and seed give the same files. datasets/README.md says how the folders of
the four sets look and what is known to be wrong in them.
"""

import argparse
import hashlib
import io
import os
import re
import shlex
import sys
import tempfile
import unicodedata
import warnings
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

AGES = {"afad": (15, 40), "cacd": (14, 62), "morph2": (16, 70), "utk": (21, 60)}

# Paths below --images. UTKFace has names that lack a field, and a blank or no dot after the time.
PATTERNS = {
    "afad": r"(?P<age>[0-9]{1,3})/(?P<gender>111|112)/[^/]+",
    "cacd": r"(?P<age>[0-9]{1,3})_(?P<subject>[^/]*[^\W\d_][^/]*)_[0-9]+\.\w+",
    "morph2": r"(?P<subject>[0-9]+)_(?P<picture>[0-9]{1,2})(?P<sex>[MF])(?P<age>[0-9]{1,3})\.\w+",
    "utk": r"(?P<age>[0-9]{1,3})_([0-9]+_){1,2}[0-9]+[^/_]*",
}
FORMS = {
    "afad": "<age>/<111 or 112>/<file>.jpg",
    "cacd": "<age>_<name>_<number>.jpg",
    "morph2": "<subject>_<picture><M or F><age>.jpg",
    "utk": "<age>_<gender>_<race>_<time>.jpg.chip.jpg",
}
MORPH2_KEY = ["id_num", "picture_num"]
MORPH2_EXTRA = ["race", "facial_hair", "glasses", "quality"]
COLUMNS = {
    "afad": ["file", "path", "age", "gender"],
    "cacd": ["", "file", "age"],
    "morph2": ["", *MORPH2_KEY, "race", "Male", "facial_hair", "age", "glasses", "quality"],
    "utk": ["", "file", "age"],
}
SUFFIXES = (".jpg", ".jpeg", ".png")
# Those of the training scripts; named, as Pillow would start another program for some others (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
PARTS = ("train", "valid", "test")


def image_paths(folder):
    """Posix paths of the images below ``folder``, in an order that no file system changes, and the
    number of other files. Raises OSError if a folder cannot be listed."""
    paths, others = [], 0

    def stop(error):
        raise error

    for parent, _, files in os.walk(folder, onerror=stop):
        for name in files:
            if name.lower().endswith(SUFFIXES):
                paths.append((Path(parent) / name).relative_to(folder).as_posix())
            else:
                others += 1
    return sorted(paths, key=lambda path: (unicodedata.normalize("NFC", path), path)), others


def layout_problem(dataset, folder, paths):
    """What is wrong if the paths are not named as the data set's are, else None."""
    if not paths:
        return f"--images {folder}: no {', '.join(SUFFIXES)} file in it"
    fits = {name: sum(bool(re.fullmatch(p, x)) for x in paths) for name, p in PATTERNS.items()}
    likeliest = max(fits, key=fits.get)
    if fits[dataset] == fits[likeliest] > 0:
        return None
    problem = (
        f"--images {folder}: {fits[dataset]} of {len(paths)} images are named as those of "
        f"{dataset} ({FORMS[dataset]}), the first is {paths[0]!r}"
    )
    if fits[likeliest]:
        return f"{problem}; {fits[likeliest]} as those of {likeliest}: use make-csv.py {likeliest}"
    for path in paths:
        for name, pattern in PATTERNS.items():
            if below := re.fullmatch(f"(?P<above>.+?)/{pattern}", path):
                inner = Path(folder) / below["above"]
                return f"{problem}; try make-csv.py {name} --images {shlex.quote(str(inner))}"
    return problem


def rejection(dataset, path):
    """Why the path gives no label (``kind: detail``), or None."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "unreadable name: not UTF-8, no CSV can hold it"
    if "\r" in path:  # to_csv does not quote it
        return "unreadable name: holds a carriage return"
    match = re.fullmatch(PATTERNS[dataset], path)
    if not match:
        return f"unreadable name: not {FORMS[dataset]}"
    youngest, oldest = AGES[dataset]
    if not youngest <= int(match["age"]) <= oldest:
        return f"age outside {youngest}-{oldest}: {int(match['age'])}"
    return None


def inspect(path):
    """SHA-256 of the file and None, or None and why its pixels cannot be read."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.convert("RGB")
    except UnidentifiedImageError:
        return None, "unreadable pixels: not an image"
    except Exception as error:  # Pillow's decoders raise many kinds on corrupt files
        return None, f"unreadable pixels: {error}"
    return hashlib.sha256(data).hexdigest(), None


def inspect_all(folder, paths):
    """``{path: SHA-256}`` of the images that can be read and ``{path: why not}`` of the others."""
    digests, reasons = {}, {}
    with ThreadPool(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter lock
        inspected = pool.imap(lambda path: inspect(folder / path), paths, chunksize=16)
        bar = tqdm(inspected, total=len(paths), desc="reading", unit="image", disable=None)
        for path, (digest, problem) in zip(paths, bar, strict=True):
            if problem:
                reasons[path] = " ".join(problem.split())
            else:
                digests[path] = digest
    return digests, reasons


def label_table(dataset, paths):
    """A row per path: ``image`` (the path), the CSV's columns as far as the path tells them, and
    ``subject`` where it tells persons apart."""
    fields = [re.fullmatch(PATTERNS[dataset], path).groupdict() for path in paths]
    labels = [int(f["age"]) - AGES[dataset][0] for f in fields]
    table = pd.DataFrame({"image": paths, "file": paths, "age": labels})
    if dataset == "afad":
        table["path"] = paths
        table["file"] = [path.rsplit("/", 1)[1] for path in paths]
        table["gender"] = [{"111": "male", "112": "female"}[f["gender"]] for f in fields]
    elif dataset == "cacd":
        table["subject"] = [unicodedata.normalize("NFC", f["subject"]) for f in fields]
    elif dataset == "morph2":
        table[""] = paths
        table["id_num"] = table["subject"] = [int(f["subject"]) for f in fields]
        table["picture_num"] = [int(f["picture"]) for f in fields]
        table["Male"] = [{"M": 1, "F": -1}[f["sex"]] for f in fields]
    return table


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
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    if not isinstance(table.index, pd.RangeIndex):  # pandas makes row names of the first fields
        raise ValueError("its rows have more fields than its header")
    if not {*MORPH2_KEY} <= {*table} or not {*MORPH2_EXTRA} & {*table}:
        needed = f"{' and '.join(MORPH2_KEY)}, and of {', '.join(MORPH2_EXTRA)} at least one"
        raise ValueError(f"needs the columns {needed}; it has {', '.join(table)}")
    for name in MORPH2_KEY:
        bad = ~table[name].str.fullmatch("[0-9]{1,18}")
        if bad.any():
            row = bad.idxmax()
            raise ValueError(f"row {row + 2}: {name} is {table[name][row]!r}, not a number")
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
        part = table.loc[parts[name]].reindex(columns=COLUMNS[dataset])
        if dataset in ("cacd", "utk"):  # their first column numbers the rows through all parts
            part[""] = range(count, count + len(part))
            count += len(part)
        if len(part):
            tables[name] = part
    return tables


def duplicates(table):
    """The byte-identical files, those of a group after each other."""
    twins = table[table.duplicated("digest", keep=False)]
    groups = twins.groupby("digest", sort=False)
    return pd.DataFrame(
        {
            "group": groups.ngroup(),
            "file": twins["image"],
            "label": twins["age"],
            "labels_disagree": (groups["age"].transform("nunique") > 1).astype(int),
        }
    ).sort_values("group", kind="stable")


def write_csvs(tables):
    """Write each table of ``{path: table}`` under a temporary name, then rename them all."""
    temporary = {path: path.with_name(f".{path.name}.tmp") for path in tables}
    try:
        for path, table in tables.items():
            with open(
                temporary[path], "w", encoding="utf-8", errors="backslashreplace", newline=""
            ) as file:
                table.to_csv(file, index=False, lineterminator="\n")
                file.flush()
                os.fsync(file.fileno())
        for path in tables:
            os.replace(temporary[path], path)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        description="Write the training scripts' CSV files from a folder of published images."
    )
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: error: {message}\n")
    parser.add_argument("dataset", choices=AGES)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="image folder")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).resolve().parent,
        metavar="DIR",
        help="folder of the CSV files (default: the folder of this script)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace CSV files in --out")
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
        "--by_subject", action="store_true", help="cacd, morph2: no person in two of the files"
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
    if args.by_subject and args.dataset not in ("cacd", "morph2"):
        parser.error(f"--by_subject: the file names of {args.dataset} do not tell who is shown")
    if args.metadata and args.dataset != "morph2":
        parser.error("--metadata: only morph2 has further columns")
    return args, parser.error


def main(argv=None):
    args, error = parse_arguments(argv)
    dataset, out = args.dataset, args.out
    warnings.simplefilter("error", Image.DecompressionBombWarning)

    if args.metadata:
        try:
            metadata = read_metadata(args.metadata)
        except (OSError, ValueError) as problem:
            error(f"--metadata {args.metadata}: {' '.join(str(problem).split())}")
    try:
        paths, others = image_paths(args.images)
    except OSError as problem:
        error(f"--images {problem.filename}: {problem.strerror}")
    if problem := layout_problem(dataset, args.images, paths):
        error(problem)

    files = {name: out / f"{dataset}_{name}.csv" for name in (*PARTS, "rejected", "duplicates")}
    for path in files.values():
        if path.exists() and not args.overwrite:
            error(f"{path} exists already; --overwrite replaces it, --out writes elsewhere")
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as problem:
        error(f"--out {out}: {problem.strerror}")

    reasons = {path: reason for path in paths if (reason := rejection(dataset, path))}
    digests, unreadable = inspect_all(args.images, [p for p in paths if p not in reasons])
    reasons.update(unreadable)

    print(f"{len(paths)} images in {args.images}, {len(reasons)} rejected, {others} other files")
    kinds = pd.Series(reasons.values(), dtype=object).str.split(":").str[0].value_counts()
    for kind, count in kinds.items():
        print(f"  {count:7d} {kind}")
    if not digests:
        error(f"--images {args.images}: no image is left, e.g. {paths[0]!r}: {reasons[paths[0]]}")

    table = label_table(dataset, list(digests))
    if args.metadata:
        table, found = with_metadata(table, metadata)
        print(f"{found} of {len(table)} images found in {args.metadata}")
    table["digest"] = digests.values()
    keys = ["subject"] * args.by_subject + ["digest"] * args.group_duplicates
    groups = group_numbers(table, keys) if keys else np.arange(len(table))
    parts = split(groups, args.test_fraction, args.valid_fraction, args.seed)
    for name in PARTS:
        if not len(parts[name]) and (name != "valid" or args.valid_fraction):
            error(f"no {name} part can be made of {len(table)} images ({groups.max() + 1} groups)")

    twins = duplicates(table)
    print(
        f"{twins.group.nunique()} groups of byte-identical files, "
        f"{twins.group[twins.labels_disagree == 1].nunique()} of them with labels that disagree"
        + ("" if args.group_duplicates or twins.empty else " (see --group_duplicates)")
    )
    if "subject" in table:
        seen = table.subject[parts["test"]].isin(table.subject[parts["train"]]).mean()
        print(f"{seen:.1%} of the test images show a person who is in the training part")

    tables = part_tables(dataset, table, parts)
    rejected = [(path.replace("\r", "\\r"), reasons[path]) for path in paths if path in reasons]
    lists = {"rejected": pd.DataFrame(rejected, columns=["file", "reason"])}
    if args.group_duplicates:
        lists["duplicates"] = twins
    try:
        write_csvs({files[name]: t for name, t in (tables | lists).items()})
        for name in files.keys() - tables.keys() - lists.keys():
            files[name].unlink(missing_ok=True)  # belongs to the split that is overwritten
    except OSError as problem:
        error(f"{problem.filename or out}: {problem.strerror}")
    for name, part in tables.items():
        print(f"  {len(part):7d} rows in {files[name]}")

    given = [f"--{name}_csv {shlex.quote(str(files[name]))}" for name in tables]
    print(
        f"Train with: python model-code/{dataset}-coral.py {' '.join(given)} "
        f"--image_path {shlex.quote(str(args.images))} --outpath run1"
    )


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has all characters
    try:
        main()
    except KeyboardInterrupt:
        print("make-csv.py: interrupted, nothing was written", file=sys.stderr)
        sys.exit(130)
