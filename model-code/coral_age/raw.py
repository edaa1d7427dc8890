"""Raw photos as TIFF files (DNG, NEF, CR2, ARW and others), of which the JPEG that the camera has
made of all of the picture is read: their first picture is often a thumbnail.
"""

import io
import math

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

# How TIFF files begin, those of more than 4 GB, and raw photos that are none.
CLASSIC, BIG = (b"II*\0", b"MM\0*"), (b"II+\0",)
OTHERS = b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0"  # RAF, ORF, RW2; CR3 has a brand
CONVERT = "convert it to JPEG, by the camera's program, darktable or RawTherapee"
SUFFIXES = ".dng .nef .nrw .cr2 .arw .sr2 .pef .srw".split()

# Tags of TIFF 6.0, TIFF/EP and DNG.
SUBFILE, WIDTH, HEIGHT, COMPRESSION, COLOURS, ORIENTATION = 254, 256, 257, 259, 262, 274
STRIPS, TILES, JPEG, SUB_IFDS, DNG = (273, 279), (324, 325), (513, 514), 330, 50706
SENSOR = {32803, 34892}  # COLOURS of what a sensor has seen
FULL = 0.5  # of the raw picture's sides: smaller JPEGs are previews


def jpeg_of(file):
    """The camera's own JPEG of all of a raw photo's picture, bytes, and its EXIF orientation or
    None; None if ``file`` is no raw photo, ValueError if it is one without such a JPEG."""
    file.seek(0)
    head = file.read(16)
    if head.startswith(OTHERS) or head[4:12] == b"ftypcrx ":
        raise ValueError(f"a raw photo of a kind that is not read; {CONVERT}")
    if not head.startswith(CLASSIC + BIG) or len(head) < 16:
        return None
    is_cr2, head = head[8:10] == b"CR", head if head.startswith(BIG) else head[:8]
    pictures = list(directories(file, head))
    if not pictures or not (is_cr2 or is_raw(pictures)):
        return None
    orientation = (numbers(pictures[0], ORIENTATION) or [None])[0]
    found = [some for some in (embedded(file, picture) for picture in pictures) if some]
    content, size = max(found, key=lambda some: math.prod(some[1]), default=(None, (0, 0)))
    whole = max(map(size_of, pictures), key=math.prod)
    if not content or min(np.divide(sorted(size), np.maximum(sorted(whole), 1))) < FULL:
        what = "{}x{} of {}x{} pixels".format(*size, *whole) if content else "none"
        raise ValueError(f"a raw photo without a JPEG of its full size in it ({what}); {CONVERT}")
    return content, orientation


def refuse(content):
    """ValueError if the bytes of a file are those of a raw photo."""
    if jpeg_of(io.BytesIO(content)):
        raise ValueError(f"a raw photo; {CONVERT}")


def directories(file, head):
    """Yield the directories of the pictures in a TIFF file that begins with ``head``, with those in
    them, the first one first; up to 64, without those that can't be read."""
    first = ImageFileDirectory_v2(head)
    places, seen = [first.next], set()
    while places and len(seen) < 64:
        place = places.pop(0)
        if not place or place in seen:
            continue
        seen.add(place)
        picture = ImageFileDirectory_v2(head)
        try:
            file.seek(place)
            picture.load(file)
        except Exception:  # Pillow raises many kinds on damaged files
            continue
        yield picture
        places = [*numbers(picture, SUB_IFDS), *places, picture.next]


def numbers(picture, tag):
    """The whole numbers of a tag, none if there are no such."""
    try:
        return [int(number) for number in np.ravel(picture.get(tag, ()))]
    except Exception:  # of damaged files; there may be texts, or fractions by zero
        return []


def size_of(picture):
    """Width and height in pixels, 0 if unknown."""
    sides = numbers(picture, WIDTH), numbers(picture, HEIGHT)
    return tuple(side[0] if side else 0 for side in sides)


def is_raw(pictures):
    """Is one of the pictures what a sensor has seen, or the first one a thumbnail?"""
    first = pictures[0]
    colours = {number for picture in pictures for number in numbers(picture, COLOURS)}
    largest = max(math.prod(size_of(picture)) for picture in pictures)
    reduced = DNG in first or any(number & 1 for number in numbers(first, SUBFILE))
    return bool(colours & SENSOR) or (reduced and largest > math.prod(size_of(first)))


def embedded(file, picture):
    """The JPEG in a picture's directory, bytes, and its (width, height), or None."""
    if set(numbers(picture, COLOURS)) & SENSOR:
        return None
    tags = JPEG
    if JPEG[0] not in picture and set(numbers(picture, COMPRESSION)) & {6, 7}:
        tags = STRIPS if STRIPS[0] in picture else TILES
    begins, lengths = (numbers(picture, tag) for tag in tags)
    if len(begins) != 1 or len(lengths) != 1:
        return None
    try:
        file.seek(begins[0])
        content = file.read(lengths[0])
        return content, JpegImageFile(io.BytesIO(content)).size
    except Exception:  # no JPEG, or one of more than 8 bits, as a sensor's, or a damaged one
        return None
