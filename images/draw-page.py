"""Draw page.png, a picture of the page that `export.py --page` makes, with a photo and its answer.

    python images/draw-page.py SITE

SITE is such a folder. The photo is NASA's portrait of Eileen Collins, in the public domain, of
scikit-image. It needs Chromium: the system's, or that of "playwright install chromium".
"""

import functools
import http.server
import io
import sys
import threading
from pathlib import Path

from browser import photograph
from PIL import Image
from skimage import data

OUT = Path(__file__).resolve().parent / "page.png"
PART = 0, 0, 512, 360  # of the portrait's pixels
SIZE = 1000, 740  # of the window, in pixels


def answered(photo):
    """What a visitor does: the age limit of 18, and the ``photo``, the bytes of a PNG."""

    def use(page):
        page.fill("#over", "18")
        file = {"name": "portrait.png", "mimeType": "image/png", "buffer": photo}
        page.set_input_files("#files", file)
        page.locator("article").wait_for(timeout=300_000)
        page.locator("#work").wait_for(state="hidden")
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")

    return use


def main(site):
    portrait = io.BytesIO()
    Image.fromarray(data.astronaut()).crop(PART).save(portrait, "PNG")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        picture = photograph(address, SIZE, answered(portrait.getvalue()))
        server.shutdown()
    picture.quantize(256).save(OUT, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
