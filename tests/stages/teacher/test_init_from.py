"""Released weights as the beginning of a pre-training: where the release ended, it begins."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from masktas.config import TeacherSettings
from masktas.errors import ConfigError
from masktas.nn.patches import patchify
from masktas.nn.teachers.mae_format import IMAGENET_MEAN, IMAGENET_STD, convert
from masktas.stages.common.tasks import Setup
from masktas.stages.teacher.init_from import open_init_from
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from released import official_mae, write_official

SETUP = Setup(0, Runtime(torch.device("cpu"), bf16=False), ALONE)
SHAPE = {"width": 192, "depth": 2, "patch": 4, "side": 4, "ratio": 2}
MEAN, STD = [0.3, 0.5, 0.6], [0.2, 0.3, 0.1]


def test_it_begins_where_the_release_ended_though_pixels_are_normalised_otherwise(
    tmp_path: Path,
) -> None:
    state = official_mae(**SHAPE)
    file = write_official(tmp_path / "a.pth", state)
    begun = open_init_from(TeacherSettings(init=str(file)), (16, 16), 3)
    model = begun.model(MEAN, STD, SETUP)
    theirs, decoder = convert(state, where="test", num_heads=3, partial=False)
    pixels = torch.rand(2, 3, 16, 16)

    def seen(mean: object, std: object) -> torch.Tensor:
        by, to = (torch.tensor(v)[:, None, None] for v in (std, mean))
        return patchify((pixels - to) / by, 4)

    with torch.no_grad():
        ours = model.encoder.forward_features(seen(MEAN, STD))
        wanted = theirs.forward_features(seen(IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)
    assert decoder is not None
    for name, tensor in decoder.state_dict().items():
        assert torch.equal(tensor, model.decoder.state_dict()[name]), name
    trained = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert trained == {"encoder.pos_embed"}
    assert model.training
    assert begun.settings.decoder_dim == 64
    assert begun.settings.num_heads == 3


def test_a_fresh_decoder_is_that_of_the_seed(tmp_path: Path) -> None:
    file = write_official(tmp_path / "a.pth", official_mae(**SHAPE, decoder=None))
    settings = TeacherSettings(init=str(file), decoder_dim=32, decoder_depth=1)
    one, other = (open_init_from(settings, (24, 16), 3).model(MEAN, STD, SETUP) for _ in range(2))
    assert one.encoder.architecture.grid == (6, 4)
    assert one.decoder.dim == 32
    assert one.decoder.embed.weight.any()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize(
    ("changes", "size", "channels", "words"),
    [
        ({"embed_dim": 384}, (16, 16), 3, "has embed_dim 192, not 384"),
        ({"decoder_dim": 32}, (16, 16), 3, "has decoder_dim 64, not 32"),
        ({}, (16, 16), 1, "sees 3 channels: give --in-channels 3"),
        ({}, (18, 18), 3, "give --image-size 16"),
        ({}, (16, 19), 3, "give --image-size 16x20"),
        ({"init": "timm:test_vit@{file}"}, (160, 160), 3, "of another network"),
        ({"init": "nothing"}, (16, 16), 3, "--init nothing: there is no such"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, changes: dict[str, object], size: tuple[int, int], channels: int, words: str
) -> None:
    file = write_official(tmp_path / "a.pth", official_mae(**SHAPE))
    init = str(changes.pop("init", file)).format(file=file)
    with pytest.raises(Exception, match=words) as refused:
        open_init_from(TeacherSettings(init=init, **changes), size, channels)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_only_what_becomes_ours_can_be_gone_on_with(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "w.safetensors")
    settings = TeacherSettings(init=f"timm:test_vit@{tmp_path / 'w.safetensors'}")
    with pytest.raises(ConfigError, match="adopted as they are"):
        open_init_from(settings, (160, 160), 3)
