"""Age and gender of the faces in images and videos, by a network that one of the scripts trained.

    python model-code/predict.py photo.jpg
    python model-code/predict.py clip.mp4 --out predictions --every 2
    python model-code/predict.py faces/ --run run1 --crops --labels ages.csv
    python model-code/predict.py photo.jpg --weights model.pt --script afad-coral.py

An INPUT is an image, a video, or a folder, which is searched with the folders in it. RUN is the
folder a script filled (its --outpath); without it the model in model-code/pretrained answers. What
is found is printed; DIR receives it as predictions.csv and predictions.json, with a copy of each
input in which the faces are marked. In a program:

    import predict
    model = predict.load()
    for face in predict.faces(model, "photo.jpg"):
        print(face["age"], face["gender"])
"""

import argparse
import csv
import functools
import hashlib
import importlib.util
import io
import itertools
import json
import math
import os
import re
import signal
import statistics
import sys
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, redirect_stdout, suppress
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import detect
import labels
import media
import numpy as np
import PIL.Image
import torch
from PIL import ImageDraw, ImageFont
from tqdm import tqdm
from whole_files import lock, written

HERE = Path(__file__).resolve().parent
PRETRAINED = HERE / "pretrained"
# The training scripts are found by their names: <data set>-<loss>.py
NAME = re.compile(r"[a-z0-9]+-[a-z0-9]+(-[a-z0-9]+)?\.py")
SHARED = re.compile(rb"(?m)^# %% .*\[all\]\s*$")  # in no other tool that lies there
SCRIPTS = sorted(
    path.name
    for path in HERE.iterdir()
    if NAME.fullmatch(path.name) and SHARED.search(path.read_bytes())
)

SWITCHES = ("channels_last", "flip", "shifts")  # settings of a run that its answers depend on

NOTE = (
    "Apparent ages, and a binary label for gender, as a network learned them from the photos and "
    "labels of one data set. Off by years for single persons, and unable to answer outside the "
    "ages of that set. No proof of anybody's age or gender; not made to decide about people."
)
# Degrees by which the network is shown a face of a photo; those of a video turn by themselves.
TURNS = -4, 0, 4
COVERAGE = 0.8  # of the model's probability is within the interval given with an age

# Seconds after which all of a video's picture is searched for faces again, and the network asked
# about them: the faces of pictures in between are nearly the same, and only followed.
SEARCH = 0.25
OVERLAP = 0.3  # of two boxes, their intersection by their union, to be the same face a frame later
HIDDEN = 0.2  # seconds without a face after which its last place alone does not tell the next
PATIENCE = 1.0  # seconds for which a track waits for its face to be found again
HELD = 2**26  # bytes of pictures that wait for a batch to be full

SIDES = "left", "top", "right", "bottom"  # of a box
BLUE = "#0072b2"
LETTERS = 11, 32  # smallest and largest height in pixels, in a picture of up to 1000
LONGEST_SIDE = 65_500  # pixels, of a JPEG
LONGEST_GAP = 10  # seconds between two pictures of a marked copy; clocks of cameras jump by years


def say(line, file=None):
    """Print a line, whose control characters (file names may hold some) are escaped."""
    escaped = [c if c.isprintable() else c.encode("unicode_escape").decode() for c in line]
    tqdm.write("".join(escaped), file=file)


class Output:
    """Standard output, which may get full or be closed before the files are written: the rest of
    what it is given is dropped then, and ``error`` tells why."""

    def __init__(self, file):
        self.file, self.error = file, None

    def write(self, text):
        self.attempt(self.file.write, text)

    def flush(self):
        self.attempt(self.file.flush)

    def attempt(self, action, *given):
        try:
            if not self.error:
                action(*given)
        except OSError as error:
            self.error = error


def warn(*parts):
    say(f"predict.py: warning: {': '.join(parts)}", sys.stderr)


class InputError(ValueError):
    """What a user can mend, in one line."""


def refuse(message, code=2, program="predict.py"):
    """End with one line for the user."""
    say(f"{program}: error: {message}", sys.stderr)
    raise SystemExit(code)


def parse_settings(argv):
    """The settings as an argparse namespace, checked."""
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\n{NOTE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="predict.py INPUT... [--run RUN] [--out DIR] [options]",
        allow_abbrev=False,
    )
    parser.error = refuse
    add = parser.add_argument
    add("paths", nargs="+", metavar="INPUT", help="images, videos, and folders of them")
    add("--run", type=Path, help="folder of a finished run (that of the model that comes along)")
    add("--out", type=Path, metavar="DIR", help="folder that receives the results")
    add("--overwrite", action="store_true", help="use DIR though it holds files, and replace them")
    add("--json", action="store_true", help="print what predictions.json holds, and no table")
    add(
        "--labels",
        type=Path,
        metavar="CSV",
        help="true values, by which the answers are scored: columns file (the end of an input's "
        "path), age (in years, or 20-29), gender (male, female or empty); of several faces in a "
        "photo the largest is meant",
    )
    add("--weights", type=Path, metavar="FILE", help="state dict to take instead of --run's")
    add("--script", choices=SCRIPTS, metavar="NAME", help="what trained FILE, if there is no --run")
    add("--image_size", type=int, help="side of that network's input in pixels (120)")
    add("--crops", action="store_true", help="the images are faces, cut as the training images")
    add(
        "--boxes",
        type=Path,
        metavar="CSV",
        help="faces to take instead of the detector's: columns "
        "source, frame (of a video, from 0), left, top, right, bottom in pixels",
    )
    score, size = detect.MIN_SCORE, detect.MEGAPIXELS
    lowest = f"lowest detector score, 0.01 to 1 ({score})"
    add("--min_score", type=float, default=score, help=lowest)
    add(
        "--megapixels",
        type=float,
        default=size,
        help=f"larger pictures are searched for faces in "
        f"this size; more finds smaller faces ({size})",
    )
    add("--every", type=int, default=1, metavar="N", help="look at every Nth frame of a video (1)")
    add("--no_draw", action="store_true", help="no copies of the inputs with the faces marked")
    add("--cuda", type=int, default=-1, help="CUDA device number; -1: the CPU (-1)")
    add("--batch_size", type=int, default=16, help="faces that the network sees at once (16)")
    args = parser.parse_intermixed_args(argv)
    ranges = {"every": (1, 10**9), "batch_size": (1, 10**6), "megapixels": (0.1, 50)}
    ranges |= {"min_score": (0.01, 1), "cuda": (-1, 1023), "image_size": (32, 1024)}
    for name, (low, high) in ranges.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            refuse(f"--{name} {value}: must be from {low} to {high}")
    if args.boxes and args.crops:
        refuse("--boxes goes without --crops, whose images are faces as a whole")
    if args.image_size and not args.script:
        refuse("--image_size goes with --script; a run folder holds its own")
    if os.path.exists(os.path.join(args.paths[0], "run.json")):
        refuse(f"{args.paths[0]}: is a run, no input; now it is given as --run {args.paths[0]}")
    return args


# %% The network
def load_script(name):
    """The training script beside this file as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).stem.replace("-", "_"), HERE / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_run(run):
    """The facts in RUN's run.json, of which only figures and the name of a script are believed."""
    try:
        facts = json.loads((run / "run.json").read_bytes())
        name, settings = facts["script"], facts["settings"]
        size, digest = settings["image_size"], facts["script_sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        message = "no run.json, or not one of a run; bare weights need --weights and --script"
        raise InputError(f"{run}: {message}") from None
    if name not in SCRIPTS:
        raise InputError(f"{run / 'run.json'}: its script, {name!r}, is none of these: {SCRIPTS}")
    if not (isinstance(size, int) and 32 <= size <= 1024):
        message = f"its image_size, {size!r}, is no number from 32 to 1024"
        raise InputError(f"{run / 'run.json'}: {message}")
    # a test holds the answers of the model that comes with the scripts
    changed = hashlib.sha256((HERE / name).read_bytes()).hexdigest() != digest
    if changed and run.resolve() != PRETRAINED:
        warn(f"{name} has changed since this run")
    switches = {key: bool(settings.get(key)) for key in SWITCHES}
    return name, size, switches, {key: facts.get(key) for key in ("num_classes", "youngest_age")}


def terms_of(weights):
    """The terms of use that the run.json beside the file ``weights`` tells, or ""."""
    try:
        told = json.loads((Path(weights).parent / "run.json").read_bytes())["licence"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return told if isinstance(told, str) else ""


def read_weights(path):
    """The state dict in the file ``path``, and the shapes of its tensors."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles; what counts is checked below
            state = torch.load(path, map_location="cpu", weights_only=True)
        shapes = {str(key): tuple(tensor.shape) for key, tensor in state.items()}
        odd = [key for key, tensor in state.items() if not tensor.isfinite().all()]
    except Exception as error:  # what a damaged file raises is not documented
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:150]
        raise InputError(f"{path}: not the state dict of a network ({reason})") from None
    if odd:
        raise InputError(f"{path}: {odd[0]!r} is not finite: that training had diverged")
    return state, shapes


def need_detector(otherwise=""):
    """InputError where a package is missing that finds faces."""
    for name in detect.PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"{name} is not installed: {media.EXTRAS}{otherwise}")


def load(run=None, *, weights=None, script=None, image_size=120, cuda=-1):
    """The network of the folder ``run``, or the one that comes with the project, in a namespace
    with all that preparing its input takes: of a run with validation that of the best epoch, since
    that is what the validation was for.

    ``weights`` is the path of a state dict to take instead of that of ``run``, or, without one, of
    a network of ``script``, the name of the training script, and ``image_size`` in pixels.
    ``cuda`` is the number of the device, -1 the CPU. InputError where it can't be had.
    """
    if (script and (run or not weights)) or (weights and not (run or script)):
        message = "the folder of their run, or with --script, what trained them, not with both"
        raise InputError(f"give --weights with --run, {message}")
    if cuda >= (count := torch.cuda.device_count()):
        message = f"this machine has {count} CUDA devices; --cuda -1 is the CPU"
        raise InputError(f"--cuda {cuda}: {message}")
    name, size, switches, ages = script, image_size, dict.fromkeys(SWITCHES, False), {}
    if not script:
        run = Path(run or PRETRAINED)
        name, size, switches, ages = read_run(run)
        if not weights:  # an unfinished run may hold the best epoch so far, but no model.pt
            weights, best = run / "model.pt", run / "best_model.pt"
            if not weights.exists():
                raise InputError(f"{run}: holds no model.pt; finish the training: give it --resume")
            weights = best if best.exists() else weights
    state, shapes = read_weights(weights)
    module = load_script(name)
    network = module.ResNet34(gender=any(key.startswith("fc_gender.") for key in shapes))
    due = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    for key in due | shapes:
        if shapes.get(key) != due.get(key):
            found = f"{key!r} is {shapes.get(key, 'missing')}, not {due.get(key, 'expected')}"
            raise InputError(f"{weights}: does not fit {name}: {found}")
    for key, value in ages.items():
        ours = getattr(module, key.upper())
        if value not in (None, ours):
            message = f"its {key} is {value!r}, that of {name} is {ours}"
            raise InputError(f"{run / 'run.json'}: {message}")
    network.load_state_dict(dict(state))  # as a plain dict it is without what may lie beside it
    device = torch.device("cuda", cuda) if cuda >= 0 else torch.device("cpu")
    network.eval().to(device)
    if switches["channels_last"]:
        network.to(memory_format=torch.channels_last)
    return SimpleNamespace(
        script=module, network=network, size=size, device=device, weights=str(weights),
        licence=terms_of(weights), **switches
    )  # fmt: skip


def title(model, name):
    """Which model answers, by which script it was trained, and its terms, where they are told."""
    text = f"{name}, by {Path(model.script.__file__).name}"
    return f"{text}; licence: {model.licence}" if model.licence else text


def face_images(pixels, face, model, turns=(0,)):
    """PIL images of a ``face`` (of detect.find_faces) in ``pixels``, as the training images show
    theirs, in the squares of detect.squares()."""
    squares = detect.squares(face, model.script.DATASET, turns)
    images = [detect.cut(pixels, *square) for square in squares]
    # the script would cut these pixels out of the middle of a larger image
    crop = model.script.CENTER_CROP
    return [image.resize([crop, crop]) if crop else image for image in images]


def prepare(image, model):
    """uint8 (3, S, S) of a PIL image, as the training script prepares a test image."""
    return model.script.central_crop(model.script.prepare_image(image, model.size), model.size)


def infer(images, model, batch_size):
    """Of a list of uint8 (3, S, S), what the script answers in its tests: probabilities, float32
    (n, K-1), for ce (n, K), and P(male) (n,) or n times None."""
    probas, male = [], []
    for start in range(0, len(images), batch_size):
        batch = np.stack(images[start : start + batch_size])
        batch = model.script.to_device(batch, model.device, model.channels_last)
        answers = model.script.predict_batch(model.network, batch, model.flip, model.shifts)
        told = answers if model.network.fc_gender else answers[:1]
        if not all(part.isfinite().all() for part in told):
            reason = "its network answers what is no number: it is damaged, or training diverged"
            raise InputError(f"{Path(model.weights).name}: {reason}")
        probas.append(answers[0].cpu())
        male += answers[1].tolist() if model.network.fc_gender else [None] * len(batch)
    return torch.cat(probas) if probas else [], male


def infer_faces(faces, model, batch_size):
    """The means of infer() over the images of each of ``faces``, which are lists of images."""
    probas, male = infer([image for images in faces for image in images], model, batch_size)
    if faces:
        sizes = [len(images) for images in faces]
        probas = torch.stack([part.mean(0) for part in probas.split(sizes)])
        if model.network.fc_gender:
            male = [part.mean().item() for part in torch.tensor(male).split(sizes)]
        else:
            male = [None] * len(faces)
    return probas, male


# %% What is said of a face
def class_probas(probas, count):
    """Probabilities of the K = ``count`` classes, float64 (K,): those of ce, or from P(y > k),
    (K-1,), sorted, which leaves the number above 0.5, the label, as it is."""
    probas = np.asarray(probas, np.float64)
    given = len(probas) == count
    return probas if given else -np.diff(np.sort(probas)[::-1], prepend=1, append=0)


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
    first, last, held = interval(class_probas(probas, script.NUM_CLASSES), label)
    ages = [script.YOUNGEST_AGE + number for number in (label, first, last)]
    columns = dict(zip(("age", "age_low", "age_high"), ages, strict=True))
    columns["interval_probability"] = round(held, 4)
    columns["at_end_of_range"] = label in (0, script.NUM_CLASSES - 1)
    if male is not None:
        columns["gender"] = "male" if male > 0.5 else "female"
        columns["gender_probability"] = round(max(male, 1 - male), 4)
    return columns


def words_of(row, model):
    """Age, interval and gender of a row in words: 32, 27-38, female 83%."""
    end = ""
    if row["at_end_of_range"] and row["age"]:
        end = " or younger" if row["age"] == model.script.YOUNGEST_AGE else " or older"
    gender = f"{row['gender']} {row['gender_probability']:.0%}" if "gender" in row else ""
    return f"{row['age']}{end}", f"{row['age_low']}-{row['age_high']}", gender


def sentence(row, model):
    """What is drawn beside a face: 32 (27-38), female 83%."""
    age, years, gender = words_of(row, model)
    return f"{age} ({years})" + f", {gender}" * bool(gender)


LINE = "{:>13}  {:>8}  {:<11}  {:>4}  {}"  # of what is printed
HEAD = LINE.format("age", "interval", "gender", "face", "picture")


def line_of(row, model):
    """What is printed of a row."""
    source = row["source"]
    if row["kind"] == "track":
        source += f" {row['seconds']:.2f}-{row['until_seconds']:.2f} s"
    if "true_age" in row:
        source += f" (true: {row['true_age']} {row.get('true_gender', '')}".rstrip() + ")"
    return LINE.format(*words_of(row, model), row["face"], source)


# %% Pictures and the faces in them
def read_boxes(path):
    """{(source, frame): boxes} from the table that --boxes names, which may be a predictions.csv;
    the frame of an image is 0."""
    boxes = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), 1):
                if row.get("kind") == "track":  # a summary, without a box
                    continue
                place, values = f"--boxes {path}: row {number}", [row[side] for side in SIDES]
                try:
                    box, frame = list(map(float, values)), float(row.get("frame") or 0)
                except ValueError as error:
                    raise InputError(f"{place}: {error}") from None
                sized = all(abs(side) < 1e6 for side in box)
                if not (box[0] < box[2] and box[1] < box[3] and sized):
                    raise InputError(f"{place}: no box: {box}")
                if not (frame >= 0 and frame.is_integer()):
                    raise InputError(f"{place}: frame {row['frame']!r}: give a number from 0")
                boxes.setdefault((os.path.realpath(row["source"]), int(frame)), []).append(box)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        columns = "source, frame, left, top, right, bottom"
        raise InputError(f"--boxes {path}: not a table of {columns} ({error})") from None
    except OSError as error:
        raise InputError(f"--boxes {path}: {error.strerror}") from None
    return boxes


def given_faces(pixels, boxes, args):
    """The faces in the ``boxes`` of the user's table, with landmarks, found where they can be."""
    faces = []
    for box in boxes:
        low, high = np.array(box[:2]), np.array(box[2:])
        if (high <= 0).any() or (low >= pixels.shape[1::-1]).any():
            raise ValueError(f"--boxes: {box} is outside the picture, {pixels.shape[1::-1]}")
        found = detect.find_again(pixels, [box], args.min_score)
        shares = [detect.overlap(face.box, box)[0] for face in found]
        points = detect.likely_points(box)
        if shares and max(shares) >= OVERLAP:
            points = found[int(np.argmax(shares))].points
        faces.append(SimpleNamespace(box=box, score=None, points=points))
    return faces


def find_faces(pixels, path, number, seconds, clip, args):
    """The faces in a picture, as of detect.find_faces(), and whether the network is to be asked
    about them. With --crops the whole picture, with --boxes what they tell; else in most pictures
    of a video those found before, looked for around their places."""
    if args.crops:
        box = (0, 0, pixels.shape[1], pixels.shape[0])
        return [SimpleNamespace(box=box, score=None, points=None)], True
    if args.boxes is not None:
        return given_faces(pixels, args.boxes.get((os.path.realpath(path), number), []), args), True
    if not clip:
        return detect.find_faces(pixels, args.min_score, args.megapixels), True
    if seconds - clip.searched < SEARCH - 1e-6:
        if len(clip.boxes) * detect.WINDOW**2 < pixels[..., 0].size:
            faces = detect.find_again(pixels, clip.boxes, args.min_score)
        else:
            faces = detect.find_faces(pixels, args.min_score, args.megapixels)
        # one not found is looked for again, unless another is before it
        found = [face.box for face in faces]
        clip.boxes = found + [
            box
            for box in clip.boxes
            if all(max(detect.overlap(box, other)) < OVERLAP for other in found)
        ]
        return faces, False
    faces = detect.find_faces(pixels, args.min_score, args.megapixels)
    clip.boxes, clip.searched = [face.box for face in faces], seconds
    return faces, True


def read_picture(path, source, clip, number, seconds, pixels, args, model):
    """A picture as a namespace, with its faces prepared for the network, if it is to be asked.
    ``clip`` is what is known of its video, None for an image."""
    looked, limits = number % args.every == 0, np.tile(pixels.shape[1::-1], 2)
    found, asked = [], False
    if looked:
        found, asked = find_faces(pixels, path, number, seconds, clip, args)
    if args.crops:
        images = [[PIL.Image.fromarray(pixels)] for _ in found]
    else:
        turns = TURNS if clip is None else (0,)
        images = [face_images(pixels, face, model, turns) for face in found if asked]
    boxes = [np.clip(np.round(face.box), 0, limits).astype(int).tolist() for face in found]
    return SimpleNamespace(
        source=source, clip=clip, number=number, seconds=seconds, pixels=pixels, looked=looked,
        asked=asked, boxes=boxes, scores=[face.score for face in found],
        faces=[[prepare(image, model) for image in some] for some in images],
    )  # fmt: skip


def read_inputs(paths, args, model, fail, bar):
    """Yield the pictures of read_picture(); the last one of a video is followed by one without
    pixels."""
    for path in paths:
        source = str(path).encode("utf-8", "backslashreplace").decode()  # fit for a file,
        source = source.replace("\r", r"\r")  # and for a CSV, whose writer does not quote these
        clip, note = None, functools.partial(args.note, source)
        try:
            try:
                # crops are turned if those were that the script has learned from
                pixels = media.read_image(path, note, not args.crops or model.script.UPRIGHT)
            except PIL.UnidentifiedImageError:
                clip = new_clip()
                with closing(media.read_video(path, clip, note)) as frames:
                    for number, (seconds, pixels) in enumerate(frames):
                        if not number:
                            bar.total += max(clip.length - 1, 0)
                        yield read_picture(path, source, clip, number, seconds, pixels, args, model)
                        bar.update()
            else:
                yield read_picture(path, source, None, 0, None, pixels, args, model)
                bar.update()
        except Exception as error:  # Pillow and FFmpeg raise many kinds on damaged files
            fail(source, error)
        if clip:
            yield SimpleNamespace(source=source, clip=clip, pixels=None, boxes=[], faces=[])


def reason_of(error):
    """One line that says why a file has failed."""
    if isinstance(error, ImportError) and error.name == "av":
        return f"not an image; videos need PyAV: {media.EXTRAS}"
    reason = getattr(error, "strerror", None) or str(error)  # without the path
    return " ".join(reason.split()) or type(error).__name__


def new_clip():
    """What is known of a video: its tracks, where its faces were last, and its marked copy."""
    return SimpleNamespace(
        tracks={}, count=0, looks=deque(maxlen=10), boxes=[], searched=-math.inf,
        shown=[], output=None, failed=False, seconds=0, pts=-1, shift=0,
    )  # fmt: skip


def in_batches(pictures, size):
    """Lists of pictures with some ``size`` faces for the network in all, or less where there are
    many or large pictures."""
    held = []
    for picture in pictures:
        held.append(picture)
        pixels = sum(p.pixels.nbytes for p in held if p.pixels is not None)
        faces = sum(len(p.faces) for p in held)
        if faces >= size or len(held) >= 4 * size or pixels >= HELD:
            yield held
            held = []
    if held:
        yield held


def side_by_side(items):
    """The items of a generator, each made by a second thread while the one before it is used."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item


# %% Tracks
def expected_box(track, seconds):
    """Where a track's face is at a time if it went on as in its last pictures; without that, two
    people would swap their tracks after hiding each other. Of a face not seen for a while all
    pictures noted count, because the boxes of one half hidden are too small, and beside it."""
    places = np.array(track.places)  # (pictures, 5): seconds, centre, width, height
    if seconds - places[-1, 0] > HIDDEN:
        since = places[:, 0] - places[:, 0].mean()
        speed = since @ places[:, 1:3] / max(since @ since, 1e-9)
        centre = places[:, 1:3].mean(axis=0) + speed * (seconds - places[:, 0].mean())
        half = np.median(places[:, 3:], axis=0) / 2
    else:
        first, last = places[-10:][0], places[-1]
        speed = (last - first)[1:3] / max(last[0] - first[0], 1e-9)
        centre, half = last[1:3] + speed * (seconds - last[0]), last[3:] / 2
    return (*(centre - half).tolist(), *(centre + half).tolist())


def patience(clip):
    """Seconds for which a track waits: PATIENCE, more where pictures come more seldom."""
    times = list(clip.looks)
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    return max(PATIENCE, 2 * statistics.median(gaps) if gaps else 0)


def follow(clip, picture, probas, male):
    """{face: its track} of a picture, continued or new: pairs of higher overlap first, which also
    prefers boxes of the same size. Adds the faces' probabilities to their tracks; a face of which
    the network was not asked begins none, and is left out."""
    pairs = []
    for face, track in clip.tracks.items():
        expected = expected_box(track, picture.seconds)
        shares = [detect.overlap(expected, box)[0] for box in picture.boxes]
        pairs += [(share, face, i) for i, share in enumerate(shares)]
    found = {}
    for value, face, i in sorted(pairs, reverse=True):
        if value >= OVERLAP and i not in found and face not in found.values():
            found[i] = face
    for i, box in enumerate(picture.boxes):
        if i not in found and picture.asked:
            clip.count += 1
            found[i] = clip.count
            clip.tracks[clip.count] = SimpleNamespace(
                face=clip.count, places=deque(maxlen=30), frames=0, asked=0, probas=0, male=0,
                score=0, frame=picture.number, seconds=picture.seconds,
            )  # fmt: skip
        if i in found:
            track = clip.tracks[found[i]]
            track.box, track.until, track.frames = box, picture.seconds, track.frames + 1
            size = np.subtract(box[2:], box[:2])
            track.places.append((picture.seconds, *(box[:2] + size / 2), *size))
            track.score = None if picture.scores[i] is None else track.score + picture.scores[i]
        if picture.asked:
            track.asked += 1
            track.probas = track.probas + probas[i].double()
            track.male = None if male[i] is None else track.male + male[i]
    return {i: clip.tracks[face] for i, face in sorted(found.items())}


def mean_estimate(track, model):
    """estimate() of a track's faces so far, from the means of their probabilities."""
    male = None if track.male is None else track.male / track.asked
    return estimate(track.probas / track.asked, male, model)


# %% Output
@functools.cache
def font(size):
    return ImageFont.load_default(size)


def mark(pixels, faces):
    """A PIL image of ``pixels`` with the ``faces``, (box, text), marked in it."""
    image = PIL.Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    least, most = (max(1, max(image.size) / 1000) * height for height in LETTERS)
    labels = []
    for box, text in faces:
        letters = font(round(min(max(least, (box[2] - box[0]) / 8), most)))
        _, _, across, down = draw.textbbox((0, 0), text, letters)
        labels.append((text, letters, (across + down // 2, down + down // 3)))
    places = place_labels(image.size, [box for box, _ in faces], [size for *_, size in labels])
    for box, _ in faces:
        draw.rectangle(box, outline=BLUE, width=max(2, round(box[2] - box[0]) // 40))
    for (text, letters, (across, down)), (x, y) in zip(labels, places, strict=True):
        draw.rectangle((x, y, x + across, y + down), fill=BLUE)
        draw.text((x + across / 2, y + down / 2), text, "white", letters, anchor="mm")
    return image


def place_labels(size, boxes, labels):
    """Left upper corners of ``labels``, (width, height), each near its box: above it, below it,
    beside it, or in it, wherever it hides least of the other faces and labels, and then of its own
    face. All in pixels of a picture of this ``size``."""
    taken, places = list(boxes), []
    for box, (across, down) in zip(boxes, labels, strict=True):
        left, top, right, bottom = box
        columns = left, right - across, (left + right - across) / 2, left - across, right
        rows = top - down, bottom, bottom + down, top - 2 * down, top, bottom - down
        least = math.inf, math.inf
        for y, x in itertools.product(rows, columns):
            x = max(0, min(x, size[0] - across))
            y = max(0, min(y, size[1] - down))
            label = x, y, x + across, y + down
            own = detect.common(label, box)
            hidden = sum(detect.common(label, other) for other in taken) - own, own
            if hidden < least:  # of equal places the first
                least, place = hidden, label
            if least == (0, 0):
                break
        taken.append(place)
        places.append(place[:2])
    return places


def free_path(out, source, suffix, taken):
    """A path in ``out`` named after ``source``, numbered where several inputs have that name, and
    shortened where it would be too long for a file system."""
    stem, number = Path(source).stem, 1
    while len(stem.encode()) > 200:
        stem = stem[:-1]
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

    clip.output = ExitStack()
    file = clip.output.enter_context(written(path))
    clip.container = clip.output.enter_context(av.open(file, "w", format="mp4"))
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    rate = min(max(round(clip.rate), 1), 60)  # the times are told picture by picture
    clip.stream = clip.container.add_stream(codec, rate)
    clip.stream.width, clip.stream.height = (max(pixels // 2, 1) * 2 for pixels in size)
    clip.stream.bit_rate = max(round(0.15 * math.prod(size) * rate), 100_000)
    clip.stream.pix_fmt, clip.stream.codec_context.time_base = "yuv420p", TICK


def encode(image, clip, seconds):
    """Add a picture to the clip's marked copy."""
    import av

    clip.shift += max(seconds - clip.seconds - LONGEST_GAP, 0)
    clip.seconds = seconds
    frame = av.VideoFrame.from_image(image)
    frame = frame.reformat(clip.stream.width, clip.stream.height, "yuv420p")
    clip.pts = max(clip.pts + 1, round((seconds - clip.shift) / TICK))
    frame.pts, frame.time_base = clip.pts, TICK
    clip.container.mux(clip.stream.encode(frame))


def write_copy(picture, marks, clip, path_for, fail):
    """Write the marked copy of an image, or the next picture of a video's; what goes wrong is the
    failure of this input alone."""
    try:
        if not clip:
            if max(picture.pixels.shape) > LONGEST_SIDE:
                raise ValueError(f"a side of more than {LONGEST_SIDE:,} pixels; give --no_draw")
            path = path_for(picture.source, ".jpg")
            media.write_jpeg(mark(picture.pixels, marks), path, quality=90)
        elif not clip.failed:
            image = mark(picture.pixels, marks)
            if not clip.output:
                open_copy(clip, path_for(picture.source, ".mp4"), image.size)
            encode(image, clip, picture.seconds)
    except Exception as error:  # Pillow and FFmpeg raise many kinds
        fail(picture.source, error, "its marked copy: ")
        if clip:
            drop_copy(clip)


def end_copy(source, clip, note, fail):
    """Complete the marked copy of a video."""
    if clip.output:
        try:
            clip.container.mux(clip.stream.encode())
            clip.output.close()
        except Exception as error:
            fail(source, error, "its marked copy: ")
            drop_copy(clip)
        else:
            if clip.sound:
                note(source, "the marked copy is without its sound")


def drop_copy(clip):
    """End a marked copy that failed; nothing of it stays."""
    clip.failed = True
    if clip.output:
        with suppress(Exception):
            clip.output.__exit__(*sys.exc_info())
        clip.output = None


@contextmanager
def report(args, model):
    """What receives the answers: a function that prints a row and adds it to predictions.csv and
    predictions.json, and the list of failures, which ends the latter."""
    script = model.script
    columns = "source kind frame seconds until_seconds face frames left top right bottom score "
    columns += "age age_low age_high interval_probability at_end_of_range"
    columns = columns.split()
    if model.network.fc_gender:
        columns += ["gender", "gender_probability"]
    if args.labels is not None:
        columns += ["true_age", "true_gender"]
    oldest = script.YOUNGEST_AGE + script.NUM_CLASSES - 1
    facts = {"weights": model.weights, "dataset": script.DATASET, "loss": script.LOSS}
    facts |= {"ages": [script.YOUNGEST_AGE, oldest], "interval_coverage": COVERAGE}
    head = json.dumps({"note": NOTE, "model": facts}, indent=1).removesuffix("\n}")
    failures, labelled, rows = [], [], 0
    with ExitStack() as files:
        if args.out:
            try:
                if (held := lock(args.out)) is not None:
                    files.callback(os.close, held)
            except BlockingIOError as error:
                raise InputError(f"--out {args.out}: {error.strerror}") from None
            path = args.out / "predictions.csv"
            table = files.enter_context(written(path, "w", encoding="utf-8", newline=""))
            file = files.enter_context(written(args.out / "predictions.json", "w"))
        else:
            table = files.enter_context(open(os.devnull, "w", encoding="utf-8"))
            file = io.StringIO() if args.json else table
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        file.write(head + ',\n "faces": [')

        def add(row):
            nonlocal rows
            writer.writerow(row)
            file.write((",\n  " if rows else "\n  ") + json.dumps(row))
            rows += 1
            labelled.extend([row] if "true_age" in row else [])
            if row["kind"] != "frame" and not args.json:
                say(line_of(row, model))

        yield add, failures
        file.write("\n ],\n")
        if args.labels is not None:
            scores = labels.scores(labelled)
            file.write(f' "scores": {json.dumps(scores)},\n')
            say(f"{len(labelled)} of {len(args.labels)} labelled photos are here, with a face")
            for line in labels.as_table(scores):
                say(line)
        file.write(f' "failures": {json.dumps(failures)}\n}}\n')
        text = file.getvalue() if args.json and not args.out else ""
    if args.json:
        args.stdout.write(text or (args.out / "predictions.json").read_text())


def ended_tracks(clip, before, source, model):
    """Summary rows of the tracks whose face was last found before the time ``before``, which end
    with that."""
    rows = []
    for track in [track for track in clip.tracks.values() if track.until < before]:
        del clip.tracks[track.face]
        row = {"source": source, "kind": "track", "frame": track.frame}
        row |= {"seconds": round(track.seconds, 4), "until_seconds": round(track.until, 4)}
        row |= {"face": track.face, "frames": track.frames}
        if track.score is not None:
            row["score"] = round(track.score / track.frames, 4)
        rows.append(row | mean_estimate(track, model))
    return rows


def finish(pictures, args, model, add, path_for, fail):
    """Estimate the faces of ``pictures``; write their rows and marked copies."""
    probas, male = infer_faces([f for p in pictures for f in p.faces], model, args.batch_size)
    begin = 0
    for picture in pictures:
        clip, part = picture.clip, slice(begin, begin + len(picture.faces))
        begin = part.stop
        if picture.pixels is None:
            for row in ended_tracks(clip, math.inf, picture.source, model):
                add(row)
            end_copy(picture.source, clip, args.note, fail)
            continue
        if clip:
            marks = frame_marks(picture, clip, probas[part], male[part], add, model)
        else:
            marks = image_marks(picture, probas[part], male[part], args, add, model)
        if not args.no_draw:
            write_copy(picture, marks, clip, path_for, fail)


def place_columns(picture, i):
    """The columns about the place of a picture's face ``i``."""
    columns = dict(zip(SIDES, picture.boxes[i], strict=True))
    if picture.scores[i] is not None:
        columns["score"] = round(picture.scores[i], 4)
    return columns


def image_rows(picture, probas, male, model):
    """The rows of an image's faces."""
    rows = []
    for i in range(len(picture.boxes)):
        row = {"source": picture.source, "kind": "image", "face": i + 1}
        rows.append(row | place_columns(picture, i) | estimate(probas[i], male[i], model))
    return rows


def frame_rows(picture, clip, probas, male, model):
    """Of a frame of a video that was looked at: rows of the tracks that end before it, rows of its
    faces, and their tracks."""
    clip.looks.append(picture.seconds)
    ended = ended_tracks(clip, picture.seconds - patience(clip), picture.source, model)
    rows, tracks = [], follow(clip, picture, probas, male)
    for i, track in tracks.items():
        row = {"source": picture.source, "kind": "frame", "frame": picture.number}
        row |= {"seconds": round(picture.seconds, 4), "face": track.face, "frames": track.frames}
        rows.append(row | place_columns(picture, i) | mean_estimate(track, model))
    return ended, rows, tracks.values()


def add_labels(rows, source, args):
    """Add its true age and gender to the row of the largest face, which a photo's label means."""
    key = labels.key_of(source, args.labels)
    if key and rows:
        areas = [(r["right"] - r["left"]) * (r["bottom"] - r["top"]) for r in rows]
        known = dict(zip(("true_age", "true_gender"), args.labels[key], strict=True))
        rows[int(np.argmax(areas))] |= {name: value for name, value in known.items() if value}


def image_marks(picture, probas, male, args, add, model):
    """Add the rows of an image's faces; what is to be marked, (box, text)."""
    rows = image_rows(picture, probas, male, model)
    if args.labels is not None:
        add_labels(rows, picture.source, args)
    for row in rows:
        add(row)
    if not rows:
        say(LINE.format("no face", "", "", "", picture.source))
    return [(b, sentence(r, model)) for b, r in zip(picture.boxes, rows, strict=True)]


def frame_marks(picture, clip, probas, male, add, model):
    """Add the rows of a video frame's faces, and those of tracks that end; what is to be marked,
    (box, text). In a frame that was not looked at, faces move on as before."""
    if not picture.looked:
        return [(expected_box(track, picture.seconds), text) for track, text in clip.shown]
    ended, rows, tracks = frame_rows(picture, clip, probas, male, model)
    for row in ended + rows:
        add(row)
    texts = [f"#{row['face']}  {sentence(row, model)}" for row in rows]
    clip.shown = list(zip(tracks, texts, strict=True))
    return [(track.box, text) for track, text in clip.shown]


def answer(paths, args, model, add, path_for, fail, bar):
    """Predict for the files ``paths``: add(row) gets the rows, fail(source, error, what="") what
    goes wrong, args.note(source, what) what is left out, path_for(source, suffix) names the marked
    copies, ``bar`` counts the pictures."""
    pictures = read_inputs(paths, args, model, fail, bar)
    for batch in side_by_side(in_batches(pictures, args.batch_size)):
        finish(batch, args, model, add, path_for, fail)


# %% For programs
def options(*, crops=False, every=1, min_score=detect.MIN_SCORE, megapixels=detect.MEGAPIXELS):
    """What read_picture() and what it calls take from the command line, in a namespace."""
    return SimpleNamespace(
        crops=crops, boxes=None, every=every, min_score=min_score, megapixels=megapixels
    )


def faces(model, image, **changed):
    """The faces in ``image``, the one the detector is surest of first, as dicts of the columns of
    predictions.csv (box in pixels, ages in years), and ``age_probas``, the probabilities of all
    ages that the model knows.

    image: a path, a PIL image, or uint8 (height, width, 3). model: of load(). ``changed``:
    crops=True for an image that is a face as a whole, min_score, megapixels. ValueError, OSError,
    or what Pillow raises, where there is no image.
    """
    args, source = options(**changed), ""
    turn = not args.crops or model.script.UPRIGHT
    if isinstance(image, PIL.Image.Image):
        image = media.as_rgb(image, turn)
    elif not isinstance(image, np.ndarray):
        source = str(image)
        image = media.read_image(image, functools.partial(warn, source), turn)
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"no image: {pixels.dtype} {pixels.shape}, not uint8 (height, width, 3)")
    picture = read_picture(source, source, None, 0, None, pixels, args, model)
    probas, male = infer_faces(picture.faces, model, 16)
    rows = image_rows(picture, probas, male, model)
    for row, some in zip(rows, probas, strict=True):
        row["age_probas"] = class_probas(some, model.script.NUM_CLASSES).tolist()
    return rows


def video(model, path, **changed):
    """Yield (number, seconds, faces) of the frames of the video at ``path``: the faces as of
    faces(), ``face`` being the number of a track, over which what is said of it is averaged.

    ``changed``: every=N for every Nth frame only, min_score, megapixels. ValueError, or what PyAV
    raises, where there is no video, or after the last frame if some of it was damaged.
    """
    args, source, clip = options(**changed), str(path), new_clip()
    frames = media.read_video(path, clip, functools.partial(warn, source))
    for number, (seconds, pixels) in enumerate(frames):
        picture = read_picture(path, source, clip, number, seconds, pixels, args, model)
        if picture.looked:
            _, rows, _ = frame_rows(picture, clip, *infer_faces(picture.faces, model, 16), model)
            yield number, seconds, rows


# %% From the command line
def run(args):
    """Predict for all inputs; the list of failures."""
    try:
        paths, notes, unread = media.find_files(args.paths, args.out)
        known = args.labels and labels.read_labels(args.labels)
    except ValueError as error:
        raise InputError(error) from None
    if not args.crops:
        need_detector(", or give --crops")
    if args.out and args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out}: is a file; give a folder")
    if args.out and args.out.exists() and any(args.out.iterdir()) and not args.overwrite:
        message = "holds files already; give another folder, or --overwrite"
        raise InputError(f"--out {args.out}: {message}")
    if args.boxes:
        boxes = read_boxes(args.boxes)
        if boxes and not {source for source, _ in boxes} & set(map(os.path.realpath, paths)):
            message = "no source in it is one of the inputs; give their paths as from this folder"
            raise InputError(f"--boxes {args.boxes}: {message}")
        args.boxes = boxes
    given = {"weights": args.weights, "script": args.script, "image_size": args.image_size or 120}
    model = load(args.run, **given, cuda=args.cuda)
    if args.labels:
        try:
            labels.check_labels(known, paths, map(load_script, SCRIPTS))
        except ValueError as error:
            raise InputError(f"{args.labels}: {error}") from None
        args.labels = known
    args.note = warn
    say(title(model, model.weights))
    if not args.json:
        say(HEAD)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        path_for = functools.partial(free_path, args.out, taken=set())
    else:
        args.no_draw, path_for = True, None
    with (
        report(args, model) as (add, failures),
        tqdm(total=len(paths), unit="pictures", disable=None) as bar,
    ):

        def fail(source, error, what=""):
            reason = what + reason_of(error)
            failures.append({"source": source, "reason": reason})
            say(f"predict.py: error: {source}: {reason}", sys.stderr)

        for error in unread:
            fail(error.filename, error)
        answer(paths, args, model, add, path_for, fail, bar)
    for note in notes:
        say(note)
    say(NOTE)
    if args.out:
        say(f"{args.out / 'predictions.csv'}, {args.out / 'predictions.json'}: written")
    return failures


def main(argv=None):
    """Run with the given command-line arguments; the exit code."""
    args = parse_settings(argv)
    args.stdout = Output(sys.stdout)  # with --json for nothing else
    try:
        with (
            redirect_stdout(sys.stderr if args.json else args.stdout),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # of odd tags and palettes, which a user cannot mend
            failures = run(args)
    except InputError as error:
        refuse(error)
    except OSError as error:
        refuse(f"{error.filename or args.out or 'input'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        refuse("interrupted; no predictions were written", 130)
    args.stdout.flush()
    if args.stdout.error:
        # or Python, which flushes it once more at its end, complains in its own way
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        refuse(f"standard output: {args.stdout.error.strerror}", 1)
    return 1 if failures else 0


def end_as_on_ctrl_c(*names):
    """Let signals do what Ctrl-C does, so that no half-written file stays, and return their
    numbers; not those that are ignored, as by nohup, nor those that a system does not have."""
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    numbers = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
    for number in numbers:
        signal.signal(number, signal.default_int_handler)
    return numbers


if __name__ == "__main__":
    end_as_on_ctrl_c("SIGTERM", "SIGHUP")
    if hasattr(sys.stdout, "reconfigure"):  # in a notebook it has not
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has all characters
    sys.exit(main())
