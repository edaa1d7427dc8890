"""A run that ends early goes on as if nothing had happened: real processes, real signals.

The phase that a process is in shows in its run folder and its memory map. A process is frozen, its
phase looked up again, and only then does it get its signal. Afterwards the weights must equal those
of an uninterrupted run byte for byte, and so must the costs.
"""

import contextlib
import csv
import functools
import hashlib
import io
import json
import math
import os
import re
import shlex
import shutil
import signal
import statistics
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
import torchvision
from conftest import PATIENCE, ROOT, begin, costs, disk, first_rows, load

resource = pytest.importorskip("resource")  # not on Windows

SCRIPT = ROOT / "model-code" / "afad-coral.py"
TINY = ["--epochs=2", "--batch_size=4", "--image_size=40", "--log_every=1"]
ROWS = {"train": 11, "valid": 5, "test": 6}
FAST = ["--recipe=fast", "--augment=2", "--set=mixup=0.3", "--set=shifts=1", "--gender=1"]
FAST += ["--imp_weight=1", "--amp=1"]
SAVED = "model.pt test_predictions.csv test_probas.npy best_test_predictions.csv".split()

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with images, large so that decoding takes a while, and three CSVs."""
    return some_data("afad", tmp_path_factory.mktemp("data"))


def some_data(dataset, folder):
    sample = ROOT / "datasets" / "sample" / dataset
    header, *lines = (sample / "train.csv").read_text().splitlines()
    at = header.split(",").index("path" if "path" in header else "file")
    for name, rows in ROWS.items():
        mine, lines = lines[:rows], lines[rows:]
        (folder / f"{name}.csv").write_text("\n".join([header, *mine]) + "\n")
        for line in mine:
            path = line.split(",")[at]
            (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            with PIL.Image.open(sample / "images" / path) as image:
                image.resize((1200, 1200)).save(folder / "images" / path)
    return folder


def options_for(data, out):
    csvs = [f"--{name}_csv={data / name}.csv" for name in ("train", "test")]
    return [f"--outpath={out}", *csvs, f"--image_path={data / 'images'}", *TINY]


def start(data, out, *options, script=SCRIPT):
    return begin(sys.executable, script, *options_for(data, out), *options)


def train(data, out, *options, script=SCRIPT):
    """The same in this process; what it writes to stderr."""
    with contextlib.redirect_stderr(io.StringIO()) as err:
        load(script).main([*options_for(data, out), *options])
    return err.getvalue()


def complete(process, code=0):
    """What the process wrote to stderr, once it has ended with ``code``."""
    try:
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == code, err
    return err


@pytest.fixture
def out(tmp_path):
    """A run folder; its large files go at the end."""
    yield tmp_path / "run"
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The uninterrupted run with the given options, as a function."""
    runs = {}

    def run_with(*options, script=SCRIPT):
        key = options, script
        if key not in runs:
            runs[key] = tmp_path_factory.mktemp("whole") / "run"
            assert train(data, runs[key], "--seed=1", *options, script=script) == ""
        return runs[key]

    yield run_with
    for folder in runs.values():
        shutil.rmtree(folder)


def numbers(out):
    """All that a run folder tells, but for times, paths and settings without influence."""
    log = (out / "training.log").read_text().splitlines()
    log = [line for line in log if not line.startswith(("Time", "Total Training", "Output Path"))]
    columns = ("epoch", "cost", "valid_mae", "valid_rmse")
    with open(out / "history.csv") as file:
        history = [[row[column] for column in columns] for row in csv.DictReader(file)]
    facts = json.loads((out / "run.json").read_text())
    told = {path: "" for path in ("training.log", "history.csv", "run.json")}  # above, not whole
    files = {
        path.name: told.get(path.name, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(out.iterdir())
    }
    return log, history, facts["seed"], facts["status"], facts["metrics"], files


def state_of(out):
    """Inode, time and size of every file: what changes when a file is written."""
    stats = {path.name: path.stat() for path in out.iterdir()}
    return {name: (s.st_ino, s.st_mtime_ns, s.st_size) for name, s in stats.items()}


def exists(out, *names):
    return any((out / name).exists() for name in names)


def phase(pid, out):
    """decoding, training, writing (a checkpoint), evaluating, saving, or starting."""
    if not exists(out, "run.json"):
        mapped = re.search(r"coral-pixels-\d+ \(deleted\)", Path(f"/proc/{pid}/maps").read_text())
        return "decoding" if mapped else "starting"
    if exists(out, "checkpoint.pt.tmp"):
        return "writing"
    if exists(out, *(f"{name}{end}" for name in SAVED for end in ("", ".tmp"))):
        return "saving"
    log = out / "training.log"
    lines = log.read_text().splitlines() if log.exists() else []
    if not lines or not costs(out):
        return "starting"
    trained = lines[-1].startswith("Time elapsed") and len(costs(out)) == 6
    if '"valid"' in (out / "run.json").read_text():
        trained |= "Batch 0002/0002" in lines[-1]
    if not trained:
        return "training"
    # a checkpoint comes first
    file = out / "checkpoint.pt"
    written = file.exists() and file.stat().st_mtime_ns > log.stat().st_mtime_ns
    return "evaluating" if written else "between"


def send_in(process, out, wanted, number=signal.SIGKILL, lines=0, delay=0.0, file="", size=0):
    """Send the signal in the phase ``wanted``, once the log has ``lines`` cost lines and ``file``
    has ``size`` bytes, ``delay`` seconds after all that is so."""

    def reached():
        try:
            found = phase(process.pid, out) == wanted and len(costs(out)) >= lines
            return found and (not file or (out / file).stat().st_size >= size)
        except (FileNotFoundError, ProcessLookupError, IndexError):  # just renamed or ended
            return False

    first, deadline = None, time.time() + PATIENCE
    while True:
        assert process.poll() is None, f"ended before: {process.communicate()}"
        assert time.time() < deadline
        if reached():
            first = first or time.time()
            if time.time() - first >= delay:
                process.send_signal(signal.SIGSTOP)
                while Path(f"/proc/{process.pid}/stat").read_text().split()[2] not in "Tt":
                    time.sleep(0.001)
                if reached():
                    break
                process.send_signal(signal.SIGCONT)
        time.sleep(0.001)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)


NOW, VALID = "--checkpoint_minutes=0", "--valid_csv={data}/valid.csv"
MOMENTS = [  # phase, when in it, further options
    ("decoding", {}, []),
    ("decoding", {"delay": 0.05}, []),
    ("decoding", {"delay": 0.1}, [VALID]),
    ("training", {"lines": 1}, []),
    ("training", {"lines": 2}, []),
    ("training", {"lines": 4, "delay": 0.02}, []),
    ("training", {"lines": 5}, [VALID]),
    ("training", {"lines": 5}, [NOW]),
    ("writing", {"file": "checkpoint.pt.tmp"}, []),
    ("writing", {"lines": 2, "file": "checkpoint.pt.tmp", "size": 10**8}, [NOW]),
    ("writing", {"lines": 3, "file": "checkpoint.pt.tmp", "size": 200 * 10**6}, [VALID]),
    ("writing", {"lines": 6, "file": "checkpoint.pt.tmp", "size": 250 * 10**6}, []),
    ("evaluating", {}, []),
    ("evaluating", {"delay": 0.02}, []),
    ("evaluating", {"lines": 3}, [VALID]),
    ("evaluating", {"lines": 6, "delay": 0.02}, [VALID]),
    ("saving", {"file": "test_predictions.csv"}, []),
    ("saving", {"file": "model.pt.tmp", "size": 1}, []),
    ("saving", {"file": "model.pt"}, []),
    ("saving", {"file": "model.pt"}, [VALID]),
]


def kill_and_resume(data, out, whole, wanted, when, options, script=SCRIPT):
    options = [option.format(data=data) for option in options]
    process = start(data, out, "--seed=1", *options, script=script)
    send_in(process, out, wanted, **when)
    complete(process, -signal.SIGKILL)
    left = sorted(path.name for path in out.iterdir())
    options = [option for option in options if option != NOW]
    seed = [] if left else ["--seed=1"]  # it is on record as soon as the run is
    err = complete(start(data, out, "--resume", *seed, *options, script=script))
    assert err == ""
    assert numbers(out) == numbers(whole(*options, script=script))
    return left


@linux
@pytest.mark.parametrize("number", [4, 12])  # in writing: with everything switched on
def test_kill(number, data, out, whole):
    kill_and_resume(data, out, whole, *MOMENTS[number])


FACES = [f"--{name}_csv={{data}}/faces/{name}.csv" for name in ROWS]
FACES += ["--image_path={data}/faces/images", "--gender=1"]
MODES = {"paper": [], "fast": ["--recipe=fast", "--amp=1"], "faces": FACES}


@linux
@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_kill_at_twenty_moments(mode, data, out, whole, capsys):
    """Prints phase, moment and result; 20 of 20 must be identical."""
    failed, script = [], SCRIPT
    if mode == "faces":
        script = script.with_name("faces-coral.py")
        (data / "faces").mkdir()
        some_data("faces", data / "faces")
    for number, (wanted, when, options) in enumerate(MOMENTS, 1):
        options = [*options, *MODES[mode]]
        try:
            result = "identical"
            left = kill_and_resume(data, out, whole, wanted, when, options, script)
        except AssertionError as error:
            result, left = f"FAILED: {str(error).splitlines()[0]}", []
            failed.append(number)
        with capsys.disabled():
            held = ", ".join(left) or "nothing"
            print(f"\n{number:2d} {wanted:10s} {when} {options}: {result} (held: {held})", end="")
        shutil.rmtree(out, ignore_errors=True)
    assert failed == []


@linux
def test_kill_with_everything_switched_on(data, out, whole):
    """Averaged weights, mirrored images, one cycle of the learning rate, genders, bfloat16,
    validation."""
    options = [*FAST, VALID.format(data=data)]
    process = start(data, out, "--seed=1", NOW, *options)
    send_in(process, out, "writing", lines=5, file="checkpoint.pt.tmp", size=1)
    complete(process, -signal.SIGKILL)
    assert train(data, out, "--resume", *options) == ""
    assert numbers(out) == numbers(whole(*options))


KILL_BEFORE = """
import os, runpy, signal, sys

path = sys.argv[1]

def hook(event, arguments):
    if event == "os.remove" and str(arguments[0]) == path and os.path.exists(path):
        os.kill(os.getpid(), signal.SIGKILL)

del sys.argv[:2]
sys.addaudithook(hook)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def kill_before_removal(data, out, name, option):
    """A run that is killed right before it removes the file ``name``."""
    words = ["-c", KILL_BEFORE, out / name, SCRIPT, *options_for(data, out), option]
    complete(begin(sys.executable, *words), -signal.SIGKILL)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("name", ["training.log", "history.csv"])
def test_kill_while_starting_again(name, data, out, whole):
    """Killed before the first checkpoint, and killed again while what is left gives way."""
    process = start(data, out, "--seed=1")
    send_in(process, out, "training", lines=1)
    complete(process, -signal.SIGKILL)
    kill_before_removal(data, out, name, "--resume")
    assert complete(start(data, out, "--resume")) == ""
    assert numbers(out) == numbers(whole())


@linux
@pytest.mark.slow
def test_kill_at_the_very_end(data, out, whole, capsys):
    """Only the checkpoint is still to be removed: resuming does so."""
    kill_before_removal(data, out, "checkpoint.pt", "--seed=1")
    assert json.loads((out / "run.json").read_text())["status"] == "finished"
    load(SCRIPT).main([*options_for(data, out), "--resume"])
    assert "finished: nothing to do" in capsys.readouterr().out
    assert numbers(out) == numbers(whole())


# Signals


def command_in(message, number):
    """The command that the run, ended by the signal ``number``, tells its user."""
    name = signal.Signals(number).name
    [line] = message.splitlines()
    opening = f"afad-coral.py: error: stopped by {name}; go on with: python "
    assert line.startswith(opening)
    return shlex.split(line[len(opening) :])


@linux
def test_signals(data, out, whole):
    """SIGTERM in training, SIGINT in the evaluation; each time the command that is named goes on,
    at the very batch."""
    process = start(data, out, "--seed=1", "--overwrite")
    send_in(process, out, "training", signal.SIGTERM, lines=2)
    words = command_in(complete(process, 143), signal.SIGTERM)
    assert words == [str(SCRIPT), "--outpath", str(out), "--resume"]
    checkpoint = torch.load(out / "checkpoint.pt", weights_only=True)
    done = len(costs(out))
    assert done in (2, 3)  # the batch under way is finished
    assert (checkpoint["progress"]["epoch"], checkpoint["progress"]["batch"]) == (0, done)
    process = begin(sys.executable, *words)
    send_in(process, out, "evaluating", signal.SIGINT)
    words = command_in(complete(process, 130), signal.SIGINT)
    assert not (out / "model.pt").exists()
    assert complete(begin(sys.executable, *words)) == ""
    assert numbers(out) == numbers(whole())


@linux
def test_a_signal_while_decoding(data, tmp_path):
    """The run that --overwrite would replace is still there; the command does not resume that."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_text('{"status": "finished"}')
    before = state_of(out)
    process = start(data, out, "--overwrite")
    while "coral-pixels" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    words = command_in(complete(process, 143), signal.SIGTERM)
    assert "--overwrite" in words and "--resume" not in words
    assert state_of(out) == before


# What is refused, and what is not


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """A run that was killed in its second epoch."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    process = start(data, out, "--seed=1")
    send_in(process, out, "training", lines=4)
    complete(process, -signal.SIGKILL)
    yield out
    shutil.rmtree(out)


def refusal(out, data, capsys, *options, script=SCRIPT):
    """The one line with which --resume ends; nothing may have changed."""
    before = state_of(out)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        load(script).main([*options_for(data, out), "--resume", *options])
    shown, err = capsys.readouterr()
    assert (stop.value.code, shown, err.count("\n")) == (2, "", 1)
    assert state_of(out) == before
    return err


@linux
@pytest.mark.parametrize(
    "option, difference",
    [
        ("--lr=0.001", "--lr was 0.0005, is 0.001"),
        ("--seed=2", "--seed was 1, is 2"),
        ("--batch_size=5", "--batch_size was 4, is 5"),
        ("--epochs=3", "--epochs was 2, is 3"),
        ("--image_size=48", "--image_size was 40, is 48"),
        ("--numworkers=2", "--numworkers was 4, is 2"),
        ("--imp_weight=1", "--imp_weight was 0, is 1"),
        ("--gender=1", "--gender was 0, is 1"),
        ("--set=average=0.9", "--set average was 0.0, is 0.9"),
        ("--set=flip=1", "--set flip was 0, is 1"),
        ("--init_from=other.pt", "--init_from was None, is other.pt: leave it out, or start"),
        ("--valid_csv={data}/valid.csv", "csv_sha256 of valid data was None, is "),
        ("--valid_csv={data}/valid.csv", ": give what it began with, or start another"),
    ],
)
def test_other_settings(option, difference, data, stopped, capsys):
    assert difference in refusal(stopped, data, capsys, option.format(data=data))


@linux
def test_other_script(data, stopped, capsys):
    err = refusal(stopped, data, capsys, script=SCRIPT.with_name("afad-ordinal.py"))
    assert "script was afad-coral.py, is afad-ordinal.py" in err


@linux
@pytest.mark.parametrize("name", ["train", "test"])
def test_other_data(name, data, stopped, tmp_path, capsys):
    other = tmp_path / "data"
    shutil.copytree(data, other)
    table = (other / f"{name}.csv").read_text()
    (other / f"{name}.csv").write_text(table[: table.rindex(",")] + ",male\n")
    last = table.splitlines()[-1].split(",")
    if last[3] == "male":
        (other / f"{name}.csv").write_text(table[: table.rindex(",")] + ",female\n")
    assert f"csv_sha256 of {name} data was " in refusal(stopped, other, capsys)
    (other / f"{name}.csv").write_text(table)
    with open(other / "images" / last[1], "ab") as file:
        file.write(b"\0")  # it decodes as before
    assert f"images_sha256 of {name} data was " in refusal(stopped, other, capsys)


@linux
def test_moved_data_and_a_changed_script(data, stopped, out, whole):
    """Paths may differ, and log and checkpoint intervals; of the script's text one is warned."""
    shutil.copytree(stopped, out)
    shutil.copytree(data, out.parent / "moved")
    script = out.parent / SCRIPT.name
    script.write_text(SCRIPT.read_text() + "# a remark\n")
    options = [f"--cache_dir={out.parent}", "--checkpoint_minutes=5"]
    err = train(out.parent / "moved", out, "--resume", *options, script=script)
    assert err == "afad-coral.py: warning: this script's text has changed since the run began\n"
    assert numbers(out) == numbers(whole())


@linux
def test_a_finished_run(data, whole, capsys):
    out = whole()
    before = state_of(out)
    load(SCRIPT).main([*options_for(data, out), "--resume"])
    assert capsys.readouterr().out == f"{out} holds this run, finished: nothing to do\n"
    assert state_of(out) == before


class Code:
    """Unpickled, it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def bad_checkpoint(kind, path, good):
    if kind == "one byte changed":
        shutil.copy(good, path)
        with open(path, "r+b") as file:
            file.seek(good.stat().st_size // 2)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
    elif kind == "truncated":
        path.write_bytes(good.read_bytes()[: 2 * good.stat().st_size // 3])
    elif kind == "empty":
        path.touch()
    elif kind == "another zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("letter.txt", "hello")
    elif kind == "code":
        torch.save({"model": Code(path.parent / "made")}, path)
    elif kind == "code in a plain pickle":
        torch.save(Code(path.parent / "made"), path, _use_new_zipfile_serialization=False)
    elif kind == "other tensors":
        torch.save({"weight": torch.zeros(3)}, path)
    elif kind == "a list":
        torch.save([1, 2], path)


@linux
@pytest.mark.parametrize(
    "kind",
    ["one byte changed", "truncated", "empty", "another zip", "code", "code in a plain pickle"]
    + ["other tensors", "a list"],
)
def test_bad_checkpoints(kind, data, stopped, out, capsys):
    out.mkdir()
    for name in ("run.json", "training.log", "history.csv"):
        shutil.copy(stopped / name, out)
    bad_checkpoint(kind, out / "checkpoint.pt", stopped / "checkpoint.pt")
    err = refusal(out, data, capsys)
    assert f"{out / 'checkpoint.pt'} is missing or damaged" in err and "nothing was changed" in err
    assert not (out / "made").exists()


@linux
@pytest.mark.slow
@pytest.mark.parametrize("script, seed", [("afad-ordinal", 1), ("afad-coral", 2)])
def test_checkpoint_of_another_run(script, seed, data, stopped, out, capsys):
    other = out.parent / "other"
    process = start(data, other, f"--seed={seed}", script=SCRIPT.with_name(f"{script}.py"))
    send_in(process, other, "training", lines=4)
    complete(process, -signal.SIGKILL)
    out.mkdir()
    for folder, name in ((stopped, "run.json"), (stopped, "history.csv"), (other, "checkpoint.pt")):
        shutil.copy(folder / name, out)
    (out / "training.log").write_text("mine\n" * 200)
    assert f"{out / 'checkpoint.pt'} is missing or damaged" in refusal(out, data, capsys)


@linux
@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "running"}', "\0" * 99])
def test_bad_run_json(content, data, stopped, out, capsys):
    out.mkdir()
    shutil.copy(stopped / "training.log", out)
    (out / "run.json").write_text(content)
    assert f"{out / 'run.json'} is missing or damaged" in refusal(out, data, capsys)


# A write that fails


@linux
def test_no_room_for_a_checkpoint(data, stopped, out, whole):
    """Files may not grow beyond 200 MB, and a checkpoint has 255: the older one stays."""
    shutil.copytree(stopped, out)
    older = state_of(out)["checkpoint.pt"]
    process = start(data, out, "--resume", NOW)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (200 * 10**6, 200 * 10**6))
    send_in(process, out, "training", signal.SIGTERM, lines=5)
    lines = complete(process, 143).splitlines()
    warning = f"afad-coral.py: warning: {out / 'checkpoint.pt'} was not written, an older one stays"
    assert len(lines) >= 2 and all(line.startswith(warning) for line in lines[:-1])
    command_in(lines[-1], signal.SIGTERM)
    assert state_of(out)["checkpoint.pt"] == older and not exists(out, "checkpoint.pt.tmp")
    assert train(data, out, "--resume") == ""
    assert numbers(out) == numbers(whole())


@linux
@pytest.mark.slow
def test_full_disk(data, out, whole):
    """On a file system of 400 MB there is room for one checkpoint, not for a second beside it: the
    run does not begin. On one that others fill meanwhile it ends; what was saved is whole, and when
    there is room it goes on."""
    run, ballast = out / "run", out / "ballast"
    again = functools.partial(start, data, run, "--epochs=6", "--seed=1")
    with disk(out, "400m") as resize:
        free = shutil.disk_usage(out).free / 1e6
        line = complete(again(), 2)
        begins = f"afad-coral.py: error: --outpath {run}: its disk has {free:.0f} MB free, "
        assert line.startswith(begins) and line.count("\n") == 1
        needed = int(re.search(r"needs (\d+) MB more", line)[1])

        resize("700m")
        process = again(NOW)
        with open(ballast, "wb", buffering=0) as file:
            while process.poll() is None:
                with contextlib.suppress(OSError):
                    if (run / "checkpoint.pt").exists():
                        file.write(bytes(2**24))
                time.sleep(0.01)
        reason = "the disk is full (No space left on device); make room, then give --resume"
        assert complete(process, 1) == f"afad-coral.py: error: {run / 'checkpoint.pt'}: {reason}\n"
        torch.load(run / "checkpoint.pt", weights_only=True)
        assert abs(needed - 2 * (run / "checkpoint.pt").stat().st_size / 1e6) < 3
        ballast.unlink()
        assert complete(again("--resume")) == ""
        assert numbers(run) == numbers(whole("--epochs=6"))


# Validation


def test_validation(data, out):
    """best_model.pt is the epoch that the log names, the lowest on the validation rows; the test
    rows have no say in it, and training is the same without validation."""
    module = load(SCRIPT)
    valid = f"--valid_csv={data / 'valid.csv'}"
    options = ["--seed=3", "--epochs=4", "--lr=0.02"]
    module.main([*options_for(data, out), *options, valid])
    # other test rows, with labels on which another epoch is best
    other = [f"--test_csv={data / 'train.csv'}", f"--outpath={out.parent / 'other'}"]
    module.main([*options_for(data, out), *options, valid, *other])
    without = f"--outpath={out.parent / 'without'}"
    module.main([*options_for(data, out), *options, without])
    best = (out / "best_model.pt").read_bytes()
    assert (out.parent / "other" / "best_model.pt").read_bytes() == best
    assert (out.parent / "without" / "model.pt").read_bytes() == (out / "model.pt").read_bytes()
    assert costs(out.parent / "without") == costs(out)

    with open(out / "history.csv") as file:
        maes = [float(row["valid_mae"]) for row in csv.DictReader(file)]
    number = maes.index(min(maes))  # the first of the lowest
    assert number < 3, "choose settings for which the last epoch is not the best"
    log = (out / "training.log").read_text().splitlines()
    current = [line for line in log if "Current Valid" in line]
    assert len(current) == 4
    last = [r"MAE/RMSE: \| Train: \S+ \| Valid: \S+ \| Test: \S+", r"Total Training Time: \S+ min"]
    last.append(r"MAE/RMSE: \| Best Train: \S+ \| Best Valid: \S+ \| Best Test: \S+")
    assert all(map(re.fullmatch, last, log[-3:])), log[-3:]
    for epoch, line in enumerate(current):
        so_far = maes.index(min(maes[: epoch + 1]))
        assert f"Current Valid: {maes[epoch]:.2f}/" in line and f" Ep. {epoch} | " in line
        assert f"Best Valid : {maes[so_far]:.2f}/" in line and line.endswith(f" Ep. {so_far}")

    facts = json.loads((out / "run.json").read_text())
    assert facts["metrics"]["best_epoch"] == number + 1
    assert facts["metrics"]["best_valid_mae"] == maes[number]
    for prefix in ("", "best_"):
        model = module.ResNet34()
        model.load_state_dict(torch.load(out / f"{prefix}model.pt", weights_only=True))
        model.eval()
        for name in ("valid", "test"):
            errors = slow_errors(model, data, name)
            mae, rmse = np.abs(errors).mean(), (errors**2).mean() ** 0.5
            assert facts["metrics"][f"{prefix}{name}_mae"] == pytest.approx(mae)
            title = f"{prefix}{name}".replace("_", " ").title()
            assert f"{title}: {mae:.2f}/{rmse:.2f}" in "\n".join(log)
            if (prefix, name) == ("best_", "valid"):
                assert mae == pytest.approx(maes[number])


@torch.no_grad()
def slow_errors(model, data, name):
    """Predicted minus true label of each row, image by image through torchvision's transforms."""
    steps = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize((43, 43)),
            torchvision.transforms.CenterCrop(40),
            torchvision.transforms.ToTensor(),
        ]
    )
    errors = []
    with open(data / f"{name}.csv") as file:
        for row in csv.DictReader(file):
            with PIL.Image.open(data / "images" / row["path"]) as image:
                logits, _ = model(steps(image)[None])
            errors.append(int((logits[0] > 0).sum()) - int(row["age"]))
    return np.array(errors)


# Parts


@pytest.mark.parametrize("steps", [1, 3, 6, 10, 57, 1000])
def test_learning_rate(steps):
    """Along a cosine from lr/25 up to lr in a fifth of the steps, along another down to
    lr/250,000; a run of fewer steps than 6 ends before."""
    given = {"weight_decay": 0.0, "fused": 0, "bias_lr": 1.0}
    settings = SimpleNamespace(lr=0.003, onecycle=1, **given)
    module = load(SCRIPT)
    optimizer = module.build_optimizer(torch.nn.Linear(1, 1), settings)
    schedule = module.build_schedule(optimizer, settings, steps)
    peak, last = 0.2 * max(steps, 6) - 1, max(steps, 6) - 1
    for step in range(steps):
        low, high, part = 0.003 / 25, 0.003, step / peak
        if step > peak:
            low, high, part = 0.003, 0.003 / 250_000, (step - peak) / (last - peak)
        expected = low + (high - low) * (1 - math.cos(math.pi * part)) / 2
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        schedule.step()
    constant = SimpleNamespace(lr=0.7, onecycle=0, **given)
    optimizer = module.build_optimizer(torch.nn.Linear(1, 1), constant)
    schedule = module.build_schedule(optimizer, constant, steps)
    for _ in range(8):
        optimizer.step()
        schedule.step()
        assert optimizer.param_groups[0]["lr"] == 0.7


def test_update_average():
    """Weights and running statistics by hand; the count of batches is copied."""
    module = load(SCRIPT)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).double()
    average = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).double()
    average.load_state_dict(model.state_dict())
    expected = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    for step in range(40):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.add_(step + 1)
        module.update_average(average, model, 0.6, step)
        decay = min(0.6, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.numpy()
    count = "1.num_batches_tracked"
    assert average.state_dict()[count] == model.state_dict()[count] == sum(range(41))
    for name, tensor in average.state_dict().items():
        if name != count:
            assert tensor.numpy() == pytest.approx(expected[name], rel=1e-12)


def test_the_average_is_what_is_evaluated(data, out):
    """A decay of zero after the first steps would be the model: 0.999999 is nearly its start."""
    module = load(SCRIPT)
    averages = []
    update = module.update_average

    def watched(average, model, decay, step):
        update(average, model, decay, step)
        averages.append((average, model))

    module.update_average = watched
    module.main([*options_for(data, out), "--seed=1", "--epochs=1", "--set=average=0.999999"])
    assert len(averages) == 3  # one for each batch
    average, model = (part.state_dict() for part in averages[-1])
    saved = torch.load(out / "model.pt", weights_only=True)
    assert all(torch.equal(saved[name], tensor) for name, tensor in average.items())
    assert not torch.equal(saved["conv1.weight"], model["conv1.weight"])


def test_output_layers_to_start_from(tmp_path, capsys):
    """Are kept where they are this script's; those of others start anew, which is said."""
    faces, ce, utk = (
        load(ROOT / "model-code" / f"{n}.py") for n in ("faces-coral", "faces-ce", "utk-coral")
    )
    torch.manual_seed(8)
    given = faces.ResNet34(gender=1)
    torch.nn.init.normal_(given.linear_1_bias)
    torch.save(given.half().state_dict(), tmp_path / "start.pt")  # as the model that comes along is
    kept = {faces: {"age", "gender"}, ce: {"gender"}, utk: {"gender"}}
    for module, gender in ((m, g) for m in kept for g in (0, 1)):
        model = module.ResNet34(gender)
        fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        module.init_weights(model, tmp_path / "start.pt")
        for name, tensor in model.state_dict().items():
            if name.startswith("fc_gender"):
                what = "gender"
            else:
                what = "age" if name in ("fc.weight", "fc.bias", "linear_1_bias") else ""
            expected = given.state_dict() if not what or what in kept[module] else fresh
            assert torch.equal(tensor, expected[name].float()) or "num_batches" in name, name
        anew = "no layer for age as this script's: it starts anew"
        assert (anew in capsys.readouterr().err) == (module is not faces)


@pytest.mark.parametrize(
    "rate, says",
    [
        ("1e-12", "no difference that these images can show"),
        ("0.3", "it made it worse, keep what it began from"),
    ],
)
def test_gain_by_training(tmp_path, rate, says):
    """A run that begins from another's weights tells what they were worth on its test images, and
    whether training has brought more than chance; stopped and resumed, too."""
    module, first, second = load(SCRIPT), tmp_path / "first", tmp_path / "second"
    words = ["--image_size=33", "--seed=1", "--epochs=1", "--batch_size=8", "--log_every=1"]
    words += first_rows("afad", tmp_path, train=24, test=30)
    near = ["--set=prior_bias=1", "--lr=1e-5"]  # answers near the median age
    module.main([*words, *near, f"--outpath={first}"])
    words += [f"--outpath={second}", f"--init_from={first / 'model.pt'}", f"--lr={rate}"]
    stopping = load(SCRIPT)
    batch_cost = stopping.batch_cost
    stopping.batch_cost = lambda *args: (os.kill(os.getpid(), signal.SIGTERM), batch_cost(*args))[1]
    with pytest.raises(SystemExit, match="143"):
        stopping.main(words)
    module.main([f"--outpath={second}", "--resume"])

    metrics = json.loads((second / "run.json").read_text())["metrics"]
    before = json.loads((first / "run.json").read_text())["metrics"]["test_mae"]
    assert metrics["start_test_mae"] == before
    tables = [pd.read_csv(folder / "test_predictions.csv") for folder in (first, second)]
    gains = [
        abs(was.predicted_age - was.true_age) - abs(now.predicted_age - now.true_age)
        for was, now in zip(*(table.itertuples() for table in tables), strict=True)
    ]
    error = statistics.stdev(gains) / 30**0.5
    line = f"MAE before training: {before:.2f} | After: {metrics['test_mae']:.2f} | "
    line += f"Gain: {statistics.mean(gains):.2f} (standard error {error:.2f}): {says}"
    assert (second / "training.log").read_text().splitlines()[-1] == line
    assert "MAE before training" not in (first / "training.log").read_text()


def test_init_from(out, capsys):
    """torchvision's ResNet-34 fits by name; that of 1,000 classes is left out, and said."""
    torch.manual_seed(8)
    given = torchvision.models.resnet34().state_dict()
    out.parent.mkdir(exist_ok=True)
    torch.save(given, out.parent / "resnet34.pth")
    module = load(SCRIPT)
    torch.manual_seed(1)
    model = module.ResNet34()
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    module.init_weights(model, out.parent / "resnet34.pth")
    for name, tensor in model.state_dict().items():
        expected = fresh if name in ("fc.weight", "linear_1_bias") else given
        assert torch.equal(tensor, expected[name]), name
    assert "no layer for age as this script's" in capsys.readouterr().err
    # run.json tells which file it was, also when that is gone
    words = [f"--outpath={out}", "--image_size=33", "--epochs=1", "--seed=1"]
    words += [f"--init_from={out.parent / 'resnet34.pth'}"]
    words += first_rows("afad", out.parent, train=9, test=5)
    digest = hashlib.sha256((out.parent / "resnet34.pth").read_bytes()).hexdigest()
    batch_cost = module.batch_cost
    module.batch_cost = lambda *args: (os.kill(os.getpid(), signal.SIGTERM), batch_cost(*args))[1]
    with pytest.raises(SystemExit, match="143"):
        module.main(words)
    (out.parent / "resnet34.pth").unlink()
    assert json.loads((out / "run.json").read_text())["init_from_sha256"] == digest
    load(SCRIPT).main([f"--outpath={out}", "--resume"])
    facts = json.loads((out / "run.json").read_text())
    assert (facts["status"], facts["init_from_sha256"]) == ("finished", digest)

    del given["layer3.2.bn1.running_var"]
    torch.save(given, out.parent / "resnet34.pth")
    with pytest.raises(SystemExit) as stop:
        module.init_weights(model, out.parent / "resnet34.pth")
    assert stop.value.code == 2 and "layer3.2.bn1.running_var" in capsys.readouterr().err
