import math

import pytest
import torch
from torch import Tensor

from masktas.errors import ConfigError
from masktas.nn.mae import (
    Decoder,
    MaskedAutoencoder,
    decoder_macs,
    normalize_patches,
    pixel_loss,
    pixel_losses,
)
from masktas.nn.patches import sincos_positions, take
from masktas.space import Architecture

SHAPE = Architecture(
    embed_dim=18, num_heads=(2, 1), mlp_ratio=(2, 1.5), head_dim=4,
    image_size=(8, 12), patch_size=2, num_classes=0,
)  # fmt: skip


def literal_decoder(decoder: Decoder, tokens: Tensor, keep: Tensor, masked: Tensor) -> Tensor:
    """Decode as MAE does: mask tokens appended, all put back in the image's order, all predicted.

    Returns:
        The pixels of every patch `[B, N, S]`.
    """
    restore = torch.argsort(torch.cat([keep, masked], dim=1), dim=1)  # MAE's ids_restore
    x = decoder.embed(tokens)
    fill = decoder.mask_token.repeat(x.shape[0], restore.shape[1] + 1 - x.shape[1], 1)
    patches = torch.cat([x[:, 1:], fill], dim=1)
    index = restore.unsqueeze(-1).repeat(1, 1, x.shape[2])
    patches = torch.gather(patches, dim=1, index=index)  # in the image's order
    x = torch.cat([x[:, :1], patches + decoder.positions], dim=1)  # position of the class token: 0
    for block in decoder.blocks:
        x = block(x)
    return decoder.pred(decoder.norm(x))[:, 1:]


@pytest.mark.parametrize("visible", [1, 6, 23])
def test_decoder_equals_mae_in_image_order(randomize, random_patches, visible: int):
    decoder = randomize(Decoder(SHAPE, decoder_dim=32, decoder_depth=2), 0).double()
    _, keep, masked = random_patches((3, 24, 12), visible, 1)
    tokens = torch.randn(3, 1 + visible, 18, dtype=torch.float64)
    predicted = decoder(tokens, keep, masked)
    assert predicted.shape == (3, 24 - visible, 12)
    whole = literal_decoder(decoder, tokens, keep, masked)
    torch.testing.assert_close(predicted, take(whole, masked), atol=1e-11, rtol=1e-11)


def test_decoder_in_float32_equals_mae_in_image_order(randomize, random_patches):
    decoder = randomize(Decoder(SHAPE, decoder_dim=64, decoder_depth=1), 2)
    _, keep, masked = random_patches((2, 24, 12), 5, 3)
    tokens = torch.randn(2, 6, 18)
    whole = literal_decoder(decoder, tokens, keep, masked)
    torch.testing.assert_close(
        decoder(tokens, keep, masked), take(whole, masked), atol=1e-5, rtol=1e-5
    )


def test_decoder_uses_fixed_positions_of_its_own_width():
    decoder = Decoder(SHAPE, decoder_dim=32, decoder_depth=1)
    assert torch.equal(decoder.positions, sincos_positions(32, (4, 6)))
    assert "positions" not in dict(decoder.named_parameters())


@pytest.mark.parametrize("width", [16, 48, 33])
def test_decoder_width_must_fit_its_heads(width: int):
    with pytest.raises(ConfigError, match=f"decoder_dim is {width}.*multiple of 32"):
        Decoder(SHAPE, decoder_dim=width, decoder_depth=1)


def test_prediction_sees_visible_patches_only(randomize, random_patches):
    model = randomize(MaskedAutoencoder(SHAPE, decoder_dim=32, decoder_depth=1), 4)
    patches, keep, masked = random_patches((2, 24, 12), 6, 5)
    before = model(patches, keep, masked)
    tokens = model.encoder.forward_features(take(patches, keep), keep)
    assert tokens.shape == (2, 7, 18)
    elsewhere = patches.scatter(1, masked.unsqueeze(-1).expand(-1, -1, 12), 1000.0)
    assert torch.equal(model(elsewhere, keep, masked), before)
    seen = patches.clone()
    seen[0, keep[0, 3]] += 1
    after = model(seen, keep, masked)
    assert not torch.allclose(after[0], before[0])
    assert torch.equal(after[1], before[1])


def test_prediction_of_a_patch_does_not_hang_on_the_order_of_ids(randomize, random_patches):
    model = randomize(MaskedAutoencoder(SHAPE, decoder_dim=32, decoder_depth=2), 6)
    patches, keep, masked = random_patches((1, 24, 12), 6, 7)
    order = torch.randperm(18)
    plain = model(patches, keep, masked)
    shuffled = model(patches, keep.flip(1), masked[:, order])
    torch.testing.assert_close(shuffled, plain[:, order], atol=1e-5, rtol=1e-5)


def literal_normalized(patch: list[float]) -> list[float]:
    mean = sum(patch) / len(patch)
    variance = sum((one - mean) ** 2 for one in patch) / (len(patch) - 1)
    return [(one - mean) / math.sqrt(variance + 1e-6) for one in patch]


def literal_pixel_loss(predicted: Tensor, patches: Tensor, masked: Tensor) -> float:
    """Equation (10), number by number, averaged over images."""
    losses = []
    for image in range(len(patches)):
        of_image = 0.0
        for k, patch in enumerate(masked[image].tolist()):
            z = literal_normalized(patches[image, patch].tolist())
            p = predicted[image, k].tolist()
            of_image += sum((one - other) ** 2 for one, other in zip(p, z, strict=True)) / len(z)
        losses.append(of_image / masked.shape[1])
    return sum(losses) / len(losses)


def test_pixel_loss_equals_equation_10_in_loops(random_patches):
    patches, _, masked = random_patches((3, 24, 12), 6, 8)
    patches = patches * 5 + 3
    predicted = torch.randn(3, 18, 12)
    loss = pixel_loss(predicted, patches, masked)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(literal_pixel_loss(predicted, patches, masked), rel=1e-5)


def test_pixel_loss_ignores_visible_patches_and_each_patch_brightness(random_patches):
    patches, keep, masked = random_patches((2, 24, 12), 6, 9)
    predicted = torch.randn(2, 18, 12)
    loss = pixel_loss(predicted, patches, masked)
    other = patches.scatter(1, keep.unsqueeze(-1).expand(-1, -1, 12), -7.0)
    assert torch.equal(pixel_loss(predicted, other, masked), loss)
    scaled = patches * torch.linspace(1, 4, 24)[:, None] + torch.linspace(-2, 2, 24)[:, None]
    torch.testing.assert_close(pixel_loss(predicted, scaled, masked), loss, atol=1e-4, rtol=1e-4)


def test_pixel_loss_is_0_for_the_right_answer_and_1_for_grey(random_patches):
    patches, _, masked = random_patches((2, 24, 12), 6, 10)
    answer = normalize_patches(take(patches, masked))
    assert pixel_loss(answer, patches, masked).item() == 0
    # the variance is unbiased: (S - 1) / S of it is left
    grey = pixel_loss(torch.zeros_like(answer), patches, masked).item()
    assert grey == pytest.approx(11 / 12, rel=1e-4)


def test_a_patch_of_one_colour_is_normalised_to_zeros():
    assert torch.equal(normalize_patches(torch.full((1, 2, 12), 0.5)), torch.zeros(1, 2, 12))


def test_pixel_loss_is_computed_in_float32_whatever_the_prediction(random_patches):
    patches, _, masked = random_patches((2, 24, 12), 6, 11)
    predicted = torch.randn(2, 18, 12).bfloat16()
    loss = pixel_loss(predicted, patches, masked)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, pixel_loss(predicted.float(), patches, masked))


def test_positions_of_the_teacher_are_fixed_and_all_else_is_trained(random_patches):
    model = MaskedAutoencoder(SHAPE, decoder_dim=32, decoder_depth=1)
    model.init_weights(torch.Generator().manual_seed(0))
    assert torch.equal(model.encoder.pos_embed[:, 1:], sincos_positions(18, (4, 6)))
    patches, keep, masked = random_patches((4, 24, 12), 6, 12)
    pixel_loss(model(patches, keep, masked), patches, masked).backward()
    for name, parameter in model.named_parameters():
        if name == "encoder.pos_embed":
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_starting_weights_of_the_decoder(randomize):
    one = randomize(Decoder(SHAPE, decoder_dim=64, decoder_depth=1), 13)
    one.init_weights(torch.Generator().manual_seed(3))
    assert 0.01 < one.mask_token.std() < 0.03
    assert not one.pred.bias.any()
    again = Decoder(SHAPE, decoder_dim=64, decoder_depth=1)
    again.init_weights(torch.Generator().manual_seed(3))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_few_steps_lower_the_loss(random_patches):
    model = MaskedAutoencoder(SHAPE, decoder_dim=32, decoder_depth=1)
    model.init_weights(torch.Generator().manual_seed(1))
    patches, keep, masked = random_patches((8, 24, 12), 12, 14)
    ramp = torch.arange(24.0)[None, :, None].sin() * torch.linspace(-1, 1, 12)
    patches = ramp.expand_as(patches).contiguous()  # pictures that positions foretell
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = pixel_loss(model(patches, keep, masked), patches, masked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_pixel_losses_are_those_of_each_image_by_itself(random_patches):
    patches, _, masked = random_patches((5, 24, 12), 6, 1)
    predicted = torch.randn(5, 18, 12)
    losses = pixel_losses(predicted, patches, masked)
    assert losses.shape == (5,)
    assert losses.dtype == torch.float32
    for image in range(5):
        one = slice(image, image + 1)
        alone = pixel_loss(predicted[one], patches[one], masked[one])
        assert losses[image].item() == pytest.approx(alone.item(), rel=1e-6)
    assert losses.mean().item() == pytest.approx(
        pixel_loss(predicted, patches, masked).item(), rel=1e-6
    )
    assert len(set(losses.tolist())) == 5


def test_pixel_losses_in_bfloat16_are_summed_finely(random_patches):
    patches, _, masked = random_patches((3, 24, 12), 6, 1)
    predicted = torch.randn(3, 18, 12).bfloat16()
    rough = pixel_losses(predicted, patches, masked)
    assert rough.dtype == torch.float32
    assert torch.equal(rough, pixel_losses(predicted.float(), patches, masked))


@pytest.mark.parametrize("visible", [1, 6, 23])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_decoder_macs_are_the_sum_over_all_layers(random_patches, visible: int, depth: int):
    """Every product is counted where it is done: layers by hooks, attention by its shapes."""
    decoder = Decoder(SHAPE, decoder_dim=64, decoder_depth=depth)
    counted = 0

    def count(layer: torch.nn.Linear, given: tuple[Tensor], _: Tensor) -> None:
        nonlocal counted
        counted += given[0].numel() // layer.in_features * layer.in_features * layer.out_features

    for part in decoder.modules():
        if isinstance(part, torch.nn.Linear):
            part.register_forward_hook(count)
    _, keep, masked = random_patches((1, 24, 12), visible, 1)
    decoder(torch.randn(1, 1 + visible, 18), keep, masked)
    counted += depth * 2 * 25 * 25 * 64  # queries with keys, weights with values, 1 + N tokens
    assert decoder_macs(SHAPE, visible, decoder_dim=64, decoder_depth=depth) == counted
