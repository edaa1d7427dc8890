"""Draw report.png: the top of the page that summarize.py --out makes of finished runs.

    python images/draw-report.py model-code/results/20-minutes/*

needs Chromium: the system's, or that of "playwright install chromium".
"""

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

SUMMARIZE = Path(__file__).resolve().parent.parent / "model-code" / "summarize.py"
SIZE = {"width": 1120, "height": 1660}  # pixels


def photograph(page):
    """The top of an HTML file, as a browser shows it in light colours."""
    from playwright.sync_api import sync_playwright

    browsers = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    with sync_playwright() as playwright:
        path = next(filter(None, browsers), None)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        window = browser.new_page(viewport=SIZE, color_scheme="light")
        window.goto(page.as_uri(), timeout=600_000)  # ms: other work may keep a machine busy
        content = window.screenshot()
        browser.close()
    return Image.open(io.BytesIO(content))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("report.png"))
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: error: {message}\n")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, SUMMARIZE, *args.runs, "--out", folder]
        if code := subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            sys.exit(code)
        try:
            picture = photograph(Path(folder, "index.html"))
            picture = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
            picture.save(args.out, optimize=True)
        except Exception as problem:  # of a browser there are many
            reason = " ".join(str(problem).split())[:200]
            parser.error(f"--out {args.out}: not drawn: {type(problem).__name__}: {reason}")


if __name__ == "__main__":
    main()
