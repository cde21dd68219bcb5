"""The command line: one module a command or group of commands.

Each command is a docstring, typed options and one call. Imports of torch and MONAI wait inside the commands, so that
`--help` answers at once. `print` and `typer.echo` occur in this package alone.
"""

from monaiseg.cli import bundle, demo, evaluate, plan, predict, prepare, settings, train
from monaiseg.cli.main import app

app.command()(prepare.prepare)
app.command()(plan.plan)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(predict.predict)
app.command()(evaluate.eval_seg)
app.command()(demo.demo)
app.add_typer(settings.settings_app, name="settings")
app.add_typer(bundle.bundle_app, name="bundle")

__all__ = ["app"]
