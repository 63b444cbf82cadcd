"""Denoising of images: each layer's decoder gives its input's size, and the loss is by hand."""

from typing import Any

import pytest
import torch
from torch import nn

from workers.contract.outcome import ConfigFailure
from workers.contract.pretraining_spec import DenoisingAutoencoder
from workers.contract.recipe import Recipe
from workers.data.part import InMemory
from workers.models.catalog import build_net
from workers.models.convolution import ConvNorm
from workers.models.inception import Plain
from workers.models.layered import Layer, seeded
from workers.models.resnet import Block, Stem
from workers.stages.catalog import build_objective, plan_stages
from workers.stages.convolutional import ConvolutionalDenoising
from workers.stages.handover import Inputs

B = 5
LABELS = torch.zeros(B, dtype=torch.int64)


def _stage(
    layer: Layer, shape: tuple[int, ...], bias: float = 0.0, level: float = 0.25, **options: Any
) -> ConvolutionalDenoising:
    method = DenoisingAutoencoder(
        method="denoising_autoencoder", **{"tied_weights": False, **options}
    )
    code_shape = layer.eval()(torch.zeros(1, *shape)).shape[1:]
    mean_CHW = torch.full(shape, bias)
    return ConvolutionalDenoising(layer, method, level, mean_CHW, code_shape, seeded(1)).train()


def _plain(padding: int) -> Plain:
    return Plain(ConvNorm(2, 6, 3, seeded(0), stride=2, padding=padding), 2, 6)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Stem(1, 6, True, seeded(0)), (1, 8, 8)),
        (Stem(3, 6, False, seeded(0)), (3, 37, 32)),
        (Block(4, 4, 1, False, seeded(0)), (4, 7, 7)),
        (Block(4, 8, 2, False, seeded(0)), (4, 8, 9)),
        (Block(8, 16, 2, True, seeded(0)), (8, 1, 2)),
        (_plain(padding=0), (2, 15, 16)),
        (_plain(padding=1), (2, 15, 16)),
    ],
    ids=["small stem", "stem", "block", "striding block", "one pixel", "unpadded", "padded"],
)
def test_what_a_layer_encodes_is_decoded_to_the_size_of_its_input(
    layer: Layer, shape: tuple[int, ...]
) -> None:
    stage, x = _stage(layer, shape, reconstruction_loss="mse"), torch.rand(B, *shape)
    assert stage.decoder(layer(x)).shape == x.shape
    torch.autograd.backward(stage.loss(x, LABELS))
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in stage.parameters())


@pytest.mark.parametrize("side", [15, 16, 17])
@pytest.mark.parametrize("padding", [0, 1])
def test_a_code_is_decoded_where_it_was_seen(side: int, padding: int) -> None:
    """A lit code pixel lights the pixels in the middle of those that it was made of."""
    layer = _plain(padding)
    stage = _stage(layer, (2, side, side))
    nn.init.ones_(stage.decoder.weight)
    nn.init.ones_(layer.convolution.conv.weight)
    x = torch.zeros(1, 2, side, side, requires_grad=True)
    code = layer.convolution.conv(x)
    row = code.shape[2] // 2
    (seen,) = torch.autograd.grad(code[0, 0, row, row], x)
    lit = torch.zeros(1, *code.shape[1:])
    lit[0, 0, row, row] = 1.0
    decoded = stage.decoder(lit)[0, 0].nonzero().float().mean(0)
    assert float((seen[0, 0].nonzero().float().mean(0) - decoded).abs().max()) <= 1.0


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_the_loss_is_that_of_the_clean_image_summed_over_its_pixels(loss: str) -> None:
    layer = Block(4, 8, 2, False, seeded(0))
    stage = _stage(layer, (4, 6, 6), 0.3, corruption="none", reconstruction_loss=loss)
    x = torch.rand(B, 4, 6, 6)
    upside = nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1, bias=False)
    upside.weight = stage.decoder.weight
    decoded = upside(layer(x)) + 0.3
    if loss == "mse":
        by_hand = ((decoded - x) ** 2).sum() / B
    else:
        p = torch.sigmoid(decoded)
        by_hand = -(x * p.log() + (1 - x) * (1 - p).log()).sum() / B
    torch.testing.assert_close(stage.loss(x, LABELS), by_hand)
    assert {name: tuple(one.shape) for name, one in stage.own_tensors().items()} == {
        "weight": (8, 4, 4, 4),
        "bias_CHW": (4, 6, 6),
    }


def test_only_the_encoder_sees_the_corruption() -> None:
    layer = Stem(1, 6, True, seeded(0))
    stage = _stage(layer, (1, 8, 8), level=1.0, reconstruction_loss="mse")  # all is masked
    x = torch.rand(B, 1, 8, 8)
    decoded = stage.decoder(layer(torch.zeros_like(x)))
    torch.testing.assert_close(stage.loss(x, LABELS), ((decoded - x) ** 2).sum() / B)


def test_the_decoder_that_knows_nothing_else_gives_the_mean_image() -> None:
    recipe = Recipe.model_validate(
        {
            "data": {"source": "digits"},
            "model": {"kind": "resnet", "depth": 20, "width": 4},
            "pretraining": {
                "method": "denoising_autoencoder",
                "tied_weights": False,
                "layers": 1,
                "batch_size": 40,
            },
        }
    )
    images = torch.rand(40, 1, 8, 8, generator=seeded(4))
    net = build_net(recipe.model, (1, 8, 8), 10, seeded(0))
    plan = plan_stages(recipe, 40, 128, world_size=1)[0]
    inputs = Inputs(InMemory(images, torch.zeros(40, dtype=torch.int64)))
    stage = build_objective(plan, recipe, net, 10, inputs)
    assert isinstance(stage, ConvolutionalDenoising)
    decoded = torch.sigmoid(stage.decoder(torch.zeros(1, 4, 8, 8)))
    torch.testing.assert_close(decoded, images.mean(0, keepdim=True))


def test_codes_of_images_keep_their_shape_and_their_spread() -> None:
    images, layer = torch.rand(30, 1, 8, 8, generator=seeded(4)), Stem(1, 6, True, seeded(0))
    above = Inputs(InMemory(images, torch.zeros(30, dtype=torch.int64))).above(layer, "memory")
    codes = layer(images).detach()  # above() left it in eval mode
    assert above.rows(torch.tensor([2, 7]), 0).shape == (2, 6, 8, 8)
    torch.testing.assert_close(above.mean(), codes.mean(0))
    assert above.spread() == pytest.approx(float(codes.std(0, correction=0).mean()), rel=1e-4)


def test_a_layer_that_gives_no_images_is_refused_with_its_shapes() -> None:
    method = DenoisingAutoencoder(method="denoising_autoencoder", tied_weights=False)
    with pytest.raises(ConfigFailure, match=r"makes \(6,\) of \(1, 8, 8\)"):
        ConvolutionalDenoising(
            Stem(1, 6, True, seeded(0)), method, 0.25, torch.zeros(1, 8, 8), (6,), seeded(1)
        )
