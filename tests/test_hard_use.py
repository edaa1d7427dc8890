"""Full disks, vanished folders, odd names and places, several runs at once, many rows.

Most tests run the scripts with a network of a few weights in place of ResNet-34; files and what can
happen to them are the same.
"""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from conftest import ROOT, begin, load, read_split, run, sample
from coral_age import media
from torch import nn

resource = pytest.importorskip("resource")  # not on Windows

AFAD = ROOT / "model-code" / "afad-coral.py"
SAMPLE = ROOT / "datasets" / "sample" / "afad"
SUMMARIZE = load(ROOT / "model-code" / "summarize.py")
MAKE_CSV = load(ROOT / "datasets" / "train-test-csv" / "make-csv.py")

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc or writes /dev/full")


@pytest.fixture
def module():
    """The script with a small network."""
    module = load(AFAD)

    class Small(nn.Module):
        def __init__(self, gender=0):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 4, 8, stride=8)
            module.add_output_layer(self)

        def forward(self, x):
            logits = module.age_logits(self, self.conv1(x).mean((2, 3)).repeat(1, 512))
            return logits, logits.new_full((len(x),), float("nan"))

    module.ResNet34 = Small
    return module


@pytest.fixture
def words(tmp_path):
    """Options for a run of two epochs into tmp_path/run."""
    header, *rows = (SAMPLE / "train.csv").read_text().splitlines()
    for name, part in ("train", rows[:11]), ("valid", rows[11:15]), ("test", rows[15:20]):
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *part, ""]))
    csvs = [f"--{name}_csv={tmp_path / name}.csv" for name in ("train", "valid", "test")]
    return [*csvs, f"--outpath={tmp_path / 'run'}", "--image_size=33", "--epochs=2", "--seed=1"]


def refusal(capsys, code, function, *args):
    """The one line with which the function ends the program."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        function(*args)
    err = capsys.readouterr().err
    assert stop.value.code == code and len(err.splitlines()) == 1
    return err


# Disks and folders


FILES = "model.pt best_model.pt run.json test_predictions.csv test_probas.npy checkpoint.pt".split()


@linux
@pytest.mark.parametrize("name", [*FILES, "training.log", "history.csv"])
def test_full_disk(name, module, words, tmp_path, capsys):
    """Ends in a line that names the file; once there is room, --resume gets the same result."""
    out, train = tmp_path / "run", module.train
    module.main([*words, f"--outpath={tmp_path / 'whole'}"])

    def disk_fills(*args):
        file = out / (f"{name}.tmp" if name in FILES else name)
        file.unlink(missing_ok=True)
        file.symlink_to("/dev/full")
        return train(*args)

    module.train = disk_fills
    err = refusal(capsys, 1, module.main, words)
    file = out / name if name in FILES else out
    reason = "the disk is full (No space left on device); make room, then give --resume"
    assert err == f"afad-coral.py: error: {file}: {reason}\n"
    module.train = train
    if name not in FILES:  # what was in it was lost to the device
        (out / name).unlink()
        (out / name).write_bytes(b"")
        (out / "checkpoint.pt").unlink(missing_ok=True)
    assert not (out / f"{name}.tmp").is_symlink()
    module.main([*words, "--resume"])
    for file in ("model.pt", "best_model.pt", "test_predictions.csv", "test_probas.npy"):
        assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert not (out / "checkpoint.pt").exists()


def test_too_little_memory(module, words, capsys):
    """torch has no exception of its own for it on the CPU."""

    def train(*args):
        torch.empty(2**62, dtype=torch.uint8)

    module.train = train
    err = refusal(capsys, 1, module.main, words)
    assert err.startswith("afad-coral.py: error: process 0 failed: ") and "memory" in err


@linux
@pytest.mark.parametrize("recipe", ["paper", "fast"])
def test_room_for_a_run(recipe, module, words, tmp_path, capsys, monkeypatch):
    """A run whose files have just room begins, one for which a thousandth less is free is refused:
    what it holds at any time is found by looking. Files of the run that is replaced count."""
    module.ResNet34, write, held = load(AFAD).ResNet34, module.write_file, []
    out, need = tmp_path / "run", load(AFAD).bytes_of_run

    def watched(path, content):
        def look(file):
            content(file)
            file.flush()
            held.append(sum(p.stat().st_size for p in out.iterdir()))

        write(path, look)

    monkeypatch.setattr(module, "write_file", watched)
    words += ["--epochs=1", "--image_size=64", f"--recipe={recipe}", "--batch_size=11"]
    module.bytes_of_run = lambda *args: needed.append(need(*args)) or needed[0]
    needed = []
    module.main(words)
    # logs, and the difference of a batch norm's statistics, which Adam has no means of
    assert max(held) <= needed[0] <= 1.005 * max(held)
    there = sum(path.stat().st_size for path in out.iterdir())

    def usage(path):
        assert path == out
        return SimpleNamespace(free=free)

    module.train = lambda *args: sys.exit("begun")
    monkeypatch.setattr("shutil.disk_usage", usage)
    free = needed[0] - there - 10**6
    err = refusal(capsys, 2, module.main, [*words, "--overwrite"])
    what = f"its disk has {free / 1e6:,.0f} MB free, the run needs {free / 1e6 + 1:,.0f} MB more"
    assert err.endswith(f"error: --outpath {out}: {what}; make room, or give another\n")
    assert (out / "model.pt").exists()
    free = needed[0] - there
    with pytest.raises(SystemExit, match="begun"):
        module.main([*words, "--overwrite"])


@linux
def test_standard_output_is_full(words, tmp_path):
    """One is told, and --resume goes on."""
    command = [sys.executable, AFAD, *words, "--log_every=1"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    what = "run: the disk is full (No space left on device)"
    assert done.stderr.startswith("afad-coral.py: error: ") and what in done.stderr
    assert "Traceback" not in done.stderr
    assert run(*command[1:], "--resume").returncode == 0
    log = (tmp_path / "run" / "training.log").read_text()
    assert log.count("Cost: ") == 2 and "Total Training Time" in log


@linux
def test_space_for_the_pixels_is_taken_at_once(module, words, tmp_path, capsys, monkeypatch):
    """A file with holes would end the process by a bus error when the disk is full."""
    allocate, seen = os.posix_fallocate, []

    def watched(file, start, size):
        allocate(file, start, size)
        seen.append((size, os.fstat(file).st_blocks * 512, os.fstat(file).st_nlink))

    monkeypatch.setattr(os, "posix_fallocate", watched)
    module.main([*words, f"--cache_dir={tmp_path}"])
    size, taken, names = seen[0]
    assert size == 20 * 3 * 35 * 35 and taken >= size and names == 0

    def full(file, start, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    more = [f"--cache_dir={tmp_path}", f"--outpath={tmp_path / 'other'}"]
    err = refusal(capsys, 2, module.main, [*words, *more])
    assert f"--cache_dir {tmp_path}: No space left on device; 73,500 bytes needed" in err
    assert not [*tmp_path.glob("coral-pixels*")]


def test_no_folder_for_temporary_files(words, capsys, monkeypatch):
    """Told at the run, with what to do about it; an import or --help needs none."""

    def none():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    module = load(AFAD)
    err = refusal(capsys, 2, module.main, words)
    assert "--cache_dir None: No usable temporary directory found" in err


def test_outpath_deleted_while_training(module, words, tmp_path, capsys):
    train = module.train

    def deleted(*args):
        shutil.rmtree(tmp_path / "run")
        return train(*args)

    module.train = deleted
    err = refusal(capsys, 1, module.main, words)
    assert err.endswith(f"{tmp_path / 'run' / 'training.log'}: No such file or directory\n")


def test_summary_at_every_moment_of_a_run(module, words, tmp_path):
    """The run is unfinished, until all that the summary reads is there."""
    states, write, append = [], module.write_file, module.append_line

    def look():
        notes = []
        results = SUMMARIZE.read_run(tmp_path / "run", {}, notes)
        found = [result for result in results if "mae" in result]  # the others are curves
        states.append(len(found))
        assert len(found) == 2 or ": unfinished (" in notes[0]

    def write_file(path, content):
        write(path, content)
        look()

    def append_line(path, line):
        append(path, line)
        look()

    module.write_file, module.append_line = write_file, append_line
    module.main(words)
    assert states == [0] * (len(states) - 1) + [2] and len(states) > 15


# Names and places


def cut(state):
    state["model"]["conv1.weight"] = state["model"]["conv1.weight"][:2]


FORGED = {
    "no dict": lambda state: [state],
    "no weights": lambda state: state.pop("model") and None,
    "another shape": cut,
    "another random state": lambda state: state.update(rng=torch.zeros(3)),
    "no file sizes": lambda state: state["progress"].pop("history.csv") and None,
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_checkpoints_of_another_content(forge, module, words, tmp_path, capsys):
    """Whole files with right checksums, but not what belongs in them."""
    out, evaluate_all = tmp_path / "run", module.evaluate_all
    module.evaluate_all = lambda *args: module.refuse("stopped", 1)
    refusal(capsys, 1, module.main, words)
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    torch.save(forge(state) or state, out / "checkpoint.pt")
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    module.evaluate_all = evaluate_all
    err = refusal(capsys, 2, module.main, [*words, "--resume"])
    assert f"{out / 'checkpoint.pt'} is missing or damaged; nothing was changed" in err
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_resuming_where_other_things_are_gone(module, words, tmp_path, capsys):
    """The weights to start from are not needed again; where the images have moved is told once, and
    the settings of a run begun before an option existed are that option's defaults. One that has
    gone since must have been off."""
    out, evaluate_all, start = tmp_path / "run", module.evaluate_all, tmp_path / "start.pt"
    torch.save(module.ResNet34().state_dict(), start)
    module.evaluate_all = lambda *args: module.refuse("stopped", 1)
    refusal(capsys, 1, module.main, [*words, f"--init_from={start}", "--seed=7"])
    start.unlink()
    facts = json.loads((out / "run.json").read_text())
    assert facts["settings"].pop("augment") == 0 and facts["settings"].pop("bias_lr") == 1
    again = [f"--outpath={out}", "--resume"]
    for share in (0.3, 0.0):
        facts["settings"]["drop_path"] = share
        (out / "run.json").write_text(json.dumps(facts))
        if share:
            err = refusal(capsys, 2, module.main, again)
            assert "the run has --drop_path 0.3: go on with" in err
    moved = tmp_path / "moved"
    shutil.copytree(facts["settings"]["image_path"], moved)
    refusal(capsys, 1, module.main, [*again, f"--image_path={moved}"])
    facts = json.loads((out / "run.json").read_text())
    assert facts["settings"]["image_path"] == str(moved) and facts["seed"] == 7
    assert "--lr was" in refusal(capsys, 2, module.main, [*again, "--lr=0.1"])
    module.evaluate_all = evaluate_all
    module.main(again)
    assert json.loads((out / "run.json").read_text())["status"] == "finished"


def test_names_that_begin_with_a_blank(module, tmp_path):
    """They are files' names; blanks that no file has are the table's."""
    image = next((sample(module) / "images").rglob("*.jpg"))
    for name in (" a.jpg", "b.jpg"):
        shutil.copy(image, tmp_path / name)
    (tmp_path / "rows.csv").write_text("path,age\n a.jpg,3\n b.jpg ,4\n")
    split = read_split(module, tmp_path / "rows.csv", tmp_path)
    assert split.files == [str(tmp_path / " a.jpg"), str(tmp_path / "b.jpg")]


def test_damaged_best_model(module, words, tmp_path, capsys):
    """Is found when a run goes on, not when it ends."""
    out = tmp_path / "run"
    module.evaluate_all = lambda *args: module.refuse("stopped", 1)
    refusal(capsys, 1, module.main, words)
    content = bytearray((out / "best_model.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (out / "best_model.pt").write_bytes(content)
    err = refusal(capsys, 2, module.main, [*words, "--resume"])
    assert f"{out / 'best_model.pt'} is missing or damaged; nothing was changed" in err
    (out / "best_model.pt").unlink()
    err = refusal(capsys, 2, module.main, [*words, "--resume"])
    assert f"{out / 'best_model.pt'} is missing or damaged; nothing was changed" in err


def test_carriage_returns_in_other_columns(module, words, tmp_path):
    """test_predictions.csv has one line for each image."""
    header, *rows = (tmp_path / "test.csv").read_text().splitlines()
    text = "\n".join([f"{header},note", *(f'{row},"a\rb"' for row in rows), ""])
    (tmp_path / "test.csv").write_text(text, newline="")
    module.main(words)
    table = pd.read_csv(tmp_path / "run" / "test_predictions.csv")
    assert len(table) == 5 and list(table["note"]) == [r"a\rb"] * 5


def test_a_finished_run_with_other_settings(module, words, tmp_path, capsys):
    module.main(words)
    err = refusal(capsys, 2, module.main, [*words, "--resume", "--epochs=3"])
    assert "--resume: --epochs was 2, is 3" in err
    module.main([*words, "--resume", "--seed=-1"])
    assert "finished: nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content, message",
    [
        ("file,path,age\n1.jpg,{0},3,x\n", "rows with more fields than it has"),
        ("path,age\n1.jpg,{0},3\n2.jpg,{0},3\n", "rows with more fields than it has"),
        ('path,age\n"two\nlines",3\n', "image files are missing"),
        ('path,"a\nge"\n{0},3\n', "needs a column 'age', has path, a ge"),
    ],
)
def test_csvs(content, message, module, tmp_path, capsys):
    image = (SAMPLE / "train.csv").read_text().splitlines()[1].split(",")[1]
    (tmp_path / "rows.csv").write_text(content.replace("{0}", image))
    assert message in refusal(
        capsys, 2, read_split, module, tmp_path / "rows.csv", sample(module) / "images"
    )


def test_images_of_16_bits(module, tmp_path):
    """They keep their tones, of which converting to RGB would leave white."""
    shades = np.arange(256, dtype=np.uint16).reshape(16, 16)
    PIL.Image.fromarray(shades * 257).save(tmp_path / "deep.png")
    # the same tones as a big-endian TIFF and as a PGM, whose bytes are told here
    PIL.Image.fromarray((shades * 257).astype(">u2")).save(tmp_path / "deep.tif")
    (tmp_path / "deep.pgm").write_bytes(b"P5 16 16 65535 " + (shades * 257).astype(">u2").tobytes())
    for name, mode in (("deep.png", "I;16"), ("deep.tif", "I;16B"), ("deep.pgm", "I")):
        with PIL.Image.open(tmp_path / name) as deep:
            assert deep.mode == mode
            pixels = module.prepare_image(deep, 15)
        assert (pixels == shades).all()
        assert (media.read_image(tmp_path / name, print) == shades[:, :, None]).all()


def test_no_other_program_is_started(tmp_path):
    """Pillow would have Ghostscript run what is in an EPS file."""
    PIL.Image.new("RGB", (9, 9)).save(tmp_path / "code.jpg", "EPS")
    assert MAKE_CSV.inspect(tmp_path / "code.jpg") == (None, "unreadable pixels: not an image")
    split = SimpleNamespace(files=[tmp_path / "code.jpg"], rows=[1], facts={"csv": ""})
    split.pixels = np.empty((1, 3, 34, 34), np.uint8)
    with pytest.raises(SystemExit):
        load(AFAD).decode(split, SimpleNamespace(image_size=32))


def test_weights_of_another_shape(module, tmp_path, capsys):
    """A single value is not spread over a layer."""
    model = module.ResNet34()
    before = model.conv1.bias.clone()
    given = {"conv1.weight": model.conv1.weight.detach(), "conv1.bias": torch.zeros(1)}
    torch.save(given, tmp_path / "weights.pt")
    refusal(capsys, 2, module.init_weights, model, tmp_path / "weights.pt")
    assert torch.equal(model.conv1.bias, before)


def test_carriage_returns_in_names(tmp_path):
    """A CSV would break there."""
    image = (SAMPLE / "train.csv").read_text().splitlines()[1].split(",")[1]
    for name in ("1.jpg", "2.jpg", "3.jpg", "a\r.jpg"):
        (tmp_path / "images" / "20" / "111").mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLE / "images" / image, tmp_path / "images" / "20" / "111" / name)
    MAKE_CSV.main(["afad", f"--images={tmp_path / 'images'}", f"--out={tmp_path}"])
    rejected = (tmp_path / "afad_rejected.csv").read_bytes().decode()
    assert rejected == "file,reason\n20/111/a\\r.jpg,unreadable name: holds a carriage return\n"


def test_metadata_longer_than_its_header(tmp_path):
    (tmp_path / "meta.csv").write_text("id_num,picture_num,race\n1,2,W,x\n")
    with pytest.raises(ValueError, match="rows have more fields"):
        MAKE_CSV.read_metadata(tmp_path / "meta.csv")


@linux
def test_a_clone_through_a_link_with_odd_names(words, tmp_path):
    """Spaces, umlauts and bytes that are no text, from another folder, on an ASCII terminal."""
    clone = tmp_path / "mein Klön 😀"
    for part in ("model-code/afad-coral.py", "datasets/sample/afad"):
        (clone / part).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copy if part.endswith(".py") else shutil.copytree
        copy(ROOT / part, clone / part)
    (tmp_path / "link").symlink_to(clone)
    (tmp_path / "elsewhere").mkdir()
    out = os.fsdecode(b"l\xe4uft \xc3\xa4/run 1")
    words = [*words, "--image_path=../link/datasets/sample/afad/images", "--epochs=1"]
    result = subprocess.run(
        [sys.executable, "../link/model-code/afad-coral.py", *words, f"--outpath={out}"],
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert rb"Output Path: l\udce4uft \xe4/run 1" in result.stdout
    log = tmp_path / "elsewhere" / out / "training.log"
    assert "Output Path: l\\udce4uft ä/run 1\n" in log.read_text(encoding="utf-8")


def test_help_in_a_folder_with_a_percent_sign(tmp_path):
    """The default paths, which hold it, are in the help."""
    folder = tmp_path / "50%done" / "model-code"
    folder.mkdir(parents=True)
    result = run(shutil.copy(AFAD, folder), "--help", COLUMNS="999")
    assert (result.returncode, result.stderr) == (0, "")
    assert "/50%done/datasets/sample/afad/train.csv)" in result.stdout


def test_predictions_of_odd_names_on_an_ascii_terminal(tmp_path):
    """Running to its end, with the name in the list of predictions."""
    faces = tmp_path / "faces"
    faces.mkdir()
    image = (SAMPLE / "train.csv").read_text().splitlines()[1].split(",")[1]
    shutil.copy(SAMPLE / "images" / image, faces / "照片.jpg")
    script = load(AFAD)
    torch.save(script.ResNet34().state_dict(), tmp_path / "weights.pt")
    result = run(
        *(ROOT / "model-code" / "predict.py", "--weights", tmp_path / "weights.pt"),
        *("--script", "afad-coral.py", "--image_size", "33", "--crops", faces),
        *("--out", tmp_path / "out"),
        PYTHONIOENCODING="ascii",
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "  1  " in result.stdout and r"\u7167\u7247.jpg" in result.stdout
    assert "照片.jpg" in (tmp_path / "out" / "predictions.csv").read_text(encoding="utf-8")


# Many


@linux
def test_two_runs_into_one_outpath(words, tmp_path):
    """One wins, the other is refused and changes nothing."""
    runs = [begin(sys.executable, AFAD, *words, "--epochs=1") for _ in range(2)]
    ends = sorted((run.communicate()[1], run.returncode) for run in runs)
    assert ends[0] == ("", 0)
    assert ends[1][1] == 2 and ends[1][0].count("\n") == 1
    # the slower one may start when the faster one has finished
    assert "another process is running there" in ends[1][0] or "holds a run" in ends[1][0]
    assert (tmp_path / "run" / "training.log").read_text().count("Total Training Time") == 1


@pytest.mark.parametrize("rows", [20_000, pytest.param(2_000_000, marks=pytest.mark.slow)])
def test_many_rows(rows, module, tmp_path, monkeypatch):
    """A file is looked up once, however many rows name it."""
    header, *lines = (SAMPLE / "train.csv").read_text().splitlines()
    lines = lines[:20]
    text = "\n".join([header, *lines * (rows // 20), ""])
    (tmp_path / "rows.csv").write_text(text)
    exists, looked = os.path.isfile, []
    monkeypatch.setattr(os.path, "isfile", lambda file: looked.append(file) or exists(file))
    split = read_split(module, tmp_path / "rows.csv", sample(module) / "images", 1)
    assert len(split.files) == len(split.labels) == rows and len(looked) == 20
    assert split.labels[-20:].tolist() == [int(line.split(",")[2]) for line in lines]


@linux
@pytest.mark.slow
def test_memory_over_200_epochs(module, words):
    """What 150 epochs more take is less than one epoch's images."""
    taken, append = [], module.append_line

    def append_line(path, line):
        append(path, line)
        if path.name == "history.csv":
            with open("/proc/self/statm") as file:
                taken.append(int(file.read().split()[1]) * resource.getpagesize())

    module.append_line = append_line
    module.main([*words, "--epochs=200", "--image_size=320"])
    assert len(taken) == 201 and taken[-1] - taken[50] < 11 * 3 * 320 * 320
