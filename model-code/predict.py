"""Age and gender of the faces in images and videos, by a network that one of the scripts trained.

    python model-code/predict.py run1 photo.jpg --out predictions
    python model-code/predict.py run1 clip.mp4 --out predictions --every 2
    python model-code/predict.py run1 faces/ --crops --no_draw --out predictions
    python model-code/predict.py --weights model.pt --script afad-coral.py photo.jpg --out DIR

RUN is the folder a script filled (its --outpath). An INPUT is an image, a video, or a folder, which
is searched with the folders in it. DIR receives predictions.csv, predictions.json and a copy of
each input with the faces marked.
"""

import argparse
import csv
import functools
import hashlib
import importlib.util
import json
import math
import os
import sys
import warnings
from collections import deque
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import torch
from PIL import ImageDraw, ImageFont, ImageOps
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
DATASETS, LOSSES = ("afad", "cacd", "morph2", "utk"), ("ce", "coral", "ordinal")
SCRIPTS = [f"{dataset}-{loss}.py" for dataset in DATASETS for loss in LOSSES]

NOTE = (
    "Apparent ages, and a binary label for gender, as a network learned them from the photos and "
    "labels of one data set. Off by years for single persons, and unable to answer outside the "
    "ages of that set. No proof of anybody's age or gender; not made to decide about people."
)
COVERAGE = 0.8  # of the model's probability is within the interval given with an age

# How the images of a data set show a face, told from the box that the detector finds on it: side of
# the square image, and how far below the centre of the box its centre is, both in box widths.
FRAMES = {
    # Its photos were published as faces cut out tightly by a detector; none was at hand to measure.
    "afad": (1.0, 0.0),
    # preprocess-cacd.py adds 15 pixels on every side and moves up by 5. Its photos, 250 pixels
    # wide, were not at hand; a face about 108 pixels wide is assumed.
    "cacd": (1.28, -0.05),
    # 140 pixels around the nose tip, the eyes about 48 pixels apart (the photos were not at hand).
    # On 197 photos of UTKFace the eyes were 0.436 box widths apart, the nose tip 0.12 below the
    # centre.
    "morph2": (1.27, 0.12),
    # Medians over 2,000 training photos, scaled and moved by random amounts, with repeated borders,
    # because the detector's boxes come in few sizes and places. Quartiles 1.08-1.19, -0.01-0.05.
    "utk": (1.13, 0.02),
}

# Below any real face's usual score, above what else was found: of those photos of UTKFace 97 %
# reach 0.2 (98 % reach 0); in 28 test pictures of scikit-image, at four sizes, what is no face got
# 0.117 at most, on the space suit of its astronaut.
MIN_SCORE = 0.2
UPSAMPLE = 1  # faces from 40 pixels on, as in the preprocessing scripts

# Named, because Pillow would start another program for some others (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
VIDEOS = ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .ts .mts .m2ts .wmv .flv .3gp .ogv".split()

OVERLAP = 0.3  # of two boxes, their intersection by their union, to be the same face a frame later
PATIENCE = 1.0  # seconds for which a track waits for its face to be found again
HELD = 2**26  # bytes of pictures that wait for a batch to be full


def refuse(message, code=2):
    """End with one line for the user."""
    tqdm.write(f"predict.py: error: {message}", file=sys.stderr)
    raise SystemExit(code)


def parse_settings(argv):
    """The settings as an argparse namespace, checked."""
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\n{NOTE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="predict.py (RUN | --weights FILE --script NAME) INPUT... --out DIR [options]",
        allow_abbrev=False,
    )
    parser.error = refuse
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="RUN, unless --script is given, then the inputs")
    add("--out", type=Path, required=True, metavar="DIR", help="folder that receives the results")
    add("--overwrite", action="store_true", help="use DIR though it holds files, and replace them")
    add("--weights", type=Path, metavar="FILE", help="state dict to take instead of RUN's")
    add("--script", choices=SCRIPTS, metavar="NAME", help="what trained FILE, if there is no RUN")
    add("--image_size", type=int, help="side of that network's input in pixels (120)")
    add("--crops", action="store_true", help="the images are faces, cut as the training images")
    add("--min_score", type=float, default=MIN_SCORE, help=f"lowest detector score ({MIN_SCORE})")
    add("--upsample", type=int, default=UPSAMPLE, help="0: faces from 80 pixels on, 1: 40, ... (1)")
    add("--every", type=int, default=1, metavar="N", help="look at every Nth frame of a video (1)")
    add("--no_draw", action="store_true", help="no copies of the inputs with the faces marked")
    add("--cuda", type=int, default=-1, help="CUDA device number; -1: the CPU (-1)")
    add("--batch_size", type=int, default=16, help="faces that the network sees at once (16)")
    args = parser.parse_intermixed_args(argv)
    ranges = {"every": (1, 10**9), "batch_size": (1, 10**6), "upsample": (0, 4)}
    ranges |= {"min_score": (-10, 10), "cuda": (-1, 1023), "image_size": (32, 1024)}
    for name, (low, high) in ranges.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            refuse(f"--{name} {value}: must be from {low} to {high}")
    if args.cuda >= (count := torch.cuda.device_count()):
        refuse(f"--cuda {args.cuda}: this machine has {count} CUDA devices; --cuda -1 is the CPU")
    if args.script and not args.weights:
        refuse("--script needs --weights: the file that the script has written")
    if args.image_size and not args.script:
        refuse("--image_size goes with --script; a run folder holds its own")
    args.run = None if args.script else Path(args.paths.pop(0))
    if not args.paths:
        refuse("no input: give images, videos or folders after the run folder")
    return args


def find_inputs(words, out):
    """The files that the user's ``words`` name; those in the folder ``out`` are left out."""
    suffixes = {s for s, kind in PIL.Image.registered_extensions().items() if kind in FORMATS}
    suffixes.update(VIDEOS)
    inputs, out = [], out.resolve()
    for word in words:
        path = Path(word)
        if "://" in word:
            refuse(f"{word}: is a URL; download the file and give its path")
        if os.path.isdir(path):
            files = sorted(p for p in path.rglob("[!.]*") if p.suffix.lower() in suffixes)
            files = [p for p in files if p.is_file() and out not in p.resolve().parents]
            if not files:
                refuse(f"{word}: no image or video in this folder or the folders in it")
            inputs += files
        elif not os.path.isfile(path):
            refuse(f"{word}: no such file or folder")
        elif out in path.resolve().parents:
            refuse(f"{word}: lies in --out {out}, whose files are replaced; choose another --out")
        else:
            inputs.append(path)
    return inputs


# %% The network
def load_script(name):
    """The training script beside this file as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).stem.replace("-", "_"), HERE / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_run(run):
    """The facts in RUN's run.json, of which only figures and one of twelve names are believed."""
    try:
        facts = json.loads((run / "run.json").read_bytes())
        name, settings = facts["script"], facts["settings"]
        size, digest = settings["image_size"], facts["script_sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        refuse(f"{run}: no run.json, or not one of a run; bare weights need --weights and --script")
    if name not in SCRIPTS:
        refuse(f"{run / 'run.json'}: its script, {name!r}, is none of the twelve: {SCRIPTS}")
    if not (isinstance(size, int) and 32 <= size <= 1024):
        refuse(f"{run / 'run.json'}: its image_size, {size!r}, is no number from 32 to 1024")
    if hashlib.sha256((HERE / name).read_bytes()).hexdigest() != digest:
        tqdm.write(f"predict.py: warning: {name} has changed since this run", file=sys.stderr)
    return name, size, {key: bool(settings.get(key)) for key in ("channels_last", "amp", "flip")}


def load_model(args):
    """The network in a namespace, with all that preparing its input takes. Of a run with validation
    the weights of the best epoch are taken, since that is what the validation was for."""
    name, size = args.script, args.image_size or 120
    settings = dict.fromkeys(("channels_last", "amp", "flip"), False)
    weights = args.weights
    if args.run:
        name, size, settings = read_run(args.run)
        settings["amp"] &= args.cuda >= 0
        if not weights:
            best = args.run / "best_model.pt"
            weights = best if best.exists() else args.run / "model.pt"
            if not weights.exists():
                refuse(f"{args.run}: holds no model.pt; finish the training: give it --resume")
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        shapes = {str(key): tuple(tensor.shape) for key, tensor in state.items()}
        finite = {str(key): bool(tensor.isfinite().all()) for key, tensor in state.items()}
    except Exception as error:  # what a damaged file raises is not documented
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:150]
        refuse(f"{weights}: not the state dict of a network ({reason})")
    script = load_script(name)
    network = script.ResNet34(gender=any(key.startswith("fc_gender.") for key in shapes))
    due = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    for key in due | shapes:
        if shapes.get(key) != due.get(key):
            found = f"{key!r} is {shapes.get(key, 'missing')}, not {due.get(key, 'expected')}"
            refuse(f"{weights}: does not fit {name}: {found}")
        if not finite[key]:
            refuse(f"{weights}: {key!r} is not finite: that training had diverged")
    network.load_state_dict(state)
    device = torch.device("cuda", args.cuda) if args.cuda >= 0 else torch.device("cpu")
    network.eval().to(device)
    if settings["channels_last"]:
        network.to(memory_format=torch.channels_last)
    print(f"{weights}, trained by {name}")
    return SimpleNamespace(
        script=script, network=network, size=size, device=device, weights=str(weights), **settings
    )


def frame_face(pixels, box, script):
    """The square of ``pixels`` that shows the face in ``box`` as the training images show theirs,
    as a PIL image; what lies outside the picture repeats its border."""
    (left, top, right, bottom), (scale, down) = box, FRAMES[script.DATASET]
    width = right - left
    side = max(round(scale * width), 1)
    x = round((left + right - side) / 2)
    y = round((top + bottom - side) / 2 + down * width)
    rows = np.arange(y, y + side).clip(0, pixels.shape[0] - 1)
    columns = np.arange(x, x + side).clip(0, pixels.shape[1] - 1)
    image = PIL.Image.fromarray(pixels[rows[:, None], columns])
    # the script would cut these pixels out of the middle of a larger image
    return image.resize([script.CENTER_CROP] * 2) if script.CENTER_CROP else image


def prepare(image, model):
    """uint8 (3, S, S) of a PIL image, as the training script prepares a test image."""
    pixels, size = model.script.prepare_image(image, model.size), model.size
    start = round((pixels.shape[-1] - size) / 2)
    return pixels[:, start : start + size, start : start + size]


def infer(images, model, batch_size):
    """Of a list of uint8 (3, S, S), what the script answers in its tests: probabilities, float32
    (n, K-1), for ce (n, K), and P(male) (n,) or n times None."""
    probas, male = [], []
    for start in range(0, len(images), batch_size):
        batch = np.stack(images[start : start + batch_size])
        answers = model.script.predict_batch(model.network, batch, model.device, model)
        probas.append(answers[0].cpu())
        male += answers[1].tolist() if model.network.fc_gender else [None] * len(batch)
    return torch.cat(probas) if probas else [], male


# %% What is said of a face
def class_probas(probas, loss):
    """Probabilities of the classes, float64 (K,): those of ce, or from P(y > k), (K-1,), sorted,
    which leaves the number above 0.5, the label, as it is."""
    probas = np.asarray(probas, np.float64)
    return probas if loss == "ce" else -np.diff(np.sort(probas)[::-1], prepend=1, append=0)


def interval(classes, label):
    """The shortest run of neighbouring classes that contains ``label`` and at least COVERAGE of the
    probability (of several, the most probable): its first and last class and its probability."""
    sums = np.concatenate([[0], np.cumsum(classes)])
    for length in range(1, len(classes) + 1):
        starts = np.arange(max(label - length + 1, 0), min(label, len(classes) - length) + 1)
        held = sums[starts + length] - sums[starts]
        if held.max() >= COVERAGE or length == len(classes):
            first = starts[held.argmax()].item()
            return first, first + length - 1, held.max().item()


def estimate(probas, male, model):
    """The columns about age and gender, in years and probabilities, from one row of infer()."""
    script = model.script
    label = script.predict_labels(torch.as_tensor(probas)[None]).item()
    first, last, held = interval(class_probas(probas, script.LOSS), label)
    ages = [script.YOUNGEST_AGE + number for number in (label, first, last)]
    columns = dict(zip(("age", "age_low", "age_high"), ages, strict=True))
    columns["interval_probability"] = round(held, 4)
    columns["at_end_of_range"] = label in (0, script.NUM_CLASSES - 1)
    if male is not None:
        columns["gender"] = "male" if male > 0.5 else "female"
        columns["gender_probability"] = round(max(male, 1 - male), 4)
    return columns


def sentence(row, model):
    """Age, interval and gender of a row in words: 32 (27-38), female 83 %."""
    end = ""
    if row["at_end_of_range"]:
        end = " or younger" if row["age"] == model.script.YOUNGEST_AGE else " or older"
    text = f"{row['age']}{end} ({row['age_low']}-{row['age_high']})"
    return text + (f", {row['gender']} {row['gender_probability']:.0%}" if "gender" in row else "")


# %% Pictures and the faces in them
@functools.cache
def detector():
    """dlib's detector of frontal faces."""
    import dlib

    return dlib.get_frontal_face_detector()


def find_faces(pixels, args):
    """Boxes (left, top, right, bottom) in pixels and scores of the faces, highest score first; with
    --crops the whole picture."""
    if args.crops:
        return [(0, 0, pixels.shape[1], pixels.shape[0])], [None]
    boxes, scores, _ = detector().run(pixels, args.upsample, args.min_score)
    return [(b.left(), b.top(), b.right(), b.bottom()) for b in boxes], list(scores)


def read_image(path):
    """uint8 (height, width, 3), turned as the EXIF orientation says."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        with PIL.Image.open(path, formats=FORMATS) as image:
            if image.mode.startswith("I"):  # 16 bits: convert would clip all above 255
                image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def read_video(path, clip, bar):
    """Yield (seconds from the first frame, pixels as of read_image) for all frames that can be
    decoded; ``clip`` gets the frame rate. ValueError if some were damaged."""
    import av

    # an open file, since FFmpeg takes some names for patterns or protocols
    with open(path, "rb") as file, av.open(file, options={"protocol_whitelist": ""}) as container:
        if not container.streams.video:
            raise ValueError("no pictures in it")
        stream = container.streams.video[0]
        stream.codec_context.options = {"max_pixels": str(PIL.Image.MAX_IMAGE_PIXELS)}
        clip.rate = float(stream.average_rate or 30)  # a type of its own since PyAV 19
        bar.total += max(stream.frames - 1, 0)
        start, number, damaged = None, 0, 0
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                damaged += 1
                continue
            for frame in frames:
                seconds = number / clip.rate if frame.time is None else frame.time
                start, number = seconds if start is None else start, number + 1
                damaged += frame.is_corrupt
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                yield seconds - start, np.ascontiguousarray(pixels)
    if not number:
        raise ValueError("no picture in it can be decoded")
    if damaged:
        raise ValueError(f"{damaged} damaged parts; {number} frames could be decoded")


def read_inputs(inputs, args, model, failures, bar):
    """Yield the pictures as namespaces, with their faces prepared for the network. ``clip`` is None
    for an image; the last one of a video is followed by one without pixels."""

    def picture(source, clip, number, seconds, pixels):
        boxes, scores, looked = [], [], number % args.every == 0
        if looked:
            boxes, scores = find_faces(pixels, args)
        if args.crops:
            faces = [PIL.Image.fromarray(pixels) for _ in boxes]
        else:
            faces = [frame_face(pixels, box, model.script) for box in boxes]
        faces = [prepare(face, model) for face in faces]
        bar.update()
        return SimpleNamespace(
            source=source, clip=clip, number=number, seconds=seconds, pixels=pixels,
            looked=looked, boxes=boxes, scores=scores, faces=faces,
        )  # fmt: skip

    for path in inputs:
        source = str(path).encode("utf-8", "backslashreplace").decode()  # printable
        clip = None
        try:
            try:
                pixels = read_image(path)
            except PIL.UnidentifiedImageError:
                clip = SimpleNamespace(tracks={}, count=0, shown=[], output=None, pts=-1)
                for number, (seconds, pixels) in enumerate(read_video(path, clip, bar)):
                    yield picture(source, clip, number, seconds, pixels)
            else:
                yield picture(source, None, 0, None, pixels)
        except Exception as error:  # Pillow and FFmpeg raise many kinds on damaged files
            if isinstance(error, ImportError):
                reason = "neither an image, nor PyAV there: pip install -r requirements-extras.txt"
            else:
                reason = " ".join(str(error).split()) or type(error).__name__
            failures.append({"source": source, "reason": reason})
            tqdm.write(f"predict.py: error: {source}: {reason}", file=sys.stderr)
        if clip:
            yield SimpleNamespace(source=source, clip=clip, pixels=None, boxes=[], faces=[])


# %% Tracks
def overlap(a, b):
    """Intersection of two boxes by their union."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / max(sum(areas) - both, 1)


def expected_box(track, number):
    """Where a track's face is in frame ``number`` if it went on as in its last frames; without
    that, two people would swap their tracks after hiding each other."""
    (first, *begin), (last, *end) = track.places[0], track.places[-1]
    ahead = (number - last) / max(last - first, 1)
    x, y = (ahead * (b - a) for a, b in zip(begin, end, strict=True))
    left, top, right, bottom = track.box
    return left + x, top + y, right + x, bottom + y


def follow(clip, picture, probas, male):
    """The track of each face of a frame, continued or new: pairs of higher overlap first, which
    also prefers boxes of the same size. Adds the faces' probabilities to their tracks."""
    pairs = []
    for face, track in clip.tracks.items():
        expected = expected_box(track, picture.number)
        pairs += [(overlap(expected, box), face, i) for i, box in enumerate(picture.boxes)]
    found = {}
    for value, face, i in sorted(pairs, reverse=True):
        if value >= OVERLAP and i not in found and face not in found.values():
            found[i] = face
    for i, box in enumerate(picture.boxes):
        if i not in found:
            clip.count += 1
            found[i] = clip.count
            clip.tracks[clip.count] = SimpleNamespace(
                face=clip.count, places=deque(maxlen=10), frames=0, probas=0, male=0, score=0,
                frame=picture.number, seconds=picture.seconds,
            )  # fmt: skip
        track = clip.tracks[found[i]]
        track.box, track.until = box, picture.seconds
        track.places.append((picture.number, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        track.frames += 1
        track.probas = track.probas + probas[i].double()
        track.male = None if male[i] is None else track.male + male[i]
        track.score = None if picture.scores[i] is None else track.score + picture.scores[i]
    return [clip.tracks[found[i]] for i in range(len(picture.boxes))]


def mean_estimate(track, model):
    """estimate() of a track's faces so far, from the means of their probabilities."""
    male = None if track.male is None else track.male / track.frames
    return estimate(track.probas / track.frames, male, model)


# %% Output
@contextmanager
def written(path, mode="wb", **options):
    """A file to write to, which becomes ``path`` when all of it is on the disk."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@functools.cache
def font(size):
    return ImageFont.load_default(size)


def mark(pixels, faces):
    """A PIL image of ``pixels`` with the ``faces``, (box, text), marked in it."""
    image = PIL.Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for (left, top, right, bottom), text in faces:
        width = right - left
        draw.rectangle((left, top, right, bottom), outline="#0072b2", width=max(2, width // 40))
        letters = font(max(11, width // 8))
        _, _, across, down = draw.textbbox((0, 0), text, letters)
        across, down = across + down // 2, down + down // 3
        x = max(0, min(left, image.width - across))
        y = top - down if top >= down else max(0, min(bottom, image.height - down))
        draw.rectangle((x, y, x + across, y + down), fill="#0072b2")
        draw.text((x + across / 2, y + down / 2), text, "white", letters, anchor="mm")
    return image


def free_path(out, source, suffix, taken):
    """A path in ``out`` named after ``source``, numbered where several inputs have that name."""
    stem, number = Path(source).stem, 1
    name = stem + suffix
    while name.lower() in taken:
        number += 1
        name = f"{stem}-{number}{suffix}"
    taken.add(name.lower())
    return out / name


TICK = Fraction(1, 60_000)  # of a second; mpeg4 can't count finer than 65,535


def open_copy(clip, path, size):
    """Begin the clip's marked copy, an MP4 whose pictures have the even ``size`` next to this."""
    import av

    file = clip.output.enter_context(written(path))
    clip.container = clip.output.enter_context(av.open(file, "w", format="mp4"))
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    clip.stream = clip.container.add_stream(codec, max(round(clip.rate), 1))
    clip.stream.width, clip.stream.height = (max(pixels // 2, 1) * 2 for pixels in size)
    clip.stream.bit_rate = max(round(0.15 * math.prod(size) * clip.rate), 100_000)
    clip.stream.pix_fmt, clip.stream.codec_context.time_base = "yuv420p", TICK


def encode(image, clip, seconds):
    """Add a picture to the clip's marked copy."""
    import av

    frame = av.VideoFrame.from_image(image)
    frame = frame.reformat(clip.stream.width, clip.stream.height, "yuv420p")
    clip.pts = max(clip.pts + 1, round(seconds / TICK))
    frame.pts, frame.time_base = clip.pts, TICK
    clip.container.mux(clip.stream.encode(frame))


@contextmanager
def report(out, model):
    """predictions.csv and predictions.json: a function that adds a row to both, and the list of
    failures, which ends the latter."""
    script = model.script
    columns = "source kind frame seconds until_seconds face frames left top right bottom score "
    columns += "age age_low age_high interval_probability at_end_of_range"
    columns = columns.split()
    if model.network.fc_gender:
        columns += ["gender", "gender_probability"]
    oldest = script.YOUNGEST_AGE + script.NUM_CLASSES - 1
    facts = {"weights": model.weights, "dataset": script.DATASET, "loss": script.LOSS}
    facts |= {"ages": [script.YOUNGEST_AGE, oldest], "interval_coverage": COVERAGE}
    head = json.dumps({"note": NOTE, "model": facts}, indent=1).removesuffix("\n}")
    failures, rows = [], 0
    with (
        written(out / "predictions.csv", "w", encoding="utf-8", newline="") as table,
        written(out / "predictions.json", "w") as file,
    ):
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        file.write(head + ',\n "faces": [')

        def add(row):
            nonlocal rows
            writer.writerow(row)
            file.write((",\n  " if rows else "\n  ") + json.dumps(row))
            rows += 1

        yield add, failures
        file.write(f'\n ],\n "failures": {json.dumps(failures)}\n}}\n')


def end_tracks(clip, before, source, add, model):
    """Summary rows of the tracks whose face was last found before frame ``before``."""
    for track in [track for track in clip.tracks.values() if track.places[-1][0] < before]:
        del clip.tracks[track.face]
        row = {"source": source, "kind": "track", "frame": track.frame}
        row |= {"seconds": round(track.seconds, 4), "until_seconds": round(track.until, 4)}
        row |= {"face": track.face, "frames": track.frames}
        if track.score is not None:
            row["score"] = round(track.score / track.frames, 4)
        row |= mean_estimate(track, model)
        add(row)
        times = f"{track.seconds:.2f}-{track.until:.2f} s"
        tqdm.write(f"{source}: track {track.face}, {times}: {sentence(row, model)}")


def finish(pictures, args, model, add, path_for, outputs):
    """Estimate the faces of ``pictures``; write their rows and marked copies."""
    probas, male = infer([face for p in pictures for face in p.faces], model, args.batch_size)
    begin = 0
    for picture in pictures:
        clip, source, part = picture.clip, picture.source, slice(begin, begin + len(picture.faces))
        begin = part.stop
        if picture.pixels is None:
            end_tracks(clip, math.inf, source, add, model)
            if clip.output:
                clip.container.mux(clip.stream.encode())
                clip.output.close()
            continue
        row, marks = {"source": source, "kind": "frame" if clip else "image"}, []
        if clip:
            row |= {"frame": picture.number, "seconds": round(picture.seconds, 4)}
            if picture.looked:
                tracks = follow(clip, picture, probas[part], male[part])
                patience = max(PATIENCE * clip.rate, 2 * args.every)
                end_tracks(clip, picture.number - patience, source, add, model)
        elif not picture.boxes:
            tqdm.write(f"{source}: no face")
        for i, (box, score) in enumerate(zip(picture.boxes, picture.scores, strict=True)):
            face = row | {"face": i + 1}
            face |= dict(zip(("left", "top", "right", "bottom"), box, strict=True))
            if score is not None:
                face["score"] = round(score, 4)
            if clip:
                face |= {"face": tracks[i].face, "frames": tracks[i].frames}
                face |= mean_estimate(tracks[i], model)
            else:
                face |= estimate(probas[part][i], male[part][i], model)
                tqdm.write(f"{source}: face {i + 1}: {sentence(face, model)}")
            add(face)
            marks.append((box, (f"#{face['face']}  " if clip else "") + sentence(face, model)))
        if clip and not args.no_draw:
            clip.shown = marks if picture.looked else clip.shown
            image = mark(picture.pixels, clip.shown)
            if not clip.output:
                clip.output = outputs.enter_context(ExitStack())
                open_copy(clip, path_for(source, ".mp4"), image.size)
            encode(image, clip, picture.seconds)
        elif not args.no_draw:
            with written(path_for(source, ".jpg")) as file:
                mark(picture.pixels, marks).save(file, "JPEG", quality=90)


def run(args):
    """Predict for all inputs; the list of failures."""
    inputs = find_inputs(args.paths, args.out)
    if not args.crops and importlib.util.find_spec("dlib") is None:
        refuse("dlib is not installed: pip install -r requirements-extras.txt, or give --crops")
    if args.out.exists() and not args.out.is_dir():
        refuse(f"--out {args.out}: is a file; give a folder")
    if args.out.exists() and any(args.out.iterdir()) and not args.overwrite:
        refuse(f"--out {args.out}: holds files already; give another folder, or --overwrite")
    model = load_model(args)
    args.out.mkdir(parents=True, exist_ok=True)
    held, taken = [], set()
    path_for = functools.partial(free_path, args.out, taken=taken)
    with (
        report(args.out, model) as (add, failures),
        ExitStack() as outputs,
        tqdm(total=len(inputs), unit="pictures", disable=None) as bar,
    ):
        for picture in read_inputs(inputs, args, model, failures, bar):
            held.append(picture)
            size = sum(p.pixels.nbytes for p in held if p.pixels is not None)
            faces = sum(len(p.faces) for p in held)
            if max(len(held), faces) >= args.batch_size or size >= HELD:
                finish(held, args, model, add, path_for, outputs)
                held = []
        finish(held, args, model, add, path_for, outputs)
    print(f"{args.out / 'predictions.csv'}, {args.out / 'predictions.json'}: written")
    return failures


def main(argv=None):
    """Run with the given command-line arguments; the exit code."""
    args = parse_settings(argv)
    try:
        failures = run(args)
    except OSError as error:
        refuse(f"{error.filename or args.out}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        refuse("interrupted; no predictions were written", 130)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has all characters
    sys.exit(main())
