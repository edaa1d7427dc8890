"""Age estimation on MORPH-2 by CORAL-CNN (Cao et al., arXiv 1901.07884).

    python morph2-coral.py --seed 1 --imp_weight 1 --cuda 0 --outpath run1

Trains, evaluates and fills the folder run1; --help lists the settings. Differs from its sisters
in the cells marked [morph2] for the data set and [coral, ordinal] and [coral] for the loss.
"""

# %% Imports [all]
import argparse
import contextlib
import copy
import functools
import hashlib
import io
import json
import math
import os
import shlex
import signal
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import PIL.Image
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.transforms.functional import center_crop, resize
from tqdm import tqdm

# %% Paths and facts of the data set [morph2]
# Edit the three paths, or give --train_csv, --test_csv and --image_path.
SAMPLE = Path(__file__).resolve().parent.parent / "datasets" / "sample" / "morph2"  # drawn faces
TRAIN_CSV_PATH = SAMPLE / "train.csv"
TEST_CSV_PATH = SAMPLE / "test.csv"
IMAGE_PATH = SAMPLE / "images"

DATASET = "morph2"
NUM_CLASSES = 55
YOUNGEST_AGE = 16  # in years, label 0; the oldest is 70
FILE_COLUMN = "Unnamed: 0"  # pandas' name for the first, nameless column: 273546_01M22.jpg
GENDER_COLUMN = "Male"  # 1 or -1
CENTER_CROP = 140  # pixels; cuts the aligned face out of 200x240


def gender_of(table):
    """1.0 for male, 0.0 for female, nan where unknown; one for each row of the CSV."""
    return pd.to_numeric(table["Male"], errors="coerce").map({1.0: 1.0, -1.0: 0.0})


# %% Several processes [all]
RANK = int(os.environ.get("RANK", 0))  # torchrun sets these; rank 0 writes the run folder
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", 0))
LOCAL_PROCESSES = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
PROCESSES = int(os.environ.get("WORLD_SIZE", 1))
NO_BAR = None if RANK == 0 else True  # for tqdm: None shows a bar on terminals only


def summed(tensor, operation=dist.ReduceOp.SUM):
    """``tensor``, summed over the processes in place."""
    if PROCESSES > 1:
        dist.all_reduce(tensor, operation)
    return tensor


def largest(*values):
    """The largest of each value over the processes."""
    return summed(torch.tensor(values).double(), dist.ReduceOp.MAX).tolist()


def leave_if(number, started=True):
    """End the run where ``number`` is that of a signal; if ``started``, a checkpoint is written."""
    if number:
        words = ["python"]
        if PROCESSES > 1:
            words = ["torchrun", f"--nproc_per_node={LOCAL_PROCESSES}"]
            words += ["..."] * (LOCAL_PROCESSES < PROCESSES)  # how the machines find each other
        words += [w for w in sys.argv if not (started and w in ("--overwrite", "--resume"))]
        words = shlex.join(words + ["--resume"] * started)
        refuse(f"stopped by {signal.Signals(number).name}; go on with: {words}", 128 + int(number))


# %% Settings [all]
RECIPES = {  # option: (in the paper, in the fast recipe, lowest, highest, meaning)
    "epochs": (200, 16, 1, 10**6, "passes over the training images"),
    "batch_size": (256, 64, 1, 10**6, "images in a step; the last one of an epoch may have fewer"),
    "image_size": (120, 64, 33, 1024, "side of the network's input in pixels"),
    "lr": (0.0005, 0.001, 1e-12, 1e3, "learning rate; the highest one with --onecycle 1"),
    "onecycle": (0, 1, 0, 1, "1: the learning rate rises for a fifth of the steps, then falls"),
    "weight_decay": (0.0, 0.05, 0, 1e3, "decoupled weight decay; Adam becomes AdamW"),
    "prior_bias": (0, 1, 0, 1, "1: start the output biases at the training labels' frequencies"),
    "flip": (0, 1, 0, 1, "1: mirror training images at random; answer for image and mirror image"),
    "augment": (0, 0, 0, 1, "1: turn, scale, move and recolour training images at random"),
    "average": (0.0, 0.998, 0, 0.999999, "decay of the averaged weights that are evaluated"),
    "channels_last": (0, 1, 0, 1, "1: channels-last memory format"),
}
OPTIONS = {  # option: (default, lowest, highest, meaning)
    "seed": (-1, -1, 2**63 - 2, "for weights, order and crops; -1: a fresh one, recorded"),
    "imp_weight": (0, 0, 1, "1: task importance weights"),
    "cuda": (-1, -1, 1023, "CUDA device number; -1: the CPU"),
    "numworkers": (4, 1, 1024, "data streams; another number gives other crops"),
    "gender": (0, 0, 1, "1: learn P(male) as well"),
    "amp": (0, 0, 1, "1: bfloat16 autocast (CUDA only)"),
    "log_every": (50, 1, 10**9, "batches from one cost line to the next"),
    "checkpoint_minutes": (10.0, 0, 1e9, "time between checkpoints within an epoch"),
}
PATHS = {  # option: (default, meaning)
    "train_csv": (TRAIN_CSV_PATH, "training rows"),
    "valid_csv": (None, "rows to choose the best epoch on"),
    "test_csv": (TEST_CSV_PATH, "test rows"),
    "image_path": (IMAGE_PATH, "folder at which the image names in the CSVs start"),
    "init_from": (None, "state dict whose backbone weights to start from"),
    "cache_dir": (None, "folder for the decoded pixels; None: where temporary files go"),
}
FREE_ON_RESUME = {*PATHS, *"outpath cuda log_every checkpoint_minutes resume overwrite".split()}


def refuse(message, code=2):
    """End this process with one line for the user."""
    if LOCAL_RANK == 0:
        # a name in the message may hold a line break
        print(f"{Path(__file__).name}: error:", *message.splitlines(), file=sys.stderr, flush=True)
    raise SystemExit(code)


def parse_settings(argv):
    """The settings as an argparse namespace, checked, with what --recipe decides filled in."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = refuse
    parser.add_argument("--outpath", type=Path, required=True, help="folder that receives the run")
    for name, (default, *_, meaning) in (PATHS | OPTIONS).items():
        kind, meaning = Path if name in PATHS else type(default), f"{meaning} ({default})"
        meaning = meaning.replace("%", "%%")  # a folder may be named so
        parser.add_argument(f"--{name}", type=kind, default=default, help=meaning)
    parser.add_argument("--recipe", choices=("paper", "fast"), default="paper", help="(paper)")
    for name, (paper, fast, _, _, meaning) in RECIPES.items():
        meaning = f"{meaning} (paper: {paper}, fast: {fast})"
        parser.add_argument(f"--{name}", type=type(paper), help=meaning)
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="go on with the run, or start it")
    either.add_argument("--overwrite", action="store_true", help="replace the run in --outpath")
    args = parser.parse_args(argv)
    for name, (paper, fast, *_) in RECIPES.items():
        if getattr(args, name) is None:
            setattr(args, name, fast if args.recipe == "fast" else paper)
    for name, (*_, low, high, _) in (OPTIONS | RECIPES).items():
        if not low <= getattr(args, name) <= high:
            refuse(f"--{name} {getattr(args, name)}: must be from {low} to {high}")
    if args.imp_weight and not task_importance_weights:
        refuse(f"--imp_weight 1: {LOSS} has no tasks to weigh; leave it out")
    if args.amp and args.cuda < 0:
        refuse("--amp 1 needs a CUDA device: give --cuda, or leave --amp out")
    # with torchrun, process i of a machine uses device i
    last = LOCAL_PROCESSES - 1 if PROCESSES > 1 and args.cuda >= 0 else args.cuda
    if last >= (count := torch.cuda.device_count()):
        refuse(f"--cuda {last}: this machine has {count} CUDA devices; --cuda -1 is the CPU")
    return args


# %% Data [all]
def read_split(csv, image_path, gender):
    """The rows of a CSV, checked: its table (text), labels int64 (N,), genders float32 (N,) with
    nan where unknown, image files, and facts for run.json. load_pixels adds the pixels."""
    try:
        content = csv.read_bytes()
        table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    except OSError as error:
        refuse(f"{csv}: {error.strerror}; edit the paths in {__file__} or give them as options")
    except ValueError as error:
        refuse(f"{csv}: not a CSV file in UTF-8 ({str(error).splitlines()[0]})")
    # where rows are longer than the header pandas makes row names of their first fields
    if not len(table) or not isinstance(table.index, pd.RangeIndex):
        refuse(f"{csv}: no rows below the header, or rows with more fields than it has")
    for column in (FILE_COLUMN, "age", GENDER_COLUMN if gender else "age"):
        if column not in table:
            refuse(f"{csv}: needs a column {column!r}, has {', '.join(table)} (see {__file__})")
    names, labels = table[FILE_COLUMN], pd.to_numeric(table["age"], errors="coerce")
    for row in np.flatnonzero(~(labels.between(0, NUM_CLASSES - 1) & (labels % 1 == 0))):
        must = f"a whole number from 0 to {NUM_CLASSES - 1}: the age in years minus {YOUNGEST_AGE}"
        refuse(f"{csv}: row {row + 1} ({names[row]}): age is {table['age'][row]!r}, must be {must}")
    files = [os.path.join(image_path, name) for name in names]
    missing = {file for file in set(files) if not os.path.isfile(file)}
    for row, file in enumerate(files):
        if file in missing:
            refuse(f"{csv}: row {row + 1}: no image file {file} (--image_path {image_path})")
    genders = gender_of(table) if gender else pd.Series(np.nan, table.index)
    if gender and genders.isna().all():
        refuse(f"{csv}: --gender 1, but no row has a gender")
    facts = {"csv": str(csv), "csv_sha256": hashlib.sha256(content).hexdigest(), "rows": len(table)}
    labels = torch.tensor(labels.to_numpy(np.int64))
    genders = torch.tensor(genders.to_numpy(np.float32))
    return SimpleNamespace(table=table, labels=labels, genders=genders, files=files, facts=facts)


# Named, because Pillow would start another program for some others (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")


def prepare_image(image, image_size):
    """uint8 (3, R, R) of a PIL image, R = 128/120 of ``image_size``, to cut crops from."""
    side = round(image_size * 128 / 120)
    if image.mode.startswith("I"):  # 16 bits: convert would clip all above 255
        image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    if CENTER_CROP:
        image = center_crop(image, CENTER_CROP)
    return np.asarray(resize(image, [side, side])).transpose(2, 0, 1)


def load_pixels(splits, args, stop):
    """Decode all images once, into a file that the processes of a machine map, and give each
    split its ``pixels``, uint8 (N, 3, R, R). The file loses its name before the first image is
    decoded, so nothing stays in --cache_dir, however the run ends (but on Windows it does)."""
    side = round(args.image_size * 128 / 120)
    shape = (sum(len(split.files) for split in splits.values()), 3, side, side)
    # torchrun starts all processes of a machine
    owner, leads = os.getppid() if PROCESSES > 1 else os.getpid(), LOCAL_RANK == 0
    try:
        args.cache_dir = args.cache_dir or Path(tempfile.gettempdir())
        path = args.cache_dir / f"coral-pixels-{owner}"
        if leads:
            np.memmap(path, np.uint8, "w+", shape=shape)
        summed(torch.zeros(1))  # wait for each other
        pixels = np.memmap(path, np.uint8, "r+", shape=shape)
        summed(torch.zeros(1))
        if leads and os.name == "posix":
            with open(path, "rb+") as file:
                path.unlink()
                if hasattr(os, "posix_fallocate"):  # later, a full disk would kill the process
                    os.posix_fallocate(file.fileno(), 0, math.prod(shape))
    except OSError as error:
        refuse(f"--cache_dir {args.cache_dir}: {error.strerror}; {math.prod(shape):,} bytes needed")
    for split in splits.values():
        split.pixels, pixels = np.split(pixels, [len(split.files)])
        if leads:
            split.facts["images_sha256"] = decode(split, args, stop)
    summed(torch.zeros(1))


def decode(split, args, stop):
    """Fill the pixels of ``split``; the SHA-256 over its image files' bytes in row order."""

    def decode_rows(rows):
        contents = []
        for row in rows:
            try:
                contents.append(Path(split.files[row]).read_bytes())
                with PIL.Image.open(io.BytesIO(contents[-1]), formats=FORMATS) as image:
                    split.pixels[row] = prepare_image(image, args.image_size)
            except Exception as error:  # Pillow raises many kinds on damaged files
                where = f"{split.facts['csv']}: row {row + 1}: {split.files[row]}"
                return contents, f"{where} is no readable image ({error})"
        return contents, None

    digest, rows = hashlib.sha256(), range(len(split.files))
    parts = [rows[start : start + 32] for start in rows[::32]]
    # threads are enough: Pillow decodes and resizes outside Python's global lock
    pool = ThreadPoolExecutor(os.cpu_count())
    with tqdm(total=len(rows), desc="decoding", unit="img", disable=NO_BAR) as bar:
        for contents, error in pool.map(decode_rows, parts):
            if error or stop[0]:
                pool.shutdown(cancel_futures=True)
                refuse(error) if error else leave_if(stop[0], started=False)
            digest.update(b"".join(contents))
            bar.update(len(contents))
    return digest.hexdigest()


def draw_seed():
    """A seed from the global generator, drawn as torch's DataLoader does."""
    return torch.empty((), dtype=torch.int64).random_().item()


def batches(split, args, train, first=0, title="evaluating"):
    """The batches of torch's DataLoader with --numworkers workers, from number ``first`` on.

    Yields (number, rows, mine, share, images): rows of the CSV in the batch, the slice of them
    that is this process's, its share of the batch, and its images, uint8 (n, 3, S, S). ``train``
    shuffles and draws crops (and flips); otherwise crops are central.
    """
    size, room = args.image_size, split.pixels.shape[-1] - args.image_size
    base_seed, order = draw_seed(), np.arange(len(split.files))
    if train:
        shuffle = torch.Generator().manual_seed(draw_seed())
        order = torch.randperm(len(order), generator=shuffle).numpy()
    streams = [torch.Generator().manual_seed(base_seed + i) for i in range(args.numworkers)]
    mirror = torch.Generator().manual_seed(base_seed + args.numworkers)
    starts = range(0, len(order), args.batch_size)
    for number, start in enumerate(tqdm(starts, title, leave=False, disable=NO_BAR)):
        rows = order[start : start + args.batch_size]
        corners, flips = np.full((len(rows), 2), round(room / 2)), np.zeros(len(rows))
        if train:
            stream = streams[number % args.numworkers]
            corners = torch.randint(0, room + 1, (len(rows), 2), generator=stream).numpy()
            flips = torch.randint(0, 1 + args.flip, (len(rows),), generator=mirror).numpy()
        if number < first:
            continue
        mine = slice(*(math.ceil(len(rows) * rank / PROCESSES) for rank in (RANK, RANK + 1)))
        share = (mine.stop - mine.start) / len(rows)
        if not share:  # a step needs an image; this one will weigh nothing
            mine = slice(0, 1)
        images = np.empty((mine.stop - mine.start, 3, size, size), np.uint8)
        for i, image in enumerate(images, mine.start):
            top, left = corners[i]
            crop = split.pixels[rows[i], :, top : top + size, left : left + size]
            image[:] = crop[:, :, ::-1] if flips[i] else crop
        yield number, rows, mine, share, images


# device -> the CUDA stream on which batches are copied while the device computes
copy_stream = functools.cache(torch.cuda.Stream)


def to_device(images, device, args):
    """float32 in [0, 1] on the device, of a uint8 batch (n, 3, S, S)."""
    images = torch.from_numpy(images)
    if device.type == "cuda":
        with torch.cuda.stream(copy_stream(device)):
            images = images.pin_memory().to(device, non_blocking=True)
        torch.cuda.current_stream(device).wait_stream(copy_stream(device))
        images.record_stream(torch.cuda.current_stream(device))
    # by a tensor: for a plain number CUDA multiplies with 1/255, which rounds otherwise
    images = images.float() / torch.tensor(255.0, device=device)
    return images.contiguous(memory_format=torch.channels_last) if args.channels_last else images


def augment(images, draws):
    """Images, float32 (n, 3, S, S) in [0, 1], changed by ``draws``, (n, 9) from [-1, 1): turned by
    up to 10 degrees, scaled by up to exp(0.12), moved by up to 3 % of S (edge pixels repeated), and
    contrast changed by up to 30 %, brightness by 25 %, each colour by 7 %."""
    angle, size = math.radians(10) * draws[:, 0], torch.exp(0.12 * draws[:, 1])
    cos, sin, move = size * angle.cos(), size * angle.sin(), 0.06 * draws[:, 2:4]
    matrix = torch.stack([cos, -sin, move[:, 0], sin, cos, move[:, 1]], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, images.shape, align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    draws = draws[:, 4:, None, None]
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * (1 + 0.3 * draws[:, :1]) + mean * (1 + 0.25 * draws[:, 1:2])
    return (images * (1 + 0.07 * draws[:, 2:])).clamp(0, 1)


# %% ResNet-34 [all]
class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016)."""

    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1:
            shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x):
        shortcut = self.downsample(x) if self.downsample else x
        x = F.relu_(self.bn1(self.conv1(x)))
        return F.relu_(self.bn2(self.conv2(x)) + shortcut)


class ResNet34(nn.Module):
    """ResNet-34 with the output layer of this script's loss: float32 (batch, 3, S, S) in [0, 1]
    to the age logits, shaped as the loss has them, and the gender logits (batch,) or None."""

    def __init__(self, gender=0, seed=0):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        before = 64
        for i, (channels, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
            stage = [BasicBlock(before, channels, stride=2 if i else 1)]
            stage += [BasicBlock(channels, channels, stride=1) for _ in range(blocks - 1)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
            before = channels
        self.avgpool = nn.AvgPool2d(7, stride=1, padding=2)
        add_output_layer(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
        self.fc_gender = None
        if gender:  # last, and drawn apart: all other weights and the batches stay the same
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + 1)
                self.fc_gender = nn.Linear(2048, 1)

    def forward(self, x):
        x = self.maxpool(F.relu_(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        if x.shape[-1] == 4:
            x = self.avgpool(x).flatten(1)
        else:  # what the pool gives on a 4x4 map, which each of its four windows covers: for any S
            x = (x.mean((2, 3)) * (16 / 49)).repeat_interleave(4, dim=1)
        return age_logits(self, x), self.fc_gender(x).squeeze(1) if self.fc_gender else None


# %% Task importance weights [coral, ordinal]
def labels_above(labels):
    """n_k, the number of ``labels`` above k, for k = 0..K-2; float64 (K-1,)."""
    counts = torch.bincount(labels, minlength=NUM_CLASSES)
    return (len(labels) - counts.cumsum(0)[:-1]).double()


def task_importance_weights(labels):
    """w_k = sqrt(m_k) / max_j sqrt(m_j), m_k = max(n_k, N - n_k) (paper, section 3.3); (K-1,)."""
    above = labels_above(labels)
    # single precision before the root, as the published code: rounded at the end, a third of the
    # weights differ in the last bit, and some costs after three steps in the fourth digit
    importance = torch.maximum(above, len(labels) - above).float().sqrt()
    return importance / importance.max()


def log_odds(labels):
    """Logits of the share of ``labels`` above k, finite also where it is 0 or 1; (K-1,)."""
    above = labels_above(labels).clamp(0.5, len(labels) - 0.5)
    return torch.logit(above / len(labels)).float()


def levels_of(labels):
    """t_k = 1 if y > k else 0; float32 (batch, K-1)."""
    return (labels[:, None] > torch.arange(NUM_CLASSES - 1, device=labels.device)).float()


def predict_labels(probas):
    """The number of P(y > k) above 0.5 (paper, equation 1); int64 (batch,)."""
    return (probas > 0.5).sum(1)


# %% Output layer, loss and prediction [coral]
LOSS = "coral"


def add_output_layer(model):
    """One weight vector for all tasks and K-1 biases, zero at first (paper, section 3.2)."""
    model.fc = nn.Linear(2048, 1, bias=False)
    model.linear_1_bias = nn.Parameter(torch.zeros(NUM_CLASSES - 1))


def age_logits(model, features):
    """Logits of y > k; (batch, K-1)."""
    return model.fc(features) + model.linear_1_bias


@torch.no_grad()
def set_prior_bias(model, labels):
    """Start the biases at the log-odds of y > k among the training ``labels``."""
    model.linear_1_bias.copy_(log_odds(labels))


def compute_probas(logits):
    """P(y > k); (batch, K-1)."""
    return torch.sigmoid(logits)


def cost_fn(logits, labels, imp):
    """Weighted binary cross-entropies, summed over tasks, mean over the batch (paper, eq. 4)."""
    levels = levels_of(labels)
    log_probas = F.logsigmoid(logits)
    terms = log_probas * levels + (log_probas - logits) * (1 - levels)
    return torch.mean(-torch.sum(terms * imp, dim=1))


# %% Evaluation [all]
def compute_mae_and_mse(labels, predicted):
    """Mean absolute error (years) and mean squared error (years^2) of (N,) predicted labels."""
    errors = (predicted - labels).double()
    return errors.abs().mean().item(), errors.square().mean().item()


@torch.no_grad()
def predict_batch(model, images, device, args):
    """Probabilities (n, K-1), for ce (n, K), and P(male) (n,), 0 without a gender output, of uint8
    (n, 3, S, S); with --flip 1 the means of those of each image and its mirror image."""
    images = to_device(images, device, args)
    views = [images, images.flip(3)] if args.flip else [images]
    probas, male = 0, torch.zeros(len(images), device=device)
    for view in views:
        with torch.autocast(device.type, torch.bfloat16, enabled=bool(args.amp)):
            logits, gender_logits = model(view)
        probas = probas + compute_probas(logits.float()) / len(views)
        if gender_logits is not None:
            male = male + gender_logits.float().sigmoid() / len(views)
    return probas, male


@torch.no_grad()
def evaluate(model, split, args, device, stop, train=False):
    """Probabilities float32 (N, K-1), for ce (N, K), and P(male) (N,), in the CSV's row order."""
    model.eval()
    if PROCESSES > 1:
        for tensor in model.state_dict().values():  # the running statistics are rank 0's
            dist.broadcast(tensor, 0)
    probas = torch.zeros(len(split.files), NUM_CLASSES - (LOSS != "ce"))
    male = torch.zeros(len(split.files))
    for _, rows, mine, share, images in batches(split, args, train):
        answers = predict_batch(model, images, device, args)
        if share:
            probas[rows[mine]], male[rows[mine]] = (answer.cpu() for answer in answers)
        leave_if(*largest(stop[0]))
    return summed(probas), summed(male)


def score(split, probas, male):
    """MAE and RMSE in years, and with genders the share of them that P(male) gets right."""
    mae, mse = compute_mae_and_mse(split.labels, predict_labels(probas))
    scores, known = {"mae": mae, "rmse": math.sqrt(mse)}, split.genders.isfinite()
    if known.any():
        right = (male > 0.5) == (split.genders > 0.5)
        scores["gender_accuracy"] = right[known].double().mean().item()
    return scores


# %% Run folder [all]
RUN_FILES = "checkpoint.pt run.json training.log history.csv model.pt test_predictions.csv "
RUN_FILES += "test_probas.npy best_model.pt best_test_predictions.csv best_test_probas.npy"


def write_file(path, write):
    """Let ``write`` fill a temporary file, flush it to disk, and only then name it ``path``."""
    if RANK == 0:
        temporary = path.with_name(path.name + ".tmp")
        try:
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:  # torch may report a full disk as the latter
            raise OSError(0, error.args[-1], str(path)) from error
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def reading(path, problem="is missing or damaged; nothing was changed; see --overwrite"):
    """Refuses the file at ``path`` in one line where what is done with it fails."""
    try:
        yield
    except Exception as error:  # what a damaged file raises is not documented
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        refuse(f"{path} {problem} ({reason})")


def read_tensors(path):
    """What torch.save wrote to the file; an exception where its checksums differ."""
    with zipfile.ZipFile(path) as archive:
        if archive.testzip():
            raise ValueError("its checksums differ")
    return torch.load(path, map_location="cpu", weights_only=True)


def append_line(path, line):
    """Add a line to a file, flushed to disk."""
    if RANK == 0:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


def log(args, line):
    """Print a line and add it to training.log."""
    if RANK == 0:
        tqdm.write(line)
    append_line(args.outpath / "training.log", line)


def save_model(path, model):
    """The plain state dict, on the CPU."""
    state = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_file(path, lambda file: torch.save(state, file))


def save_predictions(args, prefix, split, probas, male):
    """test_predictions.csv and test_probas.npy, their names behind ``prefix``."""
    labels, predicted = split.labels.numpy(), predict_labels(probas).numpy()
    ages = {"true_age": labels + YOUNGEST_AGE, "predicted_age": predicted + YOUNGEST_AGE}
    table = pd.DataFrame({"path": split.table[FILE_COLUMN], **ages})
    if args.gender:
        table["true_gender"] = pd.Series(split.genders.numpy()).map({1.0: "male", 0.0: "female"})
        table["p_male"] = male.numpy()
    others = split.table.drop(columns=[FILE_COLUMN, "age", "Unnamed: 0", *table], errors="ignore")
    # to_csv does not quote carriage returns
    text = table.join(others).replace("\r", r"\\r", regex=True).to_csv(index=False).encode()
    write_file(args.outpath / f"{prefix}test_predictions.csv", lambda file: file.write(text))
    write_file(args.outpath / f"{prefix}test_probas.npy", lambda file: np.save(file, probas))


def describe(args, splits, device):
    """run.json, as it is before training."""
    median = splits["train"].labels.median()
    for split in splits.values():
        mae, _ = compute_mae_and_mse(split.labels, median)
        split.facts |= {"median_age": median.item() + YOUNGEST_AGE, "median_mae": mae}
    script, modules = Path(__file__), (torch, torchvision, np, pd, PIL)
    versions = {module.__name__: module.__version__ for module in modules}
    run = {"script": script.name, "script_sha256": hashlib.sha256(script.read_bytes()).hexdigest()}
    run |= {"dataset": DATASET, "loss": LOSS, "gender": args.gender, "seed": args.seed}
    run |= {"num_classes": NUM_CLASSES, "youngest_age": YOUNGEST_AGE, "device": str(device)}
    run["settings"] = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    run["versions"] = {"python": sys.version.split()[0], **versions}
    run["data"] = {name: split.facts for name, split in splits.items()}
    return run | {"processes": PROCESSES, "status": "running", "minutes": 0.0, "metrics": {}}


def check_same(before, now):
    """Refuse to resume if the settings or the data that decide the numbers have changed."""
    facts = []
    for run in (before, now):
        fact = {"script": run["script"], "number of processes": run["processes"]}
        fact |= {f"--{k}": v for k, v in run["settings"].items() if k not in FREE_ON_RESUME}
        for name, data in run["data"].items():
            for kind in ("csv_sha256", "images_sha256"):
                fact[f"{kind} of {name} data"] = data[kind]
        facts.append(fact)
    for what in facts[0] | facts[1]:
        was, now_is = facts[0].get(what), facts[1].get(what)
        if was != now_is:
            refuse(f"--resume: {what} was {was}, is {now_is}: make it equal, or start another run")
    if before["script_sha256"] != now["script_sha256"]:
        warn("this script's text has changed since the run began")


def warn(message):
    """Tell the user what does not end the run."""
    if RANK == 0:
        tqdm.write(f"{Path(__file__).name}: warning: {message}", file=sys.stderr)


def lock_outpath(out):
    """Make the folder and lock it against other processes; the lock, to be closed."""
    lock = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
        if sys.platform != "win32":
            import fcntl  # not on Windows, where two runs in one folder are not kept apart

            lock = os.open(out, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        refuse(f"--outpath {out}: another process is running there")
    except OSError as error:
        if lock is None:  # some network file systems have no locks: then go without
            refuse(f"--outpath {out}: {error.strerror}; give a folder that can be written")
    return lock


def earlier_run(args):
    """The run.json, whose seed ``args`` gets, and the checkpoint to resume from; None without."""
    found = [name for name in RUN_FILES.split() if (args.outpath / name).exists()]
    if not found or args.overwrite:
        return None, None
    if not args.resume:
        refuse(f"{args.outpath} holds a run ({found[0]}); see --resume and --overwrite")
    with reading(path := args.outpath / "run.json"):
        before = json.loads(path.read_bytes())
        args.seed = before["seed"] if args.seed == -1 else args.seed
        # the data are compared later, once they are read
        check_same(before, before | {"script": Path(__file__).name, "settings": vars(args)})
    with reading(path := args.outpath / "checkpoint.pt"):
        resumable = path.exists() and before["status"] != "finished"
        checkpoint = read_tensors(path) if resumable else None
        if checkpoint and checkpoint["run"] != [before["script"], before["seed"]]:
            raise ValueError("not a checkpoint of this run")
    with reading(path := args.outpath / "best_model.pt"):
        if checkpoint and checkpoint["progress"]["best"]:
            read_tensors(path)
    return before, checkpoint


# %% Checkpoint [all]
def save_checkpoint(args, parts, progress, rng, total):
    """Write checkpoint.pt: all that resuming needs. Where that fails, or the weights are no longer
    finite, the older one stays."""
    if not all(tensor.isfinite().all() for tensor in parts["model"].state_dict().values()):
        return
    for name in ("training.log", "history.csv"):
        file = args.outpath / name
        progress[name] = file.stat().st_size if file.exists() else 0
    state = {name: part.state_dict() for name, part in parts.items()}
    state |= {"progress": progress, "rng": rng, "total": summed(total.clone())}
    state["run"] = [Path(__file__).name, args.seed]
    try:
        write_file(args.outpath / "checkpoint.pt", lambda file: torch.save(state, file))
    except OSError as error:
        warn(f"{error.filename} was not written, an older one stays: {error.strerror}")


# %% Training [all]
def gender_cost(logits, genders, known):
    """Binary cross-entropy of P(male): the sum over this process's images of known gender (others
    are nan), by the number of ``known`` genders in the whole batch."""
    terms = F.binary_cross_entropy_with_logits(logits, genders.nan_to_num(), reduction="none")
    return terms[~genders.isnan()].sum() / max(known, 1)


@torch.no_grad()
def update_average(average, model, decay, step):
    """Move the averaged weights and running statistics towards the model's; faster at first."""
    decay = min(decay, (1 + step) / (10 + step))
    for mean, now in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(now, 1 - decay)
        else:
            mean.copy_(now)


def learning_rate(args, step, steps):
    """The learning rate of ``step`` (from 0) out of ``steps``; with --onecycle 1 that of torch's
    OneCycleLR: from lr/25 up to lr in the first fifth, down to lr/250,000, both along a cosine."""
    if not args.onecycle:
        return args.lr
    peak = max(0.2 * steps - 1, 0)
    if step < peak:
        low, part = args.lr / 25, 1 - step / peak
    else:
        low, part = args.lr / 250_000, (step - peak) / max(steps - 1 - peak, 1)
    return low + (args.lr - low) * (1 + math.cos(math.pi * part)) / 2


def train(model, splits, args, device, checkpoint, stop):
    """Train ``model``; the weights to evaluate (the average, if one is kept) and the progress."""
    split, count = splits["train"], len(splits["train"].files)
    steps, last = math.ceil(count / args.batch_size), count // args.batch_size
    imp = (task_importance_weights(split.labels) if args.imp_weight else torch.ones(1)).to(device)
    # without weight decay AdamW is Adam, to the bit
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=args.weight_decay)
    final = copy.deepcopy(model) if args.average else model  # what is evaluated and saved
    parts = {"model": model, "optimizer": optimizer, "average": final}
    progress = {"epoch": 0, "batch": 0, "minutes": 0.0, "seconds": 0.0, "waited": 0.0, "best": {}}
    total = torch.zeros((), device=device)  # this process's part of the epoch's costs, by images
    if checkpoint:
        with reading(args.outpath / "checkpoint.pt"):
            progress |= checkpoint["progress"]
            torch.set_rng_state(checkpoint["rng"])
            total += checkpoint["total"].to(device) * (RANK == 0)
            for name, part in parts.items():
                part.load_state_dict(checkpoint[name])
            sizes = {name: progress[name] for name in ("training.log", "history.csv")}
        for name in sizes if RANK == 0 else ():
            os.truncate(args.outpath / name, sizes[name])
    devices = [device] if args.cuda >= 0 else None
    network = DistributedDataParallel(model, devices) if PROCESSES > 1 else model

    began, saved = time.time() - 60 * progress["minutes"], time.time()
    for epoch in range(progress["epoch"], args.epochs):
        network.train()
        rng, first, asked = torch.get_rng_state(), progress["batch"], time.time()
        epoch_began, title = asked - progress["seconds"], f"epoch {epoch + 1}/{args.epochs}"
        for number, rows, mine, share, images in batches(split, args, True, first, title):
            step = epoch * steps + number
            images = to_device(images, device, args)
            labels = split.labels[rows[mine]].to(device)
            progress["waited"] += time.time() - asked
            if args.augment:
                draws = np.random.default_rng((args.seed, step)).uniform(-1, 1, (len(rows), 9))
                images = augment(images, torch.from_numpy(draws[mine]).float().to(device))
            with torch.autocast(device.type, torch.bfloat16, enabled=bool(args.amp)):
                logits, gender_logits = network(images)
            cost = cost_fn(logits.float(), labels, imp) * share
            if args.gender:
                genders = split.genders[rows[mine]].to(device)
                known = split.genders[rows].isfinite().sum().item()
                cost = cost + gender_cost(gender_logits.float(), genders, known) * (share > 0)
            # on CUDA, reading the cost makes the device wait: only where it is logged
            if device.type == "cpu" or number % args.log_every == 0:
                shown = summed(cost.detach().clone()).item()
                if not math.isfinite(shown):
                    refuse(f"the cost is {shown} in epoch {epoch + 1}, batch {number}", 1)
            optimizer.param_groups[0]["lr"] = learning_rate(args, step, args.epochs * steps)
            optimizer.zero_grad()
            (cost * PROCESSES).backward()  # DistributedDataParallel divides by their number
            optimizer.step()
            total += cost.detach() * len(rows)
            if args.average:
                update_average(final, model, args.average, step)
            if number % args.log_every == 0:
                batch = f"{epoch + 1:03d}/{args.epochs:03d} | Batch {number:04d}/{last:04d}"
                log(args, f"Epoch: {batch} | Cost: {shown:.4f}")
            asked = time.time()
            progress |= {"epoch": epoch, "batch": number + 1, "seconds": asked - epoch_began}
            progress["minutes"] = (asked - began) / 60
            signalled, since = largest(stop[0], asked - saved)
            if signalled or since > 60 * args.checkpoint_minutes:
                save_checkpoint(args, parts, progress, rng, total)
                saved = time.time()
            leave_if(signalled)
        cost, seconds = summed(total.clone()).item() / count, progress["seconds"]
        row = [epoch + 1, cost, seconds, progress["waited"], count / seconds, "", ""]
        if "valid" in splits:
            save_checkpoint(args, parts, progress, rng, total)
            with torch.random.fork_rng(devices=[]):  # training goes on as it would without
                now = score(splits["valid"], *evaluate(final, splits["valid"], args, device, stop))
            best = progress["best"]
            if not best or now["mae"] < best["mae"]:
                best = progress["best"] = {"epoch": epoch, **now}
                save_model(args.outpath / "best_model.pt", final)
            current = f"Current Valid: {now['mae']:.2f}/{now['rmse']:.2f} Ep. {epoch}"
            best = f"Best Valid : {best['mae']:.2f}/{best['rmse']:.2f} Ep. {best['epoch']}"
            log(args, f"MAE/RMSE: | {current} | {best}")
            row[-2:] = now["mae"], now["rmse"]
        progress |= {"epoch": epoch + 1, "batch": 0, "seconds": 0.0, "waited": 0.0}
        progress["minutes"] = (time.time() - began) / 60
        total.zero_()
        log(args, f"Time elapsed: {progress['minutes']:.2f} min")
        append_line(args.outpath / "history.csv", ",".join(map(str, row)))
        save_checkpoint(args, parts, progress, torch.get_rng_state(), total)
        saved = time.time()
    return final, progress


# %% Main [all]
@torch.no_grad()
def init_backbone(model, path):
    """Start all convolutions and batch norms from the state dict at ``path``."""
    with reading(f"--init_from {path}:", "not the state dict of a ResNet-34"):
        given = torch.load(path, map_location="cpu", weights_only=True)
        for name, tensor in model.state_dict().items():
            if name.startswith(("conv", "bn", "layer")) and "num_batches" not in name:
                tensor.copy_(given[name].view_as(tensor))


def finish(model, prefix, splits, args, device, stop):
    """Evaluate all splits and write the test predictions; the metrics and the log's lines."""
    metrics, lines = {}, ["MAE/RMSE:", "Gender accuracy:"]
    for name, split in splits.items():
        probas, male = evaluate(model, split, args, device, stop, train=name == "train")
        scores = score(split, probas, male)
        metrics |= {f"{prefix}{name}_{key}": value for key, value in scores.items()}
        title = (prefix.replace("_", " ") + name).title()
        lines[0] += f" | {title}: {scores['mae']:.2f}/{scores['rmse']:.2f}"
        lines[1] += f" | {title}: {scores.get('gender_accuracy', math.nan):.4f}"
    save_predictions(args, prefix, split, probas, male)
    return metrics, lines if args.gender else lines[:1]


def run(args, before, checkpoint, stop):
    """Train, evaluate and save; ``before`` and ``checkpoint`` are those of a run to resume."""
    device = torch.device("cpu")
    if args.cuda >= 0:
        device = torch.device("cuda", LOCAL_RANK if PROCESSES > 1 else args.cuda)
        torch.cuda.set_device(device)
    splits = {"train": args.train_csv, "valid": args.valid_csv, "test": args.test_csv}
    splits = {n: read_split(c, args.image_path, args.gender) for n, c in splits.items() if c}
    torch.manual_seed(args.seed)
    model = ResNet34(args.gender, args.seed)
    if args.prior_bias:
        set_prior_bias(model, splits["train"].labels)
    if args.init_from:
        init_backbone(model, args.init_from)
    load_pixels(splits, args, stop)
    now = describe(args, splits, device)
    if before and RANK == 0:
        check_same(before, now)
    if device.type == "cuda" and PROCESSES > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(device, memory_format=torch.channels_last if args.channels_last else None)

    write_run = functools.partial(write_file, args.outpath / "run.json")
    if not checkpoint:
        for name in RUN_FILES.split():  # in this order, so that a kill leaves what --resume takes
            if name == "run.json":
                write_run(lambda file: file.write(json.dumps(now, indent=1).encode()))
            elif RANK == 0:
                (args.outpath / name).unlink(missing_ok=True)
        columns = "epoch,cost,seconds,wait_seconds,images_per_second,valid_mae,valid_rmse"
        append_line(args.outpath / "history.csv", columns)
        log(args, f"PyTorch Version: {torch.__version__}")
        log(args, f"CUDA device available: {torch.cuda.is_available()}")
        log(args, f"Using CUDA device: {device}")
        log(args, f"Random Seed: {args.seed}")
        if task_importance_weights:
            log(args, f"Task Importance Weight: {args.imp_weight}")
        log(args, f"Output Path: {args.outpath}")

    model, progress = train(model, splits, args, device, checkpoint, stop)
    began = time.time() - 60 * progress["minutes"]
    now["metrics"], lines = finish(model, "", splits, args, device, stop)
    save_model(args.outpath / "model.pt", model)
    now["minutes"] = (time.time() - began) / 60
    lines.append(f"Total Training Time: {now['minutes']:.2f} min")
    if args.valid_csv:
        if RANK == 0:
            model.load_state_dict(torch.load(args.outpath / "best_model.pt", weights_only=True))
        metrics, best_lines = finish(model, "best_", splits, args, device, stop)
        now["metrics"] |= metrics | {"best_epoch": progress["best"]["epoch"] + 1}
        lines += best_lines
    for line in lines:
        log(args, line)
    now["status"] = "finished"
    write_run(lambda file: file.write(json.dumps(now, indent=1).encode()))


def main(argv=None):
    """Run the script with the given command-line arguments."""
    args, stop, lock, handlers = parse_settings(argv), [0], None, {}
    for number in (signal.SIGTERM, signal.SIGINT):
        handlers[number] = signal.signal(number, lambda number, _: stop.__setitem__(0, number))
    try:
        if PROCESSES > 1:
            backends = "gloo" if args.cuda < 0 else "cpu:gloo,cuda:nccl"
            dist.init_process_group(backends, timeout=timedelta(days=1))  # decoding may take hours
        shared = [None, None, None]
        if RANK == 0:
            lock = lock_outpath(args.outpath)
            before, checkpoint = earlier_run(args)
            if args.seed == -1:
                args.seed = int.from_bytes(os.urandom(4), "little")
            shared = [args.seed, before, checkpoint]
        if PROCESSES > 1:
            dist.broadcast_object_list(shared)
        args.seed, before, checkpoint = shared
        if not before or before["status"] != "finished":
            run(args, before, checkpoint, stop)
        elif RANK == 0:
            print(f"{args.outpath} holds this run, finished: nothing to do")
        if RANK == 0:
            (args.outpath / "checkpoint.pt").unlink(missing_ok=True)
    except OSError as error:
        refuse(f"{error.filename or args.outpath}: {error.strerror or error}", 1)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if PROCESSES == 1 and "memory" not in reason:
            raise
        print(f"{Path(__file__).name}: error: process {RANK} failed: {reason}", file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if lock is not None:
            os.close(lock)
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has all characters
    main()
