import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from masktas.errors import ArtifactError, DamagedError
from masktas.nn.mae import MaskedAutoencoder, pixel_loss
from masktas.nn.patches import masking_noise, random_masking
from masktas.nn.student import StudentShape
from masktas.nn.supernet import Supernet
from masktas.nn.vit import ViT
from masktas.space import Architecture, SearchSpace
from masktas.train import checkpoint
from masktas.train.checkpoint import KEEP, Checkpoints, TrainingState, load_strict
from masktas.train.optim.schedule import warmup_cosine
from masktas.train.optim.sliced_adamw import SlicedAdamW, adamw
from worlds import every_entry

SHAPE = Architecture(
    embed_dim=18, num_heads=(2, 1), mlp_ratio=(2, 1.5), head_dim=4,
    image_size=(8, 12), patch_size=2, num_classes=0,
)  # fmt: skip
TENSORS = {
    "matrix": torch.arange(12.0).reshape(3, 4),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "rough": torch.tensor([1.5, -2.0]).bfloat16(),
    "whole": torch.tensor([[1, -2]], dtype=torch.int64),
    "none": torch.zeros(0, 3),
}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_what_is_saved_is_loaded(tmp_path: Path):
    path = tmp_path / "deeper" / "x.safetensors"
    meta = {"step": 12, "seconds": 0.1 + 0.2, "words": "a b", "none": None}
    checkpoint.save(path, TENSORS, meta)
    tensors, found = checkpoint.load(path)
    assert same(tensors, TENSORS)
    assert found == meta
    assert [one.name for one in path.parent.iterdir()] == ["x.safetensors"]


def test_views_are_saved_as_what_they_show(tmp_path: Path):
    whole = torch.arange(24.0).reshape(4, 6)
    views = {"rows": whole[:2], "corner": whole[1:, :2], "turned": whole.T, "end": whole[3, 3:]}
    checkpoint.save(tmp_path / "x", views, {})
    assert same(checkpoint.load(tmp_path / "x")[0], views)


def test_weights_of_others_are_read_where_they_are_expected(tmp_path: Path):
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ArtifactError, match="has no checksum"):
        checkpoint.load(tmp_path / "x.safetensors")
    tensors, meta = checkpoint.load(tmp_path / "x.safetensors", checked=False)
    assert same(tensors, {"a": torch.ones(2)})
    assert meta == {}


def test_a_flipped_bit_in_a_tensor_is_detected(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, TENSORS, {"step": 1})
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    assert len(content) - start == 12 * 4 + 8 + 2 * 2 + 2 * 8
    for position in range(start, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="damaged, its checksum is wrong"):
            checkpoint.load(path)
    path.write_bytes(content)
    assert same(checkpoint.load(path)[0], TENSORS)


def test_a_flipped_bit_in_the_header_is_detected_or_changes_nothing(tmp_path: Path):
    """The header says the step, the shapes and the names: it must not be believed either."""
    path = tmp_path / "x.safetensors"
    meta = {"step": 12, "seconds": 3.5}
    checkpoint.save(path, TENSORS, meta)
    content = path.read_bytes()
    header = range(8 + int.from_bytes(content[:8], "little"))
    # the lowest bit turns a digit into a digit
    changes = [(at, bytes([content[at] ^ 1 << bit])) for at in header for bit in {0, at % 8}]
    changes.append((content.index(b'"F32"') + 1, b"I"))
    believed = []
    for at, byte in changes:
        path.write_bytes(content[:at] + byte + content[at + 1 :])
        try:
            tensors, found = checkpoint.load(path)
        except ArtifactError:
            continue
        except Exception as error:
            believed.append((at, repr(error)))
        else:
            if not same(tensors, TENSORS) or found != meta:
                believed.append((at, byte, content[max(0, at - 20) : at + 20]))
    assert not believed, (len(believed), believed[:5])


def test_a_torn_missing_or_foreign_file_is_an_artifact_error(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, TENSORS, {})
    content = path.read_bytes()
    for end in (0, 4, 8, 100, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(DamagedError, match=r"x\.safetensors: damaged, it is not a whole"):
            checkpoint.load(path)
    path.write_text("not a checkpoint at all")
    with pytest.raises(DamagedError, match="damaged"):
        checkpoint.load(path)
    with pytest.raises(ArtifactError, match=r"y\.safetensors: cannot be read"):
        checkpoint.load(tmp_path / "y.safetensors")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"a": torch.ones(2)}, {"step": 1})
    with pytest.raises(TypeError):
        checkpoint.save(path, {"a": torch.zeros(2)}, {"step": object()})
    tensors, meta = checkpoint.load(path)
    assert same(tensors, {"a": torch.ones(2)})
    assert meta == {"step": 1}


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Checkpoints, list[str]]:
    """Checkpoints, and the list of what they warned of."""
    warnings: list[str] = []
    return Checkpoints(tmp_path / "checkpoints", warnings.append), warnings


def test_the_newest_two_are_kept(kept):
    checkpoints, warnings = kept
    assert KEEP == 2
    assert checkpoints.newest() is None
    for step in (5, 10, 1000, 20_000):  # by number, not by name alone
        checkpoints.save(step, {"a": torch.full((2,), float(step))}, {"seconds": step / 2})
        tensors, meta = checkpoints.load(checkpoints.newest())
        assert tensors["a"].tolist() == [step, step]
        assert meta == {"step": step, "seconds": step / 2}
    names = sorted(path.name for path in checkpoints.folder.iterdir())
    assert names == ["step-000001000.safetensors", "step-000020000.safetensors"]
    assert not warnings


def test_a_torn_checkpoint_is_passed_over_with_a_warning(kept):
    checkpoints, warnings = kept
    for step in (1, 2):
        checkpoints.save(step, {"a": torch.tensor([float(step)])}, {})
    torn = checkpoints.folder / "step-000000002.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    tensors, meta = checkpoints.load(checkpoints.newest())
    assert tensors["a"].item() == 1
    assert meta["step"] == 1
    assert len(warnings) == 1
    assert "step-000000002.safetensors" in warnings[0]
    checkpoints.save(3, {"a": torch.tensor([3.0])}, {})
    assert checkpoints.newest() == 3
    assert (checkpoints.folder / "step-000000001.safetensors").exists()


def test_with_every_checkpoint_damaged_there_is_none(kept):
    checkpoints, warnings = kept
    for step in (1, 2):
        checkpoints.save(step, {"a": torch.tensor([float(step)])}, {})
        path = checkpoints.folder / f"step-00000000{step}.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    assert checkpoints.newest() is None
    assert len(warnings) == 2


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_checkpoint_that_cannot_be_read_now_stops_and_everything_stays(
    kept, monkeypatch, number: int
):
    checkpoints, warnings = kept
    for step in (1, 2):
        checkpoints.save(step, {"a": torch.tensor([float(step)])}, {})
    before = {path: path.read_bytes() for path in checkpoints.folder.iterdir()}

    def fails(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "open", fails, raising=False)
        with pytest.raises(ArtifactError, match=os.strerror(number)) as caught:
            checkpoints.newest()
    assert not isinstance(caught.value, DamagedError)
    assert {path: path.read_bytes() for path in checkpoints.folder.iterdir()} == before
    assert not warnings
    assert checkpoints.newest() == 2


def test_an_error_of_the_library_on_a_whole_file_is_not_damage(kept, monkeypatch):
    checkpoints, _ = kept
    checkpoints.save(1, {"a": torch.ones(2)}, {})

    def fails(*_, **__):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(checkpoint, "safe_open", fails)
    with pytest.raises(ArtifactError, match="Cannot allocate memory") as caught:
        checkpoints.newest()
    assert not isinstance(caught.value, DamagedError)
    assert checkpoints.steps() == [1]


def test_a_damaged_checkpoint_is_set_aside_not_deleted(kept):
    checkpoints, warnings = kept
    checkpoints.save(1, {"a": torch.ones(2)}, {})
    path = checkpoints.folder / "step-000000001.safetensors"
    torn = path.read_bytes()[:-1]
    path.write_bytes(torn)
    assert checkpoints.newest() is None
    assert (checkpoints.folder / "step-000000001.damaged").read_bytes() == torn
    assert "Kept as step-000000001.damaged" in warnings[0]


def test_a_file_has_the_mode_that_the_umask_gives(tmp_path: Path):
    before = os.umask(0o027)
    try:
        checkpoint.save(tmp_path / "x.safetensors", TENSORS, {})
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o640


def test_a_write_cut_short_is_no_checkpoint(kept):
    checkpoints, warnings = kept
    checkpoints.save(1, {"a": torch.tensor([1.0])}, {})
    half = checkpoints.folder / ".step-000000002.safetensors.123.tmp"
    half.write_bytes(b"half")
    assert checkpoints.newest() == 1
    assert not warnings
    checkpoints.sweep()
    assert not half.exists()
    assert checkpoints.steps() == [1]


def test_clear_removes_them(kept):
    checkpoints, _ = kept
    checkpoints.clear()  # nothing there yet
    checkpoints.save(1, {"a": torch.ones(1)}, {})
    checkpoints.clear()
    assert not checkpoints.folder.exists()
    assert checkpoints.newest() is None


Trainer = tuple[TrainingState, Callable[[int], None]]


def draw(step: int) -> tuple[Tensor, Tensor, Tensor]:
    patches = torch.randn(2, 24, 12, generator=torch.Generator().manual_seed(step))
    return patches, *random_masking(masking_noise(2, 24, step), 6)


def autoencoder_trainer() -> Trainer:
    model = MaskedAutoencoder(SHAPE, decoder_dim=32, decoder_depth=1)
    model.init_weights(torch.Generator().manual_seed(0))
    optimizer = adamw(model, lr=1e-2, weight_decay=0.05)
    schedule = warmup_cosine(optimizer, total_steps=10, warmup_share=0.2)

    def step(index: int) -> None:
        schedule.step_update(index)
        patches, keep, masked = draw(index)
        optimizer.zero_grad(set_to_none=True)
        pixel_loss(model(patches, keep, masked), patches, masked).backward()
        optimizer.step()

    return TrainingState(model, optimizer), step


def supernet_trainer(space: SearchSpace) -> Trainer:
    shared = Supernet(space, StudentShape(32, 1, 20, space.unit))
    shared.init_weights(torch.Generator().manual_seed(0))
    optimizer = SlicedAdamW(shared.student, every_entry(shared.student), lr=1e-2, weight_decay=0.05)
    schedule = warmup_cosine(optimizer, total_steps=10, warmup_share=0.2)

    def step(index: int) -> None:
        schedule.step_update(index)
        patches, keep, masked = draw(index)
        student = shared.subnet(space.sample(random.Random(index)))
        predicted, projected = student(patches, keep, masked)
        (pixel_loss(predicted, patches, masked) + projected.square().mean()).backward()
        optimizer.step_slices(dict(student.named_parameters()))

    return TrainingState(shared.student, optimizer), step


@pytest.mark.parametrize("kind", ["AdamW", "SlicedAdamW"])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(
    kind: str, tmp_path: Path, small_space: SearchSpace
):
    def trainer() -> Trainer:
        return autoencoder_trainer() if kind == "AdamW" else supernet_trainer(small_space)

    straight, step = trainer()
    for index in range(5):
        step(index)
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, straight.tensors(), {"step": 5})
    saved = {name: tensor.clone() for name, tensor in straight.tensors().items()}
    for index in range(5, 10):
        step(index)

    resumed, step = trainer()
    resumed.fill(checkpoint.load(path)[0])
    assert same(resumed.tensors(), saved)
    for index in range(5, 10):
        step(index)
    assert same(resumed.tensors(), straight.tensors())
    assert same(checkpoint.load(path)[0], saved)  # training wrote nothing through to the file
    changed = [name for name, tensor in straight.tensors().items()
               if not torch.equal(tensor, saved[name])]  # fmt: skip
    assert len(changed) > len(saved) / 2

    # a state that has been trained already is overwritten as well
    straight.fill(checkpoint.load(path)[0])
    assert same(straight.tensors(), saved)


def test_a_state_names_weights_and_moments():
    state, step = autoencoder_trainer()
    weights = {f"module.{name}" for name in state.module.state_dict()}
    assert set(state.tensors()) == weights
    step(0)
    trained = {name for name, p in state.module.named_parameters() if p.requires_grad}
    moments = {
        f"optimizer.{key}.{name}" for name in trained for key in ("step", "exp_avg", "exp_avg_sq")
    }
    assert set(state.tensors()) == weights | moments


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path, small_space: SearchSpace):
    state, step = autoencoder_trainer()
    step(0)
    tensors = state.tensors()
    deeper = SHAPE.replace(num_heads=(2, 1, 1), mlp_ratio=(2, 1.5, 2))
    for shape, named in (
        (SHAPE.replace(embed_dim=20), "shape"),
        (SHAPE.replace(num_heads=(2, 2)), r"blocks\.1\.attn\.qkv\.weight has shape"),
        (deeper, r"encoder\.blocks\.2\.\S+ is missing"),
        (SHAPE.replace(num_heads=(2,), mlp_ratio=(2,)), "is not part of this network"),
    ):
        other = MaskedAutoencoder(shape, decoder_dim=32, decoder_depth=1)
        before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        target = TrainingState(other, adamw(other, lr=1e-2, weight_decay=0.05))
        with pytest.raises(ArtifactError, match=f"checkpoint: .*another architecture: .*{named}"):
            target.fill(tensors)
        assert same(dict(other.state_dict()), before)  # nothing was filled by halves
        assert not target.optimizer.state
    supernet, _ = supernet_trainer(small_space)
    with pytest.raises(ArtifactError, match="another architecture"):
        supernet.fill(tensors)


def test_load_strict_names_what_is_wrong():
    network = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    good = {name: torch.rand_like(tensor) for name, tensor in network.state_dict().items()}
    missing = {name: tensor for name, tensor in good.items() if name != "1.bias"}
    beyond = good | {"2.weight": torch.zeros(1)}
    turned = good | {"0.weight": torch.zeros(3, 2)}
    for tensors, problem in (
        (missing, r"there: the weights are of another architecture: 1\.bias is missing\."),
        (beyond, r"2\.weight is not part of this network\."),
        (turned, r"0\.weight has shape \[3, 2\] instead of \[2, 3\]\."),
    ):
        with pytest.raises(ArtifactError, match=problem):
            load_strict(network, tensors, where="there")
    load_strict(network, good, where="there")
    assert same(dict(network.state_dict()), good)


def test_load_strict_fills_a_vit(randomize):
    one, other = randomize(ViT(SHAPE), 1), randomize(ViT(SHAPE), 2)
    load_strict(other, one.state_dict(), where="there")
    assert same(dict(one.state_dict()), dict(other.state_dict()))
    assert other.pos_embed.data_ptr() != one.pos_embed.data_ptr()
