"""Settings that follow from the space, or from those of another stage, where none are set."""

from __future__ import annotations

from masktas.config.distilling import SupernetSettings, TeacherSettings
from masktas.config.load import resolve
from masktas.config.searching import CostSettings, SearchSettings
from masktas.space import SearchSpace

TEACHER_OVER_SPACE = 1.2  # the teacher's width over the widest student's


def teacher_for(space: SearchSpace, settings: TeacherSettings) -> TeacherSettings:
    """Return the teacher's settings with a shape that suits the space, where they set none.

    A teacher that starts from released weights has their shape.
    """
    if settings.init is not None:
        return settings
    heads = -(-round(TEACHER_OVER_SPACE * max(space.embed_dim)) // space.head_dim)
    if "embed_dim" in settings.model_fields_set:
        width = settings.embed_dim
        most = max(1, width // space.head_dim)
        heads = next(count for count in range(most, 0, -1) if width % count == 0)
    shape = {
        "patch_size": space.largest.patch_size,
        "embed_dim": heads * space.head_dim,
        "num_heads": heads,
        "depth": max(space.depth),
    }
    return resolve(TeacherSettings, shape, settings)


def supernet_for(settings: SupernetSettings, search: SearchSettings) -> SupernetSettings:
    """Return the supernet's settings with a sampler that suits the search (SPEC 6.4).

    If the search has an upper limit and no sampler is set, it is `focus`; and `focus` without
    limits of its own has those of the search.
    """
    budget = {name: getattr(search, name) for name in CostSettings.model_fields}
    said = {name: value for name, value in budget.items() if name in search.model_fields_set}
    follows = "sampler" not in settings.model_fields_set and search.limits_above
    if (follows or settings.sampler == "focus") and not settings.limits:
        return resolve(SupernetSettings, settings, said)  # with an upper limit it is `focus`
    return settings


def search_for(supernet: SupernetSettings, search: SearchSettings) -> SearchSettings:
    """Return the search's settings with the rating that suits the supernet, if none is set.

    A supernet that labels train is searched by accuracy.
    """
    if supernet.supervised and "rating" not in search.model_fields_set:
        return resolve(SearchSettings, search, {"rating": "accuracy"})
    return search
