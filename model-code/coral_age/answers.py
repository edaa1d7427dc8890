"""What a network answers about faces, and how that is told in years, intervals and words."""

from pathlib import Path

import numpy as np
import torch

from coral_age import doubts
from coral_age.audit import p_at_least
from coral_age.errors import InputError
from coral_age.intervals import class_probas, interval

NOTE = (
    "Apparent ages, and a binary label for gender, as a network learned them from labelled photos. "
    "Off by years for single persons, and unable to answer outside the ages of those photos. No "
    "proof of anybody's age or gender; not made to decide about people."
)
LEVELS = 50, 60, 70, 80, 90, 95, 99  # percent: of intervals in a table of calibrate.py


# %% The network
def prepare(image, model):
    """uint8 (3, S, S) of a PIL image, as the training script prepares a test image."""
    return model.script.central_crop(model.script.prepare_image(image, model.size), model.size)


def infer(images, model, batch_size):
    """Of a list of uint8 (3, S, S), what the script answers in its tests: probabilities, float32
    (n, K-1), for ce (n, K), and P(male) (n,) or n times None."""
    probas, male = [], []
    for start in range(0, len(images), batch_size):
        batch = np.stack(images[start : start + batch_size])
        batch = model.script.to_device(batch, model.device, model.channels_last)
        answers = model.script.predict_batch(model.network, batch, model.flip, model.shifts)
        told = answers if model.network.fc_gender else answers[:1]
        if not all(part.isfinite().all() for part in told):
            reason = "its network answers what is no number: it is damaged, or training diverged"
            raise InputError(f"{Path(model.weights).name}: {reason}")
        probas.append(answers[0].cpu())
        male += answers[1].tolist() if model.network.fc_gender else [None] * len(batch)
    return torch.cat(probas) if probas else [], male


def infer_faces(faces, model, batch_size):
    """The means of infer() over the images of each of ``faces``, which are lists of images."""
    probas, male = infer([image for images in faces for image in images], model, batch_size)
    if faces:
        sizes = [len(images) for images in faces]
        probas = torch.stack([part.mean(0) for part in probas.split(sizes)])
        if model.network.fc_gender:
            male = [part.mean().item() for part in torch.tensor(male).split(sizes)]
        else:
            male = [None] * len(faces)
    return probas, male


# %% What is said of a face
def heading(model):
    """What predictions.json says of all faces."""
    script = model.script
    oldest = script.YOUNGEST_AGE + script.NUM_CLASSES - 1
    facts = {"weights": model.weights, "dataset": script.DATASET, "loss": script.LOSS}
    facts |= {"ages": [script.YOUNGEST_AGE, oldest], "interval_coverage": model.interval / 100}
    if model.shares is not None:
        facts["interval_calibrated"] = True
    facts |= {"over": list(model.over)} if model.over else {}
    return {"note": NOTE, "model": facts}


def share_due(model, label):
    """The share of the probability that an interval of model.interval percent must hold where
    ``label`` is predicted: by the table that calibrate.py made, or else just that."""
    if not 50 <= model.interval <= 99:
        raise InputError(f"model.interval is {model.interval}: give percent, from 50 to 99")
    if model.shares is None:
        return model.interval / 100
    return np.interp(model.interval, LEVELS, model.shares[:, label]).item()


def estimate(probas, male, model):
    """The columns about age and gender, in years and probabilities, from one row of infer()."""
    script = model.script
    label = script.predict_labels(torch.as_tensor(probas)[None]).item()
    classes = class_probas(probas, script.NUM_CLASSES)
    first, last, held = interval(classes, label, share_due(model, label))
    ages = [script.YOUNGEST_AGE + number for number in (label, first, last)]
    columns = dict(zip(("age", "age_low", "age_high"), ages, strict=True))
    columns["interval_probability"] = round(held, 4)
    columns["at_end_of_range"] = label in (0, script.NUM_CLASSES - 1)
    for limit in model.over:
        columns[f"over_{limit}"] = round(float(p_at_least(classes, script.YOUNGEST_AGE, limit)), 4)
    if male is not None:
        columns["gender"] = "male" if male > 0.5 else "female"
        columns["gender_probability"] = round(max(male, 1 - male), 4)
    return columns | doubts.of_answer(columns)


def words_of(row, model):
    """Age, interval and gender of a row in words: 32, 27-38, female 83%."""
    end = ""
    if row["at_end_of_range"] and row["age"]:
        end = " or younger" if row["age"] == model.script.YOUNGEST_AGE else " or older"
    gender = f"{row['gender']} {row['gender_probability']:.0%}" if "gender" in row else ""
    return f"{row['age']}{end}", f"{row['age_low']}-{row['age_high']}", gender


def shares_over(row, model):
    """[("18+", "97%"), ...] of a row, of the ages that the model is asked about."""
    return [(f"{limit}+", f"{row[f'over_{limit}']:.0%}") for limit in model.over]


def sentence(row, model):
    """What is drawn beside a face: 32 (27-38), female 83%, 18+ 97%."""
    age, years, gender = words_of(row, model)
    others = [gender] * bool(gender) + [" ".join(pair) for pair in shares_over(row, model)]
    return ", ".join([f"{age} ({years})", *others])
