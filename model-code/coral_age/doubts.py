"""Why an answer may be further off than others: the columns not_sure and gender_not_sure.

The limits were chosen on 2,368 photos of the dev parts of FairFace, APPA-REAL and All-Age-Faces and
of fairface-dev, and on 240 of them made smaller, blurred and cut off (pretrained/README.md).
"""

import numpy as np

SMALL = 30  # pixels: side of the square that the network is shown, in the photo
CLEAR = 0.8  # the detector's score; below it a face is hidden in part, turned, dark or none
FRONTAL = 0.65  # distance of the eyes, by that from eyes to mouth: about 1 of a face from the front
SHARP = 0.12  # sharpness(), of images of 96 pixels
INSIDE = 0.7  # share of that square that is in the photo
CHILD = 13  # years: of younger ones the gender is hard to tell
LIKELY = 0.7  # probability of the gender


def sharpness(image):
    """The detail in a face as the network sees it, uint8 (3, S, S): the standard deviation of the
    Laplacian of its grey values by theirs."""
    grey = image.mean(0, np.float64)
    near = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return (4 * grey[1:-1, 1:-1] - near).std() / max(grey.std(), 1)


def share_inside(corner, across, size):
    """The share of a square, as of detect.square(), that is in a picture of (width, height)."""
    steps = (np.arange(16) + 0.5) / 16
    places = corner + across * (steps + 1j * steps[:, None])
    x, y = places.real / size[0], places.imag / size[1]
    return ((x >= 0) & (x < 1) & (y >= 0) & (y < 1)).mean()


def of_face(face, square, image, size):
    """What speaks against a ``face`` (of detect.find_faces()), in words: ``square``, in the
    picture's own pixels, and ``image``, what the network sees of it, uint8 (3, S, S); the picture's
    (width, height)."""
    found = {}
    if square is not None:
        found["too small"] = abs(square[1]) < SMALL
        found["at the picture's edge"] = share_inside(*square, size) < INSIDE
    if face.points is not None:
        eyes, mouth = face.points[:2].mean(0), face.points[3:].mean(0)
        apart, high = np.hypot(*(face.points[1] - face.points[0])), np.hypot(*(mouth - eyes))
        found["turned away"] = apart < FRONTAL * high
    found["blurred"] = sharpness(image) < SHARP
    found["hard to make out"] = face.score is not None and face.score < CLEAR
    return [reason for reason, holds in found.items() if holds]


def of_answer(columns):
    """The columns not_sure and gender_not_sure by what is answered, the former without the face."""
    found = {}
    if columns["at_end_of_range"] and columns["age"]:
        found["not_sure"] = "youngest or oldest age that the model knows"
    if "gender" in columns:
        young, even = columns["age"] < CHILD, columns["gender_probability"] < LIKELY
        reasons = ["a child"] * young + ["both are likely"] * even
        found["gender_not_sure"] = ", ".join(reasons)
    return {name: text for name, text in found.items() if text}


def add(columns, reasons):
    """The ``columns`` of a face, with the ``reasons`` of of_face() before that in not_sure."""
    reasons = [*reasons, *filter(None, [columns.get("not_sure")])]
    return columns | ({"not_sure": ", ".join(reasons)} if reasons else {})


def sure(rows):
    """The ``rows`` without faces that are not sure, and without genders that are not."""
    kept = [row for row in rows if "not_sure" not in row]
    genders = "gender", "gender_probability"
    return [
        {k: v for k, v in row.items() if k not in genders or "gender_not_sure" not in row}
        for row in kept
    ]
