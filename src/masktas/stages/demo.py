"""The demo: every stage on handwritten digits that come with the installation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from masktas.config import (
    AllSettings,
    DataSettings,
    FinetuneSettings,
    RefineSettings,
    RuntimeSettings,
    SearchSettings,
    SupernetSettings,
    TeacherSettings,
)
from masktas.console import Console
from masktas.data.demo import demo_packages, write_demo_images
from masktas.stages.report.render import report_packages
from masktas.stages.run import run
from masktas.train.ranks import Ranks


def demo(
    *,
    out: str | Path = "masktas-demo",
    runtime: RuntimeSettings | None = None,
    console: Console | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Run every stage on the 5,000 handwritten digits that come with the installation."""
    demo_packages()  # refused before anything is written
    report_packages()
    images = Path(out) / "digits.parquet"

    def write() -> None:
        if not images.exists():
            write_demo_images(images)

    Ranks.join().first(write)
    # Few images and minutes: small batches, for many steps. And a mirrored 2 is no digit.
    quick = {"batch_size": 32, "warmup_share": 0.1, "flip": False, "crop_scale": (0.8, 1.0)}
    masked = quick | {"epochs": 9, "lr": 12e-3, "mask_ratio": 0.6, "decoder_dim": 64}
    settings = AllSettings(
        runtime=runtime or RuntimeSettings(),
        data=DataSettings(search_share=0.1),
        teacher=TeacherSettings.model_validate(
            masked | {"embed_dim": 96, "num_heads": 6, "depth": 5}
        ),
        supernet=SupernetSettings.model_validate(masked | {"space": "digits", "probes": 3}),
        search=SearchSettings(
            max_macs="2M", population=30, generations=7, mask_ratio=0.5, baselines=3
        ),
        # by features alone it chose a network that fine-tuned 8 points worse (search-pays.md)
        refine=RefineSettings.model_validate(
            quick | {"rounds": "1,1", "pixel_rounds": 1, "cohort": 6, "lr": 6e-3}
        ),
        finetune=FinetuneSettings.model_validate(
            quick
            | {"recipe": "plain", "epochs": 4, "lr": 16e-3, "drop_path": 0.0}
            | {"label_smoothing": 0.0}
        ),
    )
    return run(
        images,
        out=out,
        settings=settings,
        baselines=("house", "uniform", "random"),
        finetune_seeds=2,
        console=console,
        overwrite=overwrite,
    )
