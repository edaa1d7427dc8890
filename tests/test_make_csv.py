"""Labels and splits: rows against the published CSVs and against rows written out here."""

import csv
import functools
import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
from pathlib import Path

import conftest
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, load, run
from coral_age.files import atomic_write
from PIL import Image

SCRIPT = ROOT / "datasets" / "train-test-csv" / "make-csv.py"
SHARED = ROOT.parent / "shared"
LOGS = SHARED / "published-logs"
make_csv = load(SCRIPT)
refused = functools.partial(conftest.refused, make_csv)

published = pytest.mark.skipif(not LOGS.is_dir(), reason="the published CSVs are not at hand")
real_photos = pytest.mark.skipif(
    not (SHARED / "utkface").is_dir(), reason="the UTKFace photos are not at hand"
)


def draw(folder, names, seed=0):
    """A different 8x8 image in each file."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([seed, i]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, "JPEG", quality=95)
    return folder


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def make(dataset, images, out, *options):
    """The parts' rows without the header, and all file names of the output folder."""
    make_csv.main([dataset, "--images", str(images), "--out", str(out), *map(str, options)])
    parts = {}
    for name in ("train", "valid", "test"):
        path = out / f"{dataset}_{name}.csv"
        parts[name] = rows(path)[1:] if path.exists() else []
    return parts


# Names as published, among them all the irregular kinds, and the rows they give.
KNOWN = {
    "afad": {
        "39/112/406208-0.jpg": ["406208-0.jpg", "39/112/406208-0.jpg", "24", "female"],
        "15/111/1-2.jpg": ["1-2.jpg", "15/111/1-2.jpg", "0", "male"],
        "40/111/1-2.jpg": ["1-2.jpg", "40/111/1-2.jpg", "25", "male"],
    },
    "cacd": {
        "54_Bill_Pullman_0006.jpg": ["54_Bill_Pullman_0006.jpg", "40"],
        "44_J.J._Abrams_0013.jpg": ["44_J.J._Abrams_0013.jpg", "30"],
        "22_Raven-Symoné_0009.jpg": ["22_Raven-Symoné_0009.jpg", "8"],
        "62_Rosie_O'Donnell_0001.jpg": ["62_Rosie_O'Donnell_0001.jpg", "48"],
        "35_50_Cent_0001.jpg": ["35_50_Cent_0001.jpg", "21"],
        "14_Elle_Fanning_0002.jpg": ["14_Elle_Fanning_0002.jpg", "0"],
    },
    "morph2": {
        "273546_01M22.jpg": ["273546", "1", "", "1", "", "6", "", ""],
        "066525_3M45.jpg": ["66525", "3", "", "1", "", "29", "", ""],
        "306329_00F32.jpg": ["306329", "0", "", "-1", "", "16", "", ""],
        "000001_12F70.JPG": ["1", "12", "", "-1", "", "54", "", ""],
    },
    "utk": {
        "40_1_3_20170119165539693.jpg.chip.jpg": ["19"],
        "39_1_20170116174525125.jpg.chip.jpg": ["18"],
        "21_0_0_20170102233225196.jpg.chip.jpg": ["0"],
        "60_1_0_20170116220224657 .jpg.chip.jpg": ["39"],
        "55_0_0_20170116232725357jpg.chip.jpg": ["34"],
    },
}
HEADERS = {
    "afad": ["file", "path", "age", "gender"],
    "cacd": ["", "file", "age"],
    "morph2": [
        *("", "id_num", "picture_num", "race", "Male", "facial_hair", "age", "glasses", "quality")
    ],
    "utk": ["", "file", "age"],
}
OUT_OF_RANGE = {
    "afad": ("41/111/7-0.jpg", "14/112/7-0.jpg", "age outside 15-40: "),
    "cacd": ("63_Bill_Pullman_0006.jpg", "13_Bill_Pullman_0006.jpg", "age outside 14-62: "),
    "morph2": ("273546_01M71.jpg", "273546_01M15.jpg", "age outside 16-70: "),
    "utk": ("61_0_0_20170102233225196.jpg.chip.jpg", "20_0_2017.jpg", "age outside 21-60: "),
}
MISNAMED = {
    "afad": ["39/113/1-0.jpg", "39/1-0.jpg", "39/111/new/1-0.jpg", "x39/111/1-0.jpg"],
    "cacd": ["54_Bill_Pullman.jpg", "Bill_Pullman_0006.jpg", "54_12_0006.jpg", "a/20_A_1.jpg"],
    "morph2": ["273546_01X22.jpg", "273546_001M22.jpg", "_01M22.jpg", "a/273546_01M22.jpg"],
    "utk": [
        "forty_1_3_2017.jpg",
        "40_20170119165539693.jpg",
        "._40_1_3_2017.jpg",
        "53__0_2017.jpg",
    ],
}


@pytest.mark.parametrize("dataset", KNOWN)
def test_rows_follow_from_names(dataset, tmp_path, capsys):
    images = draw(tmp_path / "images", KNOWN[dataset])
    (images / "readme.txt").write_text("not an image")
    old, young, reason = OUT_OF_RANGE[dataset]
    draw(images, [old, young, *MISNAMED[dataset]], seed=1)
    parts = make(dataset, images, tmp_path / "out", "--test_fraction", 0.4, "--valid_fraction", 0.3)

    for part in parts:
        assert rows(tmp_path / "out" / f"{dataset}_{part}.csv")[0] == HEADERS[dataset]
    written = [row for part in parts.values() for row in part]
    if dataset == "afad":
        assert sorted(written) == sorted(KNOWN["afad"].values())
    elif dataset == "morph2":
        assert {row[0]: row[1:] for row in written} == KNOWN["morph2"]
    else:
        assert [row[0] for row in written] == [str(i) for i in range(len(written))]
        expected = {name: row[-1] for name, row in KNOWN[dataset].items()}
        assert {row[1]: row[2] for row in written} == expected
    assert all((images / row[0 if dataset == "morph2" else 1]).is_file() for row in written)

    rejected = rows(tmp_path / "out" / f"{dataset}_rejected.csv")
    assert rejected[0] == ["file", "reason"]
    named = f"unreadable name: not {make_csv.FORMS[dataset]}"
    ages = {old: f"{reason}{make_csv.AGES[dataset][1] + 1}"}
    ages[young] = f"{reason}{make_csv.AGES[dataset][0] - 1}"
    assert dict(rejected[1:]) == ages | dict.fromkeys(MISNAMED[dataset], named)
    assert rejected[1:] == sorted(rejected[1:])
    printed = capsys.readouterr().out
    assert f"{len(written) + 6} images in {images}, 6 rejected, 1 other files: 1 .txt" in printed
    assert f"      2 {reason[:-2]}\n" in printed and "      4 unreadable name\n" in printed


def test_unreadable_pixels_are_rejected_by_name(tmp_path, capsys):
    names = [f"{age}_0_0_2017010223322519{age}.jpg.chip.jpg" for age in range(21, 61)]
    images = draw(tmp_path / "images", names)
    whole = (images / names[3]).read_bytes()
    (images / names[3]).write_bytes(whole[: len(whole) - 100])
    (images / names[4]).write_bytes(b"")
    (images / names[5]).write_text("no image")
    Image.new("L", (5, 5)).save(images / names[6])  # grey and palette images can be trained on
    Image.new("P", (5, 5)).save(images / names[7], "PNG")
    Image.new("1", (9_500, 9_500)).save(images / names[8], "PNG")
    make("utk", images, tmp_path / "out")
    rejected = dict(rows(tmp_path / "out" / "utk_rejected.csv")[1:])
    assert list(rejected) == [names[i] for i in (3, 4, 5, 8)]
    assert rejected[names[3]].startswith("unreadable pixels: image file is truncated")
    assert rejected[names[4]] == rejected[names[5]] == "unreadable pixels: not an image"
    assert "90250000 pixels" in rejected[names[8]]
    assert "      4 unreadable pixels\n" in capsys.readouterr().out


@published
@pytest.mark.parametrize("dataset", ["afad", "cacd", "morph2"])
def test_rows_of_the_published_samples(dataset):
    file = {"morph2": "morph2_test.csv"}.get(dataset, f"{dataset}_test_first200.csv")
    there = pd.read_csv(LOGS / file).rename(columns={"Unnamed: 0": ""})
    image = {"afad": "path", "cacd": "file", "morph2": ""}[dataset]
    told = {file: make_csv.read_name(dataset, dataset, file) for file in there[image]}
    table = make_csv.label_table(dataset, told)
    if dataset == "morph2":
        table, found = make_csv.with_metadata(table, make_csv.read_metadata(LOGS / file))
        assert found == len(there) == 11_044
    here = make_csv.part_tables(dataset, table, {"train": [], "valid": [], "test": table.index})
    here = here["test"].replace("", np.nan)
    assert list(here) == list(there)
    if dataset == "cacd":
        here[""] += 127_559  # the rows of the training part
    pd.testing.assert_frame_equal(here, there, check_dtype=False)


@real_photos
def test_labels_of_the_published_utkface_part():
    there = pd.read_csv(SHARED / "utkface" / "utk_train.csv")
    assert len(there) == 13_147
    told = {file: make_csv.read_name("utk", "utk", file) for file in there.file}
    assert make_csv.label_table("utk", told).age.tolist() == there.age.tolist()


@real_photos
@pytest.mark.slow
def test_duplicates_of_the_published_utkface_part(tmp_path, capsys):
    with tarfile.open(SHARED / "utkface" / "utkface-train-images.tar") as tar:
        tar.extractall(tmp_path / "images", filter="data")
    (images,) = {path.parent for path in (tmp_path / "images").rglob("*.jpg")}
    parts = make("utk", images, tmp_path, "--group_duplicates", "--valid_fraction", 0.1)
    assert "181 groups of byte-identical files, 85 of them with" in capsys.readouterr().out
    assert sum(map(len, parts.values())) == 13_147
    assert abs(len(parts["test"]) - 2629) <= 2 and abs(len(parts["valid"]) - 1315) <= 2
    published_labels = pd.read_csv(SHARED / "utkface" / "utk_train.csv").set_index("file").age
    side = {}
    for name, part in parts.items():
        for _, file, label in part:
            assert published_labels[file] == int(label)
            digest = hashlib.md5((images / file).read_bytes()).hexdigest()
            assert side.setdefault(digest, name) == name
    table = pd.read_csv(tmp_path / "utk_duplicates.csv")
    assert table.group.nunique() == 181
    assert table[table.labels_disagree == 1].group.nunique() == 85
    assert (table.groupby("group").label.nunique() > 1).sum() == 85


def names_of(count, seed=0):
    rng = random.Random(seed)
    return [f"{rng.randint(21, 60)}_0_0_{20170102233225000 + i}.jpg.chip.jpg" for i in range(count)]


def test_split_is_the_seeded_permutation_and_complete(tmp_path):
    images = draw(tmp_path / "images", names_of(53))
    ordered = sorted(os.listdir(images))
    place = np.random.default_rng(3).permutation(53)
    drawn = [name for _, name in sorted(zip(place, ordered, strict=True))]
    parts = make("utk", images, tmp_path / "a", "--seed", 3)
    assert [row[1] for row in parts["test"]] == drawn[:11]  # 0.2 * 53 = 10.6
    assert [row[1] for row in parts["train"]] == drawn[11:]
    assert not (tmp_path / "a" / "utk_valid.csv").exists()

    again = make("utk", images, tmp_path / "b", "--seed", 3, "--valid_fraction", 0.1)
    assert [row[1:] for row in again["test"]] == [row[1:] for row in parts["test"]]
    assert [row[1] for row in again["valid"]] == drawn[11:16]  # 5.3
    assert [row[1] for row in again["train"]] == drawn[16:]
    other = make("utk", images, tmp_path / "c", "--seed", 4)
    assert other["test"] != parts["test"]


def test_same_files_whatever_the_order_of_the_listing():
    # Only a tmpfs lists a folder in the order of creation.
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base) as folder:
        folder = Path(folder)
        names = [f"{20 + i % 30}_Zoë_{'é' * (i % 3)}K_{i:04d}.jpg" for i in range(40)]
        draw(folder / "source", names)
        contents = []
        for number, order in enumerate((names, names[::-1])):
            (folder / f"in{number}").mkdir()
            for name in order:
                shutil.copy(folder / "source" / name, folder / f"in{number}" / name)
            out = folder / f"out{number}"
            make("cacd", folder / f"in{number}", out, "--by_subject", "--group_duplicates")
            contents.append({path.name: path.read_bytes() for path in out.iterdir()})
        if base:
            assert os.listdir(folder / "in0") != os.listdir(folder / "in1")
        assert len(contents[0]) == 4 and contents[0] == contents[1]


@pytest.mark.parametrize("seed", range(5))
def test_no_person_on_both_sides(seed, tmp_path, capsys):
    composed, decomposed = (unicodedata.normalize(form, "Zoë_Kravitz") for form in ("NFC", "NFD"))
    people = [
        composed,
        decomposed,
        "J.J._Abrams",
        "Rosie_O'Donnell",
        *(f"P{c}" for c in "abcdefgh"),
    ]
    names = [f"{20 + i}_{person}_{i:04d}.jpg" for person in people for i in range(4)]
    images = draw(tmp_path / "images", names)
    options = ("--seed", seed, "--valid_fraction", 0.2)
    plain = make("cacd", images, tmp_path / "plain", *options)
    usual = capsys.readouterr().out
    parts = make("cacd", images, tmp_path / "grouped", "--by_subject", *options)
    assert sum(map(len, parts.values())) == len(names) == 48
    side = {}
    for part, part_rows in parts.items():
        for _, name, _ in part_rows:
            assert name in os.listdir(images)
            person = unicodedata.normalize("NFC", name)[3:-9]
            assert side.setdefault(person, part) == part
    assert len(side) == 11 and 10 <= len(parts["test"]) <= 17
    assert 20 <= len(parts["test"] + parts["valid"]) <= 27
    assert "\n0.0% of the test images show a person" in capsys.readouterr().out

    seen = {unicodedata.normalize("NFC", name)[3:-9] for _, name, _ in plain["train"]}
    there = sum(unicodedata.normalize("NFC", name)[3:-9] in seen for _, name, _ in plain["test"])
    assert f"\n{100 * there / 10:.1f}% of the test images show a person" in usual


def test_subjects_and_duplicates_are_linked_through_each_other(tmp_path):
    names = [f"{s:06d}_{p:02d}M{20 + p}.jpg" for s in range(8) for p in range(1, 4)]
    images = draw(tmp_path / "images", names)
    for a, b in ((0, 1), (1, 2), (5, 6)):  # a photo of one person also under another's number
        shutil.copy(images / f"{a:06d}_01M21.jpg", images / f"{b:06d}_99M40.jpg")
    for seed in range(6):
        out = tmp_path / str(seed)
        options = ("--by_subject", "--group_duplicates", "--seed", seed)
        parts = make("morph2", images, out, *options)
        test = {int(row[1]) for row in parts["test"]}
        assert test.isdisjoint(int(row[1]) for row in parts["train"])
        assert len(test & {0, 1, 2}) in (0, 3) and len(test & {5, 6}) in (0, 2)
    table = rows(out / "morph2_duplicates.csv")
    assert table[0] == ["group", "file", "label", "labels_disagree"]
    assert table[1:3] == [["0", "000000_01M21.jpg", "5", "1"], ["0", "000001_99M40.jpg", "24", "1"]]
    assert len(table) == 7


def test_group_numbers_against_a_slow_search():
    rng = np.random.default_rng(0)
    for _ in range(50):
        keys = rng.integers(0, 12, (15, 2))
        table = pd.DataFrame(keys, columns=["a", "b"])
        linked = (keys[:, None] == keys[None]).any(axis=2)
        for _ in range(15):
            linked = linked @ linked
        groups = make_csv.group_numbers(table, ["a", "b"])
        assert np.array_equal(groups[:, None] == groups[None], linked)
        assert sorted(set(groups)) == list(range(len(set(groups))))


def test_duplicates_with_equal_labels_do_not_disagree(tmp_path, capsys):
    names = names_of(20)
    images = draw(tmp_path / "images", names)
    age = names[2][:2]
    shutil.copy(images / names[2], images / f"{age}_1_1_20180101000000000.jpg.chip.jpg")
    make("utk", images, tmp_path / "out")
    assert "\n1 groups of byte-identical files, 0 of them with" in capsys.readouterr().out
    assert not (tmp_path / "out" / "utk_duplicates.csv").exists()


def test_metadata_columns(tmp_path, capsys):
    images = draw(tmp_path / "images", KNOWN["morph2"])
    metadata = tmp_path / "metadata.csv"
    metadata.write_text(
        "id_num,picture_num,dob,race,glasses\n"
        "273546,01,1980,B,no\n"
        "066525,3,1960,NA,\n"
        "000001,12,1950,W,no\n"
        "000001,12,1950,B,no\n"  # contradicts the row before: neither counts
        "777777,1,1950,W,no\n",
        encoding="utf-8-sig",
    )
    parts = make("morph2", images, tmp_path / "out", "--metadata", metadata)
    written = {row[0]: row[1:] for part in parts.values() for row in part}
    expected = {name: list(row) for name, row in KNOWN["morph2"].items()}
    expected["273546_01M22.jpg"][2], expected["273546_01M22.jpg"][6] = "B", "no"
    expected["066525_3M45.jpg"][2] = "NA"
    assert written == expected
    assert f"2 of 4 images found in {metadata}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, problem",
    [
        ("id,picture_num,race\n1,1,B\n", "it has id, picture_num, race"),
        ("id_num,picture_num,sex\n1,1,M\n", "of race, facial_hair, glasses, quality at least one"),
        ("id_num,picture_num,race\n1,1,B\n1,x,B\n", "row 2: picture_num is 'x'"),
        ("", "No columns"),
        ("\xff\xfe", "codec"),
        (None, "No such file"),
    ],
)
def test_bad_metadata(text, problem, tmp_path, capsys):
    images = draw(tmp_path / "images", KNOWN["morph2"])
    metadata = tmp_path / "metadata.csv"
    if text is not None:
        metadata.write_bytes(text.encode("latin-1"))
    options = ("--images", images, "--out", tmp_path / "out", "--metadata", metadata)
    message = refused(capsys, "morph2", *options)
    assert problem in message and str(metadata) in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("asked, likely", list(itertools.permutations(KNOWN, 2)))
def test_layout_of_another_data_set_is_named(asked, likely, tmp_path, capsys):
    images = draw(tmp_path / "images", KNOWN[likely])
    message = refused(capsys, asked, "--images", images, "--out", tmp_path / "out")
    count = len(KNOWN[likely])
    assert f"0 of {count} images are named as those of {asked}" in message
    assert f"{count} as those of {likely}: use make-csv.py {likely}\n" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dataset", KNOWN)
def test_the_folder_above_is_refused_with_the_right_one(dataset, tmp_path, capsys):
    draw(tmp_path / "above" / "the images", KNOWN[dataset])
    message = refused(capsys, dataset, "--images", tmp_path / "above", "--out", tmp_path / "out")
    inner = tmp_path / "above" / "the images"
    assert message.endswith(f"try make-csv.py {dataset} --images '{inner}'\n")


def test_bad_input(tmp_path, capsys):
    images = draw(tmp_path / "images", names_of(3))
    out = tmp_path / "out"
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    (tmp_path / "empty" / "notes.txt").write_text("x")
    here = ("--images", images, "--out", out)
    for argv, problem in [
        (
            ("utk", "--images", tmp_path / "empty", "--out", out),
            "no .jpg, .jpeg, .jfif, .png, .webp file",
        ),
        (("utk", "--images", tmp_path / "none", "--out", out), "No such file or directory"),
        (("utk", "--images", images / os.listdir(images)[0], "--out", out), "Not a directory"),
        (("utk", *here, "--by_subject"), "do not tell who is shown"),
        (("utk", *here, "--metadata", "x.csv"), "only morph2"),
        (("utk", *here, "--seed", -1), "--seed -1"),
        (("utk", *here, "--test_fraction", 0), "--test_fraction 0.0"),
        (("utk", *here, "--test_fraction", 0.6, "--valid_fraction", 0.4), "something for training"),
        (("utk", *here, "--test_fraction", "nan"), "--test_fraction nan"),
        (("lfw", *here), "invalid choice: 'lfw'"),
        (("utk", "--out", out), "--images"),
    ]:
        assert problem in refused(capsys, *argv)
        assert not out.exists()
    message = refused(capsys, "utk", *here, "--test_fraction", 0.1)
    due = "no test part can be made of 3 images (3 groups); give more images, or another fraction"
    assert due in message
    assert list(out.iterdir()) == []
    for name in os.listdir(images):
        (images / name).write_bytes(b"")
    assert "no image is left, e.g. '" in refused(capsys, "utk", *here)
    assert list(out.iterdir()) == []


def test_names_that_are_not_utf8(tmp_path):
    images = draw(tmp_path / "images", KNOWN["cacd"])
    try:
        shutil.copy(
            images / "14_Elle_Fanning_0002.jpg", os.fsencode(images) + b"/22_Zo\xeb_0001.jpg"
        )
    except OSError:
        pytest.skip("this file system has only UTF-8 names")
    make("cacd", images, tmp_path / "out")
    assert rows(tmp_path / "out" / "cacd_rejected.csv")[1:] == [
        ["22_Zo\\udceb_0001.jpg", "unreadable name: not UTF-8, no CSV can hold it"]
    ]


def test_existing_files_are_only_replaced_when_asked(tmp_path, capsys):
    images, out = draw(tmp_path / "images", names_of(30)), tmp_path / "out"
    make("utk", images, out, "--valid_fraction", 0.2, "--group_duplicates")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(before) == 5
    capsys.readouterr()
    for name in before:  # one of them is enough
        other = tmp_path / name
        other.mkdir()
        (other / name).write_text("mine")
        message = refused(capsys, "utk", "--images", images, "--out", other)
        assert f"{other / name} exists already; --overwrite" in message
        assert [path.read_text() for path in other.iterdir()] == ["mine"]
    refused(capsys, "utk", "--images", images, "--out", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    # The validation part of the split before would overlap with the new parts.
    parts = make("utk", images, out, "--seed", 1, "--overwrite")
    assert sorted(path.name for path in out.iterdir()) == [
        *("utk_rejected.csv", "utk_test.csv", "utk_train.csv")
    ]
    assert len(parts["test"]) == 6 and len(parts["train"]) == 24


def test_no_permission_to_write(tmp_path, capsys):
    images = draw(tmp_path / "images", names_of(5))
    result = run(SCRIPT, "utk", "--images", images, "--out", images / names_of(5)[0] / "out")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("make-csv.py: error: --out ")
    assert result.stderr.endswith("Not a directory\n")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        images, out = draw(Path(folder) / "images", names_of(5)), Path(folder) / "out"
        out.mkdir(mode=0o555)
        superuser = os.name == "posix" and os.geteuid() == 0
        try:
            if superuser:  # who may write anywhere
                os.seteuid(65534)
            message = refused(capsys, "utk", "--images", images, "--out", out)
        finally:
            if superuser:
                os.seteuid(0)
        assert message.endswith(f": error: --out {out}: Permission denied\n")


def test_disk_full_leaves_the_old_files(tmp_path):
    resource = pytest.importorskip("resource")
    images, out = draw(tmp_path / "images", names_of(60)), tmp_path / "out"
    make("utk", images, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    command = [sys.executable, SCRIPT, "utk", "--images", images, "--out", out, "--overwrite"]
    limit = len(before["utk_train.csv"]) - 1
    result = subprocess.run(
        [*command, "--seed", "7"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert result.returncode == 2
    assert result.stderr.startswith("make-csv.py: error: ") and result.stderr.count("\n") == 1
    assert "File too large" in result.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_interrupt_writes_nothing(tmp_path):
    images, out = draw(tmp_path / "images", names_of(5)), tmp_path / "out"
    pipe = images / "25_0_0_20180101000000000.jpg.chip.jpg"
    os.mkfifo(pipe)  # reading it takes for ever
    command = [sys.executable, SCRIPT, "utk", "--images", images, "--out", out]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with open(pipe, "wb"):  # opens when the script does
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1].endswith("interrupted, nothing was written\n")
    assert process.returncode == 130
    assert list(out.iterdir()) == []


def test_printed_training_command(tmp_path):
    images, out = draw(tmp_path / "my images", names_of(10)), tmp_path / "out"
    result = run(SCRIPT, "utk", "--images", images, "--out", out, "--valid_fraction", 0.2)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == (
        f"Train with: python model-code/utk-coral.py --train_csv {out}/utk_train.csv "
        f"--valid_csv {out}/utk_valid.csv --test_csv {out}/utk_test.csv "
        f"--image_path '{images}' --outpath run1"
    )


def test_the_script_of_a_data_set_of_ones_own(tmp_path, capsys, monkeypatch):
    """As README has it made: named in place of faces-coral.py, for whose CSVs it is."""
    monkeypatch.setattr(make_csv, "MODEL_CODE", tmp_path)
    images = draw(tmp_path / "images", ["25/a.jpg", "30/b.jpg"])
    words = ["--images", images, "--out", tmp_path / "out", "--test_fraction", 0.5]
    (tmp_path / "other-coral.py").write_text('DATASET = "other"\nYOUNGEST_AGE = 15\n')
    for name in ("faces", "mine", "yours"):
        text = (ROOT / "model-code" / "faces-coral.py").read_text()
        (tmp_path / f"{name}-coral.py").write_text(text.replace('"faces"', f'"{name}"'))
        make_csv.main(["faces", *map(str, words), *(["--overwrite"] if name != "faces" else [])])
        *_, last, more = capsys.readouterr().out.splitlines()
        told = last if name == "yours" else more
        due = {"yours": "mine"}.get(name, name)
        assert told.startswith(f"Train with: python model-code/{due}-coral.py --train_csv ")
    assert more == "or with yours-coral.py"


# ---- Faces: any folders, ages 0 to 100


def make_faces(folders, out, *options):
    """``{file: (age, gender)}`` of all parts, and the rejected files with their reasons."""
    words = ["faces", "--images", *map(str, folders), "--out", str(out), *map(str, options)]
    make_csv.main(words)
    found = {}
    for part in ("train", "valid", "test"):
        path = out / f"faces_{part}.csv"
        for number, (file, *facts) in enumerate(rows(path) if path.exists() else []):
            if number == 0:
                assert [file, *facts][:3] == ["file", "age", "gender"]
                continue
            assert file not in found
            found[file] = tuple(facts)
    return found, dict(rows(out / "faces_rejected.csv")[1:])


FACES = {  # below one folder each: the names, and the rows that they give
    "afad": {
        "39/112/406208-0.jpg": ("39", "female"),
        "7/111/1-2.jpg": ("7", "male"),
        "0/111/1-3.jpg": ("0", "male"),
    },
    "cacd": {"54_Bill_Pullman_0006.jpg": ("54", ""), "99_J.J._Abrams_0013.jpg": ("99", "")},
    "morph2": {
        "273546_01M9.jpg": ("9", "male"),
        "000001_12F100.JPG": ("100", "female"),
    },
    "utk": {
        "1_1_3_20170119165539693.jpg.chip.jpg": ("1", "female"),
        "100_0_3_20170119165539693.jpg.chip.jpg": ("100", "male"),
        "39_1_20170116174525125.jpg.chip.jpg": ("39", ""),  # a field lacks
        "40_3_0_20170116220224657.jpg.chip.jpg": ("40", ""),
        "40_111_0_20170116220224657.jpg": ("40", ""),
    },
    "mine": {
        "0/x.jpg": ("0", ""),
        "025/x.jpg": ("25", ""),
        "25/x.jpg": ("25", ""),
        "100/holiday 1.PNG": ("100", ""),
        "30/30_1_3_2017.jpg": ("30", "female"),
        "30/273546_01M30.jpg": ("30", "male"),
        "30/12_05_2019.jpg": ("30", ""),
        "30/12_05_20_19.jpg": ("30", ""),
        "30/7_me_12.jpg": ("30", ""),
        "30/x.webp": ("30", ""),
        "30/x.JFIF": ("30", ""),
    },
}
DECADES = """\
ages   male  female  not told
0-9       3       1         1
20-29     0       0         2
30-39     1       2         6
40-49     0       0         2
50-59     0       0         1
90-99     0       0         1
100       1       1         1
"""


def test_faces_of_every_layout_in_one_csv(tmp_path, capsys):
    above = tmp_path / "all photos"
    for seed, (folder, names) in enumerate(FACES.items()):
        draw(above / folder, names, seed)
    draw(above / "utk", ["101_0_0_2017.jpg", "25/x.jpg"], 10)
    draw(above / "mine", ["101/x.jpg", "25 years/x.jpg", "40_1_3_2017.jpg"], 11)
    (above / "mine" / "notes.txt").write_text("not an image")
    out, folders = tmp_path / "out", [above / folder for folder in FACES]
    found, rejected = make_faces(folders, out, "--test_fraction", 0.4)
    assert found == {f"{a}/{b}": row for a, names in FACES.items() for b, row in names.items()}
    assert all((above / file).is_file() for file in found)
    assert rejected == {
        "mine/101/x.jpg": "age outside 0-100: 101",
        "mine/25 years/x.jpg": "unreadable name: not <age>/<file>.jpg",
        "mine/40_1_3_2017.jpg": "unreadable name: not <age>/<file>.jpg",
        "utk/101_0_0_2017.jpg": "age outside 0-100: 101",
        "utk/25/x.jpg": "unreadable name: not <age>_<gender>_<race>_<time>.jpg.chip.jpg",
    }
    printed = capsys.readouterr().out
    assert f"3 images in {above}/afad, named <age>/<111 or 112>/<file>.jpg\n" in printed
    assert f"14 images in {above}/mine, named <age>/<file>.jpg\n" in printed
    assert f"\n28 images in {above}, 5 rejected, 1 other files: 1 .txt\n" in printed
    assert f"\n{DECADES}" in printed
    assert printed.endswith(
        f"Train with: python model-code/faces-coral.py --train_csv {out}/faces_train.csv "
        f"--test_csv {out}/faces_test.csv --image_path '{above}' --outpath run1\n"
    )


@pytest.mark.parametrize("layout", FACES)
def test_faces_of_one_folder(layout, tmp_path, capsys):
    images = draw(tmp_path / "images", FACES[layout])
    found, rejected = make_faces([images], tmp_path / "out", "--test_fraction", 0.4)
    assert (found, rejected) == (FACES[layout], {})
    assert f"--image_path {images} --outpath run1\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "folder, names",
    [
        ("", ["2019/07/a.jpg", "2019/12/b.jpg"]),
        ("", ["2019/07/24/a.jpg"]),
        ("", ["2019-07/24/a.jpg", "2019-08/01/b.jpg"]),
        ("2019", ["07/a.jpg", "12/b.jpg"]),
        ("2019/07", ["a.jpg"]),
        ("2019/07", ["24/a.jpg", "25/a.jpg"]),
    ],
)
def test_months_are_no_ages(folder, names, tmp_path, capsys):
    images = draw(tmp_path / "photos" / folder, names)
    message = refused(capsys, "faces", "--images", images, "--out", tmp_path / "out")
    assert f": error: --images {images}: 0 of {len(names)} images are named" in message
    due = "; folders of years, months and days tell no ages: name folders by age\n"
    assert message.endswith(due) and "; try " not in message


def test_ages_below_a_year(tmp_path, capsys):
    """In a folder of another name there they are ages."""
    images = draw(tmp_path / "2019" / "faces", ["07/a.jpg", "12/b.jpg"])
    found, _ = make_faces([images], tmp_path / "out", "--test_fraction", 0.5)
    assert found == {"07/a.jpg": ("7", ""), "12/b.jpg": ("12", "")}
    message = refused(capsys, "faces", "--images", tmp_path / "2019", "--out", tmp_path / "2")
    assert message.endswith(f"; try make-csv.py faces --images {images}\n")


def test_photos_that_training_cannot_read(tmp_path, capsys):
    """By kind, of the published sets too; and where nothing else is there."""
    images = draw(tmp_path / "images", ["25/a.webp", "25/b.jfif", "30/c.jpg"])
    for name in ("25/d.HEIC", "25/e.heic", "30/f.avif", "30/notes.txt"):
        (images / name).write_bytes(b"\0\0\0\x18ftypheic")
    (images / "30" / "gone.jpg").symlink_to(tmp_path / "unplugged")
    found, rejected = make_faces([images], tmp_path / "out", "--test_fraction", 0.4)
    assert set(found) == {"25/a.webp", "25/b.jfif", "30/c.jpg"} and rejected == {}
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if "other files" in line)
    assert line.startswith(f"3 images in {images}, 0 rejected, 4 other files: 2 .heic, 1 .")
    advice = "; convert HEIC, AVIF and raw photos to JPEG"
    assert line.endswith(advice) and len(line.removesuffix(advice).split(", ")) == 5
    assert f"link not followed: {images}/30/gone.jpg: leads nowhere\n" in printed
    for name in ("25/a.webp", "25/b.jfif", "30/c.jpg", "30/notes.txt"):
        (images / name).unlink()
    for dataset in ("faces", "utk"):
        message = refused(capsys, dataset, "--images", images, "--out", tmp_path / "2")
        assert f".webp{', .bmp, .tif, .tiff' * (dataset == 'faces')} file in it (left" in message
        assert message.endswith(f"(left out: 2 .heic, 1 .avif{advice})\n")


def test_folder_and_name_must_agree(tmp_path):
    mine, afad = tmp_path / "mine", tmp_path / "afad"
    draw(mine, ["25/40_1_3_2017.jpg", "25/25_1_3_2017.jpg", "25/273546_01M26.jpg", "25/a.jpg"])
    draw(afad, ["25/111/a.jpg", "25/112/25_0_3_2017.jpg", "25/112/25_1_3_2017.jpg"], 1)
    draw(afad, ["25/112/26_1_3_2017.jpg"], 2)
    found, rejected = make_faces([mine, afad], tmp_path / "out")
    assert found == {
        "mine/25/25_1_3_2017.jpg": ("25", "female"),
        "mine/25/a.jpg": ("25", ""),
        "afad/25/111/a.jpg": ("25", "male"),
        "afad/25/112/25_1_3_2017.jpg": ("25", "female"),
    }
    assert rejected == {
        "mine/25/40_1_3_2017.jpg": "ages that disagree: 25 by its folder, 40 by its name",
        "mine/25/273546_01M26.jpg": "ages that disagree: 25 by its folder, 26 by its name",
        "afad/25/112/25_0_3_2017.jpg": "genders that disagree: female by its folder, "
        "male by its name",
        "afad/25/112/26_1_3_2017.jpg": "ages that disagree: 25 by its folder, 26 by its name",
    }


def test_folders_in_each_other_and_named_twice(tmp_path, capsys, monkeypatch):
    above, utk = tmp_path / "photos", tmp_path / "photos" / "UTK"
    draw(above, FACES["mine"])
    draw(utk, FACES["utk"], 1)
    (tmp_path / "link").symlink_to(utk)
    monkeypatch.chdir(above)
    expected = FACES["mine"] | {f"UTK/{name}": row for name, row in FACES["utk"].items()}
    for number, folders in enumerate(([above, utk, utk], [utk, above, "../photos/UTK"])):
        found, rejected = make_faces(folders, tmp_path / str(number))
        assert (found, rejected) == (expected, {})
        printed = capsys.readouterr().out
        assert "\n10 images lie in several of these folders and count once\n" in printed
        assert f"\n16 images in {above}, 0 rejected, 0 other files\n" in printed
    assert rows(tmp_path / "0" / "faces_test.csv") == rows(tmp_path / "1" / "faces_test.csv")

    found, _ = make_faces([utk, tmp_path / "link"], tmp_path / "linked")
    assert found == {f"photos/UTK/{name}": row for name, row in FACES["utk"].items()}
    found, _ = make_faces([tmp_path / "link", above], tmp_path / "linked", "--overwrite")
    in_link = {f"link/{name}": row for name, row in FACES["utk"].items()}
    assert found == in_link | {f"photos/{name}": row for name, row in FACES["mine"].items()}


def test_faces_options(tmp_path):
    images = draw(
        tmp_path / "images", [f"{age}/{i}.jpg" for age in range(0, 101, 10) for i in "ab"]
    )
    (images / "20" / "twin.jpg").write_bytes((images / "100" / "a.jpg").read_bytes())
    for seed in range(5):
        out, options = tmp_path / str(seed), ("--group_duplicates", "--seed", seed)
        found, _ = make_faces([images], out, *options, "--valid_fraction", 0.3)
        assert len(found) == 23 and len(rows(out / "faces_valid.csv")) > 4
        sides = {
            part
            for part in ("train", "valid", "test")
            for file, *_ in rows(out / f"faces_{part}.csv")
            if file in ("20/twin.jpg", "100/a.jpg")
        }
        assert len(sides) == 1
        assert rows(out / "faces_duplicates.csv")[1:] == [
            ["0", "100/a.jpg", "100", "1"],
            ["0", "20/twin.jpg", "20", "1"],
        ]


def test_a_failing_disk_rejects_no_image(tmp_path, capsys, monkeypatch):
    """Which nothing real here can do."""
    images = draw(tmp_path / "images", names_of(9))
    failing = sorted(images.iterdir())[3]
    read = Path.read_bytes

    def fail(path):
        if path == failing:
            raise OSError(5, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    message = refused(capsys, "utk", "--images", images, "--out", tmp_path / "out")
    line = f"error: {failing}: Input/output error; mend or remove it; nothing was written\n"
    assert message.endswith(line) and list((tmp_path / "out").iterdir()) == []


def test_folders_that_cannot_be(tmp_path, capsys):
    mine, out = draw(tmp_path / "mine", FACES["mine"]), tmp_path / "out"
    other = draw(tmp_path / "other", ["photo.jpg", "me.png"])
    utk = draw(tmp_path / "utk", names_of(9))
    draw(tmp_path / "above" / "the faces", FACES["mine"])
    draw(tmp_path / "more" / "UTK", names_of(2))
    afad = draw(tmp_path / "afad", ["39/111/1-0.jpg", "39/112/2-0.jpg"])
    (tmp_path / "empty").mkdir()
    for argv, problem in [
        (("faces", "--images", mine, other), f"{other}: 0 of 2 images are named as those of faces"),
        (
            ("faces", "--images", mine, tmp_path / "empty"),
            f"{tmp_path}/empty: no .jpg, .jpeg, .jfif, .png, .webp,",
        ),
        (("faces", "--images", mine, tmp_path / "none"), "none: No such file or directory"),
        (
            ("faces", "--images", mine / "25", mine / "30"),
            f"; try make-csv.py faces --images {mine}\n",
        ),
        (
            ("faces", "--images", tmp_path / "above"),
            f"faces --images '{tmp_path}/above/the faces'\n",
        ),
        (("faces", "--images", tmp_path / "more"), f"faces --images {tmp_path}/more/UTK\n"),
        (("faces", "--images", mine, "--by_subject"), "do not tell who is shown"),
        (("utk", "--images", utk, utk), "utk has one folder"),
        (("utk", "--images", utk, "--images", mine), f"--images {utk} {mine}: utk has one folder"),
        (("utk", "--images", mine), "11 as those of faces: use make-csv.py faces\n"),
        (("afad", "--images", afad / "39"), f"; try make-csv.py afad --images {afad}\n"),
    ]:
        assert problem in refused(capsys, *argv, "--out", out)
        assert not out.exists()
    message = refused(capsys, "faces", "--images", other, "--out", out)
    assert all(form in message for form in make_csv.FORMS.values())


# ---- Links


def test_folders_that_are_links(tmp_path, capsys):
    images, elsewhere = tmp_path / "AFAD", tmp_path / "disk"
    draw(images, ["15/111/a.jpg", "16/112/b.jpg"])
    draw(elsewhere, ["39/111/c.jpg", "39/112/d.jpg", "women/e.jpg"], 1)
    (images / "39").symlink_to(elsewhere / "39")
    (images / "20").mkdir()
    (images / "20" / "112").symlink_to(elsewhere / "women")
    (images / "14").symlink_to("15")  # the real name counts, though this one comes first
    (images / "16" / "loop").symlink_to(images)
    (images / "40").symlink_to(tmp_path / "unplugged")
    (images / "20" / "111").symlink_to("111")
    parts = make("afad", images, tmp_path / "out", "--test_fraction", 0.4)
    assert sorted(row[1:] for part in parts.values() for row in part) == [
        ["15/111/a.jpg", "0", "male"],
        ["16/112/b.jpg", "1", "female"],
        ["20/112/e.jpg", "5", "female"],
        ["39/111/c.jpg", "24", "male"],
        ["39/112/d.jpg", "24", "female"],
    ]
    printed = capsys.readouterr().out
    assert f"\n5 images in {images}, 0 rejected, 0 other files\n" in printed
    told = [line for line in printed.splitlines() if line.startswith("link not followed: ")]
    assert sorted(told) == [
        f"link not followed: {images}/14: its folder is listed under another name",
        f"link not followed: {images}/16/loop: its folder is listed under another name",
        f"link not followed: {images}/20/111: leads nowhere",
        f"link not followed: {images}/40: leads nowhere",
    ]


def test_of_links_to_one_folder_the_first_counts(tmp_path):
    elsewhere = draw(tmp_path / "disk", ["c.jpg", "d.jpg"])
    (tmp_path / "mine").mkdir()
    for age in random.Random(0).sample(range(20, 60), 40):
        (tmp_path / "mine" / str(age)).symlink_to(elsewhere)
    found, _ = make_faces([tmp_path / "mine"], tmp_path / "out", "--test_fraction", 0.4)
    assert found == {"20/c.jpg": ("20", ""), "20/d.jpg": ("20", "")}


# ---- Orientation, and pixels that nobody can tell the range of


def test_orientation_is_warned_of(tmp_path, capsys):
    names = sorted(names_of(12))
    images = draw(tmp_path / "images", names)
    for name, orientation in zip(names, [1, 6, 1, 8, 2, 0, 9], strict=False):
        exif = Image.Exif()
        exif[0x0112] = orientation
        with Image.open(images / name) as image:
            image.load()
        image.save(images / name, "PNG" if orientation == 8 else "JPEG", exif=exif)
    make("utk", images, tmp_path / "out")
    assert capsys.readouterr().err == (
        "make-csv.py: warning: 3 images have an EXIF orientation other than 1, the first is "
        f"{names[1]!r}: training on utk ignores it, as the paper's code did; turn their pixels if "
        "they do not stand upright\n"
    )
    make_faces([images], tmp_path / "out")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "dataset, cutter",
    [
        ("utk", "datasets/image-preprocessing-code/preprocess-faces.py\n"),
        ("faces", "datasets/image-preprocessing-code/preprocess-faces.py\n"),
        ("cacd", "datasets/image-preprocessing-code/preprocess-cacd.py\n"),
        ("morph2", None),
    ],
)
def test_photos_that_are_no_squares(dataset, cutter, tmp_path, capsys):
    """Counted where training squeezes them; a pixel or two is nothing."""
    names = {"morph2": "00{}_01M30.jpg", "cacd": "3{}_Some_Body_0001.jpg"}
    names = [names.get(dataset, "3{}_0_0_2017.jpg").format(number) for number in range(6)]
    images = draw(tmp_path / "images", names)
    sizes = [(200, 200), (300, 200), (200, 204), (200, 240), (196, 200), (400, 400)]
    for name, size in zip(names, sizes, strict=True):
        Image.new("RGB", size).save(images / name)
    make(dataset, images, tmp_path / "out", "--test_fraction", 0.5)
    shown = capsys.readouterr().err
    if cutter is None:
        assert shown == ""
    else:
        assert (ROOT / cutter.strip()).is_file()
        what = f"2 of 6 images are no squares, the first is {names[1]!r}: training squeezes them"
        assert shown == f"make-csv.py: warning: {what}; to cut faces out: {cutter}"


def test_damaged_exif_is_no_orientation(tmp_path):
    names = names_of(6)
    images = draw(tmp_path / "images", names)
    for name, exif in zip(names, (b"II*\0\x08\0\0\0\x09\0\x12\x01", b"no EXIF"), strict=False):
        with Image.open(images / name) as image:
            image.load()
        image.save(images / name, "JPEG", exif=b"Exif\0\0" + exif)
    result = run(SCRIPT, "utk", "--images", images, "--out", tmp_path / "out")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"6 images in {images}, 0 rejected" in result.stdout


def test_floats_and_long_integers_are_rejected(tmp_path):
    names = sorted(names_of(8))
    images = draw(tmp_path / "images", names)
    ramp = np.arange(64).reshape(8, 8) * 1024
    Image.fromarray((ramp / 2**16).astype(np.float32)).save(images / names[0], "TIFF")
    Image.fromarray(ramp.astype(np.int32)).save(images / names[1], "TIFF")
    (images / names[2]).write_bytes(b"Pf\n8 8\n-1.0\n" + (ramp / 2**16).astype("<f4").tobytes())
    Image.fromarray(ramp.astype(np.uint16)).save(images / names[3], "PNG")
    Image.fromarray(ramp.astype(np.uint16)).save(images / names[4], "TIFF")
    (images / names[5]).write_bytes(b"P5\n8 8\n65535\n" + ramp.astype(">u2").tobytes())
    make("utk", images, tmp_path / "out", "--test_fraction", 0.4)
    problem = "unreadable pixels: floats or 32-bit integers; save it with 8 or 16 bits"
    assert rows(tmp_path / "out" / "utk_rejected.csv")[1:] == [[n, problem] for n in names[:3]]


# ---- Files written whole


def test_written(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path) as file:
        file.write(b"one")
        assert os.listdir(tmp_path) == [".a.txt.tmp"]
    assert path.read_bytes() == b"one"
    for reason in (ValueError("mine"), KeyboardInterrupt(), OSError(28, "No space left")):
        with pytest.raises(type(reason)), atomic_write(path, "w", newline="") as file:
            file.write("two")
            raise reason
        assert os.listdir(tmp_path) == ["a.txt"] and path.read_bytes() == b"one"
    assert reason.filename == str(path)
    with pytest.raises(FileNotFoundError) as problem, atomic_write(tmp_path / "no" / "b"):
        pass
    assert problem.value.filename == str(tmp_path / "no" / "b")
    with pytest.raises(OSError) as problem, atomic_write(path):
        open(tmp_path / "other")
    assert problem.value.filename == str(tmp_path / "other")


@pytest.mark.parametrize("failing", range(3))
def test_all_tables_are_replaced_or_none(failing, tmp_path, monkeypatch):
    files = [tmp_path / f"{name}.csv" for name in "abc"]
    make_csv.write_csvs({path: pd.DataFrame({"x": [1]}) for path in files})
    assert [path.read_text() for path in files] == ["x\n1\n"] * 3
    synced = []

    def fsync(number):
        synced.append(number)
        if len(synced) == failing + 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError) as problem:
        make_csv.write_csvs({path: pd.DataFrame({"x": [2]}) for path in files})
    assert problem.value.filename == str(files[failing])
    assert [path.read_text() for path in files] == ["x\n1\n"] * 3
    assert sorted(tmp_path.iterdir()) == files
