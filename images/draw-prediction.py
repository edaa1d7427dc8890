"""Draw prediction.jpg, the example of README.md, and write its figures into prediction.csv.

    python images/draw-prediction.py PHOTO

The photo is NASA's, of its astronaut candidates of 2017 (Robert Markowitz, Johnson Space Center,
6 June 2017, 6000x3375 pixels). Works of NASA are in the public domain; it does not endorse this
project. In the picture each face has the model's answer above it, and its true age below it.
"""

import argparse
import csv
import sys
from pathlib import Path

from PIL import Image, ImageDraw

sys.path.append(str(Path(__file__).resolve().parent.parent / "model-code"))
import coral_age
from coral_age import marked, runs

HERE = Path(__file__).resolve().parent
SHA256 = "6052a1e89e37911fc2f10866d6509af7fc6ab07176403b553eba2af7d9c0a39a"
AGES = {  # from left to right; as announced by NASA on 7 June 2017
    "Zena Cardman": 29,
    "Jasmin Moghbeli": 33,
    "Jonny Kim": 33,
    "Frank Rubio": 41,
    "Matthew Dominick": 35,
    "Warren Hoburg": 31,
    "Robb Kulin": 33,
    "Kayla Barron": 29,
    "Bob Hines": 42,
    "Raja Chari": 39,
    "Loral O'Hara": 34,
    "Jessica Watkins": 29,
}
HALVES = (780, 2980), (3000, 5260)  # columns of the photo: six people each
TOP = 1310  # the first row of both
WIDTH, HEIGHT = 1600, 400  # of a half in the picture
LETTERS = 32  # their height
COLUMNS = "age", "age_low", "age_high", "gender", "gender_probability"


def mark(draw, face, true, place):
    """The box of the face, the answer above it, and the true age below it; ``place`` is the photo's
    column at which the picture begins, and its scale."""
    left, scale = place
    box = [(face[side] - left) * scale for side in ("left", "right")]
    box = box[0], (face["top"] - TOP) * scale, box[1], (face["bottom"] - TOP) * scale
    draw.rectangle(box, outline=marked.BLUE, width=4)
    answer = f"{face['age']} ({face['age_low']}-{face['age_high']})"
    for text, y, colour in (
        (answer, box[1] - LETTERS, marked.BLUE),
        (f"true: {true}", box[3] + LETTERS, "#333333"),
    ):
        where = (box[0] + box[2]) / 2, y
        letters = marked.font(LETTERS)
        low, top, high, bottom = draw.textbbox(where, text, letters, anchor="mm")
        draw.rectangle((low - 10, top - 7, high + 10, bottom + 7), fill=colour)
        draw.text(where, text, "white", letters, anchor="mm")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", type=Path)
    photo = parser.parse_args().photo
    try:
        digest = runs.digest_of(photo)
    except OSError as error:
        parser.error(f"{photo}: {error.strerror}")
    if digest != SHA256:
        parser.error(f"{photo}: another photo than NASA's (its SHA-256 begins with {SHA256[:8]})")

    faces = sorted(coral_age.faces(coral_age.load(), photo), key=lambda face: face["left"])
    picture = Image.new("RGB", (WIDTH, len(HALVES) * HEIGHT))
    for i, (left, right) in enumerate(HALVES):
        with Image.open(photo) as image:
            strip = image.crop((left, TOP, right, TOP + round((right - left) * HEIGHT / WIDTH)))
        strip = strip.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        for face, true in zip(faces, AGES.values(), strict=True):
            if left < face["left"] < right:
                mark(ImageDraw.Draw(strip), face, true, (left, WIDTH / (right - left)))
        picture.paste(strip, (0, i * HEIGHT))
    picture.save(HERE / "prediction.jpg", quality=85)
    with open(HERE / "prediction.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("true_age", *COLUMNS, "model"))
        weights = runs.digest_of(runs.PRETRAINED / "model.pt")
        for age, face in zip(AGES.values(), faces, strict=True):
            table.writerow((age, *(face[name] for name in COLUMNS), weights[:8]))


if __name__ == "__main__":
    main()
