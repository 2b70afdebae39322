"""Transitions of units by themselves: their products and radii against dense matrices."""

import math

import pytest
import torch

from cases import normal
from lsc_snn.unitwise import Term, Unitwise, unitwise

POINTS, UNITS = 5, 4


def made(pattern, seed=0):
    """Derivatives of every pair of variables that a pattern names, and the matrices of all units, (K, N, m, m)."""
    rows, cols = len(pattern), len(pattern[0])
    values = normal(rows, cols, POINTS, UNITS, seed=seed)
    pairs = [(row, col) for row in range(rows) for col in range(cols) if pattern[row][col] == "x"]
    dense = torch.zeros(POINTS, UNITS, rows, cols, dtype=torch.float64)
    for row, col in pairs:
        dense[:, :, row, col] = values[row, col]
    return Unitwise(tuple(Term(row, col, values[row, col]) for row, col in pairs), rows, cols), dense


PATTERNS = {
    "one variable": ["x"],
    "a leak and a synapse": ["xx", ".x"],
    "two that act on each other": ["xx", "xx"],
    "two, without a leak": [".x", "x."],
    "a chain": ["x..", "xx.", ".xx"],
    "a pair behind one": ["x..", "xxx", ".xx"],
    "three that act on each other": ["xx.", ".xx", "x.x"],
    "nothing back": [".x", ".."],
}


@pytest.mark.parametrize("name", PATTERNS)
def test_the_radius_is_that_of_the_matrices_of_all_units(name):
    form, dense = made(PATTERNS[name])
    expected = torch.linalg.eigvals(dense).abs().amax((1, 2))
    torch.testing.assert_close(form.radius(), expected, rtol=1e-10, atol=1e-10)


def test_a_radius_of_complex_pairs_is_exact():
    angles = torch.linspace(0, math.pi, POINTS, dtype=torch.float64)[:, None].expand(-1, UNITS)
    cos, sin = 0.999 * angles.cos(), 0.999 * angles.sin()
    form = Unitwise((Term(0, 0, cos), Term(0, 1, -sin), Term(1, 0, sin), Term(1, 1, cos)), 2, 2)
    torch.testing.assert_close(form.radius(), torch.full((POINTS,), 0.999, dtype=torch.float64))


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("name", ["one variable", "two that act on each other", "three that act on each other"])
def test_a_radius_with_an_entry_that_is_not_finite_is_infinite(name, bad):
    form, dense = made(PATTERNS[name])
    form.terms[0].derivative[2, 1] = bad
    expected = torch.linalg.eigvals(dense).abs().amax((1, 2))
    expected[2] = math.inf
    torch.testing.assert_close(form.radius(), expected)


@pytest.mark.parametrize("pattern", [["x"], ["xx", ".x"], ["xxx"], ["x", ".", "x"]])
def test_products_are_those_of_the_dense_matrices(pattern):
    form, dense = made(pattern)
    rows, cols = dense.shape[2:]
    u, v = normal(POINTS, rows * UNITS, seed=7), normal(POINTS, cols * UNITS, seed=8)
    expected = torch.einsum("knrc,krn->kcn", dense, u.reshape(POINTS, rows, UNITS)).flatten(1)
    torch.testing.assert_close(form.rmatvec(u), expected)
    expected = torch.einsum("knrc,kcn->krn", dense, v.reshape(POINTS, cols, UNITS)).flatten(1)
    torch.testing.assert_close(form.matvec(v), expected)


def test_some_of_the_variables_and_some_of_the_units():
    form, _dense = made(["xxx", "x.x"])
    u = normal(POINTS, 2 * UNITS, seed=7)
    whole = form.rmatvec(u).reshape(POINTS, 3, UNITS)
    torch.testing.assert_close(form.columns(1, 3).rmatvec(u).reshape(POINTS, 2, UNITS), whole[:, 1:])
    index = torch.tensor([3, 0])
    part = form.units(index).rmatvec(u.reshape(POINTS, 2, UNITS)[:, :, index].flatten(1))
    torch.testing.assert_close(part.reshape(POINTS, 3, 2), whole[:, :, index])


def test_derivatives_are_found_and_links_between_units_too():
    x = normal(40, 6).requires_grad_()
    form = unitwise(torch.cat([x.sin(), 2 * x], 1), [x], 6)
    assert [(term.row, term.col) for term in form.terms] == [(0, 0), (1, 0)]
    torch.testing.assert_close(form.terms[0].derivative, x.detach().cos())
    linked = torch.cat([x[:, :5], x[:, 5:] + 1e-9 * x[:, :1]], 1)
    assert unitwise(linked, [x], 6) is None, "however weak a link"
    assert unitwise(x[:, :4] * 2, [x], 4) is None, "6 numbers are no multiple of 4 units"
