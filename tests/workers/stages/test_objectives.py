"""What each kind of stage trains, checked by another way: updates written by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workers.contract.model_spec import MlpModel
from workers.contract.pretraining_spec import DenoisingAutoencoder, Rbm
from workers.models.layered import seeded
from workers.models.mlp import DenseLayer
from workers.stages.denoising import Denoising
from workers.stages.handover import bias_of_mean
from workers.stages.rbm import RestrictedBoltzmannMachine

MODEL = MlpModel(kind="mlp", hidden=(5,), activation="sigmoid", init="xavier")
V, H, B = 7, 5, 11
LABELS = torch.zeros(B, dtype=torch.int64)


def _layer() -> DenseLayer:
    return DenseLayer(MODEL, V, H, seeded(0))


def _denoising(bias_V: Tensor | None = None, level: float = 0.25, **options: Any) -> Denoising:
    method = DenoisingAutoencoder(method="denoising_autoencoder", **options)
    bias_V = torch.zeros(V) if bias_V is None else bias_V
    return Denoising(_layer(), method, level, bias_V, MODEL, seeded(1))


def _rbm(is_gaussian: bool = False, **options: Any) -> RestrictedBoltzmannMachine:
    method = Rbm(method="rbm", init_std=0.5, **options)
    return RestrictedBoltzmannMachine(_layer(), method, is_gaussian, torch.randn(V), seeded(1))


def test_the_autoencoder_is_encoder_and_decoder_on_the_same_weights() -> None:
    stage = _denoising(torch.randn(V), corruption="none")
    x = torch.rand(B, V)
    W, b, c = stage.layer.linear.weight, stage.layer.linear.bias, stage.visible_bias_V
    z = torch.sigmoid(torch.sigmoid(x @ W.T + b) @ W + c)
    by_hand = -(x * z.log() + (1 - x) * (1 - z).log()).sum() / B
    torch.testing.assert_close(stage.loss(x, LABELS), by_hand)
    assert set(stage.own_tensors()) == {"visible_bias"}


def test_mse_has_a_linear_decoder_and_untied_weights_are_trained_too() -> None:
    stage = _denoising(corruption="none", reconstruction_loss="mse", tied_weights=False)
    x = torch.rand(B, V)
    assert stage.decoder_weight_VH is not None
    decoded = stage.layer.encode(x) @ stage.decoder_weight_VH.T + stage.visible_bias_V
    torch.testing.assert_close(stage.loss(x, LABELS), ((decoded - x) ** 2).sum() / B)
    assert set(stage.own_tensors()) == {"visible_bias", "decoder_weight"}
    assert len(list(stage.parameters())) == 4


def test_each_corruption_does_what_it_says() -> None:
    x = torch.full((200, 500), 0.5)
    masked = _denoising(corruption="masking", level=0.3).corrupted(x)
    assert set(masked.flatten().tolist()) == {0.0, 0.5}
    assert float((masked == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    salted = _denoising(corruption="salt_and_pepper", level=0.4).corrupted(x)
    for value in (0.0, 1.0):
        assert float((salted == value).float().mean()) == pytest.approx(0.2, abs=0.01)
    noise = _denoising(corruption="gaussian", level=0.1).corrupted(x) - x
    assert float(noise.std()) == pytest.approx(0.1, abs=0.005)
    assert torch.equal(_denoising(corruption="none").corrupted(x), x)
    assert bool((x == 0.5).all())  # the clean input is the target: it must stay as it is


@pytest.mark.parametrize("cd_k", [1, 3])
def test_the_rbms_gradient_is_that_of_free_energies(cd_k: int) -> None:
    """CD-k by hand, and again by autograd: mean free energy of v0 less that of a fixed vk."""
    stage, x = _rbm(cd_k=cd_k, weight_decay=0.0), torch.rand(B, V)
    W, b, c = stage.linear.weight, stage.linear.bias, stage.visible_bias_V
    torch.manual_seed(5)
    error = stage.loss(x, LABELS)
    found = [parameter.grad for parameter in (W, b, c)]

    torch.manual_seed(5)
    vk = x
    for _ in range(cd_k):
        h = (torch.rand(B, H) < torch.sigmoid(vk @ W.T + b)).float()
        vk = torch.sigmoid(h @ W + c).detach()

    def free_energy(v: Tensor) -> Tensor:
        return -(v @ c) - nn.functional.softplus(v @ W.T + b).sum(1)

    difference = (free_energy(x) - free_energy(vk)).mean()
    for gradient, expected in zip(found, torch.autograd.grad(difference, [W, b, c]), strict=True):
        torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(error, ((x - vk) ** 2).sum() / B)


def _gradients(stage: RestrictedBoltzmannMachine) -> list[Tensor]:
    parameters = (stage.linear.weight, stage.linear.bias, stage.visible_bias_V)
    return [_known(parameter.grad) for parameter in parameters]


def _known(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient


def _by_hand(v0: Tensor, p0: Tensor, vk: Tensor, pk: Tensor) -> list[Tensor]:
    """Statistics of the chain's end less those of the data, mean over B."""
    return [(pk.T @ vk - p0.T @ v0) / len(v0), (pk - p0).mean(0), (vk - v0).mean(0)]


def test_gaussian_visible_units_are_restored_as_real_numbers() -> None:
    stage, x = _rbm(is_gaussian=True, weight_decay=0.0), torch.randn(B, V) * 3
    W, b, c = stage.linear.weight, stage.linear.bias, stage.visible_bias_V
    torch.manual_seed(5)
    error = stage.loss(x, LABELS)
    torch.manual_seed(5)
    p0 = torch.sigmoid(x @ W.T + b)
    vk = (torch.rand(B, H) < p0).float() @ W + c
    pk = torch.sigmoid(vk @ W.T + b)
    for found, expected in zip(_gradients(stage), _by_hand(x, p0, vk, pk), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(error, (vk - x).square().sum() / B)


def test_rectified_hidden_units_are_drawn_with_the_noise_of_their_slope() -> None:
    stage, x = _rbm(is_gaussian=True, hidden="relu", weight_decay=0.0), torch.randn(B, V)
    W, b, c = stage.linear.weight, stage.linear.bias, stage.visible_bias_V
    torch.manual_seed(5)
    stage.loss(x, LABELS)
    torch.manual_seed(5)
    z0 = x @ W.T + b
    h0 = torch.relu(z0 + torch.randn(B, H) * torch.sigmoid(z0).sqrt())
    vk = h0 @ W + c
    expected = _by_hand(x, torch.relu(z0), vk, torch.relu(vk @ W.T + b))
    for found, by_hand in zip(_gradients(stage), expected, strict=True):
        torch.testing.assert_close(found, by_hand)


def test_persistent_chains_go_on_where_they_were() -> None:
    stage, x = _rbm(persistent=True, cd_k=2, weight_decay=0.0), torch.rand(B, V)
    W, b, c = stage.linear.weight, stage.linear.bias, stage.visible_bias_V
    assert stage.rank_tensors() == {}
    torch.manual_seed(5)
    for _ in range(2):
        error = stage.loss(x, LABELS)
    torch.manual_seed(5)
    vk = x  # they begin at the first batch
    for _ in range(4):
        h = (torch.rand(B, H) < torch.sigmoid(vk @ W.T + b)).float()
        vk = torch.sigmoid(h @ W + c)
    p0, pk = torch.sigmoid(x @ W.T + b), torch.sigmoid(vk @ W.T + b)
    for found, expected in zip(_gradients(stage), _by_hand(x, p0, vk, pk), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(stage.rank_tensors()["chains"], vk)
    # Not the chain's distance from the data, which is no error of anything.
    torch.testing.assert_close(error, (torch.sigmoid(p0 @ W + c) - x).square().sum() / B)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_the_contractive_penalty_is_the_squared_norm_of_the_jacobian(activation: Any) -> None:
    model = MODEL.model_copy(update={"activation": activation})
    layer = DenseLayer(model, V, H, seeded(0))
    options: dict[str, Any] = {"reconstruction_loss": "mse", "corruption": "none"}
    x_BV, losses = torch.randn(B, V), []
    for penalty in (0.0, 0.7):
        method = DenoisingAutoencoder(
            method="denoising_autoencoder", contractive_penalty=penalty, **options
        )
        stage = Denoising(layer, method, 0.0, torch.zeros(V), model, seeded(1))
        losses.append(stage.loss(x_BV, LABELS))
    jacobians = torch.stack([torch.func.jacrev(layer.encode)(x[None])[0, :, 0] for x in x_BV])
    expected = 0.7 * jacobians.square().sum((1, 2)).mean()
    torch.testing.assert_close(losses[1] - losses[0], expected, rtol=1e-4, atol=1e-4)


def test_sparsity_costs_the_divergence_from_how_often_units_shall_be_on() -> None:
    x = torch.rand(B, V)
    plain = _denoising(corruption="none")
    sparse = _denoising(corruption="none", sparsity_target=0.1, sparsity_weight=2.0)
    sparse.load_state_dict(plain.state_dict())
    on = torch.distributions.Bernoulli(plain.layer.encode(x).mean(0))
    wanted = torch.distributions.Bernoulli(torch.full((H,), 0.1))
    expected = 2.0 * torch.distributions.kl_divergence(wanted, on).sum()
    found = sparse.loss(x, LABELS) - plain.loss(x, LABELS)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_weight_decay_pulls_the_rbms_weights_only() -> None:
    plain, decayed, x = _rbm(weight_decay=0.0), _rbm(weight_decay=0.1), torch.rand(B, V)
    decayed.load_state_dict(plain.state_dict())
    for stage in (plain, decayed):
        torch.manual_seed(5)
        stage.loss(x, LABELS)
    assert plain.linear.weight.grad is not None
    expected = plain.linear.weight.grad + 0.1 * plain.linear.weight
    torch.testing.assert_close(decayed.linear.weight.grad, expected)
    torch.testing.assert_close(decayed.linear.bias.grad, plain.linear.bias.grad)


def test_an_rbm_begins_small_whatever_the_net_began_with() -> None:
    """N(0, init_std), hidden biases of 0, and visible biases that alone give the data's mean."""
    model = MlpModel(kind="mlp", hidden=(300,), activation="sigmoid", init="xavier")
    layer, bias_V = DenseLayer(model, 200, 300, seeded(0)), torch.randn(200)
    nn.init.ones_(layer.linear.bias)
    method = Rbm(method="rbm", init_std=0.03)
    stage = RestrictedBoltzmannMachine(layer, method, False, bias_V, seeded(1))
    weight_HV = layer.linear.weight.detach()
    assert float(weight_HV.std()) == pytest.approx(0.03, rel=0.02)
    assert abs(float(weight_HV.mean())) < 0.001
    assert not layer.linear.bias.any()
    assert torch.equal(stage.visible_bias_V, bias_V)
    assert stage.visible_bias_V.data_ptr() != bias_V.data_ptr()


def test_nan_in_an_rbm_shows_in_its_error_and_raises_nothing() -> None:
    stage = _rbm()
    with torch.no_grad():
        stage.linear.weight[0, 0] = float("nan")
    assert bool(stage.loss(torch.rand(B, V), LABELS).isnan())


def test_a_decoder_that_knows_nothing_else_gives_the_mean() -> None:
    mean = torch.tensor([0.0, 0.2, 0.9])
    torch.testing.assert_close(
        torch.sigmoid(bias_of_mean(mean, as_probability=True)), torch.tensor([0.01, 0.2, 0.9])
    )
    assert torch.equal(bias_of_mean(mean, as_probability=False), mean)
