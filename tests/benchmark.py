"""Speed and memory of a training script, beside a plain loop over a torch DataLoader.

    python tests/benchmark.py                            some ten minutes on two cores
    python tests/benchmark.py --count 96 --batch_size 16     a trial
    python tests/benchmark.py --predict                      predict.py instead, some minutes
    python tests/benchmark.py --predict --other CLONE        beside that of another clone
    python tests/benchmark.py --cuda 0                       the training step on a GPU instead
    python tests/benchmark.py --cuda -1 --count 4 --steps 1  a trial of that without a GPU
    python tests/benchmark.py --onnx RUN                     torch and ONNX Runtime, a minute

Draws 2,000 JPEGs of 200x200 pixels and measures on them, in five alternating rounds of which the
medians are printed (with the lowest and highest in brackets): the input, the training step at
120x120 pixels, that of the fast recipe at 64x64 in float32 and bfloat16 (with convolutions on the
smallest maps too, as before they became a matrix product), and this machine's matrix
multiplication; then one epoch of the script and one of the plain loop, each in a process of
its own. The plain loop decodes, resizes and crops every image in every epoch, in 4 worker
processes. Needs Linux and an otherwise idle machine.

--predict measures predict.py on such JPEGs as crops and on 90 frames of 640x360 pixels with
a real face, H.264, with the network's input of 120x120 pixels, and tells where the time goes. With
--other it runs both clones' predict.py on 300 such frames, crops and photos, in turn.

--cuda measures the training step of both recipes on that device, in float32, with TF32, and in
bfloat16, beside the device's own product of two matrices of the same numbers; then an epoch of the
script and one of the plain loop, and how long each waits for data. A waiting loop need not be a
waiting device: what was handed over before may still be computed.

--onnx asks the network of a run folder about 64 faces, one by one and 16 at a time: by torch and by
ONNX Runtime with what export.py makes of it, in float32 and in int8, each on as many threads.
"""

import argparse
import collections
import contextlib
import csv
import functools
import io
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import PIL.Image
import torch
from conftest import ROOT, load, plain_dataset
from coral_age import answers, marked, media, pictures, runs
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

SCRIPT = ROOT / "model-code" / "utk-coral.py"
CPU, ROUNDS = torch.device("cpu"), 5


def plain_loader(module, folder, batch_size):
    images = plain_dataset(module, folder / "train.csv", folder / "images", transforms.RandomCrop)
    return DataLoader(images, batch_size, shuffle=True, num_workers=4)


def plain_loop(module, model, loader, first_step=lambda: None, device=CPU):
    """One epoch as the published code has it."""
    optimizer, imp = torch.optim.Adam(model.parameters(), lr=0.0005), torch.ones(1, device=device)
    model.train()
    for number, (images, labels) in enumerate(loader):
        images, labels = images.to(device), labels.to(device)
        cost = module.cost_fn(model(images)[0], labels, imp).mean()
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        if number == 0:
            first_step()
        if number % 50 == 0:
            print(f"Batch {number:04d} | Cost: {cost:.4f}", flush=True)


def rounds(kinds):
    """{name: the rates of its rounds}, of functions that give a rate, called in turn."""
    rates = {name: [] for name in kinds}
    for _ in range(ROUNDS):
        for name, kind in kinds.items():
            rates[name].append(kind())
    return rates


def show(title, rates, unit, note=lambda median: ""):
    print(f"\n{title}")
    for name, values in rates.items():
        median = statistics.median(values)
        spread = f"({min(values):,.1f} - {max(values):,.1f})"
        print(f"  {name:46s}{median:12,.1f} {unit:9s}{spread:24s}{note(median)}")


def rate(images, passes):
    """Images per second of running through the iterator ``passes``."""
    began = time.perf_counter()
    for _ in passes:
        pass
    return images / (time.perf_counter() - began)


def input_rates(module, split, args, folder):
    count = len(split.files)

    return rounds(
        {  # the workers of the DataLoader are started before its clock
            "DataLoader, 4 workers, float batch": lambda: rate(
                count, iter(plain_loader(module, folder, args.batch_size))
            ),
            "this script, float batch": lambda: rate(count, module.batches(split, args, CPU, True)),
        }
    )


def repeated(split, count):
    """A split of ``count`` rows: the first of ``split``, and from its end on they come again."""
    new = argparse.Namespace(**vars(split))
    rows = np.arange(count) % len(split.files)
    new.files = [split.files[row] for row in rows]
    for name in ("pixels", "labels", "genders"):
        setattr(new, name, getattr(split, name)[rows])
    return new


def train_rate(module, model, split, args, folder):
    """Images per second of an epoch of train(), as it notes them in history.csv."""
    module.train(model, {"train": split}, args, CPU)
    return float((folder / "history.csv").read_text().split()[-1].split(",")[4])


def fast_step_rates(module, options, folder):
    """Steps of the fast recipe, two a round: as it is, in bfloat16, and with larger batches; in
    bfloat16 with torch's convolutions as well where the script has one matrix product."""
    args = module.parse_settings([*options, "--recipe=fast", "--epochs=1", f"--outpath={folder}"])
    split, kinds = module.read_split(args.train_csv, args), {}
    module.load_pixels({"train": split}, args)

    def with_convolutions(*given):
        with mock.patch.object(module.Conv3x3, "forward", torch.nn.Conv2d.forward):
            return train_rate(*given)

    for batch_size in (64, 128):
        for amp in (0, 1):
            own = argparse.Namespace(**vars(args) | {"batch_size": batch_size, "amp": amp})
            few = repeated(split, 2 * batch_size)
            model = module.ResNet34().to(memory_format=torch.channels_last)
            name = f"--recipe fast --batch_size {batch_size} --amp {amp}"
            given = module, model, few, own, folder
            if amp:
                kinds[f"{name}, convolutions"] = functools.partial(with_convolutions, *given)
            kinds[name] = functools.partial(train_rate, *given)
    return rounds(kinds)


def step_rates(module, split, args, folder):
    """Two steps a round. The plain loop gets its batches ready made; this script's loop is its own
    train(), which makes them as it goes."""
    few, ready = repeated(split, 2 * args.batch_size), []
    for batch in module.batches(few, args, CPU, True):
        ready.append((batch.images, batch.labels))
    models = {last: module.ResNet34() for last in (0, 1)}
    models[1].to(memory_format=torch.channels_last)

    def own(channels_last):
        options = argparse.Namespace(**vars(args) | {"channels_last": channels_last, "epochs": 1})
        return train_rate(module, models[channels_last], few, options, folder)

    def plain():
        began = time.perf_counter()
        plain_loop(module, models[0], ready)
        return len(few.files) / (time.perf_counter() - began)

    return rounds(
        {
            "plain loop, batches ready made": plain,
            "this script": lambda: own(0),
            "this script, channels_last 1": lambda: own(1),
        }
    )


def matmul_rate(size=2048, device=CPU, dtype=torch.float32, repeats=5):
    """GFLOP/s of a product of two square matrices."""
    a, b = torch.rand(2, size, size, device=device).to(dtype)
    synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        a @ b
    synchronize(device)
    return repeats * 2 * size**3 / 1e9 / (time.perf_counter() - began)


def synchronize(device):
    """Wait until the device has computed all that was handed over."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory(pid):
    """MB of a process and its children: anonymous and shared, what they share counted once, without
    the pages of mapped files, which the system may drop."""
    total, children = 0, Path(f"/proc/{pid}/task/{pid}/children")
    with contextlib.suppress(OSError):  # it has just ended
        for process in [pid, *children.read_text().split()]:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += sum(map(int, re.findall(r"Pss_(?:Anon|Shmem):\s+(\d+)", rollup)))
    return total / 1024


def watch(command, has_begun):
    """Run a command: seconds until ``has_begun()``, and the peak of its memory in MB."""
    began, first, peak = time.perf_counter(), None, 0
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, memory(process.pid))
        if first is None and has_begun():
            first = time.perf_counter() - began
        time.sleep(0.05)
    assert process.returncode == 0
    return first, peak


def whole_epochs(folder, options, batch_size):
    """The plain loop and this script, an epoch each, in processes of their own."""
    begun = folder / "begun"
    me = [sys.executable, Path(__file__).resolve()]
    words = ["--plain", folder, "--batch_size", batch_size]
    first, peak = watch([*me, *words], begun.exists)
    print("\nOne epoch in a process of its own      to the first step           peak memory")
    print(f"  plain loop and its 4 workers {first:21.1f} s {peak:18,.0f} MB")
    run = folder / "run"
    log = run / "training.log"
    command = [sys.executable, SCRIPT, *options, f"--outpath={run}", "--epochs=1"]
    first, peak = watch(command, lambda: log.exists() and "Epoch:" in log.read_text())
    print(f"  this script, decoding all images first {first:11.1f} s {peak:18,.0f} MB")
    with open(run / "history.csv") as file:
        [row] = csv.DictReader(file)
    seconds, waited = float(row["seconds"]), float(row["wait_seconds"])
    print(f"\nWaiting for data: {waited / seconds:.2%} of this script's epoch")


def clocked(function, part, seconds):
    """``function``, which adds the time it takes to ``seconds[part]``."""

    def call(*args, **options):
        began = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            seconds[part] += time.perf_counter() - began

    return call


def clocked_items(generator, part, seconds):
    """The same for a generator function, without the time between its items."""
    step = clocked(next, part, seconds)

    def call(*args):
        items = generator(*args)
        with contextlib.suppress(StopIteration):
            while True:
                yield step(items)

    return call


PRECISIONS = ("float32", "TF32", "bfloat16")  # TF32: float32 with factors of 10 bits of mantissa


def allow_tf32(precision):
    torch.backends.cuda.matmul.allow_tf32 = precision == "TF32"
    torch.backends.cudnn.allow_tf32 = precision == "TF32"


def peak_rate(device, precision):
    """GFLOP/s of a product of matrices, large enough to keep the device busy."""
    allow_tf32(precision)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    size, repeats = (8192, 20) if device.type == "cuda" else (512, 2)
    return matmul_rate(size, device, dtype, repeats)


def step_gflop(module, size):
    """GFLOP of an image of that size, forward and backward, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        module.ResNet34()(torch.rand(2, 3, size, size))[0].sum().backward()
    return counter.get_total_flops() / 2 / 1e9


def device_step_rate(module, split, args, device, precision, steps):
    """Images per second of ``steps`` steps of train(), after half as many to warm up."""
    allow_tf32(precision)
    warm, times, after_step = steps // 2 + 1, [], module.after_step

    def clock(state, split, batch, *rest):
        after_step(state, split, batch, *rest)
        if batch.number + 1 in (warm, warm + steps):
            synchronize(device)
            times.append(time.perf_counter())

    memory_format = torch.channels_last if args.channels_last else torch.contiguous_format
    model = module.ResNet34().to(device, memory_format=memory_format)
    rows = repeated(split, (warm + steps) * args.batch_size)
    with mock.patch.multiple(module, after_step=clock, after_epoch=lambda *args: None):
        module.train(model, {"train": rows}, args, device)
    began, ended = times
    return steps * args.batch_size / (ended - began)


def device_step_rates(module, options, folder, device, steps):
    """{(recipe, precision): {settings: rates}} of batches as large as the recipe's and larger ones,
    but of no more images than there are."""
    kinds = {}
    for recipe, sizes in (("paper", (256,)), ("fast", (64, 128, 256, 512))):
        words = [*options, f"--recipe={recipe}", "--epochs=1", f"--log_every={10**9}"]
        args = module.parse_settings([*words, f"--outpath={folder}"])
        split = module.read_split(args.train_csv, args)
        module.load_pixels({"train": split}, args)
        for size in sizes:
            for channels_last in (0, 1):
                changes = {
                    "batch_size": min(size, len(split.files)),
                    "channels_last": channels_last,
                }
                name = " ".join(f"{option} {value}" for option, value in changes.items())
                for precision in PRECISIONS:
                    own = argparse.Namespace(**vars(args) | changes)
                    own.amp = int(precision == "bfloat16")
                    given = module, split, own, device, precision, steps
                    kinds[recipe, precision, name] = functools.partial(device_step_rate, *given)
    with contextlib.redirect_stdout(io.StringIO()):  # the lines of their logs
        rates = rounds(kinds)
    tables = collections.defaultdict(dict)
    for (recipe, precision, name), values in rates.items():
        tables[recipe, precision][name] = values
    return tables


def device_epochs(module, folder, options, device, batch_size):
    """Seconds of the second epoch, and of waiting for data in it, of the plain loop and the
    script."""
    model, loader = module.ResNet34().to(device), plain_loader(module, folder, batch_size)
    found = {}
    for _ in range(2):
        seconds = collections.Counter()
        began = time.perf_counter()
        batches = clocked_items(clocked(iter, "data", seconds), "data", seconds)(loader)
        with contextlib.redirect_stdout(io.StringIO()):
            plain_loop(module, model, batches, device=device)
        synchronize(device)
        found["plain loop and its 4 workers"] = time.perf_counter() - began, seconds["data"]
    run = folder / "run"
    words = [*options, f"--batch_size={batch_size}", "--epochs=2", f"--outpath={run}"]
    command = [sys.executable, SCRIPT, *words]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    with open(run / "history.csv") as file:
        *_, row = csv.DictReader(file)
    found["this script"] = float(row["seconds"]), float(row["wait_seconds"])
    print(f"\nSecond epoch at 120x120, batches of {batch_size}        seconds   waiting for data")
    for name, (total, waited) in found.items():
        print(f"  {name:46s}{total:8.2f}{waited:19.3f}")


def on_device(module, folder, options, cuda, batch_size, steps):
    """All that --cuda measures."""
    device = torch.device("cuda", cuda) if cuda >= 0 else CPU
    if cuda >= 0:
        torch.cuda.set_device(device)
        torch.backends.cudnn.deterministic = True  # as the scripts have it
    print(torch.cuda.get_device_name(device) if cuda >= 0 else "CPU", end=", ")
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}")
    peaks = rounds({name: functools.partial(peak_rate, device, name) for name in PRECISIONS})
    show("Product of two square matrices", peaks, "GFLOP/s")
    tables = device_step_rates(module, options, folder, device, steps)
    for (recipe, precision), rates in tables.items():
        size = module.RECIPES["image_size"][recipe == "fast"]
        gflop, peak = step_gflop(module, size), statistics.median(peaks[precision])
        show(
            f"Training step, --recipe {recipe}, {precision}, {gflop:.2f} GFLOP an image",
            rates,
            "images/s",
            lambda median, share=gflop / peak: f"{median * share:4.0%} of the product",
        )
    allow_tf32("float32")
    torch.backends.cudnn.allow_tf32 = True  # as torch has it from the start
    device_epochs(module, folder, options, device, batch_size)


def draw_video(path, frames):
    """The photo of an astronaut, who moves to the right."""
    import av
    from skimage import data

    photo = PIL.Image.fromarray(data.astronaut())
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", 30)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for number in range(frames):
            picture = PIL.Image.new("RGB", (640, 360))
            picture.paste(photo, (2 * number, 0))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())


def prediction(folder, frames):
    """Faces and frames per second of predict.py, and the shares of its time."""
    predict, seconds = load(ROOT / "model-code" / "predict.py"), collections.Counter()
    torch.save(load(SCRIPT).ResNet34().state_dict(), folder / "model.pt")
    parts = {
        "decode": "read_photo",
        "detect": "find_faces",
        "cut and resize": "face_images prepare",
    }
    parts |= {
        "network": "infer",
        "mark": "mark",
        "encode": "open_copy encode",
        "load": "load",
    }
    # where they are called from, if not from pictures.py
    modules = {"read_photo": media, "infer": answers, "load": predict}
    modules |= dict.fromkeys(("mark", "open_copy", "encode"), marked)
    for part, names in parts.items():
        for name in names.split():
            module = modules.get(name, pictures)
            setattr(module, name, clocked(getattr(module, name), part, seconds))
    media.read_video = clocked_items(media.read_video, "decode", seconds)
    draw_video(folder / "clip.mp4", frames)
    network = [f"--weights={folder / 'model.pt'}", f"--script={SCRIPT.name}"]
    crops = len(list((folder / "images").rglob("*.jpg")))
    kinds = {
        f"{crops} crops of 200x200": (crops, [folder / "images", "--crops", "--no_draw"]),
        f"{frames} frames of 640x360, one face": (frames, [folder / "clip.mp4"]),
    }
    shares = {name: [] for name in kinds}

    def once(name):
        count, words = kinds[name]
        seconds.clear()
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            code = predict.main([*network, *map(str, words), f"--out={folder}/out", "--overwrite"])
        assert code == 0
        # the network's weights are read once, whatever the number of pictures
        total = time.perf_counter() - began - seconds.pop("load")
        shares[name].append({part: spent / total for part, spent in seconds.items()})
        return count / total

    rates = rounds({name: functools.partial(once, name) for name in kinds})
    for (name, values), unit in zip(rates.items(), ("faces/s", "frames/s"), strict=True):
        show(
            "predict.py, without loading the network; its parts run side by side",
            {name: values},
            unit,
        )
        for part in shares[name][0]:
            share = statistics.median(share[part] for share in shares[name])
            print(f"    {part:44s}{share:12.1%} of the time")


def draw_photos(folder, size, count):
    """``count`` names of a photo of an astronaut as a square of so many pixels, in a folder."""
    from skimage import data

    folder.mkdir()
    photo = PIL.Image.fromarray(data.astronaut()).resize((size, size), PIL.Image.Resampling.BICUBIC)
    photo.save(folder / "0.jpg", quality=90)
    for number in range(1, count):
        os.link(folder / "0.jpg", folder / f"{number}.jpg")
    return folder


def beside(other, folder, frames):
    """Photos and frames per second of two clones' predict.py, without their start: that of one
    photo, or of a video of one frame. Their own networks answer."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}  # of conftest.py
    inputs = {"a video of 640x360, one face": (frames, "frames/s", [])}
    for count in (1, frames):
        draw_video(folder / f"{count} a video of 640x360, one face.mp4", count)
    for name, size, count, options in (
        ("crops of 200x200", 200, 400, ["--crops"]),
        ("photos of 0.2 megapixels, one face", 448, 80, []),
        ("photos of 1.2 megapixels, one face", 1095, 40, []),
    ):
        inputs[name] = count, "photos/s", ["--no_draw", *options]
        for number in (1, count):
            draw_photos(folder / f"{number} {name}", size, number)

    def once(clone, name):
        count, _, options = inputs[name]
        words = [sys.executable, clone / "model-code" / "predict.py", "--overwrite", *options]
        words += [f"--out={folder / 'out'}"]
        spent = []
        for number in (1, count):
            [path] = folder.glob(f"{number} {name}*")
            began = time.perf_counter()
            command = [*map(str, words), str(path)]
            subprocess.run(command, check=True, capture_output=True, env=environment)
            spent.append(time.perf_counter() - began)
        return (count - 1) / (spent[1] - spent[0])

    for name, (_, unit, _) in inputs.items():
        clones = {"that clone": other, "this": ROOT}
        rates = rounds({which: functools.partial(once, c, name) for which, c in clones.items()})
        median = statistics.median(rates["that clone"])
        show(f"predict.py, {name}", rates, unit, lambda m, due=median: f"{m / due:6.2f} x that")


def onnx_rates(run):
    """Faces per second of a run's network, by torch and by ONNX Runtime."""
    import onnxruntime

    export = load(ROOT / "model-code" / "export.py")
    model = runs.load(run)
    images = np.resize(export.drawn_faces(model), (64, 3, model.size, model.size))
    float_model = export.build(model)
    files = {"float32": float_model, "int8": export.quantise(float_model, images)}
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads, {model.size}x{model.size} pixels")

    def by_torch(part):
        return answers.infer(list(part), model, len(part))

    def by_file(session, part):
        return session.run(None, {"images": part})

    def once(ask, parts):
        return rate(len(images), map(ask, parts))

    asked = {"torch": by_torch}
    for name, file in files.items():
        session = export.open_session(file.SerializeToString())
        asked[f"ONNX Runtime, {name}"] = functools.partial(by_file, session)
    for title, size in {"one by one": 1, "16 at a time": 16}.items():
        parts = np.split(images, len(images) // size)
        rates = rounds({name: functools.partial(once, ask, parts) for name, ask in asked.items()})
        base = statistics.median(rates["torch"])
        show(f"Faces, {title}", rates, "faces/s", lambda m, base=base: f"{m / base:6.2f} x torch")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="images")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--predict", action="store_true", help="measure predict.py instead")
    parser.add_argument(
        "--other", type=Path, metavar="CLONE", help="with --predict: compare with it"
    )
    parser.add_argument("--cuda", type=int, help="measure this device instead; -1: the CPU")
    parser.add_argument("--steps", type=int, default=20, help="with --cuda: in a round")
    parser.add_argument("--onnx", type=Path, metavar="RUN", help="measure torch and ONNX Runtime")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)  # a child process
    given = parser.parse_args()
    module = load(SCRIPT)
    module.NO_BAR = True
    if given.cuda is not None:  # refuses a device that is not there
        module.parse_settings([f"--cuda={given.cuda}", "--outpath=unused"])
    if given.plain:
        loader = plain_loader(module, given.plain, given.batch_size)
        plain_loop(module, module.ResNet34(), loader, (given.plain / "begun").touch)
        return
    if given.onnx:
        return onnx_rates(given.onnx)
    with tempfile.TemporaryDirectory() as name:
        if given.predict and given.other:
            return beside(given.other.resolve(), Path(name), 300)
        draw = ROOT / "datasets" / "sample" / "draw-faces.py"
        count = min(given.count, 256) if given.predict else given.count
        words = ["--datasets", "utk", "--count", count, "--out", name]
        subprocess.run([sys.executable, *map(str, [draw, *words])], check=True)
        folder = Path(name) / "utk"
        if given.predict:
            print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
            return prediction(folder, 90)
        options = [f"--{kind}_csv={folder / kind}.csv" for kind in ("train", "test")]
        options += [f"--image_path={folder / 'images'}", "--seed=1"]
        if given.cuda is not None:
            options += [f"--cuda={given.cuda}"]
            return on_device(module, folder, options, given.cuda, given.batch_size, given.steps)
        options += [f"--batch_size={given.batch_size}"]
        args = module.parse_settings([*options, f"--outpath={folder}"])
        split = module.read_split(args.train_csv, args)
        module.load_pixels({"train": split}, args)
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", end=", ")
        print(f"{len(split.files)} images, batches of {given.batch_size}")

        rates = input_rates(module, split, args, folder)
        loader = statistics.median(rates["DataLoader, 4 workers, float batch"])
        show("Input", rates, "images/s", lambda median: f"{median / loader:7.1f} x DataLoader")
        with contextlib.redirect_stdout(io.StringIO()):  # the lines of their logs
            steps = step_rates(module, split, args, folder)
            fast = fast_step_rates(module, options, folder)
        peak = rounds({"product of two 2048x2048 matrices": matmul_rate})
        show("Matrix multiplication", peak, "GFLOP/s")
        [product] = map(statistics.median, peak.values())
        plain = statistics.median(steps["plain loop, batches ready made"])
        gflop = step_gflop(module, 120)
        show(
            f"Training step, {gflop:.2f} GFLOP an image",
            steps,
            "images/s",
            lambda m: f"{m / plain:6.3f} x plain loop, {m * gflop / product:4.0%} of the product",
        )
        [base, *_] = map(statistics.median, fast.values())
        show("Training step at 64x64", fast, "images/s", lambda m: f"{m / base:6.3f} x the first")
        whole_epochs(folder, options, given.batch_size)


if __name__ == "__main__":
    main()
