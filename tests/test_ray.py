"""predict_ray.py: predict.py's rows, whoever is killed meanwhile, from disks, S3 and Parquet."""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import MODEL_CODE, PATIENCE, load, refused
from test_predict import FACE, bare, call, moving, save_video  # noqa: F401 (bare is a fixture)

parquet = pytest.importorskip("pyarrow.parquet")
predict_ray = load(MODEL_CODE / "predict_ray.py")
pytestmark = [
    pytest.mark.slow,  # Ray and its workers take half a minute to start
    pytest.mark.skipif(predict_ray.ray is None, reason="Ray is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


@pytest.fixture(scope="module")
def server():
    """The port of a server of S3 on this machine, with an empty bucket; its address is what AWS's
    own variable tells."""
    moto = pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        logging.getLogger("werkzeug").setLevel("WARNING")
        running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
        running.start()
        import boto3

        boto3.client("s3").create_bucket(Bucket="photos")
        yield port
        running.stop()


@pytest.fixture(scope="module")
def cluster(request):
    """Two nodes of a CPU each, which are processes of this machine, with the variables of the
    server of S3, if there can be one."""
    try:
        request.getfixturevalue("server")
    except pytest.skip.Exception:
        pass
    import ray
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = str(MODEL_CODE)  # of the workers, as if it was installed
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.second = made.add_node(num_cpus=1)
    ray.init(address=made.address, logging_level="warning")
    yield made
    ray.shutdown()
    made.shutdown()
    del os.environ["PYTHONPATH"]


@pytest.fixture
def photos(tmp_path):
    """Crops in two folders, one that is none, a picture without a face, and a film."""
    for folder, count in (("a", 9), ("b", 8)):
        (tmp_path / "in" / folder).mkdir(parents=True)
        for i in range(count):
            FACE.rotate(8 * i).save(tmp_path / "in" / folder / f"{i}.png")
    (tmp_path / "in" / "a" / "letter.png").write_text("Dear reader,")
    FACE.crop((0, 0, 40, 40)).save(tmp_path / "in" / "a" / "none.png")
    save_video(tmp_path / "in" / "b" / "film.mp4", moving(9), "mpeg4")
    return tmp_path / "in"


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(predict_ray.parts, "PART", 2)


def ray_call(*words):
    return predict_ray.main([str(word) for word in words])


def in_order(rows):
    keys = "source", "kind", "frame", "face", "seconds"
    return sorted(rows, key=lambda row: [str(row[key]) for key in keys])


def rows_in(out, pattern="part-*.parquet"):
    return in_order(row for p in out.glob(pattern) for row in parquet.read_table(p).to_pylist())


def due_rows(tmp_path, *words):
    """Those of predict.py."""
    out = tmp_path / "due"
    assert call(*words, "--no_draw", "--format", "parquet", "--out", out) == 1
    return rows_in(out, "predictions-*.parquet")


@pytest.mark.parametrize("crops", [[], ["--crops"]])
def test_the_rows_of_predict(crops, cluster, bare, photos, tmp_path, small, capsys):  # noqa: F811
    """Of one actor and of two, in their columns, to the digit; a job that is done is not begun."""
    due = due_rows(tmp_path, *bare, photos, *crops)
    assert len(due) > 25 and {"image", "frame", "track", "video", "error"} <= {
        row["kind"] for row in due
    }
    for actors in (1, 2):
        out = tmp_path / f"{actors}"
        assert ray_call(*bare, photos, *crops, "--actors", actors, "--out", out) == 1
        assert rows_in(out) == due
        told = json.loads((out / "predictions.json").read_text())
        assert (told["inputs"], told["inputs_with_errors"], told["files"]) == (20, 1, 10)
        names = sorted(path.name for path in out.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "1").iterdir())
    capsys.readouterr()
    assert ray_call(*bare, photos, *crops, "--out", out, "--resume") == 0
    assert capsys.readouterr().out == f"{out}: the job there is finished\n"


def workers():
    """The process ids of the actors that this process's nodes run."""
    parents, actors = {}, []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = status.read_text().split(" (", 1)[1].rsplit(")", 1)
            command = (status.parent / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        parents[int(status.parent.name)] = int(rest.split()[1])
        if command.startswith(b"ray::MapWorker"):
            actors.append(int(status.parent.name))
    return [pid for pid in actors if parents.get(parents[pid]) == os.getpid()]


def meanwhile(out, action):
    """A thread that does ``action`` when two actors are at work and some parts are there."""

    def wait():
        deadline = time.time() + PATIENCE
        while time.time() < deadline:
            if len(list(out.glob("part-*"))) > 2 and len(workers()) == 2:
                return action()
            time.sleep(0.01)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("what", ["actor", "node"])
def test_one_is_taken_away(what, cluster, bare, photos, tmp_path, small):  # noqa: F811
    """kill -9 of an actor, and the loss of one of the two nodes: no row lost, none doubled."""
    for i in range(40):
        FACE.rotate(i).resize((400, 400)).save(photos / f"{i:02}.png")
    due, out, gone = due_rows(tmp_path, *bare, photos), tmp_path / "out", []

    def kill():
        gone.append(workers()[-1])
        os.kill(gone[0], signal.SIGKILL)

    def remove():
        gone.append(len(list(out.glob("part-*"))))
        cluster.remove_node(cluster.second, allow_graceful=False)

    thread = meanwhile(out, kill if what == "actor" else remove)
    try:
        assert ray_call(*bare, photos, "--actors", 2, "--out", out) == 1
    finally:
        thread.join()
        if what == "node":
            cluster.second = cluster.add_node(num_cpus=1)
    assert gone and rows_in(out) == due
    assert len(list(out.glob("part-*"))) == 30


def test_stopped_and_resumed(cluster, bare, photos, tmp_path, small, monkeypatch, capsys):  # noqa: F811
    """What there is stays and is not done again; another job is refused."""
    words = [*bare, photos, "--crops", "--resume", "--actors", 1]
    due, out, work = due_rows(tmp_path, *bare, photos, "--crops"), tmp_path / "out", []
    real = predict_ray.work

    def stopped(todo, *given):
        work.append(len(todo))
        for number, count in enumerate(real(todo, *given)):
            if len(work) == 1 and number == 2:
                raise KeyboardInterrupt
            yield count

    monkeypatch.setattr(predict_ray, "work", stopped)
    assert "interrupted; go on with --resume" in stops(130, *words, "--out", out, capsys=capsys)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert len(before) >= 3 and (out / "unfinished.json").exists()
    message = stops(2, *words[:-3], "--out", out, capsys=capsys)
    assert "holds files already; give --resume" in message
    other = [word for word in words if word != "--crops"]
    message = stops(2, *other, "--out", out, capsys=capsys)
    assert "the job there has crops True, not False" in message
    assert ray_call(*words, "--out", out) == 1
    assert work == [10, 10 - len(before)] and rows_in(out) == due
    assert all((out / name).stat().st_mtime_ns == at for name, at in before.items())


def stops(code, *words, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        ray_call(*words)
    assert stop.value.code == code
    return capsys.readouterr().err


def test_a_bucket(cluster, server, bare, photos, tmp_path, small):  # noqa: F811
    """Read from S3 and written there, a list of both as well; and a column of bytes in Parquet."""
    import pyarrow
    import pyarrow.fs

    due = due_rows(tmp_path, *bare, photos, "--crops")
    nameless = [row | {"reason": None} for row in due]
    s3, _ = pyarrow.fs.FileSystem.from_uri("s3://photos")
    pyarrow.fs.copy_files(str(photos), "photos/in", destination_filesystem=s3)
    plain, keyed = (
        predict_ray.parts.files_in(f"s3://{who}photos/in/", {".png"}) for who in ("", "test:test@")
    )
    assert len(plain) == 19
    assert keyed == [path.replace("photos", "test:test@photos", 1) for path in plain]
    ray_words = [*bare, "--crops", "--actors", 1]
    assert ray_call(*ray_words, "s3://photos/in", "--out", "s3://photos/out") == 1
    (tmp_path / "out").mkdir()
    pyarrow.fs.copy_files("photos/out", str(tmp_path / "out"), source_filesystem=s3)
    here = [
        row | {"source": row["source"].replace("s3://photos/in", str(photos))}
        for row in rows_in(tmp_path / "out")
    ]
    assert in_order(here) == due
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".parquet", ".json"}

    files = sorted(path for path in photos.rglob("*.*"))
    for kind in ("plain", "struct"):
        cells = [path.read_bytes() for path in files]
        cells = cells if kind == "plain" else [{"bytes": c, "path": "a"} for c in cells]
        table = pyarrow.table({"image": cells})
        with s3.open_output_stream(f"photos/tables/{kind}.parquet") as file:
            parquet.write_table(table, file, row_group_size=6)
        uri, out = f"s3://photos/tables/{kind}.parquet", tmp_path / kind
        assert ray_call(*ray_words, uri, "--column", "image", "--out", out) == 1
        told = rows_in(out)
        for row in told:
            row["source"] = str(files[int(row["source"].removeprefix(f"{uri}#"))])
        # FFmpeg, asked whether it is a video, says something else of what has no name
        assert sum(bool(row["reason"]) for row in told) == 1
        assert in_order(row | {"reason": None} for row in told) == nameless
        assert len(list(out.glob("part-*"))) == 4

    (tmp_path / "list").write_text(f"s3://photos/in/a/0.png\n{photos}/a/1.png\ns3://photos/gone\n")
    out = tmp_path / "listed"
    assert ray_call(*ray_words, "--list", tmp_path / "list", "--out", out) == 1
    told = {row["source"]: row for row in rows_in(out)}
    assert "does not exist" in told["s3://photos/gone"]["reason"] and len(told) == 3


def test_rows_that_cannot_be_written(cluster, bare, photos, tmp_path, monkeypatch, capsys):  # noqa: F811
    """An actor's error is one line."""
    real, out = predict_ray.work, tmp_path / "out"

    def work(*given):
        shutil.rmtree(out)
        out.write_text("a file now")
        return real(*given)

    monkeypatch.setattr(predict_ray, "work", work)
    told = stops(2, *bare, photos, "--crops", "--actors", 1, "--out", out, capsys=capsys)
    line = f"predict_ray.py: error: {out}: Not a directory; go on with --resume\n"
    assert told.endswith(line)


def test_what_cannot_be(bare, tmp_path, capsys):  # noqa: F811
    """One line each, before Ray starts."""
    FACE.save(tmp_path / "a.png")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").write_text("Dear reader,")
    pd.DataFrame({"b": [1]}).to_parquet(tmp_path / "a.parquet")
    out = ["--out", tmp_path / "out"]
    for words, message in {
        ("--out", "x"): "the following arguments are required: INPUT",
        (tmp_path / "a.png", "--gpus", 2, *out): "--gpus 2.0: must be from 0 to 1",
        (tmp_path / "gone.png", *out): "gone.png: no such file or folder",
        (tmp_path / "a.png", "--out", tmp_path / "full"): "holds files already",
        (tmp_path / "a.png", "--resume", "--out", tmp_path / "full"): "but no job to resume",
        (tmp_path / "a.parquet", "--column", "image", *out): "no column image; there are b",
    }.items():
        told = refused(predict_ray, capsys, *bare, "--crops", *words, begins="predict_ray.py: ")
        assert message in told


CODE = """
import runpy, sys
from coral_age import parts
parts.PART = 2
sys.argv[:] = ["coral-age", "ray", *sys.argv[1:]]
runpy.run_module("coral_age", run_name="__main__")
"""


def test_the_command_killed_and_resumed(bare, photos, tmp_path):  # noqa: F811
    """coral-age ray with a Ray of its own, by kill -9."""
    for i in range(40):
        FACE.rotate(i).resize((400, 400)).save(photos / f"{i:02}.png")
    due, out = due_rows(tmp_path, *bare, photos), tmp_path / "out"
    words = [sys.executable, "-c", CODE, *bare, photos, "--out", out, "--resume"]
    start = {"args": [*map(str, words), "--actors", "1"]}
    start["env"] = {**os.environ, "PYTHONPATH": str(MODEL_CODE), "RAY_ADDRESS": "local"}
    process = subprocess.Popen(**start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + PATIENCE
    while len(list(out.glob("part-*"))) < 3 and time.time() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert 3 <= len(list(out.glob("part-*"))) < 30
    assert subprocess.run(**start).returncode == 1
    assert rows_in(out) == due
