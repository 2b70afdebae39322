"""EventBatch against the dense tensor that it stands for."""

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cases import normal, seeded
from lsc_snn.events import EventBatch

FIELDS = ("times", "samples", "units", "counts", "lengths")


def sparse(
    *shape: int, density: float = 0.1, counted: bool = True, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> Tensor:
    """Return a random tensor with few non-zero entries: spike counts 1 to 3, or only ones."""
    generator = seeded(1)
    active = torch.rand(*shape, generator=generator) < density
    counts = torch.randint(1, 4 if counted else 2, shape, generator=generator)
    return (active * counts).to(device, dtype)


def fields_of(**changes: object) -> dict[str, object]:
    """Return the arguments of a valid batch of shape (4, 2, 3) with three events, some of them changed."""
    valid: dict[str, object] = {
        "times": torch.tensor([0, 2, 2]),
        "samples": torch.tensor([1, 0, 1]),
        "units": torch.tensor([2, 0, 1]),
        "counts": torch.ones(3),
        "lengths": torch.tensor([3, 4]),
        "num_steps": 4,
        "num_units": 3,
    }
    return valid | changes


events = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 3), st.integers(-2, 3)), min_size=0, max_size=40
)


@given(events)
def test_any_event_list_sums_to_the_dense_tensor(entries: list[tuple[int, int, int, int]]) -> None:
    expected = torch.zeros(5, 3, 4)
    for t, b, n, count in entries:
        expected[t, b, n] += count
    columns = torch.tensor(entries, dtype=torch.int64).reshape(-1, 4).unbind(1)
    times, samples, units, counts = columns
    batch = EventBatch.from_indices(
        times, samples, units, counts.float(), lengths=torch.tensor([5, 5, 5]), num_steps=5, num_units=4
    )
    torch.testing.assert_close(batch.to_dense(), expected, rtol=0, atol=0)
    flat = (batch.times * 3 + batch.samples) * 4 + batch.units
    assert bool((flat[1:] > flat[:-1]).all()), "sorted, each entry once"
    weight = torch.arange(8.0).reshape(2, 4)
    torch.testing.assert_close(batch.project(weight), expected @ weight.T, rtol=0, atol=0)
    rows = batch.rows(torch.tensor([4, 0, 4]), torch.tensor([2, 1, 2]))
    torch.testing.assert_close(rows, expected[[4, 0, 4], [2, 1, 2]], rtol=0, atol=0)
    torch.testing.assert_close(batch.select(torch.tensor([2, 2, 0])).to_dense(), expected[:, [2, 2, 0]])


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_project_and_its_gradient_are_those_of_the_dense_product(
    device: str, dtype: torch.dtype, counted: bool
) -> None:
    x = sparse(7, 5, 40, counted=counted, dtype=dtype, device=device)
    weight = normal(6, 40, dtype=dtype, device=device).requires_grad_()
    upstream = normal(7, 5, 6, seed=2, dtype=dtype, device=device)
    batch = EventBatch.from_dense(x)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    output, expected = batch.project(weight), x @ weight.T
    torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance)
    (gradient,) = torch.autograd.grad(output, weight, upstream)
    (oracle,) = torch.autograd.grad(expected, weight, upstream)
    torch.testing.assert_close(gradient, oracle, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_project_takes_the_dtype_of_the_weight(dtype: torch.dtype) -> None:
    x = sparse(4, 3, 20, dtype=torch.float32)
    weight = normal(5, 20, dtype=torch.float32)
    half = weight.to(dtype).requires_grad_()
    output = EventBatch.from_dense(x).project(half)
    output.sum().backward()
    assert output.dtype == dtype
    assert half.grad is not None
    epsilon = torch.finfo(dtype).eps
    torch.testing.assert_close(output.float(), x @ half.float().T, rtol=4 * epsilon, atol=8 * epsilon)
    torch.testing.assert_close(half.grad.float(), x.sum((0, 1)).expand(5, 20), rtol=4 * epsilon, atol=8 * epsilon)


def test_project_passes_gradcheck_twice_and_in_forward_mode() -> None:
    batch = EventBatch.from_dense(sparse(3, 2, 4, density=0.5))
    weight = normal(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: batch.project(w).sin(), weight, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda w: batch.project(w).sin(), weight)


def test_project_works_under_torch_func() -> None:
    x = sparse(3, 2, 4, density=0.5)
    batch, weights = EventBatch.from_dense(x), normal(5, 3, 4)
    torch.testing.assert_close(torch.func.vmap(batch.project)(weights), torch.einsum("tbn,kon->ktbo", x, weights))
    last = torch.func.vmap(batch.project, in_dims=2)(weights.movedim(0, 2).contiguous())
    torch.testing.assert_close(last, torch.einsum("tbn,kon->ktbo", x, weights))
    jacobian = torch.func.jacrev(batch.project)(weights[0])
    torch.testing.assert_close(jacobian, torch.func.jacfwd(lambda w: x @ w.T)(weights[0]))
    torch.testing.assert_close(jacobian, torch.func.jacfwd(batch.project)(weights[0]))


def test_gradients_follow_a_first_pass_in_inference_mode() -> None:
    batch = EventBatch.from_dense(sparse(3, 2, 4, density=0.5))
    weight = normal(3, 4).requires_grad_()
    with torch.inference_mode():
        batch.project(weight)
    batch.project(weight).sum().backward()
    torch.testing.assert_close(weight.grad, batch.to_dense().sum((0, 1)).expand(3, 4))


def test_a_batch_without_events_is_all_zero() -> None:
    weight = normal(3, 4).requires_grad_()
    for batch in (
        EventBatch.from_dense(torch.zeros(5, 2, 4)),
        EventBatch.from_dense(torch.ones(5, 3, 4) * torch.tensor([0.0, 1.0, 0.0]).reshape(1, 3, 1)).select(
            torch.tensor([2, 0])
        ),
    ):
        assert batch.num_events == 0
        assert not batch.to_dense().any()
        output = batch.project(weight)
        assert output.shape == (5, 2, 3)
        assert not output.any()
        (gradient,) = torch.autograd.grad(output.sum(), weight)
        assert not gradient.any()
        assert not batch.rows(torch.tensor([4]), torch.tensor([1])).any()


def test_silent_rows_and_samples_stay_zero_between_active_ones() -> None:
    x = torch.zeros(4, 3, 5, dtype=torch.float64)
    x[1, 0, 2], x[1, 2, 4], x[3, 2, 0] = 1, 2, 1
    weight = normal(2, 5)
    torch.testing.assert_close(EventBatch.from_dense(x).project(weight), x @ weight.T)


def test_repeated_entries_add_up_in_the_plain_constructor() -> None:
    twice = torch.zeros(2, dtype=torch.int64)
    batch = EventBatch(twice, twice, twice + 1, torch.tensor([1.0, 2.0]), torch.tensor([1]), 1, 3)
    expected = torch.tensor([[[0.0, 3.0, 0.0]]])
    assert torch.equal(batch.to_dense(), expected)
    assert torch.equal(batch.project(torch.eye(3)), expected)
    assert torch.equal(batch.rows(twice[:1], twice[:1]), expected[0])


def test_mask_marks_the_valid_steps() -> None:
    batch = EventBatch.from_dense(torch.zeros(3, 3, 1), lengths=torch.tensor([1, 3, 2]))
    assert batch.mask().tolist() == [[True, True, True], [False, True, True], [False, True, False]]
    assert torch.equal(batch.mask().sum(0), batch.lengths)


def test_select_keeps_lengths_and_order() -> None:
    batch = EventBatch.from_dense(sparse(4, 3, 6).float(), lengths=torch.tensor([4, 4, 4]))
    chosen = batch.select(torch.tensor([2, 1], dtype=torch.int32))
    assert chosen.shape == (4, 2, 6)
    assert torch.equal(chosen.to_dense(), batch.to_dense()[:, [2, 1]])
    checked = EventBatch(*(getattr(chosen, name) for name in FIELDS), num_steps=4, num_units=6)
    assert checked.num_events == chosen.num_events, "the unchecked result passes every check"


def test_to_changes_only_the_dtype_of_the_counts() -> None:
    batch = EventBatch.from_dense(sparse(4, 3, 6, dtype=torch.float32))
    moved = batch.to("cpu", torch.float64)
    assert (moved.dtype, batch.dtype) == (torch.float64, torch.float32)
    assert moved.times.dtype == torch.int64
    assert torch.equal(moved.to_dense(), batch.to_dense().double())
    assert torch.equal(moved.project(normal(2, 6)), batch.project(normal(2, 6)))
    with pytest.raises(TypeError, match=r"dtype: expected a floating-point dtype, got torch\.int64"):
        batch.to(dtype=torch.int64)


def test_to_moves_every_field(device: str) -> None:
    batch = EventBatch.from_dense(sparse(4, 3, 6)).pin_memory().to(device, non_blocking=True)
    assert {getattr(batch, name).device.type for name in FIELDS} == {device}
    assert batch.mask().device.type == batch.to_dense().device.type == batch.device.type == device


def test_batches_are_frozen_and_pickle() -> None:
    batch = EventBatch.from_dense(sparse(4, 3, 6))
    with pytest.raises(AttributeError, match="cannot assign"):
        batch.num_steps = 3  # type: ignore[misc]
    assert torch.equal(pickle.loads(pickle.dumps(batch)).to_dense(), batch.to_dense())


def test_repr_tells_shape_events_and_density() -> None:
    text = repr(EventBatch(**fields_of()))  # type: ignore[arg-type]
    assert text == (
        "EventBatch(shape=(4, 2, 3), events=3, density=12.50 %, lengths=3..4, dtype=torch.float32, device=cpu)"
    )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"times": [0, 2, 2]}, TypeError, "times: expected a torch.Tensor, got list"),
        ({"times": torch.tensor([0.0, 2.0, 2.0])}, TypeError, "times: expected an integer tensor, got torch.float32"),
        ({"units": torch.tensor([2, 0, 1]).int()}, TypeError, "units: expected torch.int64, got torch.int32"),
        ({"samples": torch.tensor([True, False, True])}, TypeError, "samples: expected an integer tensor"),
        ({"counts": torch.tensor([1, 1, 1])}, TypeError, "counts: expected a floating-point tensor, got torch.int64"),
        ({"lengths": torch.tensor([3.0, 4.0])}, TypeError, "lengths: expected an integer tensor, got torch.float32"),
        ({"num_steps": 4.0}, TypeError, "num_steps: expected an integer, got float"),
        ({"units": torch.tensor([[2, 0, 1]])}, ValueError, r"units: expected one axis, got shape \(1, 3\)"),
        ({"counts": torch.ones(2)}, ValueError, r"counts: expected shape \(3,\) as times, got \(2,\)"),
        ({"lengths": torch.tensor([], dtype=torch.int64)}, ValueError, r"lengths: expected shape \(B,\)"),
        ({"num_units": 0}, ValueError, "num_units: expected an integer >= 1, got 0"),
        ({"num_steps": 0}, ValueError, "num_steps: expected an integer >= 1, got 0"),
        ({"times": torch.tensor([-1, 2, 2])}, ValueError, "times: expected values in 0..3, got -1 at entry 0"),
        ({"times": torch.tensor([0, 2, 4])}, ValueError, "times: expected values in 0..3, got 4 at entry 2"),
        ({"samples": torch.tensor([1, 0, 2])}, ValueError, "samples: expected values in 0..1, got 2 at entry 2"),
        ({"units": torch.tensor([3, 0, 1])}, ValueError, "units: expected values in 0..2, got 3 at entry 0"),
        ({"lengths": torch.tensor([0, 4])}, ValueError, "lengths: expected values in 1..4, got 0 at entry 0"),
        ({"lengths": torch.tensor([3, 5])}, ValueError, "lengths: expected values in 1..4, got 5 at entry 1"),
        ({"lengths": torch.tensor([2, 4])}, ValueError, "got step 2 in sample 0 of length 2"),
        ({"times": torch.tensor([2, 2, 0])}, ValueError, r"sorted by \(time, sample\), got event 1 out of order"),
        ({"samples": torch.tensor([1, 1, 0])}, ValueError, r"sorted by \(time, sample\), got event 2 out of order"),
        ({"counts": torch.tensor([1.0, float("nan"), 1.0])}, ValueError, "counts: expected finite values, got 1 NaN"),
        ({"counts": torch.tensor([1.0, float("inf"), 1.0])}, ValueError, "counts: expected finite values"),
        ({"counts": torch.ones(3, requires_grad=True)}, ValueError, "counts: expected data without gradient"),
    ],
)
def test_bad_fields_are_named(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        EventBatch(**fields_of(**changes))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_from_indices_refuses_what_the_constructor_refuses() -> None:
    two = torch.tensor([0, 1])
    options = {"lengths": torch.tensor([2]), "num_steps": 2, "num_units": 2}
    with pytest.raises(ValueError, match=r"samples: expected values in 0\.\.0, got 1"):
        EventBatch.from_indices(two, two, two, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="times: expected an integer tensor"):
        EventBatch.from_indices(two.float(), two * 0, two, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"units: expected shape \(2,\) as times"):
        EventBatch.from_indices(two, two * 0, two[:1], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.ones(2, 2), ValueError, r"x: expected shape \(T, B, N\), got \(2, 2\)"),
        (torch.ones(0, 2, 2), ValueError, r"x: expected shape .*, got \(0, 2, 2\)"),
        (torch.ones(2, 2, 2, dtype=torch.int64), TypeError, "x: expected a floating-point tensor"),
        (torch.full((1, 1, 2), float("nan")), ValueError, "counts: expected finite values, got 2 NaN"),
    ],
)
def test_from_dense_refuses_bad_tensors(x: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EventBatch.from_dense(x)


def test_bad_arguments_of_the_methods_are_named() -> None:
    batch = EventBatch.from_dense(torch.ones(2, 3, 4))
    one = torch.tensor([0])
    with pytest.raises(ValueError, match=r"weight: expected shape \(n_out, 4\), got \(4, 2\)"):
        batch.project(torch.ones(4, 2))
    with pytest.raises(TypeError, match="weight: expected a floating-point tensor"):
        batch.project(torch.ones(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="weight: expected device cpu, got meta"):
        batch.project(torch.ones(2, 4, device="meta"))
    with pytest.raises(ValueError, match=r"times: expected values in 0\.\.1, got 2"):
        batch.rows(one + 2, one)
    with pytest.raises(ValueError, match=r"samples: expected values in 0\.\.2, got -1"):
        batch.rows(one, one - 1)
    with pytest.raises(ValueError, match="samples: expected the shape of times"):
        batch.rows(one, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"samples: expected values in 0\.\.2, got 3"):
        batch.select(one + 3)
    with pytest.raises(ValueError, match="number of samples: expected an integer >= 1, got 0"):
        batch.select(one[:0])
