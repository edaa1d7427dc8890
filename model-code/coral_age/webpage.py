"""The folder of a page that looks at pictures in the browser: any static host can serve it."""

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import onnx

from coral_age import detect
from coral_age.errors import InputError
from coral_age.files import MODEL_CODE

ORT = "onnxruntime-web@1.30.0"  # of npm; MIT licence
WASM = "ort-wasm-simd-threaded"
RUNTIME = "ort.wasm.bundle.min.mjs", f"{WASM}.wasm"
PAGE = MODEL_CODE / "page"
SCRIPTS = "index.html", "page.css", "page.js", "engine.js", "faces.js", "pixels.js", "tracks.js"
BITS = 12  # of a weight: with 8 one age in 12 is another one, with 10 one of 300, with 12 none
TOLERANCE = 0.005  # between the probabilities of torch and those of the weights in BITS bits


def write_page(out, graph, facts, package=None):
    """Fill the new folder ``out``: ``graph`` is the ONNX model of export.build(), whose large
    weights are told in BITS bits; ``facts`` what about.json says of it; ``package`` the folder of
    ORT, which npm brings if there is none."""
    with tempfile.TemporaryDirectory() as folder:
        package = package or fetch(folder)
        for name in RUNTIME:
            content = (package / "dist" / name).read_bytes()
            if name.endswith(".wasm"):
                name, content = f"{name}.gz", gzip.compress(content, mtime=0)
            (out / name).write_bytes(content)
        shutil.copy(package / "package.json", out / "onnxruntime-web.json")  # names its licence
    for name in SCRIPTS:
        shutil.copy(PAGE / name, out / name)
    onnx.save(detect.network(), out / "detector.onnx")
    high, low = split_weights(graph)
    (out / "network.onnx").write_bytes(graph.SerializeToString())
    (out / "network.high").write_bytes(high)
    (out / "network.low").write_bytes(low)
    files = [f"{WASM}.wasm.gz", "detector.onnx", "network.onnx", "network.high", "network.low"]
    facts |= {"files": files, "bytes": sum((out / name).stat().st_size for name in files)}
    facts["precache"] = [*SCRIPTS, RUNTIME[0], "about.json", *files]
    (out / "about.json").write_text(json.dumps(facts))
    digest = hashlib.sha256(b"".join((out / name).read_bytes() for name in facts["precache"]))
    text = (PAGE / "sw.js").read_text().replace('"none"', json.dumps(digest.hexdigest()[:16]))
    (out / "sw.js").write_text(text)


def as_one_file(folder):
    """The text of a page that holds all files of the ``folder``, of write_page(), and may load
    nothing else, so that it opens from a disk, too."""
    facts = json.loads((folder / "about.json").read_text())
    text, script = (folder / "index.html").read_text(), (folder / "page.js").read_text()
    inside = f'<script type="application/json" id="about">{json.dumps(facts)}</script>\n'
    files = {name: (folder / name).read_bytes() for name in facts["files"]}
    for name, content in {"engine.js": bundle(folder).encode(), **files}.items():
        content = base64.b64encode(content).decode()
        inside += f'<script type="text/plain" data-file="{name}">{content}</script>\n'
    policy = (
        "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval'; worker-src blob:; "
        "connect-src data:; style-src 'unsafe-inline'; img-src blob: data:; media-src blob:"
    )
    text = re.sub('default-src [^"]*', policy, text, count=1)
    style = f"<style>\n{(folder / 'page.css').read_text()}</style>"
    text = text.replace('<link rel="stylesheet" href="page.css">', style)
    text = text.replace('<script type="module" src="page.js"></script>\n', "")
    return f'{text}{inside}<script type="module">\n{script}</script>\n'


def bundle(folder):
    """engine.js with what it imports in front of it, as a script that is no module: such may not
    come from a page on a disk."""
    runtime = (folder / RUNTIME[0]).read_text().replace("import.meta.url", "self.location.href")
    runtime, names, _ = re.split(r"export\s*\{([^}]*)\};?\s*(?=//|$)", runtime, maxsplit=1)
    pairs = [pair.split(" as ") for pair in names.split(",")]
    made = runtime + "\nconst ort = {" + ", ".join(f"{b}: {a}" for a, b in pairs) + "}\n"
    for name in ("pixels", "faces", "tracks", "engine"):
        text = (folder / f"{name}.js").read_text()
        told = re.findall(r"(?m)^export (?:async )?(?:function|const) (\w+)", text)
        text = re.sub(r"(?m)^import \* as ort from .*\n", "", text)
        text = re.sub(r'(?m)^import (\{[^}]*\}) from "\./(\w+)\.js"', r"const \1 = \2_js", text)
        text = re.sub(r"(?m)^export ", "", text)
        made += f"const {name}_js = (() => {{\n{text}\nreturn {{{', '.join(told)}}}\n}})()\n"
    return made


def fetch(folder):
    """The folder of the npm package ORT."""
    try:
        done = subprocess.run(["npm", "pack", ORT], cwd=folder, capture_output=True, text=True)
    except OSError:
        message = f"npm is not installed; give --ort FOLDER, that of its package {ORT}, unpacked"
        raise InputError(f"--page: {message}") from None
    if done.returncode:
        raise InputError(f"--page: npm pack {ORT} failed: {' '.join(done.stderr.split())[-200:]}")
    [archive] = Path(folder).glob("*.tgz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return Path(folder, "package")


def split_weights(graph):
    """Take the float32 weights of the convolutions out of ``graph``: the upper 8 bits of each, and
    the lower 4, two in a byte, become bytes of their own, which it names as external data."""
    high, low, kept, nodes = bytearray(), bytearray(), [], []
    large = {node.input[1] for node in graph.graph.node if node.op_type == "Conv"}

    def constant(name, values):
        kept.append(onnx.numpy_helper.from_array(values, name))

    def external(name, values, into, place):
        tensor = onnx.numpy_helper.from_array(values, name)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in ("location", place), ("offset", len(into)), ("length", values.nbytes):
            tensor.external_data.add(key=key, value=str(value))
        into += values.tobytes()
        kept.append(tensor)

    constant("sixteen", np.float32([16]))
    constant("eight", np.float32([8]))
    for tensor in graph.graph.initializer:
        if tensor.name not in large:
            kept.append(tensor)
            continue
        name, weight = tensor.name, onnx.numpy_helper.to_array(tensor)
        limit = 2 ** (BITS - 1) - 9  # so that the upper bits fit
        scale = np.abs(weight).max((1, 2, 3), keepdims=True) / limit
        whole = np.rint(weight / np.maximum(scale, 1e-30)).astype(np.int32)
        upper = (whole + 8) >> 4
        rest = (whole - 16 * upper + 8).astype(np.uint8).ravel()  # 0 to 15
        half = len(rest) // 2  # all of these layers have an even number
        external(f"{name}-high", upper.astype(np.int8), high, "network.high")
        external(f"{name}-low", rest[:half] | rest[half:] << 4, low, "network.low")
        constant(f"{name}-scale", scale.astype(np.float32))
        constant(f"{name}-shape", np.int64(weight.shape))
        f = onnx.TensorProto.FLOAT
        make = onnx.helper.make_node
        nodes += [
            make("Cast", [f"{name}-low"], [f"{name}-a"], to=f),
            make("Mod", [f"{name}-a", "sixteen"], [f"{name}-b"], fmod=1),
            make("Sub", [f"{name}-a", f"{name}-b"], [f"{name}-c"]),
            make("Div", [f"{name}-c", "sixteen"], [f"{name}-d"]),
            make("Concat", [f"{name}-b", f"{name}-d"], [f"{name}-e"], axis=0),
            make("Sub", [f"{name}-e", "eight"], [f"{name}-f"]),
            make("Reshape", [f"{name}-f", f"{name}-shape"], [f"{name}-g"]),
            make("Cast", [f"{name}-high"], [f"{name}-h"], to=f),
            make("Mul", [f"{name}-h", "sixteen"], [f"{name}-i"]),
            make("Add", [f"{name}-i", f"{name}-g"], [f"{name}-j"]),
            make("Mul", [f"{name}-j", f"{name}-scale"], [name]),
        ]
    before = list(graph.graph.node)
    for field, values in (("initializer", kept), ("node", nodes + before)):
        graph.graph.ClearField(field)
        getattr(graph.graph, field).extend(values)
    return bytes(high), bytes(low)
