"""Train a network, by EasyReg's name for it: the same as `monaiseg train`."""

import sys

from monaiseg.cli import app

if __name__ == "__main__":
    app(["train", *sys.argv[1:]])
