"""Age estimation on any faces, ages 0-100, by CORAL-CNN (Cao et al., arXiv 1901.07884).

    python faces-coral.py --seed 1 --imp_weight 1 --cuda 0 --outpath run1

Trains, evaluates and fills the folder run1. Cells marked [all] are the same text in all scripts,
[own] in none; this one differs from its sisters in those marked [faces] for the data set and
[coral, ordinal] and [coral] for the loss. cells.py checks that.

Result: MAE 5.28 years on 6,795 held-out photos of three collections, ages 0 to 100: the model that
comes with the project, whose card, model-code/pretrained/README.md, tells how it was trained.
"""

# %% Imports [all]
import argparse
import contextlib
import copy
import errno
import functools
import hashlib
import io
import json
import math
import os
import platform
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
import warnings
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
from torchvision.transforms.functional import center_crop, normalize, resize
from tqdm import tqdm

# %% Paths [own]
# Edit these, or give the options of the same names.
SAMPLE = Path(__file__).resolve().parent.parent / "datasets" / "sample" / "faces"  # drawn faces
TRAIN_CSV_PATH = SAMPLE / "train.csv"
VALID_CSV_PATH = None  # of rows to choose the best epoch on
TEST_CSV_PATH = SAMPLE / "test.csv"
IMAGE_PATH = SAMPLE / "images"

# %% Facts of the data set [faces]
# The CSV's column age holds the age in years.
DATASET = "faces"
NUM_CLASSES = 101
YOUNGEST_AGE = 0  # in years, label 0; the oldest is 100
FILE_COLUMN = "file"  # any name; ages in names as UTKFace's, or of folders, are checked
AGE_IN_NAME = r"(?:^|/)(\d{1,3})(?:_[01]_\d_[^/]*|/[^/]+)$"
GENDER_COLUMN = "gender"  # male, female, or empty
GENDER_VALUES = "male or female"
CENTER_CROP = None
UPRIGHT = True  # photos are turned as their EXIF orientation says
AGE_RANGES = True  # age may hold a range, too: 20-29 or 70+, or nothing if it is unknown
WEIGHT_COLUMN = "weight"  # how often a row is drawn in training, relative to others


def gender_of(table):
    """1.0 for male, 0.0 for female, nan where unknown; one for each row of the CSV."""
    return table["gender"].map({"male": 1.0, "female": 0.0})


# %% Output layer, loss and prediction [coral]
LOSS = "coral"
NUM_PROBAS = NUM_CLASSES - 1  # P(y > k)


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


def predict_labels(probas):
    """The number of P(y > k) above 0.5 (paper, equation 1); int64 (batch,)."""
    return (probas > 0.5).sum(1)


def cost_fn(logits, labels, imp):
    """Weighted binary cross-entropies of each image, summed over tasks (paper, eq. 4); (batch,).

    - sum_k w_k (t_k log P(y > k) + (1 - t_k) log P(y <= k)). Of an age in the range [a, b] t_k is
    1 if a > k and 0 if b <= k; of the tasks between, which that does not answer, w_k is 0.

    Label 1 of three, P(y > 0) = 3/4 and P(y > 1) = 1/2, weights 1 and 1/2: the cost is
    -log(3/4) - 1/2 log(1 - 1/2) = 0.6343.

    >>> logits = torch.tensor([[math.log(3), 0.0]])
    >>> cost_fn(logits, torch.tensor([1]), torch.tensor([1.0, 0.5]))
    tensor([0.6343])
    """
    tasks = torch.arange(logits.shape[1], device=logits.device)
    lowest, highest = (ends[:, None] for ends in ends_of(labels))
    levels = (lowest > tasks).float()  # t_k = 1 if y > k, else 0
    imp = imp * (levels + (highest <= tasks))  # 0 where a range does not tell
    log_probas = F.logsigmoid(logits)
    terms = log_probas * levels + (log_probas - logits) * (1 - levels)
    return -torch.sum(terms * imp, dim=1)


# %% Task importance weights [coral, ordinal]
def answers(labels):
    """n_k and m_k, the numbers of ``labels`` above k and not above k, for k = 0..K-2; float64
    (K-1,) both. Ranges count where they answer that: for exact labels m_k is N - n_k."""
    lowest, highest = (ends[:, None] for ends in ends_of(labels))
    tasks = torch.arange(NUM_CLASSES - 1)
    return (lowest > tasks).sum(0).double(), (highest <= tasks).sum(0).double()


def task_importance_weights(labels):
    """w_k = sqrt(max(n_k, m_k)) / max_j sqrt(max(n_j, m_j)), n_k and m_k the numbers of ``labels``
    above k and not above k (paper, section 3.3); (K-1,)."""
    importance = torch.maximum(*answers(labels)).float().sqrt()
    return importance / importance.max().clamp(min=1)  # 0 where all ages are unknown


def log_odds(labels):
    """Logits of the share of labels above k among those of ``labels`` that tell, finite also where
    it is 0 or 1, and 0 where none tells; (K-1,)."""
    above, others = answers(labels)
    asked = (above + others).clamp(min=1)
    above = above.clamp(min=0.5).minimum(asked - 0.5)
    return torch.logit(above / asked).float()


# %% Recipes [all]
# --recipe chooses a column. A flag of the row's name, or --set row=value, changes it for one run.
# paper: the settings of the paper's code, 200 epochs take 17 hours to 7 days on two cores; fast: 20
# minutes with --amp 1, twice that without; long: 43; tune: from --init_from, on a few photos.
# fmt: off
RECIPES = {
    # row             paper   fast   long    tune
    "epochs":        (200,    16,    30,     10,     "passes over the training images"),
    "batch_size":    (256,    64,    128,    32,     "images in a step; the last may have fewer"),
    "lr":            (0.0005, 0.001, 0.0015, 0.0001, "learning rate; with onecycle the highest"),
    "image_size":    (120,    64,    96,     96,     "side of the network's input in pixels"),
    "imp_weight":    (0,      0,     0,      0,      "1: task importance weights"),
    "balance":       (0,      0,     0,      0,      "1: images of rare ages weigh more"),
    "augment":       (0,      0,     1,      1,      "data augmentation; 2: stronger, degraded"),
    "gender":        (0,      0,     1,      1,      "1: learn P(male) as well"),
    "gender_weight": (1.0,    1.0,   1.0,    10.0,   "of the gender cost, beside the age cost's 1"),
    "amp":           (0,      0,     1,      1,      "1: bfloat16, slow where a device lacks it"),
    # rows without a flag: --set
    "prior_bias":    (0,      1,     1,      1,      "1: output biases start at label frequencies"),
    "bias_lr":       (1.0,    1.0,   10.0,   1.0,    "learning rate of CORAL's biases, times lr"),
    "onecycle":      (0,      1,     1,      1,      "1: lr rises for a fifth of all, then falls"),
    "weight_decay":  (0.0,    0.05,  0.05,   0.0,    "decoupled; Adam becomes AdamW"),
    "average":       (0.0,    0.998, 0.998,  0.9,    "decay of the exponential moving average"),
    "mixup":         (0.0,    0.0,   0.0,    0.0,    "blend images by lam from Beta(mixup, mixup)"),
    "flip":          (0,      1,     1,      1,      "1: mirror images in training and answers"),
    "shifts":        (0,      0,     1,      0,      "1: test-time augmentation by pixel shifts"),
    "fused":         (0,      1,     1,      1,      "1: the optimiser's step in one pass"),
    "channels_last": (0,      1,     1,      1,      "1: channels-last memory format"),
}
# fmt: on
COLUMNS = "paper", "fast", "long", "tune"


# %% ResNet-34 [all]
BLOCKS = 3, 4, 6, 3  # in the four stages
NORMALISATION = None  # or means and deviations of the colours, as pretrained weights expect them


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016). Conv3x3 is nn.Conv2d with padding 1 and
    no bias, with a faster way to compute some of them in bfloat16 (below)."""

    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.conv1 = Conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = Conv3x3(channels, channels)
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
    """float32 (batch, 3, S, S) in [0, 1] to age logits, shaped for this script's loss, and gender
    logits (batch,), nan without a gender output."""

    def __init__(self, gender=0):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

        before = 64
        for i, (channels, blocks) in enumerate(zip((64, 128, 256, 512), BLOCKS, strict=True)):
            stage = [BasicBlock(before, channels, stride=2 if i else 1)]
            stage += [BasicBlock(channels, channels, stride=1) for _ in range(blocks - 1)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
            before = channels

        self.avgpool = nn.AvgPool2d(7, stride=1, padding=2)
        add_output_layer(self)

        # He et al. 2015; drawn on top of torch's defaults and in the modules' order, so that a seed
        # gives the weights of the paper's code
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

        self.fc_gender = nn.Linear(2048, 1) if gender else None

    def forward(self, x):
        if NORMALISATION:
            x = normalize(x, *NORMALISATION)
        x = self.maxpool(F.relu_(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))

        # of a 4x4 map (S from 97 to 128) each of the pool's 2x2 windows covers all, and zeros: the
        # sum / 49. Of others the same by a mean, as there are to be 4 * 512 features for any S.
        if x.shape[-1] == 4:
            x = self.avgpool(x).flatten(1)
        else:
            x = (x.mean((2, 3)) * (16 / 49)).repeat_interleave(4, dim=1)

        with torch.autocast(x.device.type, enabled=False):  # output layers in full precision
            x = x.to(self.conv1.weight.dtype)
            unknown = x.new_full((len(x),), math.nan)
            return age_logits(self, x), self.fc_gender(x).squeeze(1) if self.fc_gender else unknown


# %% One run and its training loop [all]
def run(args, earlier):
    """Read, build, train, evaluate and save; ``earlier`` is what there is of a run to resume."""
    device = select_device(args)
    splits = read_splits(args)
    model = build_model(args, drawn_labels(splits["train"]))
    start = args.init_from and not earlier.checkpoint
    kept = init_weights(model, args.init_from) if start else []
    needed = bytes_of_run(model, splits, args)
    load_pixels(splits, args, needed)  # decoding may take hours: after all that may be refused
    facts = begin_record(args, splits, device, earlier)

    model = place(model, device, args)
    if "age" in kept:
        evaluate_start(model, splits["test"], args, device)
    state = train(model, splits, args, device, earlier.checkpoint)

    metrics, lines = evaluate_all(state.averaged, "", splits, args, device)
    save_model(args.outpath / "model.pt", state.averaged)
    facts["minutes"] = (time.monotonic() - state.began) / 60
    lines.append(f"Total Training Time: {facts['minutes']:.2f} min")

    if args.valid_csv:  # and the epoch that was best on the validation rows
        best = best_model(state.averaged, args)
        best_metrics, best_lines = evaluate_all(best, "best_", splits, args, device)
        metrics |= best_metrics | {"best_epoch": state.progress["best"]["epoch"] + 1}
        lines += best_lines
    gain, gain_lines = compare_with_start(splits["test"], args)
    end_record(facts, args, metrics | gain, lines + gain_lines)


def build_model(args, labels):
    """The network with its first weights, which depend on nothing but the seed and the settings."""
    torch.manual_seed(args.seed)  # nothing else may draw from here to the first pass
    model = ResNet34()
    if args.gender:  # drawn apart from the rest: all other weights and the batches stay the same
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(args.seed + 1)
            model.fc_gender = nn.Linear(2048, 1)

    if args.prior_bias:
        set_prior_bias(model, labels)
    return model


def train(model, splits, args, device, checkpoint=None):
    """Train ``model``, from ``checkpoint`` on if there is one. Returns the state; its ``averaged``
    model is the one to evaluate: the moving average, or without one ``model`` itself."""
    split = splits["train"]
    imp = task_importance_weights(drawn_labels(split)) if args.imp_weight else torch.ones(1)
    imp = imp.to(device)
    balance = class_weights(drawn_labels(split)).to(device) if args.balance else None

    steps = math.ceil(len(split.labels) / args.batch_size)  # in an epoch
    optimizer = build_optimizer(model, args)
    schedule = build_schedule(optimizer, args, args.epochs * steps)
    averaged = copy.deepcopy(model) if args.average else model
    state = training_state(model, averaged, optimizer, schedule)
    if checkpoint:
        restore(checkpoint, args, state)

    for epoch in range(state.progress["epoch"], args.epochs):
        model.train()
        title, first = f"epoch {epoch + 1}/{args.epochs}", state.progress["batch"]
        given = {"training": True, "first": first, "title": title, "weights": split.weights}
        for batch in batches(split, args, device, **given):
            step = epoch * steps + batch.number
            augment_batch(batch, args, step)
            # of the model, maybe shared out
            cost = batch_cost(state.network, batch, imp, args, balance)

            optimizer.zero_grad()
            cost.backward()
            optimizer.step()
            schedule.step()
            if args.average:
                update_average(averaged, model, args.average, step)

            after_step(state, split, batch, cost, args)

        validation = validate(state, splits["valid"], args, device) if args.valid_csv else ("", "")
        after_epoch(state, split, args, validation)
    return state


def batch_cost(network, batch, imp, args, balance=None):
    """The mean of cost_fn over all images of the batch, so that an answered task weighs the same in
    an image that leaves others unanswered, with --gender 1 plus gender_weight times that of
    gender_cost_fn over those of known gender; of a batch that is shared out, its part. With
    ``balance``, the class_weights, each image's age cost is multiplied by its weight."""
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=bool(args.amp)):
        logits, gender_logits = network(batch.images)

    def age_costs(logits, labels):
        costs = cost_fn(logits, labels, imp)
        each = "cost_fn must give a cost for each image, (n,), no mean"
        need(costs.shape == labels.shape[:1], each)
        return costs if balance is None else costs * mean_over_labels(balance, labels)

    # without mixup, lam None, mixed_costs gives age_costs(logits, batch.labels)
    cost = mixed_costs(batch.lam, age_costs, logits, batch.labels).sum() / batch.count
    if args.gender:
        costs = mixed_costs(batch.lam, gender_cost_fn, gender_logits, batch.genders)
        cost = cost + args.gender_weight * costs.sum() / max(batch.known_genders, 1)
    return cost


def mixed_costs(lam, cost_of, logits, targets):
    """The images' costs (n,), with mixup ``lam`` of their own and the rest of the others'."""
    logits = logits[: len(targets)]  # without the image that has no label
    costs = cost_of(logits, targets)
    if lam is None:
        return costs
    return torch.lerp(cost_of(logits, targets.flip(0)), costs, lam[: len(targets)])


def gender_cost_fn(logits, genders):
    """Binary cross-entropy of P(male) by image, 0 where the gender is unknown (nan); (batch,)."""
    costs = F.binary_cross_entropy_with_logits(logits, genders.nan_to_num(), reduction="none")
    return torch.where(genders.isnan(), 0, costs)


def ends_of(labels):
    """The lowest and the highest label that an image may have, (n,) both: of ``labels`` (n,), known
    ages, both the label; (n, 2) are ranges of ages, for unknown ones that of all."""
    return (labels, labels) if labels.dim() == 1 else labels.unbind(1)


def tell_something(labels):
    """False where the age is unknown; (n,)."""
    lowest, highest = ends_of(labels)
    return (lowest > 0) | (highest < NUM_CLASSES - 1)


def allowed_classes(labels, count=NUM_CLASSES):
    """Which of ``count`` classes ``labels``, or ranges of them, allow; bool (n, count)."""
    lowest, highest = (ends[:, None] for ends in ends_of(labels))
    classes = torch.arange(count, device=labels.device)
    return (lowest <= classes) & (classes <= highest)


def class_counts(labels):
    """How often each label occurs among those of ``labels`` that tell something, float64 (K,). A
    range counts in equal parts for each of its labels; one that never occurs as 1/K of an image."""
    allowed = allowed_classes(labels[tell_something(labels)]).double()
    return (allowed / allowed.sum(1, keepdim=True)).sum(0).clamp(min=1 / NUM_CLASSES)


def class_weights(labels):
    """Of each label the inverse square root of its frequency among ``labels``, scaled so that the
    mean over those images that tell something is 1; (K,)."""
    weights = class_counts(labels).rsqrt()
    known = labels[tell_something(labels)]
    mean = mean_over_labels(weights, known).mean() if len(known) else 1.0
    return (weights / mean).float()


def mean_over_labels(weights, labels):
    """Of ``weights`` (K,) each image's, (n,): of a range the mean over its labels."""
    allowed = allowed_classes(labels).to(weights.dtype)
    return allowed @ weights / allowed.sum(1)


# %% Batches [all]
# load_pixels, below, decodes each image once, by prepare_image: uint8 (3, R, R) in split.pixels.
# Then for every batch: crops and mirror images (batches), [0, 1] (to_device), augment_batch,
# batch_cost.
def decoded_side(image_size):
    """Pixels of the side to which images are resized, for crops of ``image_size`` to be cut from:
    128 for 120."""
    return round(image_size * 128 / 120)


def prepare_image(image, image_size):
    """uint8 (3, R, R) of a PIL image, R = decoded_side(image_size), by torchvision's bilinear
    resize; what is no square is squeezed into one."""
    image = as_rgb(image)
    if CENTER_CROP:
        image = center_crop(image, CENTER_CROP)
    side = decoded_side(image_size)
    return np.asarray(resize(image, [side, side])).transpose(2, 0, 1)


def central_crop(pixels, image_size):
    """The middle (..., S, S) of pixels (..., R, R)."""
    start = round((pixels.shape[-1] - image_size) / 2)
    return pixels[..., start : start + image_size, start : start + image_size]


def draw_seed():
    """A seed from the global generator, drawn as torch's DataLoader does."""
    return torch.empty((), dtype=torch.int64).random_().item()


def drawn_rows(weights, start):
    """The rows of an epoch of as many images as there are ``weights``, float64 (N,), in ascending
    order: each as many times as its weight is of their mean, rounded down or up, which for a random
    ``start`` from [0, 1) is right on average. Where all weigh the same, each row once."""
    shares = np.cumsum(weights) / np.sum(weights) * len(weights)
    rows = np.searchsorted(shares, np.arange(len(weights)) + start, side="right")
    return rows.clip(max=len(weights) - 1)  # where sums are rounded


def drawn_labels(split):
    """The labels of the images that an epoch draws, for what is counted before training."""
    if split.weights is None:
        return split.labels
    return split.labels[drawn_rows(split.weights, 0.5)]


def batches(split, args, device, training=False, first=0, title="evaluating", weights=None):
    """Batches with the order and crops of a torch DataLoader with --numworkers workers, made here
    without any worker, from number ``first`` on. In ``training`` order, crops and with flip mirror
    images are random; otherwise crops are central. With ``weights`` rows are drawn in proportion.

    Yields namespaces: number, from 0; images, float32 (n, 3, S, S) in [0, 1], on the device; rows
    of the split, labels, (n,) or of ranges (n, 2), and genders, (n,); count, the number of images
    in the whole batch, n unless it is shared out, and known_genders, how many of those are known;
    computed, the slice of the whole batch that the images are. Where a share is empty there is one
    image, without a label.
    """
    size, margin = args.image_size, split.pixels.shape[-1] - args.image_size

    # in the order of torch's DataLoader: first the seed of its workers, then that of its sampler
    base_seed, order = draw_seed(), np.arange(len(split.labels))
    if training:
        order_rng = torch.Generator().manual_seed(draw_seed())
        order = torch.randperm(len(order), generator=order_rng).numpy()
        if weights is not None:
            start = torch.rand((), generator=order_rng, dtype=torch.float64).item()
            order = drawn_rows(weights, start)[order]
    crop_rngs = [torch.Generator().manual_seed(base_seed + i) for i in range(args.numworkers)]
    flip_rng = torch.Generator().manual_seed(base_seed + args.numworkers)

    starts = range(0, len(order), args.batch_size)
    for number, start in enumerate(tqdm(starts, title, leave=False, disable=NO_BAR)):
        began = time.monotonic()
        rows = order[start : start + args.batch_size]
        if training:
            crop_rng = crop_rngs[number % args.numworkers]
            corners = torch.randint(0, margin + 1, (len(rows), 2), generator=crop_rng).numpy()
            flips = torch.randint(0, 1 + args.flip, (len(rows),), generator=flip_rng).numpy()
        if number < first:  # a resumed epoch: only the generators had to advance
            continue

        mine, computed = part_of_batch(len(rows))
        images = np.empty((len(rows[computed]), 3, size, size), np.uint8)
        for i, image in enumerate(images, computed.start):
            pixels = split.pixels[rows[i]]
            if training:
                top, left = corners[i]
                crop = pixels[:, top : top + size, left : left + size]
                image[:] = crop[:, :, ::-1] if flips[i] else crop
            else:
                image[:] = central_crop(pixels, size)

        batch = SimpleNamespace(number=number, rows=rows[mine], computed=computed, lam=None)
        batch.images = to_device(images, device, args.channels_last)
        batch.labels = split.labels[batch.rows].to(device, non_blocking=True)
        batch.genders = split.genders[batch.rows].to(device, non_blocking=True)
        batch.count = len(rows)
        batch.known_genders = split.genders[rows].isfinite().sum().item()
        batch.seconds = time.monotonic() - began
        yield batch


def to_device(images, device, channels_last=0):
    """float32 in [0, 1] on the device, of a uint8 batch (n, 3, S, S)."""
    images = torch.from_numpy(images).to(device)
    # by a tensor: for a number CUDA would multiply by 1/255, which rounds otherwise; made there, as
    # a copy would wait
    images = images.float() / torch.full((), 255.0, device=device)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


# %% Data augmentation [all]
def augment_batch(batch, args, step):
    """Change the images of ``batch`` as augment and mixup say. With mixup (Zhang et al. 2018) image
    i becomes lam[i] * image i + (1 - lam[i]) * image n-1-i; sets batch.lam (n,).

    What is random is drawn by seed and step for the whole batch: so resumed runs draw the same."""
    rng, device = np.random.default_rng((args.seed, step)), batch.images.device

    if args.augment:
        draws = rng.uniform(-1, 1, (batch.count, 21 if args.augment == 2 else 9))[batch.computed]
        draws = torch.tensor(draws).float().to(device, non_blocking=True)
        batch.images = augment(batch.images, draws, args.augment)

    if args.mixup:
        lam = torch.tensor(rng.beta(args.mixup, args.mixup, batch.count)[batch.computed]).float()
        batch.lam = lam.to(device, non_blocking=True)
        others = batch.images.flip(0)
        batch.images = torch.lerp(others, batch.images, batch.lam[:, None, None, None])


def augment(images, draws, level):
    """Images, float32 (n, 3, S, S) in [0, 1], changed by ``draws``, (n, 9) from [-1, 1): rotated by
    up to 10 degrees, scaled by up to exp(0.12), moved by up to 3 % of S (edge pixels repeated), and
    contrast changed by up to 30 %, brightness by 25 %, each colour by 7 %. At ``level`` 2 it is 20
    degrees, exp(0.24) and 6 %, and with 12 draws more the images ``degrade``."""
    rotation, scale, right, down = draws[:, :4].unbind(1)
    contrast, brightness, colours = draws[:, 4:9, None, None].split((1, 1, 3), dim=1)

    angle, zoom = level * math.radians(10) * rotation, torch.exp(level * 0.12 * scale)
    cos, sin, move = zoom * angle.cos(), zoom * angle.sin(), level * 0.06
    matrix = torch.stack([cos, -sin, move * right, sin, cos, move * down], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, images.shape, align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * (1 + 0.3 * contrast) + mean * (1 + 0.25 * brightness)
    images = (images * (1 + 0.07 * colours)).clamp(0, 1)
    return degrade(images, draws[:, 9:]) if level == 2 else images


def degrade(images, draws):
    """Images, float32 (n, 3, S, S) in [0, 1], as photos may be, by ``draws``, (n, 12) from [-1, 1):
    lit from one side, up to 40 % lighter or darker at the right and the lower border; 15 % of them
    grey; blurred or sharpened, the difference from the mean of 5x5 pixels less or more by up to
    100 %; 25 % of them partly covered, by a rectangle with sides of S/6 to S/2."""
    numbers, size = draws[:, :, None, None], images.shape[-1]
    right, down, grey, detail, hidden, left, top, width, height = numbers[:, :9].unbind(1)
    colours = numbers[:, 9:]

    x = torch.linspace(-1, 1, size, device=images.device)
    light = 1 + 0.4 * (right * x + down * x[:, None])
    images = (images * light[:, None]).clamp(0, 1)
    images = torch.where(grey[:, None] > 0.7, images.mean(1, keepdim=True), images)

    mean = F.avg_pool2d(images, 5, stride=1, padding=2, count_include_pad=False)
    images = torch.lerp(mean, images, 1 + detail[:, None]).clamp(0, 1)

    inside = (x - left).abs() < (2 + width) / 6
    inside = inside & ((x[:, None] - top).abs() < (2 + height) / 6) & (hidden > 0.5)
    return torch.where(inside[:, None], (1 + colours) / 2, images)


# %% Optimiser and schedule [all]
def build_optimizer(model, args):
    """Adam, or with weight decay AdamW (Loshchilov and Hutter 2019), which decays biases and batch
    norms as well. Adam moves no weight by more than about its rate in a step: too little for the
    biases of CORAL, which have to spread, so that theirs is bias_lr times as high."""
    weights = {1: [], args.bias_lr: []}  # by rate; one group where bias_lr is 1
    for name, weight in model.named_parameters():
        weights[args.bias_lr if name == "linear_1_bias" else 1].append(weight)
    groups = [{"params": some, "lr": args.lr * rate} for rate, some in weights.items() if some]

    # without weight decay AdamW is Adam, to the bit if it is not fused; on CUDA False would be slow
    fused = bool(args.fused) or None
    return torch.optim.AdamW(groups, weight_decay=args.weight_decay, fused=fused)


def build_schedule(optimizer, args, steps):
    """The learning rate over ``steps``: constant, or with onecycle from lr/25 up to lr in the first
    fifth and down to lr/250,000, both along a cosine (Smith and Topin 2019)."""
    if not args.onecycle:
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1)

    # fewer than 6 steps would leave none to rise in
    cycle = {"total_steps": max(steps, 6), "pct_start": 0.2, "cycle_momentum": False}
    rates = [group["lr"] for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, **cycle)


@torch.no_grad()
def update_average(averaged, model, decay, step):
    """Move the exponential moving average of weights and running statistics towards the model's;
    faster at first."""
    decay = min(decay, (1 + step) / (10 + step))
    floats, counts, now = [], [], model.state_dict()
    for name, mean in averaged.state_dict().items():
        (floats if mean.is_floating_point() else counts).append((mean, now[name]))
    torch._foreach_lerp_(*zip(*floats, strict=True), 1 - decay)  # on CUDA a few kernels for all
    torch._foreach_copy_(*zip(*counts, strict=True))


# %% Evaluation [all]
def compute_mae_and_mse(labels, predicted):
    """Mean absolute error (years) and mean squared error (years^2) of (N,) predicted labels."""
    errors = (predicted - labels).double()
    return errors.abs().mean().item(), errors.square().mean().item()


@torch.no_grad()
def predict_batch(model, images, flip=0, shifts=0):
    """Probabilities (n, K-1), or (n, K) of classes, and P(male) (n,), nan without a gender output,
    of images, float32 (n, 3, S, S) in [0, 1]. Test-time augmentation: the means over views, with
    ``flip`` of the image and its mirror image, with ``shifts`` of the image moved by a pixel to
    each corner (edge repeated), of which ``flip`` mirrors the second and third."""
    views = [images, images.flip(3)] if flip else [images]
    if shifts:
        larger, size = F.pad(images, (1, 1, 1, 1), mode="replicate"), images.shape[-1]
        views = [larger[..., y : y + size, x : x + size] for y in (0, 2) for x in (0, 2)]
        views[1:3] = [view.flip(3) if flip else view for view in views[1:3]]

    probas, male = 0, 0
    for view in views:
        logits, gender_logits = model(view)  # in float32 also with amp
        probas = probas + compute_probas(logits) / len(views)
        male = male + gender_logits.sigmoid() / len(views)
    return probas, male


@torch.no_grad()
def evaluate(model, split, args, device, training=False):
    """Returns probabilities float32 (N, K-1), or (N, K) of classes, and P(male) (N,), in the CSV's
    row order; with ``training`` of random crops, as the paper's code evaluates its training images.
    """
    model.eval()
    share_weights(model)
    probas, male = torch.zeros(len(split.labels), NUM_PROBAS), torch.zeros(len(split.labels))

    for batch in batches(split, args, device, training):
        shifts = args.shifts and not training
        answers = predict_batch(model, batch.images, args.flip, shifts)
        probas[batch.rows], male[batch.rows] = (x[: len(batch.rows)].cpu() for x in answers)
        end_if_asked(args)

    return add_up(probas), add_up(male)  # where rows are shared out the others' are 0


def years_off(labels, predicted):
    """Years from (N,) predicted labels to the nearest ones that ``labels`` allow, so that within a
    range it is 0; float64 (N,)."""
    return (predicted - predicted.clamp(*ends_of(labels))).abs().double()


def age_scores(labels, predicted):
    """Of (N,) predicted labels: MAE and RMSE in years over the known ages. Over the ranges, apart
    from these: the mean number of years to them, the share inside (group accuracy), and, where no
    two ranges overlap, the share that the groups next to it would also allow (one-off)."""
    lowest, highest = ends_of(labels)
    scores, exact = {}, lowest == highest
    if exact.any():
        mae, mse = compute_mae_and_mse(lowest[exact], predicted[exact])
        scores = {"mae": mae, "rmse": math.sqrt(mse)}

    ranges = tell_something(labels) & ~exact
    if ranges.any():
        labels, predicted = labels[ranges], predicted[ranges]
        off = years_off(labels, predicted)
        scores["mae_to_range"] = off.mean().item()
        scores["group_accuracy"] = (off == 0).double().mean().item()
        groups, of_row = labels.unique(dim=0, return_inverse=True)  # sorted
        if (groups[1:, 0] > groups[:-1, 1]).all():
            lowest, highest = groups[(of_row - 1).clamp(min=0), 0], groups[:, 1]
            highest = highest[(of_row + 1).clamp(max=len(groups) - 1)]
            near = (lowest <= predicted) & (predicted <= highest)
            scores["one_off_accuracy"] = near.double().mean().item()
    return scores


def score(split, probas, male):
    """The age_scores, and with genders the share of them that P(male) gets right."""
    scores, known = age_scores(split.labels, predict_labels(probas)), split.genders.isfinite()
    if known.any():
        right = (male > 0.5) == (split.genders > 0.5)
        scores["gender_accuracy"] = right[known].double().mean().item()
    return scores


# Of a line of the log: its title, its figures, their decimals.
MAE_LINE = "MAE/RMSE:", ("mae", "rmse"), 2
RANGE_NAMES = "mae_to_range", "group_accuracy", "one_off_accuracy"
RANGE_LINE = "MAE to range/group accuracy/one-off:", RANGE_NAMES, 4
GENDER_LINE = "Gender accuracy:", ("gender_accuracy",), 4


def figures(scores, names, decimals):
    """The ``scores`` of these names in text; nan for what there is none of."""
    return "/".join(f"{scores.get(name, math.nan):.{decimals}f}" for name in names)


def validate(state, split, args, device):
    """The figures of history.csv on the validation rows; the weights of the best epoch are kept: of
    the lowest mean of years_off(), over known ages and ranges alike (0 for unknown ages), which
    without ranges is the MAE. Epochs count from 0 here, as in the logs of the paper's authors."""
    with torch.random.fork_rng(devices=[]):  # training goes on as it would without
        probas, male = evaluate(state.averaged, split, args, device)
    now = score(split, probas, male)
    error = years_off(split.labels, predict_labels(probas)).mean().item()

    epoch, best = state.progress["epoch"], state.progress["best"]
    if not best or error < best.get("error", best.get("mae")):
        best = state.progress["best"] = {"epoch": epoch, "error": error, **now}
        save_model(args.outpath / "best_model.pt", state.averaged)

    ranges = "mae_to_range" in now
    for title, *names in (MAE_LINE, RANGE_LINE)[: 1 + ranges]:
        current = f"Current Valid: {figures(now, *names)} Ep. {epoch}"
        log(args, f"{title} | {current} | Best Valid : {figures(best, *names)} Ep. {best['epoch']}")
    return [now.get(name, "") for name in ("mae", "rmse", *RANGE_NAMES[: 2 * ranges])]


def evaluate_all(model, prefix, splits, args, device):
    """The metrics of all splits, and the log's lines of them; saves the test predictions."""
    metrics, lines = {}, {}
    for name, split in splits.items():
        probas, male = evaluate(model, split, args, device, training=name == "train")
        scores = score(split, probas, male)
        if name == "test":
            save_predictions(args, prefix, split, probas, male)

        metrics |= {f"{prefix}{name}_{key}": value for key, value in scores.items()}
        title = (prefix.replace("_", " ") + name).title()
        for line, *names in (MAE_LINE, RANGE_LINE, GENDER_LINE):
            lines[line] = lines.get(line, line) + f" | {title}: {figures(scores, *names)}"

    if not any("mae_to_range" in key for key in metrics):
        del lines[RANGE_LINE[0]]
    if not args.gender:
        del lines[GENDER_LINE[0]]
    return metrics, list(lines.values())


# %% From here on: settings, files, processes, resuming, the command line [all]
# For `uv run`, which then needs no environment; the same as requirements.txt.
# /// script
# requires-python = ">=3.10,<3.15"
# dependencies = [
#     "torch>=2.9,<2.15",
#     "torchvision>=0.24,<0.30",
#     "pandas>=2.2.1",
#     "numpy>=1.26",
#     "pillow>=11.3",
#     "tqdm>=4.66",
# ]
# ///


# %% Settings [all]
# the rows of RECIPES that have a flag of their own
FLAGS = "epochs batch_size lr image_size imp_weight balance augment".split()
FLAGS += "gender gender_weight amp".split()
PATHS = {  # option: (default, meaning)
    "train_csv": (TRAIN_CSV_PATH, "training rows"),
    "valid_csv": (VALID_CSV_PATH, "rows to choose the best epoch on"),
    "test_csv": (TEST_CSV_PATH, "test rows"),
    "image_path": (IMAGE_PATH, "folder of the image names in the CSVs"),
    "init_from": (None, "state dict to fine-tune: weights to start from"),
    "cache_dir": (None, "folder for decoded pixels; None: the temporary one"),
}
NUMBERS = {  # option: (default, meaning)
    "skip_missing": (0, "1: leave out rows whose image file is missing"),
    "seed": (-1, "for weights, order and crops; -1: a fresh one, recorded"),
    "numworkers": (4, "data streams; another number gives other crops"),
    "cuda": (-1, "CUDA device number; -1: the CPU"),
    "log_every": (50, "batches from one cost line to the next"),
    "checkpoint_minutes": (10.0, "time between checkpoints within an epoch"),
}
# fmt: off
LIMITS = {  # lowest and highest value; others are 0 or 1, or if they hold other values at least 0
    "epochs": (1, 10**6), "batch_size": (1, 10**6), "lr": (1e-12, 1e3), "image_size": (33, 1024),
    "augment": (0, 2), "gender_weight": (0, 1e3), "bias_lr": (1e-3, 1e3), "weight_decay": (0, 1e3),
    "average": (0, 0.999999), "mixup": (0, 1e3), "seed": (-1, 2**63 - 2), "numworkers": (1, 1024),
    "cuda": (-1, 1023), "log_every": (1, 10**9), "checkpoint_minutes": (0, 1e9),
}
# fmt: on
FREE_ON_RESUME = {*PATHS, "cuda", "log_every", "checkpoint_minutes"} - {"init_from"}
GONE = {"trust_csv"}  # options of older versions that change no number


def refuse(message, code=2):
    """End this process with one line for the user."""
    if LOCAL_RANK == 0:
        # a name in the message may hold a line break
        line = " ".join([f"{Path(__file__).name}: error:", *message.splitlines()])
        tqdm.write(line, file=sys.stderr)
    raise SystemExit(code)


def need(condition, message):
    """Refuse to go on unless ``condition`` holds."""
    if not condition:
        refuse(message)


def warn(message):
    """Tell the user what does not end the run."""
    if RANK == 0:
        tqdm.write(f"{Path(__file__).name}: warning: {message}", file=sys.stderr)


def kind_of(name):
    """int or float, as the row of RECIPES holds; a row with one float is of floats."""
    return float if any(isinstance(value, float) for value in RECIPES[name]) else int


def recipe_row(text):
    """(name, value) of what --set was given, such as mixup=0.2."""
    name, _, value = text.partition("=")
    if name not in RECIPES:
        raise argparse.ArgumentTypeError(f"{text}: no row of RECIPES is named {name!r}")
    try:
        return name, kind_of(name)(value)
    except ValueError:
        kind = {int: "a whole number", float: "a number"}[kind_of(name)]
        raise argparse.ArgumentTypeError(f"{text}: {name} takes {kind}") from None


def make_parser():
    """The command line, in groups as --help shows them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = refuse
    data, recipe, run = map(parser.add_argument_group, ("data", "recipe", "run"))

    def add(group, name, kind, meaning, default):
        meaning = f"{meaning} ({default})".replace("%", "%%")  # a folder may be named so
        group.add_argument(f"--{name}", type=kind, help=meaning)

    for name, (default, meaning) in PATHS.items():
        add(data, name, Path, meaning, default)
    for name, (default, meaning) in NUMBERS.items():
        add(data if name == "skip_missing" else run, name, type(default), meaning, default)

    columns = "column of the table RECIPES in this script, for what is not given (paper)"
    recipe.add_argument("--recipe", choices=COLUMNS, help=columns)
    others = []
    for name, (*values, meaning) in RECIPES.items():
        default = "/".join(map(str, values if len(set(values)) > 1 else values[:1]))
        if name in FLAGS:
            add(recipe, name, kind_of(name), meaning, default)
        else:
            others.append(f"{name}: {meaning} ({default})".replace("%", "%%"))
    given = {"nargs": "+", "action": "extend", "type": recipe_row, "metavar": "ROW=VALUE"}
    others = "; ".join(others)
    recipe.add_argument("--set", **given, default=[], help=f"change rows of the table: {others}")

    run.add_argument("--outpath", type=Path, required=True, help="folder that receives the run")
    either = run.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="go on with the run, or start it")
    either.add_argument("--overwrite", action="store_true", help="replace the run in --outpath")
    return parser


def parse_settings(argv, earlier=None):
    """The settings as an argparse namespace, checked. What is not given is that of the ``earlier``
    settings, those of the run to resume, or else what --recipe says."""
    for word in sys.argv[1:] if argv is None else argv:
        name = word.partition("=")[0].removeprefix("--")
        row = word.startswith("--") and name in RECIPES and name not in FLAGS
        need(not row, f"--{name} is no option, but a row of the recipe: --set {name}=VALUE")
    parser, earlier = make_parser(), earlier or {}
    recipe = parser.parse_known_args(argv)[0].recipe or earlier.get("recipe", "paper")

    # what is not given; an option that the earlier run did not know was as in the paper for it
    column = 0 if earlier else COLUMNS.index(recipe)
    defaults = {name: row[column] for name, row in RECIPES.items()}
    defaults |= {name: default for name, (default, _) in (PATHS | NUMBERS).items()}
    defaults |= {name: earlier[name] for name in defaults if name in earlier}
    parser.set_defaults(recipe=recipe, **defaults)
    args = parser.parse_args(argv)
    vars(args).update(args.set)
    del args.set

    for name in defaults.keys() - PATHS.keys():
        value, option = getattr(args, name), name in FLAGS or name in NUMBERS
        switch = name not in RECIPES or set(RECIPES[name][:-1]) <= {0, 1}
        low, high = LIMITS.get(name, (0, 1 if switch else math.inf))
        how = f"--{name} {value}" if option else f"--set {name}={value}"
        need(low <= value <= high, f"{how}: must be from {low} to {high}")
    need(
        task_importance_weights or not args.imp_weight,
        f"--imp_weight 1: {LOSS} has no task importance weights; leave it out",
    )
    message = "--recipe tune: goes on from weights that are there, give them with --init_from FILE"
    need(args.recipe != "tune" or args.init_from, message)
    # with torchrun, process i of a machine uses device i
    last = LOCAL_PROCESSES - 1 if PROCESSES > 1 and args.cuda >= 0 else args.cuda
    count = torch.cuda.device_count()
    message = f"--cuda {last}: this machine has {count} CUDA devices; --cuda -1 is the CPU"
    need(last < count, message)
    return args


# %% Reading and decoding [all]
def read_table(csv):
    """The rows of a CSV as text, without blanks around all but file names, and its SHA-256."""
    try:
        content = csv.read_bytes()
        form = {"dtype": str, "keep_default_na": False}
        header = pd.read_csv(io.BytesIO(content), header=None, nrows=1, **form)
        table = pd.read_csv(io.BytesIO(content), **form)
    except OSError as error:
        refuse(f"{csv}: {error.strerror}; edit the paths in {__file__} or give them as options")
    except ValueError as error:
        refuse(f"{csv}: not a CSV file in UTF-8 ({str(error).splitlines()[0]})")

    # where rows are longer than the header pandas makes row names of their first fields
    regular = len(table) and isinstance(table.index, pd.RangeIndex)
    need(regular, f"{csv}: no rows below the header, or rows with more fields than it has")
    names = [name for name in header.loc[0].str.strip() if name]  # pandas numbers equal ones
    unique = len(names) == len(set(names))
    need(unique, f"{csv}: two columns have the same name: {', '.join(names)}")

    table = table.rename(columns=str.strip)
    if FILE_COLUMN not in table and FILE_COLUMN.startswith("Unnamed"):  # the first, named or not
        table = table.rename(columns={table.columns[0]: FILE_COLUMN})
    for column in table.columns.drop(FILE_COLUMN, errors="ignore"):
        table[column] = table[column].str.strip()
    return table, hashlib.sha256(content).hexdigest()


def label_ends(ages):
    """The lowest and the highest label that each text allows, two of (N,), nan where it is neither
    number nor range; with AGE_RANGES 20-29 and 70+ are ranges, and nothing is that of all labels.
    """
    single = pd.to_numeric(ages, errors="coerce")
    if not AGE_RANGES:
        return single, single
    oldest = f"-{NUM_CLASSES - 1}"
    ages = ages.replace("", "0+").str.replace(r"\+$", oldest, regex=True)
    ends = ages.str.extract(r"^([0-9]+)-([0-9]+)$")
    return [pd.to_numeric(ends[i], errors="coerce").fillna(single) for i in (0, 1)]


def check_labels(csv, table):
    """The labels, whole numbers (N,), or if there are ranges their ends, (N, 2); refuses others,
    and warns of a column of ages where labels are due (or the other way round), as most file names
    tell."""
    names, (lowest, highest) = table[FILE_COLUMN], label_ends(table["age"])
    told = names.str.extract(AGE_IN_NAME)[0].astype(float)
    off = (lowest + YOUNGEST_AGE - told)[lowest == highest].dropna()
    usual, share = off.median(), (off == off.median()).mean()
    due = f"the age in years minus {YOUNGEST_AGE}" if YOUNGEST_AGE else "the age in years"

    if len(off) > len(names) / 2 and usual and share > 0.9:
        what = f"the column 'age' of {share:.0%} of the rows differs from the file name's age"
        warn(f"{csv}: {what} by {abs(usual):g} years; it must be {due}")

    whole = (lowest % 1 == 0) & (highest % 1 == 0)
    wrong = np.flatnonzero(~((0 <= lowest) & (lowest <= highest) & (highest < NUM_CLASSES) & whole))
    if len(wrong):
        row, must = wrong[0], f"a whole number from 0 to {NUM_CLASSES - 1}: {due}"
        must += ", a range as 20-29 or 70+, or empty where it is unknown" if AGE_RANGES else ""
        refuse(f"{csv}: row {row + 1} ({names[row]}): age is {table['age'][row]!r}, must be {must}")
    labels = np.stack([lowest, highest], 1).astype(np.int64)
    return labels[:, 0] if (lowest == highest).all() else labels


def check_weights(csv, table):
    """The rows' weights, float64 (N,), or None where all are alike; what is empty is 1."""
    if WEIGHT_COLUMN not in table:
        return None
    weights = pd.to_numeric(table[WEIGHT_COLUMN].replace("", "1"), errors="coerce")
    wrong = np.flatnonzero(~((weights > 0) & (weights <= 10**6)))
    if len(wrong):
        row, must = wrong[0], "a number above 0, at most a million, or empty for 1"
        value = table[WEIGHT_COLUMN][row]
        refuse(f"{csv}: row {row + 1}: {WEIGHT_COLUMN} is {value!r}, must be {must}")
    return weights.to_numpy(np.float64) if weights.nunique() > 1 else None


def check_genders(csv, table):
    """1.0, 0.0 or nan for each row; refuses values that are neither of the two genders."""
    genders, given = gender_of(table), table[GENDER_COLUMN]
    wrong = np.flatnonzero(genders.isna() & (given != "") & (GENDER_COLUMN != FILE_COLUMN))
    if len(wrong):
        row, value = wrong[0], given[wrong[0]]
        must = f"must be {GENDER_VALUES}, or empty where it is unknown"
        refuse(f"{csv}: row {row + 1}: {GENDER_COLUMN} is {value!r}, {must}")
    return genders.to_numpy(np.float32)


def read_splits(args):
    """{name: split} of the training, validation and test rows, checked."""
    csvs = {"train": args.train_csv, "valid": args.valid_csv, "test": args.test_csv}
    splits = {name: read_split(csv, args) for name, csv in csvs.items() if csv}

    lacking = [split.facts.get("missing_sha256") for split in splits.values()]
    same = all(other == lacking for other in all_gather(lacking))
    need(same, "--skip_missing 1: on some machines other images are missing than on this one")
    return splits


def read_split(csv, args):
    """The rows of a CSV, checked: its table (text), labels int64 (N,) or the ends of ranges (N, 2),
    genders float32 (N,) with nan where unknown, weights float64 (N,) or None, image files, and
    facts for run.json. load_pixels adds the pixels."""
    table, digest = read_table(csv)
    for column in (FILE_COLUMN, "age", GENDER_COLUMN) if args.gender else (FILE_COLUMN, "age"):
        has = f"needs a column {column!r}, has {', '.join(table)} (see {__file__})"
        need(column in table, f"{csv}: {has}")

    # a file's name may begin or end with a blank, but most blanks there are the table's
    exists = functools.cache(lambda name: os.path.isfile(os.path.join(args.image_path, name)))
    names = [name if exists(name) else name.strip() for name in table[FILE_COLUMN]]
    missing = np.array([not exists(name) for name in names])
    files = np.array([os.path.join(args.image_path, name) for name in names], object)
    table[FILE_COLUMN] = names

    labels, weights = check_labels(csv, table), check_weights(csv, table)
    genders = check_genders(csv, table) if args.gender else np.full(len(table), np.nan, np.float32)
    facts = {"csv": str(csv), "csv_sha256": digest}

    if missing.any():
        rows = ", ".join(f"row {row + 1}: {files[row]}" for row in np.flatnonzero(missing)[:3])
        count = f"{missing.sum()} of {len(files)} image files are missing"
        advice = f"--image_path is {args.image_path}; --skip_missing 1 leaves such rows out"
        need(args.skip_missing, f"{csv}: {count} ({rows}; {advice})")
        need(not missing.all(), f"{csv}: all {count}; --image_path is {args.image_path}")
        names = "\n".join(table[FILE_COLUMN][missing])
        facts["missing"] = int(missing.sum())
        facts["missing_sha256"] = hashlib.sha256(names.encode()).hexdigest()
        warn(f"{csv}: {count}, their rows are left out")

    known = not args.gender or np.isfinite(genders[~missing]).any()
    need(known, f"{csv}: --gender 1, but no row has a gender")
    facts["rows"] = int((~missing).sum())
    kept = SimpleNamespace(table=table[~missing].reset_index(drop=True), facts=facts)
    kept.rows = np.flatnonzero(~missing) + 1  # as messages count them
    kept.files = files[~missing].tolist()
    kept.labels, kept.genders = torch.tensor(labels[~missing]), torch.tensor(genders[~missing])
    kept.weights = None if weights is None else weights[~missing]
    facts |= count_ranges(kept.labels)

    told = tell_something(kept.labels).any() or (args.gender and csv != args.valid_csv)
    why = "to choose the best epoch by" if csv == args.valid_csv else "to learn without --gender 1"
    where = f"{csv}: row {kept.rows[0]} ({kept.files[0]})"
    need(told, f"{where}: the age is unknown, as in all other rows: nothing {why}")
    return kept


def count_ranges(labels):
    """For run.json: how many ages are exact, ranges, and unknown, where not all are exact."""
    exact, told = torch.eq(*ends_of(labels)), tell_something(labels)
    if exact.all():
        return {}
    counts = {"exact_ages": exact, "age_ranges": told & ~exact, "unknown_ages": ~told}
    return {name: rows.sum().item() for name, rows in counts.items()}


# Named, because Pillow would start another program for some others (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")


# By the EXIF orientation that a camera gave a photo, what turns it upright.
TURNS = dict(zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2), strict=True))


def as_rgb(image):
    """The PIL image in 8-bit RGB; of 16-bit greys the upper 8 bits. Raises ValueError for floats
    and 32-bit integers, of which nobody knows which value is white, and for raw photos."""
    # a TIFF file in mode I has 32 bits, or a sign; PNG and PGM files in it have 16 bits
    if image.mode == "F" or image.mode == "I" and image.format == "TIFF":
        raise ValueError("floats or 32-bit integers: save it with 8 or 16 bits a channel")
    if image.format == "TIFF" and image.tag_v2.get(0x00FE) == 1:  # as the first one in a raw photo
        raise ValueError("a preview of the photo comes first in it: develop it to JPEG")

    if UPRIGHT:
        image.load()  # Pillow turns TIFF files itself, and takes the tag away
        with contextlib.suppress(Exception):  # Pillow raises many kinds on damaged tags
            turn = TURNS.get(image.getexif().get(0x0112))
            image = image if turn is None else image.transpose(turn)

    if image.mode.startswith("I"):  # convert would clip all above 255
        image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


@torch.no_grad()
def init_weights(model, path):
    """Start from the state dict at ``path``: all of its convolutions and batch norms, which must be
    this network's, and its output layers where they are as this one's: of these, "age" and "gender"
    (where there is one), which it returns, the others start anew."""
    state, parts = model.state_dict(), ("conv", "bn", "layer")
    kept = {name: tensor for name, tensor in state.items() if name.startswith(parts)}
    with reading(f"--init_from {path}:", "not the state dict of this script's network"):
        given = torch.load(path, map_location="cpu", weights_only=True)
        others = [name for name in given if name.startswith(parts) and name not in kept]
        if others:
            raise KeyError(f"{others[0]} is not in this network")
        outputs = {"gender": {}, "age": {}}
        for name in state.keys() - kept.keys():
            outputs["gender" if name.startswith("fc_gender") else "age"][name] = state[name]
        told, anew = [], []
        for what, layer in outputs.items():
            if all(name in given and given[name].shape == layer[name].shape for name in layer):
                kept |= layer
                told += [what] if layer else []
            else:
                anew.append(f"has no layer for {what} as this script's: it starts anew")
        for name, tensor in kept.items():
            if "num_batches" not in name:
                tensor.copy_(given[name].view_as(tensor))
    for what in anew:
        warn(f"--init_from {path}: {what}")
    return told


def load_pixels(splits, args, needed=0):
    """Decode all images once, into a file that the processes of a machine map, and give each
    split its ``pixels``, uint8 (N, 3, R, R). The file loses its name before the first image is
    decoded, so nothing stays in --cache_dir, however the run ends (but on Windows it does). Refused
    before that unless there is room for ``needed`` bytes in --outpath, maybe on the same disk."""
    side = decoded_side(args.image_size)
    shape = (sum(len(split.files) for split in splits.values()), 3, side, side)
    folder, leads = args.cache_dir, LOCAL_RANK == 0
    try:
        folder = folder or Path(tempfile.gettempdir())
        path = folder.resolve() / f"coral-pixels-{os.getpid()}"
        if leads:
            np.memmap(path, np.uint8, "w+", shape=shape)
        # the first process of each machine tells the others there
        places = all_gather((platform.node(), path if leads else None))
        if not leads:
            mine = [path for node, path in places if path and node == platform.node()]
            if not mine:
                raise RuntimeError("no process of LOCAL_RANK 0 on this machine decodes the images")
            path = mine[0]

        pixels = np.memmap(path, np.uint8, "r+", shape=shape)

        wait_for_all()
        if leads and os.name == "posix":
            with open(path, "rb+") as file:
                path.unlink()
                if hasattr(os, "posix_fallocate"):  # later, a full disk would kill the process
                    os.posix_fallocate(file.fileno(), 0, math.prod(shape))
    except OSError as error:
        refuse(f"--cache_dir {folder}: {error.strerror}; {math.prod(shape):,} bytes needed")
    lacking = all_gather(lack_of_room(needed, args) if RANK == 0 and needed else None)[0]
    need(not lacking, lacking)

    for split in splits.values():
        split.pixels, pixels = np.split(pixels, [len(split.files)])
        if leads:
            split.facts["images_sha256"] = decode(split, args)
    if leads and "train" in splits:
        warn_of_training_images(splits)
    while any(all_max(False)):  # another machine's images are being decoded
        pass


def decode(split, args):
    """Fill the pixels of ``split``, and its digests, the SHA-256 of each image file; returns that
    over all files' bytes in row order."""

    def decode_rows(rows):
        contents = []
        for row in rows:
            try:
                contents.append(Path(split.files[row]).read_bytes())
                with PIL.Image.open(io.BytesIO(contents[-1]), formats=FORMATS) as image:
                    split.pixels[row] = prepare_image(image, args.image_size)
            except Exception as error:  # Pillow raises many kinds on damaged files
                where = f"{split.facts['csv']}: row {split.rows[row]}: {split.files[row]}"
                why = "not an image" if isinstance(error, PIL.UnidentifiedImageError) else error
                advice = "replace it, or take out its row"
                return contents, f"{where} is no readable image ({why}); {advice}"
        return contents, None

    digest, rows, told = hashlib.sha256(), range(len(split.files)), time.monotonic()
    split.digests = []

    parts = [rows[start : start + 32] for start in rows[::32]]
    # threads are enough: Pillow decodes and resizes outside Python's global lock
    pool = ThreadPoolExecutor(os.cpu_count())
    bar = tqdm(total=len(rows), desc="decoding", unit="img", disable=NO_BAR)

    with bar, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow's, of odd tags and palettes
        for contents, error in pool.map(decode_rows, parts):
            if error or stop.signal:
                pool.shutdown(cancel_futures=True)
            need(not error, error)
            exit_on_signal(stop.signal)
            digest.update(b"".join(contents))
            split.digests += [hashlib.sha256(content).digest() for content in contents]
            bar.update(len(contents))
            if time.monotonic() - told > 3 * SILENCE:  # seconds, a twentieth of it
                all_max(True)  # it may take hours: the others hear that it goes on
                told = time.monotonic()
    return digest.hexdigest()


def warn_of_training_images(splits):
    """Warn of validation and test images whose files hold the bytes of a training image's; their
    number goes into the facts, as in_training."""
    train = splits["train"]
    places = {digest: i for i, digest in enumerate(train.digests)}
    for split in splits.values():
        if split is train:
            continue
        known = [i for i, digest in enumerate(split.digests) if digest in places]
        split.facts["in_training"] = len(known)
        if known:
            pair = (split, known[0]), (train, places[split.digests[known[0]]])
            one, other = (f"row {s.rows[i]} ({s.table[FILE_COLUMN][i]})" for s, i in pair)
            count = f"{len(known)} of {len(split.files)} images are, byte for byte, training images"
            example = f"{one} is {other} of {train.facts['csv']}"
            advice = "make-csv.py --group_duplicates keeps such images on one side"
            warn(f"{split.facts['csv']}: {count}: {example}, for one; {advice}")


# %% Convolutions in bfloat16 on a CPU [all]
class Conv3x3(nn.Conv2d):
    """3x3 convolution, padding 1, no bias. Where oneDNN's gradients are slow, in training in
    bfloat16 and for outputs of at most 2x2, channels-last maps are multiplied by one matrix."""

    def __init__(self, in_channels, channels, stride=1):
        super().__init__(in_channels, channels, 3, stride, padding=1, bias=False)

    def forward(self, x):
        side, step = x.shape[-1], self.stride[0]
        small = self.training and x.device.type == "cpu" and side <= 2 * step
        last = x.is_contiguous(memory_format=torch.channels_last)
        if not (small and last and torch.is_autocast_enabled("cpu")):
            return super().forward(x)

        # the nine inputs of each output, one after the other: (batch, height, width, 9 channels)
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        taps = [padded[:, i : i + side : step, j : j + side : step] for i, j in np.ndindex(3, 3)]
        matrix = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(torch.cat(taps, 3), matrix).permute(0, 3, 1, 2)


# %% Several processes [all]
def from_srun(given):
    """The variables that torchrun would have set, where Slurm's srun has started several tasks, by
    its variables for a step (those for a job are there in a batch script, too)."""
    count = given.get("SLURM_STEP_NUM_TASKS", "1")
    if "RANK" in given or count == "1":
        return {}
    hosts = re.sub(r"\[(\w+).*?\]", r"\1", given["SLURM_STEP_NODELIST"])  # node[1-3,7],other
    shares = re.findall(r"(\d+)(?:\(x(\d+)\))?", given["SLURM_STEP_TASKS_PER_NODE"])  # 4(x2),3
    shares = [share for share, times in shares for _ in range(int(times or 1))]
    port = 10_000 + (int(given["SLURM_JOB_ID"]) + int(given["SLURM_STEP_ID"])) % 20_000
    told = {"RANK": given["SLURM_PROCID"], "LOCAL_RANK": given["SLURM_LOCALID"]}
    told |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": shares[int(given["SLURM_NODEID"])]}
    told |= {"MASTER_ADDR": hosts.split(",")[0], "MASTER_PORT": str(port)}
    return {name: value for name, value in told.items() if name not in given}


SRUN = from_srun(os.environ)
LAUNCH = os.environ | SRUN
RANK = int(LAUNCH.get("RANK", 0))  # torchrun sets these; rank 0 writes the run folder
LOCAL_RANK = int(LAUNCH.get("LOCAL_RANK", 0))
LOCAL_PROCESSES = int(LAUNCH.get("LOCAL_WORLD_SIZE", 1))
PROCESSES = int(LAUNCH.get("WORLD_SIZE", 1))
NO_BAR = None if RANK == 0 else True  # for tqdm: None shows a bar on terminals only
SILENCE = 10  # minutes after which a process that is waited for counts as lost
stop = SimpleNamespace(signal=0)  # the number of the signal that has come


def add_up(tensor):
    """``tensor``, summed over the processes in place; clone what must stay."""
    if PROCESSES > 1:
        dist.all_reduce(tensor)
    return tensor


def all_max(*values):
    """The largest of each value over the processes."""
    largest = torch.tensor(values).double()
    if PROCESSES > 1:
        dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.tolist()


def all_gather(value):
    """The values of all processes, in the order of their ranks."""
    values = [value] * PROCESSES
    if PROCESSES > 1:
        dist.all_gather_object(values, value)
    return values


def wait_for_all():
    """Return once all processes have called this: none can have the sum before."""
    add_up(torch.zeros(1))


def part_of_batch(count):
    """Two slices of a batch of ``count`` images: this process's part, which may be empty, and what
    it computes, as every process must compute in every step: then the first image."""
    start, end = (math.ceil(count * rank / PROCESSES) for rank in (RANK, RANK + 1))
    return slice(start, end), slice(start, end) if start < end else slice(0, 1)


def select_device(args):
    """The device that --cuda names; of several processes each has its own."""
    if args.cuda < 0:
        return torch.device("cpu")
    device = torch.device("cuda", LOCAL_RANK if PROCESSES > 1 else args.cuda)
    torch.cuda.set_device(device)
    torch.backends.cudnn.deterministic = True  # else a resumed run would not end the same
    return device


def place(model, device, args):
    """``model`` on the device; on several GPUs its batch norms see the whole batch."""
    if device.type == "cuda" and PROCESSES > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model.to(device, memory_format=torch.channels_last if args.channels_last else None)


def across_processes(model, device):
    """The network to train: ``model``, with several processes one that adds up their gradients."""
    if PROCESSES == 1:
        return model

    def sum_gradients(_, bucket):  # each process's cost is its part of the whole: a sum, no mean
        summed = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
        return summed.then(lambda future: future.value()[0])

    network = DistributedDataParallel(model, [device] if device.type == "cuda" else None)
    network.register_comm_hook(None, sum_gradients)
    return network


def share_weights(model):
    """Give all processes the weights and running statistics of rank 0, which saves them."""
    if PROCESSES > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)


def end_if_asked(args):
    """End all processes, to be resumed, if any has got a signal."""
    exit_on_signal(*all_max(stop.signal), args)


def exit_on_signal(number, args=None):
    """End the run where ``number`` is that of a signal, with the command that goes on: with
    ``args`` there is a checkpoint to go on from, else the same command again."""
    if not number:
        return

    words = ["python"]
    if PROCESSES > 1:
        words = ["torchrun", f"--nproc_per_node={LOCAL_PROCESSES}"]
        if LOCAL_PROCESSES < PROCESSES:  # how the machines find each other
            words.append("...")
    if SRUN:
        words = ["srun", f"--ntasks={PROCESSES}", "python"]
    words += [sys.argv[0], "--outpath", str(args.outpath), "--resume"] if args else sys.argv
    name = signal.Signals(number).name
    refuse(f"stopped by {name}; go on with: {shlex.join(words)}", 128 + int(number))


# %% Run folder [all]
# In this order: where a run starts again, the checkpoint goes first and run.json is there as soon
# as anything else is, so that a kill leaves what --resume takes.
RUN_FILES = "checkpoint.pt run.json training.log history.csv model.pt test_predictions.csv".split()
RUN_FILES += "test_probas.npy best_model.pt best_test_predictions.csv best_test_probas.npy".split()
RUN_FILES += "start_test_predictions.csv start_test_probas.npy".split()


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
        except (OSError, RuntimeError) as error:
            # torch may turn the file's error into one of its own
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            raise OSError(getattr(cause, "errno", 0), cause.args[-1], str(path)) from error
        finally:
            temporary.unlink(missing_ok=True)


def is_full(error):
    """Has an OSError to do with a full disk?"""
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def bytes_of_run(model, splits, args):
    """The most that a run holds in --outpath: two checkpoints, while one takes the other's place,
    of weights, Adam's two means of each and their moving average; best weights, answers, logs."""
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    kinds, test = 4 if args.average else 3, splits["test"]
    answers = test.table.memory_usage(deep=True).sum() + len(test.files) * (4 * NUM_PROBAS + 50)
    best = weights + answers if args.valid_csv else 0
    start = answers if args.init_from else 0
    return int(2 * kinds * weights + best + start + answers + 10**6)


def lack_of_room(needed, args):
    """What to tell where the disk of --outpath has no room for a run of ``needed`` bytes; None
    where it has. Files of the run that are there, or are to be replaced, need no more."""
    held = [args.outpath / name for name in RUN_FILES if (args.outpath / name).exists()]
    more = needed - sum(path.stat().st_size for path in held)
    free = shutil.disk_usage(args.outpath).free
    has = f"its disk has {free / 1e6:,.0f} MB free, the run needs {more / 1e6:,.0f} MB more"
    return f"--outpath {args.outpath}: {has}; make room, or give another" if free < more else None


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
    """Add a line to training.log and print it."""
    append_line(args.outpath / "training.log", line)
    if RANK == 0:
        tqdm.write(line)
        sys.stdout.flush()


def save_model(path, model):
    """The plain state dict, on the CPU."""
    state = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_file(path, lambda file: torch.save(state, file))


def save_predictions(args, prefix, split, probas, male):
    """test_predictions.csv and test_probas.npy, their names behind ``prefix``."""
    table = pd.DataFrame({"path": split.table[FILE_COLUMN]})
    lowest, highest = (ends.numpy() + YOUNGEST_AGE for ends in ends_of(split.labels))
    table["true_age"] = lowest
    if split.labels.dim() == 2:  # empty what is no number
        told = tell_something(split.labels).numpy()
        table["true_age"] = table["true_age"].astype("Int64").where(lowest == highest)
        table["true_age_low"] = pd.Series(lowest, dtype="Int64").where(told)
        table["true_age_high"] = pd.Series(highest, dtype="Int64").where(told)
    table["predicted_age"] = predict_labels(probas).numpy() + YOUNGEST_AGE
    if args.gender:
        table["true_gender"] = pd.Series(split.genders.numpy()).map({1.0: "male", 0.0: "female"})
        table["p_male"] = male.numpy()

    others = split.table.drop(columns=[FILE_COLUMN, "age", "Unnamed: 0", *table], errors="ignore")
    # to_csv does not quote carriage returns
    text = table.join(others).replace("\r", r"\\r", regex=True).to_csv(index=False).encode()
    write_file(args.outpath / f"{prefix}test_predictions.csv", lambda file: file.write(text))
    write_file(args.outpath / f"{prefix}test_probas.npy", lambda file: np.save(file, probas))


def plain(args):
    """The settings as run.json has them."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}


def describe(args, splits, device):
    """run.json, as it is before training."""
    # of the ends of ranges: then no other age is nearer to what is known, on average
    median = splits["train"].labels.median()
    for split in splits.values():
        scores = age_scores(split.labels, median.expand(len(split.files)))
        split.facts["median_age"] = median.item() + YOUNGEST_AGE
        split.facts |= {f"median_{name}": scores[name] for name in scores if "mae" in name}

    script, modules = Path(__file__), (torch, torchvision, np, pd, PIL)
    versions = {module.__name__: module.__version__ for module in modules}
    facts = {"script": script.name}
    facts["script_sha256"] = hashlib.sha256(script.read_bytes()).hexdigest()

    facts |= {"dataset": DATASET, "loss": LOSS, "gender": args.gender, "seed": args.seed}
    facts |= {"num_classes": NUM_CLASSES, "youngest_age": YOUNGEST_AGE, "device": str(device)}
    facts["settings"] = plain(args)
    facts["versions"] = {"python": sys.version.split()[0], **versions}
    facts["data"] = {name: split.facts for name, split in splits.items()}
    return facts | {"processes": PROCESSES, "status": "running", "minutes": 0.0, "metrics": {}}


@contextlib.contextmanager
def locked(out):
    """Make the folder and, while this lasts, keep other processes from running there."""
    if RANK > 0:
        yield
        return
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
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def begin_run_folder(args, facts, device):
    """Clear the folder of an earlier run, and write run.json and the log's first lines."""
    checkpoint, _, *others = [args.outpath / name for name in RUN_FILES]
    if RANK == 0:
        checkpoint.unlink(missing_ok=True)
        write_facts(args, facts)
        for path in others:
            path.unlink(missing_ok=True)

    columns = "epoch,cost,seconds,wait_seconds,images_per_second,valid_mae,valid_rmse"
    if facts["data"].get("valid", {}).get("age_ranges"):
        columns += ",valid_mae_to_range,valid_group_accuracy"
    append_line(args.outpath / "history.csv", columns)

    log(args, f"PyTorch Version: {torch.__version__}")
    log(args, f"CUDA device available: {torch.cuda.is_available()}")
    log(args, f"Using CUDA device: {device}")
    log(args, f"Random Seed: {args.seed}")
    if task_importance_weights:
        log(args, f"Task Importance Weight: {args.imp_weight}")
    log(args, f"Output Path: {args.outpath}")


def write_facts(args, facts):
    """Write run.json."""
    text = json.dumps(facts, indent=1).encode()
    write_file(args.outpath / "run.json", lambda file: file.write(text))


def begin_record(args, splits, device, earlier):
    """What will be run.json; the run folder is made ready, or checked to be of the same data."""
    facts = describe(args, splits, device)
    if args.init_from and earlier.checkpoint:  # not needed any more, and maybe gone
        facts["init_from_sha256"] = earlier.facts.get("init_from_sha256")
    elif args.init_from:
        facts["init_from_sha256"] = hashlib.sha256(args.init_from.read_bytes()).hexdigest()

    if earlier.facts and RANK == 0:
        check_data(earlier.facts, facts)

    if not earlier.checkpoint:
        begin_run_folder(args, facts, device)
    return facts


def best_model(model, args):
    """``model`` with the weights of the epoch that was best on the validation rows."""
    if RANK == 0:
        model.load_state_dict(torch.load(args.outpath / "best_model.pt", weights_only=True))
    return model


def end_record(facts, args, metrics, lines):
    """Log the last ``lines``, and write run.json."""
    for line in lines:
        log(args, line)
    write_facts(args, facts | {"metrics": metrics, "status": "finished"})


def evaluate_start(model, split, args, device):
    """Save the answers of the network that training begins from, as those of a model of its own."""
    with torch.random.fork_rng(devices=[]):  # training goes on as it would without
        probas, male = evaluate(model, split, args, device)
    save_predictions(args, "start_", split, probas, male)


def compare_with_start(split, args):
    """The metric start_test_mae, of the network that training began from, and a line that says
    whether training has brought the test answers nearer to the ages; nothing if it began anew.
    Errors are years_off(), compared image by image."""
    names = [f"{prefix}test_probas.npy" for prefix in ("start_", "best_" if args.valid_csv else "")]
    known = tell_something(split.labels)
    if RANK > 0 or not known.any() or not (args.outpath / names[0]).exists():
        return {}, []
    answers = [predict_labels(torch.tensor(np.load(args.outpath / name))) for name in names]
    before, now = (years_off(split.labels, some)[known] for some in answers)
    gain, count = before - now, len(before)
    error = gain.std().item() / math.sqrt(count) if count > 1 else math.inf
    gain, says = gain.mean().item(), "no difference that these images can show"
    if abs(gain) > 2 * error:
        says = "it has paid" if gain > 0 else "it made it worse, keep what it began from"
    line = f"MAE before training: {before.mean():.2f} | After: {now.mean():.2f}"
    line += f" | Gain: {gain:.2f} (standard error {error:.2f}): {says}"
    return {"start_test_mae": before.mean().item()}, [line]


# %% Resuming [all]
PARTS = ("model", "averaged", "optimizer", "schedule")  # of the training state


def training_state(model, averaged, optimizer, schedule):
    """All that changes in training, in a namespace, at its start."""
    device, now = next(model.parameters()).device, time.monotonic()
    return SimpleNamespace(
        model=model,
        network=across_processes(model, device),
        averaged=averaged,  # evaluated and saved
        optimizer=optimizer,
        schedule=schedule,
        progress={
            "epoch": 0,
            "batch": 0,
            "minutes": 0.0,
            "seconds": 0.0,
            "waited": 0.0,
            "best": {},
        },
        # this process's part, summed over images; in double precision sums of float32 are exact,
        # so that it does not matter how a checkpoint shares them out
        epoch_cost=torch.zeros((), dtype=torch.float64, device=device),
        rng=torch.get_rng_state(),  # a resumed epoch draws its order and crops from it again
        began=now,
        epoch_began=now,
        saved=now,
    )


def save_checkpoint(args, state):
    """Write checkpoint.pt: all that resuming needs. Where that fails, or the weights are no longer
    finite, the older one stays; a full disk ends the run."""
    if not all(tensor.isfinite().all() for tensor in state.model.state_dict().values()):
        return

    state.saved = time.monotonic()

    state.progress["minutes"] = (state.saved - state.began) / 60

    for name in ("training.log", "history.csv"):
        file = args.outpath / name
        state.progress[name] = file.stat().st_size if file.exists() else 0

    saved = {name: getattr(state, name).state_dict() for name in PARTS}
    saved |= {"progress": state.progress, "rng": state.rng}
    saved |= {"epoch_cost": add_up(state.epoch_cost.clone())}
    saved["run"] = [Path(__file__).name, args.seed]
    try:
        write_file(args.outpath / "checkpoint.pt", lambda file: torch.save(saved, file))
    except OSError as error:
        if is_full(error):
            raise
        warn(f"{error.filename} was not written, an older one stays: {error.strerror}")


def after_step(state, split, batch, cost, args):
    """Count the step and log its cost; save a checkpoint where it is time for one, the validation
    comes next, or a signal has come, which then ends the run."""
    progress, cost = state.progress, cost.detach()
    state.epoch_cost += cost.double() * batch.count
    logged = batch.number % args.log_every == 0
    last_batch = len(split.files) // args.batch_size  # as the paper's code: 1 too many if all full

    # on CUDA, reading the cost makes the device wait: only where it is logged
    if logged or cost.device.type == "cpu":
        value, epoch = add_up(cost.clone()).item(), progress["epoch"] + 1
        if not math.isfinite(value):
            refuse(f"the cost is {value} in epoch {epoch}, batch {batch.number}", 1)
        if logged:
            where = f"{epoch:03d}/{args.epochs:03d} | Batch {batch.number:04d}/{last_batch:04d}"
            log(args, f"Epoch: {where} | Cost: {value:.4f}")

    progress["batch"] = batch.number + 1
    progress["seconds"] = time.monotonic() - state.epoch_began
    progress["waited"] += batch.seconds
    signalled, since = all_max(stop.signal, time.monotonic() - state.saved)
    validates = args.valid_csv and progress["batch"] * args.batch_size >= len(split.files)
    if signalled or validates or since > 60 * args.checkpoint_minutes:
        save_checkpoint(args, state)
    exit_on_signal(signalled, args)


def after_epoch(state, split, args, validation):
    """Add the epoch to log and history, with the validation's figures, and save a checkpoint."""
    progress, count = state.progress, len(split.files)
    cost, seconds = add_up(state.epoch_cost.clone()).item() / count, progress["seconds"]
    row = [progress["epoch"] + 1, cost, seconds, progress["waited"], count / seconds, *validation]

    progress |= {"epoch": progress["epoch"] + 1, "batch": 0, "seconds": 0.0, "waited": 0.0}
    progress["minutes"] = (time.monotonic() - state.began) / 60
    log(args, f"Time elapsed: {progress['minutes']:.2f} min")
    append_line(args.outpath / "history.csv", ",".join(map(str, row)))

    state.epoch_cost.zero_()
    state.rng = torch.get_rng_state()
    save_checkpoint(args, state)
    state.epoch_began = time.monotonic()


def restore(checkpoint, args, state):
    """Put what ``checkpoint`` holds into ``state``, and take back what was logged after it."""
    with reading(args.outpath / "checkpoint.pt"):
        state.progress |= checkpoint["progress"]
        torch.set_rng_state(checkpoint["rng"])
        if RANK == 0:  # it is the sum of all processes' parts
            state.epoch_cost += checkpoint["epoch_cost"].to(state.epoch_cost.device)
        for name in PARTS:
            getattr(state, name).load_state_dict(checkpoint[name])

        state.rng = checkpoint["rng"]
        state.began -= 60 * state.progress["minutes"]
        state.epoch_began -= state.progress["seconds"]
        sizes = {name: state.progress[name] for name in ("training.log", "history.csv")}

    if RANK == 0:
        for name, size in sizes.items():
            os.truncate(args.outpath / name, size)
        facts = json.loads((args.outpath / "run.json").read_bytes())
        write_facts(args, facts | {"settings": plain(args)})  # paths and device may be others now


def earlier_run(argv, args):
    """The run.json of the run to resume, and its checkpoint; None without."""
    found = [name for name in RUN_FILES if (args.outpath / name).exists()]
    if not found or args.overwrite:
        return None, None
    need(args.resume, f"{args.outpath} holds a run ({found[0]}); see --resume and --overwrite")

    with reading(path := args.outpath / "run.json"):
        before = json.loads(path.read_bytes())
        check_settings(before, parse_settings(argv, before["settings"]))
    with reading(path := args.outpath / "checkpoint.pt"):
        resumable = path.exists() and before["status"] != "finished"
        checkpoint = read_tensors(path) if resumable else None
        if checkpoint and checkpoint["run"] != [before["script"], before["seed"]]:
            raise ValueError("not a checkpoint of this run")
    with reading(path := args.outpath / "best_model.pt"):
        if checkpoint and checkpoint["progress"]["best"]:
            read_tensors(path)
    return before, checkpoint


def check_equal(what, was, now, advice="make it equal"):
    """Refuse to resume where ``was`` is not ``now``."""
    need(was == now, f"--resume: {what} was {was}, is {now}: {advice}, or start another run")


def check_settings(before, args):
    """Refuse to resume with settings that would give other numbers than those of run.json."""
    check_equal("script", before["script"], Path(__file__).name)
    check_equal("number of processes", before["processes"], PROCESSES)
    check_equal("--seed", before["seed"], before["seed"] if args.seed == -1 else args.seed)

    now, advice = plain(args), "leave it out"
    defaults = {"recipe": "paper", **{name: row[0] for name, row in (RECIPES | NUMBERS).items()}}
    for name, default in (defaults | {"init_from": None}).items():
        if name not in FREE_ON_RESUME and name != "seed":
            what = f"--{name}" if name not in RECIPES or name in FLAGS else f"--set {name}"
            check_equal(what, before["settings"].get(name, default), now[name], advice)

    for name, value in before["settings"].items():
        known = name in now or name in GONE or not value  # what is 0 was off
        need(known, f"--resume: the run has --{name} {value}: go on with the script that began it")


def check_data(before, now):
    """Refuse to resume with other data; a script whose text has changed is only warned of."""
    with reading(f"{now['settings']['outpath']}/run.json"):
        for name in before["data"] | now["data"]:
            for kind in ("csv_sha256", "images_sha256"):
                was, is_now = (facts["data"].get(name, {}).get(kind) for facts in (before, now))
                check_equal(f"{kind} of {name} data", was, is_now, "give what it began with")
    if before["script_sha256"] != now["script_sha256"]:
        warn("this script's text has changed since the run began")


# %% Main [all]
def start_or_resume(argv, args):
    """Start the run in --outpath, go on with it, or say that it is finished."""
    shared = [None, None, None]
    if RANK == 0:
        shared = [*earlier_run(argv, args), int.from_bytes(os.urandom(4), "little")]
    if PROCESSES > 1:
        dist.broadcast_object_list(shared)

    before, checkpoint, fresh_seed = shared
    if before:
        args = parse_settings(argv, before["settings"])
    if args.seed == -1:
        args.seed = before["seed"] if before else fresh_seed

    if not before or before["status"] != "finished":
        run(args, SimpleNamespace(facts=before, checkpoint=checkpoint))
    elif RANK == 0:
        print(f"{args.outpath} holds this run, finished: nothing to do")
    if RANK == 0:
        (args.outpath / "checkpoint.pt").unlink(missing_ok=True)


def note_signal(number, frame):
    """Remember a signal, which is acted upon when the batch is done."""
    stop.signal = number


def main(argv=None):
    """Run the script with the given command-line arguments."""
    args = parse_settings(argv)
    stop.signal = 0

    # while processes wait for each other no Python code runs: a signal must end them by itself
    first = signal.SIG_DFL if PROCESSES > 1 else note_signal
    handlers = {n: signal.signal(n, first) for n in (signal.SIGTERM, signal.SIGINT)}

    try:
        if PROCESSES > 1:
            os.environ.update(SRUN)  # where torch looks for the others
            # --cuda may stand in the run.json of a run to resume, which is not read yet
            backends = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backends, timeout=timedelta(minutes=SILENCE))
            for number in handlers:
                signal.signal(number, note_signal)
        with locked(args.outpath):
            start_or_resume(argv, args)

    except OSError as error:
        reason = error.strerror or error
        if is_full(error):
            reason = f"the disk is full ({reason}); make room, then give --resume"
        refuse(f"{error.filename or args.outpath}: {reason}", 1)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        expected = any(word in reason for word in ("memory", "CUDA error", "cuDNN error"))
        if PROCESSES == 1 and not expected:
            raise
        what = f"process {RANK} failed: {reason}"
        if "gloo/transport" in reason or isinstance(error, dist.DistError):
            reason = re.sub(r"^\[.*?\] ", "", reason).split(". ")[0]  # without torch's own advice
            lost = f"process {RANK} has lost another one ({reason})"
            what = f"{lost}; start them all again, with --resume"
        print(f"{Path(__file__).name}: error: {what}", file=sys.stderr)
        raise SystemExit(1) from None

    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # in a notebook it has not
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has all characters
    main()
