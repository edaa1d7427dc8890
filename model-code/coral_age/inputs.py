"""Files with images and videos, answered for one after the other: their rows and marked copies."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import PIL.Image

from coral_age import media
from coral_age.answers import infer_faces, sentence
from coral_age.errors import InputError
from coral_age.marked import end_copy, write_copy
from coral_age.pictures import (
    Picture,
    as_shown,
    frame_rows,
    image_rows,
    look_at,
    outside_error,
    unused_boxes,
)
from coral_age.tracks import BRIEF, Clip, expected_box, last_tracks

HELD = 2**26  # bytes of pictures that wait for a batch to be full


@dataclass
class Sink:
    """Where the answers go."""

    # add(source, rows): those of an image, maybe none; those of a frame, or of tracks that ended
    add: Callable
    fail: Callable  # fail(source, error, what=""): what of an input went wrong
    note: Callable  # note(source, what): what of it was left out; called by the thread that reads
    count: Callable  # count(done, more): pictures read, and how many more than files there are
    # done(source, frames): all has been told of an input, a video with so many frames, or None
    done: Callable = lambda source, frames: None
    path_for: Callable | None = None  # path_for(source, suffix): that of its marked copy, if any
    copies_needed: bool = True  # a full disk, on which no copy can be written, ends the work


def answer(paths, search, model, sink, batch_size=16):
    """Predict for the files ``paths``: their rows and what goes wrong in their order, to ``sink``.
    The network sees ``batch_size`` faces at once."""
    pictures = read_inputs(paths, search, model, sink)
    for batch in side_by_side(in_batches(pictures, batch_size)):
        finish(batch, model, sink, batch_size)


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


def read_inputs(paths, search, model, sink):
    """Yield the pictures of the files ``paths``, looked at; after the last one of a video, and for
    a file that failed, one without pixels."""
    for path in paths:
        source = source_of(path)
        clip, note, failed, frames_read = None, functools.partial(sink.note, source), None, 0
        try:
            try:
                # crops are turned if those were that the script has learned from
                turn = not search.crops or model.script.UPRIGHT
                pixels, size = media.read_photo(path, note, turn)
            except PIL.UnidentifiedImageError:
                clip = Clip()
                with closing(media.read_video(path, clip, note)) as frames:
                    for number, (seconds, pixels) in enumerate(frames):
                        if not number:
                            sink.count(0, max(clip.length - 1, 0))
                        picture = Picture(source, pixels, path, clip, number, seconds)
                        frames_read = number + 1
                        yield look_at(picture, search, model)
                        sink.count(1, 0)
            else:
                yield look_at(Picture(source, pixels, path, size=size), search, model)
                sink.count(1, 0)
        except Exception as error:  # Pillow and FFmpeg raise many kinds on damaged files
            failed = error
        if search.boxes and (clip or not failed):
            boxes = search.boxes.get(os.path.realpath(path), {})
            if unused := unused_boxes(boxes, frames_read or 1, search.every):
                note(f"--boxes: not used: {unused}")
        if clip or failed:
            yield Picture(source, path=path, clip=clip, number=frames_read, error=failed)


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


def finish(pictures, model, sink, batch_size):
    """Estimate the faces of ``pictures``; tell their rows and write their marked copies."""
    probas, male = infer_faces([f for p in pictures for f in p.faces], model, batch_size)
    begin = 0
    for picture in pictures:
        clip, part = picture.clip, slice(begin, begin + len(picture.faces))
        begin = part.stop
        if picture.pixels is None:
            if picture.error:
                sink.fail(picture.source, picture.error)
            if clip and clip.outside:
                sink.fail(picture.source, outside_error(clip.outside, clip.size))
            if clip:
                if rows := last_tracks(clip, picture.source, model):
                    sink.add(picture.source, rows)
                if clip.left_out:
                    what = f"{clip.left_out} tracks shorter than {BRIEF} s left out"
                    sink.note(picture.source, f"{what}; the rows of their frames are there")
                end_copy(picture.source, clip, sink)
            sink.done(picture.source, picture.number or None)
        else:
            marks_of = frame_marks if clip else image_marks
            marks = marks_of(picture, probas[part], male[part], model, sink)
            if picture.outside and clip:
                clip.outside += [(picture.number, box) for box in picture.outside]
                clip.size = picture.pixels.shape[1::-1]
            elif picture.outside:
                outside, size = [(None, box) for box in picture.outside], picture.own_size()
                turned = as_shown(picture.outside[0], picture.path, size)
                how = "" if turned is None else ", as it is shown, turned upright"
                sink.fail(picture.source, outside_error(outside, size, how))
            if sink.path_for:
                write_copy(picture, marks, sink)
            if not clip:
                sink.done(picture.source, None)


def image_marks(picture, probas, male, model, sink):
    """Tell the rows of an image's faces; what is to be marked, (box, text)."""
    rows = image_rows(picture, probas, male, model)
    sink.add(picture.source, rows)
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
