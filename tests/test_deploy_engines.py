"""Engines: the first that can runs a graph and says so; one that cannot is never replaced in silence."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from thresholds import ROI, linear_graph, save_model, with_content

from mimzoo.deploy import ENGINES, Choice, kept
from mimzoo.deploy.engines import make_choice, open_engine
from mimzoo.deploy.graph import Graph
from mimzoo.errors import ExportError, MimzooError

HERE = [name for name, module in (("openvino", "openvino"), ("cpu", "onnxruntime")) if find_spec(module)]
needs_openvino = pytest.mark.skipif("openvino" not in HERE, reason="OpenVINO is not installed")


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "m.onnx", graph=linear_graph([[2], [3]], [-1, 4]))


def run(engine, windows):
    logits = np.empty((len(windows), 2, *ROI), np.float32)
    engine.run(windows, logits)
    return logits


@pytest.mark.parametrize("name", HERE)
def test_every_engine_gives_the_logits_of_its_windows(model, name):
    engine, _ = open_engine(model, Choice(name))
    assert engine.name == name
    for batch in (1, 3):
        windows = np.random.default_rng(batch).random((batch, 1, *ROI), np.float32)
        expected = np.concatenate([2 * windows - 1, 3 * windows + 4], 1)
        np.testing.assert_allclose(run(engine, windows), expected, atol=1e-5)


@pytest.mark.parametrize("name", HERE)
def test_what_an_engine_gave_stays_as_it_was(model, name):
    engine, _ = open_engine(model, Choice(name))
    first = run(engine, np.zeros((1, 1, *ROI), np.float32))
    run(engine, np.ones((1, 1, *ROI), np.float32))
    assert (first[:, 0] == -1).all()


@pytest.mark.parametrize("name", HERE)
def test_an_engine_takes_the_threads_that_it_is_given(model, name):
    assert "1 thread(s)" in open_engine(model, Choice(name, threads=1))[0].about


def test_the_first_engine_that_is_here_is_taken_and_the_others_say_why_not(model):
    engine, passed = open_engine(model, Choice())
    assert engine.name == HERE[0]
    assert list(passed) == list(ENGINES)[: list(ENGINES).index(engine.name)]
    assert "TensorrtExecutionProvider" in passed["tensorrt"]


def test_an_engine_that_is_not_here_is_not_replaced_when_it_was_asked_for(model):
    with pytest.raises(MimzooError, match=r"engine 'cuda' cannot be had: .*CUDAExecutionProvider"):
        open_engine(model, Choice("cuda"))


def test_a_provider_that_falls_back_is_noticed(model, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    # as the GPU build says of itself where CUDA's libraries are not found
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(MimzooError, match="fell back from CUDAExecutionProvider to CPUExecutionProvider"):
        open_engine(model, Choice("cuda"))


def test_without_openvino_onnx_runtime_takes_its_place(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    engine, passed = open_engine(model, Choice())
    assert engine.name == "cpu" and "pip install 'mimzoo[deploy-openvino]'" in passed["openvino"]


def test_without_any_engine_the_error_says_what_to_install(model, monkeypatch):
    for name in ("openvino", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MimzooError, match=r"pip install 'mimzoo\[deploy\]'"):
        open_engine(model, Choice())


def test_bfloat16_is_openvinos_alone(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MimzooError, match="no engine can run .* in bfloat16 .*cpu: ONNX Runtime computes in float32"):
        open_engine(model, Choice(precision="bfloat16"))


@needs_openvino
def test_bfloat16_is_computed_in_and_nothing_else_is(model):
    from openvino import Core

    if "BF16" not in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(MimzooError, match="does not compute in bfloat16"):
            open_engine(model, Choice("openvino", precision="bfloat16"))
        return
    engine, _ = open_engine(model, Choice("openvino", precision="bfloat16"))
    windows = np.full((1, 1, *ROI), 0.3, np.float32)
    np.testing.assert_allclose(run(engine, windows)[0, 0], -0.4, atol=0.02)


def test_a_choice_is_made_of_what_users_type():
    assert make_choice("cpu", 2, "bfloat16") == Choice("cpu", 2, "bfloat16")
    assert make_choice(None, None, "float32") == Choice()


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        (("openvin", None, "float32"), "the engine 'openvin'; did you mean 'openvino'"),
        ((None, None, "float16"), "the precision 'float16'; did you mean"),
        ((None, 0, "float32"), "threads must be at least 1, got 0"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(typed, reason):
    with pytest.raises(MimzooError, match=reason):
        make_choice(*typed)


@pytest.mark.parametrize("name", HERE)
def test_a_file_that_an_engine_cannot_run_is_refused_in_one_sentence(tmp_path, name):
    path = with_content(tmp_path / "m.onnx", save_model(tmp_path / "m.onnx").read_bytes().replace(b"Mul", b"Nix"))
    with pytest.raises(ExportError, match="not an ONNX file that can be run") as caught:
        Graph(path, Choice(name))
    assert "\n" not in str(caught.value)


@needs_openvino
def test_nothing_is_told_to_the_makers_of_openvino(model, tmp_path):
    (tmp_path / "openvino_telemetry.py").write_text("raise SystemExit('it was imported')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from pathlib import Path; from mimzoo.deploy import Choice; from mimzoo.deploy.engines import open_engine\n"
        f"print(open_engine(Path({str(model)!r}), Choice('openvino'))[0].about, 'openvino_telemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("OpenVINO") and done.stdout.strip().endswith("False"), done


SIGNALLED = """
import signal, sys
from pathlib import Path
from mimzoo.deploy.choice import Choice
from mimzoo.deploy.engines import open_engine
first = open_engine(Path(sys.argv[1]), Choice("openvino"))
second = open_engine(Path(sys.argv[1]), Choice("openvino"))
del first, second
signal.signal(signal.SIGTERM, lambda number, frame: print("heard"))
signal.raise_signal(signal.SIGTERM)
"""


@needs_openvino
def test_a_process_hears_signals_after_its_engines_are_gone(model):
    done = subprocess.run([sys.executable, "-c", SIGNALLED, str(model)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


@needs_openvino
@pytest.mark.parametrize("cut", [1, 32, 33, 2000, 10**6])
def test_what_is_kept_of_a_graph_does_no_harm_where_it_is_damaged(model, home, monkeypatch, cut):
    monkeypatch.setattr(kept, "SETTLED_NS", -1)
    windows = np.ones((1, 1, *ROI), np.float32)
    expected = run(open_engine(model, Choice("openvino"))[0], windows)
    (path,) = (home / "compiled").iterdir()
    whole = path.read_bytes()
    np.testing.assert_array_equal(run(open_engine(model, Choice("openvino"))[0], windows), expected)
    with_content(path, whole[:-cut])
    np.testing.assert_array_equal(run(open_engine(model, Choice("openvino"))[0], windows), expected)
    # It was made anew, which need not give the same bytes, and is whole: it is not made once more.
    assert kept.read_kept(path) is not None
    made = path.stat().st_mtime_ns
    np.testing.assert_array_equal(run(open_engine(model, Choice("openvino"))[0], windows), expected)
    assert path.stat().st_mtime_ns == made


@needs_openvino
def test_what_is_kept_is_of_the_very_file_and_choice(model, home, monkeypatch):
    monkeypatch.setattr(kept, "SETTLED_NS", -1)
    open_engine(model, Choice("openvino"))
    # another graph under the same name, written over the same bytes on disk
    save_model(model, graph=linear_graph([[5], [3]], [-1, 4]))
    engine, _ = open_engine(model, Choice("openvino"))
    assert run(engine, np.ones((1, 1, *ROI), np.float32))[0, 0].max() == 4
    assert "1 thread(s)" in open_engine(model, Choice("openvino", threads=1))[0].about
    assert "1 thread(s)" not in open_engine(model, Choice("openvino", threads=2))[0].about
    assert len(list((home / "compiled").iterdir())) == 1


@needs_openvino
def test_a_store_that_cannot_be_written_to_stops_nothing(model, home, monkeypatch):
    monkeypatch.setattr(kept, "SETTLED_NS", -1)
    (home / "compiled").write_text("in the way")
    assert open_engine(model, Choice("openvino"))[0].name == "openvino"
