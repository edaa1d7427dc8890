"""Answers that are not sure, and why: the columns not_sure and gender_not_sure."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("skimage")
from coral_age import doubts  # noqa: E402
from PIL import ImageFilter  # noqa: E402
from test_predict import ASTRONAUT, FACE, bare, call, predict, table  # noqa: E402, F401

IMAGE = np.random.default_rng(0).integers(0, 256, (3, 96, 96), np.uint8)  # sharp
POINTS = np.array([[40.0, 40], [80, 40], [60, 62], [44, 80], [76, 80]])  # from the front
SQUARE = 10 + 10j, 100 + 0j


def face(points=POINTS, score=0.9):
    return SimpleNamespace(points=points, score=score)


def test_sharpness():
    """By a slow loop; a blurred image has less, an even one none."""
    image = IMAGE[:, :6, :7]
    grey = image.astype(float).mean(0)
    edges = [
        4 * grey[y, x] - grey[y - 1, x] - grey[y + 1, x] - grey[y, x - 1] - grey[y, x + 1]
        for y in range(1, 5)
        for x in range(1, 6)
    ]
    assert doubts.sharpness(image) == pytest.approx(np.std(edges) / np.std(grey))
    assert doubts.sharpness(np.full((3, 9, 9), 7, np.uint8)) == 0
    photo = FACE.resize((96, 96))
    sharp, soft = (
        doubts.sharpness(np.asarray(one).transpose(2, 0, 1))
        for one in (photo, photo.filter(ImageFilter.GaussianBlur(3)))
    )
    assert soft < doubts.SHARP < sharp


def test_share_inside():
    """Of a square of 100 pixels, upright and turned, beside and over the border."""
    assert doubts.share_inside(0j, 100 + 0j, (100, 100)) == 1
    assert doubts.share_inside(-25 + 0j, 100 + 0j, (100, 100)) == 0.75
    assert doubts.share_inside(-25 - 50j, 100 + 0j, (100, 100)) == 0.375
    assert doubts.share_inside(200 + 0j, 100 + 0j, (100, 100)) == 0
    assert doubts.share_inside(100 + 0j, 100j, (100, 100)) == 1  # turned by 90 degrees


def moved(part, **changed):
    """What is said of a face from the front, sharp, large and inside, if one thing is another."""
    given = {"face": face(), "square": SQUARE, "image": IMAGE, "size": (200, 200)} | changed
    return doubts.of_face(*given.values()) == part


def test_reasons():
    """Each alone, and none."""
    assert moved([])
    assert moved(["too small"], square=(10 + 10j, 0.99 * doubts.SMALL + 0j))
    assert moved([], square=(10 + 10j, 1.01 * doubts.SMALL + 0j))
    assert moved(["at the picture's edge"], square=(-40 + 10j, 100 + 0j))
    narrow = POINTS * [doubts.FRONTAL * 0.99, 1]
    assert moved(["turned away"], face=face(narrow))  # eyes to mouth are as far as eye to eye
    assert moved([], face=face(POINTS * [doubts.FRONTAL * 1.01, 1]))
    assert moved(["blurred"], image=np.full((3, 9, 9), 7, np.uint8))
    assert moved(["hard to make out"], face=face(score=doubts.CLEAR - 0.01))
    both = SQUARE[0], 0.5 * doubts.SMALL + 0j
    assert moved(["too small", "hard to make out"], face=face(score=0.41), square=both)
    crop = face(None, None)  # of which no more is known
    assert moved([], face=crop, square=None)
    assert moved(["blurred"], face=crop, square=None, image=np.zeros((3, 9, 9), np.uint8))


@pytest.mark.parametrize(
    "age, end, sure, due",
    [
        (30, False, 0.9, {}),
        (0, True, None, {}),  # a baby's age has no younger one
        (100, True, None, {"not_sure": "youngest or oldest age that the model knows"}),
        (doubts.CHILD - 1, False, 0.99, {"gender_not_sure": "a child"}),
        (doubts.CHILD, False, doubts.LIKELY - 0.01, {"gender_not_sure": "both are likely"}),
        (5, False, 0.6, {"gender_not_sure": "a child, both are likely"}),
    ],
)
def test_reasons_by_the_answer(age, end, sure, due):
    columns = {"age": age, "at_end_of_range": end}
    columns |= {"gender": "male", "gender_probability": sure} if sure else {}
    assert doubts.of_answer(columns) == due
    more = doubts.add(columns | due, ["blurred"])
    assert more["not_sure"].split(", ")[0] == "blurred"
    assert more["not_sure"].endswith(due.get("not_sure", "blurred"))


def test_leaving_out_what_is_not_sure(bare, tmp_path, capsys):  # noqa: F811
    """A photo and a tiny copy: both are answered, with --sure the first alone, and its gender only
    if that is likely; the other has no answer, which is counted."""
    ASTRONAUT.save(tmp_path / "large.png")
    ASTRONAUT.resize((100, 100)).save(tmp_path / "tiny.png")
    words = [*bare, tmp_path, "--no_draw", "--out"]
    assert call(*words, tmp_path / "all") == 0
    sharp, tiny = table(tmp_path / "all")
    assert tiny["source"].endswith("tiny.png") and not sharp["not_sure"]
    assert tiny["not_sure"].startswith("too small")
    assert f"tiny.png (not sure: {tiny['not_sure']})" in capsys.readouterr().out
    assert call(*words, tmp_path / "sure", "--sure") == 0
    [row] = table(tmp_path / "sure")
    likely = not sharp["gender_not_sure"]
    assert row == (sharp if likely else sharp | {"gender": "", "gender_probability": ""})
    assert "1 faces are left out, as their answers are not sure" in capsys.readouterr().out
    told = json.loads((tmp_path / "sure" / "predictions.json").read_text())
    assert len(told["faces"]) == 1 and told["failures"] == []
    (tmp_path / "labels.csv").write_text("file,age\nsharp.png,30\n")
    options = ["--labels", tmp_path / "labels.csv", "--report", tmp_path / "report", "--sure"]
    assert call(*words, tmp_path / "x", *options) == 2
    assert "--report goes without --sure" in capsys.readouterr().err


def test_rows_that_are_sure():
    rows = [
        {"age": 1, "not_sure": "blurred"},
        {"age": 2, "gender": "male", "gender_probability": 0.9},
        {"age": 3, "gender": "male", "gender_probability": 0.6, "gender_not_sure": "both"},
    ]
    assert doubts.sure(rows) == [rows[1], {"age": 3, "gender_not_sure": "both"}]
