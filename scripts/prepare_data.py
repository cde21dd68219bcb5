"""Organise a dataset, by EasyReg's name for it: the same as `monaiseg prepare`."""

import sys

from monaiseg.cli import app

if __name__ == "__main__":
    app(["prepare", *sys.argv[1:]])
