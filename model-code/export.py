"""A run's network as an ONNX file, which gives ages without torch.

    python model-code/export.py RUN model.onnx
    python model-code/export.py RUN small.onnx --int8 1 --photos utk_test.csv --image_path UTKFace
    python model-code/export.py RUN site --page

RUN is the folder a script filled (its --outpath). Input of the file: images, uint8 (n, 3, S, S),
n >= 1. Its outputs:

    probas    float32 (n, K-1): P(y > k); of ce, dldl and sord (n, K), those of the classes
    age       int64 (n,), in years
    age_low   int64 (n,): with age_high the interval that predict.py gives
    age_high  int64 (n,)
    male      float32 (n,): P(male), if RUN was trained with --gender 1

The file gets its name when ONNX Runtime has given torch's answers with it.

With --page it is a folder instead: a page that does in the browser what predict.py does, for any
host of static files, as `python -m http.server -d site`. ONNX Runtime Web comes from npm.
"""

import argparse
import copy
import functools
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import torch
from coral_age import detect, doubts, errors
from coral_age.answers import NOTE, estimate, infer, prepare, share_due
from coral_age.errors import EXTRAS, InputError, end_as_on_ctrl_c, say
from coral_age.files import atomic_write
from coral_age.options import add_interval
from coral_age.runs import digest_of, load

try:
    import onnx
    import onnxruntime
    from coral_age import webpage
    from onnx import TensorProto, helper
except ImportError as problem:
    print(f"export.py: error: {problem.name} is not installed: {EXTRAS}", file=sys.stderr)
    raise SystemExit(2) from None

# What onnx 1.17 and onnxruntime 1.20 write and read, and older ones as well.
OPSET, IR_VERSION = 17, 8

OF_CLASSES = "ce", "dldl", "sord"  # losses whose probabilities are those of the classes
LOSSES = (*OF_CLASSES, "coral", "corn", "l1", "ordinal")
CHECKED = 256  # images whose answers are compared, and photos that int8's ranges are taken from
MOST = 2048  # photos on which the cost of small files is measured, drawn from those given
TOLERANCE = 1e-4  # between the probabilities of torch and ONNX Runtime
BATCH = 32

POINTS = "eye on the left", "eye on the right", "nose tip", "mouth corner on the left", "and right"

refuse = functools.partial(errors.refuse, program="export.py")


def parse_settings(argv):
    """The settings as an argparse namespace, checked."""
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how, allow_abbrev=False)
    parser.error = refuse
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of a finished run")
    add("out", type=Path, metavar="FILE", help="the ONNX file to write")
    add("--overwrite", action="store_true", help="replace FILE")
    add("--page", action="store_true", help="FILE is a new folder, of a page for browsers")
    add("--single", action="store_true", help="with --page: FILE is one page, with all in it")
    add("--ort", type=Path, metavar="DIR", help=f"npm's package {webpage.ORT}, where npm lacks")
    either = parser.add_mutually_exclusive_group()
    helps = {
        "fp16": "1: weights of 16 bits, half the size; computes in float32",
        "int8": "1: weights and arithmetic of 8 bits, a quarter of the size; needs --photos",
    }
    for name, text in helps.items():
        either.add_argument(f"--{name}", type=int, choices=(0, 1), default=0, help=text)
    add("--photos", type=Path, metavar="CSV", help="rows as RUN's test_csv has them, to check on")
    add("--image_path", type=Path, metavar="DIR", help="folder of the image names in that CSV")
    add_interval(parser)
    args = parser.parse_args(argv)
    if (args.photos is None) != (args.image_path is None):
        refuse("--photos and --image_path go together")
    if args.int8 and not args.photos:
        refuse("--int8 1 needs --photos and --image_path, to take the ranges of its numbers from")
    if (args.ort or args.single) and not args.page:
        refuse("--ort and --single go with --page")
    if args.page and (args.fp16 or args.int8 or args.photos or args.overwrite):
        refuse("--page takes RUN, a new FILE, --single and --ort alone")
    if args.page and args.out.exists():
        refuse(f"{args.out}: is there already; give a new name")
    if args.out.is_dir():
        refuse(f"{args.out}: is a folder; give a file")
    if args.out.exists() and not args.overwrite:
        refuse(f"{args.out}: is there already; give another name, or --overwrite")
    if not args.out.parent.is_dir():
        refuse(f"{args.out}: there is no folder {args.out.parent}")
    return args


# %% The graph
def add(graph, kind, *inputs, name=None, **attributes):
    """Add a node of this ``kind`` to ``graph``; the ``name`` of its (first) output. An input is
    such a name, or an array, which becomes part of the file."""
    names = []
    for value in inputs:
        if not isinstance(value, str):
            tensor = onnx.numpy_helper.from_array(value, f"constant{len(graph.constants)}")
            graph.constants.append(tensor)
            value = tensor.name
        names.append(value)
    name = name or f"{kind}{len(graph.nodes)}"
    outputs = [name, f"{name}-places"] if kind == "TopK" else [name]
    graph.nodes.append(helper.make_node(kind, names, outputs, name, **attributes))
    return name


def ints(*numbers):
    return np.array(numbers, np.int64)


def add_views(op, model):
    """float32 (v * n, 3, S, S): the v views of which predict_batch() takes the mean, one after the
    other, normalised where the network does so; and v."""

    views, size = ["images"], model.size

    def mirrored(images):
        return op("Gather", images, ints(*range(size)[::-1]), axis=3)

    if model.shifts:  # with flip two of the four are mirrored
        larger = op("Pad", "images", ints(0, 0, 1, 1, 0, 0, 1, 1), mode="edge")
        corners = [(y, x) for y in (0, 2) for x in (0, 2)]
        views = [
            op("Slice", larger, ints(y, x), ints(y + size, x + size), ints(2, 3))
            for y, x in corners
        ]
        views[1:3] = [mirrored(view) if model.flip else view for view in views[1:3]]
    elif model.flip:
        views.append(mirrored("images"))
    images = op("Concat", *views, axis=0) if len(views) > 1 else "images"
    images = op("Div", op("Cast", images, to=TensorProto.FLOAT), np.float32([255]))
    if model.script.NORMALISATION:
        means, deviations = np.float32(model.script.NORMALISATION)[:, :, None, None]
        images = op("Div", op("Sub", images, means), deviations)
    return images, len(views)


def add_convolution(op, images, conv, bn, kind):
    """A convolution and the batch norm after it, as one convolution with weights of this ``kind``
    (float16 or float32), which computes in float32."""
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    bias = (bn.bias - bn.running_mean * scale).numpy().astype(np.float32)
    weight = (conv.weight * scale[:, None, None, None]).numpy().astype(kind)
    if kind == np.float16:
        weight = op("Cast", weight, to=TensorProto.FLOAT)
    return op("Conv", images, weight, bias, strides=conv.stride, pads=conv.padding * 2)


def add_backbone(op, images, network, kind):
    """Features, float32 (v * n, 512): the means over the last block's map."""
    images = op("Relu", add_convolution(op, images, network.conv1, network.bn1, kind))
    images = op("MaxPool", images, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    for block in (*network.layer1, *network.layer2, *network.layer3, *network.layer4):
        shortcut = images
        if block.downsample:
            shortcut = add_convolution(op, images, *block.downsample, kind)
        images = op("Relu", add_convolution(op, images, block.conv1, block.bn1, kind))
        images = add_convolution(op, images, block.conv2, block.bn2, kind)
        images = op("Relu", op("Add", images, shortcut))
    return op("Flatten", op("GlobalAveragePool", images))


def add_outputs(op, features, network, script):
    """P(y > k), for OF_CLASSES probabilities of the classes, and P(male) or None, of each view.

    The output layers of torch see each feature four times, times 16/49 (see ResNet34.forward), so
    their weights are added up here."""
    loss = script.LOSS

    def weights(layer):
        return layer.weight.view(-1, 512, 4).sum(2) * (16 / 49)

    def linear(weight, bias):
        product = op("MatMul", features, weight.T.numpy().astype(np.float32))
        return op("Add", product, bias.numpy().astype(np.float32))

    weight = weights(network.fc)
    bias = network.linear_1_bias if loss == "coral" else network.fc.bias
    if loss == "l1":  # what the one output is above k
        bias = bias - torch.arange(script.NUM_PROBAS)
    if loss in ("coral", "l1"):  # for each bias, as OpenCV and quantizers take a sum that widens
        weight = weight.expand(len(bias), -1)
    if loss == "ordinal":  # softmax of a pair is the sigmoid of its difference
        weight, bias = weight[1::2] - weight[::2], bias[1::2] - bias[::2]
    logits = linear(weight, bias)
    if loss in OF_CLASSES:
        probas = op("Softmax", logits, axis=1)
    elif loss == "corn":  # the logarithm of a product of sigmoids
        sums = op("CumSum", op("Softplus", op("Neg", logits)), ints(1)[0])
        probas = op("Exp", op("Neg", sums))
    elif loss == "l1":
        probas = op("Clip", logits, np.float32(0), np.float32(1))
    else:
        probas = op("Sigmoid", logits)
    male = None
    if network.fc_gender:
        male = op("Sigmoid", linear(weights(network.fc_gender), network.fc_gender.bias))
    return probas, male


def add_mean(op, answers, columns, views, name):
    """float32 (n, columns): the mean over the ``views`` of ``answers``, (v * n, columns)."""
    answers = op("Reshape", answers, ints(views, -1, columns))
    return op("ReduceMean", answers, axes=[0], keepdims=0, name=name)


def parts_of_mean(script):
    """float64 (NUM_PROBAS,): by what the probabilities are multiplied in their mean."""
    count = script.NUM_PROBAS
    return np.arange(count, dtype=np.float64) if script.LOSS in OF_CLASSES else np.ones(count)


def add_ages(op, probas, model):
    """Age and interval as predict_labels() and intervals.interval() tell them from ``probas``.

    The run of classes from i to j is element (i, j) of a matrix (n, K, K)."""
    script = model.script
    count, double = script.NUM_CLASSES, op("Cast", probas, to=TensorProto.DOUBLE)
    if script.LOSS in ("ce", "sord"):
        label = op("ArgMax", probas, axis=1, keepdims=1)
    elif script.LOSS in ("dldl", "l1"):  # the mean, rounded
        mean = op("ReduceSum", op("Mul", double, parts_of_mean(script)), ints(1), keepdims=1)
        label = op("Cast", op("Round", mean), to=TensorProto.INT64)
    else:
        above = op("Cast", op("Greater", probas, np.float32([0.5])), to=TensorProto.INT64)
        label = op("ReduceSum", above, ints(1), keepdims=1)

    if script.LOSS in OF_CLASSES:
        classes = double
    else:
        ordered = op("TopK", double, ints(count - 1), axis=1)
        above = op("Pad", op("Pad", ordered, ints(0, 1, 0, 0), np.float64(1)), ints(0, 0, 0, 1))
        begin, end = (op("Slice", above, ints(i), ints(count + i), ints(1)) for i in (0, 1))
        classes = op("Sub", begin, end)

    sums = op("CumSum", op("Pad", classes, ints(0, 1, 0, 0)), ints(1)[0])
    before, until = (op("Slice", sums, ints(i), ints(count + i), ints(1)) for i in (0, 1))
    held = op("Sub", op("Unsqueeze", until, ints(1)), op("Unsqueeze", before, ints(2)))

    first, last = np.indices((count, count), np.int64)
    here = op("Unsqueeze", label, ints(2))
    inside = op("And", op("LessOrEqual", first, here), op("GreaterOrEqual", last, here))
    whole = (first == 0) & (last == count - 1)
    shares = np.float64([share_due(model, label) for label in range(count)])
    due = shares[:1]
    if model.shares is not None:
        due = op("Unsqueeze", op("Gather", shares, label), ints(2))
    enough = op("Or", op("GreaterOrEqual", held, due), whole)
    lengths = op("Where", op("And", inside, enough), last - first, ints(count))
    shortest = op("ReduceMin", lengths, axes=[1, 2], keepdims=1)
    held = op("Where", op("Equal", lengths, shortest), held, np.float64([-1]))
    place = op("ArgMax", op("Reshape", held, ints(-1, count**2)), axis=1, keepdims=0)

    youngest = ints(script.YOUNGEST_AGE)
    op("Add", op("Squeeze", label, ints(1)), youngest, name="age")
    op("Add", op("Div", place, ints(count)), youngest, name="age_low")
    op("Add", op("Mod", place, ints(count)), youngest, name="age_high")


@torch.no_grad()
def build(model, kind=np.float32):
    """The model as an onnx.ModelProto without metadata, its weights of this ``kind``."""
    graph = SimpleNamespace(nodes=[], constants=[])
    op, script = functools.partial(add, graph), model.script
    network = copy.deepcopy(model.network).cpu().double()
    images, views = add_views(op, model)
    features = add_backbone(op, images, network, kind)
    probas, male = add_outputs(op, features, network, script)
    probas = add_mean(op, probas, script.NUM_PROBAS, views, "probas")
    add_ages(op, probas, model)
    shapes = {"probas": (TensorProto.FLOAT, ["n", script.NUM_PROBAS])}
    shapes |= {name: (TensorProto.INT64, ["n"]) for name in ("age", "age_low", "age_high")}
    if male:
        op("Squeeze", add_mean(op, male, 1, views, None), ints(1), name="male")
        shapes["male"] = TensorProto.FLOAT, ["n"]
    given = "images", TensorProto.UINT8, ["n", 3, model.size, model.size]
    graph = helper.make_graph(
        graph.nodes,
        Path(script.__file__).stem,
        [helper.make_tensor_value_info(*given)],
        [helper.make_tensor_value_info(name, *shape) for name, shape in shapes.items()],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def quantise(float_model, images):
    """``float_model`` with weights and arithmetic of 8 bits from the first convolution to the last
    block, for numbers in the ranges they have for ``images``, uint8 (n, 3, S, S)."""
    from onnxruntime import quantization

    # else it asks for a preparation, which is for graphs with batch norms
    helper.set_model_props(float_model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    nodes = float_model.graph.node
    kinds = [node.op_type for node in nodes]
    backbone = nodes[kinds.index("Conv") : kinds.index("GlobalAveragePool")]
    parts = iter([{"images": images[i : i + BATCH]} for i in range(0, len(images), BATCH)])
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save(float_model, before)
        quantization.quantize_static(
            before,
            after,
            SimpleNamespace(get_next=lambda: next(parts, None)),
            op_types_to_quantize=sorted({node.op_type for node in backbone}),
            nodes_to_quantize=[node.name for node in backbone],
            per_channel=True,
            reduce_range=True,  # 7 bits: sums of 8 bits overflow on processors without VNNI
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return onnx.load(after)


# %% Metadata
def framing(model):
    """Where eyes, nose tip and mouth corners lie, in parts of the side: of a ``photo`` as the
    training photos are (cropped, if the script crops), and of the ``input``, its middle."""
    corner, across = detect.square(detect.ALIGNED * 1000, model.script.DATASET)
    points = (detect.ALIGNED * 1000 @ (1, 1j) - corner) / across
    photo = np.stack([points.real, points.imag], axis=1)
    side = resized(model)
    places = {"photo": photo, "input": (photo * side - round((side - model.size) / 2)) / model.size}
    return {"points": POINTS} | {key: value.round(4).tolist() for key, value in places.items()}


def resized(model):
    """Pixels of the side to which a photo is resized, before its middle is taken."""
    pixels = model.script.prepare_image(PIL.Image.new("RGB", (200, 200)), model.size)
    return pixels.shape[-1]


def describe(model, precision):
    """Metadata of the file, {name: text}."""
    script = model.script
    return {
        "dataset": script.DATASET,
        "loss": script.LOSS,
        "ages": json.dumps([script.YOUNGEST_AGE, script.YOUNGEST_AGE + script.NUM_CLASSES - 1]),
        "size": str(model.size),
        "resize": str(resized(model)),
        "framing": json.dumps(framing(model)),
        "interval_coverage": str(model.interval / 100),
        "precision": precision,
        "note": NOTE,
        "licence": model.licence or "as the photos, and any weights it was begun from, allow",
        "weights_sha256": digest_of(model.weights),
    }


# %% Images to check on
def read_photos(model, csv, folder):
    """uint8 (n, 3, S, S), the middles of the photos in ``csv``, MOST of them at most, in a random
    order, and their ages in years, float64 (n,), nan where they are not known exactly."""
    script = model.script
    words = [f"--image_path={folder}", f"--image_size={model.size}", "--outpath=unused"]
    args = script.parse_settings(words)
    split = script.read_split(csv, args)
    some = np.random.default_rng(0).permutation(len(split.files))[:MOST]
    split.files, split.rows = [split.files[row] for row in some], split.rows[some]
    script.load_pixels({"photos": split}, args)
    images = np.ascontiguousarray(script.central_crop(split.pixels, model.size))
    lowest, highest = (ends[some].numpy() for ends in script.ends_of(split.labels))
    return images, np.where(lowest == highest, lowest + script.YOUNGEST_AGE, np.nan)


def drawn_faces(model):
    """uint8 (n, 3, S, S), drawn faces of the sample, as many as there are up to CHECKED."""
    sample = getattr(model.script, "SAMPLE", None)  # among the paths that users edit
    paths = sorted(sample.rglob("images/**/*.jpg"))[:CHECKED] if sample else []
    images = [prepare(PIL.Image.open(path), model) for path in paths]
    return np.stack(images) if images else np.empty((0, 3, model.size, model.size), np.uint8)


def open_session(content):
    """An ONNX Runtime session on the CPU with the file's ``content``."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def answers(content, images):
    """{output: array of (n, ...)} of the file's ``content`` for uint8 (n, 3, S, S)."""
    session = open_session(content)
    names = [output.name for output in session.get_outputs()]
    parts = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    results = [session.run(names, {"images": part}) for part in parts]
    return dict(zip(names, map(np.concatenate, zip(*results, strict=True)), strict=True))


def check_answers(found, images, model):
    """Refuse the float32 file unless its answers ``found`` are torch's; their largest difference
    in probabilities."""
    probas, male = infer(list(images), model, BATCH)
    apart = [found["probas"] - probas.numpy()]
    if "male" in found:
        apart.append((found["male"] - male)[:, None])
    off = np.abs(np.concatenate(apart, axis=1)).max()
    if not off <= TOLERANCE:
        refuse(f"ONNX Runtime's probabilities are {off:.1e} off those of torch: nothing written", 1)

    # a label may differ where the one of torch hangs by a hair
    if model.script.LOSS in ("ce", "sord"):
        best = probas.sort(1).values
        clear = best[:, -1] - best[:, -2] > 2 * TOLERANCE
    elif model.script.LOSS in ("dldl", "l1"):
        parts = torch.tensor(parts_of_mean(model.script))
        clear = ((probas.double() @ parts) % 1 - 0.5).abs() > off * parts.sum()
    else:
        clear = ((probas - 0.5).abs() > TOLERANCE).all(1)
    due = model.script.predict_labels(probas).numpy() + model.script.YOUNGEST_AGE
    if (found["age"] != due)[clear.numpy()].any():
        refuse("ONNX Runtime's ages are not those of torch: nothing written", 1)
    return off


def check_decoding(found, model):
    """Refuse a file whose ages are not what predict.py says of its probabilities."""
    rows = [estimate(probas, None, model) for probas in found["probas"]]
    for name in ("age", "age_low", "age_high"):
        if not np.array_equal(found[name], [row[name] for row in rows]):
            refuse(f"{name} is not what predict.py makes of the probabilities: nothing written", 1)


# %% Main
def cost(found, small, ages):
    """What a smaller file's answers ``small`` cost beside ``found``, those in float32, in words;
    ``ages``: the true ones in years, nan where they are not known, or None."""
    off = np.abs(small["age"] - found["age"])
    text = f"{(off > 0).mean():.1%} of the ages change, all by {off.mean():.3f} years on average"
    if ages is not None and np.isfinite(ages).any():
        before, after = (np.nanmean(np.abs(each["age"] - ages)) for each in (found, small))
        text += f"; MAE {before:.3f} -> {after:.3f} years"
    return text


def need_known_loss(model, run):
    if model.script.LOSS not in LOSSES:
        message = f"export.py knows the output layers of {', '.join(LOSSES)} alone"
        raise InputError(f"{run}: its loss is {model.script.LOSS!r}; {message}")


def export(args):
    """The content of the ONNX file, checked; tells what was found."""
    model = load(args.run)
    model.interval = args.interval
    need_known_loss(model, args.run)
    if args.photos:
        images, ages = read_photos(model, args.photos, args.image_path)
        kind = "photos"
    else:
        images, ages, kind = drawn_faces(model), None, "drawn faces"
    some, rest = images[:CHECKED], max(CHECKED - len(images), 0)
    # noise in place of images that lack, which is as good for finding errors of the graph
    noise = np.random.default_rng(0).integers(0, 256, (rest, *images.shape[1:]), np.uint8)
    checked = np.concatenate([some, noise])

    made, precision = build(model), "float32"
    content = made.SerializeToString()
    found = answers(content, checked)
    off = check_answers(found, checked, model)
    check_decoding(found, model)
    what = f"{len(some)} {kind}" + f" and {rest} images of noise" * bool(rest)
    say(f"{precision}: the answers of torch for {what}, probabilities within {off:.1e}")

    if args.fp16 or args.int8:
        precision = "float16 weights" if args.fp16 else "int8"
        made = build(model, np.float16) if args.fp16 else quantise(made, some)
        if not len(images):
            images, kind = noise, "images of noise"
        small = answers(made.SerializeToString(), images)
        check_decoding(small, model)
        text = cost(answers(content, images), small, ages)
        ranges = f"; {len(some)} of them set the ranges" if args.int8 and len(some) else ""
        say(f"{precision}: of {len(images):,} {kind}, {text}{ranges}")

    helper.set_model_props(made, describe(model, precision))
    onnx.checker.check_model(made)
    return made.SerializeToString()


def export_page(args):
    """Make the folder of a page; its network's answers are compared with torch's."""
    model = load(args.run)
    need_known_loss(model, args.run)
    detect.need_detector()
    images, script = drawn_faces(model)[:CHECKED], model.script
    model.interval, labels = args.interval, range(script.NUM_CLASSES)
    mass = None if model.shares is None else [float(share_due(model, label)) for label in labels]
    if script.CENTER_CROP:
        raise InputError(
            f"{args.run}: --page does not crop photos as {script.DATASET}'s scripts do"
        )
    facts = {
        "model": "/".join(Path(model.weights).parts[-2:]),
        "script": Path(script.__file__).name,
        "licence": model.licence,
        "note": NOTE,
        "youngest": script.YOUNGEST_AGE,
        "loss": script.LOSS,
        "classes": script.NUM_CLASSES,
        "probas": script.NUM_PROBAS,
        "coverage": model.interval / 100,
        "mass": mass,
        "gender": bool(model.network.fc_gender),
        "size": model.size,
        "resize": resized(model),
        "framing": detect.SQUARES.get(script.DATASET),
        "doubts": {name: value for name, value in vars(doubts).items() if name.isupper()},
    }
    with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=f".{args.out.name}.") as folder:
        made = Path(folder, "page")
        made.mkdir()
        webpage.write_page(made, build(model), facts, args.ort)
        probas, _ = infer(list(images), model, BATCH)
        found = answers(str(made / "network.onnx"), images)["probas"]
        (made / "network.weights").unlink()
        off = np.abs(found - probas.numpy()).max()
        if not off <= webpage.TOLERANCE:
            refuse(f"the page's probabilities are {off:.1e} off those of torch", 1)
        size = sum(path.stat().st_size for path in made.iterdir())
        if args.single:
            text = webpage.as_one_file(made).encode()
            size = len(text)
            with atomic_write(args.out) as file:
                file.write(text)
        else:
            made.rename(args.out)
    say(f"{args.out}: written, {size / 1e6:.1f} MB, probabilities within {off:.1e} of torch's")
    how = (
        "open it in a browser" if args.single else f"serve it: python -m http.server -d {args.out}"
    )
    say(how)


def main(argv=None):
    """Run with the given command-line arguments."""
    args = parse_settings(argv)
    try:
        if args.page:
            return export_page(args)
        with atomic_write(args.out) as file:
            file.write(export(args))
    except InputError as error:
        refuse(error)
    except OSError as error:
        refuse(f"{error.filename or args.out}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        refuse("interrupted; nothing was written", 130)
    say(f"{args.out}: written, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    end_as_on_ctrl_c("SIGTERM", "SIGHUP")
    if hasattr(sys.stdout, "reconfigure"):  # in a notebook it has not
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has all characters
    main()
