"""The commands as one: coral-age predict photo.jpg is python model-code/predict.py photo.jpg."""

import runpy
import sys

from coral_age.files import MODEL_CODE

COMMANDS = "predict", "page", "export", "summarize", "average", "calibrate", "ray"
FILES = {"ray": "predict_ray"}  # a ray.py would hide the package of that name
USAGE = f"coral-age {' | '.join(COMMANDS)}, each with options of its own: coral-age predict --help"


def main():
    """Run the command that the first argument names, with the others."""
    if sys.argv[1:] in (["--help"], ["-h"]):
        print(USAGE)
    elif len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f"coral-age: error: give a command: {USAGE}", file=sys.stderr)
        sys.exit(2)
    else:
        name = sys.argv.pop(1)
        runpy.run_path(str(MODEL_CODE / f"{FILES.get(name, name)}.py"), run_name="__main__")


if __name__ == "__main__":
    main()
