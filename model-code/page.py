"""predict.py as a page in the browser, on this machine: photos, the camera, videos.

    python model-code/page.py
    python model-code/page.py --run run1 --port 8000

It prints the address to open; Ctrl-C ends it. A file dropped there lies in the temporary folder
while it is looked at; it is deleted with its marked copy before the answer has ended. Nothing comes
from the internet, and nothing goes there.

The page is that of the folder page, which export.py --page makes for browsers alone. POST /predict,
whose body is a file as it is, answers with lines of JSON: {"waiting": true} and {"done": n, "of":
n}, pictures of a video, as often as there is news; in the end {"error": why}, or what was found,
with "bytes": so many, the marked copy, follow that line; if that could not be written, "notes" say
why.
With the header "Accept: application/json" the answer is one JSON object without a copy; then the
body may be a form with several files (multipart/form-data), whose "files" are answered in order.
POST /predict?over=18,21 tells P(age >= 18) and P(age >= 21) as well, as over_18 and over_21.
"""

import argparse
import functools
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import socketserver
import sys
import tempfile
import threading
import time
import warnings
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import PIL.Image
from coral_age import errors, media
from coral_age.answers import NOTE, sentence, shares_over, words_of
from coral_age.detect import need_detector
from coral_age.errors import InputError, end_as_on_ctrl_c, reason_of, say
from coral_age.inputs import Sink, answer
from coral_age.marked import mark
from coral_age.options import add_interval, ages
from coral_age.pictures import Picture, Search, faces, look_at, tell
from coral_age.runs import PRETRAINED, asked, load, title

FOLDER = Path(__file__).resolve().with_name("page")
FILES = {  # of the page, by their paths
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
MEGABYTES = 200  # of a file, at most
VISITORS = 16  # files that are sent, wait or are looked at, at most; the next one is refused
SILENCE = 30  # seconds without a byte from a visitor, or to one, who is taken to have left then
PAUSE = 0.3  # seconds from one line of progress to the next, at least
SIDE = 1600  # pixels of a photo's marked copy, at most

# The browser lets the page load what it makes itself, and lets no other site frame it.
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src blob: data:; media-src blob:; "
    "script-src 'self'; style-src 'self'; frame-ancestors 'none'"
)
FORM = re.compile(r'multipart/form-data;.*boundary="?([^";]+)')  # a Content-Type
ORIGIN = re.compile(r"https?://[^/\s?#@]+")  # the browser's word for it, without a path
GONE = ConnectionError, TimeoutError  # raised by reading from, or writing to, who has left


class Server(socketserver.ThreadingTCPServer):
    """A thread for each request. Closing it ends all connections, and so the work for them."""

    allow_reuse_address = os.name == "posix"  # elsewhere it would let two servers share a port
    request_queue_size = 64

    def __init__(self, host, port, origins=()):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.host, self.origins, self.connections = host, set(origins), set()
        self.places = threading.BoundedSemaphore(VISITORS)
        self.photos, self.videos = threading.Lock(), threading.Lock()  # no photo waits for a film
        super().__init__((host, port), Visitor)

    def process_request(self, request, client_address):
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], GONE):
            super().handle_error(request, client_address)

    def server_close(self):
        for connection in list(self.connections):
            with suppress(OSError):  # it has just ended
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()  # waits for the threads


class Visitor(BaseHTTPRequestHandler):
    """A request. The connection ends with the answer."""

    timeout = SILENCE

    def log_message(self, *_):
        """Nothing is noted of visitors."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        if problem := self.foreign():
            self.refuse(403, problem)
        elif path in FILES:
            name, kind = FILES[path]
            self.begin(200, f"{kind}; charset=utf-8", (FOLDER / name).read_bytes())
        elif path == "/about.json":
            self.begin(200, "application/json", json.dumps(about(self.server.model)).encode())
        else:
            self.refuse(404, "nothing is here")

    do_HEAD = do_GET  # begin() leaves out the content

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        length = int(length) if re.fullmatch("[0-9]{1,15}", length) else 0
        place, _, query = self.path.partition("?")
        if problem := self.foreign():
            self.refuse(403, problem)
        elif place != "/predict":
            self.refuse(404, "nothing is here")
        elif not length:
            self.refuse(411, "the file is empty, or comes without its length")
        elif length > MEGABYTES * 10**6:
            self.refuse(413, f"larger than {MEGABYTES} MB, the most that this page takes")
        elif not self.server.places.acquire(blocking=False):
            self.refuse(503, f"{VISITORS} others wait already; try again in a minute", length)
        else:
            try:
                [over] = parse_qs(query).get("over", [""])[:1]
                self.model = asked(self.server.model, ages(over) if over else ())
                self.take(length)
            except (argparse.ArgumentTypeError, InputError) as error:
                self.refuse(400, str(error), length)
            finally:
                self.server.places.release()

    def foreign(self):
        """Why this may be a request of another site's page, or "". The browser tells in Origin
        whose page asks, and in Host what name of this machine was asked for: other sites can give
        it one of their own names, but not a number."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        allowed = self.server.origins
        proxy = "behind a proxy or a forwarded port with --allow-origin and the page's address"
        try:
            name = urlsplit(f"//{host}").hostname
            names = {urlsplit(own).hostname for own in allowed}
            if name not in names | {"localhost", self.server.host.lower()}:
                ipaddress.ip_address(name)
        except ValueError:
            how = "open the page by this machine's IP address, or start page.py with --host NAME"
            return f"{how}, {proxy}, as https://NAME"
        own = origin is None or origin in allowed or origin.split("//")[-1] == host
        return "" if own else f"sent by the page of another site; start page.py {proxy}"

    def begin(self, status, kind, content=None):
        """Send the head of an answer, and ``content`` if that is all."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Content-Type-Options", "nosniff")
        if content is not None:
            self.send_header("Content-Length", len(content))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content or b"")

    def refuse(self, status, problem, length=0):
        """Answer with an error. ``length`` bytes are read and dropped, for some seconds: a browser
        that is still sending them would take a closed connection for the answer."""
        self.begin(status, "application/json", json.dumps({"error": problem}).encode() + b"\n")
        end = time.monotonic() + 5
        while length > 0 and time.monotonic() < end:
            length -= len(self.rfile.read1(2**20)) or length

    def tell(self, **what):
        if not self.wants_json():
            self.wfile.write(json.dumps(what).encode() + b"\n")

    def wants_json(self):
        return "application/json" in self.headers.get("Accept", "")

    def take(self, length):
        """Read a file, look at it, and answer."""
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="page-py-"))
                path = Path(folder, "upload")
                with open(path, "wb") as file:
                    while length:
                        part = self.rfile.read1(min(length, 2**20))
                        if not part:
                            return
                        length -= len(part)
                        file.write(part)
            except GONE:
                raise
            except OSError as error:  # the disk is full
                return self.refuse(507, reason_of(error), length)
            if self.wants_json():
                return self.answer_at_once(path)
            self.begin(200, "application/x-ndjson")
            try:
                found, copy = self.look(path)
                if not copy:
                    return self.tell(**found)
                with open(copy, "rb") as file:
                    self.tell(**found, bytes=copy.stat().st_size)
                    shutil.copyfileobj(file, self.wfile)
            except GONE:
                raise
            except Exception as error:  # Pillow and FFmpeg raise many kinds on damaged files
                self.tell(error=reason_of(error))

    def answer_at_once(self, path):
        """Answer with one JSON object: with what is found in the file, or in each of a form's."""
        status, boundary = 200, FORM.match(self.headers.get("Content-Type", ""))
        if boundary:
            answer = {"files": []}
            for name, content in files_in(path.read_bytes(), boundary[1].encode()):
                path.write_bytes(content)
                for copy in path.parent.glob("marked.*"):  # of the file before
                    copy.unlink()
                answer["files"].append({"name": name} | self.found_in(path))
            if not answer["files"]:
                status, answer = 400, {"error": "no file in the form"}
        else:
            answer = self.found_in(path)
            status = 422 if "error" in answer else 200
        self.begin(status, "application/json", json.dumps(answer).encode() + b"\n")

    def found_in(self, path):
        """What is found in a file, or the error."""
        try:
            found, _ = self.look(path)
            for track in found.get("tracks", []):
                del track["source"]  # where the file lies for the moment
            return found
        except GONE:
            raise
        except Exception as error:  # Pillow and FFmpeg raise many kinds on damaged files
            return {"error": reason_of(error)}

    def look(self, path):
        """What is found in a file, and the path of its marked copy, or None."""
        with self.turn(self.server.photos), suppress(PIL.UnidentifiedImageError):
            return photo(self.model, path)
        with self.turn(self.server.videos):
            return video(self.model, path, self.tell)

    @contextmanager
    def turn(self, lock):
        """Hold ``lock``, when others have had it."""
        while not lock.acquire(timeout=PAUSE):
            self.tell(waiting=True)
        try:
            yield
        finally:
            lock.release()


# %% What is answered
def files_in(form, boundary):
    """Yield the (name, content) of the files in a body of multipart/form-data (RFC 7578)."""
    for part in (b"\r\n" + form).split(b"\r\n--" + boundary)[1:]:
        head, _, content = part.partition(b"\r\n\r\n")
        if name := re.search(rb'filename="([^"]*)"', head):
            yield name[1].decode(errors="replace"), content


def about(model):
    """What the page says of the model and of itself."""
    return {
        "model": "/".join(Path(model.weights).parts[-2:]),
        "script": Path(model.script.__file__).name,
        "licence": model.licence,
        "note": NOTE,
        "youngest": model.script.YOUNGEST_AGE,
        "classes": model.script.NUM_CLASSES,
        "coverage": model.interval / 100,
        "server": True,
        "megabytes": MEGABYTES,
        "suffixes": sorted(media.known_suffixes()),
    }


def said_of(row, model):
    """The texts of a row, for people."""
    return {"words": words_of(row, model), "shares": shares_over(row, model)}


def photo(model, path):
    """The faces in the image ``path``, as of faces(), and the path of its marked copy, None if it
    can't be written. PIL.UnidentifiedImageError if the file may hold a video instead."""
    notes = []
    pixels, (width, height) = media.read_photo(path, notes.append)
    picture = look_at(Picture("", pixels, size=(width, height)), Search(), model)
    [found], marks = tell([picture], model), []
    for face, box in zip(found, picture.boxes, strict=True):
        face |= said_of(face, model)
        number = f"#{face['face']}  " * (len(found) > 1)
        marks.append((box, number + sentence(face, model)))
    copy = path.with_name("marked.jpg")
    try:
        image = mark(pixels, marks)
        image.thumbnail((SIDE, SIDE))
        media.write_jpeg(image, copy, quality=90)
    except Exception as error:  # as a full disk; Pillow raises many kinds
        notes.append(f"its marked copy: {reason_of(error)}")
        copy = None
    return {"faces": found, "width": width, "height": height, "notes": notes}, copy


def video(model, path, tell):
    """The tracks in the video ``path``, as predict.py's, and the path of its marked copy, None if
    it can't be written. Calls tell(done=, of=), numbers of pictures. ValueError where no picture
    can be decoded."""
    tracks, notes, copy = [], [], path.with_name("marked.mp4")
    done, total, told, decoded = 0, 1, 0, None

    def count(pictures, more):
        nonlocal done, total, told
        done, total = done + pictures, total + more
        if pictures and time.monotonic() - told > PAUSE:
            told = time.monotonic()
            tell(done=done, of=max(total, done))

    def add(_, rows):
        ended = [row for row in rows if row["kind"] == "track"]
        tracks.extend(row | said_of(row, model) for row in ended)

    def fail(_, error, what=""):
        if isinstance(error, GONE):  # of tell
            raise error
        notes.append(what + reason_of(error))

    def note(_, what):
        notes.append(what)

    def ended(_, frames):
        nonlocal decoded
        decoded = frames

    sink = Sink(add, fail, note, count, ended, path_for=lambda *_: copy, copies_needed=False)
    answer([path], Search(), model, sink)
    if not decoded:
        raise ValueError("; ".join(notes))
    return {"tracks": tracks, "notes": notes}, copy if copy.exists() else None


# %% From the command line
refuse = functools.partial(errors.refuse, program="page.py")


def parse_settings(argv):
    """The settings as an argparse namespace, checked."""
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\n{NOTE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.error = refuse
    add = parser.add_argument
    add("--run", type=Path, default=PRETRAINED, help="folder of a finished run")
    add("--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this machine alone)")
    add(
        "--allow-origin",
        action="append",
        default=[],
        metavar="URL",
        help="address by which the browser reaches the page through a proxy or a forwarded port, "
        "as https://NAME; may be given several times",
    )
    add_interval(parser)
    add("--port", type=int, default=7860, help="0: any that is free (7860)")
    add("--cuda", type=int, default=-1, help="CUDA device number; -1: the CPU (-1)")
    args = parser.parse_args(argv)
    if not 0 <= args.port <= 65535:
        refuse(f"--port {args.port}: must be from 0 to 65535")
    args.allow_origin = [origin.lower().rstrip("/") for origin in args.allow_origin]
    for origin in args.allow_origin:
        if not ORIGIN.fullmatch(origin):
            refuse(f"--allow-origin {origin}: give the page's address, as https://NAME:PORT")
    return args


def serve(server, args):
    """Load the model, print where the page is, and serve until a signal."""
    need_detector()
    server.model = load(args.run, cuda=args.cuda)
    server.model.interval = args.interval
    faces(server.model, np.zeros((64, 64, 3), np.uint8))  # the first one is slow
    facts, (host, port) = about(server.model), server.server_address[:2]
    if not ipaddress.ip_address(host).is_loopback:
        line = f"page.py: warning: all who reach this machine at {host} can use the page"
        say(line, sys.stderr)
    say(title(server.model, facts["model"]))
    print(NOTE)
    name = f"[{host}]" if ":" in host else host
    if ipaddress.ip_address(host).is_unspecified:
        name = "<this machine's IP address>"
    print(f"http://{name}:{port} is the page; Ctrl-C ends it", flush=True)
    server.serve_forever()


def main(argv=None):
    """Serve until SIGINT, SIGTERM or SIGHUP; the exit code."""
    args = parse_settings(argv)
    warnings.simplefilter("ignore")  # of odd tags and palettes, which a visitor cannot mend
    numbers = end_as_on_ctrl_c("SIGINT", "SIGTERM", "SIGHUP")
    try:
        with Server(args.host, args.port, args.allow_origin) as server:
            try:
                serve(server, args)
            except KeyboardInterrupt:
                for number in numbers:  # ending takes a second or two
                    signal.signal(number, signal.SIG_IGN)
    except InputError as error:
        refuse(error)
    except OSError as error:
        refuse(f"--host {args.host} --port {args.port}: {error.strerror or error}", 1)
    print("page.py: ended")
    return 0


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):  # in a notebook it has not
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has all characters
    sys.exit(main())
