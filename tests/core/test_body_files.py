"""Users' body models: what is read, and that nothing in a file runs."""

from __future__ import annotations

import os
import pickle
import sys
import types
from importlib import resources

import numpy as np
import pytest
import torch
from people_data import joint_error, observe, random_people
from scipy import sparse

from hamst3r.people.body import PARENTS, BodyModelError, anny24
from hamst3r.people.body_files import load_body_model
from hamst3r.people.fitting import fit

BODY = anny24()


def smpl() -> dict[str, np.ndarray]:
    """Our own model as a file of SMPL's layout has it."""
    with resources.as_file(resources.files("hamst3r") / "data" / "anny24.npz") as path:
        own = dict(np.load(path))
    V = len(own["v_template"])
    arrays = {k: own[k].astype(np.float64) for k in ("v_template", "shapedirs", "weights")}
    arrays |= {k: own[k] for k in ("J_regressor", "kintree_table", "f")}
    return arrays | {"posedirs": np.zeros((V, 3, 207), np.float32)}


@pytest.fixture
def chumpy(monkeypatch):
    """Stand-ins for the modules whose classes official pickles name."""
    made = {}
    for module, name in (("chumpy.ch", "Ch"), ("chumpy.reordering", "Select")):
        holder = types.ModuleType(module)
        made[name] = type(name, (), {"__module__": module})
        setattr(holder, name, made[name])
        monkeypatch.setitem(sys.modules, module, holder)
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    return made


def same(model, tolerance=1e-6):
    state = random_people(2, torch.Generator().manual_seed(0))
    for a, b in zip(
        model(state.rotations, state.transl, state.betas),
        BODY(state.rotations, state.transl, state.betas),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


def test_npz_and_pickle_give_the_same_body(tmp_path):
    np.savez(tmp_path / "SMPL_NEUTRAL.npz", **smpl())
    same(load_body_model(tmp_path / "SMPL_NEUTRAL.npz"))
    for protocol in (0, 2, 5):
        path = tmp_path / f"p{protocol}.pkl"
        path.write_bytes(pickle.dumps(smpl() | {"bs_style": "lbs"}, protocol=protocol))
        model = load_body_model(path)
        same(model)
        assert model.name == f"p{protocol}" and len(model.sha256) == 64
        assert model.posedirs is None  # all zero: not computed


def test_chumpy_and_sparse_pickles_are_read_without_either(tmp_path, chumpy):
    arrays = smpl()
    source, template, shapes = (chumpy[k]() for k in ("Ch", "Ch", "Select"))
    template.x = arrays["v_template"]
    source.x = np.concatenate([np.zeros(5), arrays["shapedirs"].ravel()])
    shapes.a, shapes.preferred_shape = source, arrays["shapedirs"].shape
    shapes.idxs = np.arange(5, len(source.x))
    content = arrays | {
        "v_template": template,
        "shapedirs": shapes,
        "J_regressor": sparse.csc_matrix(arrays["J_regressor"]),
        "weights": arrays["weights"],
    }
    path = tmp_path / "SMPL_MALE.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    for name in [name for name in sys.modules if name.startswith("chumpy")]:
        del sys.modules[name]
    same(load_body_model(path))


class _Attack:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize(
    ("call", "named"),
    [(os.system, "system"), (eval, "eval"), (getattr, "getattr"), (np.load, "load")],
)
def test_a_hostile_pickle_is_refused(tmp_path, call, named):
    witness = tmp_path / "it_ran"
    arguments = {os.system: (f"touch {witness}",), getattr: (os, "system")}.get(
        call, (f"__import__('os').system('touch {witness}')",)
    )
    for key in ("v_template", "harmless"):
        path = tmp_path / "SMPL_NEUTRAL.pkl"
        if call is getattr:  # modules cannot be pickled: the name alone
            path.write_bytes(b"\x80\x02cbuiltins\ngetattr\n.")
        else:
            path.write_bytes(pickle.dumps(smpl() | {key: _Attack(call, *arguments)}))
        with pytest.raises(BodyModelError, match=f"refused.*{named}"):
            load_body_model(path)
    assert not witness.exists()


def test_an_npz_that_hides_a_pickle_is_refused(tmp_path):
    witness = tmp_path / "it_ran"
    hidden = np.array([_Attack(os.system, f"touch {witness}")], dtype=object)
    np.savez(tmp_path / "x.npz", **(smpl() | {"weights": hidden}))
    with pytest.raises(BodyModelError, match="cannot read"):
        load_body_model(tmp_path / "x.npz")
    assert not witness.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shapedirs", np.zeros((7, 3, 10))),
        ("shapedirs", np.zeros((13348, 3, 4))),
        ("weights", np.zeros((13348, 23))),
        ("J_regressor", np.zeros((24, 9))),
        ("posedirs", np.zeros((13348, 3, 9))),
        ("kintree_table", np.zeros((2, 24), np.int64)),
        ("f", np.full((5, 3), 10**6)),
        ("v_template", np.full((13348, 3), np.nan)),
        ("v_template", np.array(["no"] * 13348)),
    ],
)
def test_what_is_wrong_is_named(tmp_path, key, value):
    path = tmp_path / "bad.npz"
    np.savez(path, **(smpl() | {key: value}))
    with pytest.raises(BodyModelError, match=rf"bad\.npz: {key}"):
        load_body_model(path)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "x.pkl"
    whole = pickle.dumps(smpl())
    for content in (b"", b"hello", whole[: len(whole) // 2], pickle.dumps([1, 2]), b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(BodyModelError, match=r"x\.pkl"):
            load_body_model(path)


@pytest.mark.parametrize(("joints", "left", "right"), [(52, 22, 37), (55, 25, 40)])
def test_larger_models_are_read_as_far_as_the_body(tmp_path, joints, left, right):
    """Hands spread over fifteen joints each come together again."""
    arrays, rng = smpl(), np.random.default_rng(0)
    V = len(arrays["v_template"])
    weights, regressor = np.zeros((V, joints)), np.zeros((joints, V))
    weights[:, :22], regressor[:22] = arrays["weights"][:, :22], arrays["J_regressor"][:22]
    for old, first in ((22, left), (23, right)):
        share = rng.dirichlet(np.ones(15), V)
        weights[:, first : first + 15] = arrays["weights"][:, old : old + 1] * share
        regressor[first : first + 15] = arrays["J_regressor"][old]
    if joints == 55:  # half of the head turns with the jaw
        weights[:, 22] = weights[:, 15] / 2
        weights[:, 15] /= 2
    tree = np.stack([np.r_[PARENTS[:22], np.full(joints - 22, 20)], np.arange(joints)])
    posedirs = np.zeros((V, 3, 9 * (joints - 1)), np.float32)
    path = tmp_path / "larger.npz"
    np.savez(
        path,
        **(
            arrays
            | {"weights": weights, "J_regressor": regressor, "kintree_table": tree}
            | {"posedirs": posedirs}
        ),
    )
    same(load_body_model(path), 1e-5)


def test_shapes_that_depend_on_the_pose_are_used_and_fitted(tmp_path):
    arrays = smpl()
    rng = np.random.default_rng(1)
    arrays["posedirs"] = (0.003 * rng.normal(size=(1, 3, 207)) * np.ones((13348, 1, 1))).astype(
        "f4"
    )
    np.savez(tmp_path / "bends.npz", **arrays)
    model = load_body_model(tmp_path / "bends.npz")
    generator = torch.Generator().manual_seed(2)
    state = random_people(3, generator)
    bent = model(state.rotations, state.transl, state.betas)[0]
    plain = BODY(state.rotations, state.transl, state.betas)[0]
    assert 0.005 < (bent - plain).norm(dim=-1).mean() < 0.1
    data = observe(model, state, generator, outliers=0.0)
    found = fit(model, data.points, data.vertex_ids, data.weights)
    assert joint_error(found.joints, data.joints).max() < 0.02
