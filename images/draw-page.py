"""Draw page.png, a picture of the page that `export.py --page` makes, with a photo and its answers.

    python images/draw-page.py SITE PHOTO

SITE is such a folder; PHOTO is that of draw-prediction.py, of which three people are shown. It
needs Chromium: the system's, or that of "playwright install chromium".
"""

import functools
import http.server
import io
import sys
import threading
from pathlib import Path

from browser import photograph
from PIL import Image

OUT = Path(__file__).resolve().parent / "page.png"
PART = 4060, 1200, 5260, 2050  # of the photo's pixels
SIZE = 1000, 900  # of the window, in pixels


def answered(photo):
    """What a visitor does: the age limit of 18, and the ``photo``, the bytes of a JPEG."""

    def use(page):
        page.fill("#over", "18")
        file = {"name": "crew.jpg", "mimeType": "image/jpeg", "buffer": photo}
        page.set_input_files("#files", file)
        page.locator("article").wait_for(timeout=300_000)
        page.locator("#work").wait_for(state="hidden")
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")

    return use


def main(site, photo):
    part = io.BytesIO()
    Image.open(photo).crop(PART).save(part, "JPEG", quality=95)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        picture = photograph(address, SIZE, answered(part.getvalue()))
        server.shutdown()
    picture.quantize(256).save(OUT, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
