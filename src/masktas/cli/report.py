"""`masktas report`: the report as a file, or served while a run trains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from masktas.errors import ConfigError
from masktas.formats import shown

WATCH_PORT = 8765


def report(
    out: Annotated[Path, Parameter(help="Run folder to report on.")],
    /,
    *,
    beside: Annotated[
        Path | None,
        Parameter(
            help="Another run folder, such as the supervised twin: the convergence of its supernet "
            "and its networks are shown beside this one's."
        ),
    ] = None,
    watch: Annotated[
        bool,
        Parameter(
            negative="",
            help="Write no file, but serve the report to browsers on this machine, also of a run "
            "that still trains: it refreshes itself. Ctrl-C ends it.",
        ),
    ] = False,
    port: Annotated[
        int | None,
        Parameter(help="Port of this machine for --watch, 8765 by default; 0 takes any free one."),
    ] = None,
) -> None:
    """Write the report, or serve it."""
    if port is not None and not watch:
        raise ConfigError("--port is of --watch only: add it, or leave --port out.")
    if port is not None and not 0 <= port < 2**16:
        raise ConfigError(f"--port {port}: give a number from 0 to 65535.")
    if watch:
        from masktas.stages.report.watch import watch as serve

        serve(out, port=WATCH_PORT if port is None else port, beside=beside)
        return
    from masktas.stages.report.stage import report as stage

    print(shown(str(stage(out, beside=beside))))
