"""SAM: the worked numbers of the specification, and the guarantees inside the Trainer."""

import copy

import pytest
import torch
from tiny_graphs import TinyModel, assert_same_weights, tiny_task, weights_of
from torch import nn

from graphkit.errors import PluginError
from graphkit.plugins import SAM, at_worst_point, create_plugin
from graphkit.train import LocalWorld, Trainer, TrainerPlugin


def quadratic(theta, factor=1.0):
    return factor * (theta[0] ** 2 + 4 * theta[1] ** 2) / 2


def test_worked_example():
    theta = nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.float64))
    optimizer = SAM(torch.optim.SGD([theta], lr=0.1), rho=0.05)
    seen = []

    def closure():
        optimizer.zero_grad()
        loss = quadratic(theta)
        loss.backward()
        seen.append((theta.detach().clone(), theta.grad.clone()))
        return loss

    optimizer.step(closure)
    moved = (seen[1][0] - seen[0][0]).tolist()
    assert moved == pytest.approx([0.012127, 0.048507], abs=1e-6)
    assert seen[1][1].tolist() == pytest.approx([1.012127, 4.194029], abs=1e-6)
    assert theta.tolist() == pytest.approx([0.898787, 0.580597], abs=1e-6)


@pytest.mark.parametrize("adaptive", [False, True])
def test_scaling_the_loss_does_not_change_the_perturbation(adaptive):
    positions = []
    for factor in (1.0, 10.0):
        theta = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        quadratic(theta, factor).backward()
        with at_worst_point([theta], 0.05, adaptive):
            positions.append(theta.detach().clone())
    torch.testing.assert_close(positions[0], positions[1], rtol=1e-12, atol=0)


def test_adaptive_perturbation_is_that_of_asam():
    theta = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    theta.grad = torch.tensor([3.0, 2.0], dtype=torch.float64)
    with at_worst_point([theta], rho=0.5, adaptive=True):
        moved = theta.detach() - torch.tensor([1.0, 2.0])
    # || |theta| * g || = ||(3, 4)|| = 5; e = .5 * (1 * 3, 4 * 2) / 5
    assert moved.tolist() == pytest.approx([0.3, 0.8], rel=1e-9)


def test_zero_and_missing_gradients_move_nothing():
    still, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    still.grad = torch.zeros(2)
    with at_worst_point([still, unused], rho=1.0):
        assert still.tolist() == unused.tolist() == [1.0, 1.0]


def test_weights_come_back_to_the_bit_even_after_an_error():
    theta = nn.Parameter(torch.rand(1000) * 1e-3)
    before = theta.detach().clone()
    theta.grad = torch.randn(1000) * 1e6
    with pytest.raises(RuntimeError), at_worst_point([theta], rho=0.3):
        raise RuntimeError
    assert torch.equal(theta, before)


def fit(plugins=(), world=None, model=None, **arguments):
    model = model or TinyModel(dropout=0.5, norm=True)
    settings = {"max_epochs": 5, "batch_size": 5, "progress": False, **arguments}
    result = Trainer(plugins=plugins, **settings).fit(model, tiny_task(), world=world)
    return result, weights_of(model)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("ascent", ["local", "global"])
def test_rho_zero_is_the_base_optimiser_to_the_bit(optimizer, ascent):
    spec = {"name": optimizer, "lr": 0.05, "weight_decay": 0.01}
    plain, weights = fit(optimizer=spec)  # 5 epochs of 4 steps: 20 steps
    sam, same = fit([create_plugin("sam", rho=0.0, ascent=ascent)], optimizer=spec)
    assert plain.history == sam.history
    assert_same_weights(weights, same)


def test_running_means_after_one_step_are_those_of_one_forward():
    class Look(TrainerPlugin):
        def __init__(self):
            self.means = []

        def after_step(self, model):
            self.means.append(model.norm.running_mean.clone())

    plain, sam = Look(), Look()
    fit([plain], max_epochs=1)
    fit([create_plugin("sam", rho=0.5), sam], max_epochs=1)
    assert torch.equal(plain.means[0], sam.means[0])


def test_rho_changes_the_run():
    assert fit()[0].history != fit([create_plugin("sam", rho=0.2)])[0].history


def test_the_ascent_gradient_is_not_clipped_and_the_second_is():
    class Look(TrainerPlugin):
        def after_step(self, model):
            grads = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
            self.norm = float(grads.norm())

    look = Look()
    clip = create_plugin("grad_clip", max_norm=1e-3)
    fit([create_plugin("sam", rho=0.1), clip, look], max_epochs=1)
    assert look.norm == pytest.approx(1e-3, rel=1e-3)


def test_global_ascent_with_two_workers_is_that_of_the_global_batch():
    def run(world=None):
        plugin = create_plugin("sam", rho=0.2, ascent="global")
        model = TinyModel()
        spec = {"name": "SGD", "lr": 0.1}
        return fit([plugin], world, model, batch_size=4, optimizer=spec)[1]

    alone, pair = run(), LocalWorld(2).run(run)
    for key, value in alone.items():
        torch.testing.assert_close(pair[0][key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rho", [-0.1, float("nan"), float("inf"), "0.1", True])
def test_bad_rho_is_refused(rho):
    with pytest.raises(PluginError, match="rho"):
        create_plugin("sam", rho=rho)


def test_bad_ascent_and_missing_closure_are_refused():
    with pytest.raises(PluginError, match="ascent"):
        create_plugin("sam", ascent="sideways")
    theta = nn.Parameter(torch.zeros(1))
    with pytest.raises(PluginError, match="closure"):
        SAM(torch.optim.SGD([theta], lr=0.1)).step()


def test_the_optimiser_form_saves_and_loads_the_base_state():
    def make():
        theta = nn.Parameter(torch.tensor([1.0, 1.0]))
        return theta, SAM(torch.optim.Adam([theta], lr=0.1), rho=0.05)

    def closure_of(theta, optimizer):
        def closure():
            optimizer.zero_grad()
            loss = quadratic(theta)
            loss.backward()
            return loss

        return closure

    theta, optimizer = make()
    for _ in range(3):
        optimizer.step(closure_of(theta, optimizer))
    other, loaded = make()
    with torch.no_grad():
        other.copy_(theta)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.step(closure_of(theta, optimizer))
    loaded.step(closure_of(other, loaded))
    assert torch.equal(theta, other)
