"""What runs on a GPU gives what runs on the CPU: to be run wherever there is one.

    python -m pytest tests/test_cuda.py -n 0 -m ""                            on cuda:0
    CORAL_TEST_DEVICE=cpu python -m pytest tests/test_cuda.py -n 0 -m ""      the CPU in its place

Without a CUDA device the tests are skipped. With CORAL_TEST_DEVICE=cpu they run on the CPU, so that
all of them but the device is known to be right; left out is then only what a CPU does not have.
"""

import csv
import json
import math
import os
import re
import shlex
import subprocess
import sys
import warnings
from types import SimpleNamespace

import golden
import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import ROOT, load, run
from test_golden import FEW, Enough, load_setting, stop
from test_golden import options as options  # a fixture
from test_recipe import FAST
from test_scripts import tiny_options

ON_CPU = os.environ.get("CORAL_TEST_DEVICE") == "cpu"
DEVICE = torch.device("cpu") if ON_CPU else torch.device("cuda", 0)
CUDA = "--cuda=-1" if ON_CPU else "--cuda=0"
SCRIPT = ROOT / "model-code" / "utk-coral.py"
