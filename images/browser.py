"""What Chromium shows of a page: the system's, or that of "playwright install chromium"."""

import io
import shutil

from PIL import Image


def photograph(address, size, use=None):
    """The page at ``address`` in a window of ``size`` (width, height) pixels, in light colours, as
    a PIL image in RGB; ``use``, if given, is called with playwright's page before."""
    from playwright.sync_api import sync_playwright

    browsers = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    with sync_playwright() as playwright:
        path = next(filter(None, browsers), None)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        viewport = dict(zip(("width", "height"), size, strict=True))
        page = browser.new_page(viewport=viewport, color_scheme="light")
        page.goto(address, timeout=600_000)  # ms: other work may keep a machine busy
        if use:
            use(page)
        content = page.screenshot()
        browser.close()
    return Image.open(io.BytesIO(content)).convert("RGB")
