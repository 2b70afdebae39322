"""The interpreter of NIR graphs: each node against its equation stepped by hand, or torch in float64."""

import math

import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lsc_snn.nir.interpret import interpret
from nir_cases import chain, graph_of, lif, recurrent, spiking

DT = 0.5
T, B, N = 40, 3, 4


def rng(seed=0):
    return np.random.default_rng(seed)


def output(graph, inputs, dt=DT, **options):
    return interpret(graph, inputs, dt=dt, **options).outputs["output"]


def neuron(kind, seed=0):
    """Return a node of a kind with parameters of its own for each neuron, drawn from a range where it spikes."""
    generator = rng(seed)
    draw = lambda low, high: generator.uniform(low, high, N)  # noqa: E731
    values = {
        "tau": draw(1, 4), "tau_mem": draw(2, 5), "tau_syn": draw(1, 3), "r": draw(1, 2), "w_in": draw(1, 2),
        "v_leak": draw(-0.2, 0.2), "v_threshold": draw(0.3, 0.8),
    }  # fmt: skip
    fields = {
        "I": ["r"], "IF": ["r", "v_threshold"], "LI": ["tau", "r", "v_leak"],
        "LIF": ["tau", "r", "v_leak", "v_threshold"], "CubaLI": ["tau_syn", "tau_mem", "r", "v_leak", "w_in"],
        "CubaLIF": ["tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "w_in"],
    }  # fmt: skip
    return {field: values[field] for field in fields[kind]}


def by_hand(kind, p, x, v_reset):
    """Step one neuron, scalar by scalar, written from the equations of NIR's documentation."""
    v, current, result = p.get("v_leak", 0.0), 0.0, []
    for value in x:
        if kind in ("CubaLI", "CubaLIF"):
            current = current + DT * (p["w_in"] * value - current) / p["tau_syn"]
            value = current
        if kind in ("I", "IF"):
            v = v + DT * p["r"] * value
        else:
            tau = p["tau_mem"] if kind.startswith("Cuba") else p["tau"]
            v = v + DT * (p["v_leak"] - v + p["r"] * value) / tau
        if kind in ("I", "LI", "CubaLI"):
            result.append(v)
            continue
        spike = v > p["v_threshold"]
        result.append(1.0 if spike else 0.0)
        if spike:
            v = v - p["v_threshold"] if v_reset is None else v_reset
    return result


CASES = [("I", None), ("LI", None), *((kind, v) for kind in ("IF", "LIF", "CubaLIF") for v in (None, 0.0, -0.25))]


@pytest.mark.parametrize(("kind", "v_reset"), CASES)
def test_each_neuron_follows_its_equation(kind, v_reset):
    p = neuron(kind)
    reset = None if v_reset is None else np.full(N, v_reset)
    node = spiking(getattr(nir, kind), v_reset=reset, **p) if "F" in kind else getattr(nir, kind)(**p)
    x = rng(1).normal(0.4, 1.0, (T, B, N))
    found = output(chain([N], node), x)
    for b in range(B):
        for n in range(N):
            expected = by_hand(kind, {field: value[n] for field, value in p.items()}, x[:, b, n], v_reset)
            np.testing.assert_allclose(found[:, b, n], expected, rtol=1e-12, atol=1e-13)
    if "F" in kind:
        assert 0.05 < found.mean() < 0.95


@pytest.mark.skipif(not hasattr(nir, "CubaLI"), reason="CubaLI came with nir 1.0.8")
def test_cuba_li_follows_its_equation():
    p = neuron("CubaLI")
    x = rng(1).normal(size=(T, 1, N))
    found = output(chain([N], nir.CubaLI(**p)), x)
    for n in range(N):
        expected = by_hand("CubaLI", {field: value[n] for field, value in p.items()}, x[:, 0, n], None)
        np.testing.assert_allclose(found[:, 0, n], expected, rtol=1e-12)


def test_the_two_resets_differ_as_documented():
    """An input of 3 thresholds: subtraction keeps what is above, and spikes for three steps; a value forgets it."""
    x = np.zeros((5, 1, 1))
    x[0] = 3.5
    node = lambda v_reset: spiking(nir.IF, r=[1.0], v_threshold=[1.0], v_reset=v_reset)  # noqa: E731
    assert output(chain([1], node(None)), x, dt=1.0).ravel().tolist() == [1, 1, 1, 0, 0]
    assert output(chain([1], node([0.0])), x, dt=1.0).ravel().tolist() == [1, 0, 0, 0, 0]


def test_a_spike_needs_more_than_the_threshold():
    x = np.array([1.0, np.nextafter(1.0, 2.0)]).reshape(1, 1, 2)
    assert output(chain([2], spiking(nir.IF, r=[1.0, 1.0], v_threshold=[1.0, 1.0])), x, dt=1.0).ravel().tolist() == [
        0,
        1,
    ]
    assert output(chain([2], nir.Threshold(threshold=np.ones(2))), x).ravel().tolist() == [0, 1]


def test_euler_converges_with_order_one():
    """The error of v(1) of tau v' = -v + sin(t) against the exact solution falls as dt."""
    tau, errors = 0.7, []
    exact = (math.sin(1) - tau * math.cos(1) + tau * math.exp(-1 / tau)) / (1 + tau**2)
    for steps in (50, 100, 200, 400):
        x = np.sin(np.arange(steps) / steps).reshape(-1, 1, 1)
        node = nir.LI(tau=np.array([tau]), r=np.ones(1), v_leak=np.zeros(1))
        errors.append(abs(output(chain([1], node), x, dt=1 / steps)[-1, 0, 0] - exact))
    slopes = np.diff(np.log(errors)) / -math.log(2)
    np.testing.assert_allclose(slopes, 1, atol=0.05)


@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.one_of(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.sampled_from(["same", "valid"])),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2]),
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_conv2d_agrees_with_torch(kernel, stride, padding, dilation, groups):
    if padding == "same":
        stride = (1, 1)
    weight, bias = rng(1).normal(size=(6, 4 // groups, *kernel)), rng(2).normal(size=6)
    x = rng(3).normal(size=(1, 2, 4, 7, 6))
    expected = F.conv2d(*map(torch.from_numpy, (x[0], weight, bias)), stride, padding, dilation, groups)
    node = nir.Conv2d(None, weight, stride, padding, dilation, groups, bias)
    found = output(chain(x.shape[2:], node, out=expected.shape[1:]), x)[0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12, atol=1e-12)


@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.one_of(st.integers(0, 2), st.sampled_from(["same", "valid"])),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_conv1d_agrees_with_torch(kernel, stride, padding, dilation, groups):
    stride = 1 if padding == "same" else stride
    weight, bias = rng(1).normal(size=(4, 2 // groups, kernel)), rng(2).normal(size=4)
    x = rng(3).normal(size=(1, 3, 2, 9))
    expected = F.conv1d(*map(torch.from_numpy, (x[0], weight, bias)), stride, padding, dilation, groups)
    node = nir.Conv1d(None, weight, stride, padding, dilation, groups, bias)
    found = output(chain(x.shape[2:], node, out=expected.shape[1:]), x)[0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12, atol=1e-12)


@given(kernel=st.tuples(st.integers(2, 3), st.integers(2, 3)), stride=st.integers(1, 3), padding=st.integers(0, 1))
def test_pooling_agrees_with_torch(kernel, stride, padding):
    x = rng().normal(size=(1, 2, 3, 8, 7))
    average = F.avg_pool2d(torch.from_numpy(x[0]), kernel, stride, padding)
    sizes = {"kernel_size": np.array(kernel), "stride": np.array([stride]), "padding": np.array([padding] * 2)}
    for kind, expected in ((nir.AvgPool2d, average), (nir.SumPool2d, average * kernel[0] * kernel[1])):
        found = output(chain(x.shape[2:], kind(**sizes), out=expected.shape[1:]), x)[0]
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("start", "end"), [(0, -1), (1, -1), (0, 1), (1, 2), (-2, -1), (1, 1)])
def test_flatten_agrees_with_torch(start, end):
    x = rng().normal(size=(1, 2, 2, 3, 4))
    shift = [axis + 1 if axis >= 0 else axis for axis in (start, end)]
    expected = torch.from_numpy(x[0]).flatten(*shift).numpy()
    found = output(chain([2, 3, 4], nir.Flatten(None, start, end), out=expected.shape[1:]), x)[0]
    np.testing.assert_array_equal(found, expected)


def test_matrices_and_scales():
    weight, bias, scale = rng(1).normal(size=(3, 5)), rng(2).normal(size=3), rng(3).normal(size=5)
    x = rng().normal(size=(T, B, 5))
    np.testing.assert_allclose(output(chain([5], nir.Linear(weight), out=[3]), x), x @ weight.T)
    np.testing.assert_allclose(output(chain([5], nir.Affine(weight, bias), out=[3]), x), x @ weight.T + bias)
    np.testing.assert_array_equal(output(chain([5], nir.Scale(scale)), x), x * scale)
    stack = rng(4).normal(size=(2, 3, 5))
    x = rng().normal(size=(T, B, 2, 5))
    expected = np.einsum("goi,tbgi->tbgo", stack, x)
    np.testing.assert_allclose(output(chain([2, 5], nir.Linear(stack), out=[2, 3]), x), expected)


@given(delays=st.lists(st.integers(0, 6), min_size=1, max_size=4))
def test_delays_shift_each_element(delays):
    x = rng().normal(size=(10, 2, len(delays)))
    found = output(chain([len(delays)], nir.Delay(np.array(delays) * DT)), x)
    for n, steps in enumerate(delays):
        np.testing.assert_array_equal(found[steps:, :, n], x[: 10 - steps, :, n])
        assert not found[:steps, :, n].any()


def test_several_inputs_and_outputs_by_name_and_edges_that_add():
    nodes = {"a": nir.Input(np.array([2])), "b": nir.Input(np.array([2])), "s": nir.Scale(np.array([2.0, 3.0]))}
    nodes |= {"sum": nir.Output(np.array([2])), "scaled": nir.Output(np.array([2]))}
    graph = graph_of(nodes, [("a", "s"), ("s", "scaled"), ("s", "sum"), ("b", "sum"), ("a", "sum")])
    a, b = rng(1).normal(size=(2, 5, 1, 2))
    found = interpret(graph, {"a": a, "b": b}, dt=1.0).outputs
    np.testing.assert_allclose(found["scaled"], a * [2, 3])
    np.testing.assert_allclose(found["sum"], a * [3, 4] + b)
    with pytest.raises(ValueError, match="inputs: expected arrays for the inputs a, b, got one array"):
        interpret(graph, a, dt=1.0)
    with pytest.raises(ValueError, match="inputs: expected arrays for a, b, got a; pass one"):
        interpret(graph, {"a": a}, dt=1.0)
    with pytest.raises(ValueError, match="inputs: expected the same T and B"):
        interpret(graph, {"a": a, "b": b[:3]}, dt=1.0)


def test_a_single_value_stands_for_all_neurons():
    """Norse and snnTorch write parameters without axes."""
    values = {"tau": 2.0, "r": 2.0, "v_leak": 0.0, "v_threshold": 1.0}
    x = rng(2).normal(0.6, 1.0, (T, B, N))
    found = output(chain([N], spiking(nir.LIF, v_reset=0.0, **values)), x, dt=1.0)
    np.testing.assert_array_equal(found, output(chain([N], lif(N)), x, dt=1.0))


def test_channels_with_parameters_of_their_own():
    x = rng(2).normal(0.6, 1.0, (T, B, 2, 3, 3))
    threshold = np.array([0.5, 1.5]).reshape(2, 1, 1)
    found = output(chain([2, 3, 3], nir.Threshold(threshold)), x)
    np.testing.assert_array_equal(found, (x > threshold).astype(float))


def test_precision_is_that_asked_for():
    x = rng(2).normal(0.6, 1.0, (T, B, N))
    weight = rng(1).normal(size=(N, N))
    v, z = np.zeros((B, N), np.float32), np.zeros((B, N), np.float32)
    found = output(recurrent(weight, lif(N)), x, dt=1.0, dtype=np.float32)
    assert found.dtype == np.float32
    for t, value in enumerate(x.astype(np.float32)):
        total = value + z @ weight.astype(np.float32).T
        v = v + np.float32(0.5) * (0 - v + 2 * total)
        z = (v > 1).astype(np.float32)
        v = np.where(z > 0, np.float32(0), v)
        np.testing.assert_array_equal(found[t], z)
    assert output(recurrent(weight, lif(N)), x, dt=1.0).dtype == np.float64


def test_the_graph_and_the_inputs_are_left_as_they_are():
    graph, x = recurrent(np.eye(2)), np.ones((3, 1, 2), np.float32)
    before = {name: dict(vars(node)) for name, node in graph.nodes.items()}
    output(graph, x, dt=1.0)
    assert x.dtype == np.float32
    assert (x == 1).all()
    for name, node in graph.nodes.items():
        assert all(vars(node)[field] is value for field, value in before[name].items())


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (np.zeros((3, 1, 3)), ValueError, r"inputs: expected shape \(T, B, 2\) for 'input', got \(3, 1, 3\)"),
        (np.zeros(2), ValueError, r"got \(2,\); time comes first"),
        (np.zeros((0, 1, 2)), ValueError, r"got \(0, 1, 2\)"),
        (np.full((3, 1, 2), np.nan), ValueError, "inputs: expected finite values for 'input', got NaN"),
        (torch.zeros(3, 1, 2), TypeError, r"inputs: expected NumPy arrays, got Tensor; convert with .numpy\(\)"),
        ({"other": np.zeros((3, 1, 2))}, ValueError, "inputs: expected arrays for input, got other"),
    ],
)
def test_bad_inputs(inputs, error, message):
    with pytest.raises(error, match=message):
        output(recurrent(np.eye(2)), inputs)


def test_bad_names_to_record_and_steps():
    x = np.zeros((3, 1, 2))
    with pytest.raises(ValueError, match="record: expected names of nodes, got 'rnn'; choose from input, output, lif"):
        interpret(recurrent(np.eye(2)), x, dt=1.0, record=["rnn"])
    with pytest.raises(ValueError, match=r"dt: expected a finite number above 0, got 0.0"):
        interpret(recurrent(np.eye(2)), x, dt=0.0)
    with pytest.raises(
        ValueError, match=r"dt: expected at most 2, the smallest tau of node 'lif', got 3, a decay of -0.5"
    ):
        interpret(recurrent(np.eye(2)), x, dt=3.0)
