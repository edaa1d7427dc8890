"""What a user gets wrong ends in one line that names it, exit code 2, before any training."""

import os
import sys

import PIL.Image
import pytest
import torch
from conftest import ROOT, load, run

UTK = load(ROOT / "model-code/utk-coral.py")
CE = load(ROOT / "model-code/utk-ce.py")


@pytest.fixture
def data(tmp_path):
    """A folder with train.csv, test.csv and four images."""
    images = sorted(UTK.IMAGE_PATH.glob("*.jpg"))[:4]
    for i, image in enumerate(images):
        (tmp_path / f"{i}.jpg").write_bytes(image.read_bytes())
    for name in ("train", "test"):
        rows = "".join(f"{i},{i}.jpg,{i + 3}\n" for i in range(4))
        (tmp_path / f"{name}.csv").write_text(",file,age\n" + rows)
    return tmp_path


def refusal(data, capsys, *options, module=UTK):
    """The one line that ``main`` ends with."""
    csvs = [f"--train_csv={data / 'train.csv'}", f"--test_csv={data / 'test.csv'}"]
    tiny = ["--epochs=1", "--batch_size=2", "--image_size=33", f"--outpath={data / 'run'}"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        module.main([*csvs, *tiny, f"--image_path={data}", *options])
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"{module.LOSS and module.__name__.replace('_', '-')}.py: error: ")
    assert not (data / "run").exists() or not any((data / "run").iterdir())
    return err


def test_the_data_are_fine(data):
    tiny = ["--epochs=1", "--batch_size=2", "--image_size=33", f"--outpath={data / 'run'}"]
    csvs = [f"--train_csv={data / 'train.csv'}", f"--test_csv={data / 'test.csv'}"]
    UTK.main([*csvs, *tiny, f"--image_path={data}"])


@pytest.mark.parametrize(
    "options, message",
    [
        ("--imp_weight=2", "--imp_weight 2: must be from 0 to 1"),
        ("--epochs=0", "--epochs 0: must be from 1"),
        ("--batch_size=-4", "--batch_size -4: must be from 1"),
        ("--numworkers=0", "--numworkers 0: must be from 1"),
        ("--lr=nan", "--lr nan: must be from"),
        ("--lr=-1", "--lr -1.0: must be from"),
        ("--seed=-2", "--seed -2: must be from -1"),
        ("--seed=one", "argument --seed: invalid int value: 'one'"),
        ("--epoch=3", "unrecognized arguments: --epoch=3"),
        ("--recipe=slow", "argument --recipe: invalid choice: 'slow'"),
        ("--cuda=700", "--cuda 700: this machine has"),
        ("--image_size=32", "--image_size 32: must be from 33"),
        ("--amp=1", "--amp 1 needs a CUDA device"),
        ("--resume --overwrite", "argument --overwrite: not allowed with argument --resume"),
        ("--train_csv=no.csv", "no.csv: No such file or directory"),
        ("--image_path=nowhere", "row 1: no image file nowhere"),
        ("--init_from=none.pt", "--init_from none.pt: not the state dict of a ResNet-34"),
        ("--cache_dir=nowhere", "--cache_dir nowhere: No such file or directory"),
    ],
)
def test_options(options, message, data, capsys):
    assert message in refusal(data, capsys, *options.split())


def test_weights_are_read_before_images(data, capsys):
    (data / "0.jpg").write_bytes(b"none")
    assert "row 1" in refusal(data, capsys)
    assert "--init_from none.pt" in refusal(data, capsys, "--init_from=none.pt")


def test_fewer_devices_than_processes(data, capsys, monkeypatch):
    """Said by every process before it meets the others; no GPU is needed to show it."""
    for name in ("PROCESSES", "LOCAL_PROCESSES"):
        monkeypatch.setattr(UTK, name, 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "--cuda 3: this machine has 2 CUDA devices" in refusal(data, capsys, "--cuda=0")


@pytest.mark.parametrize("everywhere, said", [(4, "=4 "), (8, "=4 ... ")])
def test_the_command_that_resumes(everywhere, said, capsys, monkeypatch):
    monkeypatch.setattr(UTK, "PROCESSES", everywhere)
    monkeypatch.setattr(UTK, "LOCAL_PROCESSES", 4)
    monkeypatch.setattr(sys, "argv", ["utk-coral.py", "--outpath=my run", "--seed=1"])
    with pytest.raises(SystemExit, match="143"):
        UTK.exit_on_signal(15, UTK.parse_settings(["--outpath=my run", "--seed=1"]))
    command = f"torchrun --nproc_per_node{said}utk-coral.py --outpath 'my run' --resume\n"
    assert capsys.readouterr().err.endswith(f"stopped by SIGTERM; go on with: {command}")


def test_outpath_is_required(capsys):
    with pytest.raises(SystemExit) as stop:
        UTK.main([])
    assert stop.value.code == 2
    assert "required: --outpath" in capsys.readouterr().err


def test_ce_has_no_importance_weights(data, capsys):
    assert "--imp_weight 1: ce has no tasks" in refusal(data, capsys, "--imp_weight=1", module=CE)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "train.csv: not a CSV file"),
        (b",file,age\n", "train.csv: no rows below the header"),
        (b"\xff\xfe\x00\x01\x80" * 9, "train.csv: not a CSV file in UTF-8"),
        (b",file\n0,0.jpg\n", "needs a column 'age', has Unnamed: 0, file"),
        (b"name,age\n0.jpg,3\n", "needs a column 'file', has name, age"),
        (
            b",file,age\n0,0.jpg,1\n1,1.jpg,40\n",
            "row 2 (1.jpg): age is '40', must be a whole number",
        ),
        (b",file,age\n0,0.jpg,-1\n", "from 0 to 39: the age in years minus 21"),
        (b",file,age\n0,0.jpg,3.5\n", "row 1 (0.jpg): age is '3.5'"),
        (b",file,age\n0,0.jpg,\n", "row 1 (0.jpg): age is ''"),
        (b",file,age\n0,0.jpg,x\n", "row 1 (0.jpg): age is 'x'"),
        (b",file,age\n0,0.jpg,3\n1,7.jpg,3\n", "row 2: no image file"),
        (b",file,age\n0,,3\n", "row 1: no image file"),
    ],
)
def test_csvs(content, message, data, capsys):
    (data / "train.csv").write_bytes(content)
    assert message in refusal(data, capsys)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: content[:700], "image file is truncated"),
        (lambda content: b"", "cannot identify image file"),
        (lambda content: b"no picture" * 99, "cannot identify image file"),
    ],
)
def test_images(change, message, data, capsys):
    (data / "2.jpg").write_bytes(change((data / "2.jpg").read_bytes()))
    error = refusal(data, capsys)
    assert message in error
    assert f"{data / 'train.csv'}: row 3: {data / '2.jpg'} is no readable image" in error


def test_a_decompression_bomb(data, capsys):
    PIL.Image.new("1", (30_000, 30_000)).save(data / "2.png")
    (data / "2.png").rename(data / "2.jpg")
    assert "row 3" in refusal(data, capsys)


def test_outpath_is_a_file(data, capsys):
    (data / "file").write_text("mine")
    for out in ("file", "file/run"):
        error = refusal(data, capsys, f"--outpath={data / out}")
        assert f"--outpath {data / out}: " in error
    assert (data / "file").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no POSIX users here")
def test_outpath_cannot_be_written(data, capsys):
    locked = data / "locked"
    locked.mkdir(mode=0o500)
    if os.geteuid() == 0:  # root may write anywhere but where nobody can
        locked = "/proc/run"
    error = refusal(data, capsys, f"--outpath={locked}")
    assert f"--outpath {locked}: " in error and "give a folder that can be written" in error


def test_a_cost_that_is_not_finite(data):
    """The run stops with epoch and batch, and its checkpoint holds finite weights."""
    result = run(
        ROOT / "model-code/utk-coral.py",
        *(f"--train_csv={data / 'train.csv'}", f"--test_csv={data / 'test.csv'}"),
        *("--epochs=9", "--batch_size=2", "--image_size=33", f"--outpath={data / 'run'}"),
        *(f"--image_path={data}", "--lr=1000", "--weight_decay=1000", "--seed=1"),
    )
    assert result.returncode == 1
    assert "the cost is" in result.stderr and result.stderr.count("\n") == 1
    state = torch.load(data / "run" / "checkpoint.pt", weights_only=True)
    assert all(t.isfinite().all() for t in state["model"].values())
