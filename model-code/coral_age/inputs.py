"""Files with images and videos, answered for one after the other: their rows and marked copies."""

import functools
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import PIL.Image

from coral_age import media
from coral_age.answers import infer_faces, sentence
from coral_age.errors import InputError
from coral_age.marked import end_copy, write_copy
from coral_age.pictures import (
    SHOWN,
    Picture,
    as_shown,
    frame_rows,
    image_rows,
    look_at,
    outside_error,
    unused_boxes,
)
from coral_age.threads import in_order, lists_of, side_by_side
from coral_age.tracks import BRIEF, Clip, expected_box, last_tracks

HELD = 2**26  # bytes of pictures that wait for a batch to be full


@dataclass
class Sink:
    """Where the answers go."""

    # add(source, rows): those of an image, maybe none; those of a frame, or of tracks that ended
    add: Callable
    fail: Callable  # fail(source, error, what=""): what of an input went wrong
    note: Callable  # note(source, what): what of it was left out
    count: Callable  # count(done, more): pictures read, and how many more than files there are
    # done(source, frames): all has been told of an input, a video with so many frames, or None
    done: Callable = lambda source, frames: None
    path_for: Callable | None = None  # path_for(source, suffix): that of its marked copy, if any
    copies_needed: bool = True  # a full disk, on which no copy can be written, ends the work
    probas: Callable | None = None  # probas(rows, probas): of an image, after add()


def answer(paths, search, model, sink, batch_size=16):
    """Predict for the files ``paths``: their rows and what goes wrong in their order, to ``sink``.
    The network sees ``batch_size`` faces at once."""
    given = {"search": search, "model": model, "batch_size": batch_size}
    look = functools.partial(look_at_files, **given, keep=bool(sink.path_for))
    paths = lists_of(paths, batch_size if search.crops else -(-batch_size // SHOWN))
    for told in in_order(look, paths):
        for picture, probas, male in told:
            if picture.clip:
                frames = read_frames(picture, search, model, sink)
                for batch in side_by_side(in_batches(frames, batch_size)):
                    for frame in infer_pictures(batch, model, batch_size):
                        finish(*frame, model, sink)
            else:
                sink.count(1, 0)
                finish(picture, probas, male, model, sink)


def source_of(path):
    """An input's name in the tables: its path, in a form fit for a file, and for a CSV, whose
    writer does not quote carriage returns."""
    return str(path).encode("utf-8", "backslashreplace").decode().replace("\r", r"\r")


def read_list(path):
    """The paths in the file that --list names, each once."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"--list {path}: {error.strerror}") from None
    return list(dict.fromkeys(os.fsdecode(line) for line in lines if line.strip()))


def look_at_files(paths, search, model, batch_size, keep):
    """infer_pictures() of the images in the files ``paths``, looked at, whose pixels are there if
    they are to ``keep``; of what is no image, nothing but a clip."""
    pictures = []
    for path in paths:
        picture = Picture(source_of(path), path=path)
        try:
            # crops are turned if those were that the script has learned from
            turn = not search.crops or model.script.UPRIGHT
            note = picture.notes.append
            picture.pixels, picture.size = media.read_photo(path, note, turn)
            look_at(picture, search, model)
        except PIL.UnidentifiedImageError:
            picture.clip = Clip()
        except Exception as error:  # Pillow raises many kinds on damaged files
            picture.error, picture.size = error, ()
        if search.boxes and not picture.error and not picture.clip:
            note_unused(picture, search, 1)
        if not keep:
            picture.pixels = None
        pictures.append(picture)
    return list(infer_pictures(pictures, model, batch_size))


def note_unused(picture, search, frames):
    """Put down how many of the user's boxes had no use in an input of so many ``frames``."""
    boxes = search.boxes.get(os.path.realpath(picture.path), {})
    if unused := unused_boxes(boxes, frames, search.every):
        picture.notes.append(f"--boxes: not used: {unused}")


def read_frames(video, search, model, sink):
    """Yield the frames of a ``video``, a Picture with a clip, looked at, and then that Picture."""
    note = functools.partial(sink.note, video.source)
    try:
        with closing(media.read_video(video.path, video.clip, note)) as frames:
            for number, (seconds, pixels) in enumerate(frames):
                if not number:
                    sink.count(0, max(video.clip.length - 1, 0))
                frame = Picture(video.source, pixels, video.path, video.clip, number, seconds)
                video.number = number + 1
                yield look_at(frame, search, model)
                sink.count(1, 0)
    except Exception as error:  # FFmpeg raises many kinds on damaged files
        video.error = error
    if search.boxes:
        note_unused(video, search, video.number or 1)
    yield video


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


def infer_pictures(pictures, model, batch_size):
    """Yield each of ``pictures`` with the answers, as of infer_faces(), for its faces."""
    probas, male = infer_faces([f for p in pictures for f in p.faces], model, batch_size)
    begin = 0
    for picture in pictures:
        part = slice(begin, begin + len(picture.faces))
        begin = part.stop
        yield picture, probas[part], male[part]


def finish(picture, probas, male, model, sink):
    """Tell what is said of a picture, and write its marked copy."""
    clip = picture.clip
    for what in picture.notes:
        sink.note(picture.source, what)
    if picture.error:
        sink.fail(picture.source, picture.error)
    if picture.size:
        marks_of = frame_marks if clip else image_marks
        marks = marks_of(picture, probas, male, model, sink)
        if picture.outside and clip:
            clip.outside += [(picture.number, box) for box in picture.outside]
            clip.size = picture.size
        elif picture.outside:
            outside = [(None, box) for box in picture.outside]
            turned = as_shown(picture.outside[0], picture.path, picture.size)
            how = "" if turned is None else ", as it is shown, turned upright"
            sink.fail(picture.source, outside_error(outside, picture.size, how))
        if sink.path_for:
            write_copy(picture, marks, sink)
    elif clip:  # the end of a video
        if clip.outside:
            sink.fail(picture.source, outside_error(clip.outside, clip.size))
        if rows := last_tracks(clip, picture.source, model):
            sink.add(picture.source, rows)
        if clip.left_out:
            what = f"{clip.left_out} tracks shorter than {BRIEF} s left out"
            sink.note(picture.source, f"{what}; the rows of their frames are there")
        end_copy(picture.source, clip, sink)
    if not (clip and picture.size):
        sink.done(picture.source, picture.number or None)


def image_marks(picture, probas, male, model, sink):
    """Tell the rows of an image's faces; what is to be marked, (box, text)."""
    rows = image_rows(picture, probas, male, model)
    sink.add(picture.source, rows)
    if sink.probas:
        sink.probas(rows, probas)
    return [(b, sentence(r, model)) for b, r in zip(picture.boxes, rows, strict=True)]


def frame_marks(picture, probas, male, model, sink):
    """Tell the rows of a video frame's faces, and those of tracks that end; what is to be marked,
    (box, text). In a frame that was not looked at, faces move on as before, up to a cut."""
    clip = picture.clip
    if not picture.looked:
        shown = [(track, text) for track, text in clip.shown if track.until >= picture.cut]
        return [(expected_box(track, picture.seconds), text) for track, text in shown]
    ended, rows, tracks = frame_rows(picture, probas, male, model)
    if ended or rows:
        sink.add(picture.source, ended + rows)
    texts = [f"#{row['face']}  {sentence(row, model)}" for row in rows]
    clip.shown = list(zip(tracks, texts, strict=True))
    return [(track.box, text) for track, text in clip.shown]
