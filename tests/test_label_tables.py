"""Collections with labels of their own, and ranges of ages: rows of make-csv.py against rows
written out here. The tables and names are as FairFace, APPA-REAL, Adience and the others publish
theirs; the photos are noise."""

import math
import random

import pytest
from test_make_csv import draw, make_csv, make_faces, refused, rows

label_tables = make_csv.label_tables


def write(folder, tables):
    """Each table, a text, as the file of its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in tables.items():
        (folder / name).write_text(text)
    return [folder / name for name in tables]


# ---- Ages


@pytest.mark.parametrize(
    "text, age, written",
    [
        ("34", (34, 34), "34"),
        ("034", (34, 34), "34"),
        ("34.0", (34, 34), "34"),  # as pandas writes a column with gaps
        ("0", (0, 0), "0"),
        ("100", (100, 100), "100"),
        ("20-29", (20, 29), "20-29"),
        (" 3 - 9 ", (3, 9), "3-9"),
        ("7-7", (7, 7), "7"),
        ("(25, 32)", (25, 32), "25-32"),
        ("(60, 100)", (60, 100), "60+"),
        ("70-100", (70, 100), "70+"),
        ("90-110", (90, 110), "90+"),
        ("70+", (70, math.inf), "70+"),
        ("more than 70", (70, math.inf), "70+"),
        ("", None, ""),
        ("None", None, ""),
    ],
)
def test_ages(text, age, written):
    assert label_tables.read_age(text) == age
    assert label_tables.write_age(age, 100) == written
    assert label_tables.write_age(label_tables.read_age(written), 100) == written


@pytest.mark.parametrize(
    "text", ["x", "-3", "3-", "2019", "20-29-30", "34.5", "+70", "more than", "03-Sep", "Oct-19"]
)
def test_what_is_no_age(text):
    with pytest.raises(ValueError) as problem:
        label_tables.read_age(text)
    date = "; a spreadsheet made a date of it" * text.endswith(("Sep", "19")) * (text != "2019")
    assert str(problem.value) == f"age {text!r} is not of the form 34, 20-29, 70+ or empty{date}"


RANGES = {
    "0-2/a.jpg": ("0-2", ""),
    "3-9/a.jpg": ("3-9", ""),
    "5/a.jpg": ("5", ""),
    "8-12/a.jpg": ("8-12", ""),
    "20-29/a.jpg": ("20-29", ""),
    "20-29/b.jpg": ("20-29", ""),
    "20-29/21_1_3_2017.jpg": ("21", "female"),  # its name knows more
    "70+/a.jpg": ("70+", ""),
    "70-100/a.jpg": ("70+", ""),
    "more than 70/a.jpg": ("70+", ""),
    "100/a.jpg": ("100", ""),
    "100+/a.jpg": ("100", ""),
}


def test_folders_of_ranges(tmp_path, capsys):
    images = draw(tmp_path / "images", RANGES)
    draw(images, ["29-20/a.jpg", "101-110/a.jpg", "x-9/a.jpg", "20-29/40_1_3_2017.jpg"], 1)
    found, rejected = make_faces([images], tmp_path / "out", "--test_fraction", 0.4)
    assert found == RANGES
    assert rejected == {
        "20-29/40_1_3_2017.jpg": "ages that disagree: 20-29 by its folder, 40 by its name",
        "29-20/a.jpg": "unreadable name: age '29-20' ends before it begins",
        "101-110/a.jpg": "age outside 0-100: 101-110",
        "x-9/a.jpg": "unreadable name: not <age>/<file>.jpg",
    }
    printed = capsys.readouterr().out
    assert (
        """
ages: 4 years, 8 ranges, 0 not told
ages   male  female  not told
0-9       0       0         3
8-12      0       0         1
20-29     0       1         2
70+       0       0         3
100       0       0         2
"""
        in printed
    )
    message = refused(capsys, "faces", "--images", images / "8-12", "--out", tmp_path / "2")
    assert message.endswith(f"; try make-csv.py faces --images {images}\n")


def test_labels_that_disagree_fit_no_age(tmp_path):
    names = ["20-29/a.jpg", "25/a.jpg", "30-39/b.jpg", "25/b.jpg", "29/c.jpg", "20-29/c.jpg"]
    names += ["30-39/c.jpg", "40/d.jpg"]
    images = draw(tmp_path / "images", names)
    for name in names:
        same = random.Random(name.rsplit("/")[1]).randbytes(12)
        make_csv.Image.frombytes("RGB", (2, 2), same).save(images / name, "PNG")
    make_faces([images], tmp_path / "out", "--group_duplicates", "--test_fraction", 0.4)
    groups = rows(tmp_path / "out" / "faces_duplicates.csv")[1:]
    assert sorted(row[1:] for row in groups) == [
        ["20-29/a.jpg", "20-29", "0"],
        ["20-29/c.jpg", "20-29", "1"],
        ["25/a.jpg", "25", "0"],
        ["25/b.jpg", "25", "1"],
        ["29/c.jpg", "29", "1"],
        ["30-39/b.jpg", "30-39", "1"],
        ["30-39/c.jpg", "30-39", "1"],
    ]


# ---- File and folder names


def test_all_age_faces(tmp_path, capsys):
    """The number tells the gender: up to 07380 women, from 07381 men."""
    names = {
        "00000A02.jpg": ("2", "female"),
        "07380A80.jpg": ("80", "female"),
        "07381A02.jpg": ("2", "male"),
        "13321A80.jpg": ("80", "male"),
    }
    images = draw(tmp_path / "All-Age-Faces Dataset" / "original images", names)
    draw(images, ["13322A8.jpg", "1332A080.jpg"], 1)
    found, rejected = make_faces([images], tmp_path / "out", "--test_fraction", 0.5)
    assert found == names
    reason = "unreadable name: not <number of five digits>A<age>.jpg"
    assert rejected == dict.fromkeys(["13322A8.jpg", "1332A080.jpg"], reason)
    message = refused(capsys, "faces", "--images", images.parent, "--out", tmp_path / "2")
    assert message.endswith(f"; try make-csv.py faces --images '{images}'\n")
    message = refused(capsys, "utk", "--images", images, "--out", tmp_path / "2")
    assert message.endswith("; 4 as those of all-age-faces: use make-csv.py faces\n")


FG_NET = {
    f"00{person}A{age}.JPG": (str(int(age.strip("ab"))), "")
    for person in range(1, 6)
    for age in ("02", "22a", "22b", "69")
}


@pytest.mark.parametrize("seed", range(3))
def test_fg_net(seed, tmp_path, capsys):
    """Nobody in two parts, though the photos lie in two folders."""
    train, test = tmp_path / "train", tmp_path / "test"
    draw(train, [name for name in FG_NET if not name.startswith("003A2")])
    draw(test, [name for name in FG_NET if name.startswith("003A2")], 1)
    draw(tmp_path / "mine", ["25/a.jpg", "30/b.jpg"], 2)
    folders = [train, test, tmp_path / "mine"]
    found, rejected = make_faces(folders, tmp_path / "out", "--by_subject", "--seed", seed)
    assert rejected == {} and len(found) == 22
    told = {file.split("/")[1]: facts for file, facts in found.items() if "mine" not in file}
    assert told == FG_NET
    part = {}
    for name in ("train", "test"):
        for file, *_ in rows(tmp_path / "out" / f"faces_{name}.csv")[1:]:
            person = file if "mine" in file else file.split("/")[1][:3]
            assert part.setdefault(person, name) == name
    assert len(part) == 7 and {*part.values()} == {"train", "test"}
    printed = capsys.readouterr().out
    assert "\n0.0% of the test images show a person who is in the training part\n" in printed
    assert "\n2 of 22 images do not tell who is shown\n" in printed


def test_persons_of_cacd_and_morph2_as_faces(tmp_path):
    """MORPH-2 writes a number with zeros before it or without."""
    persons = {}
    for number in range(1, 5):
        who = "ABCD"[number - 1]
        persons |= {f"cacd/{age}_{who}_0001.jpg": who for age in (30, 40)}
        persons |= {f"morph2/{number:06d}_01M30.jpg": number, f"morph2/{number}_02M31.jpg": number}
    draw(tmp_path, persons)
    folders = [tmp_path / "cacd", tmp_path / "morph2"]
    for seed in range(3):
        out, part = tmp_path / str(seed), {}
        make_faces(folders, out, "--by_subject", "--test_fraction", 0.4, "--seed", seed)
        for name in ("train", "test"):
            for file, *_ in rows(out / f"faces_{name}.csv")[1:]:
                assert part.setdefault(persons[file], name) == name
        assert len(part) == 8 and {*part.values()} == {"train", "test"}


def test_who_nothing_tells_is_nobody_else():
    """Nor is person 1 of one collection that of another."""
    names = {"a/1_01M30.jpg": "morph2", "a/01_02M31.jpg": "morph2", "001A30.jpg": "fg-net"}
    names |= {"00001A30.jpg": "all-age-faces", "00002A30.jpg": "all-age-faces"}
    told = {
        name: make_csv.read_name("faces", layout, name.removeprefix("a/"))
        for name, layout in names.items()
    }
    table = make_csv.label_table("faces", told)
    assert make_csv.group_numbers(table, ["subject"]).tolist() == [0, 0, 1, 2, 3]


def test_folders_by_gender(tmp_path, capsys):
    """As LFW and CelebA are often sorted; ages are not told."""
    images = draw(tmp_path / "images", ["male/1.jpg", "Female/2.jpg", "female/3.jpg", "4.jpg"])
    mine = draw(tmp_path / "mine", ["25/a.jpg"], 1)
    found, rejected = make_faces([images, mine], tmp_path / "out", "--test_fraction", 0.5)
    assert found == {
        "images/male/1.jpg": ("", "male"),
        "images/Female/2.jpg": ("", "female"),
        "images/female/3.jpg": ("", "female"),
        "mine/25/a.jpg": ("25", ""),
    }
    assert rejected == {"images/4.jpg": "unreadable name: not <male or female>/<file>.jpg"}
    printed = capsys.readouterr().out
    counts = "20-29        0       0         1\nnot told     1       2         0\n"
    assert "\nages: 1 years, 0 ranges, 3 not told\n" in printed and counts in printed
    message = refused(capsys, "faces", "--images", images / "male", "--out", tmp_path / "2")
    assert message.endswith(f"; try make-csv.py faces --images {images}\n")


# ---- Tables


FAIRFACE = {
    "fairface_label_train.csv": "file,age,gender,race,service_test\n"
    "train/1.jpg,50-59,Male,East Asian,True\n"
    "train/2.jpg,3-9,Female,Latino_Hispanic,False\n"
    "train/3.jpg,more than 70,Female,Black,False\n",
    "fairface_label_val.csv": "file,age,gender,race,service_test\n"
    "val/1.jpg,0-2,Male,Middle Eastern,True\n"
    "val/2.jpg,10-19,Female,White,False\n",
}
FAIRFACE_ROWS = {
    "train/1.jpg": ("50-59", "male", "East Asian"),
    "train/2.jpg": ("3-9", "female", "Latino_Hispanic"),
    "train/3.jpg": ("70+", "female", "Black"),
    "val/1.jpg": ("0-2", "male", "Middle Eastern"),
    "val/2.jpg": ("10-19", "female", "White"),
}
TIGHT, WIDE = "fairface-img-margin025-trainval", "fairface-img-margin125-trainval"


def test_fairface(tmp_path, capsys):
    """Tables beside the folder of a padding, in it, or given; never both paddings."""
    above, inside, given = tmp_path / "above", tmp_path / "inside", tmp_path / "given"
    draw(above / WIDE, FAIRFACE_ROWS)
    draw(inside, FAIRFACE_ROWS)
    draw(given, [*FAIRFACE_ROWS, "val/3.jpg"])
    write(above, FAIRFACE)
    write(inside, FAIRFACE)
    tables = write(tmp_path / "labels", FAIRFACE)

    found, rejected = make_faces([above], tmp_path / "1")
    assert found == {f"{WIDE}/{file}": row for file, row in FAIRFACE_ROWS.items()}
    assert rejected == {}
    printed = capsys.readouterr().out
    names = ", ".join(str(above / name) for name in FAIRFACE)
    assert printed.startswith(f"5 images in {above}, labels in {names}\n5 images in {above}, 0 rej")
    assert ", 0 other files\n" in printed and "\nages: 0 years, 5 ranges, 0 not told\n" in printed
    assert f"--image_path {above} " in printed

    assert make_faces([inside], tmp_path / "2") == (FAIRFACE_ROWS, {})
    found, rejected = make_faces([given], tmp_path / "3", "--labels", *tables)
    assert found == FAIRFACE_ROWS and rejected == {"val/3.jpg": "no label: it is in no row"}
    capsys.readouterr()
    found, rejected = make_faces(
        [given], tmp_path / "4", "--labels", tables[0], "--test_fraction", 0.4
    )
    assert found == {file: row for file, row in FAIRFACE_ROWS.items() if file.startswith("train")}
    assert len(rejected) == 3

    draw(above / TIGHT, FAIRFACE_ROWS, 1)
    assert refused(capsys, "faces", "--images", above, "--out", tmp_path / "5").endswith(
        f"error: {above}/fairface_label_train.csv: row 1: 'train/1.jpg' may be "
        f"'{TIGHT}/train/1.jpg' or '{WIDE}/train/1.jpg'; give one of their folders\n"
    )


def test_rows_without_photo_are_counted(tmp_path, capsys):
    images = draw(tmp_path / "images", ["train/2.jpg", "val/1.jpg", "val/2.jpg"])
    train, val = write(images, FAIRFACE)
    found, rejected = make_faces([images], tmp_path / "out", "--test_fraction", 0.4)
    assert found == {
        name: FAIRFACE_ROWS[name] for name in ("train/2.jpg", "val/1.jpg", "val/2.jpg")
    }
    printed = capsys.readouterr().out
    assert f"\n{train}: no photo of 2 of 3 rows, first row 1, 'train/1.jpg'\n" in printed
    assert f"{val}: no photo" not in printed
    for name in found:
        (images / name).rename(images / f"other {name.replace('/', ' ')}")
    message = refused(capsys, "faces", "--images", images, "--out", tmp_path / "2")
    reason = "no image is left, e.g. 'other train 2.jpg': no label: it is in no row\n"
    assert message.endswith(reason)


def test_a_face_that_was_cut_out_keeps_its_labels(tmp_path):
    """Also where the crop has another suffix; a photo right there goes before one further down."""
    names = ["train/1.png", "train/2.jpg"]
    images = draw(tmp_path / "images", [*names, *(f"old/{name}" for name in names)])
    table = write(tmp_path, FAIRFACE)[0]
    found, rejected = make_faces(
        [images], tmp_path / "out", "--labels", table, "--test_fraction", 0.5
    )
    assert found == {
        "train/1.png": FAIRFACE_ROWS["train/1.jpg"],
        "train/2.jpg": FAIRFACE_ROWS["train/2.jpg"],
    }
    assert rejected == {f"old/{name}": "no label: it is in no row" for name in names}


AVERAGES = "file_name,num_ratings,apparent_age_avg,apparent_age_std,real_age\n"
APPA_REAL = {
    "gt_avg_train.csv": f"{AVERAGES}000000.jpg,36,5.0277777778,1.13,4\n"
    "000001.jpg,38,20.4999,4.0,18\n000002.jpg,38,74.5,5.5,80\n",
    "gt_avg_valid.csv": f"{AVERAGES}004113.jpg,40,31.2,3.5,29\n",
    "gt_avg_test.csv": f"{AVERAGES}005613.jpg,31,0.4,3.5,1\n",
    "allcategories_train.csv": "file,gender,race,makeup,time,happiness\n"
    "000000.jpg,male,caucasian,nomakeup,modernphoto,neutral\n"
    "000001.jpg,female,asian,makeup,modernphoto,happy\n",
    "ignore_list.csv": "img_name\n000001.jpg\n",
}


@pytest.mark.parametrize("age", ["real", "apparent"])
def test_appa_real(age, tmp_path, capsys):
    images = tmp_path / "appa-real-release"
    names = [*(f"train/00000{i}.jpg" for i in range(3)), "valid/004113.jpg", "test/005613.jpg"]
    draw(images, [*names, *(f"{name}_face.jpg" for name in names[:4]), f"{names[4]}_face.png"])
    (images / "train" / "000000.jpg.mat").write_text("not an image")
    write(images, APPA_REAL)
    ages = {"real": ("4", "80", "29", "1"), "apparent": ("5", "75", "31", "0")}[age]
    found, rejected = make_faces([images], tmp_path / "out", "--age", age, "--test_fraction", 0.4)
    assert found == {
        "train/000000.jpg_face.jpg": (ages[0], "male", "caucasian"),
        "train/000002.jpg_face.jpg": (ages[1], "", ""),
        "valid/004113.jpg_face.jpg": (ages[2], "", ""),
        "test/005613.jpg_face.png": (ages[3], "", ""),
    }
    whole = dict.fromkeys(names, "whole photo, whose face is beside it")
    assert rejected == whole | {"train/000001.jpg_face.jpg": "in the list of photos to leave out"}
    assert ", 6 rejected, 1 other files: 1 .mat\n" in capsys.readouterr().out


def test_a_photo_by_its_own_name(tmp_path):
    """Where two names differ in their suffix alone; a name that no row has is nobody's."""
    names = ["a.jpg", "a.png", "b/c.jpg", "c.png"]
    images = draw(tmp_path / "images", [*names, "b/d.jpg", "the/d.jpg"])
    table = tmp_path / "labels.csv"
    table.write_text("file,age\na.jpg,1\na.png,2\nb/c.jpg,3\nc.png,4\n./e/d.jpg,5\n")
    found, rejected = make_faces([images], tmp_path / "out", "--labels", table)
    assert found == {name: (str(age), "") for age, name in enumerate(names, 1)}
    assert rejected == dict.fromkeys(["b/d.jpg", "the/d.jpg"], "no label: it is in no row")


def test_appa_real_without_its_faces(tmp_path):
    """Whole photos, or what was cut out of them, with some of the tables."""
    images = draw(tmp_path / "images", ["000000.jpg", "000001.jpg"])
    tables, half = write(tmp_path, APPA_REAL), ("--test_fraction", 0.5)
    found, _ = make_faces([images], tmp_path / "1", "--labels", tables[0], *half)
    assert found == {"000000.jpg": ("4", ""), "000001.jpg": ("18", "")}
    found, _ = make_faces([images], tmp_path / "2", "--labels", tables[3], *half)
    assert found == {
        "000000.jpg": ("", "male", "caucasian"),
        "000001.jpg": ("", "female", "asian"),
    }


COLUMNS = (
    "user_id original_image face_id age gender x y dx dy tilt_ang fiducial_yaw_angle fiducial_score"
)
ADIENCE = [  # user, image, face, age, gender, and what they give
    ("30601258@N03", "10399646885_67c7d20df9_o.jpg", "1", "(25, 32)", "f", ("25-32", "female")),
    ("30601258@N03", "10424815813_e94629b1ec_o.jpg", "2", "(60, 100)", "m", ("60+", "male")),
    ("29671106@N00", "11192887686_0ba6d0d4de_o.jpg", "186", "(0, 2)", "u", ("0-2", "")),
    ("29671106@N00", "11192887686_0ba6d0d4de_o.jpg", "187", "35", "", ("35", "")),
    ("29671106@N00", "11192887686_0ba6d0d4de_o.jpg", "188", "None", "m", ("", "male")),
    ("29671106@N00", "11192887686_0ba6d0d4de_o.jpg", "189", "None", "u", None),
]


@pytest.mark.parametrize("folder, prefix", [("faces", "coarse_tilt"), ("aligned", "landmark")])
def test_adience(folder, prefix, tmp_path, capsys):
    images, folds = tmp_path / "Adience", {}
    for number, chosen in enumerate((ADIENCE[:2], ADIENCE[2:])):
        lines = ["\t".join([*row[:5], *"1234567"]) for row in chosen]
        folds[f"fold_{number}_data.txt"] = "\n".join([COLUMNS.replace(" ", "\t"), *lines, ""])
    name = f"{folder}/{{0}}/{prefix}_aligned_face.{{2}}.{{1}}"
    due = {name.format(*row): row[5] for row in ADIENCE}
    draw(images, due)
    tables = write(images, folds)
    (images / "fold_frontal_0_data.txt").write_text("not read")
    found, rejected = make_faces([images], tmp_path / "out", "--by_subject")
    assert found == {file: facts for file, facts in due.items() if facts}
    assert rejected == {name.format(*ADIENCE[5]): "no label: its row has neither age nor gender"}
    users = [
        {file.split("/")[1] for file, *_ in rows(tmp_path / "out" / f"faces_{part}.csv")[1:]}
        for part in ("train", "test")
    ]
    assert sorted(map(len, users)) == [1, 1] and users[0] != users[1]
    assert "\nages: 1 years, 3 ranges, 1 not told\n" in capsys.readouterr().out

    other = {"faces": "aligned", "aligned": "faces"}[folder]
    (images / folder / "30601258@N03").rename(images / "kept")
    (images / other).symlink_to(images / folder)
    found, _ = make_faces([images / folder], tmp_path / "2", "--labels", *tables)
    assert {f"{folder}/{file}" for file in found} == {
        file for file in due if "29671106" in file
    } - {name.format(*ADIENCE[5])}


def test_a_table_of_ones_own(tmp_path, capsys):
    """With weights and persons; a row may say little, or be there twice."""
    images = draw(tmp_path / "images", [f"{name}.jpg" for name in "abcdef"])
    text = (
        "subject,file,age,gender,weight,note\n"
        "Ann,a.jpg,34,female,2.5,x\n"
        "Bob,./b.jpg,30-39,M,,\n"
        ",c.jpg,,f,1e-1,\n"
        "Ann,d.jpg,12.0,,.5,\n"
        "Bob,e.jpg,70+,,3,\n"
        "Bob,e.jpg,,male,3,\n"
        "Eve,f.jpg,101,,3,\n"
    )
    table = tmp_path / "labels.csv"
    table.write_text(text, encoding="utf-8-sig")
    options = ("--labels", table, "--by_subject", "--test_fraction", 0.3)
    found, rejected = make_faces([images], tmp_path / "out", *options)
    assert found == {
        "a.jpg": ("34", "female", "2.5"),
        "b.jpg": ("30-39", "male", "1"),
        "c.jpg": ("", "female", "1e-1"),
        "d.jpg": ("12", "", ".5"),
        "e.jpg": ("70+", "male", "3"),
    }
    assert rows(tmp_path / "out" / "faces_train.csv")[0] == ["file", "age", "gender", "weight"]
    assert rejected == {"f.jpg": "age outside 0-100: 101"}
    assert "\n1 of 5 images do not tell who is shown\n" in capsys.readouterr().out
    test = {row[0] for row in rows(tmp_path / "out" / "faces_test.csv")[1:]}
    assert len(test & {"a.jpg", "d.jpg"}) != 1 and len(test & {"b.jpg", "e.jpg"}) != 1


def test_collections_in_one_csv(tmp_path):
    """What only some of them tell is empty for the others, and a weight 1."""
    weighted = "file,age,gender,race,weight\nval/1.jpg,0-2,Male,Middle Eastern,2.5\n"
    tables = FAIRFACE | {"fairface_label_val.csv": weighted}
    write(draw(tmp_path / "fairface", ["train/1.jpg", "val/1.jpg"]), tables)
    draw(tmp_path / "aaf", ["00000A02.jpg", "13321A80.jpg"], 1)
    draw(tmp_path / "mine", ["25/a.jpg"], 2)
    folders = [tmp_path / name for name in ("fairface", "aaf", "mine")]
    found, rejected = make_faces(folders, tmp_path / "out")
    assert rejected == {} and found == {
        "fairface/train/1.jpg": ("50-59", "male", "East Asian", "1"),
        "fairface/val/1.jpg": ("0-2", "male", "Middle Eastern", "2.5"),
        "aaf/00000A02.jpg": ("2", "female", "", "1"),
        "aaf/13321A80.jpg": ("80", "male", "", "1"),
        "mine/25/a.jpg": ("25", "", "", "1"),
    }


@pytest.mark.parametrize(
    "text, problem",
    [
        ("file,age\na.jpg,20\nb.jpg,03-Sep\n", "row 2: age '03-Sep' is not of the form 34, 20-29,"),
        ("file,age\na.jpg,30-20\n", "row 1: age '30-20' ends before it begins\n"),
        ("file,age,gender\na.jpg,20,1\n", "row 1: gender '1' is not male, female or empty\n"),
        ("file,age,weight\na.jpg,20,0\n", "row 1: weight '0' is not a number above 0, at most a"),
        ("file,age,weight\na.jpg,20,\nb.jpg,20,-1\n", "row 2: weight '-1' is not a number above"),
        ("file,age,weight\na.jpg,20,1000001\n", "row 1: weight '1000001' is not a number above 0,"),
        ("file,age\na.jpg,20\na.jpg,20\na.jpg,30-39\n", "row 3: age 30-39, but 20 in another row"),
        ("file,gender\na.jpg,m\na.jpg,f\n", "row 2: gender female, but male in another row of th"),
        (f"{AVERAGES}a.jpg,3,4.5,1,x\n", "row 1: age 'x' is not of the form"),
        ("file,race\na.jpg,White\n", "needs the columns file and age or gender, or those of Fair"),
        ("image;age\na.jpg;20\n", "Adience; it has image;age\n"),
        ("file_name,age,real_age,worker_age\na.jpg,20,20,30\n", "it has file_name, age, real_age,"),
        ("file,age\na.jpg,20,30\n", "its rows have more fields than its header\n"),
        ("", "No columns"),
        ("\xff\xfe", "codec"),
        (None, "No such file or directory\n"),
    ],
)
def test_bad_tables(text, problem, tmp_path, capsys):
    images = draw(tmp_path / "images", ["a.jpg", "b.jpg"])
    table = tmp_path / "labels.csv"
    if text is not None:
        table.write_bytes(text.encode("latin-1"))
    options = ("--images", images, "--out", tmp_path / "out", "--labels", table)
    message = refused(capsys, "faces", *options)
    assert f": error: {table}: " in message and problem in message
    assert not (tmp_path / "out").exists()


def test_options_that_do_not_fit(tmp_path, capsys):
    images = draw(tmp_path / "images", ["25/a.jpg", "25/b.jpg"])
    for argv, problem in [
        (
            ("utk", "--images", images, "--labels", "x.csv"),
            "only faces has tables, with one folder",
        ),
        (("faces", "--images", images, images, "--labels", "x.csv"), "only faces has tables, with"),
        (
            ("faces", "--images", images, "--age", "apparent"),
            "--age apparent: no table has the col",
        ),
        (("utk", "--images", images, "--age", "apparent"), "--age: only faces has tables"),
    ]:
        assert problem in refused(capsys, *argv, "--out", tmp_path / "out")
        assert not (tmp_path / "out").exists()
