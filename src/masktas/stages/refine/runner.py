"""The rounds of a refinement: train, measure, decide who stays, write it down, resume."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from masktas.artifacts import ROUNDS
from masktas.config import RefineSettings, Round
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
from masktas.stages.refine.held_out import FEATURE_LOSS, PIXEL_LOSS, HeldOutLosses
from masktas.stages.refine.members import Member
from masktas.stages.refine.proposals import Proposals
from masktas.stages.refine.rounds import (
    TRAINING_LOSS,
    num_staying,
    ranked,
    staying,
    training_losses,
)
from masktas.strategies import Evaluated
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
        members: the cohort of the first round; proposed networks are added to it.
        rated: the networks that these are chosen from.
    """

    def __init__(
        self,
        context: Context,
        stage: ClaimedStage,
        settings: RefineSettings,
        data: RefinementData,
        members: Sequence[Member],
        rated: Sequence[Evaluated] = (),
    ) -> None:
        self._context, self._stage, self._settings = context, stage, settings
        self._data, self._rated = data, rated
        self.members = list(members)
        self._competing = sum(one.competes for one in members)
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
        members, waiting = list(self.members), list[Member]()
        for place, round_ in enumerate(self._settings.schedule):
            proposals = self._propose(journal[0]) if round_.joins else None
            if proposals is not None:
                members, waiting = list(proposals.members), members
                self.members += members
            if place >= len(journal):
                journal.append(self._run_round(place, members, waiting, journal, proposals))
            last = [*waiting, *members]
            members, waiting = [one for one in last if one.name in journal[place]["stay"]], []
        return journal, self._load(place, last)

    def _resume(self) -> list[dict[str, Any]]:
        """Read the journal, and delete what finished rounds have left behind."""
        journal = read_lines(self._stage.folder / ROUNDS)
        for place in range(len(journal)):
            self._tidy(place)
        if journal:
            self._context.console.say(f"Resuming after round {journal[-1]['round']}.")
        return journal

    def _propose(self, first: Mapping[str, Any]) -> Proposals:
        """Choose the networks that join after the first round."""
        assert self._settings.proposals
        return Proposals.of_round(
            first["members"],
            [*self._kinds(1), TRAINING_LOSS],
            self.members,
            self._rated,
            count=self._settings.proposals,
            diversity=self._settings.diversity,
        )

    def _kinds(self, number: int) -> tuple[str, ...]:
        """Return the names of the held-out losses of a round."""
        return (FEATURE_LOSS, PIXEL_LOSS)[: 1 + self._settings.trains_pixels(number)]

    def _run_round(
        self,
        place: int,
        members: Sequence[Member],
        waiting: Sequence[Member],
        journal: Sequence[Mapping[str, Any]],
        proposals: Proposals | None,
    ) -> dict[str, Any]:
        """Train the members for a round, measure all, and write down who stays."""
        round_ = self._settings.schedule[place]
        fresh = place == 0 or round_.joins
        before = self._load(place - 1, waiting if fresh else members)
        students = self._extract(members) if fresh else before
        training, cost = self._train(round_, members, students)
        if waiting:
            students = before | students
            training |= {one["name"]: one[TRAINING_LOSS] for one in journal[place - 1]["members"]}
        pixels, shape = self._settings.trains_pixels(round_.number), self._data.supernet.shape
        on_device = nn.ModuleDict(students).to(self._context.runtime.device).eval()
        measured = self._held_out.measure(students, pixels=pixels)
        cost["flops"] += self._held_out.flops(students, shape, pixels=pixels)
        joined = [*waiting, *members]
        entries = ranked(joined, measured, {one.name: training[one.name] for one in joined})
        record = {
            "round": round_.number,
            "epochs": self._settings.epochs[round_.number - 1],
            "pixels": pixels,
            "images": self._held_out.num_images,
            "members": entries,
            "stay": staying(
                entries,
                joined,
                num_staying(self._competing, round_.number),
                keep_baselines=self._settings.baselines,
            ),
            "cost": cost,
        }
        if proposals is not None:
            record |= {"expected": proposals.expected, "explained": proposals.explained}
        return self._context.ranks.first(lambda: self._finish_round(place, record, on_device))

    def _train(
        self, round_: Round, members: Sequence[Member], students: Mapping[str, MaskedStudent]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Train the members; return the mean training loss of each, and what it cost."""
        context, data, number = self._context, self._data, round_.number
        if not members:
            return {}, {"images": 0, "flops": 0}
        settings, pixels = self._settings.of_round(number), self._settings.trains_pixels(number)
        seed = seed_for(context.seed, "refine", number)
        batches = context.batches(data.store, "supernet", settings=settings, seed=seed)
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
        which = "proposed network" if round_.joins else "network"
        cost = self._stage.train(
            task,
            settings,
            batches,
            folder=self._folder(round_),
            about=f"round {number} of {len(self._settings.epochs)}, {counted(len(members), which)}",
        )
        loss = "loss" if pixels else FEATURE_LOSS
        return context.ranks.first(
            lambda: training_losses(self._folder(round_), members, loss)
        ), cost

    def _finish_round(
        self, place: int, record: dict[str, Any], students: nn.ModuleDict
    ) -> dict[str, Any]:
        """Write the weights that the next round starts from, then a line of the journal."""
        is_last = place == len(self._settings.schedule) - 1
        kept = {name: one for name, one in students.items() if is_last or name in record["stay"]}
        checkpoint.save(self._weights(place), nn.ModuleDict(kept).state_dict(), {})
        append_lines(self._stage.folder / ROUNDS, [json.dumps(record)])
        self._tidy(place)
        entries, stay = record["members"], record["stay"]
        best, left = entries[0], f"; {len(stay)} of {counted(len(entries), 'network')} stay"
        joined = record.get("expected")
        joined = f", with {counted(len(joined), 'proposed network')}" if joined else ""
        self._context.console.say(
            f"Round {record['round']} of {len(self._settings.epochs)}{joined}: {best['name']} is "
            f"ahead, with a feature loss of {best[FEATURE_LOSS]:.4f}{'' if is_last else left}."
        )
        return record

    def _extract(self, members: Sequence[Member]) -> dict[str, MaskedStudent]:
        """Take the members out of the supernet."""
        extract = self._data.supernet.extract_student
        return {one.name: extract(one.architecture) for one in members}

    def _load(self, place: int, members: Sequence[Member]) -> dict[str, MaskedStudent]:
        """Load the members as the round at `place` has left them."""
        if not members:
            return {}
        shape = self._data.supernet.shape
        students = {one.name: MaskedStudent(one.architecture, shape) for one in members}
        path = self._weights(place)
        tensors, _ = checkpoint.load(path)
        checkpoint.load_strict(nn.ModuleDict(students), tensors, where=str(path))
        return students

    def _folder(self, round_: Round) -> Path:
        return self._stage.folder / round_.name

    def _weights(self, place: int) -> Path:
        """Return the file of the weights after a round, in a folder that the manifest ends."""
        name = self._settings.schedule[place].name
        return self._stage.folder / "checkpoints" / f"{name}.safetensors"

    def _tidy(self, place: int) -> None:
        """Delete the checkpoints of a finished round, and the weights that it started from."""
        folder = self._folder(self._settings.schedule[place])
        Checkpoints(folder / "checkpoints", self._context.console.warn).clear()
        if place:
            self._weights(place - 1).unlink(missing_ok=True)
