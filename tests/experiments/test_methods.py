"""What a configuration may ask for beyond the plain run, each against an independent way to get the same."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch.nn import functional

from lsc_snn import Network, baselines, measure
from lsc_snn._cli_tables import comparison_table
from lsc_snn.datasets.augment import Augmentation
from lsc_snn.experiments import loop
from lsc_snn.experiments.checkpoint import load_network, read_checkpoint
from lsc_snn.experiments.compare import best_of
from lsc_snn.experiments.config import INITIALISATIONS
from lsc_snn.experiments.data import Splits, joined, shuffled
from lsc_snn.experiments.launch import EventPrecision, launched_fabric
from lsc_snn.experiments.loop import evaluate, evaluate_samples, fit_epoch
from lsc_snn.experiments.records import Evaluation, read_result
from lsc_snn.experiments.table import Run, summarize, to_markdown
from lsc_snn.experiments.train import train
from run_cases import StopError, make_text, numbers, same_run, stop_at, with_speakers


def make_fabric(**options):
    return Fabric(accelerator="cpu", devices=1, **options)


# --- the last network: refitted, and by speaker ---


def test_refit_is_a_run_on_both_parts_for_the_chosen_epochs(configure, splits, tmp_path):
    """Against a run whose training part is both, at the same rates, that stops there."""
    config = configure(epochs=4, refit=True, target="half", schedule="cosine", learning_rate=0.05)
    result = train(config, splits, tmp_path / "refit")
    best = result.best_epoch
    assert best > 0
    both = splits._replace(train=joined(splits.train, splits.validation))
    on_both = replace(config, refit=False)
    with pytest.raises(StopError):
        train(on_both, both, tmp_path / "both", on_epoch=stop_at(best))
    last = read_checkpoint(tmp_path / "both" / "last.safetensors")
    network = load_network(tmp_path / "refit")
    assert all(torch.equal(last.network[name], value) for name, value in network.state_dict().items())
    assert evaluate(make_fabric(), network, splits.test, config) == result.test
    rows = json.loads((tmp_path / "both" / "last.json").read_text())["info"]["history"]
    assert [row.train_loss for row in result.refit] == [row["train_loss"] for row in rows]
    assert [row.learning_rate for row in result.refit] == [row.learning_rate for row in result.history[:best]]
    assert result.refit[0].validation_loss is None
    assert read_result(tmp_path / "refit") == result
    alone = train(replace(config, refit=False), splits, tmp_path / "alone")
    assert (alone.best_epoch, alone.validation, alone.history) == (best, result.validation, result.history)
    assert alone.refit is None


def test_a_refit_that_diverges_ends_the_run_without_an_error(configure, splits, tmp_path, monkeypatch):
    config = configure(epochs=3, refit=True, patience=3)
    plain = train(config, splits, tmp_path / "plain")
    assert plain.best_epoch > 1
    seen = []

    def fit(fabric, module, network, optimizer, part, config, epoch):
        if len(part) == 71:
            seen.append(epoch)
            if epoch == 2:
                raise loop.DivergedError("loss was inf in epoch 2, step 1")
        return fit_epoch(fabric, module, network, optimizer, part, config, epoch)

    monkeypatch.setattr("lsc_snn.experiments.fitting.fit_epoch", fit)
    result = train(config, splits, tmp_path / "bad")
    assert (result.status, result.reason) == ("diverged", "refit: loss was inf in epoch 2, step 1")
    assert seen == [1, 2]
    assert result.refit == plain.refit[:1]
    assert evaluate(make_fabric(), load_network(tmp_path / "bad"), splits.test, config) == result.test


@pytest.mark.parametrize("refit", [False, True])
def test_accuracy_by_speaker(configure, splits, tmp_path, refit):
    """Validation's speaker is known to the network that was trained on it, and to no other."""
    spoken = with_speakers(splits)
    config = configure(epochs=2, refit=refit, learning_rate=0.005)
    result = train(config, spoken, tmp_path)
    network = load_network(tmp_path)
    with torch.no_grad():
        batch, labels = spoken.test.batch(np.arange(23))
        hits = loop.scored(network(batch), labels, batch.mask(), "mean").hits.numpy()
    assert evaluate_samples(make_fabric(), network, spoken.test, config)[1] == hits.tolist()
    known = (1, 3) if refit else (1,)
    for entry in result.speakers:
        own = hits[spoken.test.speakers == entry.speaker]
        assert (entry.known, entry.samples, entry.accuracy) == (entry.speaker in known, len(own), own.mean())
    assert [entry.speaker for entry in result.speakers] == [1, 3, 4]
    met = np.isin(spoken.test.speakers, known)
    assert result.known == pytest.approx(hits[met].mean())
    assert result.unseen == pytest.approx(hits[~met].mean())


def test_best_on_test_is_recorded_and_chooses_nothing(configure, splits, tmp_path):
    config = configure(epochs=3, learning_rate=0.1)
    plain = train(config, splits, tmp_path / "plain")
    assert plain.best_on_test is None
    with pytest.raises(StopError):
        train(replace(config, track_test=True), splits, tmp_path / "tracked", on_epoch=stop_at(2))
    tracked = train(replace(config, track_test=True), splits, tmp_path / "tracked", resume=True)
    assert tracked.history == plain.history
    assert (tracked.test, tracked.best_epoch) == (plain.test, plain.best_epoch)
    accuracies = []
    for epoch in (1, 2, 3):
        with pytest.raises(StopError):
            train(config, splits, tmp_path / str(epoch), on_epoch=stop_at(epoch))
        network = Network(config.network)
        network.load_state_dict(read_checkpoint(tmp_path / str(epoch) / "last.safetensors").network)
        accuracies.append(evaluate(make_fabric(), network, splits.test, config).accuracy)
    assert tracked.best_on_test == max(accuracies)


# --- where training starts from, and what it minimises ---


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_an_initialisation_in_place_of_a_target(configure, splits, tmp_path, name):
    config = configure(epochs=1, initialisation=name)
    result = train(config, splits, tmp_path)
    network = Network(config.network, seed=0)
    batch, _ = splits.train.batch(shuffled(50, 0, 0)[:32])
    generator = torch.Generator().manual_seed(0)
    if name == "fluctuation":
        baselines.fluctuation_driven(network, batch, generator=generator)
    elif name == "lsuv":
        baselines.lsuv(network, batch, generator=generator)
    else:
        getattr(baselines, name)(network, generator=generator)
    assert result.initial == evaluate(make_fabric(), network, splits.validation, config)
    assert result.radii == measure(network, batch, generator=generator).to_dict()
    assert result.stabilized is None
    assert not (tmp_path / "stabilize.json").exists()


def test_the_schedule_sets_the_rate_of_each_epoch(configure, splits, tmp_path):
    """With steps too small to change a float32 weight, validation rests from the first epoch on."""
    still = {"learning_rate": 1e-30, "weight_decay": 0.0, "epochs": 5}
    plateau = configure(schedule="plateau", plateau_epochs=2, plateau_factor=0.1, **still)
    rates = [row.learning_rate for row in train(plateau, splits, tmp_path / "plateau").history]
    assert rates == pytest.approx([1e-30, 1e-30, 1e-31, 1e-31, 1e-32], rel=1e-9)
    one = configure(epochs=2, schedule="cosine")
    result = train(one, splits, tmp_path / "cosine")
    assert [row.learning_rate for row in result.history] == [0.02, 0.01]
    constant = train(replace(one, schedule="none"), splits, tmp_path / "none")
    assert result.history[0] == constant.history[0]
    assert result.history[1].train_loss != constant.history[1].train_loss


def test_rates_are_drawn_into_their_band(configure, splits, tmp_path):
    """Which they are outside of without the penalty."""
    config = configure(epochs=15, patience=15, learning_rate=0.005, network={"dropout": 0.0})
    free = train(config, splits, tmp_path / "free").history[-1].rates
    for low, high in ((0.02, 0.05), (0.4, 0.5)):
        drawn = replace(config, rate_band=(low, high), rate_strength=100.0)
        rates = train(drawn, splits, tmp_path / str(low)).history[-1].rates
        assert all(low - 0.06 < rate < high + 0.06 for rate in rates)
        assert not any(low - 0.06 < rate < high + 0.06 for rate in free)


def test_training_meets_augmented_samples_and_evaluation_does_not(configure, splits):
    """One batch of all samples, against the loss on the batch that the augmentation itself cuts."""
    augment = Augmentation(time_shift=3, dropout=0.3)
    config = configure(batch_size=50, augment=augment, network={"dropout": 0.0})
    network, fabric = Network(config.network, seed=2), make_fabric()
    before = evaluate(fabric, network, splits.train, config)
    assert before == evaluate(fabric, network, splits.train, replace(config, augment=None))
    losses = []
    for epoch in (1, 2):
        order = shuffled(50, config.seed, epoch)
        batch, labels = augment.batch(splits.train, order, seed=config.seed, epoch=epoch)
        with torch.no_grad():
            losses.append(float(loop.scored(network(batch), labels, batch.mask(), "mean").losses.mean()))
        module, optimizer = fabric.setup(Network(config.network, seed=2), torch.optim.SGD(network.parameters(), lr=0.0))
        fitted = fit_epoch(fabric, module, module.module, optimizer, splits.train, config, epoch)
        assert fitted.loss == pytest.approx(losses[-1], rel=1e-5)
    assert losses[0] != losses[1]


# --- text ---


TEXT = {"num_inputs": 4, "num_classes": 4, "neuron": "GRU", "layer": {}, "readout_tau": None, "num_layers": 1}


def text_config(configure, **options):
    network = {**TEXT, **options.pop("network", {})}
    return configure(network=network, **{"bptt_steps": 5, "batch_size": 4, "stabilize_batch": 4, **options})


@pytest.mark.parametrize("neuron", ["GRU", "LSTM", "LRU", "ALIF"])
def test_truncated_backpropagation_carries_the_state_and_cuts_its_gradient(configure, neuron):
    """Against a loop over dense stretches of the text, written out."""
    text = make_text()
    config = text_config(configure, network={"dropout": 0.0, "neuron": neuron})
    network, reference = (Network(config.network, seed=1) for _ in range(2))
    optimizer, plain = (torch.optim.SGD(n.parameters(), lr=0.5) for n in (network, reference))
    fabric = make_fabric()
    module, wrapped = fabric.setup(network, optimizer)
    fitted = fit_epoch(fabric, module, network, wrapped, text.train, config, 1)

    tokens = torch.from_numpy(text.train.tokens)
    columns = (len(tokens) - 1) // 4
    inputs, following = (tokens[start : start + 4 * columns].reshape(4, columns).T for start in (0, 1))
    states, losses = None, []
    for first in range(0, columns, 5):
        dense = functional.one_hot(inputs[first : first + 5], 4).float()
        output, states = reference.run(dense, states)
        states = torch.utils._pytree.tree_map(lambda part: None if part is None else part.detach(), states)
        wanted = following[first : first + 5]
        loss = functional.cross_entropy(output.flatten(0, 1), wanted.flatten())
        losses += [float(loss.detach())] * wanted.numel()
        plain.zero_grad()
        loss.backward()
        plain.step()
    assert fitted.loss == pytest.approx(np.mean(losses), rel=1e-5)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter, reference.get_parameter(name), rtol=1e-4, atol=1e-5)


def test_a_text_is_learned_and_resumed(configure, tmp_path):
    text, config = make_text(), None
    config = text_config(configure, target="half", epochs=6, schedule="cosine", refit=True, learning_rate=0.05)
    result = train(config, text, tmp_path / "whole")
    assert result.initial.accuracy < 0.5
    assert result.test.accuracy > 0.8  # the noise leaves 92.5 %
    with pytest.raises(StopError):
        train(config, text, tmp_path / "parts", on_epoch=stop_at(2))
    assert numbers(train(config, text, tmp_path / "parts", resume=True)) == numbers(result)
    assert same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_text_is_judged_by_its_loss_and_reported_as_perplexity(configure, tmp_path):
    config, text = text_config(configure, epochs=4, learning_rate=0.3), make_text()
    result = train(config, text, tmp_path / "run")
    losses = [result.initial.loss, *(row.validation_loss for row in result.history)]
    assert result.best_epoch == losses.index(min(losses))
    assert result.validation.loss == min(losses)
    # The same numbers of samples would be judged by accuracy.
    surer, better_hits = (replace(result, validation=Evaluation(*numbers, ())) for numbers in ((1.0, 0.5), (1.1, 0.6)))
    assert best_of([better_hits, surer]) == 1
    plain = configure()
    assert best_of([replace(better_hits, config=plain), replace(surer, config=plain)]) == 0

    (cell,) = summarize([Run.of(result, "run", chosen=True)])
    assert cell.test_perplexity == pytest.approx(math.exp(result.test.loss))
    header, _, row = to_markdown([cell]).splitlines()
    assert [name.strip() for name in header.split("|")][3:6] == ["test accuracy", "test perplexity", "runs"]
    assert row.split("|")[4].strip() == f"{math.exp(result.test.loss):.2f}"
    console = Console(file=io.StringIO(), width=200)
    console.print(comparison_table([cell], "text"))
    assert f"{math.exp(result.test.loss):.2f}" in console.file.getvalue()


def test_text_and_samples_are_not_mixed_up(configure, splits, tmp_path):
    text = make_text()
    cases = [
        (configure(bptt_steps=5), splits, "bptt_steps: expected text with it, got samples with one label each"),
        (text_config(configure, bptt_steps=None), text, "bptt_steps: expected a number of steps for text, got None"),
        (text_config(configure, augment=Augmentation(dropout=0.1)), text, "augment: expected samples with it"),
        (text_config(configure, batch_size=500), text, "batch_size: expected at most 279"),
        (text_config(configure, network={"num_inputs": 5}), text, "splits train: expected 5 units"),
    ]
    for config, parts, message in cases:
        with pytest.raises(ValueError, match=message):
            train(config, parts, tmp_path / "run")
    with pytest.raises(TypeError, match="joined: expected two event datasets or two texts"):
        joined(splits.train, text.train)
    assert list(tmp_path.iterdir()) == []


# --- half precision ---


@pytest.mark.parametrize("neuron", ["GRU", "LRU", "ALIF"])
def test_mixed_precision_trains_as_full_precision_does(configure, splits, tmp_path, neuron):
    network = {"neuron": neuron, "layer": {}, "readout_tau": None}
    config = configure(epochs=3, network=network)
    full = train(config, splits, tmp_path / "full")
    half = train(replace(config, precision="bf16-mixed"), splits, tmp_path / "half")
    assert half.history[0].train_loss != full.history[0].train_loss
    for ours, theirs in zip(half.history, full.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=0.1, abs=1e-3)
    dtypes = {tensor.dtype for tensor in read_checkpoint(tmp_path / "half" / "last.safetensors").network.values()}
    assert dtypes == {torch.float32}


def test_an_overflow_in_float16_is_no_divergence(configure, splits):
    """The scale of the loss is lowered until gradients fit; norms are those of the unscaled gradient."""
    config = configure(batch_size=2, network={"neuron": "GRU", "layer": {}, "readout_tau": None, "dropout": 0.0})
    norms, scalers = [], []
    for scale in (2.0**10, 2.0**30):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        fabric = make_fabric(plugins=[EventPrecision("16-mixed", "cpu", scaler)])
        network = Network(config.network, seed=1)
        module, optimizer = fabric.setup(network, torch.optim.SGD(network.parameters(), lr=0.01))
        fitted = fit_epoch(fabric, module, network, optimizer, splits.train, config, 1)
        norms.append(fitted.gradient_max)
        scalers.append(scaler.get_scale())
        assert all(math.isfinite(norm) and norm > 0 for norm in fitted.gradient_max)
        assert all(torch.isfinite(parameter).all() for parameter in network.parameters())
    assert scalers[0] == 2.0**10
    assert scalers[1] < 2.0**22
    torch.testing.assert_close(torch.tensor(norms[1]), torch.tensor(norms[0]), rtol=0.2, atol=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU takes it")
def test_float16_needs_a_gpu():
    with pytest.raises(ValueError, match="precision: expected a GPU for '16-mixed', got none; choose bf16-mixed"):
        launched_fabric("16-mixed")


def test_splits_of_another_kind_have_no_speakers(configure, splits, tmp_path):
    spoken = with_speakers(splits)
    unnamed = Splits(splits.train, splits.validation, spoken.test.subset(range(23)))
    unnamed.test.speakers = None
    result = train(configure(epochs=1), unnamed, tmp_path)
    assert (result.speakers, result.known, result.unseen) == ((), None, None)
