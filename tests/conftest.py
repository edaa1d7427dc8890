"""Helpers that several test files use."""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL_CODE = ROOT / "model-code"
sys.path.insert(0, str(MODEL_CODE))  # the tools import modules that lie beside them
from cells import LOSSES  # noqa: E402

NAME = rf"[a-z0-9]+-({'|'.join(LOSSES)})(-[a-z0-9]+)?"
SCRIPTS = [path for path in sorted(MODEL_CODE.glob("*.py")) if re.fullmatch(NAME, path.stem)]
PAPER = [  # the paper's twelve among them
    MODEL_CODE / f"{dataset}-{loss}.py"
    for dataset in ("afad", "cacd", "morph2", "utk")
    for loss in ("ce", "coral", "ordinal")
]

# the tests run side by side (pyproject.toml), each on one core, and what they start as well
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a shell that starts the tests in the background has SIGINT ignored, in all they start as well
signal.signal(signal.SIGINT, signal.default_int_handler)


def load(path):
    """The module in the file ``path``, imported by path (file names here hold hyphens)."""
    spec = importlib.util.spec_from_file_location(Path(path).stem.replace("-", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sample(module):
    """The drawn sample of the script's data set, whatever its own paths say."""
    return ROOT / "datasets" / "sample" / module.DATASET


def read_split(module, csv, images, gender=0):
    """The script's rows of ``csv``, whose images lie in ``images``."""
    options = [f"--image_path={images}", f"--gender={gender}", "--outpath=unused"]
    return module.read_split(csv, module.parse_settings(options))


def first_rows(dataset, folder, **rows):
    """CSVs of the sample's first rows, train=9 say, in ``folder``: the options that name them."""
    sample = ROOT / "datasets" / "sample" / dataset
    for name, count in rows.items():
        lines = (sample / f"{name}.csv").read_text().splitlines(keepends=True)
        (folder / f"{name}.csv").write_text("".join(lines[: count + 1]))
    csvs = [f"--{name}_csv={folder / name}.csv" for name in rows]
    return [*csvs, f"--image_path={sample / 'images'}"]


def plain_dataset(module, csv, folder, crop):
    """The rows of ``csv`` for a torch DataLoader, as plain.py would have them with the data set of
    the script ``module``; ``crop`` is torchvision's RandomCrop or CenterCrop."""
    from plain import FaceDataset, make_transform
    from torchvision import transforms

    first = [transforms.CenterCrop(140)] if module.DATASET == "morph2" else []
    transform = transforms.Compose([*first, make_transform(crop)])
    return FaceDataset(csv, folder, transform, module.FILE_COLUMN)


def run(script, *args, cwd=None, **env):
    """``python script args`` as a user would start it; CompletedProcess with text output."""
    return subprocess.run(
        [sys.executable, str(script), *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **env},
    )


def refused(tool, capsys, *words, begins=""):
    """The one line on stderr of a call of the module ``tool`` that must end with exit code 2."""
    import pytest  # which benchmark.py does without

    with pytest.raises(SystemExit) as end:
        tool.main([str(word) for word in words])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(begins) and ": error: " in message and message.count("\n") == 1
    return message


@contextlib.contextmanager
def disk(folder, size):
    """A file system of ``size``, 400m say, in the new ``folder``; only root has such. A function
    that gives it another size."""
    import pytest

    def mount(what, *where):
        command = ["mount", "-t", "tmpfs", "-o", what, *where, str(folder)]
        return subprocess.run(command, capture_output=True).returncode

    folder.mkdir(parents=True)
    if sys.platform != "linux" or mount(f"size={size}", "none"):
        pytest.skip("no mounts here")
    try:
        yield lambda size: mount(f"remount,size={size}")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


PATIENCE = 600  # seconds until a test gives up on a process: what hangs fails


def begin(*command):
    """The command in a process of its own, on one core."""
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def costs(out):
    """The cost lines of the log in a run folder, or none yet."""
    log = out / "training.log"
    return re.findall("^Epoch: .*", log.read_text(), re.M) if log.exists() else []


def chromium():
    """The path of a browser, or None."""
    names = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    return next(filter(None, names), None)


LOOK = """() => ({
  wide: document.documentElement.scrollWidth - innerWidth,
  letters: Math.min(...[...document.querySelectorAll("svg text")].map(
    (text) => text.getBoundingClientRect().height)),
  ink: getComputedStyle(document.querySelector("svg text")).fill,
  pictures: Math.min(...[...document.querySelectorAll("svg")].map((svg) => svg.clientWidth)),
  tables: Math.max(...[...document.querySelectorAll("table")].map((table) => new Set(
    [...table.rows].map((row) => [...row.cells].reduce((n, c) => n + c.colSpan, 0))).size),
  )})"""


def looks_of(page, width, theme):
    """What a browser tells of the file ``page`` in a window so wide, in a light or dark theme: by
    how much it is wider than the window, the height of the smallest letters in its pictures and
    their colour, the width of the smallest picture (pixels), and the most different numbers of
    cells in the rows of a table."""
    import pytest

    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        flags = ["--disable-gpu", "--disable-quic"]
        browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
        window = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=theme)
        window.goto(Path(page).as_uri(), timeout=1000 * PATIENCE)
        found = window.evaluate(LOOK)
        browser.close()
    return found
