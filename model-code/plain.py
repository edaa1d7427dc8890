"""CORAL in one plain file: ages on UTKFace (Cao et al., arXiv 1901.07884), as the paper trains.

    python plain.py --epochs 2 --batch_size 24       half a minute, on the drawn faces of the sample

From top to bottom: the paper's loss, network, data, training and evaluation, with torchvision and
torch's DataLoader where they do the same. utk-coral.py in the paper's recipe prints the same costs
and errors and saves the same weights, to the bit on a CPU; tests/test_plain_loop.py asserts so.
What utk-coral.py does beyond that is not here: it decodes each image once, checks the data,
resumes, and keeps records. For real ages edit the paths, and ask what was trained by

    python predict.py photo.jpg --weights run-plain/model.pt --script utk-coral.py
"""

import argparse
import math
from pathlib import Path

import pandas as pd
import PIL.Image
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models.resnet import BasicBlock

SAMPLE = Path(__file__).resolve().parent.parent / "datasets" / "sample" / "utk"
TRAIN_CSV_PATH = SAMPLE / "train.csv"  # columns: file; age, in years above the youngest
TEST_CSV_PATH = SAMPLE / "test.csv"
IMAGE_PATH = SAMPLE / "images"
NUM_CLASSES = 40  # ages 21 to 60

EPOCHS, BATCH_SIZE, LEARNING_RATE = 200, 256, 0.0005  # the paper's
NUM_WORKERS = 4  # each draws crops of its own: another number gives other results
DEVICE = torch.device("cpu")  # or "cuda", where the last digits differ


# %% CORAL
def levels_of(labels):
    """t_k = 1 if y > k else 0, for k = 0..K-2; float32 (batch, K-1)."""
    return (labels[:, None] > torch.arange(NUM_CLASSES - 1, device=labels.device)).float()


def cost_fn(logits, labels, imp):
    """Binary cross-entropies of the tasks y > k of each image, weighted and summed (paper, eq. 4);
    (batch,). ``logits`` (batch, K-1), ``labels`` (batch,), ``imp`` (K-1,), or (1,) for no weights.
    The paper sums over the images as well, its code takes their mean."""
    levels = levels_of(labels)
    log_probas = F.logsigmoid(logits)
    terms = log_probas * levels + (log_probas - logits) * (1 - levels)
    return -torch.sum(terms * imp, dim=1)


def task_importance_weights(labels):
    """w_k = sqrt(m_k) / max_j sqrt(m_j), m_k = max(n_k, N - n_k), n_k the number of the N training
    ``labels`` above k (paper, section 3.3); (K-1,)."""
    above = levels_of(labels).sum(0)
    importance = torch.maximum(above, len(labels) - above).sqrt()
    return importance / importance.max()


def predict_labels(probas):
    """The number of P(y > k) above 0.5 (paper, eq. 1); int64 (batch,)."""
    return (probas > 0.5).sum(1)


# %% Network
class CoralResNet34(torchvision.models.ResNet):
    """float32 (batch, 3, 120, 120) in [0, 1] to the logits of y > k, (batch, K-1): one weight
    vector for all tasks, and a bias for each, zero at first (paper, section 3.2)."""

    def __init__(self):
        super().__init__(BasicBlock, [3, 4, 6, 3])
        self.avgpool = nn.AvgPool2d(7, stride=1, padding=2)  # of 4x4 to 2x2, with 512 channels
        self.fc = nn.Linear(2048, 1, bias=False)
        self.linear_1_bias = nn.Parameter(torch.zeros(NUM_CLASSES - 1))

    def forward(self, x):
        return super().forward(x) + self.linear_1_bias


def draw_weights(network):
    """Draw the first weights as the paper's code does, so that a seed gives the same ones: torch's
    default for every layer, then each convolution once more (He et al. 2015)."""
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


# %% Data
class FaceDataset(Dataset):
    """Image and label of each row of a CSV, the images in ``folder`` named by ``column``."""

    def __init__(self, csv, folder, transform, column="file"):
        table = pd.read_csv(csv)
        self.files = [Path(folder) / name for name in table[column]]
        self.labels = torch.tensor(table["age"].to_numpy())
        self.transform = transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, row):
        with PIL.Image.open(self.files[row]) as image:
            return self.transform(image.convert("RGB")), self.labels[row]


def make_transform(crop):
    """A PIL image to float32 (3, 120, 120) in [0, 1]; ``crop`` is RandomCrop or CenterCrop."""
    return transforms.Compose([transforms.Resize((128, 128)), crop(120), transforms.ToTensor()])


# %% Training
def train(network, loader, imp, epochs, log_every):
    """Train by Adam, at the same learning rate throughout."""
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    last_batch = len(loader.dataset) // loader.batch_size  # as the paper's code counts

    for epoch in range(epochs):
        network.train()
        for number, (images, labels) in enumerate(loader):
            logits = network(images.to(DEVICE))
            cost = cost_fn(logits, labels.to(DEVICE), imp).mean()

            optimizer.zero_grad()
            cost.backward()
            optimizer.step()

            if number % log_every == 0:
                batch = f"{epoch + 1:03d}/{epochs:03d} | Batch {number:04d}/{last_batch:04d}"
                print(f"Epoch: {batch} | Cost: {cost:.4f}", flush=True)


# %% Evaluation
@torch.no_grad()
def compute_mae_and_mse(network, loader):
    """Mean absolute error (years) and mean squared error (years^2) of the predicted ages."""
    network.eval()
    errors = []
    for images, labels in loader:
        probas = torch.sigmoid(network(images.to(DEVICE)))
        errors.append(predict_labels(probas).cpu() - labels)

    errors = torch.cat(errors).double()
    return errors.abs().mean().item(), errors.square().mean().item()


# %% Main
def main(argv=None):
    """Train, evaluate and save, with the given command-line arguments."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--seed", type=int, default=1, help="of weights, order and crops")
    add("--epochs", type=int, default=EPOCHS, help="passes over the training images")
    add("--batch_size", type=int, default=BATCH_SIZE, help="images in a step")
    add("--imp_weight", type=int, default=0, choices=(0, 1), help="1: task importance weights")
    add("--log_every", type=int, default=50, help="batches from one cost line to the next")
    add("--train_csv", type=Path, default=TRAIN_CSV_PATH, help="training rows")
    add("--test_csv", type=Path, default=TEST_CSV_PATH, help="test rows")
    add("--image_path", type=Path, default=IMAGE_PATH, help="folder of the images")
    add("--outpath", type=Path, default="run-plain", help="folder that receives model.pt")
    args = parser.parse_args(argv)
    args.outpath.mkdir(parents=True, exist_ok=True)
    if (args.outpath / "model.pt").exists():
        parser.error(f"{args.outpath} holds a model.pt already: name another --outpath")

    train_set = FaceDataset(args.train_csv, args.image_path, make_transform(transforms.RandomCrop))
    test_set = FaceDataset(args.test_csv, args.image_path, make_transform(transforms.CenterCrop))
    loading = {"batch_size": args.batch_size, "num_workers": NUM_WORKERS}
    train_loader = DataLoader(train_set, shuffle=True, **loading)
    test_loader = DataLoader(test_set, **loading)
    imp = task_importance_weights(train_set.labels) if args.imp_weight else torch.ones(1)

    network = CoralResNet34()
    torch.manual_seed(args.seed)  # gives the weights, then the order and crops of every pass
    draw_weights(network)
    train(network.to(DEVICE), train_loader, imp.to(DEVICE), args.epochs, args.log_every)
    torch.save(network.state_dict(), args.outpath / "model.pt")

    metrics = "MAE/RMSE:"  # of the training images by random crops, as in the paper's code
    for title, loader in (("Train", train_loader), ("Test", test_loader)):
        mae, mse = compute_mae_and_mse(network, loader)
        metrics += f" | {title}: {mae:.2f}/{math.sqrt(mse):.2f}"
    print(metrics)


if __name__ == "__main__":
    main()
