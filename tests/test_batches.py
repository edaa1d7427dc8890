"""Order and crops are those of a real torch DataLoader, bit for bit."""

from types import SimpleNamespace

import pandas as pd
import PIL.Image
import pytest
import torch
from conftest import ROOT, first_rows, load, plain_dataset, read_split, sample
from torch.utils.data import DataLoader
from torchvision import transforms

CPU = torch.device("cpu")


def settings(tmp_path, **changes):
    options = {"batch_size": 8, "image_size": 120, "flip": 0, "numworkers": 4}
    options |= {"channels_last": 0, "cache_dir": tmp_path}
    return SimpleNamespace(**options | changes)


def small_splits(module, tmp_path, train=21, test=10):
    """The first rows of the sample's two CSVs, decoded."""
    first_rows(module.DATASET, tmp_path, train=train, test=test)
    csvs = {name: tmp_path / f"{name}.csv" for name in ("train", "test")}
    images = sample(module) / "images"
    splits = {name: read_split(module, csv, images) for name, csv in csvs.items()}
    module.load_pixels(splits, settings(tmp_path))
    return splits


@pytest.mark.parametrize("dataset", ["afad", "morph2"])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_against_data_loader(dataset, workers, tmp_path):
    module = load(ROOT / f"model-code/{dataset}-coral.py")
    splits = small_splits(module, tmp_path)
    args = settings(tmp_path, numworkers=workers)
    passes = ("train", "test", "train", "train")
    expected, found = [], []

    torch.manual_seed(3)
    crops = {"train": transforms.RandomCrop, "test": transforms.CenterCrop}
    loaders = {}
    for name, crop in crops.items():
        images = plain_dataset(module, tmp_path / f"{name}.csv", sample(module) / "images", crop)
        loaders[name] = DataLoader(images, 8, shuffle=name == "train", num_workers=workers)
    for name in passes:
        expected += list(loaders[name])

    torch.manual_seed(3)
    for name in passes:
        for batch in module.batches(splits[name], args, CPU, name == "train"):
            assert torch.equal(batch.labels, splits[name].labels[batch.rows])
            assert (batch.count, batch.computed) == (len(batch.rows), slice(0, len(batch.rows)))
            found.append((batch.images, batch.labels))
    assert [len(labels) for _, labels in found] == [8, 8, 5, 8, 2, 8, 8, 5, 8, 8, 5]
    for (images, labels), (loader_images, loader_labels) in zip(found, expected, strict=True):
        assert torch.equal(labels, loader_labels)
        assert torch.equal(images, loader_images)


def test_random_state_afterwards(tmp_path):
    """A pass leaves the global generator as a DataLoader's pass does."""
    module = load(ROOT / "model-code/afad-coral.py")
    splits = small_splits(module, tmp_path, train=9, test=3)
    args = settings(tmp_path)
    for name, train in (("train", True), ("test", False)):
        torch.manual_seed(4)
        loader = DataLoader(range(9), 4, shuffle=train, num_workers=2)
        list(loader)
        state = torch.get_rng_state()
        torch.manual_seed(4)
        list(module.batches(splits[name], args, CPU, train))
        assert torch.equal(torch.get_rng_state(), state)


def test_going_on_within_a_pass(tmp_path):
    module = load(ROOT / "model-code/afad-coral.py")
    split = small_splits(module, tmp_path)["train"]
    for flip in (0, 1):
        args = settings(tmp_path, flip=flip, numworkers=2)
        torch.manual_seed(5)
        whole = list(module.batches(split, args, CPU, True))
        torch.manual_seed(5)
        rest = list(module.batches(split, args, CPU, True, first=1))
        assert [batch.number for batch in rest] == [1, 2]
        for after, before in zip(rest, whole[1:], strict=True):
            assert (after.rows == before.rows).all()
            assert torch.equal(after.images, before.images)


def test_mirroring_changes_nothing_else(tmp_path):
    module = load(ROOT / "model-code/afad-coral.py")
    split = small_splits(module, tmp_path)["train"]
    passes = {}
    for flip in (0, 1):
        torch.manual_seed(6)
        batches = module.batches(split, settings(tmp_path, flip=flip), CPU, True)
        passes[flip] = [
            pair for batch in batches for pair in zip(batch.rows, batch.images, strict=True)
        ]
    mirrored = 0
    for (row, plain), (same_row, image) in zip(passes[0], passes[1], strict=True):
        assert row == same_row
        mirrored += (image != plain).any()
        assert (image == plain).all() or (image == plain.flip(2)).all()
    assert 4 <= mirrored <= 17  # of 21; beyond with probability below 0.01


@pytest.mark.parametrize("size, side", [(120, 128), (64, 68), (96, 102)])
def test_sizes(size, side, tmp_path):
    """Photos are resized to round(S * 128 / 120), crops have S pixels, central ones the middle."""
    module = load(ROOT / "model-code/afad-coral.py")
    splits = {"test": read_split(module, sample(module) / "test.csv", sample(module) / "images")}
    splits["test"].files, splits["test"].labels = splits["test"].files[:3], torch.zeros(3)
    splits["test"].genders = torch.zeros(3)
    args = settings(tmp_path, image_size=size)
    module.load_pixels(splits, args)
    batch = next(module.batches(splits["test"], args, CPU))
    steps = [transforms.Resize((side, side)), transforms.CenterCrop(size), transforms.ToTensor()]
    for image, file in zip(batch.images, splits["test"].files, strict=True):
        expected = transforms.Compose(steps)(PIL.Image.open(file))
        assert torch.equal(image, expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_kinds_of_images(mode, tmp_path):
    """They are converted to RGB as Pillow does."""
    module = load(ROOT / "model-code/cacd-coral.py")
    source = sorted((sample(module) / "images").glob("*.jpg"))[0]
    with PIL.Image.open(source) as image:
        other = image.convert(mode)
    name = "14_A_0001." + ("jpg" if mode == "CMYK" else "png")
    other.save(tmp_path / name)
    pd.DataFrame({"file": [name], "age": [0]}).to_csv(tmp_path / "test.csv")
    splits = {"test": read_split(module, tmp_path / "test.csv", tmp_path)}
    module.load_pixels(splits, settings(tmp_path))
    with PIL.Image.open(tmp_path / name) as image:
        expected = transforms.PILToTensor()(image.convert("RGB").resize((128, 128), 2))
    assert torch.equal(torch.from_numpy(splits["test"].pixels[0]), expected)


def test_pixels_leave_nothing_behind(tmp_path):
    module = load(ROOT / "model-code/afad-coral.py")
    splits = small_splits(module, tmp_path, train=3, test=2)
    assert splits["train"].pixels.shape == (3, 3, 128, 128)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["test.csv", "train.csv"]
