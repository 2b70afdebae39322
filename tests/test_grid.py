"""Transitions as operators against dense Jacobians of the functions behind them."""

import pytest
import torch
from torch.autograd.functional import jacobian

from cases import normal, seeded
from lsc_snn.grid import Points
from lsc_snn.spectral import radius
from lsc_snn.transition import Block, Source, Transition, square

K, ROWS, COLS = 3, 4, 6


def curved(x, scale=1.0):
    """A function (K, COLS) to (K, ROWS) with another Jacobian at every point."""
    weight = normal(ROWS, x.shape[-1], seed=2, dtype=x.dtype, device=x.device)
    return torch.tanh(scale * x @ weight.T) + x[..., :ROWS] ** 2


def transition(device="cpu"):
    x = normal(K, COLS, seed=1, device=device).requires_grad_()
    return Transition(curved(x), [Source((x,))]), torch.stack([jacobian(curved, row) for row in x.detach()])


def test_products_are_those_of_the_dense_jacobian(device):
    op, dense = transition(device)
    assert (op.batch, op.rows, op.cols, op.dtype) == (K, ROWS, COLS, torch.float64)
    assert op.device.type == device
    v, u = normal(K, COLS, seed=3, device=device), normal(K, ROWS, seed=4, device=device)
    torch.testing.assert_close(op.to_dense(), dense)
    for _ in range(2):  # the graph is kept
        torch.testing.assert_close(op.matvec(v), torch.einsum("krc,kc->kr", dense, v))
        torch.testing.assert_close(op.rmatvec(u), torch.einsum("krc,kr->kc", dense, u))
    assert not op.matvec(v).requires_grad
    assert not op.rmatvec(u).requires_grad


def test_several_sources_are_columns_side_by_side():
    x, y = normal(K, 2, 3, seed=1).requires_grad_(), normal(K, 2, seed=5).requires_grad_()
    op = Transition((x.sum(2) * y).sin(), [Source((x,)), Source((y,))])
    dense = torch.stack(
        [
            torch.cat([j.flatten(1) for j in jacobian(lambda a, b: (a.sum(1) * b).sin(), (x[k], y[k]))], 1)
            for k in range(K)
        ]
    ).detach()
    assert op.cols == 8
    torch.testing.assert_close(op.to_dense(), dense)
    v = normal(K, 8, seed=3)
    torch.testing.assert_close(op.matvec(v), torch.einsum("krc,kc->kr", dense, v))


def test_a_source_may_be_rows_of_a_sequence():
    points = Points(torch.tensor([0, 4, 2]), torch.tensor([1, 0, 1]))
    sequence = normal(5, 2, COLS, seed=1).requires_grad_()
    op = Transition(points.take(curved(sequence)), [Source((sequence,), (points.times, points.samples))])
    dense = torch.stack([jacobian(curved, row) for row in points.take(sequence).detach()])
    torch.testing.assert_close(op.to_dense(), dense)
    v = normal(K, COLS, seed=3)
    torch.testing.assert_close(op.matvec(v), torch.einsum("krc,kc->kr", dense, v))
    by_steps = Source(tuple(sequence.unbind(0)), (points.times, points.samples))
    assert torch.equal(by_steps.rows(by_steps.leaves), points.take(sequence).flatten(1))


def test_an_output_that_depends_on_no_source_is_a_zero_transition():
    x, w = normal(K, COLS).requires_grad_(), normal(ROWS).requires_grad_()
    for output in (torch.ones(K, ROWS, dtype=torch.float64), w.expand(K, -1) * 2):
        op = Transition(output, [Source((x,))])
        assert not op.matvec(normal(K, COLS)).any()
        assert not op.rmatvec(normal(K, ROWS)).any()
        assert op.to_dense().shape == (K, ROWS, COLS)
        assert not op.to_dense().any()


def test_products_with_a_graph_are_differentiable_in_the_parameters():
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x, u = normal(K, COLS, seed=1).requires_grad_(), normal(K, ROWS, seed=4)
    op = Transition(curved(x, scale), [Source((x,))])
    (through_product,) = torch.autograd.grad((op.rmatvec(u, create_graph=True) ** 2).sum(), scale, retain_graph=True)
    (through_dense,) = torch.autograd.grad(
        (torch.einsum("krc,kr->kc", op.to_dense(create_graph=True), u) ** 2).sum(), scale
    )
    step, values = 1e-6, []
    for moved in (0.7 + step, 0.7 - step):
        shifted = Transition(curved(x, moved), [Source((x,))])
        values.append((shifted.rmatvec(u) ** 2).sum())
    expected = (values[0] - values[1]) / (2 * step)
    torch.testing.assert_close(through_product, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(through_dense, expected, rtol=1e-6, atol=1e-8)


def test_a_block_is_the_submatrix(device):
    op, dense = transition(device)
    rows, cols = torch.tensor([0, 2, 3], device=device), torch.tensor([5, 1, 2], device=device)
    block, expected = Block(op, rows, cols), dense[:, rows][:, :, cols]
    assert (block.batch, block.rows, block.cols, block.dtype) == (K, 3, 3, torch.float64)
    torch.testing.assert_close(block.to_dense(), expected)
    v = normal(K, 3, seed=3, device=device)
    torch.testing.assert_close(block.matvec(v), torch.einsum("krc,kc->kr", expected, v))
    torch.testing.assert_close(block.rmatvec(v), torch.einsum("krc,kr->kc", expected, v))
    torch.testing.assert_close(block.rmatvec(v, create_graph=True).detach(), block.rmatvec(v))


def test_square_takes_a_random_block_of_the_smaller_side():
    op, dense = transition()
    block = square(op, seeded(3))
    assert block.rows == block.cols == ROWS
    columns = [int(torch.isclose(dense[0], column[:, None]).all(0).nonzero()) for column in block.to_dense()[0].T]
    assert columns == sorted(set(columns))
    torch.testing.assert_close(block.to_dense(), dense[:, :, columns])
    chosen = {tuple(square(op, seeded(seed)).to_dense()[0, 0].tolist()) for seed in range(10)}
    assert len(chosen) > 3, "another generator, another block"
    assert torch.equal(square(op, seeded(3)).to_dense(), block.to_dense())
    x = normal(K, ROWS).requires_grad_()
    same = Transition(curved(x), [Source((x,))])
    assert square(same, seeded()) is same


@pytest.mark.parametrize(("rows", "cols"), [(300, 300), (200, 500), (500, 200)])
def test_the_radius_of_a_random_matrix_follows_from_its_norm(rows, cols):
    """Girko's circular law: a Gaussian matrix, or a block of one, has radius ||M||_F / sqrt(max(rows, cols))."""
    x = normal(1, cols).requires_grad_()
    weight = normal(rows, cols, seed=7) * 0.05
    op = Transition(x @ weight.T, [Source((x,))])
    expected = weight.norm() / max(rows, cols) ** 0.5
    found = torch.stack([radius(square(op, seeded(seed)), method="exact")[0] for seed in range(3)]).mean()
    assert float(found / expected) == pytest.approx(1, abs=0.08)
