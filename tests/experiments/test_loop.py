"""One pass over the data, against loops over samples and a training loop written out on dense tensors."""

import math

import pytest
import torch
from lightning_fabric import Fabric
from torch.nn import functional

from cases import normal
from lsc_snn import Network
from lsc_snn.experiments import loop
from lsc_snn.experiments.data import shuffled


def make_fabric():
    return Fabric(accelerator="cpu", devices=1)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_gradient_norms(configure, scale):
    """Every parameter of a layer counts; squares that leave float32 do not matter."""
    network = Network(configure().network)
    gradients = {}
    for index, (name, parameter) in enumerate(network.named_parameters()):
        parameter.grad = scale * normal(*parameter.shape, seed=index, dtype=torch.float32)
        gradients[name] = parameter.grad
    layers = loop.layers_of(network)
    assert list(layers) == ["layers.0", "layers.1", "readout"]
    expected = [
        math.sqrt(sum(float((g.double() ** 2).sum()) for name, g in gradients.items() if name.startswith(layer + ".")))
        for layer in layers
    ]
    torch.testing.assert_close(loop.gradient_norms(layers).tolist(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("readout", ["mean", "last", "max", "sum"])
@pytest.mark.parametrize("batch_size", [4, 21, 100])
def test_evaluate_is_the_mean_over_samples(configure, splits, batch_size, readout):
    """Against each sample on its own, cut to its valid length, as a dense tensor."""
    config, part = configure(batch_size=batch_size, readout=readout), splits.validation
    network = Network(config.network, seed=1)
    losses, hits, spikes, steps = [], [], torch.zeros(2), 0
    for index in range(len(part)):
        batch, label = part.batch([index])
        signal = batch.to_dense()[: int(batch.lengths)]
        steps += len(signal)
        with torch.no_grad():
            for layer_index, layer in enumerate(network.layers):
                signal, _ = layer(signal)
                spikes[layer_index] += signal.mean(2).sum()
            output, _ = network.readout(signal)
        score = {"mean": output.mean(0), "last": output[-1], "max": output.amax(0), "sum": output.sum(0)}[readout]
        losses.append(functional.cross_entropy(score, label))
        hits.append(score.argmax(1) == label)
    got = loop.evaluate(make_fabric(), network, part, config)
    assert got.loss == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
    assert got.accuracy == float(torch.stack(hits).double().mean())
    assert got.rates == pytest.approx((spikes / steps).tolist(), rel=1e-5)
    assert min(got.rates) > 0


@pytest.mark.parametrize("clip", [None, 0.05])
def test_fit_epoch_is_adamw_on_the_batches(configure, splits, clip):
    """Against a plain loop on dense tensors; gradients are recorded before they are clipped."""
    config = configure(gradient_clip=clip, network={"dropout": 0.0})
    network, reference = (Network(config.network, seed=2) for _ in range(2))
    optimizer, plain = (torch.optim.AdamW(n.parameters(), lr=config.learning_rate) for n in (network, reference))
    fabric = make_fabric()
    module, wrapped = fabric.setup(network, optimizer)
    fitted = loop.fit_epoch(fabric, module, network, wrapped, splits.train, config, 4)

    order, losses, hits, norms = shuffled(len(splits.train), config.seed, 4), [], [], []
    for first in range(0, len(order), config.batch_size):
        batch, labels = splits.train.batch(order[first : first + config.batch_size])
        output = reference(batch.to_dense())
        scores = torch.stack([output[:length, b].mean(0) for b, length in enumerate(batch.lengths)])
        plain.zero_grad()
        functional.cross_entropy(scores, labels).backward()
        losses += functional.cross_entropy(scores, labels, reduction="none").tolist()
        hits += (scores.argmax(1) == labels).tolist()
        norms.append([torch.cat([p.grad.flatten() for p in n.parameters()]).norm() for n in reference.layers])
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(reference.parameters(), clip)
        plain.step()
    assert fitted.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert fitted.accuracy == sum(hits) / len(hits)
    torch.testing.assert_close(torch.tensor(fitted.gradient_mean[:2]), torch.tensor(norms).mean(0), rtol=1e-4, atol=0)
    torch.testing.assert_close(torch.tensor(fitted.gradient_max[:2]), torch.tensor(norms).amax(0), rtol=1e-4, atol=0)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter, reference.get_parameter(name), rtol=1e-3, atol=1e-4)


def test_a_large_gradient_is_clipped_to_its_limit(configure, splits):
    """One whose square overflows float32 keeps its direction."""
    config = configure(gradient_clip=0.5, batch_size=50, network={"dropout": 0.0})
    steps = []
    for scale in (1.0, 1e25):
        network = Network(config.network)
        fabric = make_fabric()
        module, optimizer = fabric.setup(network, torch.optim.SGD(network.parameters(), lr=1.0))
        before = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
        for parameter in network.parameters():
            parameter.register_hook(lambda gradient, scale=scale: gradient * scale)
        loop.fit_epoch(fabric, module, network, optimizer, splits.train, config, 1)
        steps.append(before - torch.cat([parameter.detach().flatten() for parameter in network.parameters()]))
    assert float(steps[0].norm()) == pytest.approx(0.5, rel=1e-4)
    torch.testing.assert_close(steps[1], steps[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_ends_the_epoch_before_its_step(configure, splits, value):
    """A NaN weight silences its layer and leaves the loss finite, so that the loss alone would not tell."""
    config = configure(network={"dropout": 0.0})
    network = Network(config.network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    fabric = make_fabric()
    module, wrapped = fabric.setup(network, optimizer)
    network.layers[1].weight.register_hook(lambda gradient: torch.full_like(gradient, value))
    before = [parameter.clone() for parameter in network.parameters()]
    with pytest.raises(loop.DivergedError, match=r"gradient of layers.1 was (nan|inf) in epoch 1, step 1"):
        loop.fit_epoch(fabric, module, network, wrapped, splits.train, config, 1)
    assert all(torch.equal(b, p) for b, p in zip(before, network.parameters(), strict=True))


def test_dropout_is_the_only_random_thing_and_repeats(configure, splits):
    def fitted(epoch, dropout, disturb):
        config = configure(network={"dropout": dropout})
        network = Network(config.network)
        fabric = make_fabric()
        module, optimizer = fabric.setup(network, torch.optim.SGD(network.parameters(), lr=0.1))
        with torch.random.fork_rng([]):
            torch.rand(disturb)
            return loop.fit_epoch(fabric, module, network, optimizer, splits.train, config, epoch)

    assert fitted(1, 0.5, 0) == fitted(1, 0.5, 7)
    assert fitted(1, 0.5, 0).loss != fitted(1, 0.4, 0).loss
