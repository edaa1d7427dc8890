"""predict.py's rows of very many images and videos, by processes of Ray, on one machine or many.

    python model-code/predict_ray.py photos/ --out predictions --resume
    python model-code/predict_ray.py s3://bucket/photos --out s3://bucket/predictions --actors 64
    python model-code/predict_ray.py s3://bucket/tables --column image --out predictions --gpus 0.25

An INPUT is a file, a folder or a bucket (s3://, gs://), which is searched with the folders in it;
with --column, Parquet files, or folders and buckets of them, that hold the bytes of images. DIR, a
folder or a bucket, receives the rows as Parquet files and in the end predictions.json. Each actor
loads the model once. One that dies is replaced, also when its machine is gone; a job that was
stopped goes on with --resume. Paths, that of RUN as well, are those that all machines see.
"""

import argparse
import hashlib
import json
import logging
import os
import sys
from pathlib import Path

from coral_age import detect, media
from coral_age.answers import NOTE, heading
from coral_age.errors import InputError, end_as_on_ctrl_c, reason_of, refuse, say
from coral_age.inputs import read_list
from coral_age.options import parse_options
from coral_age.runs import load
from coral_age.table import JOB
from tqdm import tqdm

try:
    import pyarrow.dataset
    import ray
    from coral_age import parts
except ImportError:
    ray = None

PROGRAM = "predict_ray.py"
SEARCH = "crops", "every", "min_score", "megapixels"  # of the options, those of Search


def parse_settings(argv):
    """The settings as an argparse namespace, checked."""
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\n{NOTE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="predict_ray.py INPUT... [--list FILE] --out DIR [options]",
        allow_abbrev=False,
    )
    parser.error = lambda message: refuse(message, program=PROGRAM)
    add = parser.add_argument
    add("places", nargs="*", metavar="INPUT", help="images, videos, folders and buckets of them")
    add("--column", help="the INPUTs are Parquet files; that of their columns with images as bytes")
    add("--out", required=True, metavar="DIR", help="folder or bucket that receives the rows")
    add("--actors", type=int, help="processes with a model each (one a CPU or share of a GPU)")
    add("--gpus", type=float, default=0, help="share of a GPU that an actor takes; 0: a CPU (0)")
    args = parse_options(parser, argv, gpus=(0, 1), actors=(1, 10**6))
    for name in ("run", "weights", "out"):  # the working folder of an actor is another
        path = getattr(args, name)
        if path and "://" not in str(path):
            setattr(args, name, os.path.abspath(path))
    if not args.places and not args.list:
        parser.error("the following arguments are required: INPUT")
    return args


def paths_of(args):
    """The files that the inputs name, of images and videos, or with --column Parquet files."""
    suffixes = {".parquet"} if args.column else media.known_suffixes()
    paths = [path for place in args.places for path in files_of(place, args, suffixes)]
    paths += read_list(args.list) if args.list else []
    if not paths:
        raise InputError(f"nothing to do: no files of {', '.join(sorted(suffixes))}")
    return list(dict.fromkeys(map(str, paths)))


def files_of(place, args, suffixes):
    """The files in one INPUT, those in folders in predict.py's order and with its names."""
    if "://" in place or args.column:
        return parts.files_in(place, suffixes)
    try:
        paths, notes, unread = media.find_files([place], Path(args.out) if on_disk(args) else None)
    except ValueError as error:
        raise InputError(error) from None
    if unread:
        raise unread[0]
    for note in notes:
        say(note)
    return paths


def on_disk(args):
    return "://" not in args.out


def answered(out):
    """The sources of which DIR has rows, and those of them that are errors."""
    system, _ = parts.file_system(out)
    inside = [parts.file_system(file)[1] for file in parts.files_in(out, {".parquet"})]
    if not inside:
        return set(), set()
    rows = pyarrow.dataset.dataset(inside, filesystem=system, format="parquet")
    rows = rows.to_table(["source", "kind"])
    failed = rows.filter(pyarrow.dataset.field("kind") == "error")
    return set(rows["source"].to_pylist()), set(failed["source"].to_pylist())


def begin(args, model):
    """Put down in DIR what the job is, or go on with it: is there something left to do?"""
    system, root = parts.file_system(args.out)
    if on_disk(args):
        os.makedirs(root, exist_ok=True)
    elif "/" not in root:
        raise InputError(f"--out {args.out}: give a folder in the bucket")
    job = {name: getattr(args, name) for name in (*SEARCH, "column", "interval")}
    job["over"] = list(args.over)
    job["weights"] = hashlib.sha256(Path(model.weights).read_bytes()).hexdigest()
    there = system.get_file_info(pyarrow.fs.FileSelector(root, allow_not_found=True))
    names = {info.base_name for info in there if not info.base_name.endswith(".tmp")}
    if names and not args.resume:
        raise InputError(f"--out {args.out}: holds files already; give --resume or another one")
    if names and JOB not in names:
        if "predictions.json" not in names:
            raise InputError(f"--out {args.out}: holds files, but no job to resume")
        return False
    if JOB in names:
        with system.open_input_stream(f"{root}/{JOB}") as file:
            before = json.loads(file.read())
        for name, value in job.items():
            if before.get(name) != value:
                message = f"the job there has {name} {before.get(name)!r}, not {value!r}"
                raise InputError(f"--resume: {args.out}: {message}")
    parts.save(json.dumps(job).encode(), args.out, JOB)
    return True


def run(args):
    """Predict for all inputs; the number of failures."""
    given = {"run": args.run, "weights": args.weights, "script": args.script}
    given |= {"image_size": args.image_size or 120, "over": args.over}
    if not args.crops:
        detect.need_detector(", or give --crops")
    model = load(**given)
    model.interval = args.interval
    paths = paths_of(args)
    if not begin(args, model):
        say(f"{args.out}: the job there is finished")
        return 0
    done, _ = answered(args.out)
    if args.column:
        todo = [part for p in paths for part in parts.parts_of_table(p, args.column, done)]
    else:
        todo = list(parts.parts_of_files(paths, done))
    del paths
    due = done.union(*(part["sources"] for part in todo))
    search = {name: getattr(args, name) for name in SEARCH}
    worker = args.out, search, args.batch_size, args.interval, given
    with tqdm(total=len(due), initial=len(done), unit="inputs", disable=None) as bar:
        for count in work(todo, worker, args) if todo else ():
            bar.update(count)
    told, failed = answered(args.out)
    if due - told:
        raise InputError(f"{len(due - told):,} inputs have no answer; give --resume")
    facts = {"inputs": len(told), "inputs_with_errors": len(failed)}
    facts["files"] = len(parts.files_in(args.out, {".parquet"}))
    parts.save(json.dumps(heading(model) | facts, indent=1).encode(), args.out, "predictions.json")
    system, root = parts.file_system(args.out)
    system.delete_file(f"{root}/{JOB}")
    say(NOTE)
    say(f"{args.out}: {len(told):,} inputs, {len(failed):,} with errors")
    return len(failed)


def work(todo, given, args):
    """Have the parts done by actors; yield the numbers of inputs of those that are."""
    import ray.data

    # the cluster that RAY_ADDRESS or the job names, or one of its own
    ray.init(logging_level="warning", ignore_reinit_error=True)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel("WARNING")
    needs = {"num_gpus": args.gpus} if args.gpus else {"num_cpus": 1}
    given[-1]["cuda"] = 0 if args.gpus else -1  # Ray shows each actor its own GPU alone
    there = ray.cluster_resources()
    room = int(there.get("GPU", 0) / args.gpus if args.gpus else there["CPU"])
    if not room:
        raise InputError(f"--gpus {args.gpus}: Ray has no GPU here")
    items = [{"part": json.dumps(part)} for part in todo]
    done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        parts.Worker,
        fn_constructor_args=given,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(args.actors or room, len(items))),
        **needs,
    )
    for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
        for problem in filter(None, batch["problem"]):
            raise InputError(f"{problem}; go on with --resume")
        yield int(batch["inputs"].sum())


def main(argv=None):
    """Run with the given command-line arguments; the exit code."""
    args = parse_settings(argv)
    if ray is None:
        refuse("Ray is not installed: pip install -r requirements-ray.txt", program=PROGRAM)
    try:
        failed = run(args)
    except InputError as error:
        refuse(error, program=PROGRAM)
    except KeyboardInterrupt:
        refuse("interrupted; go on with --resume", 130, program=PROGRAM)
    except OSError as error:
        refuse(f"{error.filename or args.out}: {reason_of(error)}", 1, program=PROGRAM)
    return 1 if failed else 0


if __name__ == "__main__":
    end_as_on_ctrl_c("SIGTERM", "SIGHUP")
    sys.exit(main())
