"""predict.py: a real photo, the real detector, videos made of it, and runs of the scripts."""

import csv
import json
import os
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, load
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

av = pytest.importorskip("av")
dlib = pytest.importorskip("dlib")
data = pytest.importorskip("skimage.data")

CODE = ROOT / "model-code"
PREDICT = CODE / "predict.py"
predict = load(PREDICT)

ASTRONAUT = Image.fromarray(data.astronaut())  # public domain (NASA); two detections
FACE = ASTRONAUT.crop((96, 0, 352, 256))  # one detection
PLACE = np.array([86, 76, 175, 166])  # left, top, right, bottom of the face in FACE
SUIT = np.array([126, 335, 215, 425])  # of what else is found in ASTRONAUT
GREY = (96, 96, 96)

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory in kB")


@pytest.fixture(autouse=True)
def one_thread():
    """As fast on networks this small, and faster on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Options that name a network of drawn weights, which says something else of every face."""
    path = tmp_path_factory.mktemp("bare") / "model.pt"
    torch.manual_seed(1)
    module = load(CODE / "afad-coral.py")
    network = module.ResNet34(gender=1)
    with torch.no_grad():
        network.linear_1_bias.copy_(torch.linspace(1.2, -0.8, module.NUM_CLASSES - 1))
    torch.save(network.state_dict(), path)
    yield ["--weights", path, "--script", "afad-coral.py", "--image_size", 32]
    shutil.rmtree(path.parent)


def call(*words):
    """The exit code of predict.py with these arguments."""
    try:
        return predict.main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code


def table(out):
    """The rows of predictions.csv, which must be those of predictions.json."""
    with open(out / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    told = json.loads((out / "predictions.json").read_text())
    written = [{key: str(value) for key, value in row.items()} for row in told["faces"]]
    assert written == [{key: value for key, value in row.items() if value} for row in rows]
    assert not list(out.glob("*.tmp"))
    return rows


def box_of(row):
    return np.array([int(row[side]) for side in ("left", "top", "right", "bottom")])


def near(row, box):
    """Is the box of a row that of a face at ``box``? The detector's boxes come in steps of size
    and place of about a tenth."""
    box = np.asarray(box)
    return np.abs(box_of(row) - box).max() < 0.1 * (box[2] - box[0]) + 3


# ---- The detector


def test_a_face_at_its_place_in_several_sizes(bare, tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    scales = {"half": 0.5, "less": 0.75, "same": 1, "more": 1.5, "twice": 2}
    for name, scale in scales.items():
        size = (round(256 * scale),) * 2
        FACE.resize(size, Image.Resampling.LANCZOS).save(folder / f"{name}.png")
    assert call(*bare, folder, "--out", out) == 0
    rows = {row["source"]: row for row in table(out)}
    assert len(table(out)) == len(rows) == len(scales)
    for name, scale in scales.items():
        row = rows[str(folder / f"{name}.png")]
        assert near(row, PLACE * scale), row
        assert float(row["score"]) > 1 and (row["kind"], row["face"]) == ("image", "1")
        with Image.open(out / f"{name}.jpg") as copy:
            assert copy.size == (round(256 * scale),) * 2
    assert capsys.readouterr().err == ""


UNDO = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # orientation: Image.Transpose


def test_all_orientations(bare, tmp_path):
    """The face is upright in every file's eyes, in no other place, and in the copy as well."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    upright = Image.new("RGB", (300, 340), GREY)
    upright.paste(FACE, (30, 70))
    for orientation, method in UNDO.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = upright if method is None else upright.transpose(Image.Transpose(method))
        turned.save(folder / f"{orientation}.png", exif=exif)
        with Image.open(folder / f"{orientation}.png") as image:
            assert image.size == ((300, 340) if orientation < 5 else (340, 300))
    assert call(*bare, folder, "--out", out) == 0
    rows = table(out)
    assert [row.pop("source") for row in rows] == [str(folder / f"{i}.png") for i in UNDO]
    assert near(rows[0], PLACE + [30, 70, 30, 70])
    assert all(row == rows[0] for row in rows)  # the pixels are the same, and so is the rest
    copies = {(out / f"{orientation}.jpg").read_bytes() for orientation in UNDO}
    assert len(copies) == 1
    with Image.open(out / "1.jpg") as image:
        assert image.size == (300, 340) and 0x0112 not in image.getexif()


def test_what_is_no_face_falls_to_the_default_score(bare, tmp_path, capsys):
    """The astronaut's space suit, whose score is positive, and three pictures without a face."""
    ASTRONAUT.save(tmp_path / "astronaut.png")
    for name in ("rocket", "coffee", "chelsea"):
        Image.fromarray(getattr(data, name)()).save(tmp_path / f"{name}.png")
    out = tmp_path / "out"
    assert call(*bare, tmp_path, "--out", out) == 0
    [row] = table(out)
    assert row["source"].endswith("astronaut.png") and near(row, PLACE + [96, 0, 96, 0])
    printed = capsys.readouterr().out
    for name in ("rocket", "coffee", "chelsea"):
        assert f"{tmp_path / name}.png: no face\n" in printed
        assert (out / f"{name}.jpg").exists()
    options = ["--min_score", 0, "--no_draw", "--out", tmp_path / "low"]
    assert call(*bare, tmp_path / "astronaut.png", *options) == 0
    face, suit = table(tmp_path / "low")
    assert face == row and (face["face"], suit["face"]) == ("1", "2") and near(suit, SUIT)
    assert 0 < float(suit["score"]) < predict.MIN_SCORE < float(face["score"])
    assert sorted(os.listdir(tmp_path / "low")) == ["predictions.csv", "predictions.json"]


def slow_frame(pixels, box, scale, down):
    """The square around a box, pixel by pixel."""
    left, top, right, bottom = box
    side = round(scale * (right - left))
    x = round((left + right) / 2 - side / 2)
    y = round((top + bottom) / 2 + down * (right - left) - side / 2)
    square = np.empty((side, side, 3), np.uint8)
    for row in range(side):
        for column in range(side):
            at = min(max(y + row, 0), len(pixels) - 1), min(max(x + column, 0), len(pixels[0]) - 1)
            square[row, column] = pixels[at]
    return Image.fromarray(square)


@pytest.mark.parametrize("dataset", ["afad", "cacd", "morph2", "utk"])
@pytest.mark.parametrize("box", [PLACE, (-20, 3, 60, 83), (200, 190, 280, 271)])
def test_framing(dataset, box):
    """Within the picture and beyond its borders; morph2's script cuts 140 pixels out of its images,
    which must be the whole square."""
    script = load(CODE / f"{dataset}-coral.py")
    pixels = np.asarray(FACE)
    square = slow_frame(pixels, box, *predict.FRAMES[dataset])
    if dataset == "morph2":
        square = square.resize((140, 140))
    model = SimpleNamespace(script=script, size=48)
    framed = predict.prepare(predict.frame_face(pixels, box, script), model)
    # 48/120 of 128 are 51.2, and the crop begins at round(3 / 2)
    expected = np.asarray(script.resize(square, [51, 51])).transpose(2, 0, 1)[:, 2:50, 2:50]
    assert np.array_equal(framed, expected)


# ---- Runs of the scripts


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A state dict to start from, whose last block makes so much of small differences that a short
    run does not say the same of all images."""
    path = tmp_path_factory.mktemp("backbone") / "resnet34.pt"
    torch.manual_seed(1)
    network = load(CODE / "afad-coral.py").ResNet34()
    with torch.no_grad():
        network.layer4[-1].bn2.weight.mul_(200)
    torch.save(network.state_dict(), path)
    yield path
    shutil.rmtree(path.parent)


FAST = ["--recipe=fast", "--gender=1"]  # its runs answer for an image and its mirror image


@pytest.mark.parametrize(
    "dataset, loss, options",
    [("afad", loss, ["--gender=0"]) for loss in predict.LOSSES]
    + [("morph2", loss, ["--gender=1"]) for loss in predict.LOSSES]  # uses parts of its images
    + [("utk", "coral", FAST)]
    + [pytest.param("utk", loss, FAST, marks=pytest.mark.slow) for loss in ("ce", "ordinal")]
    + [pytest.param("cacd", loss, [], marks=pytest.mark.slow) for loss in predict.LOSSES],
)
def test_crops_get_the_answers_of_the_run(loss, dataset, options, backbone, tmp_path, capsys):
    """Age, gender, its probability and the interval, as test_predictions.csv and test_probas.npy
    have them."""
    sample = ROOT / "datasets" / "sample" / dataset
    for name in ("train", "test"):
        lines = (sample / f"{name}.csv").read_text().splitlines(keepends=True)
        (tmp_path / f"{name}.csv").write_text("".join(lines[:9]))
    script = load(CODE / f"{dataset}-{loss}.py")
    words = [f"--{name}_csv={tmp_path / name}.csv" for name in ("train", "test")]
    words += [f"--image_path={sample / 'images'}", f"--outpath={tmp_path / 'run'}", "--seed=1"]
    words += ["--epochs=1", "--batch_size=4", "--image_size=40", "--prior_bias=1", "--lr=1e-5"]
    script.main([*words, f"--init_from={backbone}", *options])
    with open(tmp_path / "run" / "test_predictions.csv") as file:
        due = {str(sample / "images" / row["path"]): row for row in csv.DictReader(file)}
    probas = dict(zip(due, np.load(tmp_path / "run" / "test_probas.npy"), strict=True))
    capsys.readouterr()

    out = tmp_path / "out"
    words = ["--crops", "--no_draw", "--batch_size=3", "--out", out]
    assert call(tmp_path / "run", *due, *words) == 0
    assert capsys.readouterr().err == ""
    rows = table(out)
    assert [row["source"] for row in rows] == list(due)
    assert len({row["interval_probability"] for row in rows}) > 1
    for row in rows:
        run = due[row["source"]]
        assert row["age"] == run["predicted_age"]
        label = int(row["age"]) - script.YOUNGEST_AGE
        assert row["at_end_of_range"] == str(label in (0, script.NUM_CLASSES - 1))
        first, last, held = slow_interval(slow_classes(probas[row["source"]], loss), label)
        ages = [int(row[name]) - script.YOUNGEST_AGE for name in ("age_low", "age_high")]
        assert ages == [first, last]
        assert float(row["interval_probability"]) == pytest.approx(held, abs=2e-4)
        with Image.open(row["source"]) as image:
            assert tuple(box_of(row)) == (0, 0, *image.size)
        if "--gender=1" in options:
            male = float(run["p_male"])
            assert row["gender"] == ("male" if male > 0.5 else "female")
            assert float(row["gender_probability"]) == pytest.approx(max(male, 1 - male), abs=2e-4)
        else:
            assert "gender" not in row
    shutil.rmtree(tmp_path / "run")


# ---- The interval


def slow_classes(probas, loss):
    """Probabilities of the classes, one after the other."""
    if loss == "ce":
        return [float(p) for p in probas]
    above = [1.0, *sorted((float(p) for p in probas), reverse=True), 0.0]
    return [above[k] - above[k + 1] for k in range(len(above) - 1)]


def slow_interval(classes, label):
    """Of all runs that contain ``label`` and 80 %, the shortest, of these the most probable, of
    these the first."""
    runs = []
    for first in range(label + 1):
        for last in range(label, len(classes)):
            held = sum(classes[first : last + 1])
            if held >= 0.8 or (first, last) == (0, len(classes) - 1):
                runs.append((last - first, -held, first, last, held))
    _, _, first, last, held = min(runs)
    return first, last, held


ORDINAL = load(CODE / "afad-ordinal.py")
PARTS = st.integers(0, 1024)  # of 1,024: their sums are exact, and none is 0.8


@given(st.lists(PARTS, min_size=1, max_size=12), st.data())
@settings(max_examples=300, deadline=None)
def test_interval_of_probabilities_of_classes(cuts, draw):
    """Cross-entropy; any label, though it predicts the most probable one."""
    cuts = [0, *sorted(cuts), 1024]
    classes = np.diff(cuts).astype(np.float32) / 1024
    label = draw.draw(st.integers(0, len(classes) - 1))
    assert predict.class_probas(classes, "ce").tolist() == slow_classes(classes, "ce")
    found = predict.interval(predict.class_probas(classes, "ce"), label)
    assert found == slow_interval(slow_classes(classes, "ce"), label)


@given(st.lists(PARTS, min_size=1, max_size=12))
@settings(max_examples=300, deadline=None)
def test_interval_of_probabilities_out_of_order(parts):
    """P(y > k) of ordinal regression need not fall with k; sorting leaves the label as it is."""
    probas = np.array(parts, np.float32) / 1024
    label = sum(p > 0.5 for p in probas)
    script = ORDINAL
    assert script.predict_labels(torch.tensor(probas)[None]).item() == label
    classes = predict.class_probas(probas, "ordinal")
    assert classes.tolist() == slow_classes(probas, "ordinal")
    assert min(classes) >= 0 and sum(classes) == 1
    below = [sum(classes[:k]) for k in (label, label + 1)]  # the label is the median
    assert below[0] < 0.5 <= below[1]
    assert predict.interval(classes, label) == slow_interval(classes.tolist(), label)


def test_an_interval_by_hand():
    """0.2 0.1 0.4 0.25 0.05: 3 classes around the label hold 75 %, so it takes 4, and of these the
    first four have 95 %, the last four 80 %."""
    probas = [0.8, 0.7, 0.3, 0.05]
    first, last, held = predict.interval(predict.class_probas(probas, "coral"), 2)
    assert (first, last) == (0, 3) and held == pytest.approx(0.95)
    script = SimpleNamespace(
        LOSS="coral", YOUNGEST_AGE=21, NUM_CLASSES=5, predict_labels=lambda p: (p > 0.5).sum(1)
    )
    model = SimpleNamespace(script=script)
    row = predict.estimate(torch.tensor(probas), 0.25, model)
    assert row == {
        "age": 23, "age_low": 21, "age_high": 24, "interval_probability": 0.95,
        "at_end_of_range": False, "gender": "female", "gender_probability": 0.75,
    }  # fmt: skip
    assert predict.sentence(row, model) == "23 (21-24), female 75%"
    for probas, sentence in (
        ([0.1] * 4, "21 or younger (21-21)"),
        ([0.9] * 4, "25 or older (25-25)"),
    ):
        row = predict.estimate(torch.tensor(probas), None, model)
        assert row["at_end_of_range"] and predict.sentence(row, model) == sentence
