"""The package coral_age: what it asks of a training script, and what pip makes of the project."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest
from conftest import MODEL_CODE, ROOT, SCRIPTS, load
from PIL import Image

PYPROJECT = (ROOT / "pyproject.toml").read_text()
COMMANDS = "predict", "page", "export", "summarize", "average", "calibrate", "predict_ray"

# All that the package and its commands use of a training script.
USED = {
    *("DATASET", "LOSS", "YOUNGEST_AGE", "NUM_CLASSES", "NUM_PROBAS", "AGE_IN_NAME"),
    *("CENTER_CROP", "UPRIGHT", "NORMALISATION", "ResNet34", "__file__"),
    *("prepare_image", "central_crop", "to_device", "predict_batch", "predict_labels"),
    # average.py evaluates a mean as the script does, export.py reads photos as it does
    *("RUN_FILES", "parse_settings", "read_split", "load_pixels", "locked", "describe"),
    "ends_of",
    *("begin_run_folder", "evaluate_all", "save_model", "log", "write_facts"),
    *("age_scores", "write_file"),  # calibrate.py, which writes a run's files, and its figures
}


def test_what_is_used_of_a_training_script():
    """Attributes of ``script`` and ``module``, which are training scripts wherever they stand."""
    files = [*MODEL_CODE.glob("coral_age/*.py"), *(MODEL_CODE / f"{name}.py" for name in COMMANDS)]
    used = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                owner = getattr(node.value, "id", getattr(node.value, "attr", None))
                used |= {node.attr} if owner in ("script", "module") else set()
    assert used == USED
    for script in SCRIPTS:
        assert USED <= vars(load(script)).keys(), script


def test_importing_it_is_quick():
    """No torch, no pandas, before something is asked for; an unknown name is told."""
    code = "import sys, coral_age; print({'torch', 'pandas', 'numpy'} & set(sys.modules))\n"
    code += "print(sorted(coral_age.__all__), coral_age.load.__module__)\n"
    code += "try: coral_age.nothing\nexcept AttributeError as error: print(error)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=MODEL_CODE
    )
    assert done.stdout.splitlines() == [
        "set()",
        "['InputError', 'NOTE', 'faces', 'load', 'video'] coral_age.runs",
        "module 'coral_age' has no attribute 'nothing'",
    ]


def test_dependencies_are_the_requirements():
    names = "requirements.txt", "requirements-extras.txt"
    lines = [line for name in names for line in (ROOT / name).read_text().splitlines()]
    required = {line for line in lines if not line.startswith("#")}
    listed = ast.literal_eval(re.search(r"(?m)^dependencies = (\[.*?^\])", PYPROJECT, re.S)[1])
    left = {line.split(">")[0] for line in required - set(listed)}
    assert left == {"dlib-bin", "face-recognition-models"} and set(listed) <= required


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of what the wheel is made of, without what was built here."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    left = shutil.ignore_patterns("__pycache__", "results")
    shutil.copytree(MODEL_CODE, folder / "model-code", ignore=left)
    yield folder
    shutil.rmtree(folder)


def install(what, folder):
    """A new environment in ``folder`` with ``what`` and with the packages of this one."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    [own] = folder.glob("lib/*/site-packages")
    (own / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", what], check=True)
    return own


CODE = """
import json, sys
import coral_age
model = coral_age.load()
faces = coral_age.faces(model, "photo.png")
json.dump([coral_age.__file__, model.weights, faces], sys.stdout)
"""


def used_outside(environment, own, tmp_path):
    """The package in ``own``, tried from a folder of a user's that holds modules of his own, or of
    a notebook, answers as the clone does."""
    data = pytest.importorskip("skimage.data")
    import coral_age

    place = tmp_path / "user"
    place.mkdir()
    for name in ("detect", "media", "labels", "predict", "files"):
        (place / f"{name}.py").write_text("raise SystemExit('a module of the user')\n")
    Image.fromarray(data.astronaut()).save(place / "photo.png")
    outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def call(*words, **more):
        words = [environment / "bin" / words[0], *words[1:]]
        return subprocess.run(
            words, cwd=place, capture_output=True, text=True, env={**outside, **more}
        )

    [face] = coral_age.faces(coral_age.load(), place / "photo.png")
    done = call("python", "-c", CODE)
    assert done.returncode == 0, done.stderr
    where, weights, [found] = json.loads(done.stdout)
    assert all(path.startswith(str(own / "coral_age")) for path in (where, weights))
    assert found == face | {"source": "photo.png"}
    done = call("coral-age", "predict", "photo.png", "--out", "told", PYTHONSAFEPATH="1")
    assert done.returncode == 0 and f"  {face['age']}  " in done.stdout, done.stderr
    told = sorted(path.name for path in (place / "told").iterdir())
    assert told == ["photo.jpg", "predictions.csv", "predictions.json"]

    run = next((MODEL_CODE / "results" / "20-minutes").iterdir())
    backend = "module://matplotlib_inline.backend_inline"
    done = call("coral-age", "summarize", run, "--out", "report", MPLBACKEND=backend)
    assert (done.returncode, done.stdout) == (0, "Report: report/index.html\n"), done.stderr
    for words in ([], ["nonsense"]):
        done = call("coral-age", *words)
        assert done.returncode == 2 and done.stderr.startswith("coral-age: error: give a command: ")
        assert done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="environments look otherwise there")
def test_a_wheel_outside_the_clone(project, tmp_path):
    """Built by pip from the folder, with the model, the page and the scripts in it."""
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*wheel, "--wheel-dir", tmp_path, project], check=True)
    [file] = tmp_path.glob("*.whl")
    assert 30e6 < file.stat().st_size < 45e6
    own = install(file, tmp_path / "environment")
    inside = own / "coral_age" / "model_code"
    assert {path.name for path in SCRIPTS} <= {path.name for path in inside.iterdir()}
    assert (inside / "page" / "index.html").exists()
    names = {path.name for path in (inside / "pretrained").iterdir()}
    assert names == {"README.md", "model.pt", "run.json"}
    assert not any((own / f"{name}.py").exists() for name in ("detect", "media", "labels"))
    used_outside(tmp_path / "environment", own, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_from_a_repository(project, tmp_path):
    """pip install git+file://..., as from a server."""
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run(["git", *who, *words], cwd=project, check=True)
    own = install(f"git+file://{project}", tmp_path / "environment")
    used_outside(tmp_path / "environment", own, tmp_path)
    for name in COMMANDS:
        command = [
            tmp_path / "environment" / "bin" / "coral-age",
            name.removeprefix("predict_"),
            "--no-such-option",
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2 and f"{name}.py: error: " in done.stderr
