"""Draw report.png: the top of the page that summarize.py --out makes of finished runs.

    python images/draw-report.py model-code/results/20-minutes/*

needs Chromium: the system's, or that of "playwright install chromium".
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from browser import photograph
from PIL import Image

SUMMARIZE = Path(__file__).resolve().parent.parent / "model-code" / "summarize.py"
SIZE = 1120, 1660  # pixels


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
            picture = photograph(Path(folder, "index.html").as_uri(), SIZE)
            picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE)
            picture.save(args.out, optimize=True)
        except Exception as problem:  # of a browser there are many
            reason = " ".join(str(problem).split())[:200]
            parser.error(f"--out {args.out}: not drawn: {type(problem).__name__}: {reason}")


if __name__ == "__main__":
    main()
