"""coral_age.faces() of many images says what it says of each, in their order."""

import io
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import coral_age
import numpy as np
import pytest
import torch
from PIL import Image
from test_predict import FACE, GREY

BATCH = 16  # images that are taken at once, and faces that the network sees


@pytest.fixture(scope="module")
def model():
    return coral_age.load()


def encoded(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def several():
    """A face, two of them, none, and a face of another size."""
    two, none = Image.new("RGB", (600, 300), GREY), Image.new("RGB", (200, 100), GREY)
    for left in (20, 320):
        two.paste(FACE, (left, 20))
    return [FACE, two, none, FACE.resize((128, 128))]


def same(found, due):
    """Are these the same faces? A network may round otherwise in a batch of another size."""
    assert len(found) == len(due)
    for one, other in zip(found, due, strict=True):
        assert one["age_probas"] == pytest.approx(other["age_probas"], abs=1e-5)
        named = [key for key in due[0] if not key.endswith(("probas", "probability"))]
        assert [one[key] for key in named] == [other[key] for key in named]
    return True


@pytest.mark.parametrize("crops", [False, True])
def test_many_are_as_one_by_one(model, crops, tmp_path):
    """Arrays, PIL images, bytes and paths, in a list, and from a generator."""
    images = several()
    due = [coral_age.faces(model, image, crops=crops) for image in images]
    assert [len(faces) for faces in due] == ([1] * 4 if crops else [1, 2, 0, 1])
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
    kinds = [
        images,
        [np.asarray(image) for image in images],
        [encoded(image) for image in images],
        (encoded(image) for image in images),
    ]
    for kind in kinds:
        found = list(coral_age.faces(model, kind, crops=crops))
        assert all(same(*pair) for pair in zip(found, due, strict=True))
    paths = [str(tmp_path / f"{i}.png") for i in range(4)]
    found = list(coral_age.faces(model, paths, crops=crops))
    named = [
        [face | {"source": path} for face in faces] for path, faces in zip(paths, due, strict=True)
    ]
    assert all(same(*pair) for pair in zip(found, named, strict=True))
    assert list(coral_age.faces(model, [])) == []


def test_bytes_are_an_image(model):
    """A single one: what is said of a path, without a source."""
    [face] = coral_age.faces(model, encoded(FACE))
    assert face["source"] == "" and same([face], coral_age.faces(model, FACE))


def test_an_error_per_image(model, tmp_path):
    """It stands in the place of its image, and the others are answered."""
    (tmp_path / "letter.jpg").write_bytes(b"Dear reader,\n" * 9)
    bad = [tmp_path / "none.png", tmp_path / "letter.jpg", b"", np.zeros((9, 9)), 7]
    mixed = [FACE, *itertools.chain(*([image, FACE] for image in bad))]
    found = list(coral_age.faces(model, mixed))
    [due] = coral_age.faces(model, [FACE])
    assert all(same(faces, due) for faces in found[::2])
    kinds = [FileNotFoundError, ValueError, Image.UnidentifiedImageError]
    assert [type(error) for error in found[1::2]] == [*kinds, ValueError, TypeError]
    with pytest.raises(TypeError, match="not iterable"):  # at once, not when the first is asked for
        coral_age.faces(model, 7)
    with pytest.raises(TypeError, match="'crop'"):
        coral_age.faces(model, [FACE], crop=True)


def test_the_network_sees_batches_and_the_user_no_delay(model, monkeypatch):
    """40 crops are three batches; of endless ones no more are taken than two batches ahead, each
    in the user's thread."""
    seen, real = [], model.script.predict_batch

    def predict_batch(network, images, *rest):
        seen.append(len(images))
        return real(network, images, *rest)

    monkeypatch.setattr(model.script, "predict_batch", predict_batch)
    small = FACE.resize((64, 64))
    assert len(list(coral_age.faces(model, [small] * 40, crops=True))) == 40
    assert seen == [BATCH, BATCH, 8]
    taken = []

    def endless():
        while True:
            taken.append(threading.get_ident())
            yield small

    first = next(coral_age.faces(model, endless(), crops=True))
    assert len(first) == 1 and len(taken) == 2 * BATCH and set(taken) == {threading.get_ident()}


def test_several_threads(model):
    """One model in four threads at once gives each its own answers."""
    images = several()
    due = [coral_age.faces(model, image) for image in images]

    def ask(turn):
        order = [(i + turn) % 4 for i in range(8)]
        return order, list(coral_age.faces(model, [images[i] for i in order]))

    with ThreadPoolExecutor(4) as pool:
        for order, found in pool.map(ask, range(4)):
            assert all(same(faces, due[i]) for i, faces in zip(order, found, strict=True))
    assert torch.is_grad_enabled()
