"""Train a network, by the name that EasyReg's guide gives once: the same as `train_seg.py`."""

import sys

from monaiseg.cli import app

if __name__ == "__main__":
    app(["train", *sys.argv[1:]])
