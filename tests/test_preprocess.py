"""Crops and alignment against slow computations, on a real photo and with the real detector."""

import io
import json
import math
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, load, run
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import get_sampling

dlib = pytest.importorskip("dlib")
data = pytest.importorskip("skimage.data")

FOLDER = ROOT / "datasets" / "image-preprocessing-code"
CACD, MORPH2, FACES = (FOLDER / f"preprocess-{name}.py" for name in ("cacd", "morph2", "faces"))
sys.path.insert(0, str(FOLDER))
cacd, morph2, faces = load(CACD), load(MORPH2), load(FACES)
sys.path.remove(str(FOLDER))
ALL = pytest.mark.parametrize(
    "script",
    [CACD, MORPH2, pytest.param(FACES, marks=pytest.mark.slow)],
    ids=["cacd", "morph2", "faces"],
)

ASTRONAUT = Image.fromarray(data.astronaut())  # public domain (NASA); two detections
FACE = ASTRONAUT.crop((96, 0, 352, 256))  # one detection
LANDSCAPE = Image.fromarray(data.coffee())  # none
PLACE = np.array([86, 76, 175, 166])  # left, top, right, bottom of the face in FACE


DETECTOR = dlib.get_frontal_face_detector()


def at(scale, left, top, size):
    """A grey picture of ``size`` (width, height) in which FACE, enlarged, begins at (left, top)."""
    canvas = Image.new("RGB", size, (96, 96, 96))
    canvas.paste(FACE.resize((round(256 * scale),) * 2, Image.Resampling.LANCZOS), (left, top))
    return canvas


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def as_jpeg(image, quality):
    """The pixels that are left of an image after saving it."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=2)
    return pixels_of(file)


def ok(script, images, out, *options):
    result = run(script, "--images", images, "--out", out, "--workers", 2, *options)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def rejected(out):
    lines = (out / "rejected.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "file,reason"
    return dict(line.split(",", 1) for line in lines[1:])


def jpegs(out):
    return {path.name: path.read_bytes() for path in out.glob("*.jpg")}


def run_without(lacking, folder, *command):
    """run() where the package ``lacking`` is not installed; the others are linked in ``folder``."""
    packages = folder / "packages"
    packages.mkdir()
    for path in Path(np.__file__).parent.parent.iterdir():
        if not path.name.lower().startswith((lacking, "_" + lacking)) and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    return subprocess.run(
        [sys.executable, "-S", *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(packages)},
    )


# ---- CACD


@pytest.mark.parametrize(
    "face, box",
    [  # dlib's left, top, right, bottom; 15 pixels wider on every side, 5 up
        ((100, 100, 190, 190), (85, 80, 205, 200)),
        ((100, 100, 190, 191), (85, 80, 206, 201)),  # d = 1: the extra column at the right
        ((100, 100, 190, 194), (83, 80, 207, 204)),  # d = 4
        ((100, 100, 190, 193), (84, 80, 207, 203)),  # d = 3
        ((100, 100, 191, 190), (85, 81, 206, 200)),  # d = -1: one row less, at the top
        ((100, 100, 194, 190), (85, 82, 209, 198)),  # d = -4: four rows less
        ((100, 100, 193, 190), (85, 82, 208, 199)),  # d = -3
        ((10, 5, 60, 55), (-5, -15, 75, 65)),
    ],
)
def test_crop_box(face, box):
    assert cacd.crop_box(*face) == box


def expected_crop(pixels, pad=False):
    """The crop computed row by row from the detection, or None if it begins outside the image."""
    (face,) = DETECTOR(pixels, 1)
    left, right = face.left() - 15, face.right() + 15
    top, bottom = face.top() - 20, face.bottom() + 10
    d = (face.bottom() - face.top()) - (face.right() - face.left())
    while d > 0:  # right, left, right, ...
        right += 1
        d -= 1
        if d > 0:
            left -= 1
            d -= 1
    while d < 0:  # top, bottom, top, ...
        top += 1
        d += 1
        if d < 0:
            bottom -= 1
            d += 1
    height, width = pixels.shape[:2]
    if pad:
        frame = 200
        framed = np.pad(pixels, ((frame, frame), (frame, frame), (0, 0)), mode="edge")
        crop = framed[top + frame : bottom + frame, left + frame : right + frame]
    elif left < 0 or top < 0:
        return None
    else:
        crop = pixels[top : min(bottom, height), left : min(right, width)]
    return np.asarray(Image.fromarray(crop).resize((120, 120), Image.Resampling.LANCZOS))


SCENES = {  # scale, left, top of the face photo; size of the picture
    "30_Plain_Face_0001": (1, 0, 0, (256, 256)),
    "31_Higher_Than_Wide_0002": (160 / 256, 0, 0, (160, 160)),
    "32_Wider_Than_High_0003": (140 / 256, 0, 0, (140, 140)),
    "33_Square_0004": (130 / 256, 0, 0, (130, 130)),
    "34_Large_0005": (1.5, 40, 30, (500, 450)),
    "35_Small_0006": (0.5, 150, 90, (300, 250)),
    "36_Left_Border_0007": (1, -76, 0, (250, 256)),
    "37_Top_Border_0008": (1, 20, -60, (300, 256)),
    "38_Right_Border_0009": (1, 0, 0, (180, 256)),
    "39_Bottom_Border_0010": (1, 10, 40, (300, 212)),
    "40_Corner_0011": (1.5, 60, 50, (320, 300)),
    "41_All_Around_0012": (1, -76, -62, (108, 112)),
}
BEYOND_LEFT_OR_TOP = ("36", "37", "41")
CLIPPED = ("38", "39", "40")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    for name, scene in SCENES.items():
        at(*scene).save(folder / f"{name}.jpg", quality=95)
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Image.Transpose
        turned = at(1, 0, 0, (256, 300)).transpose(Image.Transpose(undo))
        turned.save(folder / f"5{orientation}_Turned_000{orientation}.jpg", exif=exif, quality=95)
    FACE.convert("L").save(folder / "60_Grey_0001.jpg", quality=95)
    FACE.convert("CMYK").save(folder / "61_Cmyk_0001.jpg", quality=95)
    FACE.save(folder / "62_Other_Format_0001.png")
    ASTRONAUT.save(folder / "45_Two_Detections_0001.jpg", quality=95)
    LANDSCAPE.save(folder / "46_No_Face_0001.jpg", quality=95)
    return folder


@pytest.fixture(scope="module")
def crops(scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp("crops") / "new" / "folder"
    return out, ok(CACD, scenes, out)


def test_scenes_are_what_their_names_say(scenes):
    """The face is found where it was put, and all signs of d and all borders occur."""
    signs = {}
    for name, (scale, left, top, size) in SCENES.items():
        (face,) = DETECTOR(pixels_of(scenes / f"{name}.jpg"), 1)
        box = np.array([face.left(), face.top(), face.right(), face.bottom()])
        assert np.abs(box - PLACE * scale - [left, top] * 2).max() < 0.1 * 90 * scale + 3
        signs[name[:2]] = np.sign((box[3] - box[1]) - (box[2] - box[0]))
        assert (name[:2] in BEYOND_LEFT_OR_TOP) == (box[0] < 15 or box[1] < 20)
        beyond = box[2] + 15 > size[0] or box[3] + 10 > size[1]
        assert beyond if name[:2] in CLIPPED else beyond == (name[:2] == "41")
    assert (signs["31"], signs["32"], signs["33"]) == (1, -1, 0)


def test_crops_to_the_pixel(scenes, crops):
    out, _ = crops
    for name in SCENES:
        expected = expected_crop(pixels_of(scenes / f"{name}.jpg"))
        if name[:2] in BEYOND_LEFT_OR_TOP:
            assert expected is None and not (out / f"{name}.jpg").exists()
            reason = "crop starts beyond the left or top border"
            assert rejected(out)[f"{name}.jpg"] == reason
        else:
            expected = as_jpeg(Image.fromarray(expected), 95)
            assert np.array_equal(pixels_of(out / f"{name}.jpg"), expected)


def test_padded_crops_to_the_pixel(scenes, tmp_path):
    ok(CACD, scenes, tmp_path / "out", "--pad")
    for name in SCENES:
        expected = expected_crop(pixels_of(scenes / f"{name}.jpg"), pad=True)
        assert np.array_equal(
            pixels_of(tmp_path / "out" / f"{name}.jpg"), as_jpeg(Image.fromarray(expected), 95)
        )
    assert len(rejected(tmp_path / "out")) == 2


def test_orientation_is_applied(scenes, crops):
    turn = {
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x),
    }
    for orientation, upright in turn.items():
        name = f"5{orientation}_Turned_000{orientation}.jpg"
        pixels = np.ascontiguousarray(upright(pixels_of(scenes / name)))
        assert pixels.shape == (300, 256, 3)
        expected = as_jpeg(Image.fromarray(expected_crop(pixels)), 95)
        assert np.array_equal(pixels_of(crops[0] / name), expected)


def test_rejects_kinds_and_counts(scenes, crops):
    out, printed = crops
    reasons = rejected(out)
    assert list(reasons) == sorted(reasons) and len(reasons) == 5
    assert reasons["45_Two_Detections_0001.jpg"] == "more than one face: 2"
    assert reasons["46_No_Face_0001.jpg"] == "no face"
    assert f"{len(list(scenes.iterdir()))} images in {scenes}" in printed
    assert "     19 written to " in printed and "      3 rejected: crop starts beyond" in printed
    assert "      1 rejected: no face" in printed
    assert len(jpegs(out)) == 19 and (out / "62_Other_Format_0001.jpg").is_file()
    for name in jpegs(out):
        with Image.open(out / name) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (120, 120))
            # First luminance step of ITU T.81 Annex K at quality 95: (16 * 10 + 50) // 100.
            assert image.quantization[0][0] == 2 and get_sampling(image) == 2  # 4:2:0


# ---- MORPH-2


def find(image):
    """Landmarks (68, 2) of the first face, with dlib's own calls."""
    (folder,) = [p for p in sys.path if (Path(p) / "face_recognition_models").is_dir()]
    model = Path(folder) / "face_recognition_models/models/shape_predictor_68_face_landmarks.dat"
    if not hasattr(find, "predictor"):
        find.predictor = dlib.shape_predictor(str(model))
    pixels = np.asarray(image)
    face = DETECTOR(pixels, 1)[0]
    shape = find.predictor(pixels, face)
    return np.array([[shape.part(i).x, shape.part(i).y] for i in range(68)], float)


def eye_centres(points):
    right = sum(points[i] for i in range(36, 42)) / 6
    left = sum(points[i] for i in range(42, 48)) / 6
    return right, left


def assert_aligned(aligned, pixels, scale, shift, every):
    """Compare with exact bilinear interpolation of (height, width) pixels by rational numbers, at
    every so-many-th pixel of the 200x240 result."""
    height, width = pixels.shape
    assert aligned.shape == (240, 200)

    def value(x, y):
        return int(pixels[y, x]) if 0 <= x < width and 0 <= y < height else 0

    scale = Fraction(float(scale))
    for place in range(0, 240 * 200, every):
        row, column = divmod(place, 200)
        x, y = (column - shift[0]) / scale, (row - shift[1]) / scale
        x0, y0 = math.floor(x), math.floor(y)
        fx, fy = x - x0, y - y0
        exact = (
            value(x0, y0) * (1 - fx) * (1 - fy)
            + value(x0 + 1, y0) * fx * (1 - fy)
            + value(x0, y0 + 1) * (1 - fx) * fy
            + value(x0 + 1, y0 + 1) * fx * fy
        )
        # A rounding error can take a value over a whole number.
        allowed = {math.floor(exact + error) for error in (Fraction(-1, 10**6), Fraction(1, 10**6))}
        assert int(aligned[row, column]) in allowed


def points_with_eyes(right, left):
    points = np.zeros((68, 2))
    points[36:42], points[42:48] = right, left
    return points


@pytest.mark.parametrize(
    "size, eyes, scale, shift",
    [  # eyes of the image; those of the target are (70, 100) and (130, 100)
        ((200, 240), ((81, 111), (121, 111)), 1.5, (-51, -66)),  # 100 - 151.5, 100 - 166.5
        ((50, 40), ((10, 10), (31, 10)), 60 / 21, (41, 71)),  # (20.5, 10) goes to 58.57, 28.57
        ((300, 260), ((110, 150), (206, 150)), 0.625, (1, 6)),  # 98.75 and 93.75
        ((70, 90), ((20, 30), (80, 110)), 0.6, (70, 58)),  # 100 apart, not level
        ((400, 300), ((190, 230), (310, 230)), 0.5, (-25, -15)),
    ],
)
def test_align_against_exact_arithmetic(size, eyes, scale, shift):
    target = points_with_eyes((70, 100), (130, 100))
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    aligned = morph2.align(Image.fromarray(noise), points_with_eyes(*eyes), target)
    assert aligned.size == (200, 240)
    aligned = np.asarray(aligned)
    for channel in range(3):
        assert_aligned(aligned[:, :, channel], noise[:, :, channel], scale, shift, every=13)


def test_align_leaves_an_aligned_image_alone():
    image = FACE.resize((200, 240))
    points = points_with_eyes((70, 100), (130, 100))
    assert np.array_equal(np.asarray(morph2.align(image, points, points)), np.asarray(image))


PORTRAITS = {
    "000001_01F31.JPG": FACE.resize((200, 240), Image.Resampling.LANCZOS),
    "000002_1F32.JPG": FACE.resize((400, 480), Image.Resampling.LANCZOS),
    "000003_01F33.jpg": FACE.crop((20, 10, 250, 240)).resize((200, 200)),  # 200 wide: counts
    "000004_01F34.jpg": at(1.2, 30, 40, (400, 400)),  # another shape: not in the mean
    "000005_01F35.jpg": ImageOps.mirror(FACE.resize((200, 240))),
    "000006_01F36.jpg": at(0.55, 20, 60, (200, 240)),
    "000007_01F37.jpg": at(0.4, 10, 10, (100, 120)),
}


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("portraits")
    for name, image in PORTRAITS.items():
        image.save(folder / name, "JPEG", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = PORTRAITS["000001_01F31.JPG"].transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "000008_01F38.jpg", quality=95, exif=exif)
    ASTRONAUT.save(folder / "000009_01F39.jpg", quality=95)  # the first of two detections
    LANDSCAPE.save(folder / "000010_01F40.jpg", quality=95)
    whole = (folder / "000001_01F31.JPG").read_bytes()
    (folder / "000011_01F41.jpg").write_bytes(whole[:-50])
    return folder


@pytest.fixture(scope="module")
def aligned(portraits, tmp_path_factory):
    out = tmp_path_factory.mktemp("aligned")
    return out, ok(MORPH2, portraits, out)


def test_mean_landmarks(portraits, aligned):
    counted = []
    for name in sorted(os.listdir(portraits)):
        number = int(name[:6])
        if number in (4, 9, 10, 11):
            continue
        with Image.open(portraits / name) as image:
            image = ImageOps.exif_transpose(image).convert("RGB")
        if image.width != 200:
            image = image.resize((200, 240), Image.Resampling.BILINEAR)
        counted.append(find(image))
    assert len(counted) == 7
    mean = sum(counted) / 7
    mean += np.array([100, 120]) - mean[33]
    written = np.array(json.loads((aligned[0] / "mean-landmarks.json").read_text()))
    assert written.shape == (68, 2) and np.abs(written - mean).max() < 1e-9
    assert np.abs(written[33] - [100, 120]).max() < 1e-9


def test_aligned_images(portraits, aligned):
    out, printed = aligned
    target = np.array(json.loads((out / "mean-landmarks.json").read_text()))
    target_right, target_left = eye_centres(target)
    for name in sorted(os.listdir(portraits))[:9]:
        with Image.open(portraits / name) as image:
            image = ImageOps.exif_transpose(image).convert("RGB")
        right, left = eye_centres(find(image))
        scale = np.hypot(*(target_left - target_right)) / np.hypot(*(left - right))
        shift = (target_right + target_left) / 2 - scale * (right + left) / 2
        shift = [int(shift[0]), int(shift[1])]

        result = out / f"{name[:-4]}.jpg"
        made = morph2.align(image, find(image), target)
        assert_aligned(np.asarray(made)[:, :, 1], np.asarray(image)[:, :, 1], scale, shift, 29)
        assert np.array_equal(pixels_of(result), as_jpeg(made, 75))
        with Image.open(result) as saved:
            assert (saved.format, saved.mode, saved.size) == ("JPEG", "RGB", (200, 240))
            # First luminance step of ITU T.81 Annex K at quality 75: (16 * 50 + 50) // 100.
            assert saved.quantization[0][0] == 8 and get_sampling(saved) == 2

        # A new search finds the eyes where they were to go, but for the truncation of the shift and
        # what the landmarks themselves vary.
        found_right, found_left = eye_centres(find(pixels_of(result)))
        off = (found_right + found_left) / 2 - (target_right + target_left) / 2
        assert np.abs(off).max() < 1.5
        wider = np.hypot(*(found_left - found_right)) - np.hypot(*(target_left - target_right))
        assert abs(wider) < 1
    assert rejected(out)["000010_01F40.jpg"] == "no face"
    assert rejected(out)["000011_01F41.jpg"].startswith("unreadable pixels: image file is trunc")
    assert sorted(jpegs(out)) == [f"{name[:-4]}.jpg" for name in sorted(os.listdir(portraits))[:9]]
    assert f"11 images in {portraits}\n        9 written to {out}\n" in printed


# ---- Photos of one's own


def assert_framed(path):
    """Eyes, nose and mouth lie where UTKFace has them, in a JPEG of its size."""
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (200, 200))
        assert image.quantization[0][0] == 2  # of quality 95, as above
        [face] = faces.detect.find_faces(np.asarray(image))
    assert np.abs(face.points / 200 - faces.detect.ALIGNED).max() < 0.07


def two(larger, smaller, right):
    """FACE enlarged twice, the second ``right`` pixels from the left, in a picture of 700x300."""
    canvas = at(larger, 0, 20, (700, 300))
    canvas.paste(at(smaller, 0, 0, (round(256 * smaller),) * 2), (right, 20))
    return canvas


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    for name in ("25/far", "30", ".hidden", "@eaDir"):
        (folder / name).mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    ASTRONAUT.save(folder / "25/a.png")
    FACE.rotate(15, expand=True).save(folder / "25/a b.avif")
    FACE.transpose(Image.Transpose.ROTATE_90).save(folder / "25/far/a.JPG", "JPEG", exif=exif)
    FACE.convert("L").save(folder / "30/grey.tif")
    two(1, 0.5, 300).save(folder / "30/large and small.png")
    two(1, 0.9, 270).save(folder / "30/two alike.png")
    LANDSCAPE.resize((300, 200)).save(folder / "30/coffee.jpg")
    shutil.copy(ROOT / "tests/grid.heic", folder / "30")
    (folder / "30/letter.jpg").write_text("Dear Sir")
    for name in ("clip.mp4", "notes.txt", ".hidden/a.jpg", "@eaDir/a.jpg"):
        (folder / name).write_text("no photo")
    return folder


def test_ones_own_photos(own, tmp_path):
    """Of all kinds, in folders, upright, by the line of datasets/README.md."""
    readme = (ROOT / "datasets/README.md").read_text()
    name = "preprocess-faces.py --images PHOTOS --out my-faces"
    assert f"\n    python datasets/image-preprocessing-code/{name}\n" in readme
    out = tmp_path / "out"
    printed = ok(FACES, own, out)
    left = f"2 other files: 1 .mp4, 1 .txt; 1 folders named @... not searched, as {own}/@eaDir"
    assert printed.splitlines() == [
        f"{own}: left out: {left}",
        f"9 images in {own}",
        f"        6 written to {out}",
        "        2 rejected: no face",
        "        1 rejected: unreadable pixels",
        "        2 of those with several faces, of which one is cut: several.csv",
    ]
    found = {path.relative_to(out).as_posix() for path in out.rglob("*.jpg")}
    alone = {"25/a.jpg", "25/a b.jpg", "25/far/a.jpg", "30/grey.jpg"}
    assert found == alone | {"30/large and small.jpg", "30/two alike.jpg"}
    for name in found:
        assert_framed(out / name)
    assert rejected(out) == {
        **{"30/coffee.jpg": "no face", "30/grid.heic": "no face"},
        "30/letter.jpg": f"unreadable pixels: {faces.media.TEXT}",
    }
    listed = (out / "several.csv").read_text().splitlines()
    assert listed == ["file,faces", "30/large and small.png,2", "30/two alike.png,2"]

    # the large face, and of two nearly as large the one in the middle, as if they were alone; for
    # the small one the first photo is searched in full size
    search = faces.detect.find_faces, faces.detect.find_fast
    photos = [("large and small", 1, 0), ("two alike", 0.9, 270)]
    for (name, scale, left), find in zip(photos, search, strict=True):
        pixels = np.asarray(at(scale, left, 20, (700, 300)))
        [face] = find(pixels)
        due = faces.detect.cut(pixels, *faces.detect.square(face.points, ""))
        off = np.abs(pixels_of(out / f"30/{name}.jpg") - np.asarray(due, float))
        assert np.median(off) < 3
    image = np.asarray(ASTRONAUT)
    [face], _ = faces.detect.find_in_photo(image)
    due = as_jpeg(faces.detect.cut(image, *faces.detect.square(face.points, "")), 95)
    assert np.array_equal(pixels_of(out / "25/a.jpg"), due)


def test_a_face_turned_to_the_side(tmp_path):
    """Its points are close together, as of one seen from the front that is squeezed: the crop is
    the wide square, not the one that only eyes, nose and mouth ask for."""
    squeezed = at(1, 0, 0, (256, 256)).resize((140, 256))
    photo = Image.new("RGB", (400, 400))
    photo.paste(squeezed, (130, 70))
    photo.save(tmp_path / "side.png")
    record = faces.preprocess(tmp_path / "side.png", "side.png", tmp_path / "side.jpg")
    assert record["faces"] == 1
    pixels = np.asarray(photo)
    [face], _ = faces.detect.find_in_photo(pixels)
    narrow, wide = faces.detect.squares(face, "faces")
    assert abs(wide[1]) > 1.1 * abs(narrow[1])
    due = as_jpeg(faces.detect.cut(pixels, *wide), 95)
    assert np.array_equal(pixels_of(tmp_path / "side.jpg"), due)


def test_heic_once_its_reader_is_there(own, tmp_path):
    """Without it such photos are left out, not rejected: the same command does them later."""
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    shutil.copy(own / "30/grid.heic", images)
    FACE.save(images / "face.png")
    result = run_without("pi_heif", tmp_path, FACES, "--images", images, "--out", out)
    assert (result.returncode, result.stderr) == (0, "")
    extras = "pip install -r requirements-extras.txt"
    left = f"{images}: left out: 1 other files: 1 .heic; for HEIC {extras}\n1 images in "
    assert result.stdout.startswith(left) and rejected(out) == {}
    assert ok(FACES, images, out).startswith("2 images in ")
    assert rejected(out) == {"grid.heic": "no face"}


def test_folders_of_ones_own_that_are_refused(own, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "empty/in it").mkdir(parents=True)
    (tmp_path / "empty/in it/clip.mp4").write_text("no photo")
    (tmp_path / "twins").mkdir()
    for name in ("a.jpg", "a.png", "b.jpg", "b.png"):
        (tmp_path / "twins" / name).write_text("not read")
    twins = "'a.jpg' and 'a.png' both give 'a.jpg'; rename or remove one of them; and so on, 2 "
    for images, where, problem in [
        (own, own / "25/new", f"--out {own / '25/new'}: lies in --images; choose another folder"),
        (own, own, "is the folder of --images; choose another folder"),
        (tmp_path / "empty", out, "no photo in it or the folders in it (left out: 1 other files"),
        (tmp_path / "none", out, f"{tmp_path / 'none'}: No such file or directory"),
        (tmp_path / "twins", out, twins),
    ]:
        assert problem in refused(FACES, "--images", images, "--out", where)
    assert not out.exists() and not (own / "25/new").exists()


# ---- Interruptions


@pytest.fixture(scope="module")
def fifty(tmp_path_factory):
    """Fifty photos of different sizes, one of them cut short."""
    folder = tmp_path_factory.mktemp("fifty")
    rng = random.Random(1)
    for i in range(50):
        size = rng.randint(130, 170)
        image = FACE.resize((size, round(1.2 * size)), Image.Resampling.LANCZOS)
        image.save(folder / f"{20 + i % 40}_A_Name_{i:04d}.jpg", quality=95)
    cut = folder / "30_A_Name_0010.jpg"
    cut.write_bytes(cut.read_bytes()[:2000])
    LANDSCAPE.save(folder / "31_A_Name_0011.jpg")
    LANDSCAPE.resize((300, 200)).save(folder / "20_A_Name_0000.jpg")
    return folder


@pytest.fixture(scope="module")
def uninterrupted(fifty, tmp_path_factory):
    outs = {}
    for script in (CACD, MORPH2, FACES):
        outs[script] = tmp_path_factory.mktemp("whole") / "out"
        ok(script, fifty, outs[script])
    return outs


@ALL
def test_one_truncated_image_among_fifty(script, fifty, uninterrupted):
    out = uninterrupted[script]
    no_face = {name: r for name, r in rejected(out).items() if r == "no face"}
    assert list(no_face) == ["20_A_Name_0000.jpg", "31_A_Name_0011.jpg"]
    (cut,) = rejected(out).keys() - no_face.keys()
    assert cut == "30_A_Name_0010.jpg"
    assert rejected(out)[cut].startswith("unreadable pixels: image file is truncated")
    assert sorted(jpegs(out)) == sorted(set(os.listdir(fifty)) - rejected(out).keys())
    assert len(jpegs(out)) == 47


def interrupt(script, images, out, ready, how):
    """Start the script, end it when ``ready()``; its workers must be gone soon after."""
    command = [sys.executable, script, "--images", images, "--out", out, "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not ready():
        assert process.poll() is None, "ended before it could be interrupted"
        time.sleep(0.002)
    if how is signal.SIGINT:  # a terminal sends it to the workers too
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    message = process.communicate(timeout=60)[1]  # ends when no worker holds the pipe any more
    with pytest.raises(ProcessLookupError):
        for _ in range(1000):
            os.killpg(process.pid, 0)
            time.sleep(0.02)
    return process.returncode, message


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


MOMENTS = [
    (CACD, signal.SIGKILL, "some lines"),
    (CACD, signal.SIGINT, "workers start"),
    (CACD, signal.SIGINT, "some images"),
    (MORPH2, signal.SIGKILL, "some lines"),
    (MORPH2, signal.SIGTERM, "some images"),
    (FACES, signal.SIGKILL, "some images"),
    *(
        pytest.param(script, how, moment, marks=pytest.mark.slow)
        for script in (CACD, MORPH2, FACES)
        for how in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
        for moment in ("first line", "workers start", "some lines", "some images", "most images")
    ),
]


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
@pytest.mark.parametrize("script, how, moment", MOMENTS)
def test_interrupted_run_goes_on(script, how, moment, fifty, uninterrupted, tmp_path):
    out, journal = tmp_path / "out", tmp_path / "out" / "progress.jsonl"
    ready = {
        "first line": lambda: lines(journal) >= 1,
        "workers start": lambda: lines(journal) >= 1 and time.sleep(0.2) is None,
        "some lines": lambda: lines(journal) >= (20 if script == MORPH2 else 2),
        "some images": lambda: len(list(out.glob("*.jpg"))) >= 10,
        "most images": lambda: len(list(out.glob("*.jpg"))) >= 35,
    }[moment]
    code, message = interrupt(script, fifty, out, ready, how)
    if how is signal.SIGINT:
        assert code == 130
        assert message == f"{script.name}: interrupted; the same command goes on\n"
    else:
        assert code == -how
    done = {path: path.stat() for path in out.glob("*.jpg")}
    assert len(done) < 47
    known = [line for line in journal.read_bytes().splitlines(True) if line.endswith(b"\n")]
    recorded = {json.loads(line).get("file") for line in known}
    with open(journal, "ab") as file:
        file.write(b'{"file": "20_A_Na')  # a line that a kill cut short

    ok(script, fifty, out)
    assert jpegs(out) == jpegs(uninterrupted[script])
    assert rejected(out) == rejected(uninterrupted[script])
    for path, before in done.items():  # not written again
        if path.name not in recorded:  # a kill came between the two
            continue
        assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    after = journal.read_bytes().splitlines(True)
    assert after[: len(known)] == known
    whole = (uninterrupted[script] / "progress.jsonl").read_bytes()
    assert sorted(after) == sorted(whole.splitlines(True))
    assert {path.suffix for path in out.iterdir()} <= {".jpg", ".jsonl", ".json", ".csv"}


@ALL
def test_second_run_does_only_what_is_missing(script, fifty, uninterrupted, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for path in uninterrupted[script].iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    (out / "25_A_Name_0005.jpg").unlink()
    (out / "rejected.csv").unlink()
    untouched = {path: path.stat().st_mtime_ns for path in out.glob("*.jpg")}
    journal = (out / "progress.jsonl").read_bytes()
    ok(script, fifty, out)
    assert jpegs(out) == jpegs(uninterrupted[script])
    assert rejected(out) == rejected(uninterrupted[script])
    assert all(path.stat().st_mtime_ns == time for path, time in untouched.items())
    assert (out / "progress.jsonl").read_bytes() == journal


def test_a_dead_worker_ends_the_run_with_one_line(fifty, uninterrupted, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, CACD, "--images", fifty, "--out", out, "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("needs /proc to find a worker")
    while len(list(out.glob("*.jpg"))) < 5:
        time.sleep(0.002)
    os.kill(int(children.read_text().split()[-1]), signal.SIGKILL)  # as a full memory would
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 2 and message.count("\n") == 1
    assert message.startswith(
        "preprocess-cacd.py: error: a process died (out of memory?) at one of"
    )
    assert "_A_Name_" in message
    ok(CACD, fifty, out)
    assert jpegs(out) == jpegs(uninterrupted[CACD])


def test_full_disk_rejects_no_image(fifty, uninterrupted, tmp_path):
    resource = pytest.importorskip("resource")
    out = tmp_path / "out"
    command = [sys.executable, CACD, "--images", fifty, "--out", out, "--workers", "2"]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert result.returncode == 2
    assert result.stderr.startswith("preprocess-cacd.py: error: ")
    assert result.stderr.endswith(".jpg: File too large\n") and result.stderr.count("\n") == 1
    assert not jpegs(out)
    ok(CACD, fifty, out)
    assert jpegs(out) == jpegs(uninterrupted[CACD])
    assert rejected(out) == rejected(uninterrupted[CACD])


def test_full_disk_at_the_progress_file(fifty, uninterrupted, tmp_path):
    resource = pytest.importorskip("resource")
    out = tmp_path / "out"
    result = subprocess.run(
        [sys.executable, MORPH2, "--images", fifty, "--out", out, "--workers", "2"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
    )
    assert (result.returncode, result.stderr) == (
        2,
        f"preprocess-morph2.py: error: {out}: File too large\n",
    )
    ok(MORPH2, fifty, out)
    assert jpegs(out) == jpegs(uninterrupted[MORPH2])


def test_kinds_of_photos(tmp_path):
    """Read by their content, or counted by kind; so are links that lead nowhere."""
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    FACE.save(images / "20_A_B_0001.jfif", "JPEG")
    FACE.save(images / "21_A_B_0001.webp")
    (images / "folder.jpg").mkdir()
    for name in ("22_A_B_0001.heic", "23_A_B_0001.HEIC", "24_A_B_0001.avif"):
        (images / name).write_bytes(b"\0\0\0\x18ftypheic")
    (images / "25_A_B_0001.jpg").symlink_to(tmp_path / "unplugged")
    left = "left out: 3 other files: 2 .heic, 1 .avif; 1 links that lead nowhere"
    printed = ok(CACD, images, out)
    assert printed.startswith(f"{images}: {left}\n2 images in {images}\n        2 written to")
    assert sorted(path.name for path in out.glob("*.jpg")) == ["20_A_B_0001.jpg", "21_A_B_0001.jpg"]
    for path in images.glob("2[01]*"):
        path.unlink()
    result = run(CACD, "--images", images, "--out", tmp_path / "other")
    due = f"no .jpg, .jpeg, .jfif, .png, .webp file in it (subfolders are not searched; {left})\n"
    assert (result.returncode, result.stderr) == (
        2,
        f"preprocess-cacd.py: error: --images {images}: {due}",
    )


def test_odd_names_on_an_ascii_terminal(tmp_path):
    images = tmp_path / os.fsdecode("Köpfe ".encode() + b"\xe4")
    images.mkdir()
    FACE.save(images / os.fsdecode("20_Zoë_".encode() + b"\xe4.jpg"))
    LANDSCAPE.save(images / os.fsdecode("21_Zoë_".encode() + b"\xe4.jpg"))
    result = run(CACD, "--images", images, "--out", tmp_path / "out", PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (0, "")
    assert "2 images in " in result.stdout and "K\\xf6pfe \\udce4" in result.stdout
    assert [os.fsencode(path.name) for path in (tmp_path / "out").glob("*.jpg")] == [
        "20_Zoë_".encode() + b"\xe4.jpg"
    ]
    listed = (tmp_path / "out" / "rejected.csv").read_text(encoding="utf-8")
    assert listed == "file,reason\n21_Zoë_\\udce4.jpg,no face\n"


WORK = [(cacd.preprocess, Path("none"), False), (morph2.find_landmarks,)]
WORK.append((faces.preprocess, "20_A_Name_0001.jpg", Path("none")))


@pytest.mark.parametrize("work", WORK)
def test_failing_disk_rejects_no_image(work, tmp_path):
    with pytest.raises(FileNotFoundError):
        work[0](tmp_path / "listed but gone.jpg", *work[1:])


# ---- Bad input


def refused(script, *options, **env):
    result = run(script, *options, **env)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"{script.name}: error: ")
    return result.stderr


def test_bad_folders(uninterrupted, fifty, tmp_path):
    empty, mixed = tmp_path / "empty", tmp_path / "mixed"
    (empty / "sub").mkdir(parents=True)
    FACE.save(empty / "sub" / "1_A_1.jpg")
    mixed.mkdir()
    FACE.save(mixed / "1_A_1.jpg")
    FACE.save(mixed / "1_A_1.JPG", "JPEG")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "20_A_Name_0000.jpg").write_text("mine")
    out = tmp_path / "out"
    for options, problem in [
        (("--images", empty, "--out", out), "no .jpg, .jpeg, .jfif, .png, .webp file in"),
        (("--images", tmp_path / "none", "--out", out), "No such file or directory"),
        (("--images", mixed, "--out", out), "'1_A_1.JPG' and '1_A_1.jpg' both give '1_A_1.jpg'"),
        (("--images", fifty, "--out", foreign), "holds files not of this script; choose"),
        (("--images", fifty, "--out", fifty), "is the folder of --images; choose another folder"),
        (("--images", fifty, "--out", foreign / "20_A_Name_0000.jpg" / "x"), "Not a directory"),
        (("--images", fifty, "--out", out, "--workers", 0), "--workers 0: must be at least 1"),
        (("--images", fifty, "--out", uninterrupted[MORPH2]), "holds results of"),
        (("--images", fifty, "--out", uninterrupted[CACD], "--pad"), "'pad': False}, not of {"),
    ]:
        assert problem in refused(CACD, *options)
    assert not out.exists()
    assert (foreign / "20_A_Name_0000.jpg").read_text() == "mine"
    out.mkdir()
    for text in ('["not", "ours"]\n{"a": 1}\n', "a diary", ""):
        (out / "progress.jsonl").write_text(text)
        assert "progress.jsonl: not written by" in refused(CACD, "--images", fifty, "--out", out)
        assert (out / "progress.jsonl").read_text() == text


@ALL
def test_photos_that_changed(script, portraits, tmp_path):
    """Results are those of the photos that are there: of one that is gone or another one now they
    are refused, and a rejected one is tried again."""
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    good, bad = "000001_01F31.JPG", "000006_01F36.jpg"
    (images / good).write_bytes((portraits / good).read_bytes())
    (images / bad).write_bytes(b"\0no image")
    ok(script, images, out)
    assert rejected(out) == {bad: "unreadable pixels: not an image"}
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    (images / good).rename(tmp_path / good)
    message = refused(script, "--images", images, "--out", out)
    assert "holds 1 results of photos that are not in " in message
    assert "'000001_01F31.jpg', ...; delete them, or choose another folder" in message
    (images / good).write_bytes((portraits / "000005_01F35.jpg").read_bytes())
    message = refused(script, "--images", images, "--out", out)
    assert f"holds the result of another {good!r} than that in {images}; choose" in message
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    shutil.copy(tmp_path / good, images / good)
    LANDSCAPE.save(images / bad)
    ok(script, images, out)
    assert rejected(out) == {bad: "no face"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_two_runs_in_one_folder(fifty, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    held = cacd.batch.lock(out)
    message = refused(CACD, "--images", fifty, "--out", out)
    assert message.endswith(f"error: {out}: another process is at work there\n")
    assert list(out.iterdir()) == []
    os.close(held)
    ok(CACD, fifty, out)


def test_damaged_progress(fifty, uninterrupted, tmp_path):
    """An empty line is nothing, a damaged one before the last would cost all after it."""
    shutil.copytree(uninterrupted[CACD], tmp_path / "out")
    journal = tmp_path / "out" / "progress.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole.replace(b"\n", b"\n\n", 2))
    ok(CACD, fifty, tmp_path / "out")
    assert journal.read_bytes() == whole
    damaged = whole.replace(b"{", b"", 2)
    journal.write_bytes(damaged)
    message = refused(CACD, "--images", fifty, "--out", tmp_path / "out")
    assert f"{journal}: not written by this script" in message
    damaged = whole.split(b"\n", 2)[0] + b"\n" + whole.split(b"\n", 1)[1].replace(b"{", b"", 1)
    journal.write_bytes(damaged)
    message = refused(CACD, "--images", fifty, "--out", tmp_path / "out")
    assert f"{journal}: line 2 is damaged; choose another --out" in message
    assert journal.read_bytes() == damaged


def test_morph2_does_not_mix_two_alignments(portraits, tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for name in ("000001_01F31.JPG", "000006_01F36.jpg"):
        (images / name).write_bytes((portraits / name).read_bytes())
    ok(MORPH2, images, out)
    before = jpegs(out)
    (images / "new.jpg").write_bytes((portraits / "000005_01F35.jpg").read_bytes())
    message = refused(MORPH2, "--images", images, "--out", out)
    assert "aligned to the mean of others" in message
    assert jpegs(out) == before
    (images / "new.jpg").unlink()
    (out / "mean-landmarks.json").write_bytes(b"\xff\x00[")  # damaged
    assert "aligned to the mean of others" in refused(MORPH2, "--images", images, "--out", out)
    assert (out / "mean-landmarks.json").read_bytes() == b"\xff\x00["


def test_morph2_without_any_face(tmp_path):
    (tmp_path / "in").mkdir()
    LANDSCAPE.save(tmp_path / "in" / "000010_01F40.jpg")
    message = refused(MORPH2, "--images", tmp_path / "in", "--out", tmp_path / "out")
    assert "no face found" in message
    assert rejected(tmp_path / "out") == {"000010_01F40.jpg": "no face"}
    FACE.convert("RGB").resize((300, 300)).save(tmp_path / "in" / "000011_01F40.jpg")
    message = refused(MORPH2, "--images", tmp_path / "in", "--out", tmp_path / "out")
    assert "none of the 1 images with a face has the shape 200x240, which" in message


@pytest.mark.parametrize(
    "script, lacking, package",
    [
        (CACD, "dlib", "dlib-bin"),
        (MORPH2, "dlib", "dlib-bin"),
        (MORPH2, "face_recognition_models", "face-recognition-models"),
        (FACES, "onnxruntime", "onnxruntime"),
    ],
)
def test_missing_extras(script, lacking, package, fifty, tmp_path):
    result = run_without(lacking, tmp_path, script, "--images", fifty, "--out", tmp_path / "out")
    remedy = "pip install -r requirements-extras.txt"
    assert result.stderr == f"{script.name}: error: {package} is not installed: {remedy}\n"
    assert result.returncode == 2 and not (tmp_path / "out").exists()


# ---- Tags and pixels that other programs write


def exif_with(tag):
    """EXIF data with orientation 6 and one more entry (tag, type, count, 4 bytes), in which an
    offset of 38 leads to the 8 bytes after the entries: -1 / 0."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHI4s", *tag)
    return b"Exif\0\0II*\0\x08\0\0\0\x02\0" + entries + b"\0\0\0\0" + struct.pack("<ii", -1, 0)


@pytest.mark.parametrize(
    "exif, turned",
    [
        (exif_with((0x011A, 2, 3, b"72\0\0")), True),  # the resolution as text
        (exif_with((0x011A, 10, 1, struct.pack("<I", 38))), True),  # and as -1/0
        (exif_with((0x0132, 2, 20, struct.pack("<I", 9999))), True),  # a date beyond the data
        (b"Exif\0\0neither II nor MM", False),
    ],
    ids=["text", "no number", "cut short", "no EXIF"],
)
def test_odd_tags_do_not_matter(exif, turned, tmp_path):
    pixels = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        image.save(tmp_path / "b.png", exif=exif)
        image.save(tmp_path / "c.jpg", exif=exif)
    expected = np.rot90(pixels, -1) if turned else pixels
    assert np.array_equal(np.asarray(cacd.batch.read_image(tmp_path / "b.png")), expected)
    size = cacd.batch.read_image(tmp_path / "c.jpg").size
    assert size == ((20, 30) if turned else (30, 20))


@pytest.mark.parametrize("work", WORK)
def test_floats_and_long_integers_are_rejected(work, tmp_path):
    ramp = np.arange(400).reshape(20, 20) * 160
    file = tmp_path / "20_A_Name_0001.jpg"
    kinds = {"integers of 32 bits": np.int32, "floating-point numbers": np.float32}
    for kind, dtype in kinds.items():
        Image.fromarray(ramp.astype(dtype)).save(file, "TIFF")
        reason = f"its pixels are {kind} of unknown range; convert it to 8 bits"
        found = work[0](file, *work[1:])
        due = {"file": file.name, "size": file.stat().st_size}
        assert found == due | {"rejected": f"unreadable pixels: {reason}"}


def test_grey_of_16_bits(tmp_path):
    ramp = (np.arange(600).reshape(20, 30) * 100).astype(np.uint16)
    expected = np.repeat((ramp // 256).astype(np.uint8)[:, :, None], 3, axis=2)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(ramp).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(ramp).save(tmp_path / "b.tif", tiffinfo={0x0112: 6})
    upright = np.rot90(expected, -1)
    (tmp_path / "c.pgm").write_bytes(b"P5\n30 20\n65535\n" + ramp.astype(">u2").tobytes())
    for name, pixels in [("a.png", upright), ("b.tif", upright), ("c.pgm", expected)]:
        assert np.array_equal(np.asarray(cacd.batch.read_image(tmp_path / name)), pixels)
