"""State-space layers over whole sequences: equations, state, initialisation, eigenvalue knob and bad arguments."""

import math
import re

import numpy as np
import pytest
import torch
from torch.nn import functional

from cases import normal, seeded
from lsc_snn import ssm
from lsc_snn.ssm_layers import LRU, S5, SSMBlock

N, P = 4, 6
KINDS = {
    "LRU": lambda **o: LRU(N, P, **{"r_min": 0.3, "r_max": 0.99} | o),
    "S5": lambda **o: S5(N, P, **o),
    "S5-bilinear": lambda **o: S5(N, P, discretisation="bilinear", **o),
}


def make(kind, **options):
    """Return a small float64 layer, or the block around one for a name that ends in -block."""
    options = {"generator": seeded(1), "dtype": torch.float64} | options
    name, _, block = kind.partition("+")
    layer = KINDS[name](**options)
    return SSMBlock(layer, generator=seeded(2)) if block else layer


def drive(steps=40, batch=3, dtype=torch.float64):
    return normal(steps, batch, N, seed=3, dtype=dtype)


def complex_of(pairs):
    pairs = pairs.detach().numpy()
    return pairs[..., 0] + 1j * pairs[..., 1]


def run_by_hand(layer, inputs, state):
    """Return outputs and states (T, B, .) by the published equations in NumPy, one step at a time."""
    value = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
    B, C, D = complex_of(layer.B), complex_of(layer.C), value["D"]
    if isinstance(layer, LRU):
        decay = np.exp(-np.exp(value["nu_log"]) + 1j * np.exp(value["theta_log"]))
        gain, times = np.exp(value["gamma_log"]), 1
    else:
        rate, step, times = -np.exp(value["rate_log"]) + 1j * value["omega"], np.exp(value["step_log"]), 2
        if layer.discretisation == "zoh":
            decay, gain = np.exp(rate * step), (np.exp(rate * step) - 1) / rate
        else:
            decay, gain = (1 + step / 2 * rate) / (1 - step / 2 * rate), step / (1 - step / 2 * rate)
    outputs, states, x = [], [], state.numpy()
    for u in inputs.numpy():
        x = decay * x + u @ (gain[:, None] * B).T
        states.append(x)
        outputs.append(times * (x @ C.T).real + D * u)
    return np.stack(outputs), np.stack(states)


ALL = [name + suffix for name in KINDS for suffix in ("", "+block")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_follows_the_published_equations(kind, device):
    layer, state = make(kind), normal(3, P, seed=4, dtype=torch.complex128)
    outputs, final, states = layer.to(device).run(drive(70).to(device), state.to(device))
    expected_outputs, expected_states = run_by_hand(layer.cpu(), drive(70), state)
    np.testing.assert_allclose(outputs.detach().cpu().numpy(), expected_outputs, atol=1e-12)
    np.testing.assert_allclose(states.detach().cpu().numpy(), expected_states, atol=1e-12)
    assert torch.equal(final, states[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ALL)
def test_a_sequence_is_the_loop_over_steps_and_continues(kind, dtype, device):
    layer, x = make(kind, dtype=dtype).to(device), drive(600, dtype=dtype).to(device)
    with torch.no_grad():
        outputs, final = layer(x)
        stepped, state = [], layer.initial_state(3)
        for u in x:
            y, state = layer.step(u, state)
            stepped.append(y)
        first, half = layer(x[:217])
        second, end = layer(x[217:], half)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    assert outputs.dtype == dtype
    assert final.dtype == dtype.to_complex()
    for got, expected in (
        (torch.stack(stepped), outputs), (state, final), (torch.cat([first, second]), outputs), (end, final)
    ):  # fmt: skip
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ALL)
def test_gradients_are_those_of_the_loop_through_the_handed_state_too(kind):
    layer, x = make(kind), drive().requires_grad_()
    leaves = [x, *layer.parameters()]

    def loss(outputs, final):
        return (outputs * normal(*outputs.shape, seed=5)).sum() + final.abs().square().sum()

    _, state = layer(x[:9])
    outputs, final = layer(x[9:], state)
    state, stepped = layer.initial_state(3), []
    for u in x:
        y, state = layer.step(u, state)
        stepped.append(y)
    ours = torch.autograd.grad(loss(outputs, final), leaves)
    oracle = torch.autograd.grad(loss(torch.stack(stepped[9:]), state), leaves)
    for gradient, expected in zip(ours, oracle, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-10)
        assert bool(gradient.any())


def test_a_second_derivative_is_that_of_the_loop():
    layer, x = make("S5"), drive(35).requires_grad_()

    def penalty(outputs):
        (gradient,) = torch.autograd.grad(outputs.square().sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), layer.step_log)[0]

    state, stepped = layer.initial_state(3), []
    for u in x:
        y, state = layer.step(u, state)
        stepped.append(y)
    torch.testing.assert_close(penalty(layer(x)[0]), penalty(torch.stack(stepped)), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("discretisation", ssm.DISCRETISATIONS)
def test_half_of_the_conjugate_pairs_is_the_full_real_hippo_system(discretisation):
    step = 0.05
    layer = S5(N, P, discretisation=discretisation, dt_min=step, dt_max=step, generator=seeded(), dtype=torch.float64)
    eigenvalues, vectors = (tensor.numpy() for tensor in ssm.hippo_normal(P))
    A = 2 * (vectors * eigenvalues @ vectors.conj().T).real
    B, C = 2 * (vectors @ complex_of(layer.B)).real, 2 * (complex_of(layer.C) @ vectors.conj().T).real
    identity = np.eye(2 * P)
    if discretisation == "zoh":
        augmented = torch.zeros(2 * P + N, 2 * P + N, dtype=torch.float64)
        augmented[: 2 * P] = torch.from_numpy(np.hstack([A, B]))
        flow = torch.linalg.matrix_exp(augmented * step)[: 2 * P].numpy()
        decay, driven = flow[:, : 2 * P], flow[:, 2 * P :]
    else:
        inverse = np.linalg.inv(identity - step / 2 * A)
        decay, driven = inverse @ (identity + step / 2 * A), inverse @ (step * B)
    x, expected = np.zeros((3, 2 * P)), []
    for u in drive(50).numpy():
        x = x @ decay.T + u @ driven.T
        expected.append(x @ C.T + u * layer.D.detach().numpy())
    np.testing.assert_allclose(layer(drive(50))[0].detach().numpy(), np.stack(expected), atol=1e-11)


def test_s5_starts_from_real_weights_of_their_promised_size_and_log_uniform_steps():
    layer = S5(100, 400, dt_min=1e-3, dt_max=1e-1, generator=seeded())
    _, vectors = ssm.hippo_normal(400)
    full = torch.cat([vectors, vectors.conj()], 1)
    B = torch.view_as_complex(layer.B.detach().double())
    real_b = full @ torch.cat([B, B.conj()])
    assert float(real_b.imag.abs().max()) < 1e-6
    assert float(real_b.real.std()) == pytest.approx(1 / math.sqrt(100), rel=0.02)
    assert float(layer.C.detach().square().sum(-1).mean()) == pytest.approx(1 / 800, rel=0.02)
    share = ((layer.step_log.detach() - math.log(1e-3)) / math.log(100)).sort().values
    assert float((share - torch.linspace(0, 1, 400)).abs().max()) < 1.63 / math.sqrt(400)
    torch.testing.assert_close(torch.exp(layer.rate_log.detach()), torch.full((400,), 0.5))


def test_the_gamma_of_an_lru_gives_every_state_the_variance_of_its_input():
    layer = LRU(N, P, r_min=0.5, r_max=0.95, generator=seeded(), dtype=torch.float64)
    impulse = torch.zeros(2000, N, N, dtype=torch.float64)
    impulse[0] = torch.eye(N)
    energy = layer.run(impulse)[2].detach().abs().square().sum((0, 1))
    torch.testing.assert_close(energy, layer.B.detach().square().sum((1, 2)))


@pytest.mark.parametrize("raw", [-1e4, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_stays_stable_after_absurd_optimiser_steps(kind, dtype, raw):
    layer = make(kind, dtype=dtype)
    names = [name for name, _ in layer.named_parameters() if name not in "BCD"]
    assert len(names) == 3
    for moved in (*([name] for name in names), names):
        layer = make(kind, dtype=dtype)
        with torch.no_grad():
            for name in moved:
                getattr(layer, name).fill_(raw)
        assert bool((layer.eigenvalues.abs() < 1).all())
        outputs, final = layer(drive(50, dtype=dtype))
        (outputs.mean() + final.abs().mean()).backward()
        for tensor in (outputs, final, *(p.grad for p in layer.parameters())):
            assert torch.isfinite(tensor).all(), moved


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1e-3, 0.5, 0.97, 1.0, 1.02, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_scale_eigenvalues_multiplies_magnitudes_and_keeps_angles(kind, factor, dtype):
    layer = make(kind, dtype=dtype)
    before, others = layer.eigenvalues.detach(), [layer.B, layer.C, layer.D]
    kept = [parameter.detach().clone() for parameter in others]
    layer.scale_eigenvalues(factor)
    after = layer.eigenvalues.detach()
    expected = (factor * before.abs()).clamp(max=ssm.MAX_MAGNITUDE)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(after, expected * before / before.abs(), rtol=tolerance, atol=tolerance)
    assert bool((after.abs() < 1).all())
    assert all(torch.equal(a, b) for a, b in zip(kept, others, strict=True))
    assert all(p.requires_grad and p.grad is None for p in layer.parameters())


def test_scaling_moves_the_radius_of_the_time_transition():
    layer, state = make("S5"), normal(1, P, seed=4, dtype=torch.complex128)
    layer.scale_eigenvalues(0.5)

    def after(pairs):
        return torch.view_as_real(layer.step(drive()[0, :1], torch.view_as_complex(pairs))[1])

    jacobian = torch.autograd.functional.jacobian(after, torch.view_as_real(state)).reshape(2 * P, 2 * P)
    radius = torch.linalg.eigvals(jacobian).abs().max()
    torch.testing.assert_close(radius, layer.eigenvalues.abs().max())
    torch.testing.assert_close(radius, make("S5").eigenvalues.abs().max() / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_states_stay_finite_over_a_hundred_thousand_steps(kind):
    layer = make(kind, dtype=torch.float32)
    layer.scale_eigenvalues(10.0)
    torch.testing.assert_close(layer.eigenvalues.abs(), torch.full((P,), ssm.MAX_MAGNITUDE))
    with torch.no_grad():
        outputs, final = layer(torch.ones(100_000, 1, N))
    assert torch.isfinite(outputs).all()
    assert torch.isfinite(final).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_block_is_norm_layer_gate_and_residual(kind):
    block, x = make(kind + "+block"), drive()
    with torch.no_grad():
        block.residual_scale.fill_(0.7)
        block.gate.bias.copy_(normal(2 * N, seed=6))
        block.norm.weight.copy_(normal(N, seed=7))
    centred = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    inner, final = block.ssm(centred * block.norm.weight)
    active = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    a, b = (active @ block.gate.weight.T + block.gate.bias).chunk(2, -1)
    outputs, state = block(x)
    torch.testing.assert_close(outputs, 0.7 * x + a * torch.sigmoid(b))
    torch.testing.assert_close(state, final)
    assert float(SSMBlock(LRU(N, P)).residual_scale.detach()) == 1
    for ours, expected in zip(block.run(x)[:2], (outputs, state), strict=True):
        assert torch.equal(ours, expected)


def test_block_dropout_drops_the_branch_in_training_alone():
    block = SSMBlock(LRU(N, P), dropout=0.5)
    x = drive(dtype=torch.float32)
    with torch.no_grad():
        full = block.eval()(x)[0] - x
        dropped = block.train()(x)[0] - x
    kept = dropped.abs() > 1e-6
    assert 0.3 < float(kept.double().mean()) < 0.7
    torch.testing.assert_close(dropped[kept], 2 * full[kept], rtol=1e-3, atol=1e-5)


def test_inputs_of_any_memory_layout_give_the_same_outputs():
    layer, x = make("LRU"), drive()
    torch.testing.assert_close(layer(x.transpose(0, 1).contiguous().transpose(0, 1))[0], layer(x)[0])


@pytest.mark.parametrize("kind", ALL)
def test_weights_come_from_the_generator_alone_and_load(kind):
    state = torch.get_rng_state()
    first, second = make(kind), make(kind)
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.is_floating_point(), "optimisers and .to(dtype) are not at home with complex parameters"
    other = make(kind, generator=seeded(9))
    assert not torch.equal(other(drive())[0], first(drive())[0])
    other.load_state_dict(first.state_dict())
    assert torch.equal(other(drive())[0], first(drive())[0])
    single = first.float()
    assert single(drive().float())[0].dtype == torch.float32


def test_an_optimiser_moves_every_parameter():
    block = make("S5+block")
    before = {name: p.detach().clone() for name, p in block.named_parameters()}
    optimiser = torch.optim.SGD(block.parameters(), lr=0.1)
    functional.mse_loss(block(drive())[0], drive().flip(0)).backward()
    optimiser.step()
    assert {name for name, p in block.named_parameters() if torch.equal(p, before[name])} == set()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LRU(0, 4), ValueError, "num_units: expected an integer >= 1, got 0"),
        (lambda: S5(3, 4.0), TypeError, "num_states: expected an integer, got float"),
        (lambda: LRU(3, 4, r_min=0.9, r_max=0.5), ValueError, "expected 0 <= r_min < r_max <= 1, got 0.9 and 0.5"),
        (lambda: LRU(3, 4, r_max=1.1), ValueError, "r_min, r_max: expected 0 <= r_min < r_max <= 1"),
        (lambda: LRU(3, 4, r_max=math.nan), ValueError, "r_min, r_max: expected 0 <= r_min < r_max <= 1"),
        (lambda: LRU(3, 4, r_max="1"), TypeError, "r_min, r_max: expected numbers, got str"),
        (lambda: LRU(3, 4, max_phase=0.0), ValueError, "max_phase: expected a finite number above 0, got 0.0"),
        (lambda: LRU(3, 4, max_phase=7.0), ValueError, "max_phase: expected at most 2 pi radians, got 7.0"),
        (lambda: LRU(3, 4, dtype=torch.float16), TypeError, "dtype: expected torch.float32 or torch.float64, got"),
        (lambda: S5(3, 4, dt_min=0.0), ValueError, "dt_min, dt_max: expected 0 < dt_min <= dt_max, got 0.0 and 0.1"),
        (lambda: S5(3, 4, dt_max=math.inf), ValueError, "dt_min, dt_max: expected 0 < dt_min <= dt_max"),
        (lambda: S5(3, 4, dt_min=1.0), ValueError, "dt_min, dt_max: expected 0 < dt_min <= dt_max, got 1.0 and 0.1"),
        (lambda: S5(3, 4, discretisation="zho"), ValueError, "discretisation: expected one of 'zoh', 'bilinear', got"),
        (lambda: S5(3, 4).scale_eigenvalues(0.0), ValueError, "factor: expected a finite number above 0, got 0.0"),
        (lambda: LRU(3, 4).scale_eigenvalues("2"), TypeError, "factor: expected a number, got str"),
        (
            lambda: LRU(3, 4).scale_eigenvalues(math.nan),
            ValueError,
            "factor: expected a finite number above 0, got nan",
        ),
        (lambda: SSMBlock(torch.nn.Linear(2, 2)), TypeError, "ssm: expected an LRU or S5 layer, got Linear"),
        (lambda: SSMBlock(LRU(3, 4), dropout=1.0), ValueError, "dropout: expected a probability in [0, 1), got 1.0"),
        (lambda: SSMBlock(LRU(3, 4), dropout=None), TypeError, "dropout: expected numbers, got NoneType"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layer", [LRU(5, 4), S5(5, 4), SSMBlock(S5(5, 4))], ids=["LRU", "S5", "block"])
@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (torch.zeros(9, 5), ValueError, "inputs: expected shape (time steps, batch, 5), got (9, 5)"),
        (torch.zeros(9, 2, 4), ValueError, "inputs: expected shape (time steps, batch, 5), got (9, 2, 4)"),
        (torch.zeros(0, 2, 5), ValueError, "inputs: expected shape (time steps, batch, 5) without empty axes"),
        (torch.zeros(9, 0, 5), ValueError, "inputs: expected shape (time steps, batch, 5) without empty axes"),
        (torch.zeros(9, 2, 5).int(), TypeError, "inputs: expected a floating-point tensor, got torch.int32"),
        (torch.zeros(9, 2, 5).double(), TypeError, "inputs: expected the layer's dtype torch.float32, got"),
        (torch.zeros(9, 2, 5, device="meta"), ValueError, "inputs: expected the layer's device cpu, got meta"),
        ([[[0.0] * 5]], TypeError, "inputs: expected a torch.Tensor, got list"),
        (torch.full((1, 2, 5), math.nan), ValueError, "inputs: expected finite values, got 10 NaN and 0 infinite"),
        (torch.tensor([math.inf, -math.inf, 0, 0, 0]).expand(1, 1, 5), ValueError, "got 0 NaN and 2 infinite of 5"),
    ],
)
def test_bad_inputs_are_named(layer, inputs, error, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        layer(inputs)
    assert "\n" not in str(caught.value)


def test_large_finite_inputs_whose_sum_overflows_are_no_error():
    assert torch.isfinite(LRU(2, 2, generator=seeded())(torch.full((4, 1, 2), 2e38))[1]).all()


@pytest.mark.parametrize("layer", [LRU(5, 4), SSMBlock(S5(5, 4))], ids=["LRU", "block"])
def test_states_of_another_layer_or_batch_are_refused(layer):
    for state, message in (
        (layer.initial_state(1), r"state: expected \(2, 4\) .*, got \(1, 4\)"),
        (torch.zeros(2, 4), "state: expected .*torch.complex64 .*, got .*torch.float32"),
        (layer.initial_state(2).to(torch.complex128), "state: expected .*torch.complex64 .*, got .*torch.complex128"),
        (layer.initial_state(2) + math.nan, "state: expected finite values"),
    ):
        with pytest.raises(ValueError, match=message):
            layer(torch.zeros(3, 2, 5), state)
