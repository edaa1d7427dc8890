"""The options that several commands have in common."""

import argparse
from pathlib import Path

from coral_age import detect
from coral_age.runs import SCRIPTS

RANGES = {"every": (1, 10**9), "batch_size": (1, 10**6), "megapixels": (0.1, 50)}
RANGES |= {"min_score": (0.01, 1), "image_size": (32, 1024)}


def ages(text):
    """The ages in a text as 13,16,18, in ascending order."""
    words = text.replace(" ", "").split(",")
    if not all(word.isascii() and word.isdecimal() and 1 <= int(word) <= 120 for word in words):
        raise argparse.ArgumentTypeError(f"{text}: give ages in years from 1 to 120, as 13,16,18")
    return tuple(sorted({int(word) for word in words}))


def add_interval(parser):
    """The option --interval."""

    def percent(text):
        if text not in map(str, range(50, 100)):
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number from 50 to 99")
        return int(text)

    held = "percent of the true ages that the intervals are to hold, 50 to 99 (80)"
    parser.add_argument("--interval", type=percent, default=80, metavar="PERCENT", help=held)


def parse_options(parser, argv, **ranges):
    """The settings of predict.py or predict_ray.py by the ``parser``, which gets the options of
    both; its error where a number is outside RANGES or ``ranges``, {option: (lowest, highest)}."""
    add, score, size = parser.add_argument, detect.MIN_SCORE, detect.MEGAPIXELS
    larger = "larger pictures are searched for faces in this size; more finds smaller faces"
    add("--list", type=Path, metavar="FILE", help="images and videos, a path on each line")
    add("--resume", action="store_true", help="go on with the job in DIR, or begin it")
    add("--run", type=Path, help="folder of a finished run (that of the model that comes along)")
    add("--weights", type=Path, metavar="FILE", help="state dict to take instead of --run's")
    add("--script", choices=SCRIPTS, metavar="NAME", help="what trained FILE, if there is no --run")
    add("--image_size", type=int, help="side of that network's input in pixels (120)")
    add("--crops", action="store_true", help="the images are faces, cut as the training images")
    lowest = f"lowest detector score, 0.01 to 1 ({score})"
    add("--min_score", type=float, default=score, help=lowest)
    add("--megapixels", type=float, default=size, help=f"{larger} ({size})")
    add("--every", type=int, default=1, metavar="N", help="look at every Nth frame of a video (1)")
    what = "P(age >= T) as well, of each of these ages in years, in columns as over_18"
    add("--over", type=ages, default=(), metavar="T[,T...]", help=what)
    add_interval(parser)
    add("--batch_size", type=int, default=16, help="faces that the network sees at once (16)")
    args = parser.parse_intermixed_args(argv)
    for name, (low, high) in (RANGES | ranges).items():
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            parser.error(f"--{name} {value}: must be from {low} to {high}")
    if args.image_size and not args.script:
        parser.error("--image_size goes with --script; a run folder holds its own")
    return args
