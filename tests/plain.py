"""The images of a CSV for a torch DataLoader, as a plain training script has them."""

import pandas as pd
import PIL.Image
from torch.utils.data import Dataset
from torchvision import transforms


class Images(Dataset):
    """Image and label of each row of a CSV of the data set of ``module``, decoded when asked for;
    ``crop`` is torchvision's RandomCrop or CenterCrop."""

    def __init__(self, module, csv, folder, crop):
        self.table, self.column, self.folder = pd.read_csv(csv), module.FILE_COLUMN, folder
        first = [transforms.CenterCrop(140)] if module.DATASET == "morph2" else []
        steps = [*first, transforms.Resize((128, 128)), crop(120), transforms.ToTensor()]
        self.transform = transforms.Compose(steps)

    def __len__(self):
        return len(self.table)

    def __getitem__(self, row):
        with PIL.Image.open(self.folder / self.table[self.column].iloc[row]) as image:
            return self.transform(image), int(self.table["age"].iloc[row])
