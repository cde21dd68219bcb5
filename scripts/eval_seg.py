"""Evaluate a network, by EasyReg's name for it: the same as `monaiseg eval-seg`."""

import sys

from monaiseg.cli import app

if __name__ == "__main__":
    app(["eval-seg", *sys.argv[1:]])
