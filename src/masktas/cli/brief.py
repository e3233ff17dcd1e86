"""The short help: what most users need fits one screen; `--help-all` shows every flag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

HELP_ALL = "--help-all"
EPILOGUE = f"`{HELP_ALL}` shows every flag."

# The flags that the short help shows, by the group they belong to; other groups are shown whole.
SHOWN = {
    "Budget": {"--max-params", "--max-macs", "--max-latency"},
    "Latency": set[str](),
    "Images": set[str](),
    "Machine": set[str](),
    "Teacher": {"--teacher", "--epochs", "--batch-size", "--embed-dim", "--depth", "--init"},
    "Supernet": {"--space", "--epochs", "--batch-size", "--teacher", "--supervised"},
    "Rating": {"--rating"},
    "Search": {"--strategy", "--racing"},
    "Distillation": {"--architecture", "--as-costly-as"},
    "Refinement": {"--rounds", "--cohort", "--baselines"},
    "Fine-tuning": {"--recipe", "--init", "--epochs", "--batch-size", "--lr"},
    "Segmentation": {"--decoder", "--init", "--ignore", "--classes", "--epochs"},
    "Plans of one network": set[str](),
    "Validation": {"--num-networks", "--probe"},
    "Target": {"--engine", "--device", "--threads", "--command"},
}


class BriefHelp:
    """Prints help without the flags that few users need."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print a group of flags."""
        from cyclopts.help import DefaultFormatter

        shown = SHOWN.get(str(panel.title))
        if shown is not None:
            panel = panel.copy(entries=[one for one in panel.entries if shown & set(one.names)])
        DefaultFormatter()(console, options, panel)

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Print the line of usage."""
        from cyclopts.help import DefaultFormatter

        DefaultFormatter().render_usage(console, options, usage)
