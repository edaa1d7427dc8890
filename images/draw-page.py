"""Draw page.png, a picture of the page that `export.py --page` makes, with a photo and its answer.

    python images/draw-page.py SITE

SITE is such a folder. The photo is NASA's portrait of Eileen Collins, in the public domain, of
scikit-image. It needs Chromium: the system's, or that of "playwright install chromium".
"""

import functools
import http.server
import io
import shutil
import sys
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from skimage import data

OUT = Path(__file__).resolve().parent / "page.png"
PART = 0, 0, 512, 360  # of the portrait's pixels
SIZE = {"width": 1000, "height": 740}  # of the window, in pixels


def take(address, photo):
    """A picture of the page at ``address`` with its answer for ``photo``, the bytes of a PNG."""
    browsers = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    with sync_playwright() as playwright:
        path = next(filter(None, browsers), None)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(address)
        page.fill("#over", "18")
        file = {"name": "portrait.png", "mimeType": "image/png", "buffer": photo}
        page.set_input_files("#files", file)
        page.locator("article").wait_for(timeout=300_000)
        page.locator("#work").wait_for(state="hidden")
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        content = page.screenshot()
        browser.close()
    return Image.open(io.BytesIO(content))


def main(site):
    portrait = io.BytesIO()
    Image.fromarray(data.astronaut()).crop(PART).save(portrait, "PNG")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        picture = take(f"http://127.0.0.1:{server.server_address[1]}/", portrait.getvalue())
        server.shutdown()
    picture.convert("RGB").quantize(256).save(OUT, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
