"""predict.py's tables of many rows: saved while they come, gone on with after any end, in parts."""

import csv
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, disk
from coral_age import answers, media, table
from PIL import Image
from test_predict import (  # noqa: F401 (bare is a fixture)
    FACE,
    PREDICT,
    bare,
    call,
    moving,
    save_video,
)
from test_predict import table as small_table


@pytest.fixture
def photos(tmp_path):
    """Eleven crops in two folders, of the same names but for one, one that is none, and a video."""
    for folder, count in (("a", 6), ("b", 5)):
        (tmp_path / "in" / folder).mkdir(parents=True)
        for i in range(count):
            FACE.rotate(8 * i).resize((40, 40)).save(tmp_path / "in" / folder / f"{i}.png")
    (tmp_path / "in" / "a" / "letter.png").write_text("Dear reader,")
    save_video(tmp_path / "in" / "b" / "0-film.mp4", moving(9), "mpeg4")
    return tmp_path / "in"


@pytest.fixture
def few(monkeypatch):
    """Files of four rows, the last of which is saved with every row."""
    monkeypatch.setattr(table, "PART", 4)
    monkeypatch.setattr(table, "SECONDS", 0)


def rows_in(out):
    """The rows of all tables, and the files that hold them."""
    rows, names = [], sorted(path.name for path in out.glob("predictions-*.csv"))
    for name in names:
        with open(out / name, encoding="utf-8", newline="") as file:
            rows += csv.DictReader(file)
    return rows, names


def contents(out):
    """All files in a folder, but what tells the time; of a film, whose encoder works in threads
    that take turns, there is no more than the name."""
    files = [path for path in out.iterdir() if path.name != "progress.log"]
    return {path.name: path.suffix == ".mp4" or path.read_bytes() for path in files}


def test_many_rows_are_in_parts(bare, photos, tmp_path, few, monkeypatch, capsys):  # noqa: F811
    """The rows of a single table, in their order; besides, a row for what is no photo, with its
    reason, for a photo without a face and for a video."""
    Image.new("RGB", (64, 64)).save(photos / "a" / "none.png")
    out = tmp_path / "out"
    assert call(*bare, photos, "--out", out, "--no_draw") == 1
    rows, names = rows_in(out)
    told = json.loads((out / "predictions.json").read_text())
    assert told["files"] == names and (told["inputs"], told["inputs_with_errors"]) == (14, 1)
    assert "faces" not in told and sorted(os.listdir(out)) == sorted(
        [*names, "predictions.json", "progress.log"]
    )
    assert capsys.readouterr().out.endswith(f"{out}/predictions.json: written\n")
    monkeypatch.setattr(table, "PART", 10_000)
    monkeypatch.setattr(table, "SECONDS", 60)
    assert call(*bare, photos, "--out", tmp_path / "small", "--no_draw") == 1
    due = small_table(tmp_path / "small")
    assert len(due) > 10 and len(names) > 3
    ours = {"reason": ""}
    assert [row for row in rows if row["kind"] in table.FACES] == [row | ours for row in due]
    others = {(row["kind"], os.path.basename(row["source"])): row for row in rows}
    assert others["error", "letter.png"]["reason"] == media.TEXT
    assert others["video", "0-film.mp4"]["frames"] == "9" and ("no face", "none.png") in others
    assert {os.path.basename(row["source"]) for row in rows} >= {"0.png", "5.png", "none.png"}
    assert sorted(os.listdir(tmp_path / "small")) == ["predictions.csv", "predictions.json"]


def stop_after(monkeypatch, calls):
    """The network gets Ctrl-C when it is asked once more than so many times."""
    real, count = answers.infer, [0]

    def infer(*given):
        count[0] += 1
        if count[0] > calls:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(answers, "infer", infer)


@pytest.mark.parametrize("part", [4, 10_000])
def test_stopped_and_resumed(part, bare, photos, tmp_path, few, monkeypatch, capsys):  # noqa: F811
    """Stopped again and again, all is in the end as without: tables, JSON and marked copies."""
    words = [*bare, photos, "--crops", "--batch_size", 2, "--resume"]
    monkeypatch.setattr(table, "PART", part)
    assert call(*words, "--out", tmp_path / "due") == 1
    due = contents(tmp_path / "due")
    assert {"0.jpg", "0-2.jpg", "0-film.mp4", "predictions.json"} < due.keys()
    out, seen, ends = tmp_path / "out", [], []
    while not ends or ends[-1] == 130:
        with monkeypatch.context() as patch:
            stop_after(patch, 2 * len(ends) + 1)
            capsys.readouterr()
            ends.append(call(*words, "--out", out))
        if ends[-1] == 130:
            line = capsys.readouterr().err.splitlines()[-1]
            assert line.endswith(" inputs are kept: go on with --resume")
            seen.append(int(line.split("answers to ")[1].split()[0]))
            assert (out / "unfinished.json").exists()
        assert len(ends) < 20
    assert ends[-1] == 1 and len(ends) > 2 and seen == sorted(seen) and seen[0] > 0
    assert contents(out) == due
    capsys.readouterr()
    assert call(*words, "--out", out) == 0  # it is finished
    assert capsys.readouterr().out == f"{out}: the job there is finished\n"
    assert contents(out) == due


def test_a_video_that_was_stopped_is_done_again(bare, tmp_path, few, monkeypatch):  # noqa: F811
    """As a whole, though several files hold its frames; the photo before it is not."""
    film, photo = tmp_path / "z.mp4", tmp_path / "a.png"
    save_video(film, moving(30), "mpeg4")
    FACE.save(photo)
    words = [*bare, photo, film, "--crops", "--no_draw", "--batch_size", 2, "--resume"]
    assert call(*words, "--out", tmp_path / "due") == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 10)
        assert call(*words, "--out", tmp_path / "out") == 130
    rows, names = rows_in(tmp_path / "out")
    assert len(rows) > 12 and len(names) > 3 and rows[-1]["kind"] == "frame"
    asked, real = [], answers.infer
    monkeypatch.setattr(answers, "infer", lambda *given: asked.extend(given[0]) or real(*given))
    assert call(*words, "--out", tmp_path / "out") == 0
    assert len(asked) == 30 and contents(tmp_path / "out") == contents(tmp_path / "due")


def test_nothing_stays_of_nothing(bare, photos, tmp_path, few, monkeypatch, capsys):  # noqa: F811
    stop_after(monkeypatch, 0)
    assert call(*bare, photos / "a" / "0.png", "--crops", "--out", tmp_path / "out") == 130
    assert capsys.readouterr().err.endswith("interrupted; no predictions were written\n")
    assert list((tmp_path / "out").iterdir()) == []


def test_another_job_is_not_resumed(bare, photos, tmp_path, few, monkeypatch, capsys):  # noqa: F811
    """What is there stays as it is."""
    out, words = tmp_path / "out", [*bare, photos, "--no_draw"]
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert call(*words, "--crops", "--out", out, "--batch_size", 2) == 130
    before = contents(out)
    for more, message in {
        (): "holds a job that was stopped; give --resume, another folder, or --overwrite",
        ("--resume",): "the job there has crops True, not False",
        ("--resume", "--crops", "--part", "1/2"): "the job there has part None, not '1/2'",
        ("--resume", "--overwrite"): "give --resume or --overwrite, not both",
    }.items():
        capsys.readouterr()
        assert call(*words, "--out", out, *more) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, err
        assert contents(out) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("Dear reader,")
    assert call(*words, "--out", tmp_path / "mine", "--resume") == 2
    assert "holds files, but no job to resume" in capsys.readouterr().err
    for more in (["--resume"], ["--format", "parquet"]):
        assert call(*words, *more) == 2
        assert "--resume and --format go with --out" in capsys.readouterr().err


@pytest.mark.parametrize("small", [True, False])
def test_a_full_disk(small, bare, photos, tmp_path, few, monkeypatch, capsys):  # noqa: F811
    """It is called that, also where there is room for rows, but not for marked copies (``small``),
    and when there is more the job goes on."""
    words = [*bare, photos, "--crops", "--resume"]
    assert call(*words, "--out", tmp_path / "due") == 1
    out, left = tmp_path / "out", [4 if small else 9]
    place, name = (media, "write_jpeg") if small else (os, "fsync")
    real = getattr(place, name)

    def full(*given, **more):
        left[0] -= 1
        if left[0] < 0:
            filename = str(given[1]) if small else None
            raise OSError(errno.ENOSPC, "No space left on device", filename)
        return real(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, full)
        capsys.readouterr()
        assert call(*words, "--out", out) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert ": the disk is full (No space left on device); make room, then give --resume" in line
    assert line.startswith(f"predict.py: error: {out}/") and not list(out.glob("*.tmp"))
    assert 0 < len(rows_in(out)[0]) < len(rows_in(tmp_path / "due")[0])
    assert call(*words, "--out", out) == 1
    assert contents(out) == contents(tmp_path / "due")


def test_a_small_disk(bare, photos, tmp_path, few, capsys):  # noqa: F811
    """The same of a real one, on which there is no room for all copies."""
    words, out = [*bare, photos, "--crops", "--resume"], tmp_path / "small" / "out"
    assert call(*words, "--out", tmp_path / "due") == 1
    with disk(out.parent, "40k") as resize:
        capsys.readouterr()
        assert call(*words, "--out", out) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"predict.py: error: {out}/") and line.endswith(
            ": the disk is full (No space left on device); make room, then give --resume"
        )
        assert 0 < len(rows_in(out)[0]) < len(rows_in(tmp_path / "due")[0])
        assert not list(out.glob(".*.tmp"))
        resize("10m")
        assert call(*words, "--out", out) == 1
        assert contents(out) == contents(tmp_path / "due")


def test_a_list_in_parts(bare, photos, tmp_path, capsys):  # noqa: F811
    """Each path of the list is in one part, the one that its SHA-256 tells, missing ones too."""
    paths = [*sorted(photos.rglob("*.png")), photos / "gone.png", photos]
    (tmp_path / "list").write_text("".join(f"{path}\n" for path in [*paths, "", paths[0]]))
    words = [*bare, "--list", tmp_path / "list", "--crops", "--no_draw"]
    assert call(*words, "--out", tmp_path / "all") == 1
    told = json.loads((tmp_path / "all" / "predictions.json").read_text())
    reasons = {failure["source"]: failure["reason"] for failure in told["failures"]}
    assert reasons.pop(str(photos / "gone.png")) == "No such file or directory"
    assert reasons.pop(str(photos)) == "Is a directory"
    assert list(reasons) == [str(photos / "a" / "letter.png")]
    found = []
    for k in (1, 2, 3):
        call(*words, "--part", f"{k}/3", "--out", tmp_path / f"{k}")
        part = json.loads((tmp_path / f"{k}" / "predictions.json").read_text())
        for row in part["faces"] + part["failures"]:
            digest = hashlib.sha256(row["source"].encode()).digest()
            assert int.from_bytes(digest[:8], "big") % 3 == k - 1
        found += part["faces"]
    assert len(found) == 11 and all(row in told["faces"] for row in found)
    assert len(told["faces"]) == 11
    capsys.readouterr()
    for part in ("0/3", "4/3", "3", "1/0", "a/b"):
        assert call(*words, "--part", part) == 2
        assert f"--part {part}: give K/N, from 1/N to N/N" in capsys.readouterr().err
    (tmp_path / "empty").write_text("\n")
    for name, reason in (("empty", "no path in it"), ("gone", "No such file or directory")):
        assert call(*bare, "--list", tmp_path / name) == 2
        line = f"predict.py: error: --list {tmp_path / name}: {reason}\n"
        assert capsys.readouterr().err == line


def test_parquet(bare, photos, tmp_path, few, monkeypatch):  # noqa: F811
    """The rows of CSV with their types; stopped and resumed as well."""
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    words = [*bare, photos, "--crops", "--no_draw", "--batch_size", 2, "--resume"]
    assert call(*words, "--out", tmp_path / "csv") == 1
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert call(*words, "--format", "parquet", "--out", tmp_path / "out") == 130
    assert call(*words, "--format", "parquet", "--out", tmp_path / "out") == 1
    files = sorted((tmp_path / "out").glob("predictions-*.parquet"))
    rows = [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
    texts = [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]
    assert texts == rows_in(tmp_path / "csv")[0] and len(files) > 3
    assert {type(row["age"]) for row in rows if row["kind"] == "image"} == {int}


def test_parquet_without_its_package(bare, tmp_path, monkeypatch, capsys):  # noqa: F811
    FACE.save(tmp_path / "a.png")
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: None)
    words = [*bare, tmp_path / "a.png", "--crops", "--format", "parquet"]
    assert call(*words, "--out", tmp_path / "out") == 2
    line = "predict.py: error: --format parquet: pyarrow is not installed: pip install pyarrow\n"
    assert capsys.readouterr().err == line and not (tmp_path / "out").exists()


def test_a_line_of_progress_each_minute(tmp_path, monkeypatch):
    """600 inputs in a minute, 14,400 left: 24 minutes; what an earlier process did is no rate."""
    clock = [1000.0]
    monkeypatch.setattr(table.time, "monotonic", lambda: clock[0])
    made = table.Table(tmp_path, ["source", "kind", "reason"], "csv", {})
    made.total, made.inputs, made.before = 20_000, 5_600, 5_000
    made.failed = 3
    for seconds in (30, 61, 90):
        clock[0] = 1000.0 + seconds
        made.add([{"source": "a.png", "kind": "no face"}])
    [line] = (tmp_path / "progress.log").read_text().splitlines()
    assert line[21:] == ("5,600 of 20,000 inputs, 3 with errors, 9.8 a second, 0:24 hours left")


CODE = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
from coral_age import table
table.PART, table.SECONDS = 7, 0.05
sys.argv[:] = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def killed_and_resumed(bare, photos, tmp_path, moments):  # noqa: F811
    """kill -9 so many times, each later in the job; the rows are those of a job left alone."""
    for i in range(40):
        FACE.rotate(i).resize((300, 300)).save(photos / f"{i:02}.png")
    words = [sys.executable, "-c", CODE, ROOT / "model-code", PREDICT, *bare, photos, "--resume"]
    words = [*map(str, words), "--batch_size", "2", "--out"]
    assert subprocess.run([*words, tmp_path / "due"], capture_output=True).returncode == 1
    due, out, kills = contents(tmp_path / "due"), tmp_path / "out", 0
    draw = random.Random(1)
    while True:
        process = subprocess.Popen(
            [*words, out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        before = len(rows_in(out)[0]) if out.exists() else 0
        rows = before + draw.randint(1, max(2, 100 // moments))
        while process.poll() is None and (kills == moments or len(rows_in(out)[0]) < rows):
            time.sleep(0.01)
            out.mkdir(exist_ok=True)
        if process.poll() is not None:
            break
        time.sleep(draw.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    # 0 if it was killed at its very end
    assert process.returncode in (0, 1) and kills >= min(moments, 2)
    assert contents(out) == due
    shutil.rmtree(out)
    return kills


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_killed_and_resumed(bare, photos, tmp_path):  # noqa: F811
    killed_and_resumed(bare, photos, tmp_path, 2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_killed_twenty_times(bare, photos, tmp_path):  # noqa: F811
    assert killed_and_resumed(bare, photos, tmp_path, 20) > 10
