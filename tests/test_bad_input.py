"""What a user gets wrong ends in one line that names it, exit code 2, before any training."""

import hashlib
import io
import json
import os
import shutil
import struct
import sys
import warnings

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from conftest import ROOT, load, read_split, run, sample

UTK = load(ROOT / "model-code/utk-coral.py")
CE = load(ROOT / "model-code/utk-ce.py")
FACES = load(ROOT / "model-code/faces-coral.py")


@pytest.fixture
def data(tmp_path):
    """A folder with train.csv, test.csv and four images."""
    images = sorted((sample(UTK) / "images").glob("*.jpg"))[:4]
    for i, image in enumerate(images):
        (tmp_path / f"{i}.jpg").write_bytes(image.read_bytes())
    for name in ("train", "test"):
        rows = "".join(f"{i},{i}.jpg,{i + 3}\n" for i in range(4))
        (tmp_path / f"{name}.csv").write_text(",file,age\n" + rows)
    return tmp_path


def words(data):
    """Options for a tiny run on ``data``, into its folder run."""
    csvs = [f"--train_csv={data / 'train.csv'}", f"--test_csv={data / 'test.csv'}"]
    tiny = ["--epochs=1", "--batch_size=2", "--image_size=33", f"--outpath={data / 'run'}"]
    return [*csvs, *tiny, f"--image_path={data}"]


def refusal(data, capsys, *options, module=UTK):
    """The one line that ``main`` ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        module.main([*words(data), *options])
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"{module.__name__.replace('_', '-')}.py: error: ")
    assert not (data / "run").exists() or not any((data / "run").iterdir())
    return err


def test_the_data_are_fine(data):
    UTK.main(words(data))


@pytest.mark.parametrize(
    "options, message",
    [
        ("--imp_weight=2", "--imp_weight 2: must be from 0 to 1"),
        ("--epochs=0", "--epochs 0: must be from 1"),
        ("--batch_size=-4", "--batch_size -4: must be from 1"),
        ("--numworkers=0", "--numworkers 0: must be from 1"),
        ("--lr=nan", "--lr nan: must be from"),
        ("--lr=-1", "--lr -1.0: must be from"),
        ("--seed=-2", "--seed -2: must be from -1"),
        ("--seed=one", "argument --seed: invalid int value: 'one'"),
        ("--epoch=3", "unrecognized arguments: --epoch=3"),
        ("--flip=1", "--flip is no option, but a row of the recipe: --set flip=VALUE"),
        ("--mixup 0.2", "--mixup is no option, but a row of the recipe: --set mixup=VALUE"),
        ("--set flip=2", "--set flip=2: must be from 0 to 1"),
        ("--set mixup=a", "argument --set: mixup=a: mixup takes a number"),
        ("--set flip=0.5", "argument --set: flip=0.5: flip takes a whole number"),
        ("--set drop=1", "argument --set: drop=1: no row of RECIPES is named 'drop'"),
        ("--recipe=slow", "argument --recipe: invalid choice: 'slow'"),
        ("--recipe=tune", "--recipe tune: goes on from weights that are there, give them with"),
        ("--cuda=700", "--cuda 700: this machine has"),
        ("--image_size=32", "--image_size 32: must be from 33"),
        ("--amp=2", "--amp 2: must be from 0 to 1"),
        ("--resume --overwrite", "argument --overwrite: not allowed with argument --resume"),
        ("--train_csv=no.csv", "no.csv: No such file or directory"),
        (
            "--image_path=nowhere",
            "4 of 4 image files are missing (row 1: nowhere/0.jpg, row 2: nowhere/1.jpg, row 3: ",
        ),
        ("--init_from=none.pt", "--init_from none.pt: not the state dict of this script's network"),
        ("--cache_dir=nowhere", "--cache_dir nowhere: No such file or directory"),
    ],
)
def test_options(options, message, data, capsys):
    assert message in refusal(data, capsys, *options.split())


def test_weights_are_read_before_images(data, capsys):
    (data / "0.jpg").write_bytes(b"none")
    assert "row 1" in refusal(data, capsys)
    assert "--init_from none.pt" in refusal(data, capsys, "--init_from=none.pt")


def test_fewer_devices_than_processes(data, capsys, monkeypatch):
    """Said by every process before it meets the others; no GPU is needed to show it."""
    for name in ("PROCESSES", "LOCAL_PROCESSES"):
        monkeypatch.setattr(UTK, name, 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "--cuda 3: this machine has 2 CUDA devices" in refusal(data, capsys, "--cuda=0")


@pytest.mark.parametrize("everywhere, said", [(4, "=4 "), (8, "=4 ... ")])
def test_the_command_that_resumes(everywhere, said, capsys, monkeypatch):
    monkeypatch.setattr(UTK, "PROCESSES", everywhere)
    monkeypatch.setattr(UTK, "LOCAL_PROCESSES", 4)
    monkeypatch.setattr(sys, "argv", ["utk-coral.py", "--outpath=my run", "--seed=1"])
    with pytest.raises(SystemExit, match="143"):
        UTK.exit_on_signal(15, UTK.parse_settings(["--outpath=my run", "--seed=1"]))
    command = f"torchrun --nproc_per_node{said}utk-coral.py --outpath 'my run' --resume\n"
    assert capsys.readouterr().err.endswith(f"stopped by SIGTERM; go on with: {command}")


def test_outpath_is_required(capsys):
    with pytest.raises(SystemExit) as stop:
        UTK.main([])
    assert stop.value.code == 2
    assert "required: --outpath" in capsys.readouterr().err


def test_what_is_not_for_ce(data, capsys):
    assert "--imp_weight 1: ce has no task importance weights" in refusal(
        data, capsys, "--imp_weight=1", module=CE
    )


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "train.csv: not a CSV file"),
        (b",file,age\n", "train.csv: no rows below the header"),
        (b"\xff\xfe\x00\x01\x80" * 9, "train.csv: not a CSV file in UTF-8"),
        (b",file\n0,0.jpg\n", "needs a column 'age', has Unnamed: 0, file"),
        (b"name,age\n0.jpg,3\n", "needs a column 'file', has name, age"),
        (b"file,age,age\n0.jpg,3,4\n", "two columns have the same name: file, age, age"),
        (b"file,age, age\n0.jpg,3,4\n", "two columns have the same name: file, age, age"),
        (
            b",file,age\n0,0.jpg,1\n1,1.jpg,40\n",
            "row 2 (1.jpg): age is '40', must be a whole number",
        ),
        (b",file,age\n0,0.jpg,-1\n", "from 0 to 39: the age in years minus 21"),
        (b",file,age\n0,0.jpg,3.5\n", "row 1 (0.jpg): age is '3.5'"),
        (b",file,age\n0,0.jpg,\n", "row 1 (0.jpg): age is ''"),
        (b",file,age\n0,0.jpg,x\n", "row 1 (0.jpg): age is 'x'"),
        (b",file,age\n0,0.jpg,3\n1,7.jpg,3\n", "1 of 2 image files are missing (row 2: "),
        (b",file,age\n0,,3\n", "1 of 1 image files are missing (row 1: "),
    ],
)
def test_csvs(content, message, data, capsys):
    (data / "train.csv").write_bytes(content)
    assert message in refusal(data, capsys)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: content[:700], "image file is truncated"),
        (lambda content: b"", "not an image"),
        (lambda content: b"no picture" * 99, "not an image"),
    ],
)
def test_images(change, message, data, capsys):
    (data / "2.jpg").write_bytes(change((data / "2.jpg").read_bytes()))
    error = refusal(data, capsys)
    assert message in error
    assert f"{data / 'train.csv'}: row 3: {data / '2.jpg'} is no readable image" in error
    assert "); replace it, or take out its row" in error


def test_odd_images_in_silence(data):
    """A palette with transparency in bytes, of which Pillow warns."""
    image = PIL.Image.linear_gradient("L").convert("P")
    image.save(data / "2.png", transparency=bytes(range(256)))
    (data / "2.png").rename(data / "2.jpg")
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        with PIL.Image.open(data / "2.jpg") as image:
            image.convert("RGB")
        assert len(noted) == 1
        UTK.main(words(data))
    assert len(noted) == 1


def test_a_decompression_bomb(data, capsys):
    PIL.Image.new("1", (30_000, 30_000)).save(data / "2.png")
    (data / "2.png").rename(data / "2.jpg")
    assert "row 3" in refusal(data, capsys)


def test_outpath_is_a_file(data, capsys):
    (data / "file").write_text("mine")
    for out in ("file", "file/run"):
        error = refusal(data, capsys, f"--outpath={data / out}")
        assert f"--outpath {data / out}: " in error
    assert (data / "file").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no POSIX users here")
def test_outpath_cannot_be_written(data, capsys):
    locked = data / "locked"
    locked.mkdir(mode=0o500)
    if os.geteuid() == 0:  # root may write anywhere but where nobody can
        locked = "/proc/run"
    error = refusal(data, capsys, f"--outpath={locked}")
    assert f"--outpath {locked}: " in error and "give a folder that can be written" in error


def test_a_cost_that_is_not_finite(data):
    """The run stops with epoch and batch, and its checkpoint holds finite weights."""
    options = ["--epochs=9", "--lr=1000", "--set=weight_decay=1000", "--seed=1"]
    result = run(ROOT / "model-code/utk-coral.py", *words(data), *options)
    assert result.returncode == 1
    warning, error = result.stderr.splitlines()
    assert "4 of 4 images are, byte for byte, training images" in warning and "the cost is" in error
    state = torch.load(data / "run" / "checkpoint.pt", weights_only=True)
    assert all(t.isfinite().all() for t in state["model"].values())


# Hand-made and mixed CSVs


def rows_of(module, count):
    """The first rows of the sample's training CSV as text."""
    return pd.read_csv(sample(module) / "train.csv", dtype=str, keep_default_na=False, nrows=count)


def said(module, table, tmp_path, capsys, *options):
    """The line in which ``read_split`` refuses a training CSV with these rows or warns of it, or
    "" if it has no objection."""
    table = table.rename(columns={"Unnamed: 0": ""})
    table.to_csv(tmp_path / "rows.csv", index=False)
    images = f"--image_path={sample(module) / 'images'}"
    args = module.parse_settings(["--outpath=unused", images, *options])
    capsys.readouterr()
    code = None
    try:
        module.read_split(tmp_path / "rows.csv", args)
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert err.count("\n") <= 1 and (": error: " in err) == (code == 2)
    return err


@pytest.mark.parametrize("dataset, youngest", [("afad", 15), ("cacd", 14), ("morph2", 16)])
def test_ages_instead_of_labels(dataset, youngest, tmp_path, capsys):
    """Of young people only, so that every age would be a label."""
    module = load(ROOT / f"model-code/{dataset}-coral.py")
    table = rows_of(module, 160)
    table = table[table["age"].astype(int) < module.NUM_CLASSES - youngest]
    table = table.assign(age=(table["age"].astype(int) + youngest).astype(str))
    assert 4 < len(table) < 160
    err = said(module, table, tmp_path, capsys)
    assert f"'age' of 100% of the rows differs from the file name's age by {youngest} years" in err
    assert f"it must be the age in years minus {youngest}\n" in err
    assert said(module, rows_of(module, 160), tmp_path, capsys) == ""


def test_labels_instead_of_ages(tmp_path, capsys):
    """UTKFace's labels given to faces-coral.py; a few rows that agree don't hide it, and single
    wrong ages are no reason to refuse."""
    rows = [{"file": f"{25 + i}_1_0_{i}.jpg", "age": str(4 + i), "gender": ""} for i in range(20)]
    rows[3]["age"] = "28"
    for row in rows:
        shutil.copy(next((sample(UTK) / "images").glob("*.jpg")), tmp_path / row["file"])
    here = f"--image_path={tmp_path}"
    err = said(FACES, pd.DataFrame(rows), tmp_path, capsys, here)
    assert "'age' of 95% of the rows differs from the file name's age by 21 years" in err
    assert "it must be the age in years\n" in err
    for i, row in enumerate(rows):
        row["age"] = str(25 + i - 21 * (i in (2, 5)))
    assert said(FACES, pd.DataFrame(rows), tmp_path, capsys, here) == ""


@pytest.mark.parametrize(
    "dataset, column, value, message",
    [
        ("morph2", "Male", "0", "Male is '0', must be 1 or -1, or empty where it is unknown"),
        ("afad", "gender", "M", "gender is 'M', must be male or female, or empty"),
        ("faces", "gender", "Female", "gender is 'Female', must be male or female, or empty"),
        ("faces", "gender", "1", "gender is '1', must be male or female, or empty"),
    ],
)
def test_other_codes_of_gender(dataset, column, value, message, tmp_path, capsys):
    module = load(ROOT / f"model-code/{dataset}-coral.py")
    table = rows_of(module, 8)
    table.loc[2, column] = ""
    assert said(module, table, tmp_path, capsys, "--gender=1") == ""
    table.loc[5, column] = value
    assert f"rows.csv: row 6: {message}" in said(module, table, tmp_path, capsys, "--gender=1")
    assert said(module, table, tmp_path, capsys) == ""  # nobody asks for genders


def test_faces_without_a_gender_column(tmp_path, capsys):
    table = rows_of(FACES, 8).drop(columns="gender")
    assert said(FACES, table, tmp_path, capsys) == ""
    assert "needs a column 'gender', has file, age" in said(
        FACES, table, tmp_path, capsys, "--gender=1"
    )


def test_a_first_column_with_a_name(tmp_path, capsys):
    """MORPH-2's file names stand in the first column, whatever it is called."""
    module = load(ROOT / "model-code/morph2-coral.py")
    rows, splits = rows_of(module, 8), []
    for name in ("file", "", "Unnamed: 0"):
        table = rows.rename(columns={"Unnamed: 0": name})
        table.to_csv(tmp_path / "rows.csv", index=name == "Unnamed: 0")  # saved again by pandas
        splits.append(read_split(module, tmp_path / "rows.csv", sample(module) / "images", 1))
    assert splits[0].files == splits[1].files == splits[2].files
    assert splits[0].table.equals(splits[1].table)


def test_blanks_around_headers_and_values(tmp_path):
    plain = rows_of(FACES, 8)
    plain.to_csv(tmp_path / "plain.csv", index=False)
    lines = (tmp_path / "plain.csv").read_text().splitlines()
    spaced = "".join(" " + line.replace(",", " ,  ") + " \n" for line in lines)
    (tmp_path / "spaced.csv").write_text(spaced)
    first, second = (
        read_split(FACES, tmp_path / f"{name}.csv", sample(FACES) / "images", 1)
        for name in ("plain", "spaced")
    )
    assert first.files == second.files and first.table.equals(second.table)
    assert torch.equal(first.labels, second.labels) and torch.equal(first.genders, second.genders)


def test_missing_images(tmp_path, capsys):
    """All are counted, three named; --skip_missing 1 goes on without, and puts it on record."""
    names = [f"{i}.jpg" for i in range(9)]
    table = pd.DataFrame({"file": names, "age": "30"})
    for i in (0, 2, 4, 8):
        shutil.copy(next((sample(UTK) / "images").glob("*.jpg")), tmp_path / names[i])
    here = [f"--image_path={tmp_path}"]
    err = said(FACES, table, tmp_path, capsys, *here)
    assert "rows.csv: 5 of 9 image files are missing" in err
    assert all(f"row {i + 1}: {tmp_path / names[i]}" in err for i in (1, 3, 5))
    assert names[6] not in err and "--skip_missing 1 leaves such rows out" in err

    tiny = ["--epochs=1", "--batch_size=2", "--image_size=33", f"--outpath={tmp_path / 'run'}"]
    csvs = [f"--{name}_csv={tmp_path / 'rows.csv'}" for name in ("train", "test")]
    FACES.main([*csvs, *tiny, *here, "--skip_missing=1"])
    data = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    facts = data["train"]
    assert data["test"]["in_training"] == 4  # they are the same rows
    digest = hashlib.sha256(b"1.jpg\n3.jpg\n5.jpg\n6.jpg\n7.jpg").hexdigest()
    assert (facts["rows"], facts["missing"], facts["missing_sha256"]) == (4, 5, digest)
    predictions = pd.read_csv(tmp_path / "run" / "test_predictions.csv")
    assert [*predictions["path"]] == ["0.jpg", "2.jpg", "4.jpg", "8.jpg"]

    # messages count the rows of the file
    (tmp_path / "8.jpg").write_bytes(b"none")
    with pytest.raises(SystemExit):
        FACES.main([*csvs, *tiny, *here, "--skip_missing=1", "--overwrite"])
    assert "rows.csv: row 9: " in capsys.readouterr().err
    for name in names:
        (tmp_path / name).unlink(missing_ok=True)
    err = said(FACES, table, tmp_path, capsys, *here, "--skip_missing=1")
    assert "all 9 of 9 image files are missing" in err


def test_training_images_among_the_others(tmp_path, capsys):
    """Are counted by their bytes, whatever their names, one pair is named; what differs in a byte
    that no pixel shows is another image."""
    image = next((sample(FACES) / "images").rglob("*.jpg")).read_bytes()
    rows = {"train": "abcb", "valid": "vb", "test": "tcau"}  # a file's last byte
    for name, letters in rows.items():
        for i, letter in enumerate(letters):
            (tmp_path / f"{name}-{i}.jpg").write_bytes(image + letter.encode())
        table = pd.DataFrame({"file": [f"{name}-{i}.jpg" for i in range(len(letters))], "age": 30})
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    csvs = [f"--{name}_csv={tmp_path / name}.csv" for name in rows]
    here = ["--image_size=33", f"--image_path={tmp_path}", "--outpath=unused"]
    args = FACES.parse_settings([*csvs, *here])
    splits = FACES.read_splits(args)
    assert capsys.readouterr().err == ""
    FACES.load_pixels(splits, args)
    counts = {name: split.facts.get("in_training") for name, split in splits.items()}
    assert counts == {"train": None, "valid": 1, "test": 2}
    for line, name, count, pair in zip(
        capsys.readouterr().err.splitlines(),
        ("valid", "test"),
        ("1 of 2", "2 of 4"),
        (("row 2 (valid-1.jpg)", "row 4 (train-3.jpg)"), ("row 2 (test-1.jpg)", "row 3 (train-2.")),
        strict=True,
    ):
        what = f"{tmp_path / name}.csv: {count} images are, byte for byte, training images"
        assert line.startswith(f"faces-coral.py: warning: {what}: {pair[0]} is {pair[1]}")
        assert f" of {tmp_path / 'train.csv'}, for one; make-csv.py --group_duplicates" in line


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(9))
def test_orientation(orientation, kind, tmp_path):
    """faces scripts turn a photo as its EXIF tag says (the tag's definition, pixel by pixel), even
    if another tag is damaged; the paper's scripts see the pixels as the reference does."""
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    # big-endian, two tags: the orientation, and XResolution (0x11A) as a text, which it must not be
    tags = struct.pack(">HHHIHH", 2, 0x0112, 3, 1, orientation, 0)
    tags += struct.pack(">HHI4sI", 0x011A, 2, 4, b"72\0\0", 0)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + tags
    if kind == "tif":  # whose tags are the orientation's place
        PIL.Image.fromarray(pixels).save(tmp_path / "photo.tif", tiffinfo={0x0112: orientation})
    else:
        PIL.Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    a, b, c, d, e, f = pixels.ravel().tolist()
    upright = {
        **{number: [[a, b, c], [d, e, f]] for number in (0, 1)},
        2: [[c, b, a], [f, e, d]],
        3: [[f, e, d], [c, b, a]],
        4: [[d, e, f], [a, b, c]],
        5: [[a, d], [b, e], [c, f]],
        6: [[d, a], [e, b], [f, c]],
        7: [[f, c], [e, b], [d, a]],
        8: [[c, f], [b, e], [a, d]],
    }
    # as the scripts open it: of a path Pillow 13 maps an uncompressed TIFF, and turns it wrongly
    with PIL.Image.open(io.BytesIO((tmp_path / f"photo.{kind}").read_bytes())) as image:
        turned = FACES.as_rgb(image)
    assert np.asarray(turned)[:, :, 1].tolist() == upright[orientation]
    if kind == "png":
        with PIL.Image.open(tmp_path / "photo.png") as image:
            assert np.array_equal(np.asarray(UTK.as_rgb(image))[:, :, 1], pixels)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_images_of_floats_and_of_32_bits(kind, data, capsys):
    PIL.Image.fromarray(np.full((9, 9), 0.7 * 2**20, kind)).save(data / "2.tif")
    (data / "2.tif").rename(data / "2.jpg")
    error = refusal(data, capsys)
    assert f"row 3: {data / '2.jpg'} is no readable image (floats or 32-bit integers" in error


def test_a_raw_photo(data, capsys):
    """Is refused: what Pillow sees of it is a preview, as its tag NewSubfileType says."""
    PIL.Image.new("RGB", (9, 9)).save(data / "2.tif", tiffinfo={254: 1})
    (data / "2.tif").rename(data / "2.jpg")
    what = "is no readable image (a preview of the photo comes first in it: develop it to JPEG)"
    assert f"row 3: {data / '2.jpg'} {what}" in refusal(data, capsys)
