"""Draw cartoon faces in the folders, file names and CSV formats of AFAD, CACD, MORPH-2 and UTKFace,
and, as "faces", in folders named by age, from 0 to 100.

    python draw-faces.py --overwrite                                     the set beside this script
    python draw-faces.py --datasets afad --count 20000 --out ~/drawn     a large one

The faces are drawn, nobody's: an error measured on them says nothing about people. They are there
so that every script runs out of the box and has something to learn. Age shows in many cues
(proportions, lines, skin, eyes, hairline, grey), gender in others (jaw, brows, lips, hair, beard).
Each cue is off by some years of its own, so that only all of them together tell the age. They run
over the data set's own range: the oldest of every set look old. Skin tone, pose, light,
background, clothes, blur and noise depend on neither age nor gender, and the race in file names
and CSVs is drawn by lot and shows nowhere.

OUT/<dataset>/ receives train.csv, test.csv, images/ and drawn-with.json, which says what draws the
same set again: one seed gives the same bytes on one version of Pillow and NumPy and one kind of
machine. A larger set of that seed begins with the pictures of a smaller one.
"""

import argparse
import csv
import json
import os
import platform
import signal
import sys
import tempfile
from datetime import datetime, timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

# Youngest age, classes, image width and height, place of the nose tip, length of a unit (1.25 eye
# distances), standard deviations of shift (pixels) and scale, training images in the sample.
# MORPH-2 is preprocessed to have the nose tip near (100, 120) and the eyes about as far apart.
DATASETS = {
    "afad": (15, 26, 100, 110, (50, 63), 40, 3.5, 0.08, 480),
    "cacd": (14, 49, 120, 120, (60, 68), 44, 4.0, 0.08, 160),
    "morph2": (16, 55, 200, 240, (100, 120), 60, 5.0, 0.05, 160),
    "utk": (21, 40, 200, 200, (100, 114), 72, 7.0, 0.08, 160),
    "faces": (0, 101, 200, 200, (100, 114), 72, 7.0, 0.08, 40),
}
CUE_NOISE = 0.18  # standard deviation of the age that a single cue shows, in ranges of the data set
MAX_COUNT = 400_000  # AFAD's and MORPH-2's numbers have six digits
QUALITY = 75  # of the JPEG files
COLUMNS = {
    "afad": "file,path,age,gender",
    "cacd": ",file,age",
    "morph2": ",id_num,picture_num,race,Male,facial_hair,age,glasses,quality",
    "utk": ",file,age",
    "faces": "file,age,gender",
}

SKINS = [(255, 224, 196), (241, 194, 155), (208, 152, 104), (141, 85, 54), (96, 60, 42)]
HAIRS = [(25, 20, 20), (60, 40, 28), (105, 68, 40), (200, 160, 95), (150, 70, 35)]
IRISES = [(70, 45, 25), (95, 65, 30), (60, 110, 70), (70, 120, 170)]
GREY = (205, 205, 208)
MEN = ["Abel", "Boris", "Cyril", "Dario", "Edgar", "Felix", "Gustav", "Hugo"]
WOMEN = ["Alma", "Bella", "Clara", "Dora", "Elsa", "Flora", "Greta", "Hilda"]
SURNAMES = ["Applewhite", "Brindle", "Copperfold", "Duskwater", "Elmhurst", "Fennimore", "Gladwyn"]

t = np.linspace(0, 1, 12)
BEZIER = np.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], 1)  # weights of the control points
TAPER = np.sin(np.linspace(0.15, np.pi - 0.15, 12))[:, None]  # half the width of a stroke
NEXT, PREVIOUS = np.minimum(np.arange(12) + 1, 11), np.maximum(np.arange(12) - 1, 0)
t = np.linspace(0, 2 * np.pi, 16, endpoint=False)
CIRCLE = np.stack([np.cos(t), np.sin(t)], 1)


def mix(a, b, share):
    """Colour ``a`` with ``share`` (0 to 1) of colour ``b``."""
    return tuple(int(p + (q - p) * share) for p, q in zip(a, b, strict=True))


def looks(years, male, rng):
    """All that is drawn of one person of age ``years`` (0 the youngest of the set, 1 the oldest).

    Lengths are in units (1.25 eye distances) from the nose tip; lines and the like from 0 to 1.
    """

    def shown(start, end):
        """0 up to the age ``start``, 1 from ``end`` on; the age is the one that this cue shows."""
        return min(max((years + rng.normal(0, CUE_NOISE) - start) / (end - start), 0.0), 1.0)

    def by_gender(man, woman, spread):
        return (man if male else woman) + rng.normal(0, spread)

    face = SimpleNamespace()
    # Age, proportions: the young have big low eyes, a short nose, full lips, a round small face.
    face.eye = 0.25 - 0.10 * shown(-0.2, 1)
    face.eyes_up = 0.43 + 0.10 * shown(-0.2, 0.9) + rng.normal(0, 0.04)
    face.nose = 0.13 + 0.10 * shown(-0.1, 1.1) + by_gender(0.02, 0, 0.01)
    face.lips = 0.115 - 0.07 * shown(-0.1, 1.1) + by_gender(-0.015, 0.015, 0.008)
    face.ear = 0.20 + 0.11 * shown(-0.1, 1.1)
    face.chin = 0.91 + 0.07 * shown(-0.2, 0.6) + by_gender(0.05, 0, 0.05)
    face.width = 0.82 - 0.04 * shown(-0.2, 0.5) + by_gender(0.02, 0, 0.04)
    face.jowl = 0.09 * shown(0.3, 1.1)
    # Age, lines and skin: pimples and blush go, lines and brown spots come.
    face.folds = shown(-0.1, 1)
    face.forehead = shown(0, 1)
    face.crows_feet = shown(0.1, 1)
    face.bags = shown(-0.1, 1)
    face.lids = shown(0, 1.1)
    face.frown = shown(0.2, 1.1)
    face.mouth_lines = shown(0.3, 1.1)
    face.neck_lines = shown(0.1, 1.1)
    face.pimples = 1 - shown(-0.1, 0.5)
    face.blush = 1 - shown(-0.1, 0.8)
    face.spots = shown(0.1, 1.1)
    # Age, hair: grey comes, the hairline goes back, and boys have no beard.
    face.grey = shown(0.1, 1)
    face.beard_grey = shown(0.1, 0.9)
    face.recession = shown(0, 1) * (1 if male else 0.3)
    face.beard = male * rng.choice([0, 0.35, 0.7, 1]) * shown(-0.1, 0.2)
    # Gender.
    face.jaw = by_gender(3.1, 2.0, 0.25)
    face.neck = by_gender(0.52, 0.38, 0.03)
    face.shoulder = by_gender(1.35, 1.15, 0.05)
    face.brow = by_gender(0.11, 0.05, 0.015)
    face.brow_arch = by_gender(0.04, 0.18, 0.04)
    face.lashes = by_gender(0.03, 0.07, 0.01)
    face.lip_red = by_gender(0.2, 0.65, 0.12)
    face.sweep = by_gender(0.05, 0.28, 0.05)
    face.volume = by_gender(0.17, 0.24, 0.02)
    face.hair_down = by_gender(-0.15, 1.05, 0.30)
    # Neither.
    face.hairline = rng.normal(0.88, 0.08)
    face.parting = rng.uniform(-0.5, 0.5)
    face.mouth = rng.normal(0.27, 0.02)
    face.smile = rng.normal(0.03, 0.03)
    face.gaze = rng.normal(0, 0.02)
    face.iris = IRISES[rng.integers(len(IRISES))]
    tone = rng.uniform(0, len(SKINS) - 1)
    skin = mix(SKINS[int(tone)], SKINS[int(tone) + 1], tone % 1)
    face.skin = tuple(np.clip(skin + rng.normal(0, 4, 3), 30, 255).astype(int).tolist())
    face.dark = mix(face.skin, (35, 10, 10), 0.68)
    face.light = mix(face.skin, (255, 245, 235), 0.45)
    hair = HAIRS[rng.integers(len(HAIRS))]
    face.hair = mix(hair, GREY, 0.2 * face.grey)
    face.hair_dark = mix(face.hair, (0, 0, 0), 0.35)
    face.brows = mix(mix(hair, (0, 0, 0), 0.25), GREY, 0.6 * face.grey)
    face.beard_hair = mix(hair, GREY, 0.7 * face.beard_grey)
    face.cloth = tuple(rng.integers(10, 246, 3).tolist())
    face.collar = rng.uniform(1.4, 1.65)
    return face


def curve(start, middle, end):
    """Twelve points on the Bezier curve of three control points, (12, 2)."""
    return BEZIER @ np.array([start, middle, end])


def oval(x, y, width, height):
    """Points on the ellipse with these half axes, (16, 2)."""
    return CIRCLE * (width, height) + (x, y)


def stroke(points, thickness):
    """Outline of a brush stroke along a curve, thick in the middle and thin at its ends."""
    along = points[NEXT] - points[PREVIOUS]
    across = along[:, ::-1] * (-1, 1) / np.hypot(along[:, :1], along[:, 1:])
    half = across * (thickness / 2 * TAPER)
    return np.concatenate([points + half, (points - half)[::-1]])


def face_outline(face):
    """Forehead (16 points), right and left side of the lower face (16 each), (48, 2)."""
    angle = np.linspace(np.pi, 2 * np.pi, 16)
    forehead = np.stack([face.width * np.cos(angle), -0.35 + np.sin(angle)], 1)
    v = np.linspace(0, 1, 16)
    half = face.width * (1 - v**face.jaw) ** 0.53
    half += face.jowl * np.exp(-(((v - 0.72) / 0.16) ** 2)) * (v < 1)
    side = np.stack([half, -0.35 + (face.chin + 0.35) * v], 1)
    return np.concatenate([forehead, side, side[::-1] * (-1, 1)])


def draw_body(fill, line, face):
    """Hair behind the head, neck, clothes and ears."""
    out, down = face.width + 0.10, max(face.hair_down, -0.25)
    left = curve((-out, -0.5), (-out - 0.12, 0.2 * down), (-out - 0.06, down))
    ends = curve((-0.4, down + 0.12), (0, down + 0.16), (0.4, down + 0.12))
    fill(np.concatenate([left, ends, left[::-1] * (-1, 1)]), face.hair_dark)
    n, s = face.neck, face.shoulder
    fill([(-n, 0.3), (n, 0.3), (n, 2.2), (-n, 2.2)], mix(face.skin, face.dark, 0.25))
    for y in (1.12, 1.22):
        line(curve((-n, y), (0, y + 0.12), (n, y)), 0.04, face.neck_lines)
    right = [(n, 1.15), (s, 1.4), (s + 0.2, 3)]
    left = [(-x, y) for x, y in right[::-1]]
    fill([*right, *left, (0, face.collar)], face.cloth)
    for side in (-1, 1):
        x = side * (face.width + 0.02)
        fill(oval(x, -0.22, 0.6 * face.ear, face.ear), mix(face.skin, face.dark, 0.15))
        fill(oval(x, -0.22, 0.3 * face.ear, 0.6 * face.ear), mix(face.skin, face.dark, 0.4))


def draw_skin(fill, line, face, rng):
    """The face with its blush, pimples, spots and lines."""
    outline = face_outline(face)
    for shrink, shade in (((1, 1), 0.30), ((0.95, 0.97), 0.12), ((0.88, 0.94), 0)):
        fill(outline * shrink, mix(face.skin, face.dark, shade))
    for side in (-1, 1):
        for size in (1, 0.75, 0.5):
            cheek = oval(side * 0.52, 0.12, 0.24 * size, 0.18 * size)
            fill(cheek, mix(face.skin, (235, 90, 80), 0.5), 0.15 * face.blush)
    red, brown = mix(face.skin, (200, 40, 40), 0.6), mix(face.skin, (80, 40, 15), 0.6)
    for count, colour, size in ((14 * face.pimples, red, 0.022), (26 * face.spots, brown, 0.032)):
        for _ in range(int(count)):
            angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 1)
            x = 0.85 * face.width * radius * np.cos(angle)
            y = 0.95 * radius * np.sin(angle) - 0.15
            size_here = size * rng.uniform(0.6, 1.3)
            fill(oval(x, y, size_here, size_here), colour, 0.65)

    eyes = -face.eyes_up
    for i in range(3):
        y = eyes - 0.36 - 0.13 * i
        depth = min(max((face.forehead - 0.2 * i) / 0.6, 0), 1)  # the lowest line comes first
        line(curve((-0.42, y), (0, y - 0.06), (0.42, y)), 0.05, depth)
    for side in (-1, 1):
        for i in (-1, 0, 1):
            foot = [(0.64, eyes + 0.04 * i), (0.7, eyes + 0.07 * i), (0.78, eyes + 0.13 * i)]
            line(curve(*foot) * (side, 1), 0.035, face.crows_feet)
        fold = [(0.20, -0.02), (0.36, 0.12), (0.36 + 0.04 * face.folds, 0.14 + 0.32 * face.folds)]
        line(curve(*fold) * (side, 1), 0.055, face.folds)
        line(curve((0.34, 0.46), (0.39, 0.56), (0.37, 0.72)) * (side, 1), 0.045, face.mouth_lines)
        frown = [(0.07, eyes - 0.16), (0.05, eyes - 0.06), (0.06, eyes + 0.02)]
        line(curve(*frown) * (side, 1), 0.04, face.frown)
        bag = [(0.24, eyes + 0.17), (0.41, eyes + 0.17 + 0.16 * face.bags), (0.58, eyes + 0.15)]
        fill(curve(*bag) * (side, 1), face.dark, 0.15 * face.bags)
        line(curve(*bag) * (side, 1), 0.04, face.bags)


def draw_features(fill, face):
    """Beard, mouth, nose, eyes and brows."""
    if face.beard > 0:
        opacity = min(0.25 + 0.65 * face.beard, 4 * face.beard)
        jaw = face_outline(face)[16:]
        jaw = 0.99 * jaw[jaw[:, 1] > -0.05]
        inside = curve((-0.8 * face.width, -0.05), (0, 1.25), (0.8 * face.width, -0.05))
        fill(np.concatenate([jaw, inside]), face.beard_hair, opacity)
        fill(curve((-0.34, 0.36), (0, 0.06), (0.34, 0.36)), face.beard_hair, opacity)

    lips = mix(mix(face.skin, face.dark, 0.25), (190, 40, 60), face.lip_red)
    left, right = (-face.mouth, 0.38 - face.smile), (face.mouth, 0.38 - face.smile)
    upper = curve(left, (0, 0.38 + face.smile - 2 * face.lips), right)
    lower = curve(right, (0, 0.38 + face.smile + 2.6 * face.lips), left)
    fill(np.concatenate([upper, lower]), lips)
    fill(stroke(curve(left, (0, 0.38 + face.smile), right), 0.04), mix(lips, (20, 0, 0), 0.6))

    eyes, n = -face.eyes_up, face.nose
    ridge = curve((0.02, eyes + 0.1), (0.06, -0.2), (1.2 * n, 0.02))
    fill([*ridge, (0.3 * n, 0.06)], face.dark, 0.3)
    fill(stroke(curve((-1.2 * n, 0), (0, 0.16), (1.2 * n, 0)), 0.05), face.dark, 0.8)
    for side in (-1, 1):
        fill(oval(side * 0.55 * n, 0.045, 0.3 * n, 0.03), mix(face.dark, (0, 0, 0), 0.3), 0.8)

    e = face.eye
    for side in (-1, 1):
        x = side * 0.40
        upper = curve(
            (x - 0.9 * e, eyes + 0.02),
            (x, eyes - (1.25 - 0.44 * face.lids) * e),
            (x + 0.9 * e, eyes + 0.02),
        )
        lower = curve((x + 0.9 * e, eyes + 0.02), (x, eyes + 0.95 * e), (x - 0.9 * e, eyes + 0.02))
        fill(np.concatenate([upper, lower]), (245, 243, 238))
        x += face.gaze
        fill(oval(x, eyes, 0.42 * e, 0.45 * e), face.iris)
        fill(oval(x, eyes, 0.20 * e, 0.22 * e), (10, 8, 8))
        fill(oval(x - 0.15 * e, eyes - 0.15 * e, 0.09 * e, 0.09 * e), (255, 255, 255))
        x -= face.gaze
        lid = curve((x - e, eyes - 0.05), (x, eyes - 1.9 * e), (x + e, eyes - 0.05))
        fill(np.concatenate([lid, upper[::-1]]), mix(face.skin, face.dark, 0.12 + 0.3 * face.lids))
        fill(stroke(upper, face.lashes), (25, 15, 12))
        y = eyes - 0.22 - 0.25 * e
        brow = curve((0.18, y + 0.02), (0.45, y - face.brow_arch), (0.66, y + 0.05))
        fill(stroke(brow * (side, 1), face.brow), face.brows)


def draw_hair(fill, face, rng):
    """The hair on the head, from the hairline to the outer edge, and strands in it."""
    s = np.linspace(-1, 1, 25)
    angle = s * np.radians(98)
    top = 1.0 + face.volume * (1 - 0.5 * face.recession)
    edge = np.stack([(face.width + 0.09) * np.sin(angle), -0.35 - top * np.cos(angle)], 1)
    temples = 0.30 * face.recession * np.exp(-(((np.abs(s) - 0.36) / 0.14) ** 2))
    rise = face.hairline - face.sweep * np.abs(s - face.parting) ** 0.7
    rise += 0.15 * face.recession + temples
    x = face.width * np.sin(angle) * (0.97 - 0.12 * np.cos(angle))
    y = np.maximum(-0.30 - rise * np.cos(0.88 * angle) ** 0.8, edge[:, 1] + 0.02)
    hairline = np.stack([x, y], 1)
    fill(np.concatenate([edge, hairline[::-1]]), face.hair)
    for _ in range(26):
        i, share = int(rng.integers(1, 23)), rng.random()
        root = hairline[i] + share * (hairline[i + 1] - hairline[i])
        tip = edge[i] + share * (edge[i + 1] - edge[i])
        middle = (root + tip) / 2 + (0.06 * (face.parting - s[i]), 0)
        tint, opacity = (GREY, 0.8) if rng.random() < face.grey else (face.hair_dark, 0.45)
        fill([root, middle - (0.02, 0), tip, middle + (0.02, 0)], tint, opacity)


def draw_picture(dataset, age, male, rng):
    """An RGB image in the data set's size, drawn at twice that size and reduced."""
    youngest, classes, width, height, nose_tip, unit, shift, zoom, _ = DATASETS[dataset]
    face = looks((age - youngest) / (classes - 1), male, rng)
    face.beard *= age >= 14  # the cues are noisy, and children would have one
    background = rng.uniform(40, 226) + rng.normal(0, 30, (3, 3, 3))
    image = Image.fromarray(np.clip(background, 0, 255).astype(np.uint8))
    image = image.resize((2 * width, 2 * height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image, "RGBA")  # RGBA: what is filled blends with what is there

    scale = 2 * unit * (1 + rng.normal(0, zoom))
    turn, yaw = rng.normal(0, np.radians(7)), rng.normal(0, 0.12)
    pose = scale * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    centre = 2 * np.array(nose_tip) + rng.normal(0, 2 * shift, 2)

    def fill(points, colour, opacity=1.0):
        """Fill the polygon ``points``, in units from the nose tip, y down."""
        points = np.array(points)
        # The middle of a turned head moves most; seen from the nose tip, the sides do.
        points[:, 0] -= yaw * np.minimum((points[:, 0] / 0.9) ** 2, 1)
        draw.polygon((points @ pose + centre).ravel().tolist(), (*colour, int(255 * opacity)))

    def line(points, thickness, depth):
        """A line in the skin: dark, with a light edge."""
        if depth > 0:
            fill(stroke(points + (0, thickness), thickness), face.light, 0.7 * depth)
            fill(stroke(points, thickness), face.dark, 0.85 * depth)

    for _ in range(rng.integers(0, 5)):
        x, y, w, h = rng.uniform(-2, 2, 4)
        shape = oval(x, y, w, h) if rng.random() < 0.5 else [(x, y), (x + w, y), (x + w, y + h)]
        fill(shape, tuple(rng.integers(0, 256, 3).tolist()), 0.3)
    draw_body(fill, line, face)
    draw_skin(fill, line, face, rng)
    draw_features(fill, face)
    draw_hair(fill, face, rng)
    image = image.reduce(2).filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.6)))

    # Light: its strength, colour, slope over the picture, and soft shadows half a unit wide.
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    slope_x, slope_y = rng.uniform(-0.25, 0.25, 2).astype(np.float32)
    shadows = rng.normal(0, rng.uniform(0.08, 0.28), (2 * height // unit, 2 * width // unit))
    shadows = Image.fromarray(shadows.astype(np.float32))
    shadows = np.asarray(shadows.resize((width, height), Image.Resampling.BICUBIC))
    light = 1 + shadows + slope_x * x + slope_y * y
    colour = (rng.uniform(0.7, 1.15) * (1 + rng.normal(0, 0.03, 3))).astype(np.float32)
    noise = rng.standard_normal((height, width, 1), np.float32) * np.float32(rng.uniform(0, 3))
    pixels = np.asarray(image) * (light[..., None] * colour) + noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def draw_row(task):
    """Draw and save one image of the set in ``folder``; its CSV row, a list."""
    folder, dataset, split, i, seed = task
    rng = np.random.default_rng([seed, list(DATASETS).index(dataset), split == "test", i])
    youngest, classes = DATASETS[dataset][:2]
    label = -1
    while not 0 <= label < classes:
        label = round(rng.normal(0.47, 0.21) * (classes - 1))
    age, male, race = youngest + label, bool(rng.random() < 0.5), int(rng.integers(5))
    number = 2 * i + (split == "test")  # no number stands in both splits, however many are drawn

    if dataset == "afad":
        file = f"{100_000 + number}-0.jpg"
        path = f"{age}/{111 if male else 112}/{file}"
        row = [file, path, label, "male" if male else "female"]
    elif dataset == "cacd":
        name = f"{rng.choice(MEN if male else WOMEN)}_{rng.choice(SURNAMES)}"
        path = f"{age}_{name}_{number:04d}.jpg"
        row = [number, path, label]
    elif dataset == "morph2":
        subject, picture = 100_000 + number, int(rng.integers(5))
        path = f"{subject}_{picture:02d}{'M' if male else 'F'}{age}.jpg"
        row = [path, subject, picture, "BWHAO"[race], 1 if male else -1, "", label, "", "GOOD"]
    elif dataset == "faces":
        path = f"{age:03d}/{number:06d}.jpg"
        row = [path, label, "male" if male else "female"]
    else:
        taken = datetime(2017, 1, 9) + timedelta(milliseconds=8191 * number)
        path = f"{age}_{0 if male else 1}_{race}_{taken:%Y%m%d%H%M%S%f}"[:-3] + ".jpg.chip.jpg"
        row = [number, path, label]

    (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
    draw_picture(dataset, age, male, rng).save(folder / "images" / path, quality=QUALITY)
    return row


def versions():
    """What the bytes of a picture depend on beside the seed."""
    return {"pillow": PIL.__version__, "numpy": np.__version__, "machine": platform.machine()}


def draw_set(folder, dataset, count, seed, pool_map):
    """Draw ``count`` training images and a quarter as many test images into a new ``folder``."""
    counts = {"train": count, "test": max(1, count // 4)}
    for split, images in counts.items():
        tasks = [(folder, dataset, split, i, seed) for i in range(images)]
        progress = tqdm(pool_map(draw_row, tasks), f"{dataset} {split}", images, disable=None)
        with open(folder / f"{split}.csv", "w", newline="") as file:
            file.write(COLUMNS[dataset] + "\n")
            csv.writer(file, lineterminator="\n").writerows(progress)
    drawn_with = {"seed": seed, **counts, **versions()}
    (folder / "drawn-with.json").write_text(json.dumps(drawn_with) + "\n")


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog=Path(__file__).name,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def fail(message):
        print(f"{parser.prog}: error: {message}", file=sys.stderr)
        sys.exit(2)

    parser.error = fail
    here = Path(__file__).resolve().parent
    parser.add_argument("--out", type=Path, default=here, help="folder (default: this script's)")
    parser.add_argument(
        "--datasets", nargs="+", choices=DATASETS, default=list(DATASETS), help="default: all five"
    )
    parser.add_argument(
        "--count",
        type=int,
        help="training images per set, and a quarter for testing (480, 160 or 40)",
    )
    parser.add_argument("--seed", type=int, default=1, help="default: 1")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="default: one per processor"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace sets that this script drew earlier"
    )
    args = parser.parse_args(argv)
    if args.count is not None and not 1 <= args.count <= MAX_COUNT:
        fail(f"--count {args.count}: choose a number from 1 to {MAX_COUNT}")
    if args.seed < 0:
        fail(f"--seed {args.seed}: choose a number from 0 up")
    if args.processes < 1:
        fail(f"--processes {args.processes}: choose a number from 1 up")
    for dataset in args.datasets:
        target = args.out / dataset
        if target.exists() and not args.overwrite:
            fail(f"{target} exists: add --overwrite to replace it, or choose another --out")
        if target.exists() and not (target / "drawn-with.json").is_file():
            fail(f"{target} holds no set that this script drew: choose another --out")

    try:
        args.out.mkdir(parents=True, exist_ok=True)
        # Ctrl-C reaches the workers too; from their first moment they inherit that it is ignored.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        pool = get_context("spawn").Pool(args.processes)
        signal.signal(signal.SIGINT, handler)
        with tempfile.TemporaryDirectory(prefix=".drawing-", dir=args.out) as unfinished, pool:
            for dataset in dict.fromkeys(args.datasets):
                drawn, target = Path(unfinished, dataset), args.out / dataset
                drawn.mkdir()
                count = args.count or DATASETS[dataset][-1]
                draw_set(drawn, dataset, count, args.seed, partial(pool.imap, chunksize=16))
                if target.exists():
                    target.rename(Path(unfinished, f"old-{dataset}"))
                drawn.rename(target)
    except OSError as error:
        fail(f"cannot write {error.filename or args.out}: {error.strerror}; choose another --out")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
