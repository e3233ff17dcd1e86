"""The rounds of a refinement: train, measure, decide who stays, write it down, resume."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from masktas.artifacts import ROUNDS
from masktas.config import RefineSettings
from masktas.data.store.image_store import ImageStore
from masktas.files import append_lines, read_lines
from masktas.formats import counted
from masktas.nn.patches import num_visible
from masktas.nn.student import MaskedStudent
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.teacher import Teacher
from masktas.seeding import seed_for
from masktas.stages.common.claimed import ClaimedStage
from masktas.stages.common.stage import Context
from masktas.stages.common.tasks import cohort_task
from masktas.stages.refine.held_out import FEATURE_LOSS, HeldOutLosses, Numbers
from masktas.stages.refine.members import Member
from masktas.stages.refine.rounds import (
    best_of_round,
    num_staying,
    ranked,
    staying,
    training_losses,
)
from masktas.train import checkpoint
from masktas.train.checkpoint import Checkpoints


@dataclass(frozen=True, slots=True)
class RefinementData:
    """What a refinement reads of a run.

    Attributes:
        supernet: has the initial weights.
        teacher: frozen.
        store: the images.
        mask_ratio: share of the patches that is masked.
    """

    supernet: Supernet
    teacher: Teacher
    store: ImageStore
    mask_ratio: float


class RoundRunner:
    """Runs the rounds that are not in the journal yet.

    Args:
        context: of the stage.
        stage: its folder, claimed.
        settings: of the stage.
        data: what it reads.
        members: the cohort of the first round.
    """

    def __init__(
        self,
        context: Context,
        stage: ClaimedStage,
        settings: RefineSettings,
        data: RefinementData,
        members: Sequence[Member],
    ) -> None:
        self._context, self._stage, self._settings = context, stage, settings
        self._data, self._cohort = data, members
        self._num_rounds = len(settings.epochs)
        self._competing = [one.name for one in members if one.competes]
        units = data.supernet.units
        self._held_out = HeldOutLosses(
            data.teacher.to(context.runtime.device),
            context.batches(data.store, "search"),
            units=units,
            visible=num_visible(units.total, data.mask_ratio),
            count=settings.num_images,
            seed=context.seed,
            runtime=context.runtime,
            ranks=context.ranks,
        )

    def run(self) -> tuple[list[dict[str, Any]], dict[str, MaskedStudent]]:
        """Run all rounds.

        Returns:
            The journal, and the networks of the last round by name.

        Raises:
            Stopped: on request; the round resumes from its checkpoint.
        """
        journal: list[dict[str, Any]] = self._context.ranks.first(self._resume)
        members, competing = list(self._cohort), self._competing
        for number in range(1, self._num_rounds + 1):
            if number > len(journal):
                journal.append(self._run_round(number, members, competing))
            last, record = members, journal[number - 1]
            members = [one for one in members if one.name in record["stay"]]
            competing = best_of_round(record["members"], self._most(number))
        return journal, self._students(self._num_rounds + 1, last)

    def _resume(self) -> list[dict[str, Any]]:
        """Read the journal, and delete what finished rounds have left behind."""
        journal = read_lines(self._stage.folder / ROUNDS)
        for number in range(1, len(journal) + 1):
            self._tidy(number)
        if journal:
            self._context.console.say(f"Resuming after round {len(journal)}.")
        return journal

    def _most(self, number: int) -> int:
        """Return how many networks can still win after a round."""
        return num_staying(len(self._competing), number)

    def _run_round(
        self, number: int, members: Sequence[Member], competing: Sequence[str]
    ) -> dict[str, Any]:
        """Train the members for a round, measure them, and write down who stays."""
        context, data, pixels = self._context, self._data, self._settings.trains_pixels(number)
        settings = self._settings.of_round(number)
        seed = seed_for(context.seed, "refine", number)
        batches = context.batches(data.store, "supernet", settings=settings, seed=seed)
        students = self._students(number, members)
        task = cohort_task(
            settings,
            students,
            data.supernet.shape,
            data.teacher,
            batches,
            replace(context.setup, seed=seed),
            mask_ratio=data.mask_ratio,
            pixels=pixels,
        )
        cost = self._stage.train(
            task,
            settings,
            batches,
            folder=self._folder(number),
            about=f"round {number} of {self._num_rounds}, {counted(len(members), 'network')}",
        )
        task.module.eval()
        measured = self._held_out.measure(students, pixels=pixels)
        cost["flops"] += self._held_out.flops(students, data.supernet.shape, pixels=pixels)
        return context.ranks.first(
            lambda: self._finish_round(number, members, competing, students, measured, cost)
        )

    def _finish_round(
        self,
        number: int,
        members: Sequence[Member],
        competing: Sequence[str],
        students: Mapping[str, MaskedStudent],
        measured: Mapping[str, Mapping[str, Numbers]],
        cost: dict[str, Any],
    ) -> dict[str, Any]:
        """Write the weights that the next round starts from, then a line of the journal."""
        pixels = self._settings.trains_pixels(number)
        training = training_losses(
            self._folder(number), members, "loss" if pixels else FEATURE_LOSS
        )
        entries = ranked(members, competing, measured, training)
        best = best_of_round(entries, self._most(number))
        stay = staying(best, members, keep_baselines=self._settings.baselines)
        is_last = number == self._num_rounds
        kept = {name: one for name, one in students.items() if is_last or name in stay}
        checkpoint.save(self._weights(number), nn.ModuleDict(kept).state_dict(), {})
        record = {
            "round": number,
            "epochs": self._settings.epochs[number - 1],
            "pixels": pixels,
            "images": self._held_out.num_images,
            "members": entries,
            "stay": stay,
            "cost": cost,
        }
        append_lines(self._stage.folder / ROUNDS, [json.dumps(record)])
        self._tidy(number)
        first, left = entries[0], f"; {len(stay)} of {counted(len(members), 'network')} stay"
        self._context.console.say(
            f"Round {number} of {self._num_rounds}: {first['name']} is ahead, with a feature loss "
            f"of {first[FEATURE_LOSS]:.4f}{'' if is_last else left}."
        )
        return record

    def _students(self, number: int, members: Sequence[Member]) -> dict[str, MaskedStudent]:
        """Return the students that round `number` starts from: those of the round before."""
        if number == 1:
            extract = self._data.supernet.extract_student
            return {one.name: extract(one.architecture) for one in members}
        shape = self._data.supernet.shape
        students = {one.name: MaskedStudent(one.architecture, shape) for one in members}
        path = self._weights(number - 1)
        tensors, _ = checkpoint.load(path)
        checkpoint.load_strict(nn.ModuleDict(students), tensors, where=str(path))
        return students

    def _folder(self, number: int) -> Path:
        return self._stage.folder / f"round-{number}"

    def _weights(self, number: int) -> Path:
        """Return the file of the weights after a round, in a folder that the manifest ends."""
        return self._stage.folder / "checkpoints" / f"round-{number}.safetensors"

    def _tidy(self, number: int) -> None:
        """Delete the checkpoints of a finished round, and the weights that it started from."""
        Checkpoints(self._folder(number) / "checkpoints", self._context.console.warn).clear()
        self._weights(number - 1).unlink(missing_ok=True)
