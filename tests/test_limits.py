"""What no weights and thresholds reach, so that a result that says so is right."""

import pytest

import lsc_snn as lsc
from data_dir import data_dir
from lsc_snn._cli_inputs import first_batch, load_splits
from lsc_snn.trace import trace


@pytest.mark.slow
@pytest.mark.parametrize(("target", "reached"), [("one", False), ("half", True)])
def test_counts_do_not_bring_a_first_layer_to_one(target, reached):
    """Counts come in bursts: at a time radius of 1 no scale of weights and threshold holds potentials in the window.

    Over five octaves of weights, and seven of threshold by weights, the largest radius that many points carry is a
    quarter of the target. That of 1/2 is within their reach.
    """
    splits = load_splits(str(data_dir("spoken_digits")), 20.0, 5)
    batch = first_batch(splits.train, 50, 0)
    network = lsc.Network(lsc.NetworkConfig(140, 10, num_units=128, num_layers=1, neuron="LIF"), seed=0)
    wanted = lsc.Target.parse(target, batch.num_steps, 1)
    knobs = trace(network, batch, num_times=1).layers[0].knobs
    first, largest = {name: value.clone() for name, value in network.state_dict().items()}, 0.0
    for scale in range(0, 6):
        for ratio in range(-2, 6):
            network.load_state_dict(first)
            knobs.depth.turn(2.0**scale)
            knobs.threshold.turn(2.0 ** (scale + ratio))
            report = lsc.measure(network, batch, num_matvecs=32)
            for _ in range(4):
                knobs.time.turn(wanted.time / float(report.time))
                report = lsc.measure(network, batch, num_matvecs=32)
            if not report.means("encoder")[0].rough:
                largest = max(largest, report.encoder)
    assert (largest > wanted.depth) is reached, largest
    if not reached:
        network.load_state_dict(first)
        assert largest < 0.3 * wanted.depth
        result = lsc.stabilize(network, batch, target=target)
        assert not result.converged
        assert 0.5 * largest < result.after.encoder < 1.1 * largest
