"""The folders that training scripts filled, and the networks in them."""

import hashlib
import importlib.util
import json
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from coral_age.answers import LEVELS
from coral_age.errors import InputError, warn
from coral_age.files import MODEL_CODE

PRETRAINED = MODEL_CODE / "pretrained"
# The training scripts are found by their names: <data set>-<loss>.py, or with -<variant> as well
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+){1,2}\.py")
SHARED = re.compile(rb"(?m)^# %% .*\[all\]\s*$")  # in no other tool that lies there
SCRIPTS = sorted(
    path.name
    for path in MODEL_CODE.iterdir()
    if NAME.fullmatch(path.name) and SHARED.search(path.read_bytes())
)

SWITCHES = ("channels_last", "flip", "shifts")  # settings of a run that its answers depend on


@dataclass
class Model:
    """A network with all that preparing its input takes, and the settings in SWITCHES."""

    script: ModuleType  # that trained it
    network: torch.nn.Module
    size: int  # pixels, the side of its input
    device: torch.device
    weights: str  # path of its file
    licence: str  # terms of use, "" where none are told
    channels_last: bool
    flip: bool
    shifts: bool
    over: tuple = ()  # ages in years: P(age >= T) is told of each T
    interval: int = 80  # percent of the true ages that the intervals are to hold, 50 to 99
    shares: np.ndarray | None = None  # (levels, K): see answers.share_due()


def load_script(name):
    """The training script of this ``name`` as a module."""
    spec = importlib.util.spec_from_file_location(
        Path(name).stem.replace("-", "_"), MODEL_CODE / name
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_run(run):
    """The facts in RUN's run.json, of which only figures and the name of a script are believed."""
    try:
        facts = json.loads((run / "run.json").read_bytes())
        name, settings = facts["script"], facts["settings"]
        size, digest = settings["image_size"], facts["script_sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        message = "no run.json, or not one of a run; bare weights need --weights and --script"
        raise InputError(f"{run}: {message}") from None
    if name not in SCRIPTS:
        raise InputError(f"{run / 'run.json'}: its script, {name!r}, is none of these: {SCRIPTS}")
    if not (isinstance(size, int) and 32 <= size <= 1024):
        message = f"its image_size, {size!r}, is no number from 32 to 1024"
        raise InputError(f"{run / 'run.json'}: {message}")
    # a test holds the answers of the model that comes with the scripts
    changed = hashlib.sha256((MODEL_CODE / name).read_bytes()).hexdigest() != digest
    if changed and run.resolve() != PRETRAINED:
        warn(f"{name} has changed since this run")
    switches = {key: bool(settings.get(key)) for key in SWITCHES}
    return name, size, switches, {key: facts.get(key) for key in ("num_classes", "youngest_age")}


def terms_of(weights):
    """The terms of use that the run.json beside the file ``weights`` tells, or ""."""
    try:
        told = json.loads((Path(weights).parent / "run.json").read_bytes())["licence"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return told if isinstance(told, str) else ""


def digest_of(path):
    """The SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def need_no_run(out, script):
    """InputError where --outpath ``out`` holds a run's files already."""
    if found := [name for name in script.RUN_FILES if (out / name).exists()]:
        raise InputError(f"--outpath {out} holds a run ({found[0]}); give a new folder")


def shares_of(run, count):
    """The table that calibrate.py put into RUN's run.json, as Model.shares; None without one."""
    table = json.loads((run / "run.json").read_bytes()).get("intervals")
    if table is None:
        return None
    try:
        shares = np.array([table[str(level)] for level in LEVELS], np.float64)
    except (KeyError, TypeError, ValueError):
        shares = np.empty(0)
    if shares.shape != (len(LEVELS), count) or not ((shares >= 0) & (shares <= 1)).all():
        message = f"its intervals are no {count} numbers from 0 to 1 for each of {LEVELS}"
        raise InputError(f"{run / 'run.json'}: {message}; run calibrate.py again")
    return shares


def read_weights(path):
    """The state dict in the file ``path``, and the shapes of its tensors."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles; what counts is checked below
            state = torch.load(path, map_location="cpu", weights_only=True)
        shapes = {str(key): tuple(tensor.shape) for key, tensor in state.items()}
        odd = [key for key, tensor in state.items() if not tensor.isfinite().all()]
    except Exception as error:  # what a damaged file raises is not documented
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:150]
        raise InputError(f"{path}: not the state dict of a network ({reason})") from None
    if odd:
        raise InputError(f"{path}: {odd[0]!r} is not finite: that training had diverged")
    return state, shapes


def load(run=None, *, weights=None, script=None, image_size=120, cuda=-1, over=()):
    """The network of the folder ``run``, or the one that comes with the project, as a Model: of a
    run with validation that of the best epoch, since that is what the validation was for.

    ``weights`` is the path of a state dict to take instead of that of ``run``, or, without one, of
    a network of ``script``, the name of the training script, and ``image_size`` in pixels.
    ``cuda`` is the number of the device, -1 the CPU; of each age T in ``over``, in years, P(age >=
    T) is told, too, in a column as over_18. InputError where it can't be had.

    Its intervals are of 80 %, until ``model.interval`` is set to another number from 50 to 99.
    """
    if (script and (run or not weights)) or (weights and not (run or script)):
        message = "the folder of their run, or with --script, what trained them, not with both"
        raise InputError(f"give --weights with --run, {message}")
    if cuda >= (count := torch.cuda.device_count()):
        message = f"this machine has {count} CUDA devices; --cuda -1 is the CPU"
        raise InputError(f"--cuda {cuda}: {message}")
    name, size, switches, ages = script, image_size, dict.fromkeys(SWITCHES, False), {}
    calibrated = not (script or weights)  # a table is of the run's own weights
    if not script:
        run = Path(run or PRETRAINED)
        name, size, switches, ages = read_run(run)
        if not weights:  # an unfinished run may hold the best epoch so far, but no model.pt
            weights, best = run / "model.pt", run / "best_model.pt"
            if not weights.exists():
                raise InputError(f"{run}: holds no model.pt; finish the training: give it --resume")
            weights = best if best.exists() else weights
    state, shapes = read_weights(weights)
    module = load_script(name)
    network = module.ResNet34(gender=any(key.startswith("fc_gender.") for key in shapes))
    due = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    for key in due | shapes:
        if shapes.get(key) != due.get(key):
            found = f"{key!r} is {shapes.get(key, 'missing')}, not {due.get(key, 'expected')}"
            raise InputError(f"{weights}: does not fit {name}: {found}")
    for key, value in ages.items():
        ours = getattr(module, key.upper())
        if value not in (None, ours):
            message = f"its {key} is {value!r}, that of {name} is {ours}"
            raise InputError(f"{run / 'run.json'}: {message}")
    network.load_state_dict(dict(state))  # as a plain dict it is without what may lie beside it
    device = torch.device("cuda", cuda) if cuda >= 0 else torch.device("cpu")
    network.eval().to(device)
    if switches["channels_last"]:
        network.to(memory_format=torch.channels_last)
    terms = terms_of(weights)
    model = Model(module, network, size, device, str(weights), terms, **switches)
    model.shares = shares_of(run, module.NUM_CLASSES) if calibrated else None
    return asked(model, over)


def asked(model, over):
    """The ``model``, to tell P(age >= T) of each age T in ``over``, too; InputError where it can't
    tell ages below T from others."""
    youngest = model.script.YOUNGEST_AGE
    oldest = youngest + model.script.NUM_CLASSES - 1
    for limit in over:
        if not youngest < limit <= oldest:
            message = f"the model knows the ages {youngest} to {oldest}"
            raise InputError(f"--over {limit}: {message}; give one from {youngest + 1} to {oldest}")
    return replace(model, over=tuple(over))


def title(model, name):
    """Which model answers, by which script it was trained, and its terms, where they are told."""
    text = f"{name}, by {Path(model.script.__file__).name}"
    return f"{text}; licence: {model.licence}" if model.licence else text
