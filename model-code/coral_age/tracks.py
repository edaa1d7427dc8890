"""Faces followed from frame to frame of a video, over which what is said of them is averaged."""

import math
import statistics
from collections import Counter, deque
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from coral_age import detect, doubts
from coral_age.answers import estimate
from coral_age.marked import Copy

OVERLAP = 0.3  # of two boxes, their intersection by their union, to be the same face a frame later
HIDDEN = 0.2  # seconds without a face after which its last place alone does not tell the next
PATIENCE = 1.0  # seconds for which a track waits for its face to be found again
BRIEF = 0.25  # seconds: what is seen for less, and not when all is searched anew, may be no face

# detect.likeness() of a face in two pictures of a video, below which it is another one's. Of pairs
# of 120 faces of FairFace 99 % have less, of 60 of them turned, sheared and lit anew 98 % more.
ALIKE = 0.75
CUT = 0.5  # that of two pictures one after the other, below which there is a cut between them


@dataclass
class Clip:
    """What is known of a video while it is looked at."""

    rate: float = 0  # frames a second,
    length: int = 0  # their number, 0 if unknown,
    sound: bool = False  # and whether there is sound, all three by media.read_video()
    tracks: dict = field(default_factory=dict)  # {number: track} of those that have not ended
    count: int = 0  # of tracks so far
    looks: deque = field(default_factory=lambda: deque(maxlen=10))  # times of the last pictures
    boxes: list = field(default_factory=list)  # where its faces were last,
    searched: float = -math.inf  # and when all of the picture was searched
    look: np.ndarray | None = None  # detect.thumbnail() of the last picture,
    seen: list = field(default_factory=list)  # SimpleNamespaces of box, places and look of a face,
    seen_at: float = -math.inf  # and when those were,
    cut: float = -math.inf  # when there was a cut last,
    changed: float = -math.inf  # and when that or another face in the place of one
    shown: list = field(default_factory=list)  # (track, text) of what is marked
    outside: list = field(default_factory=list)  # (frame, box) of the user's outside the picture
    size: tuple = ()  # of that, in pixels
    brief: list = field(default_factory=list)  # rows of tracks shorter than BRIEF, while there are
    longer: bool = False  # no longer ones,
    left_out: int = 0  # and the number of those that are left out
    copy: Copy = field(default_factory=Copy)


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


def usual_gap(clip):
    """Seconds from one picture that is looked at to the next."""
    times = list(clip.looks)
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    return statistics.median(gaps) if gaps else 0


def patience(clip):
    """Seconds for which a track waits: PATIENCE, more where pictures come more seldom."""
    return max(PATIENCE, 2 * usual_gap(clip))


def note_cut(clip, pixels, seconds):
    """Look whether there is a cut before a picture."""
    look = detect.thumbnail(pixels, *detect.places_of_picture(pixels))
    if clip.look is not None and detect.likeness(look, clip.look) < CUT:
        clip.cut = clip.changed = seconds
    clip.look = look


def with_look(pixels, face):
    """A face (of detect.find_faces()) as those of Clip.seen."""
    places = detect.places_of_face(pixels, face)
    look = detect.thumbnail(pixels, *places)
    return SimpleNamespace(box=face.box, places=places, look=look)


def has_changed(face, clip, pixels):
    """Is a ``face``, as of with_look(), another one than was at its place in the last picture? At a
    cut all are. Else both have changed then, the face and the pixels where the last one was: one
    that moves looks as before, and where one is hidden bit by bit, most pixels are as before."""
    if clip.cut > clip.seen_at:
        return True
    before = [last for last in clip.seen if detect.overlap(face.box, last.box)[0] >= OVERLAP]
    return bool(before) and all(
        detect.likeness(face.look, last.look) < ALIKE
        and detect.likeness(detect.thumbnail(pixels, *last.places), last.look) < ALIKE
        for last in before
    )


def follow(picture, probas, male):
    """{face: its track} of a picture, continued or new: pairs of higher overlap first, which also
    prefers boxes of the same size. A face that has changed continues a track only if it looks as
    that did, and so does one whose track waits since before a change. Adds the faces' probabilities
    to their tracks; a face of which the network was not asked begins none, and is left out."""
    clip, pairs = picture.clip, []
    last = list(clip.looks)[-2:][0]  # when a picture was looked at before this one
    for face, track in clip.tracks.items():
        expected = expected_box(track, picture.seconds)
        waited = track.until < min(last, picture.change)
        for i, box in enumerate(picture.boxes):
            same = detect.likeness(track.look, picture.looks[i]) >= ALIKE
            if same or not (waited or picture.changed[i]):
                pairs.append((detect.overlap(expected, box)[0], face, i))
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
                score=0, frame=picture.number, seconds=picture.seconds, doubts=Counter(),
            )  # fmt: skip
        if i in found:
            track = clip.tracks[found[i]]
            track.box, track.until, track.frames = box, picture.seconds, track.frames + 1
            track.look = picture.looks[i]
            size = np.subtract(box[2:], box[:2])
            track.places.append((picture.seconds, *(box[:2] + size / 2), *size))
            track.score = None if picture.scores[i] is None else track.score + picture.scores[i]
        if picture.asked:
            track.asked += 1
            track.doubts.update(picture.doubts[i])
            track.probas = track.probas + probas[i].double()
            track.male = None if male[i] is None else track.male + male[i]
    return {i: clip.tracks[face] for i, face in sorted(found.items())}


def mean_estimate(track, model):
    """estimate() of a track's faces so far, from the means of their probabilities."""
    male = None if track.male is None else track.male / track.asked
    usual = [reason for reason, count in track.doubts.items() if 2 * count > track.asked]
    return doubts.add(estimate(track.probas / track.asked, male, model), usual)


def ended_tracks(clip, before, source, model):
    """Summary rows of the tracks whose face was last found before the time ``before``, which end
    with that. Those shorter than BRIEF are kept back."""
    rows, gap = [], usual_gap(clip)
    for track in [track for track in clip.tracks.values() if track.until < before]:
        del clip.tracks[track.face]
        row = {"source": source, "kind": "track", "frame": track.frame}
        row |= {"seconds": round(track.seconds, 4), "until_seconds": round(track.until, 4)}
        row |= {"face": track.face, "frames": track.frames}
        if track.score is not None:
            row["score"] = round(track.score / track.frames, 4)
        row |= mean_estimate(track, model)
        brief = track.until - track.seconds + gap < BRIEF - 1e-6
        (clip.brief if brief else rows).append(row)
    clip.longer = clip.longer or bool(rows)
    if clip.longer:
        clip.left_out += len(clip.brief)
        clip.brief = []
    return rows


def last_tracks(clip, source, model):
    """ended_tracks() at the end of a video; the brief ones if there are no others."""
    return ended_tracks(clip, math.inf, source, model) or clip.brief
