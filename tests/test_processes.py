"""Several processes train the network that one trains: torchrun, gloo, on the CPU.

Two hosts are two namespaces of Linux's network with a link between them, as root can make them.
"""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import PATIENCE, ROOT, begin, costs, load
from golden import in_double

SCRIPT = ROOT / "model-code" / "afad-coral.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

# The script in double precision, with batch norm in eval mode throughout, since its statistics
# depend on how a batch is shared out. Saves the gradients of each step, and the weights and
# generator after training.
FROZEN = """
import sys

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

sys.path.insert(0, {tests!r})
from conftest import load
from golden import in_double

module, steps = load({script!r}), []
train = module.train

def frozen(*args):
    model = ResNet34(*args).eval()
    model.train = lambda mode=True: model
    return model

def keep_gradients(optimizer, args, kwargs):
    [group] = optimizer.param_groups
    steps.append(torch.cat([p.grad.flatten() for p in group["params"]]))

def watched(model, *args):
    state = train(model, *args)
    saved = {{"steps": steps, "weights": model.state_dict(), "rng": torch.get_rng_state()}}
    torch.save(saved, sys.argv[0].removesuffix(".py") + f"-{{module.RANK}}.pt")
    return state

module.train = watched
register_optimizer_step_pre_hook(keep_gradients)
with in_double(module):
    ResNet34, module.ResNet34 = module.ResNet34, frozen
    module.main()
"""


def write_csvs(folder):
    sample = ROOT / "datasets" / "sample" / "afad"
    for name, rows in (("train", 9), ("test", 7)):
        lines = (sample / f"{name}.csv").read_text().splitlines()[: rows + 1]
        lines[2] = lines[2].rsplit(",", 1)[0] + ","
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def data(tmp_path):
    """A folder with two CSVs; its large files go at the end."""
    write_csvs(tmp_path)
    yield tmp_path
    shutil.rmtree(tmp_path)


def options_for(data, out):
    csvs = [f"--{name}_csv={data / name}.csv" for name in ("train", "test")]
    images = ROOT / "datasets" / "sample" / "afad" / "images"
    tiny = ["--seed=1", "--batch_size=4", "--log_every=1"]
    return [f"--outpath={data / out}", *csvs, f"--image_path={images}", *tiny]


def worker(process, rank):
    """The process id of torchrun's child with this RANK."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = status.read_text().rsplit(")", 1)[1].split()[1]
            variables = (status.parent / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if parent == str(process.pid) and f"RANK={rank}".encode() in variables:
            return int(status.parent.name)


def kill_all(process):
    """kill -9 of torchrun and its children, which are no process group."""
    everyone = [worker(process, rank) for rank in (0, 1)] + [process.pid]
    for number in filter(None, everyone):
        os.kill(number, signal.SIGKILL)


def complete(process):
    """Exit code and stderr; what hangs is killed, and the test fails."""
    try:
        _, err = process.communicate(timeout=PATIENCE)
        return process.returncode, err
    finally:
        if process.poll() is None:
            kill_all(process)


def wait_for(process, reached):
    deadline = time.time() + PATIENCE
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.time() < deadline
        time.sleep(0.002)


def evaluated_in_one_process(module, out, arguments, rng):
    """The line of MAE and RMSE that model.pt gives."""
    args = module.parse_settings(arguments)
    model = module.ResNet34(args.gender)
    model.load_state_dict(torch.load(out / "model.pt", weights_only=True))
    splits = {"train": args.train_csv, "test": args.test_csv}
    splits = {n: module.read_split(c, args) for n, c in splits.items()}
    module.load_pixels(splits, args)
    torch.set_rng_state(rng)
    line = "MAE/RMSE:"
    for name, split in splits.items():
        device = torch.device("cpu")
        probas, male = module.evaluate(model, split, args, device, name == "train")
        scores = module.score(split, probas, male)
        line += f" | {name.title()}: {scores['mae']:.2f}/{scores['rmse']:.2f}"
    return line


def on_one_host(*words):
    """The words by two processes."""
    return [begin(*TORCHRUN, *words)]


def ip(*words, check=True):
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


def lose(host):
    """kill -9 of all that runs there."""
    for number in ip("netns", "pids", host, check=False).stdout.split():
        os.kill(int(number), signal.SIGKILL)


@pytest.fixture
def hosts():
    """The names of two hosts that share a disk, and have nothing else in common."""
    names = [f"coral{os.getpid()}{letter}" for letter in "ab"]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip(*f"-n {names[0]} link add eth0 type veth peer name eth0 netns {names[1]}".split())
            for number, name in enumerate(names, 1):
                ip("-n", name, "address", "add", f"10.98.0.{number}/24", "dev", "eth0")
                ip("-n", name, "link", "set", "lo", "up")
                ip("-n", name, "link", "set", "eth0", "up")
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no network namespaces here")
        yield names
    finally:
        for name in names:
            if Path("/run/netns", name).exists():
                lose(name)
                ip("netns", "delete", name)


def on_two_hosts(hosts, *words):
    """The words by a process on each host."""
    torchrun = [*TORCHRUN[:3], "--nnodes=2", "--nproc_per_node=1", "--master_addr=10.98.0.1"]
    processes = []
    for rank, name in enumerate(hosts):
        command = shlex.join(map(str, [*torchrun, f"--node_rank={rank}", *words]))
        there = f"hostname {name} && GLOO_SOCKET_IFNAME=eth0 exec {command}"
        processes.append(begin(*f"ip netns exec {name} unshare --uts sh -c".split(), there))
    return processes


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_equal_one(count, data, request):
    """On one host, or ``count`` hosts. Gradients, also those of a last batch of one image, of which
    one process has none; weights on both; costs; and the final numbers. Some genders are
    unknown."""
    options = ["--image_size=33", "--epochs=1", "--lr=1e-12", "--gender=1", "--imp_weight=1"]
    for name in ("one", "two"):
        driver = FROZEN.format(tests=str(ROOT / "tests"), script=str(SCRIPT))
        (data / f"{name}.py").write_text(driver)
        arguments = [*options_for(data, f"run-{name}"), *options]
        words = [data / f"{name}.py", *arguments]
        if name == "one":
            processes = [begin(sys.executable, *words)]
        elif count == 1:
            processes = on_one_host(*words)
        else:
            processes = on_two_hosts(request.getfixturevalue("hosts"), *words)
        for process in processes:
            code, err = complete(process)
            assert code == 0, err
    one, first, second = (torch.load(data / f"{name}.pt") for name in ("one-0", "two-0", "two-1"))
    assert len(one["steps"]) == len(first["steps"]) == 3
    for step, mine, other in zip(one["steps"], first["steps"], second["steps"], strict=True):
        assert torch.equal(mine, other)
        assert (mine - step).norm() <= 1e-12 * step.norm()
    for name, tensor in first["weights"].items():
        assert torch.equal(tensor, second["weights"][name]), name
    assert costs(data / "run-two") == costs(data / "run-one")
    module = load(SCRIPT)
    log = (data / "run-two" / "training.log").read_text().splitlines()
    with in_double(module):
        line = evaluated_in_one_process(module, data / "run-two", arguments, first["rng"])
    assert line in log
    facts = [json.loads((data / f"run-{n}" / "run.json").read_text()) for n in ("one", "two")]
    assert [fact["processes"] for fact in facts] == [1, 2]
    assert facts[0]["metrics"] == pytest.approx(facts[1]["metrics"], rel=1e-12)


ONE_EPOCH = ["--image_size=33", "--epochs=1"]


@pytest.fixture(scope="module")
def by_torchrun(tmp_path_factory):
    """The numbers of a run of two processes that torchrun has started."""
    folder = tmp_path_factory.mktemp("torchrun")
    write_csvs(folder)
    code, err = complete(begin(*TORCHRUN, SCRIPT, *options_for(folder, "run"), *ONE_EPOCH))
    assert code == 0, err
    found = numbers(folder / "run")
    shutil.rmtree(folder)
    return found


def test_processes_of_two_shells(data, by_torchrun):
    """Started without torchrun, each by a shell of its own, as srun does: other parents, the same
    numbers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, SCRIPT, *options_for(data, "shells"), *ONE_EPOCH]
    command = shlex.join(map(str, words))
    where = f"export WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT={port}"
    # with a second command the shell stays the parent
    shells = [
        begin("bash", "-c", f"{where} RANK={rank} LOCAL_RANK={rank}; {command}; exit $?")
        for rank in (0, 1)
    ]
    for shell in shells:
        code, err = complete(shell)
        assert code == 0, err
    assert numbers(data / "shells") == by_torchrun


def test_processes_of_srun(data, by_torchrun):
    """Two tasks of a step on one node, by Slurm's variables alone: torchrun's numbers."""
    where = {"STEP_NUM_TASKS": 2, "STEP_TASKS_PER_NODE": 2, "STEP_NODELIST": "localhost"}
    where |= {"JOB_ID": os.getpid(), "STEP_ID": 0, "NODEID": 0}
    where = [f"SLURM_{name}={value}" for name, value in where.items()]
    command = [sys.executable, SCRIPT, *options_for(data, "srun"), *ONE_EPOCH]
    tasks = [
        begin("env", *where, f"SLURM_PROCID={i}", f"SLURM_LOCALID={i}", *command) for i in (0, 1)
    ]
    for task in tasks:
        code, err = complete(task)
        assert code == 0, err
    assert numbers(data / "srun") == by_torchrun


def test_what_srun_tells():
    """Lists of hosts and tasks as Slurm writes them; nothing where torchrun has spoken, or where a
    batch script, or a step of one task, runs the script."""
    step = {"SLURM_STEP_NUM_TASKS": "11", "SLURM_STEP_TASKS_PER_NODE": "4(x2),3"}
    step |= {"SLURM_JOB_ID": "4123456", "SLURM_STEP_ID": "2", "SLURM_NODEID": "2"}
    step |= {"SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_NTASKS": "11"}
    from_srun = load(SCRIPT).from_srun
    for nodes, first in {
        "node[1-3,7]": "node1",
        "gpu[07,09],node1": "gpu07",
        "rack[1-2]n[3-4]": "rack1n3",
        "a-1.example.org,b": "a-1.example.org",
    }.items():
        assert from_srun(step | {"SLURM_STEP_NODELIST": nodes}) == {
            "RANK": "9",
            "LOCAL_RANK": "1",
            "WORLD_SIZE": "11",
            "LOCAL_WORLD_SIZE": "3",
            "MASTER_ADDR": first,
            "MASTER_PORT": "13458",
        }
    mine = {"SLURM_STEP_NODELIST": "n1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1"}
    assert from_srun(step | mine).keys() == {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"}
    batch = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}
    for given in ({}, batch, batch | {"SLURM_STEP_NUM_TASKS": "1"}, step | {"RANK": "0"}):
        assert from_srun(given) == {}


# size 64 leaves a 2x2 map: batch norm needs more than one value, also where a process has one image
BATCH_NORM = ["--image_size=64", "--epochs=2", "--checkpoint_minutes=0"]


LOST = (
    r"^afad-coral.py: error: process {} has lost another one \(.*\); "
    "start them all again, with --resume$"
)


def kill_a_rank(data, rank):
    arguments = [*options_for(data, "killed"), *BATCH_NORM]
    process = begin(*TORCHRUN, SCRIPT, *arguments)
    wait_for(process, lambda: len(costs(data / "killed")) >= 2)
    os.kill(worker(process, rank), signal.SIGKILL)
    code, err = complete(process)
    assert code != 0
    assert "Signal 9 (SIGKILL)" in err  # torchrun's report
    if rank:
        assert re.search(LOST.format(0), err, re.M)


def test_a_killed_rank(data):
    """The run ends, with a message, and the run folder can be gone on with."""
    kill_a_rank(data, 1)
    facts = json.loads((data / "killed" / "run.json").read_text())
    checkpoint = torch.load(data / "killed" / "checkpoint.pt", weights_only=True)
    assert facts["status"] == "running" and checkpoint["progress"]["batch"] >= 1


def numbers(out):
    with open(out / "history.csv") as file:
        history = [(row["epoch"], row["cost"]) for row in csv.DictReader(file)]
    files = [
        (out / n).read_bytes() for n in ("model.pt", "test_probas.npy", "test_predictions.csv")
    ]
    metrics = json.loads((out / "run.json").read_text())["metrics"]
    return costs(out), history, metrics, sorted(path.name for path in out.iterdir()), files


def go_on(out, expected, *words):
    """Run ``words``, which go on with the run in ``out``; it ends with the numbers ``expected``."""
    code, err = complete(begin(*TORCHRUN, *words))
    assert code == 0, err
    assert numbers(out) == expected
    shutil.rmtree(out)


@pytest.mark.slow
def test_resume(data, capsys):
    """After kill -9 of all processes, of one of either rank, and after SIGTERM, a run of two ends
    as the uninterrupted one does, byte for byte."""
    code, err = complete(begin(*TORCHRUN, SCRIPT, *options_for(data, "whole"), *BATCH_NORM))
    assert code == 0, err
    out, expected = data / "killed", numbers(data / "whole")
    arguments = [*options_for(data, "killed"), *BATCH_NORM]
    process = begin(*TORCHRUN, SCRIPT, *arguments)
    wait_for(process, lambda: len(costs(out)) >= 4)
    kill_all(process)
    complete(process)
    # one process is no substitute for two: its batch norm would see whole batches
    with pytest.raises(SystemExit) as stop:
        load(SCRIPT).main([*arguments, "--resume"])
    assert stop.value.code == 2
    assert "number of processes was 2, is 1" in capsys.readouterr().err
    go_on(out, expected, SCRIPT, *arguments, "--resume")

    for rank in (0, 1):
        kill_a_rank(data, rank)
        go_on(out, expected, SCRIPT, *arguments, "--resume")

    process = begin(*TORCHRUN, SCRIPT, *arguments)
    wait_for(process, lambda: len(costs(out)) >= 2)
    process.terminate()
    code, err = complete(process)
    assert code != 0
    [words] = re.findall(r"^afad-coral.py: error: stopped by SIGTERM; go on with: (.*)", err, re.M)
    words = shlex.split(words)
    assert words[:2] == ["torchrun", "--nproc_per_node=2"]
    assert words[2:] == [str(SCRIPT), "--outpath", str(out), "--resume"]
    go_on(out, expected, *words[2:])


@pytest.mark.slow
def test_kill_at_twenty_moments(data, capsys):
    """Of both processes, spread over the time that a run takes; 20 of 20 must be identical."""
    begun = time.time()
    code, err = complete(begin(*TORCHRUN, SCRIPT, *options_for(data, "whole"), *BATCH_NORM))
    took = time.time() - begun
    assert code == 0, err
    out, expected = data / "killed", numbers(data / "whole")
    arguments = [*options_for(data, "killed"), *BATCH_NORM]
    for number in range(1, 21):
        process = begin(*TORCHRUN, SCRIPT, *arguments)
        time.sleep(took * number / 21)
        kill_all(process)
        complete(process)
        held = sorted(path.name for path in out.iterdir()) if out.exists() else []
        with capsys.disabled():
            print(f"\n{number:2d} held: {', '.join(held) or 'nothing'}", end="")
        go_on(out, expected, SCRIPT, *arguments, "--resume")


@pytest.mark.slow
def test_final_numbers_with_batch_norm(data):
    """Evaluation takes the running statistics of the process that saves them."""
    arguments = [*options_for(data, "run"), *BATCH_NORM]
    code, err = complete(begin(*TORCHRUN, SCRIPT, *arguments))
    assert code == 0, err
    module = load(SCRIPT)
    torch.manual_seed(1)
    module.ResNet34()
    for _ in range(4):  # two passes, each with a seed for streams and one for the order
        module.draw_seed()
    log = (data / "run" / "training.log").read_text().splitlines()
    assert evaluated_in_one_process(module, data / "run", arguments, torch.get_rng_state()) in log


# The script, with another number of minutes of silence, and images that process 0 decodes one by
# one, in a tenth of a second each, if they are to be slow.
HASTY = """
import os
import sys
import time

sys.path.insert(0, {tests!r})
from conftest import load

module = load({script!r})
module.SILENCE = {minutes}
prepare = module.prepare_image

def slow(*args):
    time.sleep(0.1)
    return prepare(*args)

if {slow} and module.RANK == 0:
    os.cpu_count, module.prepare_image = lambda: 1, slow
module.main()
"""


def hasty(data, minutes, slow=False):
    """The path of that script."""
    path = data / "hasty.py"
    code = {"tests": str(ROOT / "tests"), "script": str(SCRIPT), "minutes": minutes, "slow": slow}
    path.write_text(HASTY.format(**code))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("how", ["killed", "link down"])
def test_a_lost_host(how, lost, hosts, data):
    """The other host ends with a line, at once or, where the link is silent, after SILENCE; on two
    hosts or on one the run goes on to the numbers of one that was never stopped."""
    for process in on_one_host(SCRIPT, *options_for(data, "whole"), *BATCH_NORM):
        code, err = complete(process)
        assert code == 0, err
    out, expected = data / "lost", numbers(data / "whole")
    words = [hasty(data, 0.5), *options_for(data, "lost"), *BATCH_NORM]
    processes = on_two_hosts(hosts, *words)
    wait_for(processes[0], lambda: len(costs(out)) >= 4)
    if how == "killed":
        lose(hosts[lost])
    else:
        ip("-n", hosts[lost], "link", "set", "eth0", "down")
    for rank, process in enumerate(processes):
        code, err = complete(process)
        if how == "killed" and rank == lost:
            assert code == -signal.SIGKILL
            continue
        [line] = re.findall(LOST.format(rank), err, re.M)
        assert code == 1 and ("Timed out waiting 30000ms" in line) == (how == "link down")
        assert err.count("Traceback") == 1 and "ChildFailedError" in err  # torchrun's report
    checkpoint = torch.load(out / "checkpoint.pt", weights_only=True)
    assert 3 <= checkpoint["progress"]["epoch"] * 3 + checkpoint["progress"]["batch"] < 6
    shutil.copytree(out, data / "stopped")
    if how == "link down":
        ip("-n", hosts[lost], "link", "set", "eth0", "up")
    for again in (on_one_host, lambda *words: on_two_hosts(hosts, *words)):
        shutil.rmtree(out)
        shutil.copytree(data / "stopped", out)
        for process in again(SCRIPT, *words[1:], "--resume"):
            code, err = complete(process)
            assert code == 0, err
        assert numbers(out) == expected


@pytest.mark.slow
def test_decoding_is_no_silence(hosts, data):
    """Where one host decodes for longer than SILENCE, 31 of 18 seconds, the other one waits."""
    sample = ROOT / "datasets" / "sample" / "afad" / "train.csv"
    (data / "train.csv").write_text("".join(sample.read_text().splitlines(keepends=True)[:301]))
    words = [*options_for(data, "run"), "--image_size=33", "--epochs=1", "--batch_size=100"]
    script = hasty(data, 0.3, slow=True)
    for process in on_two_hosts(hosts, script, *words):
        code, err = complete(process)
        assert code == 0, err
