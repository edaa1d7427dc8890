"""Align the photos of MORPH-2: eyes at the same place and distance in all, 200x240 pixels.

    python datasets/image-preprocessing-code/preprocess-morph2.py --images MORPH2 --out aligned

A first pass finds dlib's 68 landmarks in every image and takes their mean; a second scales and
moves every image so that its eyes meet the mean's, moved so that the nose tip is in the middle.
OUT/rejected.csv lists the images left out, each with the reason, OUT/mean-landmarks.json holds the
landmarks aligned to. Started again, the script does only what is missing.
"""

import functools
import importlib.util
import json
import sys
from pathlib import Path

import batch
import numpy as np
from PIL import Image, ImageOps

WIDTH, HEIGHT = 200, 240
NOSE_TIP = 33
EYES = slice(36, 42), slice(42, 48)


@functools.cache
def landmark_models():
    """dlib's frontal face detector and its predictor of 68 landmarks."""
    import dlib

    # The package is only asked for its folder: importing it needs pkg_resources, which setuptools
    # no longer has.
    package = Path(importlib.util.find_spec("face_recognition_models").origin).parent
    model = package / "models" / "shape_predictor_68_face_landmarks.dat"
    return dlib.get_frontal_face_detector(), dlib.shape_predictor(str(model))


def landmarks(image):
    """Landmarks of the first face detected, in pixels: [x, y, x, y, ...], 136 numbers; or None."""
    detector, predictor = landmark_models()
    pixels = np.asarray(image)
    faces = detector(pixels, 1)
    if not faces:
        return None
    return [xy for point in predictor(pixels, faces[0]).parts() for xy in (point.x, point.y)]


def eyes(points):
    """Distance between the eye centres and the point midway between them."""
    left, right = (np.mean(points[eye], axis=0) for eye in EYES)
    return np.linalg.norm(right - left), (left + right) / 2


def mean_landmarks(records):
    """Mean over images, (68, 2), moved so that the nose tip is in the middle; None without any.

    Of images that are not 200 wide, those of the shape 200x240 count as resized to it.
    """
    points = [record.get("resized", record.get("landmarks")) for record in records]
    points = [found for found in points if found]
    if not points:
        return None
    mean = np.mean(points, axis=0).reshape(68, 2)
    return (mean - mean[NOSE_TIP] + (WIDTH / 2, HEIGHT / 2)).tolist()


def align(image, points, target):
    """``image`` scaled and moved so that its eyes (in ``points``) meet those of ``target``.

    Scaled by s, the ratio of the eye distances, and moved by t, whole pixels: pixel x of the result
    is taken at (x - t) / s, bilinear between pixel centres, black outside.
    """
    distance, middle = eyes(np.reshape(points, (68, 2)))
    target_distance, target_middle = eyes(np.reshape(target, (68, 2)))
    scale = target_distance / distance
    shift = np.trunc(target_middle - scale * middle)
    # Pillow counts from the corner of a pixel, half a pixel before its centre, and repeats the
    # outermost pixels: the black frame, one pixel wide, makes it interpolate towards black.
    offset = 1.5 - (shift + 0.5) / scale
    return ImageOps.expand(image, border=1, fill=0).transform(
        (WIDTH, HEIGHT),
        Image.Transform.AFFINE,
        (1 / scale, 0, offset[0], 0, 1 / scale, offset[1]),
        resample=Image.Resampling.BILINEAR,
    )


def find_landmarks(source):
    """Record of an image: its landmarks, and where it is not 200 wide those of its resized copy."""
    record = {"file": source.name, "size": source.stat().st_size}
    try:
        image = batch.read_image(source)
    except ValueError as reason:
        return record | {"rejected": str(reason)}
    points = landmarks(image)
    if not points:
        return record | {"rejected": "no face"}
    record["landmarks"] = points
    if image.width != WIDTH:
        record["resized"] = None
        if image.width * HEIGHT == image.height * WIDTH:
            small = image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
            record["resized"] = landmarks(small)
    return record


def preprocess(source, target, points, mean):
    """Write the aligned image, or return why there is none."""
    try:
        image = batch.read_image(source)
    except ValueError as reason:
        return {"file": source.name, "rejected": str(reason)}
    batch.media.write_jpeg(align(image, points, mean), target, quality=75)


def main(argv=None):
    parser = batch.argument_parser("Align the faces of MORPH-2 to 200x240 pixels.")
    args = parser.parse_args(argv)
    with batch.one_line_errors(parser, args.out):
        packages = {"dlib": "dlib-bin", "face_recognition_models": "face-recognition-models"}
        names, records = batch.start(parser, args, {"script": "preprocess-morph2.py"}, packages)
        tasks = [(args.images / name,) for name in names if name not in records]
        batch.run(parser, args, find_landmarks, tasks, records, "landmarks")

        mean = mean_landmarks([records[name] for name in names])
        if mean is None:
            batch.finish(args, names, records)
            faces = sum("landmarks" in records[name] for name in names)
            why = f"none of the {faces} images with a face has the shape 200x240, which the mean "
            why += "of the landmarks needs; resize or crop them"
            parser.error(f"--images {args.images}: {why if faces else 'no face found'}")
        mean_path = args.out / "mean-landmarks.json"
        if mean_path.exists() and mean_path.read_text(errors="replace") != json.dumps(mean):
            parser.error(
                f"--out {args.out}: its images are aligned to the mean of others than those now "
                f"in {args.images}; choose another --out"
            )
        with batch.atomic_write(mean_path, "w") as file:
            file.write(json.dumps(mean))

        tasks = [
            (args.images / name, target, records[name]["landmarks"], mean)
            for name in names
            if "landmarks" in records[name]
            and not (target := args.out / batch.result_name(name)).exists()
        ]
        batch.run(parser, args, preprocess, tasks, records, "aligning")
        batch.finish(args, names, records)


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # in a notebook it has not
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has all characters
    main()
