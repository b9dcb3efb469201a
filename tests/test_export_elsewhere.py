"""The recipes of the page on exporting, for ONNX and SavedModel, where their packages are there."""

import os

import equinox as eqx
import jax
import numpy as np
import pytest

import treadle
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "guides" / "export.md"


def run_recipe(needs):
    """Runs the page's first two blocks, and the one that needs a package; its asserts are ours."""
    found = [block for block in blocks(PAGE.read_text()) if block.language == "python"]
    (recipe,) = [block for block in found if block.no_run is not None and needs in block.no_run]
    names = {"eqx": eqx}
    for block in (*found[:2], recipe):
        exec(compile("\n" * (block.line - 1) + block.code, str(PAGE), "exec"), names)
    return names


def test_the_page_has_a_recipe_for_each():
    reasons = [block.no_run for block in blocks(PAGE.read_text()) if block.no_run is not None]
    assert reasons == ["needs jax2onnx and onnxruntime", "needs TensorFlow"]


@pytest.mark.filterwarnings("ignore")  # Of packages that are none of ours.
def test_the_recipe_for_onnx(tmp_path, monkeypatch):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert run_recipe("jax2onnx")["session"].get_inputs()[0].shape == ["batch", 64]
        from jax2onnx import to_onnx

        model, model_state = eqx.nn.make_with_state(treadle.nn.ResNet)(
            18, 10, width=8, stem="small", key=jax.random.key(0)
        )
        trained = eqx.nn.inference_mode(model)
        call = jax.vmap(lambda x: trained(x, model_state)[0], axis_name="batch")
        to_onnx(call, [("batch", 3, 8, 8)], return_mode="file", output_path="resnet.onnx")
        session = onnxruntime.InferenceSession("resnet.onnx")
        x = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype("f4")
        for size in (1, 3):
            (found,) = session.run(None, {session.get_inputs()[0].name: x[:size]})
            expected = treadle.predict((model, model_state), x[:size], batch_size=size)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_the_recipe_for_a_saved_model(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    run_recipe("TensorFlow")
    assert os.listdir("digits")
