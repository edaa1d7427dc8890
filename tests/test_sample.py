"""datasets/sample: the committed faces, and the script that draws them."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime

import numpy as np
import pytest
from conftest import ROOT, load, run
from PIL import Image

SAMPLE = ROOT / "datasets" / "sample"
SCRIPT = SAMPLE / "draw-faces.py"
# Youngest age, classes, image size, training and test images, CSV header as published.
SETS = {
    "afad": (15, 26, (100, 110), 480, 120, "file,path,age,gender"),
    "cacd": (14, 49, (120, 120), 160, 40, ",file,age"),
    "morph2": (
        *(16, 55, (200, 240), 160, 40),
        ",id_num,picture_num,race,Male,facial_hair,age,glasses,quality",
    ),
    "utk": (21, 40, (200, 200), 160, 40, ",file,age"),
    "faces": (0, 101, (200, 200), 40, 10, "file,age,gender"),
}
DATASETS = list(SETS)


def read_rows(folder, split):
    with open(folder / f"{split}.csv", newline="") as file:
        return list(csv.DictReader(file))


def image_path(dataset, row):
    return row[{"afad": "path", "morph2": ""}.get(dataset, "file")]


def images_and_ages(folder, split):
    """Decoded images, (images, height, width, 3), and labels, (images,)."""
    rows = read_rows(folder, split)
    paths = [folder / "images" / image_path(folder.name, row) for row in rows]
    images = np.stack([np.asarray(Image.open(path)) for path in paths])
    return images, np.array([float(row["age"]) for row in rows])


def mean_colours(images):
    return images.mean((1, 2))


def thumbnails(images):
    small = [Image.fromarray(image).resize((8, 8), Image.Resampling.BOX) for image in images]
    return np.stack([np.asarray(image, float).ravel() for image in small])


def explained(features, ages, other_features, other_ages, penalty):
    """Share of the variance of ``other_ages`` that ridge regression on ``features`` explains."""
    mean, deviation = features.mean(0), features.std(0) + 1e-9
    x, z = (features - mean) / deviation, (other_features - mean) / deviation
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (ages - ages.mean()))
    residual = other_ages - ages.mean() - z @ weights
    return 1 - (residual**2).sum() / ((other_ages - other_ages.mean()) ** 2).sum()


def best_explained(measure, train, test):
    """The most that any strength of the penalty explains of images it was not fitted on."""
    train_features, test_features = measure(train[0]), measure(test[0])
    return max(
        explained(train_features, train[1], test_features, test[1], penalty)
        for penalty in (0.01, 0.1, 1, 10, 100, 1000, 10_000)
    )


def files(folder):
    """The bytes of every file below ``folder``, by its path from there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """All five sets, 8 training and 2 test images each, seed 1."""
    out = tmp_path_factory.mktemp("drawn")
    done = run(SCRIPT, "--out", out, "--count", 8)
    assert (done.returncode, done.stderr) == (0, "")
    return out


def test_sample_is_small():
    assert sum(len(content) for content in files(SAMPLE).values()) <= 5_000_000


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_image_stands_in_exactly_one_csv(dataset):
    _, _, size, train, test, header = SETS[dataset]
    folder = SAMPLE / dataset
    named = []
    for split, count in ("train", train), ("test", test):
        assert (folder / f"{split}.csv").read_text().splitlines()[0] == header
        rows = read_rows(folder, split)
        assert len(rows) == count
        named += [image_path(dataset, row) for row in rows]
    assert len(named) == len(set(named))
    assert sorted(named) == sorted(files(folder / "images"))
    for path in named:
        with Image.open(folder / "images" / path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", size)
            image.load()


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("dataset", DATASETS)
def test_rows_follow_from_file_names(dataset, split):
    youngest, classes = SETS[dataset][:2]
    rows = read_rows(SAMPLE / dataset, split)
    men = 0
    for row in rows:
        path = image_path(dataset, row)
        if dataset == "afad":
            age, sex, file = path.split("/")
            assert file == row["file"]
            number, zero = file.split("-")
            assert len(str(int(number))) == 6 and zero == "0.jpg"
            man = {"111": True, "112": False}[sex]
            assert row["gender"] == {True: "male", False: "female"}[man]
        elif dataset == "cacd":
            age, first_name, last_name, number = path.split("_")
            assert first_name.isalpha() and last_name.isalpha()
            assert len(number) == 8 and number[:4].isdigit() and number[4:] == ".jpg"
            man = first_name in "Abel Boris Cyril Dario Edgar Felix Gustav Hugo".split()
        elif dataset == "morph2":
            subject, rest = path.split("_")
            picture, sex, age, ending = rest[:2], rest[2], rest[3:5], rest[5:]
            assert len(subject) == 6 and subject == row["id_num"] and ending == ".jpg"
            assert int(picture) == int(row["picture_num"])
            man = {"M": True, "F": False}[sex]
            assert row["Male"] == {True: "1", False: "-1"}[man]
            assert row["race"] in "BWHAO"
            assert (row["facial_hair"], row["glasses"], row["quality"]) == ("", "", "GOOD")
        elif dataset == "faces":
            age, number = path.split("/")
            assert len(age) == 3 and len(number) == 10 and number.endswith(".jpg")
            man = {"male": True, "female": False}[row["gender"]]
        else:
            age, sex, race, rest = path.split("_")
            taken, *ending = rest.split(".")
            assert ending == ["jpg", "chip", "jpg"] and race in "01234"
            assert len(taken) == 17 and datetime.strptime(taken[:14], "%Y%m%d%H%M%S")
            man = {"0": True, "1": False}[sex]
        assert int(row["age"]) == int(age) - youngest
        assert 0 <= int(row["age"]) < classes
        men += man
    assert 0.25 < men / len(rows) < 0.75


@pytest.mark.parametrize("dataset", DATASETS)
def test_ages_spread_like_a_bell(dataset):
    classes = SETS[dataset][1]
    labels = np.array([int(row["age"]) for row in read_rows(SAMPLE / dataset, "train")])
    low, high = (classes - 1) / 3, 2 * (classes - 1) / 3
    middle = ((labels > low) & (labels < high)).sum()
    assert middle > (labels <= low).sum() + (labels >= high).sum()
    assert (labels <= low).any() and (labels >= high).any()


@pytest.mark.parametrize("dataset", DATASETS)
def test_no_pixel_gives_the_age_away(dataset):
    train = images_and_ages(SAMPLE / dataset, "train")
    test = images_and_ages(SAMPLE / dataset, "test")
    assert best_explained(mean_colours, train, test) < 0.20
    assert best_explained(thumbnails, train, test) < 0.50


@pytest.mark.slow
@pytest.mark.parametrize("dataset", DATASETS)
def test_no_pixel_gives_the_age_away_in_a_large_set(dataset, tmp_path):
    assert run(SCRIPT, "--out", tmp_path, "--datasets", dataset, "--count", 4000).returncode == 0
    train = images_and_ages(tmp_path / dataset, "train")
    test = images_and_ages(tmp_path / dataset, "test")
    for measure, limit in (mean_colours, 0.20), (thumbnails, 0.50):
        features = measure(train[0])
        assert explained(features, train[1], features, train[1], 1e-6) < limit
        assert best_explained(measure, train, test) < limit


@pytest.mark.parametrize("bright", [slice(0, 32), slice(4, 8)])
def test_the_regression_notices_a_toy(bright):
    """Noise that gets brighter with age, all over or in one small square."""
    rng = np.random.default_rng(0)
    ages = rng.integers(0, 26, 600)
    images = rng.integers(0, 50, (600, 32, 32, 3))
    images[:, bright, bright] += 7 * ages[:, None, None, None]
    images = images.astype(np.uint8)
    train, test = (images[:480], ages[:480]), (images[480:], ages[480:])
    assert best_explained(mean_colours, train, test) > 0.90
    assert best_explained(thumbnails, train, test) > 0.90


def test_only_the_cues_together_tell_the_age():
    looks = load(SCRIPT).looks
    rng = np.random.default_rng(0)
    years = np.clip(rng.normal(0.47, 0.21, 3000), 0, 1)
    faces = [vars(looks(age, bool(i % 2), rng)) for i, age in enumerate(years)]
    names = [name for name, value in faces[0].items() if not isinstance(value, tuple)]
    cues = np.array([[float(face[name]) for name in names] for face in faces])
    cues = np.column_stack([cues, np.arange(3000) % 2])
    train, test = slice(0, 2000), slice(2000, 3000)
    alone = [
        explained(cues[train, i : i + 1], years[train], cues[test, i : i + 1], years[test], 1)
        for i in range(cues.shape[1])
    ]
    assert max(alone) < 0.65
    assert sum(share > 0.1 for share in alone) >= 15
    assert explained(cues[train], years[train], cues[test], years[test], 1) > 0.90


@pytest.mark.parametrize("dataset", DATASETS)
def test_committed_pictures_can_be_drawn_again(dataset, drawn):
    committed, again = SAMPLE / dataset, drawn / dataset
    recorded = json.loads((committed / "drawn-with.json").read_text())
    assert recorded.pop("seed") == 1
    assert (recorded.pop("train"), recorded.pop("test")) == SETS[dataset][3:5]
    for split, count in ("train", 8), ("test", 2):
        assert read_rows(again, split) == read_rows(committed, split)[:count]
    pictures = files(again / "images")
    assert len(pictures) == 10
    for path, content in pictures.items():
        if recorded == load(SCRIPT).versions():
            assert content == (committed / "images" / path).read_bytes()
        pair = [np.asarray(Image.open(f / "images" / path), float) for f in (committed, again)]
        assert np.abs(pair[0] - pair[1]).mean() < 3


def test_one_seed_gives_one_set(drawn, tmp_path):
    for seed, folder in (1, tmp_path / "same"), (2, tmp_path / "other"):
        done = run(SCRIPT, "--out", folder, "--count", 8, "--seed", seed, "--processes", 1)
        assert done.returncode == 0
    assert files(tmp_path / "same") == files(drawn)
    seed_1 = {content for path, content in files(drawn).items() if path.endswith(".jpg")}
    seed_2 = set(files(tmp_path / "other").values())
    assert len(seed_1) == 50 and not seed_1 & seed_2


def test_a_set_is_replaced_only_on_request(tmp_path):
    afad = ("--out", tmp_path, "--datasets", "afad")
    assert run(SCRIPT, *afad, "--count", 8).returncode == 0
    before = files(tmp_path)
    refused = run(SCRIPT, "--out", tmp_path, "--datasets", "utk", "afad", "--count", 4)
    assert refused.returncode == 2
    assert refused.stderr == (
        f"draw-faces.py: error: {tmp_path / 'afad'} exists: add --overwrite to replace it,"
        " or choose another --out\n"
    )
    assert files(tmp_path) == before
    assert run(SCRIPT, *afad, "--count", 4, "--overwrite").returncode == 0
    after = files(tmp_path)
    assert len(after) == 4 + 1 + 3 and after.items() < {**before, **after}.items()
    assert [path.name for path in tmp_path.iterdir()] == ["afad"]

    (tmp_path / "utk").mkdir()
    (tmp_path / "utk" / "train.csv").write_text("photos")
    with pytest.raises(SystemExit, match="2"):
        load(SCRIPT).main(["--out", str(tmp_path), "--datasets", "utk", "--overwrite"])
    assert (tmp_path / "utk" / "train.csv").read_text() == "photos"


@pytest.mark.parametrize(
    "options, message",
    [
        (["--count", "0"], "--count 0: choose a number from 1 to 400000"),
        (["--count", "400001"], "--count 400001: choose a number from 1 to 400000"),
        (["--count", "many"], "argument --count: invalid int value: 'many'"),
        (["--seed", "-1"], "--seed -1: choose a number from 0 up"),
        (["--processes", "0"], "--processes 0: choose a number from 1 up"),
        (["--datasets", "imdb"], "argument --datasets: invalid choice: 'imdb'"),
        (["--out", str(SCRIPT)], f"cannot write {SCRIPT}: File exists; choose another --out"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        load(SCRIPT).main(["--out", str(tmp_path), *options])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"draw-faces.py: error: {message}")
    assert captured.out == "" and captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("begun", [".drawing-*", ".drawing-*/afad/images/*/*/*.jpg"])
def test_an_interrupted_drawing_leaves_nothing(begun, tmp_path):  # first: workers still start
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path), "--count", "100000"]
    drawing = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not any(tmp_path.glob(begun)):
        assert drawing.poll() is None
        time.sleep(0.05)
    os.killpg(drawing.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, errors = drawing.communicate(timeout=60)
    assert drawing.returncode == 130
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
