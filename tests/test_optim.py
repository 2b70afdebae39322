"""AdaBelief and Lookahead against the published updates stepped by hand, and exact resumption."""

import copy
import io
import math

import pytest
import torch

from cases import normal
from lsc_snn.optim import AdaBelief, Lookahead


def parameters(device="cpu", dtype=torch.float64):
    return [torch.nn.Parameter(normal(*shape, seed=len(shape), dtype=dtype, device=device)) for shape in [(3,), (2, 4)]]


def run(optimizer, weights, steps, seed=10):
    """Take steps on fixed random gradients, the same for equal seeds."""
    for step in steps:
        for index, weight in enumerate(weights):
            weight.grad = normal(*weight.shape, seed=seed + 100 * index + step, dtype=weight.dtype).to(weight.device)
        optimizer.step()


def adabelief_by_hand(p, gradients, lr, beta1, beta2, eps, weight_decay):
    """Algorithm 2 of arXiv 2010.07468 on one number, in Python floats, with AdamW's decay."""
    m = s = 0.0
    for k, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * (g - m) ** 2 + eps
        p = p - lr * weight_decay * p
        p = p - lr * (m / (1 - beta1**k)) / (math.sqrt(s / (1 - beta2**k)) + eps)
    return p


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("eps", [1e-16, 1e-2])
def test_adabelief_is_the_published_update(weight_decay, eps, device):
    weights = parameters(device)
    starts = [weight.detach().clone() for weight in weights]
    run(AdaBelief(weights, lr=0.03, betas=(0.8, 0.95), eps=eps, weight_decay=weight_decay), weights, range(7))
    for index, (start, weight) in enumerate(zip(starts, weights, strict=True)):
        gradients = torch.stack([normal(*weight.shape, seed=10 + 100 * index + step) for step in range(7)]).flatten(1)
        by_hand = [
            adabelief_by_hand(p, g, 0.03, 0.8, 0.95, eps, weight_decay)
            for p, g in zip(start.flatten().tolist(), gradients.T.tolist(), strict=True)
        ]
        torch.testing.assert_close(
            weight.detach().cpu().flatten(), torch.tensor(by_hand, dtype=torch.float64), rtol=1e-12, atol=0
        )


def test_adabelief_steps_further_where_gradients_agree():
    """Equal gradients are no surprise: the steps are longer than lr, which is what Adam's are there."""
    steady, noisy = (torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))
    optimizer = AdaBelief([steady, noisy], lr=1e-3)
    for step in range(50):
        steady.grad, noisy.grad = torch.ones_like(steady), torch.full_like(noisy, 1.0 if step % 4 else -1.0)
        optimizer.step()
    assert steady.item() < 2 * -1e-3 * 50
    assert steady.item() < 4 * noisy.item() < 0


def test_adabelief_finds_a_minimum():
    x = torch.nn.Parameter(torch.tensor([2.0, -3.0]))
    optimizer = AdaBelief([x], lr=0.05)

    def loss():
        optimizer.zero_grad()
        value = ((x - torch.tensor([1.0, 4.0])) ** 2 * torch.tensor([1.0, 100.0])).sum()
        value.backward()
        return value.item()

    first = optimizer.step(loss)
    for _ in range(600):
        last = optimizer.step(loss)
    assert last < 1e-4 < first


@pytest.mark.parametrize("gradient", [0.0, 1e-30, 1e30])
def test_adabelief_stays_finite(gradient):
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = AdaBelief([weight], lr=1e-3)
    for _ in range(5):
        weight.grad = torch.full((1,), gradient)
        optimizer.step()
    assert torch.isfinite(weight).all()


def test_adabelief_skips_parameters_without_gradient():
    moved, still = parameters()
    before = still.detach().clone()
    optimizer = AdaBelief([{"params": [moved], "lr": 0.1}, {"params": [still]}], lr=0.2, weight_decay=0.1)
    run(optimizer, [moved], range(2))
    assert torch.equal(still.detach(), before)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]


def test_lookahead_is_the_published_update(device):
    """Fast weights step k times by SGD; then slow = slow + alpha (fast - slow), and fast restarts from slow."""
    weights = parameters(device)
    expected = [weight.detach().clone() for weight in weights]
    run(Lookahead(torch.optim.SGD(weights, lr=0.1), k=3, alpha=0.25), weights, range(8))
    for index, (slow, weight) in enumerate(zip(expected, weights, strict=True)):
        fast = slow.clone()
        for step in range(8):
            fast = fast - 0.1 * normal(*fast.shape, seed=10 + 100 * index + step, device=device)
            if step in (2, 5):
                slow = slow + 0.25 * (fast - slow)
                fast = slow.clone()
        torch.testing.assert_close(weight.detach(), fast, rtol=1e-12, atol=0)


def test_lookahead_defaults_and_closure():
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0))

    def loss():
        optimizer.zero_grad()
        weight.sum().backward()
        return weight.item()

    assert [optimizer.step(loss) for _ in range(8)] == [0, -1, -2, -3, -4, -5, -3, -4]


def test_lookahead_shares_groups_with_the_inner_optimiser():
    first, second = parameters()
    optimizer = Lookahead(torch.optim.SGD([first], lr=1.0), k=2)
    optimizer.add_param_group({"params": [second], "lr": 0.5})
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    before = second.detach().clone()
    run(optimizer, [first, second], range(1))
    scheduler.step()
    assert [group["lr"] for group in optimizer.inner.param_groups] == [0.1, 0.05]
    torch.testing.assert_close(second.detach(), before - 0.5 * normal(2, 4, seed=110))
    optimizer.zero_grad()
    assert first.grad is None
    assert second.grad is None


MAKERS = {
    "adabelief": lambda weights: AdaBelief(weights, lr=0.03, weight_decay=0.01),
    "lookahead of adabelief": lambda weights: Lookahead(AdaBelief(weights, lr=0.03), k=3),
    "lookahead of adamw": lambda weights: Lookahead(torch.optim.AdamW(weights, lr=0.03), k=3),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stop", [0, 1, 4, 6])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_resumes_bit_identically(make, stop, dtype):
    whole = parameters(dtype=dtype)
    run(make(whole), whole, range(10))

    interrupted = parameters(dtype=dtype)
    optimizer = make(interrupted)
    run(optimizer, interrupted, range(stop))
    stored = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "weights": interrupted}, stored)
    stored.seek(0)
    loaded = torch.load(stored, weights_only=True)

    resumed = [torch.nn.Parameter(weight.detach().clone()) for weight in loaded["weights"]]
    optimizer = make(resumed)
    optimizer.load_state_dict(loaded["optimizer"])
    run(optimizer, resumed, range(stop, 10))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_loading_restores_settings_on_both_levels():
    weights = parameters()
    optimizer = Lookahead(AdaBelief(weights, lr=0.03))
    stored = copy.deepcopy(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = 9.0
    optimizer.load_state_dict(stored)
    assert optimizer.param_groups is optimizer.inner.param_groups
    assert optimizer.inner.param_groups[0]["lr"] == 0.03
    with pytest.raises(
        ValueError, match=r"state_dict: expected one of Lookahead, got none of \['inner', 'num_steps'\]"
    ):
        optimizer.load_state_dict(AdaBelief(weights).state_dict())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"lr": 0.0}, ValueError, "lr: expected a finite number above 0, got 0.0"),
        ({"lr": "1"}, TypeError, "lr: expected a number, got str"),
        ({"eps": -1e-8}, ValueError, "eps: expected a finite number above 0"),
        ({"betas": (0.9, 1.0)}, ValueError, r"betas: expected numbers in \[0, 1\), got 1.0"),
        ({"betas": (-0.1, 0.9)}, ValueError, r"betas: expected numbers in \[0, 1\), got -0.1"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay: expected a finite number >= 0, got -1.0"),
        ({"weight_decay": math.nan}, ValueError, "weight_decay: expected a finite number >= 0, got nan"),
    ],
)
def test_adabelief_refuses(settings, error, message):
    with pytest.raises(error, match=message):
        AdaBelief(parameters(), **settings)


@pytest.mark.parametrize("dtype", [torch.float16, torch.complex64])
def test_adabelief_refuses_dtypes(dtype):
    optimizer = AdaBelief(parameters())
    with pytest.raises(TypeError, match=f"params: expected real numbers that can hold 1e-16, got {dtype}"):
        optimizer.add_param_group({"params": [torch.zeros(1, dtype=dtype, requires_grad=True)]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"k": 0}, ValueError, "k: expected an integer >= 1, got 0"),
        ({"k": 2.0}, TypeError, "k: expected an integer, got float"),
        ({"alpha": 0.0}, ValueError, "alpha: expected a finite number above 0"),
        ({"alpha": 1.5}, ValueError, r"alpha: expected a number in \(0, 1\], got 1.5"),
    ],
)
def test_lookahead_refuses(settings, error, message):
    with pytest.raises(error, match=message):
        Lookahead(torch.optim.SGD(parameters(), lr=0.1), **settings)


def test_lookahead_refuses_parameters():
    with pytest.raises(TypeError, match=r"inner: expected a torch.optim.Optimizer, got list"):
        Lookahead(parameters())
