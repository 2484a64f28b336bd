"""The pair graphs: connected, one-directional, of the stated size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from hamst3r.pairs import Pairing, choose_pairs

COUNT = {
    Pairing.COMPLETE: lambda n: n * (n - 1) // 2,
    Pairing.ONEREF: lambda n: n - 1,
    Pairing.RIG: lambda n: n * (n - 1) // 2,
    Pairing.SWIN: lambda n: n if n > 2 else n - 1,
}


@given(st.integers(2, 12), st.sampled_from(Pairing))
def test_every_graph_connects_all_views_once(n, mode):
    edges = choose_pairs(n, mode)
    assert all(0 <= i < n and 0 <= j < n and i != j for i, j in edges)
    assert len({frozenset(edge) for edge in edges}) == len(edges) == COUNT[mode](n)
    i, j = zip(*edges, strict=True)
    graph = coo_matrix(([1] * len(edges), (i, j)), shape=(n, n))
    assert connected_components(graph, directed=False)[0] == 1


@given(st.integers(3, 12), st.sampled_from([Pairing.COMPLETE, Pairing.SWIN, Pairing.RIG]))
def test_every_view_is_first_in_some_pair(n, mode):
    assert {i for i, _ in choose_pairs(n, mode)} == set(range(n))


@pytest.mark.parametrize("mode", list(Pairing))
def test_a_lone_view_is_paired_with_itself(mode):
    assert choose_pairs(1, mode.value) == [(0, 0)]


def test_errors_name_the_choices():
    with pytest.raises(ValueError, match="complete, swin, oneref, rig, got 'all'"):
        choose_pairs(3, "all")
    with pytest.raises(ValueError, match="at least one view, got 0"):
        choose_pairs(0)
