"""Which files hold images and videos, their pixels as a viewer or player shows them, and JPEGs.

Pillow reads images, with pi-heif, if it is there, HEIC too; PyAV reads videos. What can't be read
raises ValueError, which says why, or what those libraries raise.
"""

import collections
import contextlib
import io
import math
import os
import re
import struct
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image

from coral_age import hdr, raw
from coral_age.errors import EXTRAS
from coral_age.files import atomic_write, kinds_of

# Named, because Pillow would start another program for some others (EPS).
FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF"]
HEIC = ".heic .heif .hif".split()
VIDEOS = ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .ts .mts .m2ts .wmv .flv .3gp .ogv".split()
VIDEOS += [".mjpeg", ".mjpg"]

# Brands of ISO base media files that hold images (ISO/IEC 23008-12); FFmpeg shows of an image that
# is made of tiles the first tile.
BRANDS = b"heic heix heim heis hevc hevx hevm hevs mif1 mif2 msf1".split()

# A picture of more pixels than Pillow's limit is read at half its width and height. So many it may
# have where predict.py is to take less than 2 GB of memory; of other formats up to the limit.
MOST = {"JPEG": 250, "MPO": 250, "progressive JPEG": 150}  # megapixels
MOST |= {"PNG": 225, "BMP": 225, "PPM": 225, "GIF": 225, "TIFF": 178, "HEIF": 150, "AVIF": 120}

ORIENTATION = 0x0112  # an EXIF tag, and what is done to make each of its values upright
TURNS = dict(zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2), strict=True))

# Demuxers of FFmpeg that make a video of anything: text, or pictures that are not read here.
NO_VIDEOS = ("tty", "image2", "_pipe", "cdg")
BEGIN = 64  # bytes of a file by which text is known
TEXT = "neither an image nor a video (it begins as text)"
ATTACHED = 0x400  # AV_DISPOSITION_ATTACHED_PIC, a cover


# %% Files
def known_suffixes():
    """Those of images and videos, in small letters."""
    suffixes = {s for s, kind in PIL.Image.registered_extensions().items() if kind in FORMATS}
    return suffixes.union(VIDEOS, HEIC, raw.SUFFIXES, [".avif"])


def find_files(words, out):
    """The files that the user's ``words`` name, a list of lines about those left out, and a list of
    OSErrors, one for each folder that can't be read. Folders are searched with the folders in them,
    linked ones too, but not hidden ones; the files in the folder ``out``, if any, are left out.
    ValueError where there is nothing."""
    files, lines, unread, out = [], [], [], out and out.resolve()
    suffixes = known_suffixes()
    another = "its files are replaced; choose another --out"
    for word in words:
        path = Path(word)
        if not word:
            raise ValueError("an INPUT is empty; give a file or a folder")
        if "://" in word:
            live = not re.match("(https?|ftps?|file)://", word.lower())
            how = (
                "record some of it (ffmpeg -i URL -t 60 clip.mp4)" if live else "download the file"
            )
            raise ValueError(f"{word}: is a URL; {how} and give its path")
        if os.path.isdir(path):
            here, skipped = [], {}
            walked = walk(path, here.append, skipped)
            unread += here
            inside = [p for p in walked if out not in p.resolve().parents]
            found = [p for p in inside if p.suffix.lower() in suffixes]
            others = [p for p in inside if p.suffix.lower() not in suffixes]
            told = [f"{len(some)} {kind}, as {some[0]}" for kind, some in skipped.items()]
            if others:
                told.insert(0, f"{len(others)} other files left out: {kinds_of(others)}")
            if out and walked and not inside:
                raise ValueError(f"{word}: all that is in it lies in --out {out}; {another}")
            if not found and here:
                raise here[0]
            if not found:
                raise ValueError(
                    f"{word}: no image or video in this folder or the folders in it"
                    + f" ({'; '.join(told)})" * bool(told)
                )
            lines += [f"{word}: {line}" for line in told]
            files += found
        elif not os.path.exists(path):
            raise ValueError(f"{word}: no such file or folder")
        elif not os.path.isfile(path):
            how = "record a file and give its path; page.py takes photos from a camera"
            raise ValueError(f"{word}: is a device or a pipe; {how}")
        elif out in path.resolve().parents:
            raise ValueError(f"{word}: lies in --out {out}; {another}")
        else:
            files.append(path)
    once = {}
    for path in files:
        once.setdefault(os.path.abspath(path), path)
    return list(once.values()), lines, unread


def walk(folder, fail, skipped):
    """The files in ``folder`` and the folders in it, sorted, without hidden ones and folders named
    @..., as those of network storage are (@eaDir); links to folders are followed, each folder is
    entered once; ``fail`` is called with the OSError of one that can't be read; the dict
    ``skipped`` gets the paths left out, by what they are in words."""
    found, entered = [], {os.path.realpath(folder)}
    for here, names, files in os.walk(folder, onerror=fail, followlinks=True):
        paths = [Path(here) / name for name in sorted(names) if not name.startswith(".")]
        names[:] = []
        for path in paths:
            place = os.path.realpath(path)
            if path.name.startswith("@"):
                skipped.setdefault("folders named @... not searched", []).append(path)
            elif place not in entered:
                entered.add(place)
                names.append(path.name)
        for path in sorted(Path(here) / name for name in files if not name.startswith(".")):
            if path.is_file():
                found.append(path)
            elif path.is_symlink() and not path.exists():
                skipped.setdefault("links lead nowhere", []).append(path)
    return sorted(found)


# %% Images
def read_image(path, warn, turn=True):
    """uint8 (height, width, 3) of an image, a path or the bytes of a file, with ``turn`` turned as
    its EXIF orientation says. ``warn`` is called with what is left out. PIL.UnidentifiedImageError
    if the file may hold a video instead."""
    return read_photo(path, warn, turn)[0]


def read_photo(path, warn, turn=True):
    """The pixels of read_image(), and the image's own (width, height): a very large one is read at
    half of them."""
    PIL.Image.init()
    limit = PIL.Image.MAX_IMAGE_PIXELS or math.inf  # a program may have lifted it
    with io.BytesIO(path) if isinstance(path, bytes) else open(path, "rb") as file:
        if is_recording(file):
            raise PIL.UnidentifiedImageError("a recording")
        content, orientation = raw.jpeg_of(file) or (None, None)
        file.seek(0)
        begin = file.read(BEGIN)
        if is_text(begin) and not re.match(rb"P[1-6f]\s+[#\d]", begin):  # PPM
            raise ValueError(TEXT)
        if begin[4:8] == b"ftyp" and begin[8:12] in BRANDS:
            register_heic()
        with open_image(io.BytesIO(content) if content else file) as image:
            size = image.size
            kind = "progressive JPEG" if "progressive" in image.info else image.format
            most = max(min(MOST.get(kind, 0) * 1e6, 4 * limit), limit)
            if math.prod(size) > most:
                what = f"more than {most / 1e6:.0f} megapixels, in {kind}"
                raise ValueError(f"{what}; make it smaller")
            count = getattr(image, "n_frames", 1)
            if image.format == "GIF" and count > 1:
                raise PIL.UnidentifiedImageError("animated")
            if count > 1 and image.format != "MPO":  # the others of which are previews and the like
                warn(f"only the first of {count} pictures in it")
            if orientation:
                image.info.pop("exif", None)
                image.getexif()[ORIENTATION] = orientation
            scale = 1 if math.prod(size) <= limit else 2
            rgb, transfer = as_rgb(image, turn, scale), transfer_of(image, file)
    if scale == 1:
        size = rgb.size
    else:
        if rgb.size != tuple(-(-side // scale) for side in size):  # it was on its side
            size = size[::-1]
        warn("{}x{} pixels, read at half its width and height".format(*size))
    return hdr.as_standard(np.asarray(rgb), transfer), size


def open_image(file):
    """PIL.Image.open() of FORMATS, which refuses no image for its size."""
    file.seek(0)
    begin = file.read(16)
    for name in FORMATS:
        factory, accept = PIL.Image.OPEN.get(name, (None, None))
        if accept and accept(begin) is True:  # else it may be a text, why not
            file.seek(0)
            # not by its name: Pillow would map an uncompressed TIFF, and turn what it maps wrongly
            with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
                return factory(file, "")
    raise PIL.UnidentifiedImageError("no image")


def is_text(begin):
    """Does a file that begins so hold text? Videos have control characters there, but for one kind,
    which FFmpeg reads from text and pixels; it would take text for lists of other files."""
    if begin[:2] in (b"\xff\xfe", b"\xfe\xff"):  # UTF-16
        begin = begin.decode("utf-16", "ignore").encode()
    control = set(range(32)) - set(b"\t\n\f\r\x1b")
    return bool(begin) and not control & set(begin) and not begin.startswith(b"YUV4MPEG2 ")


def transfer_of(image, file):
    """The transfer characteristic of a HEIC or AVIF image, as numbered in ITU-T H.273, if known."""
    facts = image.info
    if image.format == "AVIF":  # of which Pillow does not tell it
        file.seek(0)
        with contextlib.suppress(Exception):  # pi_heif may not be there
            import pi_heif

            facts = pi_heif.open_heif(file).info
    return (facts.get("nclx_profile") or {}).get("transfer_characteristics")


def is_recording(file):
    """Is it of JPEGs of one size, one right after the other? Photos have others too, but smaller
    (gain maps), and Pillow takes for MPO what tells them. A thumbnail lies in a segment."""
    content = file.read(3)
    if content == b"\xff\xd8\xff":
        content += file.read(2**26)
    file.seek(0)
    place = 2
    while content[place : place + 1] == b"\xff" and content[place + 1 : place + 2] != b"\xda":
        place += 2 + int.from_bytes(content[place + 2 : place + 4])
    end = content.find(b"\xff\xd9\xff\xd8\xff", place)
    if end < 0 or content[:3] != b"\xff\xd8\xff":
        return False
    try:
        with (
            PIL.Image.open(io.BytesIO(content), formats=["JPEG"]) as first,
            PIL.Image.open(io.BytesIO(content[end + 2 :]), formats=["JPEG"]) as second,
        ):
            return first.format == "JPEG" and first.size == second.size
    except Exception:  # Pillow raises many kinds on damaged files
        return False


def register_heic():
    """Teach Pillow to read HEIC."""
    try:
        import pi_heif
    except ImportError:
        raise ValueError(f"an image in HEIC: {EXTRAS}, or convert it to JPEG") from None
    pi_heif.register_heif_opener()


def as_rgb(image, turn, scale=1):
    """A PIL image as RGB, with ``turn`` turned as its EXIF orientation says; grey ones of 16 bits
    without their lower 8, as the training scripts take them. ValueError if the range of its values
    is unknown. With a ``scale`` reduced by that, and ``image`` closed."""
    if scale > 1 and image.format in ("JPEG", "MPO"):
        image.draft(None, [side // scale for side in image.size])
        scale = 1
    image.load()  # Pillow turns a TIFF file while loading it, and forgets its orientation
    # Pillow's exif_transpose also writes the EXIF data anew, and fails if any of them is odd
    method = None
    if turn:
        with contextlib.suppress(Exception):  # Pillow raises many kinds on damaged tags
            method = TURNS.get(image.getexif().get(ORIENTATION))
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        kind = {"I": "integers of 32 bits", "F": "floating-point numbers"}[image.mode]
        raise ValueError(f"its pixels are {kind} of unknown range; convert it to 8 bits")
    if scale > 1:
        # in bands, as all of it in RGB would take as much memory again
        width, height = image.size
        pixels = np.empty((-(-height // scale), -(-width // scale), 3), np.uint8)
        for top in range(0, len(pixels), 256):
            below = min((top + 256) * scale, height)
            band = eight_bits(image.crop((0, top * scale, width, below)))
            pixels[top : top + 256] = band.reduce(scale)
        image.close()
        image = PIL.Image.fromarray(pixels)
    else:
        image = eight_bits(image)
    return image if method is None else image.transpose(PIL.Image.Transpose(method))


def eight_bits(image):
    """A PIL image, or a part of one, as RGB."""
    if image.mode.startswith("I"):
        image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def write_jpeg(image, path, quality):
    """Save a PIL image with 4:2:0 colour; raises OSError if it can't be written."""
    encoded = io.BytesIO()  # Pillow does not notice when a full disk takes only part of a file
    image.save(encoded, "JPEG", quality=quality, subsampling="4:2:0")
    with atomic_write(path) as file:
        file.write(encoded.getbuffer())


# %% Videos
def read_video(path, clip, warn):
    """Yield (seconds from the first frame, uint8 (height, width, 3)) for all frames that can be
    decoded, as a player shows them. The namespace ``clip`` gets the frame rate, the number of
    frames, 0 if unknown, and whether there is sound; ``warn`` is called with what is left out.
    ValueError if there is nothing, or some of it was damaged."""

    with VideoFile(path) as file, open_video(file) as container:
        stream = best_stream(container, warn)
        limit = PIL.Image.MAX_IMAGE_PIXELS or 2**31 - 1
        stream.codec_context.options = {"max_pixels": str(limit)}
        clip.rate = float(stream.average_rate or 30)  # a type of its own since PyAV 19
        clip.length, clip.sound = stream.frames, bool(container.streams.audio)
        count = SimpleNamespace(frames=0, damaged=0)
        for seconds, frame in deinterlaced(decoded(container, stream, clip.rate, count)):
            yield seconds, shown(frame, stream.sample_aspect_ratio)
    if not count.frames:
        raise ValueError("no picture in it can be decoded")
    if count.damaged:
        frames = f"{count.frames} frames could be decoded"
        raise ValueError(f"{count.damaged} damaged parts; {frames}")


def decoded(container, stream, rate, count):
    """Yield (seconds from the first frame, frame) of a stream; the frames, and the damaged parts,
    are counted."""
    import av

    clock = SimpleNamespace(pts=-math.inf, dts=-math.inf, faults=0, seconds=-math.inf, shift=0)
    start = None
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            count.damaged += 1
            continue
        for frame in frames:
            seconds = time_of(frame, count.frames, rate, clock)
            start = seconds if start is None else start
            count.frames += 1
            count.damaged += frame.is_corrupt
            yield seconds - start, frame


def deinterlaced(frames):
    """The (seconds, frame) of a video; those that say that they are interlaced, of two fields a
    part of a second apart, with the lines of the first one, and others made from it and the frames
    before and after by FFmpeg's filter bwdif."""
    graph, kind, times = None, None, collections.deque()
    for seconds, frame in frames:
        if graph and kind != (frame.width, frame.height, frame.format.name):
            yield from filtered(graph, None, times)
            graph = None
        if not graph and frame.interlaced_frame:
            graph, kind = deinterlacer(frame), (frame.width, frame.height, frame.format.name)
        if graph:
            times.append(seconds)
            yield from filtered(graph, frame, times)
        else:
            yield seconds, frame
    if graph:
        yield from filtered(graph, None, times)


def deinterlacer(frame):
    """A graph of filters for frames like this one; those that are not interlaced pass it."""
    import av

    graph = av.filter.Graph()
    names = {"width": frame.width, "height": frame.height, "format": frame.format}
    source = graph.add_buffer(**names, time_base=frame.time_base or Fraction(1, 90_000))
    graph.link_nodes(
        source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    ).configure()
    return graph


def filtered(graph, frame, times):
    """Push a frame, or None at the end, and yield the frames that the graph gives for it, each at
    the first of the ``times``."""
    import av

    graph.vpush(frame)
    with contextlib.suppress(av.BlockingIOError, av.EOFError):
        while True:
            now = graph.vpull()
            yield times.popleft(), now


class VideoFile(io.FileIO):
    """A file for PyAV, which prints a traceback of what an error in it raises; damaged videos want
    to be read from before their beginning."""

    def seek(self, offset, whence=os.SEEK_SET):
        try:
            return super().seek(offset, whence)
        except OSError:
            return -1


def open_video(file):
    """PyAV's container of an open file; FFmpeg takes some names for patterns or protocols."""
    import av

    av.logging.set_level(av.logging.PANIC)  # PyAV 17 prints what FFmpeg says of damage, 18 does not
    kind = "mjpeg" if is_recording(file) else None
    begin = file.read(BEGIN)
    file.seek(0)
    if is_text(begin):
        raise ValueError(TEXT)
    try:
        return av.open(file, format=kind, options={"protocol_whitelist": ""})
    except av.InvalidDataError:
        message = "neither an image nor a video, or too damaged (invalid data)"
        raise ValueError(message) from None


def best_stream(container, warn):
    """The stream of a video that a viewer wants: that of the largest pictures, not a cover."""
    if container.format.name.endswith(NO_VIDEOS):
        raise ValueError(f"neither an image nor a video ({container.format.name})")
    streams = [s for s in container.streams.video if not s.disposition.value & ATTACHED]
    if not streams:
        raise ValueError("no video in it")
    known = [s for s in streams if s.codec_context is not None]
    if not known:
        raise ValueError("the codec of its video is unknown to FFmpeg; convert it to H.264")
    best = max(known, key=lambda stream: stream.width * stream.height)
    if len(streams) > 1:
        which = f"number {streams.index(best) + 1}, {best.width}x{best.height}"
        warn(f"only one of its {len(streams)} video streams, the largest: {which}")
    return best


def time_of(frame, number, rate, clock):
    """The time in seconds of a frame, never before that of the last one. Files with B-frames may
    give the times of decoding (AVI), so those which go back less often are taken, as FFmpeg's own
    programs do, and those of ``rate`` if there are none. Where recordings were joined by copying,
    times begin anew: they go on after the last one."""
    pts, dts = frame.pts, frame.dts
    if dts is not None:
        clock.faults -= dts <= clock.dts
        clock.dts = dts
    if pts is not None:
        clock.faults += pts <= clock.pts
        clock.pts = pts
    if dts is not None and (pts is None or clock.faults > 0):
        pts = dts
    seconds = number / rate if pts is None else clock.shift + float(pts * frame.time_base)
    if pts is not None and seconds < clock.seconds - 1:
        clock.shift += clock.seconds + 1 / rate - seconds
        seconds = clock.seconds + 1 / rate
    clock.seconds = max(clock.seconds, seconds)
    return clock.seconds


def shown(frame, aspect):
    """The pixels of a video frame as a player shows them, whose own pixels are ``aspect`` times as
    wide as high."""
    width, height, aspect = frame.width, frame.height, float(aspect or 1)
    if 1 < aspect < 5:
        width = round(width * aspect)
    elif 1 / 5 < aspect < 1:
        height = round(height / aspect)
    pixels = frame.reformat(width, height, "rgb24").to_ndarray()
    pixels = hdr.as_standard(pixels, frame.color_trc)
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know all kinds of data beside a frame
        return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
    if matrix is None:
        return pixels
    # x goes right by a and down by b, y right by c and down by d
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
