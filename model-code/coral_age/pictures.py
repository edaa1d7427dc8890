"""The faces in pictures, in one or many images or in a video, as rows of predictions.csv.

model = coral_age.load()
for face in coral_age.faces(model, "photo.jpg"):
    print(face["age"], face["gender"])
"""

import contextlib
import csv
import functools
import math
import os
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import PIL.Image

from coral_age import detect, doubts, media
from coral_age.answers import estimate, infer_faces, prepare
from coral_age.errors import InputError, warn
from coral_age.intervals import class_probas
from coral_age.threads import in_order, lists_of
from coral_age.tracks import (
    OVERLAP,
    Clip,
    ended_tracks,
    follow,
    has_changed,
    mean_estimate,
    note_cut,
    patience,
    with_look,
)

# Degrees by which the network is shown a face of a photo; those of a video turn by themselves.
TURNS = -4, 0, 4

# Seconds after which all of a video's picture is searched for faces again, and the network asked
# about them: the faces of pictures in between are nearly the same, and only followed.
SEARCH = 0.25

BATCH = 16  # images that the network sees at once; fewer take longer, each
SHOWN = 4  # of a photo, about
SIDES = "left", "top", "right", "bottom"  # of a box
SMALLEST = 8  # pixels of a box's longer side: the detector finds faces of 14, cut off at a border


@dataclass(frozen=True)
class Search:
    """How faces are looked for."""

    crops: bool = False  # each image is a face as a whole
    boxes: dict | None = None  # of read_boxes(), the faces to take instead of the detector's
    every: int = 1  # every Nth frame of a video is looked at
    min_score: float = detect.MIN_SCORE
    megapixels: float = detect.MEGAPIXELS  # in which a larger picture is searched


@dataclass
class Picture:
    """An image, or a frame of a video; without pixels the end of a video, or what failed."""

    source: str
    pixels: np.ndarray | None = None  # uint8 (height, width, 3)
    path: object = ""
    clip: Clip | None = None  # what is known of its video
    number: int = 0  # of the frame, from 0
    seconds: float | None = None  # from the first frame
    error: Exception | None = None
    notes: list = field(default_factory=list)  # what is to be said of it
    size: tuple = ()  # (width, height) of the photo, of which pixels may have half
    # what look_at() adds
    looked: bool = False  # for faces
    asked: bool = False  # the network is to be
    turn: int | None = None  # degrees clockwise: how a photo is to be turned to stand upright
    outside: list = field(default_factory=list)  # the user's boxes that are not in the picture
    boxes: list = field(default_factory=list)  # of the faces, in whole pixels,
    places: list = field(default_factory=list)  # and in those of the photo
    scores: list = field(default_factory=list)
    looks: list = field(default_factory=list)  # thumbnails of the faces of a video,
    changed: list = field(default_factory=list)  # whether they are others than before,
    change: float = -math.inf  # when that was so last,
    cut: float = -math.inf  # and when there was a cut last
    faces: list = field(default_factory=list)  # of each the images for the network,
    doubts: list = field(default_factory=list)  # and what speaks against it, of doubts.of_face()

    def scale(self):
        """What takes a box in ``pixels`` to one in the photo's own, float (4,)."""
        return np.tile(np.divide(self.size, self.pixels.shape[1::-1]), 2)


def read_boxes(path):
    """{source: {frame: boxes}} from the table that --boxes names, which may be a predictions.csv;
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
                if max(box[2] - box[0], box[3] - box[1]) < SMALLEST:
                    what = f"too small for a face, below {SMALLEST} pixels; give pixels, not parts"
                    raise InputError(f"{place}: {what} of the picture: {box}")
                of_source = boxes.setdefault(os.path.realpath(row["source"]), {})
                of_source.setdefault(int(frame), []).append(box)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        columns = "source, frame, left, top, right, bottom"
        raise InputError(f"--boxes {path}: not a table of {columns} ({error})") from None
    except OSError as error:
        raise InputError(f"--boxes {path}: {error.strerror}") from None
    return boxes


def as_shown(box, path, size):
    """Where a box in the stored pixels of the image at ``path`` is in those that are shown, of
    (width, height) ``size``; None if it is stored as it is shown."""
    orientation = None
    # Pillow raises many kinds on damaged tags
    with contextlib.suppress(Exception), PIL.Image.open(path) as image:
        orientation = image.getexif().get(media.ORIENTATION)
    if orientation not in media.TURNS:
        return None
    corners = np.reshape(box, (2, 2))
    if orientation >= 5:  # on its side
        corners = corners[:, ::-1]
    mirrored = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    corners = np.where(mirrored, size - corners, corners)
    return [*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()]


def unused_boxes(boxes, frames, every):
    """How many of the user's ``boxes``, {frame: boxes}, had no use in an input of so many
    ``frames``, in words; empty if all had."""
    used = [some for frame, some in boxes.items() if frame < frames and frame % every == 0]
    counts = {
        "beyond its end": sum(len(some) for frame, some in boxes.items() if frame >= frames),
        "of frames that --every leaves out": sum(
            len(some) for frame, some in boxes.items() if frame < frames and frame % every
        ),
        "given twice": sum(len(some) - len(set(map(tuple, some))) for some in used),
    }
    return ", ".join(f"{count} {why}" for why, count in counts.items() if count)


def outside_error(boxes, size, how=""):
    """The ValueError for ``boxes``, (frame or None, box), outside pictures of this ``size``,
    which are shown as ``how`` says."""
    frame, box = boxes[0]
    what = f"{box}" if frame is None else f"{box} of frame {frame}"
    more = f", with {len(boxes) - 1} more" if len(boxes) > 1 else ""
    return ValueError(f"--boxes: {what} is outside the picture, {size}{how}{more}")


def given_faces(picture, boxes, min_score):
    """The faces in the ``boxes`` of the user's table, each once, with landmarks, found where they
    can be; those outside the picture are put down in it."""
    pixels, faces, scale = picture.pixels, [], picture.scale()
    size = np.array(picture.size)

    def found_at(box):
        box = (box / scale).tolist()
        found = detect.find_again(pixels, [box], min_score)
        return [face for face in found if detect.overlap(face.box, box)[0] >= OVERLAP]

    for box in map(list, dict.fromkeys(map(tuple, boxes))):
        low, high = np.array(box[:2]), np.array(box[2:])
        if (high <= 0).any() or (low >= size).any():
            picture.outside.append(box)
            continue
        inside = (box / scale).tolist()
        found, points = found_at(box), detect.likely_points(inside)
        if found:
            points = max(found, key=lambda face: detect.overlap(face.box, inside)[0]).points
        elif (
            not picture.clip and (turned := as_shown(box, picture.path, size)) and found_at(turned)
        ):
            what = "no face there as the photo is shown, but in its stored pixels; turn the box"
            what += f" as the EXIF orientation says: {turned}"
            picture.notes.append(f"--boxes: {box}: {what}")
        faces.append(SimpleNamespace(box=inside, score=None, points=points))
    return faces


def find_faces(picture, search):
    """The faces in a picture, as of detect.find_faces(), and whether the network is to be asked
    about them. With crops the whole picture, with boxes what they tell; else in most pictures of a
    video those found before, looked for around their places."""
    pixels, clip = picture.pixels, picture.clip
    if search.crops:
        box = (0, 0, pixels.shape[1], pixels.shape[0])
        return [SimpleNamespace(box=box, score=None, points=None)], True
    if search.boxes is not None:
        boxes = search.boxes.get(os.path.realpath(picture.path), {}).get(picture.number, [])
        return given_faces(picture, boxes, search.min_score), True
    if not clip:
        faces, picture.turn = detect.find_in_photo(pixels, search.min_score, search.megapixels)
        return faces, True
    if picture.seconds - clip.searched < SEARCH - 1e-6 and clip.cut <= clip.searched:
        if len(clip.boxes) * detect.WINDOW**2 < pixels[..., 0].size:
            faces = detect.find_again(pixels, clip.boxes, search.min_score)
        else:
            faces = detect.find_faces(pixels, search.min_score, search.megapixels)
        # one not found is looked for again, unless another is before it
        found = [face.box for face in faces]
        clip.boxes = found + [
            box
            for box in clip.boxes
            if all(max(detect.overlap(box, other)) < OVERLAP for other in found)
        ]
        return faces, False
    faces = detect.find_faces(pixels, search.min_score, search.megapixels)
    clip.boxes, clip.searched = [face.box for face in faces], picture.seconds
    return faces, True


def find_faces_of_video(picture, search):
    """find_faces() in a picture of a video, and whether they have changed. Where one of those that
    were only followed has, all of the picture is searched."""
    clip, pixels = picture.clip, picture.pixels
    found, picture.asked = find_faces(picture, search)
    seen = [with_look(pixels, face) for face in found]
    picture.looks = [face.look for face in seen]
    picture.changed = [has_changed(face, clip, pixels) for face in seen]
    if any(picture.changed):
        clip.changed = picture.seconds
        if not picture.asked:
            clip.searched = -math.inf
            return find_faces_of_video(picture, search)
    clip.seen, clip.seen_at, picture.change = seen, picture.seconds, clip.changed
    return found


def face_images(pixels, face, model, turns=(0,)):
    """PIL images of a ``face`` (of detect.find_faces) in ``pixels``, as the training images show
    theirs, in the squares of detect.squares()."""
    squares = detect.squares(face, model.script.DATASET, turns)
    images = [detect.cut(pixels, *square) for square in squares]
    # the script would cut these pixels out of the middle of a larger image
    crop = model.script.CENTER_CROP
    return [image.resize([crop, crop]) if crop else image for image in images]


def look_at(picture, search, model):
    """Add to a picture its faces, prepared for the network, if it is to be asked."""
    pixels, found = picture.pixels, []
    picture.size = picture.size or pixels.shape[1::-1]
    limits = np.tile(pixels.shape[1::-1], 2)
    picture.looked = picture.number % search.every == 0
    if picture.clip:
        note_cut(picture.clip, pixels, picture.seconds)
        picture.cut = picture.clip.cut
    if picture.looked and picture.clip:
        found = find_faces_of_video(picture, search)
    elif picture.looked:
        found, picture.asked = find_faces(picture, search)
        if picture.turn:
            what = f"its faces are upright if it is turned clockwise by {picture.turn} degrees"
            picture.notes.append(f"{what}, and so they were looked at")
    if search.crops:
        images = [[PIL.Image.fromarray(pixels)] for _ in found]
    else:
        turns = (0,) if picture.clip else TURNS
        images = [face_images(pixels, face, model, turns) for face in found if picture.asked]
    boxes = [np.clip(np.round(face.box), 0, limits).astype(int).tolist() for face in found]
    picture.boxes, picture.scores = boxes, [face.score for face in found]
    scale, limits = picture.scale(), np.tile(picture.size, 2)
    places = [np.clip(np.round(face.box * scale), 0, limits) for face in found]
    picture.places = [place.astype(int).tolist() for place in places]
    picture.faces = [[prepare(image, model) for image in some] for some in images]
    for face, some in zip(found, picture.faces, strict=False):  # none if the network is not asked
        square, usual = None, some[len(TURNS) // 2] if len(some) >= len(TURNS) else some[0]
        if not search.crops:
            corner, across = detect.square(face.points, model.script.DATASET)
            square = corner * scale[0], across * scale[0]
        picture.doubts.append(doubts.of_face(face, square, usual, picture.size))
    return picture


# %% Rows
def place_columns(picture, i):
    """The columns about the place of a picture's face ``i``."""
    columns = dict(zip(SIDES, picture.places[i], strict=True))
    if picture.scores[i] is not None:
        columns["score"] = round(picture.scores[i], 4)
    if picture.turn is not None:
        columns["turn"] = picture.turn
    return columns


def image_rows(picture, probas, male, model):
    """The rows of an image's faces."""
    rows = []
    for i in range(len(picture.boxes)):
        row = {"source": picture.source, "kind": "image", "face": i + 1}
        row |= place_columns(picture, i) | estimate(probas[i], male[i], model)
        rows.append(doubts.add(row, picture.doubts[i]))
    return rows


def frame_rows(picture, probas, male, model):
    """Of a frame of a video that was looked at: rows of the tracks that end before it, all those
    that do not go on after a cut among them, rows of its faces, and their tracks."""
    clip = picture.clip
    clip.looks.append(picture.seconds)
    ended = ended_tracks(clip, picture.seconds - patience(clip), picture.source, model)
    rows, tracks = [], follow(picture, probas, male)
    ended += ended_tracks(clip, picture.cut, picture.source, model)
    for i, track in tracks.items():
        row = {"source": picture.source, "kind": "frame", "frame": picture.number}
        row |= {"seconds": round(picture.seconds, 4), "face": track.face, "frames": track.frames}
        rows.append(row | place_columns(picture, i) | mean_estimate(track, model))
    return ended, rows, tracks.values()


# %% For programs
def faces(model, images, **changed):
    """The faces in an image, the one the detector is surest of first, as dicts of the columns of
    predictions.csv (box in pixels, ages in years), and ``age_probas``, the probabilities of all
    ages that the model knows.

    images: a path, the bytes of a file, a PIL image, or uint8 (height, width, 3) in RGB; OpenCV's
    pictures are BGR, so give pixels[..., ::-1]. model: of load(). ``changed``: crops=True for an
    image that is a face as a whole, min_score, megapixels.
    ValueError, OSError, or what Pillow raises, where there is no image.

    Of several images, in a list or whatever yields them, a generator of such lists, in their order;
    in place of that of an image that can't be read stands the exception. As many lists of four
    images, or of BATCH crops, are worked on at once as torch has threads.
    """
    search = Search(**changed)
    if isinstance(images, str | os.PathLike | bytes | PIL.Image.Image | np.ndarray):
        return tell([look_at(as_picture(images, search, model), search, model)], model)[0]
    return faces_of_several(model, iter(images), search)


def as_picture(image, search, model):
    """One of the images of faces() as a Picture, named by its path."""
    source, size, notes, turn = "", (), [], not search.crops or model.script.UPRIGHT
    if isinstance(image, PIL.Image.Image):
        image = media.as_rgb(image, turn)
    elif not isinstance(image, np.ndarray):
        source = "" if isinstance(image, bytes) else os.fspath(image)
        image, size = media.read_photo(image, notes.append, turn)
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"no image: {pixels.dtype} {pixels.shape}, not uint8 (height, width, 3)")
    return Picture(source, pixels, source, size=size, notes=notes)


def tell(pictures, model):
    """The lists of faces(), or the errors, of pictures that look_at() has seen."""
    probas, male = infer_faces([some for p in pictures for some in p.faces], model, BATCH)
    told, begin = [], 0
    for picture in pictures:
        part = slice(begin, begin + len(picture.faces))
        rows, begin = image_rows(picture, probas[part], male[part], model), part.stop
        for row, some in zip(rows, probas[part], strict=True):
            row["age_probas"] = class_probas(some, model.script.NUM_CLASSES).tolist()
        told.append(picture.error or rows)
        for what in picture.notes:
            warn(picture.source, what)
    return told


def faces_of_several(model, images, search):
    """Yield what faces() says of each of ``images``."""

    def look(some):
        pictures = []
        for image in some:
            try:
                picture = look_at(as_picture(image, search, model), search, model)
                picture.pixels = None  # of which there may be many
            except Exception as error:  # Pillow raises many kinds on damaged files
                picture = Picture("", error=error)
            pictures.append(picture)
        return tell(pictures, model)

    for told in in_order(look, lists_of(images, BATCH if search.crops else BATCH // SHOWN)):
        yield from told


def video(model, path, **changed):
    """Yield (number, seconds, faces) of the frames of the video at ``path``: the faces as of
    faces(), ``face`` being the number of a track, over which what is said of it is averaged.

    ``changed``: every=N for every Nth frame only, min_score, megapixels. ValueError, or what PyAV
    raises, where there is no video, or after the last frame if some of it was damaged.
    """
    search, source, clip = Search(**changed), str(path), Clip()
    frames = media.read_video(path, clip, functools.partial(warn, source))
    for number, (seconds, pixels) in enumerate(frames):
        picture = look_at(Picture(source, pixels, path, clip, number, seconds), search, model)
        if picture.looked:
            _, rows, _ = frame_rows(picture, *infer_faces(picture.faces, model, BATCH), model)
            yield number, seconds, rows
