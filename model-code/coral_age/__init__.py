"""Age and gender of the faces in photos and videos, by a network that a training script made.

    import coral_age

    model = coral_age.load()  # the model that comes along, or load("runs/utk-coral-seed1")
    for face in coral_age.faces(model, "photo.jpg"):
        print(face["age"], face["gender"])

Importing it is quick: what needs torch is imported when it is first used. The commands that stand
on it are predict.py, page.py and others (coral-age --help).
"""

import importlib

FROM = {  # where these are
    "InputError": "errors",
    "NOTE": "answers",
    "faces": "pictures",
    "load": "runs",
    "video": "pictures",
}
__all__ = list(FROM)


def __getattr__(name):
    if name not in FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{FROM[name]}"), name)
