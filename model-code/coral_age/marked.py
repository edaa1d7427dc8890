"""Pictures with the faces marked in them, and the marked copies of files."""

import functools
import itertools
import math
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import PIL.Image
from PIL import ImageDraw, ImageFont

from coral_age import detect, media
from coral_age.errors import is_full
from coral_age.files import atomic_write

BLUE = "#0072b2"
LETTERS = 11, 32  # smallest and largest height in pixels, in a picture of up to 1000
LONGEST_SIDE = 65_500  # pixels, of a JPEG
LONGEST_GAP = 10  # seconds between two pictures of a marked copy; clocks of cameras jump by years


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


@dataclass
class Copy:
    """The marked copy of a video, an MP4, while it is written."""

    output: ExitStack | None = None  # its open files
    container: object = None
    stream: object = None
    failed: bool = False
    seconds: float = 0  # of its last picture in the video,
    shift: float = 0  # and how much earlier that is in the copy
    pts: int = -1


def open_copy(copy, path, size, rate):
    """Begin a marked copy whose pictures have the even ``size`` next to this, ``rate`` of them a
    second."""
    import av

    copy.output = ExitStack()
    file = copy.output.enter_context(atomic_write(path))
    copy.container = copy.output.enter_context(av.open(file, "w", format="mp4"))
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    rate = min(max(round(rate), 1), 60)  # the times are told picture by picture
    copy.stream = copy.container.add_stream(codec, rate)
    copy.stream.width, copy.stream.height = (max(pixels // 2, 1) * 2 for pixels in size)
    copy.stream.bit_rate = max(round(0.15 * math.prod(size) * rate), 100_000)
    copy.stream.pix_fmt, copy.stream.codec_context.time_base = "yuv420p", TICK


def encode(image, copy, seconds):
    """Add a picture to a marked copy."""
    import av

    copy.shift += max(seconds - copy.seconds - LONGEST_GAP, 0)
    copy.seconds = seconds
    frame = av.VideoFrame.from_image(image)
    frame = frame.reformat(copy.stream.width, copy.stream.height, "yuv420p")
    copy.pts = max(copy.pts + 1, round((seconds - copy.shift) / TICK))
    frame.pts, frame.time_base = copy.pts, TICK
    copy.container.mux(copy.stream.encode(frame))


def write_copy(picture, marks, sink):
    """Write the marked copy of an image, or the next picture of a video's, with the ``marks``,
    (box, text); what goes wrong is the failure of this input alone, but
    for a full disk."""
    copy = picture.clip and picture.clip.copy
    try:
        if not copy:
            path = sink.path_for(picture.source, ".jpg")
            if max(picture.pixels.shape) > LONGEST_SIDE:
                raise ValueError(f"a side of more than {LONGEST_SIDE:,} pixels; give --no_draw")
            media.write_jpeg(mark(picture.pixels, marks), path, quality=90)
        elif not copy.failed:
            image = mark(picture.pixels, marks)
            if not copy.output:
                path = sink.path_for(picture.source, ".mp4")
                open_copy(copy, path, image.size, picture.clip.rate)
            encode(image, copy, picture.seconds)
    except Exception as error:  # Pillow and FFmpeg raise many kinds
        if copy:
            drop_copy(copy)
        if is_full(error) and sink.copies_needed:  # then nothing else can be written either
            raise
        sink.fail(picture.source, error, "its marked copy: ")


def end_copy(source, clip, sink):
    """Complete the marked copy of a video."""
    if clip.copy.output:
        try:
            clip.copy.container.mux(clip.copy.stream.encode())
            clip.copy.output.close()
        except Exception as error:
            drop_copy(clip.copy)
            if is_full(error) and sink.copies_needed:
                raise
            sink.fail(source, error, "its marked copy: ")
        else:
            if clip.sound:
                sink.note(source, "the marked copy is without its sound")


def drop_copy(copy):
    """End a marked copy that failed; nothing of it stays."""
    copy.failed = True
    if copy.output:
        with suppress(Exception):
            copy.output.__exit__(*sys.exc_info())
        copy.output = None
