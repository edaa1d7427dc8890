"""predict.py: a real photo, the real detector, videos made of it, and runs of the scripts."""

import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import unicodedata
import zipfile
import zlib
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, load
from coral_age import answers, detect, errors, files, labels, marked, media, pictures, runs
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

LOSSES = "ce", "coral", "ordinal"
av = pytest.importorskip("av")
pytest.importorskip("onnxruntime")
data = pytest.importorskip("skimage.data")

CODE = ROOT / "model-code"
PREDICT = CODE / "predict.py"
predict = load(PREDICT)

ASTRONAUT = Image.fromarray(data.astronaut())  # public domain (NASA)
FACE = ASTRONAUT.crop((96, 0, 352, 256))
PLACE = np.array([86, 59, 174, 178])  # left, top, right, bottom of the face in FACE, by hand
# eyes, nose tip, mouth corners, by hand
POINTS = np.array([[108, 102], [150, 104], [127, 125], [108, 142], [145, 144]])
GREY = (96, 96, 96)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Options that name a network of drawn weights, whose last block makes so much of small
    differences that it says something else of every face."""
    path = tmp_path_factory.mktemp("bare") / "model.pt"
    torch.manual_seed(1)
    module = load(CODE / "afad-coral.py")
    network = module.ResNet34(gender=1)
    with torch.no_grad():
        network.layer4[-1].bn2.weight.mul_(200)
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
    """Is the box of a row that of a face at ``box``, to a tenth of its height?"""
    box = np.asarray(box)
    return np.abs(box_of(row) - box).max() < 0.1 * (box[3] - box[1]) + 1


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
        assert float(row["score"]) > 0.6 and (row["kind"], row["face"]) == ("image", "1")
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


def test_probabilities_of_limits(bare, tmp_path, capsys):
    """--over: P(age >= T) as a column for each T, of photos and tracks, printed, in the API; what
    the model can't tell is refused."""
    ASTRONAUT.save(tmp_path / "astronaut.png")
    save_video(tmp_path / "film.mp4", moving(6), "mpeg4")
    out, words = tmp_path / "out", [*bare, tmp_path, "--over", "21, 18,40", "--no_draw"]
    assert call(*words, "--out", out) == 0
    rows = table(out)
    assert {row["kind"] for row in rows} == {"image", "frame", "track"}
    names = list(rows[0])
    assert names[names.index("at_end_of_range") :][1:4] == ["over_18", "over_21", "over_40"]
    model = runs.load(weights=bare[1], script=bare[3], image_size=bare[5], over=(18, 21, 40))
    [face] = predict.faces(model, tmp_path / "astronaut.png")
    for limit in (18, 21, 40):
        share = sum(p for age, p in enumerate(face["age_probas"], 15) if age >= limit)
        [row] = [row for row in rows if row["kind"] == "image"]
        assert float(row[f"over_{limit}"]) == face[f"over_{limit}"] == round(share, 4)
    assert 0 < face["over_40"] < face["over_21"] < face["over_18"] < 1
    printed = capsys.readouterr().out
    assert re.search(r"gender +18\+ +21\+ +40\+ +face +picture", printed)
    shares = [f"{face[f'over_{limit}']:.0%}" for limit in (18, 21, 40)]
    assert re.search(
        rf"{shares[0]} +{shares[1]} +{shares[2]} +1 +{tmp_path}/astronaut.png", printed
    )
    told = json.loads((out / "predictions.json").read_text())
    assert told["model"]["over"] == [18, 21, 40]

    for limits, why in (
        ("15", "--over 15: the model knows the ages 15 to 40; give one from 16 to 40"),
        ("41", "--over 41: the model knows"),
        ("18;21", "--over: 18;21: give ages in years from 1 to 120, as 13,16,18"),
        ("0", "give ages in years from 1 to 120"),
    ):
        assert call(*bare, tmp_path, "--over", limits) == 2
        assert why in capsys.readouterr().err


def test_what_is_no_face_falls_to_the_default_score(bare, tmp_path, capsys):
    """The moon, of which a crater has a score, three pictures and a film without a face."""
    ASTRONAUT.save(tmp_path / "astronaut.png")
    for name in ("rocket", "coffee", "chelsea", "moon"):
        Image.fromarray(getattr(data, name)()).save(tmp_path / f"{name}.png")
    frame = io.BytesIO()
    Image.open(tmp_path / "rocket.png").save(frame, "JPEG")
    (tmp_path / "film.mjpeg").write_bytes(3 * frame.getvalue())
    out = tmp_path / "out"
    assert call(*bare, tmp_path, "--out", out) == 0
    [row] = table(out)
    assert row["source"].endswith("astronaut.png") and near(row, PLACE + [96, 0, 96, 0])
    printed = capsys.readouterr().out
    for name in ("rocket", "coffee", "chelsea", "moon"):
        assert re.search(rf"no face +{tmp_path / name}\.png\n", printed)
        assert (out / f"{name}.jpg").exists()
    assert re.search(rf"no face +{tmp_path / 'film.mjpeg'}\n", printed)
    options = ["--min_score", 0.15, "--no_draw", "--out", tmp_path / "low"]
    assert call(*bare, tmp_path / "moon.png", *options) == 0
    [crater] = table(tmp_path / "low")
    assert 0.15 < float(crater["score"]) < detect.MIN_SCORE < float(row["score"])
    assert sorted(os.listdir(tmp_path / "low")) == ["predictions.csv", "predictions.json"]


def test_grey_pictures(bare, tmp_path):
    """Of 8 and of 16 bits, the latter as the scripts read them, and turned by their EXIF data: the
    same face."""
    grey = np.asarray(FACE.convert("L"))
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 256).save(tmp_path / "16.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.ascontiguousarray(np.rot90(grey)).astype(np.uint16) * 256
    Image.fromarray(turned).save(tmp_path / "16-turned.png", exif=exif)
    with Image.open(tmp_path / "16.png") as image:
        assert image.mode == "I;16"
        expected = load(CODE / "afad-coral.py").prepare_image(image, 32)
    pixels = Image.fromarray(media.read_image(tmp_path / "16.png", pytest.fail))
    assert np.array_equal(load(CODE / "afad-coral.py").prepare_image(pixels, 32), expected)
    assert call(*bare, tmp_path, "--out", tmp_path / "out") == 0
    rows = [{**row, "source": ""} for row in table(tmp_path / "out")]
    assert len(rows) == 3 and rows[0] == rows[1] == rows[2] and near(rows[0], PLACE)


def test_faces_from_24_pixels_to_the_whole_picture():
    """24 pixels high in a film's frame, a large photo with a large and a small face, and one that
    is a part of a face; in the latter, parts of it look like faces too."""
    frame = Image.new("RGB", (1280, 720), GREY)
    frame.paste(FACE.resize((51, 51), Image.Resampling.LANCZOS), (900, 300))  # of 119 pixels
    [face] = detect.find_faces(np.asarray(frame))
    assert np.abs(face.box - (PLACE * 51 / 256 + [900, 300] * 2)).max() < 4

    photo = Image.new("RGB", (8000, 6000), GREY)
    photo.paste(FACE.resize((5120, 5120)), (2500, 500))
    photo.paste(FACE.resize((512, 512)), (1000, 3000))
    faces = sorted(detect.find_faces(np.asarray(photo)), key=lambda face: face.box[0])
    assert len(faces) == 2
    for face, scale, corner in zip(faces, (2, 20), ((1000, 3000), (2500, 500)), strict=True):
        height = 119 * scale
        assert np.abs(face.box - (PLACE * scale + corner * 2)).max() < 0.12 * height
        assert np.abs(face.points - (POINTS * scale + corner)).max() < 0.07 * height

    near = FACE.crop((74, 50, 184, 190)).resize((1095, 1095), Image.Resampling.BICUBIC)
    [face] = detect.find_faces(np.asarray(near))
    assert face.box[2] - face.box[0] > 700


def looked_at(monkeypatch):
    """The shapes of the pictures that the detector is shown from now on."""
    shapes, look = [], detect.look
    monkeypatch.setattr(
        detect, "look", lambda *given: shapes.append(given[0].shape) or look(*given)
    )
    return shapes


def test_half_the_size_first(monkeypatch):
    """Enough for one large face; not where a small one is beside it, nor where there is none."""
    photo = Image.new("RGB", (1000, 800), GREY)
    empty = np.asarray(photo)
    photo.paste(FACE.resize((512, 512)), (400, 200))
    large = np.asarray(photo)
    photo.paste(FACE.resize((64, 64)), (100, 300))  # its face is 30 pixels high
    both = np.asarray(photo)
    shapes = looked_at(monkeypatch)

    [face] = detect.find_fast(large)
    assert shapes == [(400, 500, 3)]
    assert np.abs(face.box - (PLACE * 2 + [400, 200] * 2)).max() < 12

    shapes.clear()
    faces = detect.find_fast(both)
    assert shapes[:2] == [(400, 500, 3), (800, 1000, 3)]
    assert [f.box.tolist() for f in faces] == [f.box.tolist() for f in detect.find_faces(both)]
    assert len(faces) == 2 and detect.find_fast(empty) == []


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_photo_on_its_side_or_its_head(quarters, bare, tmp_path, capsys):
    """The face of the upright photo, at its place in the turned one, and its answer."""
    photo = Image.new("RGB", (500, 400), GREY)
    photo.paste(FACE, (200, 100))
    photo.save(tmp_path / "upright.png")
    [due], turn = detect.find_in_photo(np.asarray(photo))
    assert turn == 0
    turned = np.rot90(np.asarray(photo), quarters)  # against the clock
    Image.fromarray(turned).save(tmp_path / "turned.png")
    [face], turn = detect.find_in_photo(turned)
    assert (turn, face.score) == (90 * quarters, due.score)
    for (x, y), found in zip(due.points, face.points, strict=True):
        width, height = photo.size
        for _ in range(quarters):
            x, y, width, height = y, width - x, height, width
        assert found.tolist() == pytest.approx([x, y], abs=1e-3)
    low, high = face.box[:2], face.box[2:]
    assert (low < face.points).all() and (face.points < high).all()
    sides = (high - low)[:: 1 if quarters == 2 else -1]
    assert sides.tolist() == pytest.approx((due.box[2:] - due.box[:2]).tolist(), abs=1e-3)

    assert call(*bare, tmp_path, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().err
    two = {Path(row["source"]).stem: row for row in table(tmp_path / "out")}
    assert (two["upright"]["turn"], two["turned"]["turn"]) == ("0", str(90 * quarters))
    cuts = [detect.cut(np.asarray(photo), *square) for square in detect.squares(due, "utk")]
    same = [detect.cut(turned, *square) for square in detect.squares(face, "utk")]
    assert len(cuts) == len(same) and all(map(np.array_equal, cuts, same))
    assert f"turned.png: its faces are upright if it is turned clockwise by {turn}" in printed


def test_not_turned_without_a_sure_face():
    """A face that lies in a photo in which another one stands; a picture without faces."""
    photo = Image.new("RGB", (900, 500), GREY)
    photo.paste(FACE, (50, 100))
    photo.paste(FACE.rotate(90), (500, 100))
    faces, turn = detect.find_in_photo(np.asarray(photo))
    assert turn == 0 and max(faces, key=lambda face: face.score).box[2] < 400
    assert detect.find_in_photo(np.full((300, 400, 3), 99, np.uint8)) == ([], 0)


@pytest.mark.parametrize(
    ("width", "height", "scale"), [(1500, 999, 0.17), (432, 777, 0.1), (3, 3000, 0.2), (9, 8, 1.7)]
)
def test_reduced_in_bands(width, height, scale):
    """To the bit what Pillow makes of the whole picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    given = size, Image.Resampling.BILINEAR, None, 2
    assert np.array_equal(detect.resized(pixels, size), Image.fromarray(pixels).resize(*given))


def peak_of(*words):
    """The kilobytes that a process of predict.py with these arguments has taken at most."""
    code = "import runpy, sys; sys.argv = sys.argv[1:]\n"
    code += f"sys.path.insert(0, {str(CODE)!r})\n"
    code += "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    # ru_maxrss would count what this process had when it forked
    code += "finally: print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    words = [sys.executable, "-c", code, PREDICT, *words]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_photo_of_fifty_megapixels(bare, tmp_path):
    path = tmp_path / "large.jpg"
    photo = Image.new("RGB", (8660, 5774), GREY)
    photo.paste(FACE.resize((2048, 2048)), (3000, 2000))
    photo.save(path)
    peak = peak_of(*bare, path, "--out", tmp_path / "out")
    [row] = table(tmp_path / "out")
    assert near(row, PLACE * 8 + [3000, 2000] * 2)
    assert peak < 2e6


@pytest.mark.parametrize("size", [(3_000_000, 1), (2, 3_000_000), (60_000, 60)])
def test_next_to_nothing_high_or_wide(size, monkeypatch):
    """What the detector is given of such a picture is no larger than of another one."""
    seen = []
    monkeypatch.setattr(detect, "look", lambda image, _: seen.append(image.shape) or [])
    assert detect.find_faces(np.zeros((*size[::-1], 3), np.uint8)) == []
    [(height, width, _)] = seen
    assert (height + 31) // 32 * (width + 31) // 32 * 1024 < 2.1e6


# ---- Framing


def framed(pixels, points, dataset):
    """The image that detect cuts of a face with these points."""
    return detect.cut(pixels, *detect.square(points, dataset))


def ramps(width, height, unit=1):
    """A picture whose red and green are x and y in ``unit`` pixels."""
    y, x = np.mgrid[:height, :width] // unit
    return np.stack([x, y, 0 * x], axis=2).astype(np.uint8)


def shown(image, unit=1):
    """x and y (of a picture of ramps()) of each pixel of an image, float (height, width, 2)."""
    return np.asarray(image, float)[:, :, :2] * unit


@pytest.mark.parametrize(
    "turn, side, middle",
    [(0, 100, (120, 130)), (25, 60, (90, 140)), (-40, 150, (128, 128)), (10, 120, (30, 230))],
)
def test_aligned_faces(turn, side, middle):
    """Faces like those of UTKFace, turned, in several sizes, one of them cut by two borders: the
    square is known, so the place that each of its pixels shows is."""
    radians = math.radians(turn)
    rotation = np.array(
        [[math.cos(radians), math.sin(radians)], [-math.sin(radians), math.cos(radians)]]
    )
    points = (detect.ALIGNED - 0.5) @ rotation * side + middle
    image = framed(ramps(256, 256), points, "utk")
    assert image.size == (200, 200)
    grid = (np.mgrid[:200, :200][::-1].transpose(1, 2, 0) + 0.5) / 200 - 0.5
    due = (grid @ rotation * side + middle - 0.5).clip(0, 255)
    assert np.abs(shown(image) - due).max() < 1.5


def test_alignment_is_by_least_squares():
    """No similarity takes ALIGNED nearer to these points than the one of square(), among some that
    differ a little."""
    points = detect.ALIGNED * 100 + np.random.default_rng(1).normal(0, 5, (5, 2))
    corner, across = detect.square(points, "faces")
    z, due = points @ (1, 1j), detect.ALIGNED @ (1, 1j)

    def error(corner, across):
        return np.sum(np.abs(corner + due * across - z) ** 2)

    for step in (1, -1, 1j, -1j):
        assert error(corner, across) < error(corner + step / 10, across)
        assert error(corner, across) < error(corner, across + step / 10)


def test_a_large_face_is_shrunk_without_gaps():
    """A chessboard of single pixels becomes grey, and what is shown stays in its place."""
    board = np.repeat(np.indices((2000, 2000)).sum(0)[:, :, None] % 2 * 255, 3, 2).astype(np.uint8)
    points = detect.ALIGNED * 1600 + 200
    grey = np.asarray(framed(board, points, "utk"), int)
    assert np.abs(grey - 127).max() <= 2
    image = framed(ramps(2000, 2000, 8), points, "utk")
    due = 200 + 8 * (np.mgrid[:200, :200][::-1].transpose(1, 2, 0) + 0.5)
    assert np.abs(shown(image, 8) - due).max() < 16


@pytest.mark.parametrize(
    "dataset, side, down", [("afad", 110, 18.5), ("cacd", 140, 13), ("morph2", 143.5, 38)]
)
def test_upright_squares(dataset, side, down):
    """Eyes 50 pixels apart, the middle between them at (128, 100), in a face as high as usual; the
    same of a face in profile, whose eyes are 10 pixels apart."""
    for eye in (25, 5):
        points = [[128 - eye, 100], [128 + eye, 100], [128, 125], [118, 149], [138, 149]]
        corner, across = detect.square(points, dataset)
        assert across == pytest.approx(side)
        centre = corner + across * (0.5 + 0.5j)
        assert (centre.real, centre.imag) == pytest.approx((128, 100 + down))


def test_framing_of_the_scripts():
    """What the network gets of a photo: the aligned square as the script prepares its own photos;
    morph2's script cuts 140 pixels out of its images, which must be the whole square."""
    pixels, face = np.asarray(FACE), SimpleNamespace(points=POINTS)  # seen from the front
    for dataset in ("afad", "cacd", "morph2", "utk"):
        script = load(CODE / f"{dataset}-coral.py")
        model = SimpleNamespace(script=script, size=48)
        square = framed(pixels, POINTS, dataset)
        if dataset == "morph2":
            square = square.resize((140, 140))
        [image] = pictures.face_images(pixels, face, model)
        # 48/120 of 128 are 51.2, and the crop begins at round(3 / 2)
        expected = np.asarray(script.resize(square, [51, 51])).transpose(2, 0, 1)[:, 2:50, 2:50]
        assert np.array_equal(answers.prepare(image, model), expected)


def test_faces_turned_to_the_side():
    """A face as of UTKFace, 100 pixels wide there, and one whose points are 0.4 as far apart in
    the direction of the eyes, both turned by 20 degrees: of the second the network is asked twice,
    in the square by least squares, and in one of 100 pixels around the box, whose middle is 12
    pixels beside the points'. Both can be turned further."""
    axis = np.exp(1j * math.radians(20))
    for narrow, count in ((1, 1), (0.4, 2)):
        offsets = (detect.ALIGNED - 0.5) * 100 * (narrow, 1) @ (1, 1j) * axis
        points = np.stack([offsets.real, offsets.imag], axis=1) + 128
        middle = 128 + 128j + 12 * axis
        box = [middle.real - 40, middle.imag - 50, middle.real + 40, middle.imag + 50]
        face = SimpleNamespace(points=points, box=box)
        squares = detect.squares(face, "faces")
        assert squares[0] == detect.square(points, "faces") and len(squares) == count
        assert len(detect.squares(face, "afad", (-4, 0, 4))) == 1
        turned = detect.squares(face, "faces", (-30, 0))
        assert len(turned) == 2 * count and turned[1::2] == squares
        for (corner, across), (begin, plain) in zip(turned[::2], squares, strict=True):
            # the upper border rises to the right, around the same middle
            assert across / plain == pytest.approx(complex(math.sqrt(3) / 2, -0.5))
            assert corner + across * (0.5 + 0.5j) == pytest.approx(begin + plain * (0.5 + 0.5j))
    (corner, across), (other, wide) = squares
    assert abs(across) < 80 and wide == pytest.approx(100 * axis, rel=0.02)
    axis = wide / abs(wide)
    centre, plain = (other + wide * (0.5 + 0.5j)) / axis, (corner + across * (0.5 + 0.5j)) / axis
    assert centre.real == pytest.approx((middle / axis).real)  # as far aside as the box's,
    assert centre.real > plain.real + 10
    assert centre.imag == pytest.approx(plain.imag)  # and as high as before


def test_a_faces_images_tell_its_age_and_gender(bare):
    """infer_faces() of a face of two images and one of one: the mean; without gender, None."""
    model = predict.load(weights=bare[1], script="afad-coral.py", image_size=32)
    images = [answers.prepare(small(0.5, mirrored), model) for mirrored in (False, True)]
    images.append(answers.prepare(ImageOps.flip(FACE), model))
    probas, male = answers.infer(images, model, 2)
    assert (probas[0] - probas[1]).abs().max() > 0.01
    ages, genders = answers.infer_faces([images[:2], images[2:]], model, 2)
    torch.testing.assert_close(ages, torch.stack([(probas[0] + probas[1]) / 2, probas[2]]))
    assert genders == pytest.approx([(male[0] + male[1]) / 2, male[2]])
    model.network.fc_gender = None
    assert answers.infer_faces([images[:2], images[2:]], model, 2)[1] == [None, None]
    assert answers.infer_faces([], model, 2) == ([], [])


def test_a_photo_is_answered_for_in_three_turns(tmp_path):
    """By the mean over its face's square turned by -4, 0 and 4 degrees; in a video by that square
    alone."""
    model, path = predict.load(), tmp_path / "clip.mp4"
    save_video(path, [FACE])
    for turns in ((-4, 0, 4), (0,)):
        pixels = np.asarray(FACE) if len(turns) == 3 else read_video(path)[1][0]
        [found] = (detect.find_fast if len(turns) == 3 else detect.find_faces)(pixels)
        corner, across = detect.square(found.points, "faces")
        middle, images = corner + across * (0.5 + 0.5j), []
        for turn in turns:
            axis = across * np.exp(1j * math.radians(turn))
            image = detect.cut(pixels, middle - axis * (0.5 + 0.5j), axis)
            images.append(answers.prepare(image, model))
        probas, male = answers.infer(images, model, 3)
        if len(turns) == 3:
            [face] = predict.faces(model, pixels)
        else:
            [(_, _, [face])] = predict.video(model, path)
        assert face["age"] == (probas.mean(0) > 0.5).sum()
        male = sum(male) / len(turns)
        assert face["gender_probability"] == pytest.approx(max(male, 1 - male), abs=1e-4)
        assert len(turns) == 1 or (probas[0] - probas[2]).abs().max() > 0.01


def test_points_are_found_upright_and_turned():
    """The landmarks of the real photo, to 6 % of the face's height, turned by 30 degrees too; so
    the squares show the same."""
    [face] = detect.find_faces(np.asarray(FACE))
    assert np.abs(face.points - POINTS).max() < 7
    turned = FACE.rotate(30, Image.Resampling.BICUBIC, fillcolor=GREY)
    [other] = detect.find_faces(np.asarray(turned))
    squares = [
        framed(np.asarray(image), found.points, "utk")
        for image, found in ((FACE, face), (turned, other))
    ]
    inner = [np.asarray(image.crop((40, 40, 160, 160)), float) for image in squares]
    assert np.abs(inner[0] - inner[1]).mean() < 18
    upright = np.asarray(turned.crop((60, 40, 180, 160)).resize((120, 120)), float)
    assert np.abs(inner[0] - upright).mean() > 30  # else anything would do


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


FAST = ["--recipe=fast", "--gender=1", "--set=shifts=1"]  # answers for images moved and mirrored


@pytest.mark.parametrize(
    "dataset, loss, options",
    [("afad", "ce", ["--gender=0"])]
    + [("morph2", "ordinal", ["--gender=1"])]  # uses parts of its images
    + [("utk", loss, FAST) for loss in ("coral", "corn", "dldl", "l1")]
    + [
        pytest.param(*rest, marks=pytest.mark.slow)
        for rest in (
            *[("afad", loss, ["--gender=0"]) for loss in ("coral", "ordinal")],
            *[("morph2", loss, ["--gender=1"]) for loss in ("ce", "coral")],
            *[("utk", loss, FAST) for loss in ("ce", "ordinal")],
            *[("cacd", loss, []) for loss in LOSSES],
        )
    ],
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
    words += ["--epochs=1", "--batch_size=4", "--image_size=40", "--set=prior_bias=1", "--lr=1e-5"]
    script.main([*words, f"--init_from={backbone}", *options])
    with open(tmp_path / "run" / "test_predictions.csv") as file:
        due = {str(sample / "images" / row["path"]): row for row in csv.DictReader(file)}
    probas = dict(zip(due, np.load(tmp_path / "run" / "test_probas.npy"), strict=True))
    capsys.readouterr()

    out = tmp_path / "out"
    words = ["--crops", "--no_draw", "--batch_size=3", "--out", out]
    assert call("--run", tmp_path / "run", *due, *words) == 0
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
    if loss in ("ce", "dldl", "sord"):
        return [float(p) for p in probas]
    above = [1.0, *sorted((float(p) for p in probas), reverse=True), 0.0]
    return [above[k] - above[k + 1] for k in range(len(above) - 1)]


def slow_interval(classes, label, share=0.8):
    """Of all runs that contain ``label`` and 80 %, or another ``share``, the shortest, of these the
    most probable, of these the first."""
    runs = []
    for first in range(label + 1):
        for last in range(label, len(classes)):
            held = sum(classes[first : last + 1])
            if held >= share or (first, last) == (0, len(classes) - 1):
                runs.append((last - first, -round(held, 12), first, last, held))
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
    assert answers.class_probas(classes, len(classes)).tolist() == slow_classes(classes, "ce")
    found = answers.interval(answers.class_probas(classes, len(classes)), label)
    assert found == slow_interval(slow_classes(classes, "ce"), label)


@given(st.lists(PARTS, min_size=1, max_size=12))
@settings(max_examples=300, deadline=None)
def test_interval_of_probabilities_out_of_order(parts):
    """P(y > k) of ordinal regression need not fall with k; sorting leaves the label as it is."""
    probas = np.array(parts, np.float32) / 1024
    label = sum(p > 0.5 for p in probas)
    script = ORDINAL
    assert script.predict_labels(torch.tensor(probas)[None]).item() == label
    classes = answers.class_probas(probas, len(probas) + 1)
    assert classes.tolist() == slow_classes(probas, "ordinal")
    assert min(classes) >= 0 and sum(classes) == 1
    below = [sum(classes[:k]) for k in (label, label + 1)]  # the label is the median
    assert below[0] < 0.5 <= below[1]
    assert answers.interval(classes, label) == slow_interval(classes.tolist(), label)


def test_no_class_has_minus_zero():
    """As JSON would show; equal probabilities in a row, 0 and 1."""
    classes = answers.class_probas(np.float32([1, 0.5, 0.5, 0]), 5)
    assert list(map(str, classes.tolist())) == ["0.0", "0.5", "0.0", "0.5", "0.0"]


def test_an_interval_by_hand():
    """0.2 0.1 0.4 0.25 0.05: 3 classes around the label hold 75 %, so it takes 4, and of these the
    first four have 95 %, the last four 80 %."""
    probas = [0.8, 0.7, 0.3, 0.05]
    first, last, held = answers.interval(answers.class_probas(probas, len(probas) + 1), 2)
    assert (first, last) == (0, 3) and held == pytest.approx(0.95)
    script = SimpleNamespace(
        LOSS="coral", YOUNGEST_AGE=21, NUM_CLASSES=5, predict_labels=lambda p: (p > 0.5).sum(1)
    )
    model = SimpleNamespace(script=script, interval=80, shares=None, over=())
    row = answers.estimate(torch.tensor(probas), 0.25, model)
    assert row == {
        "age": 23, "age_low": 21, "age_high": 24, "interval_probability": 0.95,
        "at_end_of_range": False, "gender": "female", "gender_probability": 0.75,
    }  # fmt: skip
    assert answers.sentence(row, model) == "23 (21-24), female 75%"
    for probas, sentence in (
        ([0.1] * 4, "21 or younger (21-21)"),
        ([0.9] * 4, "25 or older (25-25)"),
    ):
        row = answers.estimate(torch.tensor(probas), None, model)
        assert row["at_end_of_range"] and answers.sentence(row, model) == sentence
    script.YOUNGEST_AGE = 0
    assert answers.sentence(answers.estimate(torch.tensor([0.1] * 4), None, model), model) == (
        "0 (0-0)"  # nobody is younger
    )


# ---- Marks


def test_labels_hide_nobody():
    """Seven people in a selfie, shoulder to shoulder and behind each other, and the labels of their
    ages. There is room, so no label covers a face, another label or the border."""
    boxes = [(20, 300, 220, 560), (250, 250, 430, 490), (470, 320, 660, 570), (690, 280, 880, 530)]
    boxes += [(150, 80, 270, 230), (380, 60, 500, 210), (600, 90, 720, 240)]
    labels = [(240, 32)] * 4 + [(200, 20)] * 3
    places = marked.place_labels((1000, 720), boxes, labels)
    marks = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(places, labels, strict=True)]
    for i, mark in enumerate(marks):
        assert mark[0] >= 0 and mark[1] >= 0 and mark[2] <= 1000 and mark[3] <= 720
        others = boxes + marks[:i] + marks[i + 1 :]
        assert sum(detect.common(mark, other) for other in others) == 0
    # alone, a label is above its face, and in it where it fills the picture
    assert marked.place_labels((1000, 720), boxes[:1], labels[:1]) == [(20, 268)]
    [(x, y)] = marked.place_labels((300, 200), [(10, 0, 290, 200)], [(150, 20)])
    assert 0 <= x <= 150 and 0 <= y <= 180


def test_without_room_a_label_hides_its_own_face():
    """Two faces fill the picture: no label is on the other's."""
    boxes = [(0, 0, 200, 200), (200, 0, 400, 200)]
    places = marked.place_labels((400, 200), boxes, [(150, 30)] * 2)
    for (x, y), box in zip(places, boxes, strict=True):
        assert detect.common((x, y, x + 150, y + 30), box) == 150 * 30


@pytest.mark.parametrize(
    "width, size, letters", [(16, 300, 11), (900, 1000, 32), (80, 4000, 44), (120, 800, 15)]
)
def test_letters_have_a_smallest_and_a_largest_size(width, size, letters, monkeypatch):
    """An eighth of the face's width, but from 11 to 32 pixels in a picture of 1,000."""
    sizes, font = [], marked.font
    monkeypatch.setattr(marked, "font", lambda size: sizes.append(size) or font(size))
    face = (0, 100, width, 100 + width)
    image = marked.mark(np.zeros((size, size, 3), np.uint8), [(face, "32")])
    assert sizes == [letters] and image.size == (size, size)


# ---- Boxes from elsewhere


def test_boxes_from_elsewhere(bare, tmp_path, capsys):
    """Those of an earlier run give its answers, of images and a video; a box around no face is
    taken as it is, and a picture not in the table has no face, nor has any if it is empty."""
    FACE.save(tmp_path / "face.png")
    small(0.5).save(tmp_path / "other.png")
    save_video(tmp_path / "film.mp4", moving(9), rate=4)
    paths = [tmp_path / "face.png", tmp_path / "film.mp4"]
    assert call(*bare, *paths, "--no_draw", "--out", tmp_path / "first") == 0
    words = ["--boxes", tmp_path / "first" / "predictions.csv", "--out", tmp_path / "second"]
    assert call(*bare, *paths, tmp_path / "other.png", *words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if "no face" in line] == [
        ["no", "face", str(tmp_path / "other.png")]
    ]
    first, second = table(tmp_path / "first"), table(tmp_path / "second")
    assert len(first) == len(second) == 11
    for name in ("source", "frame", "face", "left", "top", "right", "bottom"):
        assert [row[name] for row in first] == [row[name] for row in second]
    ages = [[int(row["age"]) for row in rows] for rows in (first, second)]
    assert np.abs(np.subtract(*ages)).max() <= 2  # the boxes were rounded
    assert {row["score"] for row in second} == {""}

    # pandas writes the frames of a video beside photos as 0.0, 1.0, ...
    pd.read_csv(words[1]).to_csv(tmp_path / "pandas.csv", index=False)
    assert ",3.0," in (tmp_path / "pandas.csv").read_text()
    words[1] = tmp_path / "pandas.csv"
    assert call(*bare, *paths, *words, "--overwrite") == 0
    assert table(tmp_path / "second") == second

    lines = ["source,left,top,right,bottom", f"{tmp_path / 'other.png'},5,6,35,36.4"]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    words = ["--boxes", tmp_path / "boxes.csv", "--out", tmp_path / "third"]
    assert call(*bare, tmp_path / "other.png", *words) == 0
    [row] = table(tmp_path / "third")
    assert box_of(row).tolist() == [5, 6, 35, 36] and row["age"] != ""

    (tmp_path / "boxes.csv").write_text("source,left,top,right,bottom\n")
    assert call(*bare, tmp_path / "other.png", *words, "--overwrite") == 0
    assert table(tmp_path / "third") == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("source,left,top,right\na,1,2,3\n", "not a table of source, frame, left"),
        ("source,left,top,right,bottom\na,1,2,x,4\n", "row 1: could not convert string to float"),
        ("source,left,top,right,bottom\na,1,2,,4\n", "row 1: could not convert string to float"),
        ("source,frame,left,top,right,bottom\na,1.5,1,2,3,4\n", "row 1: frame '1.5': give a num"),
        ("source,frame,left,top,right,bottom\na,-1,1,2,3,4\n", "row 1: frame '-1': give a numb"),
        ("source,left,top,right,bottom\na,1,2,nan,4\n", "row 1: no box: [1.0, 2.0, nan, 4.0]"),
        ("source,left,top,right,bottom\na,1,2,30,40\na,3,2,1,4\n", "row 2: no box: [3.0, 2.0"),
        ("source,left,top,right,bottom\na,1,2,3,10\n", "no source in it is one of the inputs"),
        ("source,left,top,right,bottom\na,1,2,3,9.9\n", "row 1: too small for a face, below 8"),
        ("source,left,top,right,bottom\na,0.3,0.1,0.5,0.4\n", "row 1: too small for a face, bel"),
        ("source,left,top,right,bottom\na,1,2,1e300,4\n", "row 1: no box: [1.0, 2.0, 1e+300, 4.0]"),
        ("\0\xff", "not a table of source, frame, left"),
    ],
)
def test_bad_tables_of_boxes(text, message, bare, tmp_path, capsys):
    small(0.5).save(tmp_path / "face.png")
    (tmp_path / "boxes.csv").write_bytes(text.encode("latin-1"))
    words = ["--boxes", tmp_path / "boxes.csv", "--out", tmp_path / "out"]
    assert call(*bare, tmp_path / "face.png", *words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"predict.py: error: --boxes {tmp_path / 'boxes.csv'}: {message}")
    assert not (tmp_path / "out").exists()


def test_boxes_in_the_stored_pixels(bare, tmp_path, capsys):
    """Where the face is only in the photo as it is stored, that is said; a box in those of the
    photo as it is shown, or around no face, is taken without a word."""
    upright = Image.new("RGB", (500, 600), GREY)
    upright.paste(FACE, (10, 300))
    due, none = (PLACE + [10, 300, 10, 300]).tolist(), [230, 270, 290, 330]
    size, lines, said = np.array([500, 600]), ["source,left,top,right,bottom"], {}
    for orientation, method in UNDO.items():
        exif, path = Image.Exif(), tmp_path / f"{orientation}.png"
        exif[0x0112] = orientation
        stored = upright if method is None else upright.transpose(Image.Transpose(method))
        stored.save(path, exif=exif)
        mask = Image.new("1", (500, 600))
        mask.paste(1, due)
        box = (mask if method is None else mask.transpose(Image.Transpose(method))).getbbox()
        shown = pictures.as_shown(box, path, size)
        assert shown == (None if orientation == 1 else due)
        if orientation > 1:
            said[path] = [*map(float, box)]
            lines.append(f"{path},{','.join(map(str, box))}")
        lines += [f"{path},{','.join(map(str, some))}" for some in (due, none)]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    words = [*said, tmp_path / "1.png"]
    assert call(*bare, *words, "--boxes", tmp_path / "boxes.csv") == 0
    shown = capsys.readouterr().err.splitlines()
    what = "no face there as the photo is shown, but in its stored pixels; turn the box as the"
    what += f" EXIF orientation says: {[*map(float, due)]}"
    assert [line.split("warning: ")[1] for line in shown] == [
        f"{path}: --boxes: {box}: {what}" for path, box in said.items()
    ]


def test_a_box_outside_the_picture(bare, tmp_path, capsys):
    """A line, and the other inputs are done."""
    small(0.5).save(tmp_path / "face.png")
    small(0.5).save(tmp_path / "good.png")
    lines = ["source,left,top,right,bottom", f"{tmp_path / 'face.png'},500,6,535,36"]
    lines += [f"{tmp_path / 'good.png'},43,29,87,89"]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    words = ["--boxes", tmp_path / "boxes.csv", "--out", tmp_path / "out"]
    assert call(*bare, tmp_path / "face.png", tmp_path / "good.png", *words) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "face.png: --boxes: [500.0, 6.0, 535.0, 36.0] is outside the picture" in line
    assert len(table(tmp_path / "out")) == 1


def test_one_box_of_a_video_outside_the_picture(bare, tmp_path, capsys):
    """That alone is missing, and boxes that had no use are counted."""
    film, photo = tmp_path / "film.mp4", tmp_path / "face.png"
    save_video(film, moving(4))
    small(0.5).save(photo)
    lines = [f"{film},{number},43,29,87,89" for number in (0, 2, 3, 3, 4, 9)]
    lines += [f"{film},1,900,900,990,990", f"{film},2,900,900,990,990", f"{tmp_path},0,1,1,30,30"]
    lines += [f"{photo},0,43,29,87,89", f"{photo},0,128,0,140,20", f"{photo},1,43,29,87,89"]
    (tmp_path / "boxes.csv").write_text("\n".join(["source,frame,left,top,right,bottom", *lines]))
    words = ["--boxes", tmp_path / "boxes.csv", "--out", tmp_path / "out"]
    assert call(*bare, film, photo, *words) == 1
    rows = table(tmp_path / "out")
    assert [row["frame"] for row in rows if row["kind"] != "image"] == ["0", "2", "3", "0"]
    assert [row["kind"] for row in rows][-2:] == ["track", "image"]
    shown = capsys.readouterr()
    box = "--boxes: [900.0, 900.0, 990.0, 990.0] of frame 1 is outside the picture, (200, 128)"
    assert sorted(shown.err.splitlines()) == [
        f"predict.py: error: {photo}: --boxes: [128.0, 0.0, 140.0, 20.0] is outside the picture, "
        "(128, 128)",
        f"predict.py: error: {film}: {box}, with 1 more",
        f"predict.py: warning: {photo}: --boxes: not used: 1 beyond its end",
        f"predict.py: warning: {film}: --boxes: not used: 2 beyond its end, 1 given twice",
    ]
    assert f"--boxes {words[1]}: 1 boxes of files that are no inputs" in shown.out.splitlines()
    assert len(read_video(tmp_path / "out" / "film.mp4")[0]) == 4


# ---- Videos


def small(scale, mirrored=False):
    face = ImageOps.mirror(FACE) if mirrored else FACE
    return face.resize((round(256 * scale),) * 2, Image.Resampling.LANCZOS)


def place(scale, left, top, mirrored=False):
    """Where the face is if small() is pasted at (left, top)."""
    x0, y0, x1, y1 = PLACE
    if mirrored:
        x0, x1 = 256 - x1, 256 - x0
    return np.array([x0, y0, x1, y1]) * scale + [left, top, left, top]


def save_video(path, pictures, codec="libx264", ticks=None, rate=30, sound=False):
    """Write PIL images, one every 1/rate s, or at the given multiples of it, maybe with silence."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate)
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt, stream.bit_rate = "yuv420p", 1_500_000
        stream.codec_context.time_base = Fraction(1, rate)
        audio = container.add_stream("aac", 44100) if sound else None
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = (ticks or range(10**9))[number], Fraction(1, rate)
            container.mux(stream.encode(frame))
        if sound:
            silence = av.AudioFrame.from_ndarray(np.zeros((2, 2048), np.float32), "fltp", "stereo")
            silence.sample_rate = 44100
            container.mux(audio.encode(silence))
        for stream in container.streams:
            container.mux(stream.encode())


def read_video(path):
    """The times in seconds and the pixels of all frames of a video."""
    with av.open(path) as container:
        frames = list(container.decode(video=0))
    return [frame.time for frame in frames], [frame.to_ndarray(format="rgb24") for frame in frames]


def moving(count, scale=0.5, size=(200, 128), step=0.8):
    """One person who moves to the right."""
    pictures, face = [], small(scale)
    for number in range(count):
        picture = Image.new("RGB", size, GREY)
        picture.paste(face, (round(number * step), 0))
        pictures.append(picture)
    return pictures


def split(rows):
    """The rows of frames and those of tracks."""
    return [[row for row in rows if row["kind"] == kind] for kind in ("frame", "track")]


def test_three_seconds(bare, tmp_path, capsys):
    """90 frames of MPEG-4: the face at its place in every one, with the right times, in one track;
    the copy has as many frames, at the same times, with the marks around the face."""
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    save_video(clip, moving(90), "mpeg4")
    assert call(*bare, clip, "--out", out) == 0
    frames, tracks = split(table(out))
    assert [int(row["frame"]) for row in frames] == list(range(90))
    for number, row in enumerate(frames):
        assert float(row["seconds"]) == pytest.approx(number / 30, abs=1e-4)
        assert near(row, place(0.5, 0.8 * number, 0)), row
        assert (row["face"], row["frames"], row["source"]) == ("1", str(number + 1), str(clip))
    [track] = tracks
    assert (track["face"], track["frame"], track["frames"]) == ("1", "0", "90")
    assert (float(track["seconds"]), float(track["until_seconds"])) == (
        0,
        pytest.approx(89 / 30, abs=1e-4),
    )
    mean = sum(float(row["score"]) for row in frames) / 90
    assert float(track["score"]) == pytest.approx(mean, abs=1e-4)
    for column in ("age", "age_low", "age_high", "interval_probability", "gender_probability"):
        assert track[column] == frames[-1][column]
    shown = capsys.readouterr()
    assert shown.out.splitlines()[2].startswith(f"{track['age']:>13}  ") and shown.err == ""
    assert shown.out.splitlines()[2].endswith(f"     1  {clip} 0.00-2.97 s")

    times, copy = read_video(out / "clip.mp4")
    assert len(copy) == 90 and copy[0].shape == (128, 200, 3)
    assert times == pytest.approx([number / 30 for number in range(90)], abs=1e-4)
    for number in (0, 45, 89):  # the border of the box is blue, the face is not
        left, top, right, bottom = box_of(frames[number])
        rows, blueness = slice(top + 6, bottom - 6), copy[number].astype(int) @ [-1, 0, 1]
        assert blueness[rows, left : left + 2].mean() > 40
        assert blueness[rows, left + 6 : right - 6].mean() < 10


def test_two_people_keep_their_tracks(bare, tmp_path):
    """They walk through each other, the smaller one, mirrored, behind the other and hidden by her.
    3 s of H.264."""
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    people = {  # scale, mirrored, left at the start, pixels to the right in a frame, top
        "behind": (0.4, True, 208, -2.3, 18),
        "before": (0.5, False, -10, 2, 0),
    }
    pictures, places = [], []
    for number in range(90):
        picture = Image.new("RGB", (300, 128), GREY)
        places.append({})
        for name, (scale, mirrored, left, step, top) in people.items():
            left = round(left + step * number)
            cut = tuple(round(scale * x) for x in (50, 40, 206, 230))  # not all of the background
            picture.paste(small(scale, mirrored).crop(cut), (left + cut[0], top + cut[1]))
            places[-1][name] = place(scale, left, top, mirrored)
        pictures.append(picture)
    save_video(clip, pictures)
    assert call(*bare, clip, "--out", out) == 0
    frames, tracks = split(table(out))
    seen = {name: [] for name in people}
    for row in frames:
        shares = {
            name: detect.overlap(box_of(row), box)[0]
            for name, box in places[int(row["frame"])].items()
        }
        name = max(shares, key=shares.get)  # of one half hidden the box is smaller
        assert shares[name] > 0.3
        seen[name].append(row)
    assert {name: {row["face"] for row in rows} for name, rows in seen.items()} == {
        "before": {"1"},
        "behind": {"2"},
    }
    numbers = {name: [int(row["frame"]) for row in rows] for name, rows in seen.items()}
    assert numbers["before"] == list(range(90))
    assert numbers["behind"][0] == 0 and numbers["behind"][-1] == 89
    assert 60 < len(numbers["behind"]) < 80  # hidden for a while
    rights = [box_of(seen[name][number])[2] for number in (0, -1) for name in people]
    assert rights[0] > rights[1] + 90 and rights[2] < rights[3] - 90  # they have changed sides
    assert [(row["face"], int(row["frames"])) for row in tracks] == [
        ("1", 90),
        ("2", len(numbers["behind"])),
    ]
    assert len(read_video(out / "clip.mp4")[0]) == 90


def test_means_over_a_track(bare, tmp_path, monkeypatch):
    """What is said in a frame comes from the mean over the frames so far, so that it settles; with
    --every 3 of every third frame, and the copy has them all."""
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    pictures = [  # it gets darker, so that the answers differ
        ImageEnhance.Brightness(picture).enhance(1 - number / 18)
        for number, picture in enumerate(moving(12, step=3))
    ]
    save_video(clip, pictures, rate=10)
    images, infer = [], answers.infer
    monkeypatch.setattr(
        answers, "infer", lambda new, *rest: infer(images.extend(new) or new, *rest)
    )
    assert call(*bare, clip, "--every", 3, "--batch_size", 3, "--out", out) == 0
    frames, [track] = split(table(out))
    assert [row["frame"] for row in frames] == ["0", "3", "6", "9"] and len(images) == 4
    script = load(CODE / "afad-coral.py")
    network = script.ResNet34(gender=1).eval()
    network.load_state_dict(torch.load(bare[1], weights_only=True))
    sums, males, singles = 0, 0, set()
    for count, row in enumerate(frames, 1):
        face = torch.from_numpy(images[count - 1].copy())[None] / 255
        with torch.no_grad():
            logits, gender = network(face)
        sums, males = sums + logits.sigmoid()[0].double(), males + gender.sigmoid().item()
        singles.add(round(gender.sigmoid().item(), 4))
        label = int((sums / count > 0.5).sum())
        first, last, held = slow_interval(slow_classes(sums / count, "coral"), label)
        ages = [int(row[name]) - 15 for name in ("age", "age_low", "age_high")]
        assert ages == [label, first, last]
        assert float(row["interval_probability"]) == pytest.approx(held, abs=2e-4)
        male = males / count
        assert float(row["gender_probability"]) == pytest.approx(max(male, 1 - male), abs=2e-4)
    assert max(singles) - min(singles) > 0.01  # else any of them would do as the mean
    assert (track["frames"], track["gender_probability"]) == ("4", frames[-1]["gender_probability"])
    assert len(read_video(out / "clip.mp4")[0]) == 12


def test_marks_move_on_between_the_frames_looked_at(bare, tmp_path):
    """With --every 6 of a video of 30 frames a second, in which the face moves 3 pixels a frame."""
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    save_video(clip, moving(24, step=3, size=(260, 128)), "mpeg4")
    assert call(*bare, clip, "--every", 6, "--out", out) == 0
    frames, _ = split(table(out))
    assert [int(row["frame"]) for row in frames] == [0, 6, 12, 18]
    copy = read_video(out / "clip.mp4")[1]
    for number in (16, 17):  # from frame 12 on, the borders would be 12 and 15 pixels behind
        bluer = copy[number].astype(int) @ [-1, 0, 1] > 60
        columns = np.nonzero(bluer[50:80].mean(0) > 0.5)[0]
        due = place(0.5, 3 * number, 0)
        assert abs(columns.min() - due[0]) < 6 and abs(columns.max() - due[2]) < 6


def test_times_of_uneven_frames(bare, tmp_path):
    """A video that begins at 10 s, with frames of different length: the times are those from its
    first frame, in the copy as well."""
    clip, out = tmp_path / "clip.mkv", tmp_path / "out"
    ticks = [300, 301, 302, 305, 309, 310]
    save_video(clip, moving(6), "mpeg4", ticks)
    assert call(*bare, clip, "--crops", "--out", out) == 0
    frames, [track] = split(table(out))
    due = [(tick - 300) / 30 for tick in ticks]
    assert [float(row["seconds"]) for row in frames] == pytest.approx(due, abs=1.1e-3)  # whole ms
    assert track["frames"] == "6" and track["face"] == "1"
    assert read_video(out / "clip.mp4")[0] == pytest.approx(due, abs=1.1e-3)


def test_a_video_from_a_telephone_held_upright(bare, tmp_path):
    """Its pictures lie on their side, and the file says that a player is to turn them clockwise."""
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    turned = [picture.transpose(Image.Transpose.ROTATE_90) for picture in moving(3)]
    save_video(clip, turned, "mpeg4")
    content = clip.read_bytes()
    numbers = struct.Struct(">9i")
    plain = numbers.pack(1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    matrix = numbers.pack(0, 1 << 16, 0, -1 << 16, 0, 0, 128 << 16, 0, 1 << 30)
    header = content.index(b"tkhd")
    begin = content.index(plain, header)
    clip.write_bytes(content[:begin] + matrix + content[begin + len(matrix) :])
    assert call(*bare, clip, "--out", out) == 0
    frames, _ = split(table(out))
    assert len(frames) == 3
    assert all(near(row, place(0.5, 0.8 * number, 0)) for number, row in enumerate(frames))
    assert read_video(out / "clip.mp4")[1][0].shape == (128, 200, 3)


def long_clip(path, count):
    """One face that hardly moves."""
    save_video(path, moving(count, 0.95, (200, 200), 0.01), "mpeg4")


def test_memory_does_not_grow_with_the_length(bare, tmp_path):
    """The pixels and all else that Python and numpy hold at most, for 40 and 120 frames; what the
    libraries hold besides is in the next test."""
    peaks = []
    for count in (5, 40, 120):  # the first warms up
        long_clip(tmp_path / "clip.mp4", count)
        tracemalloc.start()
        try:
            assert (
                call(*bare, tmp_path / "clip.mp4", "--crops", "--out", tmp_path / f"{count}") == 0
            )
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert len(table(tmp_path / f"{count}")) == count + 1
    assert peaks[2] < 1.1 * peaks[1]
    assert peaks[1] > 16 * 200 * 200 * 3  # the frames of a batch are counted


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_memory_of_the_process(bare, tmp_path):
    """3,000 frames, with the detector, need no more than 300 do; their pixels are 324 MB more."""
    peaks = []
    for count in (300, 3000):
        long_clip(tmp_path / "clip.mp4", count)
        words = [*bare, tmp_path / "clip.mp4", "--out", tmp_path / f"{count}"]
        process = subprocess.Popen(list(map(str, [sys.executable, PREDICT, *words])))
        peaks.append(0)
        while process.poll() is None:  # without the pages of files, which come and go
            status = Path(f"/proc/{process.pid}/status").read_text().split()
            if "RssAnon:" in status:
                peaks[-1] = max(peaks[-1], int(status[status.index("RssAnon:") + 1]))
            time.sleep(0.02)
        assert process.returncode == 0
        frames, tracks = split(table(tmp_path / f"{count}"))
        assert len(frames) == count and len(tracks) == 1
        assert len(read_video(tmp_path / f"{count}" / "clip.mp4")[0]) == count
    print("kB:", peaks)
    assert peaks[1] < 1.1 * peaks[0]


# ---- Other processes and signals


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_a_folder_in_which_another_process_writes(run, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    held = files.lock(out)
    words = [tmp_path / "face.png", "--run", run, "--out", out]
    assert call(*words) == 2
    line = f"predict.py: error: --out {out}: another process is at work there\n"
    assert capsys.readouterr().err == line and list(out.iterdir()) == []
    os.close(held)
    assert call(*words) == 0
    assert call(*words, "--overwrite") == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
def test_ended_by_a_signal(number, run, tmp_path):
    """Nothing half-written stays, so that the same command can be given again."""
    long_clip(tmp_path / "clip.mp4", 400)
    out = tmp_path / "out"
    words = [sys.executable, PREDICT, tmp_path / "clip.mp4", "--run", run, "--out", out]
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # under nohup it is ignored
    )
    while not (out / ".clip.mp4.tmp").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert err == "predict.py: error: interrupted; no predictions were written\n"
    assert process.returncode == 130 and list(out.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_ignored_signals_stay_ignored():
    """As nohup has SIGHUP."""
    before = [signal.signal(n, signal.SIG_IGN) for n in (signal.SIGHUP, signal.SIGTERM)]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        assert errors.end_as_on_ctrl_c("SIGHUP", "SIGTERM", "SIGNONE") == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        for number, handler in zip((signal.SIGHUP, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


# ---- Bad input


def png_header(width, height):
    """A PNG that promises so many pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + bytes(4) + b"IDAT"
    return b"\x89PNG\r\n\x1a\n" + parts + bytes(99)


def test_bad_files_among_good_ones(bare, tmp_path, capsys):
    """Each is reported in a line that says why; the good ones, before and after them, are done."""
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "deeper").mkdir(parents=True)
    good = ["a.jpg", "deeper/b.mp4", "z.png"]
    small(0.5).save(folder / "a.jpg")
    small(0.5).save(folder / "z.png")
    save_video(folder / "deeper" / "b.mp4", moving(3))
    photo, film = (folder / "a.jpg").read_bytes(), (folder / "deeper" / "b.mp4").read_bytes()
    bad = {
        "bomb.png": (png_header(60_000, 60_000), "more than 225 megapixels, in PNG; make"),
        "empty.jpg": (b"", "nvalid data"),
        "half.jpg": (photo[: len(photo) // 2], "truncated"),
        "half.mp4": (film[: len(film) // 2], "nvalid data"),
        "letter.jpg": (b"Dear reader,\n" * 50, "neither an image nor a video (it begins as text)"),
        "noise.mp4": (np.random.default_rng(1).bytes(5000), "nvalid data"),
    }
    for name, (content, _) in bad.items():
        (folder / name).write_bytes(content)
    assert call(*bare, folder, "--out", out) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(bad)
    told = json.loads((out / "predictions.json").read_text())["failures"]
    for line, failure, (name, (_, reason)) in zip(lines, told, bad.items(), strict=True):
        assert line.startswith(f"predict.py: error: {folder / name}: ") and reason in line
        assert line == f"predict.py: error: {failure['source']}: {failure['reason']}"
    rows = table(out)
    sources = [str(folder / name) for name in good]
    assert sorted({row["source"] for row in rows}) == sorted(sources)
    assert [row["kind"] for row in rows] == ["image", "frame", "frame", "frame", "track", "image"]
    made = ["a.jpg", "b.mp4", "predictions.csv", "predictions.json", "z.jpg"]
    assert sorted(os.listdir(out)) == made


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_video_whose_middle_is_damaged(codec, bare, tmp_path, capsys):
    """The frames before and after are done, in one track, at their times, and the next file too."""
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    save_video(clip, moving(40), codec)
    content = bytearray(clip.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = np.random.default_rng(1).bytes(2000)
    clip.write_bytes(content)
    small(0.5).save(tmp_path / "next.png")
    assert call(*bare, clip, tmp_path / "next.png", "--out", out) == 1
    [line] = capsys.readouterr().err.splitlines()
    frames, [track] = split(table(out))
    numbers = [int(row["frame"]) for row in frames]
    decoded = len(read_video(out / "clip.mp4")[0])
    assert line.startswith(f"predict.py: error: {clip}: ")
    assert line.endswith(f" damaged parts; {decoded} frames could be decoded")
    assert 30 < decoded <= 40 and ": 0 damaged" not in line
    assert numbers[0] == 0 and numbers[-1] == decoded - 1 and len(numbers) > 25
    assert float(frames[-1]["seconds"]) == pytest.approx(39 / 30, abs=1e-4)
    assert near(frames[-1], place(0.5, 0.8 * 39, 0)) and track["face"] == "1"
    assert table(out)[-1]["source"] == str(tmp_path / "next.png")


def test_a_video_of_huge_pictures(bare, tmp_path, capsys, monkeypatch):
    """Refused before they are decoded, from as many pixels on as images are; here from few."""
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    save_video(clip, moving(3))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200 * 128 - 1)
    assert call(*bare, clip, "--out", out) == 1
    assert f"predict.py: error: {clip}: " in capsys.readouterr().err and table(out) == []


@pytest.mark.parametrize(
    "name, text",
    [
        ("list.mp4", "ffconcat version 1.0\nfile {clip}\n"),
        ("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip}\n#EXT-X-ENDLIST\n"),
        ("list.jpg", "ffconcat version 1.0\nfile {clip}\n"),
    ],
)
def test_a_playlist_opens_no_other_file(name, text, bare, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    save_video(tmp_path / "other" / "clip.mp4", moving(3))
    (tmp_path / name).write_text(text.format(clip="other/clip.mp4"))
    out = tmp_path / "out"
    assert call(*bare, tmp_path / name, "--out", out) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"predict.py: error: {tmp_path / name}: ") and table(out) == []


@pytest.mark.parametrize(
    "words, message",
    [
        (["https://example.org/a.jpg"], "https://example.org/a.jpg: is a URL; download the file"),
        (["file:///etc/passwd"], "file:///etc/passwd: is a URL; download the file and give"),
        (["rtsp://camera/1"], "rtsp://camera/1: is a URL; record some of it (ffmpeg -i URL -t "),
        (["/dev/null"], "/dev/null: is a device or a pipe; record a file and give its path; page"),
        (["{here}/empty"], "{here}/empty: no image or video in this folder"),
        (["{here}/missing.jpg"], "{here}/missing.jpg: no such file or folder"),
        (["{here}/face.png", "--out={here}/full"], "--out {here}/full: holds files already"),
        (["{here}/face.png", "--out={here}/face.png"], "--out {here}/face.png: is a file"),
        (["{here}/full/old.png", "--out={here}/full", "--overwrite"], "lies in --out"),
        (["{here}/full", "--out={here}/full", "--overwrite"], "full: all that is in it lies in -"),
        (["{here}/face.png", "--run={here}/full"], "give --weights with --run, the folder of the"),
        (["{here}/face.png", "--every=0"], "--every 0: must be from 1 to 1000000000"),
        (["{here}/face.png", "--min_score=nan"], "--min_score nan: must be from 0.01 to 1"),
        (["{here}/face.png", "--min_score=0"], "--min_score 0.0: must be from 0.01 to 1"),
        (["{here}/face.png", ""], "an INPUT is empty; give a file or a folder"),
        (["{here}/face.png", "--cuda=7"], "--cuda 7: this machine has "),
        (["{here}/face.png", "--script=cells.py"], "argument --script: invalid choice: 'cells.py'"),
        (["{here}/face.png", "--speed=1"], "unrecognized arguments: --speed=1"),
        (["{here}/face.png", "--weights={here}/none.pt"], "{here}/none.pt: not the state dict"),
        (["{here}/face.png", "--weights={here}/face.png"], "face.png: not the state dict of a net"),
        (["{here}/face.png", "--weights={here}/list.pt"], "list.pt: not the state dict of a net"),
        (["{here}/face.png", "--weights={here}/numbers.pt"], "numbers.pt: does not fit afad-cor"),
        (["{here}/face.png", "--weights={here}/sparse.pt"], "sparse.pt: not the state dict of a"),
        (["{here}/face.png", "--weights={here}/meta.pt"], "meta.pt: not the state dict of a netw"),
        (["{here}/face.png", "--weights={here}/nan.pt"], "nan.pt: 'linear_1_bias' is not finite"),
        (["{here}/face.png", "--weights={here}/code.pt"], "code.pt: not the state dict of a netw"),
        (["{here}/face.png", "--weights={here}/old.pt"], "old.pt: not the state dict of a networ"),
        (["{here}/face.png", "--script=utk-coral.py"], "does not fit utk-coral.py: 'linear_1_bia"),
        (["{here}/face.png", "--script=afad-ce.py"], "does not fit afad-ce.py: 'fc.weight' is (1"),
    ],
)
def test_refusals(words, message, bare, tmp_path, capsys):
    """One line, exit code 2, and nothing is written; no code in a weights file is run."""
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "empty" / "deeper" / "notes.txt").write_text("nothing")
    (tmp_path / "full").mkdir()
    for path in (tmp_path / "face.png", tmp_path / "full" / "old.png"):
        small(0.5).save(path)
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({1: torch.zeros(3)}, tmp_path / "numbers.pt")
    torch.save({"fc.weight": torch.eye(3).to_sparse()}, tmp_path / "sparse.pt")
    torch.save({"fc.weight": torch.zeros(1, 2048, device="meta")}, tmp_path / "meta.pt")
    state = torch.load(bare[1], weights_only=True)
    state["linear_1_bias"][3] = math.nan
    if any("nan.pt" in word for word in words):
        torch.save(state, tmp_path / "nan.pt")
    torch.save({"conv1.weight": Code(tmp_path / "made")}, tmp_path / "code.pt")
    torch.save(Code(tmp_path / "made"), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    before = contents(tmp_path)
    words = [word.format(here=tmp_path) for word in words]
    assert call(*bare, f"--out={tmp_path / 'out'}", *words) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("predict.py: error: ") and shown.err.count("\n") == 1
    assert message.format(here=tmp_path) in shown.err
    assert contents(tmp_path) == before and shown.out == ""


def test_weights_need_to_be_told_whose_they_are(bare, tmp_path, capsys):
    """The settings of the model that comes along are not those of other weights."""
    small(0.5).save(tmp_path / "face.png")
    for words in (bare[:2], bare[2:4]):
        assert call(*words, tmp_path / "face.png") == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("predict.py: error: give --weights with --run, the folder of ")


def test_a_folder_that_cannot_be_read(bare, tmp_path, capsys, monkeypatch):
    """A line, and the rest is done; the mock stands for the rights that a test of the superuser
    always has."""
    (tmp_path / "in" / "locked").mkdir(parents=True)
    small(0.5).save(tmp_path / "in" / "face.png")
    scandir = os.scandir

    def locked(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    due = f"predict.py: error: {tmp_path / 'in' / 'locked'}: Permission denied"
    for name, count in (("in", 1), ("in/locked", 0)):
        out = tmp_path / f"out{count}"
        assert call(*bare, tmp_path / name, "--out", out) == 1
        assert capsys.readouterr().err.splitlines() == [due]
        assert len(table(out) if count else []) == count and out.exists() == bool(count)


def test_a_photo_named_twice(bare, tmp_path):
    """By itself and by its folder: one answer."""
    small(0.5).save(tmp_path / "a.png")
    small(0.5).save(tmp_path / "b.png")
    words = [tmp_path / "b.png", tmp_path, f"{tmp_path}/./b.png", "--out", tmp_path / "out"]
    assert call(*bare, *words) == 0
    sources = [row["source"] for row in table(tmp_path / "out")]
    assert sources == [str(tmp_path / "b.png"), str(tmp_path / "a.png")]


def test_weights_that_answer_no_numbers(bare, tmp_path, capsys):
    """They are finite, but the variance of what they are to scale is negative."""
    small(0.5).save(tmp_path / "face.png")
    state = torch.load(bare[1], weights_only=True)
    state["bn1.running_var"][3] = -1
    torch.save(state, tmp_path / "odd.pt")
    words = ["--weights", tmp_path / "odd.pt", "--crops", "--out", tmp_path / "out"]
    assert call(*bare, tmp_path / "face.png", *words) == 2
    [line] = capsys.readouterr().err.splitlines()
    reason = "its network answers what is no number: it is damaged, or training diverged"
    assert line == f"predict.py: error: odd.pt: {reason}"
    assert os.listdir(tmp_path / "out") == []
    (tmp_path / "odd.pt").unlink()


def test_odd_facts_beside_the_weights(bare, tmp_path):
    """torch adds the versions of modules to a state dict; without them, or with others, it is
    taken."""
    state = torch.load(bare[1], weights_only=True)
    for facts in ({"": 5}, [], {"conv1": {"version": "x"}}):
        state._metadata = facts
        torch.save(state, tmp_path / "odd.pt")
        model = predict.load(weights=tmp_path / "odd.pt", script="afad-coral.py", image_size=32)
        assert all(torch.equal(model.network.state_dict()[key], state[key]) for key in state)
    (tmp_path / "odd.pt").unlink()


def test_weights_that_name_another_pickle_protocol(bare, tmp_path, recwarn):
    """They are taken, and torch's warning of them is not printed."""
    with zipfile.ZipFile(bare[1]) as old, zipfile.ZipFile(tmp_path / "odd.pt", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("/data.pkl"):
                assert content[:2] == b"\x80\x02"
                content = b"\x80\x04" + content[2:]
            new.writestr(name, content)
    runs.read_weights(tmp_path / "odd.pt")
    assert [str(warning.message) for warning in recwarn] == []
    (tmp_path / "odd.pt").unlink()


class Code:
    """Unpickled, it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def make_run(bare, folder):
    """A run folder with the weights of ``bare``, without training."""
    folder.mkdir()
    (folder / "model.pt").symlink_to(bare[1])
    digest = hashlib.sha256((CODE / "afad-coral.py").read_bytes()).hexdigest()
    facts = {"script": "afad-coral.py", "script_sha256": digest, "settings": {"image_size": 32}}
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture
def run(bare, tmp_path):
    small(0.5).save(tmp_path / "face.png")
    return make_run(bare, tmp_path / "run")


def change(run, **facts):
    (run / "run.json").write_text(json.dumps(json.loads((run / "run.json").read_text()) | facts))


def test_a_changed_script_is_warned_of(run, bare, tmp_path, capsys):
    """It answers all the same, and as the bare weights do."""
    words = [tmp_path / "face.png", "--no_draw", "--out"]
    assert call("--run", run, *words, tmp_path / "same") == 0
    assert capsys.readouterr().err == ""
    change(run, script_sha256="0" * 64)
    assert call("--run", run, *words, tmp_path / "changed") == 0
    warning = "predict.py: warning: afad-coral.py has changed since this run\n"
    assert capsys.readouterr().err == warning
    assert call(*bare, *words, tmp_path / "bare") == 0
    rows = [table(tmp_path / name) for name in ("same", "changed", "bare")]
    assert rows[0] == rows[1] == rows[2] != []


def test_the_best_epoch_is_taken(run, bare, tmp_path, capsys):
    """best_model.pt, where the run had a validation; its biases say 15 of everybody."""
    state = torch.load(bare[1], weights_only=True)
    state["linear_1_bias"] -= 10_000
    torch.save(state, run / "best_model.pt")
    assert call(tmp_path / "face.png", "--run", run, "--out", tmp_path / "out") == 0
    [row] = table(tmp_path / "out")
    assert (row["age"], row["age_high"], row["at_end_of_range"]) == ("15", "15", "True")
    assert "15 or younger     15-15  " in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [
        "{here}/evil.py",
        "../../evil.py",
        "evil.py",
        "predict.py",
        "cells.py",
        "afad-coral",
        None,
        [],
    ],
)
def test_no_other_script_is_run(name, run, tmp_path, capsys, monkeypatch):
    """Whatever run.json names: by absolute path, from the working folder, beside predict.py."""
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'made')!r})\n")
    (tmp_path / "code").mkdir()
    for path in (PREDICT, tmp_path / "evil.py"):  # predict.py's own modules are loaded already
        shutil.copy(path, tmp_path / "code")
    monkeypatch.chdir(tmp_path)
    name = name.format(here=tmp_path) if isinstance(name, str) else name
    change(run, script=name, script_sha256=hashlib.sha256(b"").hexdigest())
    before = contents(tmp_path)
    for module in (predict, load(tmp_path / "code" / "predict.py")):
        with pytest.raises(SystemExit) as stop:
            module.main([str(tmp_path / "face.png"), f"--run={run}", f"--out={tmp_path / 'out'}"])
        err = capsys.readouterr().err
        assert stop.value.code == 2 and err.count("\n") == 1
        assert f"{run / 'run.json'}: its script, {name!r}, is none of these: [" in err
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda run: (run / "model.pt").unlink(), "holds no model.pt; finish the training"),
        (  # a validation has come, the end has not
            lambda run: (run / "model.pt").rename(run / "best_model.pt"),
            "holds no model.pt; finish the training",
        ),
        (lambda run: (run / "run.json").unlink(), "no run.json, or not one of a run"),
        (lambda run: (run / "run.json").write_text("{"), "no run.json, or not one of a run"),
        (lambda run: (run / "run.json").write_text("[]"), "no run.json, or not one of a run"),
        (
            lambda run: (run / "run.json").write_text("[" * 10**6),
            "no run.json, or not one of a run",
        ),
        (lambda run: change(run, settings=None), "no run.json, or not one of a run"),
        (lambda run: change(run, settings={"image_size": 10**9}), "its image_size, 1000000000, is"),
        (lambda run: change(run, settings={"image_size": "a"}), "its image_size, 'a', is"),
        (lambda run: change(run, script="utk-coral.py"), "does not fit utk-coral.py: 'linear_1"),
        (
            lambda run: change(run, youngest_age=3),
            "its youngest_age is 3, that of afad-coral.py is",
        ),
        (lambda run: change(run, num_classes=[]), "its num_classes is [], that of afad-coral.py"),
    ],
)
def test_bad_run_folders(spoil, message, run, tmp_path, capsys):
    spoil(run)
    assert call(tmp_path / "face.png", "--run", run, "--out", tmp_path / "out") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
    assert len(errors) == 1 and message in errors[0] and str(run) in errors[0]
    assert not (tmp_path / "out").exists()


def test_overwrite(bare, tmp_path):
    """Only on demand, and then the new results are as in a new folder."""
    words = [*bare, tmp_path / "face.png", "--out"]
    small(0.5).save(tmp_path / "face.png")
    for name in ("out", "other"):
        assert call(*words, tmp_path / name) == 0
    due = contents(tmp_path / "other")
    (tmp_path / "out" / "predictions.csv").write_text("mine")
    assert call(*words, tmp_path / "out") == 2
    assert (tmp_path / "out" / "predictions.csv").read_text() == "mine"
    assert call(*words, tmp_path / "out", "--overwrite") == 0
    assert list(contents(tmp_path / "out").values()) == list(due.values())


def test_inputs_of_one_name(bare, tmp_path):
    """Their copies are numbered; hidden files and the results of before are no inputs."""
    for name in ("a/face.png", "b/face.png", "b/.face.png", "out/face.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        small(0.5).save(tmp_path / name)
    words = [*bare, tmp_path, "--crops", "--out", tmp_path / "out", "--overwrite"]
    assert call(*words) == 0
    assert [row["source"] for row in table(tmp_path / "out")] == [
        str(tmp_path / "a" / "face.png"),
        str(tmp_path / "b" / "face.png"),
    ]
    names = ["face-2.jpg", "face.jpg", "predictions.csv", "predictions.json"]
    assert sorted(os.listdir(tmp_path / "out")) == names


def test_missing_extras(bare, tmp_path, capsys, monkeypatch):
    """Without the detector crops are still done, without PyAV images, without pi-heif all but HEIC
    images."""
    small(0.5).save(tmp_path / "face.png")
    save_video(tmp_path / "film.mp4", moving(2))
    (tmp_path / "photo.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    for name in ("onnxruntime", "av", "pi_heif"):
        monkeypatch.setitem(sys.modules, name, None)
    assert call(*bare, tmp_path / "face.png", "--out", tmp_path / "out") == 2
    remedy = "pip install -r requirements-extras.txt"
    due = f"predict.py: error: onnxruntime is not installed: {remedy}, or give --crops\n"
    assert capsys.readouterr().err == due and not (tmp_path / "out").exists()
    words = [tmp_path / name for name in ("film.mp4", "photo.jpg", "face.png")]
    assert call(*bare, *words, "--crops", "--out", tmp_path / "out") == 1
    assert [row["source"] for row in table(tmp_path / "out")] == [str(tmp_path / "face.png")]
    film, photo = capsys.readouterr().err.splitlines()
    assert film.endswith(f"film.mp4: not an image; videos need PyAV: {remedy}")
    assert photo.endswith(f"photo.jpg: an image in HEIC: {remedy}, or convert it to JPEG")


# ---- Without --out, and for programs


def test_what_is_printed(run, tmp_path, capsys, monkeypatch):
    """Of an image, a video and a picture without a face; nothing is written anywhere."""
    monkeypatch.chdir(tmp_path)
    small(0.5).save("photo.png")
    Image.new("RGB", (90, 90)).save("black.png")
    save_video("film.mp4", moving(6), rate=4)
    due = [call("photo.png", "film.mp4", "--run=run", "--out=out"), table(tmp_path / "out")][1]
    before = contents(tmp_path)
    capsys.readouterr()
    assert call("photo.png", "film.mp4", "black.png", "--run", "run") == 0
    shown = capsys.readouterr()
    lines = [line.split() for line in shown.out.splitlines()]
    assert lines[0] == ["run/model.pt,", "by", "afad-coral.py"]
    assert lines[1] == ["age", "interval", "gender", "face", "picture"]
    end = ["or", "younger"], ["or", "older"]
    for line, row, source in (
        (lines[2], due[0], ["photo.png"]),
        (lines[3], due[-1], ["film.mp4", "0.00-1.25", "s"]),
    ):
        ages = [row["age"], *(end[row["age"] != "15"] if row["at_end_of_range"] == "True" else [])]
        gender = [row["gender"], f"{float(row['gender_probability']):.0%}"]
        years = f"{row['age_low']}-{row['age_high']}"
        assert line == [*ages, years, *gender, "1", *source]
    assert lines[4] == ["no", "face", "black.png"]
    assert shown.out.splitlines()[5] == predict.NOTE and len(lines) == 6 and shown.err == ""
    assert contents(tmp_path) == before
    change(tmp_path / "run", licence="CC0 1.0")
    assert call("black.png", "--run", "run") == 0
    title = "run/model.pt, by afad-coral.py; licence: CC0 1.0"
    assert capsys.readouterr().out.splitlines()[0] == title


def test_json(run, tmp_path, capsys):
    """Standard output is what predictions.json holds, with --out and without it; the rest goes to
    standard error."""
    words = [tmp_path / "face.png", "--run", run, "--json"]
    assert call(*words, "--out", tmp_path / "out") == 0
    first = capsys.readouterr()
    assert call(*words) == 0
    second = capsys.readouterr()
    assert first.out == second.out == (tmp_path / "out" / "predictions.json").read_text()
    told = json.loads(first.out)
    assert len(told["faces"]) == 1 and told["faces"][0]["source"] == str(tmp_path / "face.png")
    assert predict.NOTE in second.err and "interval" not in second.err
    assert call(*words, tmp_path / "film.txt") == 2
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(sys.platform != "linux", reason="writes to /dev/full")
@pytest.mark.parametrize("json_wanted", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_standard_output_is_full(json_wanted, run, tmp_path):
    """Python flushes it at the end, and would complain in its own way. The files are kept."""
    words = [sys.executable, PREDICT, tmp_path / "face.png", "--run", run, "--no_draw"]
    words += ["--out", tmp_path / "out", *["--json"] * json_wanted]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        process = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, env=environment)
    *_, line = process.stderr.decode().splitlines()
    assert line == "predict.py: error: standard output: No space left on device"
    assert process.returncode == 1 and len(table(tmp_path / "out")) == 1


def test_standard_output_is_closed(run, tmp_path):
    """As by `predict.py ... | head -1`, before all is told; the files are kept."""
    paths = [tmp_path / f"{'long' * 50}{i}.png" for i in range(60)]
    for path in paths:
        shutil.copy(tmp_path / "face.png", path)
    words = [sys.executable, PREDICT, *paths, "--run", run, "--crops", "--no_draw"]
    words += ["--out", tmp_path / "out"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == "predict.py: error: standard output: Broken pipe\n"
    assert process.wait() == 1 and len(table(tmp_path / "out")) == len(paths)


def test_the_old_way_to_name_a_run(run, tmp_path, capsys):
    assert call(run, tmp_path / "face.png") == 2
    line = f"predict.py: error: {run}: is a run, no input; now it is given as --run {run}\n"
    assert capsys.readouterr() == ("", line)


def test_from_a_program(run, tmp_path, capsys):
    """faces() of a path, a PIL image and an array, and of crops: the command line's figures; the
    probabilities of all ages are those that the interval is told from."""
    photo = tmp_path / "photo.png"
    exif = Image.Exif()
    exif[0x0112] = 3
    FACE.rotate(180).save(photo, exif=exif)
    assert call(photo, "--run", run, "--out", tmp_path / "out") == 0
    [due] = table(tmp_path / "out")
    capsys.readouterr()
    model = predict.load(run)
    with Image.open(photo) as image:
        answers = [predict.faces(model, what) for what in (photo, str(photo), image)]
    answers.append(predict.faces(model, np.asarray(FACE)))
    for [face] in answers:
        probas = face.pop("age_probas")
        assert len(probas) == 26 and sum(probas) == pytest.approx(1)
        held = sum(probas[face["age_low"] - 15 : face["age_high"] - 14])
        assert held == pytest.approx(face["interval_probability"], abs=1e-4)
        for name, value in face.items():
            assert name == "source" or str(value) == due[name], name
    [whole] = predict.faces(model, FACE, crops=True)
    assert (whole["left"], whole["top"], whole["right"], whole["bottom"]) == (0, 0, 256, 256)
    assert predict.faces(model, np.zeros((64, 64, 3), np.uint8)) == []
    for bad in (np.zeros((64, 64), np.uint8), np.zeros((64, 64, 3)), np.zeros((0, 9, 3), np.uint8)):
        with pytest.raises(ValueError, match="not uint8"):
            predict.faces(model, bad)
    with pytest.raises(TypeError, match="'crop'"):
        predict.faces(model, FACE, crop=True)
    with pytest.raises(predict.InputError, match="holds no model.pt"):
        (run / "model.pt").unlink()
        predict.load(run)
    assert capsys.readouterr() == ("", "")


def test_a_video_from_a_program(run, tmp_path):
    """video() yields frame by frame what predictions.csv tells, also after a gap."""
    clip = tmp_path / "film.mp4"
    gap = [Image.new("RGB", (200, 128), GREY)] * 12
    save_video(clip, [*moving(6), *gap, *moving(6)], rate=5)
    assert call(clip, "--run", run, "--every", 2, "--no_draw", "--out", tmp_path / "out") == 0
    frames, tracks = split(table(tmp_path / "out"))
    assert [track["face"] for track in tracks] == ["1", "2"]
    told = list(predict.video(predict.load(run), clip, every=2))
    assert [number for number, *_ in told] == list(range(0, 24, 2))
    assert [seconds for _, seconds, _ in told] == pytest.approx([n / 5 for n in range(0, 24, 2)])
    rows = [row for *_, faces in told for row in faces]
    for row, expected in zip(rows, frames, strict=True):
        # the last digit of a probability depends on the images that are asked about together
        for key, text in expected.items():
            value = row.get(key, "")
            assert str(value) == text or value == pytest.approx(float(text), abs=2e-4), key


# ---- True values


def labelled(tmp_path, run, text, *words):
    """predictions.json of four crops, whose labels are in ``text``."""
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/3.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        small(0.5 + 0.1 * int(name[2])).save(tmp_path / "in" / name)
    (tmp_path / "labels.csv").write_text(text)
    words = [*words, "--run", run, "--labels", tmp_path / "labels.csv", "--out", tmp_path / "out"]
    assert call(tmp_path / "in", *words, "--overwrite") == 0
    table(tmp_path / "out")
    return json.loads((tmp_path / "out" / "predictions.json").read_text())


def test_labels_by_hand(run, tmp_path, capsys):
    """MAE, RMSE, share within 5 years and of genders, over all, by gender and by age, recomputed;
    the longest end of a path decides; without --crops the figures of the largest face."""
    text = "file,age,gender\na/1.png,20,male\n2.png,33,female\n1.png,25,\nb/3.png,20-29,male\n"
    text += "elsewhere.png,50,male\n"
    for words in (["--crops"], []):
        told = labelled(tmp_path, run, text, *words)
        rows = {row["source"].split("/in/")[1]: row for row in told["faces"]}
        true = {name: (row["true_age"], row.get("true_gender", "")) for name, row in rows.items()}
        assert true == {
            "a/1.png": ("20", "male"),
            "a/2.png": ("33", "female"),
            "b/1.png": ("25", ""),
            "b/3.png": ("20-29", "male"),
        }
        ages = {name: row["age"] for name, row in rows.items()}
        errors = {
            "a/1.png": abs(ages["a/1.png"] - 20),
            "a/2.png": abs(ages["a/2.png"] - 33),
            "b/1.png": abs(ages["b/1.png"] - 25),
            "b/3.png": max(0, 20 - ages["b/3.png"], ages["b/3.png"] - 29),
        }
        right = {name: rows[name]["gender"] == true[name][1] for name in rows if name != "b/1.png"}
        groups = {
            "all": list(rows),
            "female": ["a/2.png"],
            "male": ["a/1.png", "b/3.png"],
            "20-29": list(set(rows) - {"a/2.png"}),
            "30-39": ["a/2.png"],
        }
        assert [row["group"] for row in told["scores"]] == list(groups)
        for row in told["scores"]:
            some = [errors[name] for name in groups[row["group"]]]
            known = [right[name] for name in groups[row["group"]] if name in right]
            assert row["photos"] == len(some)
            assert row["mae"] == pytest.approx(sum(some) / len(some))
            assert row["rmse"] == pytest.approx((sum(e * e for e in some) / len(some)) ** 0.5)
            assert row["within_5"] == sum(error <= 5 for error in some) / len(some)
            assert row["gender_accuracy"] == pytest.approx(sum(known) / len(known))
        shown = capsys.readouterr().out
        assert "4 of 5 labelled photos are here, with a face\n" in shown
        assert f"{tmp_path / 'in' / 'a' / '1.png'} (true: 20 male)" in shown
        last = told["scores"][-1]
        assert f"30-39         1 {last['mae']:6.2f} {last['rmse']:6.2f}" in shown


def test_labels_without_an_age(run, tmp_path, capsys):
    """Of what is known alone there are figures."""
    text = "file,age,gender\na/1.png,,male\na/2.png,33,\nb/1.png,,\n"
    told = labelled(tmp_path, run, text, "--crops")
    rows = {row["source"].split("/in/")[1]: row for row in told["faces"]}
    [every, men, decade] = told["scores"]
    error, right = abs(rows["a/2.png"]["age"] - 33), rows["a/1.png"]["gender"] == "male"
    assert (every["photos"], every["mae"], every["gender_accuracy"]) == (2, error, right)
    assert men == {"group": "male", "photos": 1, "gender_accuracy": right}
    assert (decade["group"], decade["photos"]) == ("30-39", 1)
    shown = capsys.readouterr().out
    assert "a/1.png (true: male)\n" in shown and "2 of 3 labelled photos are here" in shown
    assert re.search(r"\nmale +1 +\d+\.\d%\n", shown)


def test_without_genders_there_is_no_share_of_right_ones():
    """Of a network that has no such output, whose rows have a side named right."""
    row = {"left": 0, "top": 0, "right": 200, "bottom": 200, "age": 30, "true_age": "33"}
    [every, decade] = labels.scores([row])
    assert every == {"group": "all", "photos": 1, "mae": 3, "rmse": 3, "within_5": 1}
    assert decade == every | {"group": "30-39"}
    assert labels.as_table([every])[1] == "all           1   3.00   3.00    100.0%"
    rows = [row | {"true_gender": "male"}, row | {"true_gender": "female"}]
    assert [part["group"] for part in labels.scores(rows)] == ["all", "female", "male", "30-39"]
    assert not any("gender_accuracy" in part for part in labels.scores(rows))
    told = labels.scores([rows[0] | {"gender": "male"}, rows[1] | {"gender": "male"}, row])
    assert [part.get("gender_accuracy") for part in told] == [0.5, 0, 1, 0.5]


def test_the_label_means_the_largest_face(run, tmp_path):
    picture = Image.new("RGB", (400, 256), GREY)
    picture.paste(FACE, (150, 0))
    picture.paste(small(0.5), (0, 0))
    picture.save(tmp_path / "two.png")
    (tmp_path / "labels.csv").write_text(" file, age ,gender\n two.png , 40, male\n")
    words = ["--run", run, "--labels", tmp_path / "labels.csv", "--out", tmp_path / "out"]
    assert call(tmp_path / "two.png", *words) == 0
    rows = table(tmp_path / "out")
    assert len(rows) == 2
    largest = max(rows, key=lambda row: box_of(row)[2] - box_of(row)[0])
    assert [row["true_age"] for row in rows if row is not largest] == [""]
    assert (largest["true_age"], largest["true_gender"]) == ("40", "male")
    assert int(largest["left"]) > 150


@pytest.mark.parametrize(
    "text, message",
    [
        ("name,age\nx.png,3\n", "has no column 'file'"),
        ("file,gender\nx.png,male\n", "has no column 'age'"),
        ("file,age\nx.png,3\ny.png,old\n", "row 2: age 'old': give years, or a range as 20-29"),
        ("file,age\nx.png,29-20\n", "row 1: age '29-20': give years"),
        ("file,age\nx.png,nan\n", "row 1: age 'nan': give years"),
        ("file,age,age\nx.png,3,4\n", "has several columns 'age'; leave one of them"),
        ("file, age ,gender,age\nx.png,3,,4\n", "has several columns 'age'; leave one of them"),
        ("file,age,gender\nx.png,3,M\n", "row 1: gender 'M': give male, female or nothing"),
        ("file,age\nx.png,3\nx.png,4\n", "row 2: 'x.png' has another label in an earlier row"),
        ("", "no CSV ("),
        ("file,age\n\xff,3\n", "no CSV ("),
        ("file,age\nx.png,3,4,5\n", "no CSV ("),
        ("file,age\n/else/face.png,3\n", "no file in it is the end of an input's path; shorten"),
        (None, "No such file"),
    ],
)
def test_bad_labels(text, message, run, tmp_path, capsys):
    path = tmp_path / "labels.csv"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    words = ["--run", run, "--labels", path, "--out", tmp_path / "out"]
    assert call(tmp_path / "face.png", *words) == (2 if text is not None else 1)
    shown = capsys.readouterr()
    assert shown.err.startswith(f"predict.py: error: {path}: {message}"), shown.err
    assert shown.err.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "youngest, name",
    [
        (15, "{}/111/a.png"),
        (14, "{}_Some_Body_0001.png"),
        (16, "001_01M{}.png"),
        (21, "{}_0_1_2017.png"),
    ],
)
def test_classes_for_labels(youngest, name, run, tmp_path, capsys):
    """Those of the CSVs that training takes, whatever the model that is asked."""
    path, ages = tmp_path / "labels.csv", (30, 41, 50)
    for age in ages:
        file = tmp_path / "in" / name.format(age)
        file.parent.mkdir(parents=True, exist_ok=True)
        small(0.5).save(file)
    words = ["--run", run, tmp_path / "in", "--labels", path, "--out", tmp_path / "out"]
    words += ["--crops", "--no_draw"]
    path.write_text("file,age\n" + "".join(f"{name.format(a)},{a - youngest}\n" for a in ages))
    assert call(*words) == 2
    [line] = capsys.readouterr().err.splitlines()
    due = f"its ages are those of the file names minus {youngest}, classes for training; give ages"
    assert line.startswith(f"predict.py: error: {path}: {due}") and not (tmp_path / "out").exists()
    for off in (0, 1):  # what the names tell need not be right
        path.write_text("file,age\n" + "".join(f"{name.format(a)},{a - off}\n" for a in ages))
        assert call(*words, "--overwrite") == 0
        assert "3 of 3 labelled photos are here" in capsys.readouterr().out


def test_a_label_of_several_photos(run, tmp_path, capsys):
    for name in "ab":
        (tmp_path / "in" / name).mkdir(parents=True)
        small(0.5).save(tmp_path / "in" / name / "face.png")
    path = tmp_path / "labels.csv"
    path.write_text("file,age\nface.png,20\n")
    assert call("--run", run, tmp_path / "in", "--labels", path) == 2
    [line] = capsys.readouterr().err.splitlines()
    due = f"{path}: 'face.png' is the end of 2 inputs; give more of its path"
    assert line == f"predict.py: error: {due}"


@pytest.mark.parametrize("suffix", ["zip", "gz", "xz", "bz2", "zst", "tar"])
def test_a_csv_of_any_name(suffix, tmp_path):
    """It is text, whatever its name ends in."""
    path = tmp_path / f"labels.{suffix}"
    path.write_text("file,age\na.png,20\n")
    assert labels.read_labels(path, None) == {("a.png",): ("20", "")}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_in_another_form(form, run, tmp_path, capsys):
    """Accents composed or not, .JPG for .jpg: as folders and spreadsheets of one owner differ."""
    path, other = tmp_path / "labels.csv", {"NFC": "NFD", "NFD": "NFC"}[form]
    (tmp_path / "in").mkdir()
    for name in ("Zoë.JPG", "Ana.jpg"):
        small(0.5).save(tmp_path / "in" / unicodedata.normalize(form, name), "PNG")
    path.write_text(unicodedata.normalize(other, "file,age\nin/Zoë.jpg,20\nAna.JPG,30\n"))
    words = ["--run", run, "--crops", tmp_path / "in", "--labels", path, "--out", tmp_path / "out"]
    assert call(*words) == 0
    assert [row["true_age"] for row in table(tmp_path / "out")] == ["30", "20"]
    assert "2 of 2 labelled photos are here" in capsys.readouterr().out


def test_words_of_fairface(run, tmp_path, capsys):
    """More than 70 means from 70 on there; what else its table holds is said to be unused."""
    text = "file,age,gender,race,service_test\na/1.png,more than 70,Female,White,False\n"
    told = labelled(
        tmp_path, run, text + "b/3.png,10-19,Male,Black,True\n2.png,70+,,,\n", "--crops"
    )
    due = {"a/1.png": ("more than 70", "female"), "b/3.png": ("10-19", "male"), "a/2.png": ("70+",)}
    rows = {row["source"].split("/in/")[1]: row for row in told["faces"] if "true_age" in row}
    true = {name: (row["true_age"], row.get("true_gender")) for name, row in rows.items()}
    assert true == due | {"a/2.png": ("70+", None)}
    scores = {row["group"]: row for row in told["scores"]}
    assert list(scores) == ["all", "female", "male", "10-19", "more than 70", "70+"]
    assert scores["more than 70"]["mae"] == max(70 - rows["a/1.png"]["age"], 0)
    lines = capsys.readouterr().out.splitlines()
    assert f"{tmp_path / 'labels.csv'}: columns not used: race, service_test" in lines
    begin = next(i for i, line in enumerate(lines) if line.startswith("group"))
    assert {len(line) for line in lines[begin : begin + 4]} == {len(lines[begin])}


def test_the_label_of_a_video(run, tmp_path, capsys):
    """It is named, and no table of no rows follows."""
    save_video(tmp_path / "film.mp4", moving(2), "mpeg4")
    (tmp_path / "labels.csv").write_text("file,age\nfilm.mp4,42\n")
    words = ["--run", run, "--labels", tmp_path / "labels.csv"]
    assert call(tmp_path / "film.mp4", tmp_path / "face.png", *words) == 0
    shown = capsys.readouterr().out
    due = "0 of 1 labelled photos are here, with a face; not scored: 1 that are videos\n"
    assert due + predict.NOTE in shown
