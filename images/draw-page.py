"""Make page.jpg, the picture of the page in docs/predict.md.

    python model-code/export.py model-code/pretrained site --page
    python images/draw-page.py site [CHROMIUM]

The portrait is NASA's, of Eileen Collins, which scikit-image brings; works of NASA are in the
public domain. It takes playwright and its Chromium (``playwright install chromium``), or the one
given.
"""

import functools
import http.server
import io
import sys
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from skimage import data

OUT = Path(__file__).resolve().parent / "page.jpg"
WIDTH, HEIGHT = 1000, 760


def take(address, photo, chromium=None):
    """The bytes of the picture of the page at ``address``, with its answer for the ``photo``."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(address)
        page.set_input_files("#files", photo)
        page.locator("article strong").wait_for(timeout=300_000)
        page.locator("#work").wait_for(state="hidden")
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT}
        return page.screenshot(full_page=True, clip=clip, type="jpeg", quality=85)


def main():
    site, *chromium = sys.argv[1:]
    content = io.BytesIO()
    Image.fromarray(data.astronaut()).save(content, "PNG")
    photo = {"name": "portrait.png", "mimeType": "image/png", "buffer": content.getvalue()}
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        OUT.write_bytes(take(f"http://127.0.0.1:{server.server_address[1]}/", photo, *chromium))
        server.shutdown()


if __name__ == "__main__":
    main()
