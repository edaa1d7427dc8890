"""Labels and splits: rows against the published CSVs and against rows written out here."""

import csv
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

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, load, run
from PIL import Image

SCRIPT = ROOT / "datasets" / "train-test-csv" / "make-csv.py"
SHARED = ROOT.parent / "shared"
LOGS = SHARED / "published-logs"
make_csv = load(SCRIPT)

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


def refused(capsys, *argv):
    """The one line on stderr of a call that must end with exit code 2."""
    with pytest.raises(SystemExit) as end:
        make_csv.main([str(a) for a in argv])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert ": error: " in message and message.count("\n") == 1
    return message


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
    assert f"{len(written) + 6} images in {images}, 6 rejected, 1 other files" in printed
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
    table = make_csv.label_table(dataset, list(there[image]))
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
    assert not any(make_csv.rejection("utk", name) for name in there.file)
    assert make_csv.label_table("utk", list(there.file)).age.tolist() == there.age.tolist()


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
        ("id_num,picture_num,race\n1,1,B\n1,x,B\n", "row 3: picture_num is 'x'"),
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
        (("utk", "--images", tmp_path / "empty", "--out", out), "no .jpg, .jpeg, .png file in it"),
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
    assert "no test part can be made of 3 images" in message
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
