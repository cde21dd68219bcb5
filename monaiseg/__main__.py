"""`python -m monaiseg` is the command line."""

from monaiseg.cli import app

app()
