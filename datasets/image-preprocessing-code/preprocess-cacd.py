"""Cut the faces of CACD out of its photos: 120x120 crops of the images that show exactly one face.

    python datasets/image-preprocessing-code/preprocess-cacd.py --images CACD2000 --out CACD-crops

The crops are framed as the paper's: the box of dlib's frontal detector, 15 pixels wider on every
side, 5 pixels up. OUT/rejected.csv lists the images left out, each with the reason. Started again,
the script does only what is missing.
"""

import functools
import sys

import batch
import numpy as np
from PIL import Image

SIZE = 120
MARGIN = 15
UP = 5


@functools.cache
def face_detector():
    import dlib

    return dlib.get_frontal_face_detector()


def crop_box(left, top, right, bottom):
    """Crop of a detected face as (left, top, right, bottom), in pixels, right and bottom exclusive.

    The box may reach over the borders of the image.
    """
    taller = (bottom - top) - (right - left)
    if taller > 0:
        left -= taller // 2
        right += taller - taller // 2
    else:
        # To be square the box would have to become taller here. The paper's crops were made
        # shorter instead, and take the odd row from the top; kept, so that crops are equal.
        wider = -taller
        top += wider - wider // 2
        bottom -= wider // 2
    return left - MARGIN, top - MARGIN - UP, right + MARGIN, bottom + MARGIN - UP


def crop(pixels, box, pad):
    """The ``box`` of ``pixels`` (height, width, 3), resized to (SIZE, SIZE).

    ``pad``: what lies outside the image repeats its border; without, a box that starts left of or
    above the image raises ValueError, and one that ends right of or below it is clipped.
    """
    left, top, right, bottom = box
    if pad:
        rows = np.arange(top, bottom).clip(0, pixels.shape[0] - 1)
        columns = np.arange(left, right).clip(0, pixels.shape[1] - 1)
        pixels = pixels[rows[:, None], columns]
    elif left < 0 or top < 0:
        raise ValueError("crop starts beyond the left or top border")
    else:
        pixels = pixels[top:bottom, left:right]
    return Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def preprocess(source, target, pad):
    """Write the crop, unless it is there already; returns the record of it, or why there is
    none."""
    record = {"file": source.name, "size": source.stat().st_size}
    if target.exists():
        return record
    try:
        pixels = np.asarray(batch.read_image(source))
        faces = face_detector()(pixels, 1)  # 1: enlarged twofold, for faces from 40 pixels on
        if not faces:
            raise ValueError("no face")
        if len(faces) > 1:
            raise ValueError(f"more than one face: {len(faces)}")
        face = faces[0]
        box = crop_box(face.left(), face.top(), face.right(), face.bottom())
        image = crop(pixels, box, pad)
    except ValueError as reason:
        return record | {"rejected": str(reason)}
    batch.media.write_jpeg(image, target, quality=95)
    return record


def main(argv=None):
    parser = batch.argument_parser("Cut 120x120 face crops out of the photos of CACD.")
    parser.add_argument(
        "--pad",
        action="store_true",
        help="repeat the image's border where a crop reaches beyond it, instead of leaving the "
        "image out (left, top) or clipping the crop (right, bottom)",
    )
    args = parser.parse_args(argv)
    with batch.one_line_errors(parser, args.out):
        settings = {"script": "preprocess-cacd.py", "pad": args.pad}
        names, records = batch.start(parser, args, settings, {"dlib": "dlib-bin"})
        tasks = []
        for name in names:
            target = args.out / batch.result_name(name)
            if name not in records or not ("rejected" in records[name] or target.exists()):
                tasks.append((args.images / name, target, args.pad))
        batch.run(parser, args, preprocess, tasks, records, "cropping")
        batch.finish(args, names, records)


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # in a notebook it has not
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has all characters
    main()
