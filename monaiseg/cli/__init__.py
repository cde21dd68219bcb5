"""The command line: one module per command or group of commands.

Each command is a docstring, typed options and one call. torch and MONAI are imported inside the commands, so that
`--help` is instant. `print` and `typer.echo` are used only in this package.
"""

from monaiseg.cli import (
    bundle,
    check,
    compare,
    demo,
    eval_seg,
    evaluate,
    export,
    fit,
    plan,
    predict,
    prepare,
    report,
    settings,
    train,
)
from monaiseg.cli.main import app

_SMALL, _STEPS = "Start here", "Step by step"

app.command(no_args_is_help=True, rich_help_panel=_SMALL, epilog=fit.EXAMPLES)(fit.fit)
app.command(rich_help_panel=_SMALL)(demo.demo)
app.command(no_args_is_help=True, rich_help_panel=_STEPS, epilog=check.EXAMPLES)(check.check)
app.command(no_args_is_help=True, rich_help_panel=_STEPS, epilog=prepare.EXAMPLES)(prepare.prepare)
app.command(no_args_is_help=True, rich_help_panel=_STEPS, epilog=plan.EXAMPLES)(plan.plan)
app.command(no_args_is_help=True, rich_help_panel=_STEPS, epilog=train.EXAMPLES)(train.train)
app.command(no_args_is_help=True, rich_help_panel=_STEPS, epilog=evaluate.EXAMPLES)(
    evaluate.evaluate
)
app.command(no_args_is_help=True, rich_help_panel=_STEPS, epilog=report.EXAMPLES)(report.report)
app.command(no_args_is_help=True, rich_help_panel=_STEPS, epilog=predict.EXAMPLES)(predict.predict)
app.command(no_args_is_help=True, rich_help_panel="More", epilog=compare.EXAMPLES)(compare.compare)
app.command(no_args_is_help=True, rich_help_panel="More", epilog=export.EXPORT_EXAMPLES)(
    export.export
)
app.command(no_args_is_help=True, rich_help_panel="More", epilog=export.VERIFY_EXAMPLES)(
    export.verify
)
app.command("eval-seg", rich_help_panel="More")(eval_seg.eval_seg)
app.add_typer(settings.settings_app, name="settings", rich_help_panel="More")
app.add_typer(bundle.bundle_app, name="bundle", rich_help_panel="More")

__all__ = ["app"]
