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
    ORT, which npm brings if there is none. network.weights is no part of the page: it lets
    ONNX Runtime open network.onnx from the folder."""
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
    parts, layers = split_weights(graph)
    (out / "network.onnx").write_bytes(graph.SerializeToString())
    for name, content in parts.items():
        (out / name).write_bytes(content)
    files = [f"{WASM}.wasm.gz", "detector.onnx", "network.onnx", *list(parts)[:3]]
    facts |= {"files": files, "bytes": sum((out / name).stat().st_size for name in files)}
    facts["layers"] = layers
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
    """Take the float32 weights of the convolutions out of ``graph``, which then names them as
    external data: network.weights, which a page makes of the other files. The files' contents by
    their names, and [channels, weights of each] of each convolution.

    A weight is its channel's scale times a whole number of BITS bits: its upper 8 bits are in
    network.high, its lower 4, two in a byte, in network.low."""
    high, low, scales, weights, layers, offset = [], [], [], [], [], 0
    large = {node.input[1] for node in graph.graph.node if node.op_type == "Conv"}
    for tensor in graph.graph.initializer:
        if tensor.name not in large:
            continue
        weight = onnx.numpy_helper.to_array(tensor)
        weight = weight.reshape(len(weight), -1)
        limit = 2 ** (BITS - 1) - 9  # so that the upper bits fit
        scale = np.abs(weight).max(1, keepdims=True) / np.float32(limit)
        whole = np.rint(weight / np.maximum(scale, 1e-30)).astype(np.int32)
        upper = (whole + 8) >> 4
        high.append(upper.astype(np.int8).ravel())
        low.append((whole - 16 * upper + 8).astype(np.uint8).ravel())  # 0 to 15
        scales.append(scale.ravel())
        weights.append((whole * scale.astype(np.float64)).astype(np.float32).ravel())
        layers.append(weight.shape)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        place = {"location": "network.weights", "offset": offset, "length": weight.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        offset += weight.nbytes
    nibbles = np.concatenate([*low, np.zeros(sum(map(len, low)) % 2, np.uint8)])
    files = {
        "network.high": np.concatenate(high),
        "network.low": nibbles[::2] | nibbles[1::2] << 4,
        "network.scales": np.concatenate(scales),
        "network.weights": np.concatenate(weights),
    }
    return {name: values.tobytes() for name, values in files.items()}, layers
