"""Cut the faces out of your own photos: 200x200 crops, aligned as UTKFace's are.

    python datasets/image-preprocessing-code/preprocess-faces.py --images PHOTOS --out CROPS

A face is rotated, scaled and moved so that eyes, nose and mouth lie where they do in UTKFace's
photos, as predict.py does for its network. Folders in PHOTOS are searched as well, and kept:
PHOTOS/25/a.png becomes CROPS/25/a.jpg. Of several faces the largest is cut, of some about as large
the one in the middle; CROPS/several.csv lists such photos, CROPS/rejected.csv those left out, each
with the reason. Started again, the script does only what is missing.
"""

import importlib.util
import math
import sys

import batch
from coral_age import detect, media


def photos_below(folder):
    """As batch.images_in, of ``folder`` and the folders in it, in all formats that predict.py
    reads."""

    def fail(error):
        raise error

    suffixes, skipped = media.known_suffixes().difference(media.VIDEOS), {}
    if not (heic := importlib.util.find_spec("pi_heif")):
        suffixes = suffixes.difference(media.HEIC)
    paths = media.walk(folder, fail, skipped)
    others = [path for path in paths if path.suffix.lower() not in suffixes]
    left = [f"{len(some)} {kind}, as {some[0]}" for kind, some in skipped.items()]
    if others:
        left.insert(0, f"{len(others)} other files: {batch.kinds_of(others)}")
    if not heic and any(path.suffix.lower() in media.HEIC for path in others):
        left.append(f"for HEIC {media.EXTRAS}")
    left = f"left out: {'; '.join(left)}" * bool(left)
    names = [p.relative_to(folder).as_posix() for p in paths if p.suffix.lower() in suffixes]
    if not names:
        raise ValueError(f"no photo in it or the folders in it{f' ({left})' * bool(left)}")
    return names, left


def prominence(face, width, height):
    """A face's size in pixels, reduced with its distance from the picture's middle: by 71 % in the
    corners of a square. Photos of FairFace (margin 1.25) have whom they are of in the middle: by
    size alone somebody else was cut out of 9 of 300, by this out of none."""
    left, top, right, bottom = face.box
    size = ((right - left) * (bottom - top)) ** 0.5
    away = math.hypot((left + right - width) / 2, (top + bottom - height) / 2)
    return size * (1 - away / max(width, height))


def preprocess(source, name, target):
    """Write the crop of the most prominent face; returns the record, or why there is none."""
    record = {"file": name, "size": source.stat().st_size}
    content = source.read_bytes()  # an OSError ends the run, what decoding raises does not
    try:
        with batch.decoding():
            pixels = media.read_image(content, lambda left_out: None)
    except ValueError as reason:
        return record | {"rejected": str(reason)}
    faces, _ = detect.find_in_photo(pixels)
    if not faces:
        return record | {"rejected": "no face"}
    height, width = pixels.shape[:2]
    face = max(faces, key=lambda face: prominence(face, width, height))
    # the last square is the wide one of a face that is turned to the side
    crop = detect.cut(pixels, *detect.squares(face, "faces")[-1])
    target.parent.mkdir(parents=True, exist_ok=True)
    media.write_jpeg(crop, target, quality=95)
    return record | {"faces": len(faces)}


def main(argv=None):
    parser = batch.argument_parser("Cut 200x200 crops out of photos, aligned as UTKFace's are.")
    args = parser.parse_args(argv)
    with batch.one_line_errors(parser, args.out):
        if args.images.resolve() in args.out.resolve().parents:
            parser.error(f"--out {args.out}: lies in --images; choose another folder")
        packages = {name: name for name in detect.PACKAGES}
        settings = {"script": "preprocess-faces.py"}
        names, records = batch.start(parser, args, settings, packages, photos_below)
        targets = {name: args.out / batch.result_name(name) for name in names}
        tasks = [
            (args.images / name, name, target)
            for name, target in targets.items()
            if name not in records or not ("rejected" in records[name] or target.exists())
        ]
        batch.run(parser, args, preprocess, tasks, records, "faces")
        batch.finish(args, names, records)
        counts = {name: records[name].get("faces", 0) for name in names}
        several = [(name, count) for name, count in counts.items() if count > 1]
        batch.write_list(args.out / "several.csv", [("file", "faces"), *several])
        print(f"  {len(several):7d} of those with several faces, of which one is cut: several.csv")


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # in a notebook it has not
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has all characters
    main()
