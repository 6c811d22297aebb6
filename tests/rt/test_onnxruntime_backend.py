"""What ONNX Runtime sessions run with, and what they leave alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peak_memory import PEAK_KIB

from lrsclip_rt.backends.onnxruntime_backend import OnnxRuntimeSession
from lrsclip_rt.bundle import BUILT_IN
from lrsclip_rt.errors import BackendError

ONE_MORE_RUN = (
    PEAK_KIB
    + """
import sys
import numpy as np
from pathlib import Path
from lrsclip_rt.backends.onnxruntime_backend import OnnxRuntimeSession

session = OnnxRuntimeSession(Path(sys.argv[1]), threads=1)
pixels = np.zeros((16, *session.inputs["pixels"].shape[1:]), np.float32)
for _ in range(3):
    session.run({"pixels": pixels})
    print(peak_kib() // 1024)
"""
)


def options_of(session: OnnxRuntimeSession) -> Any:
    [loaded] = session._sessions.values()
    return loaded.get_session_options()


def test_a_session_runs_with_the_options_that_the_docs_name(made_bundle: Path) -> None:
    import onnxruntime as ort

    options = options_of(OnnxRuntimeSession(made_bundle / "text.fp32.onnx", threads=3))
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (True, False)
    entries = ("session.force_spinning_stop", "session.set_denormal_as_zero")
    assert [options.get_session_config_entry(name) for name in entries] == ["1", "0"]


def test_loading_and_running_a_graph_leaves_the_callers_denormals_alone(made_bundle: Path) -> None:
    tiny = np.array([1e-40], np.float32)
    session = OnnxRuntimeSession(made_bundle / "image.fp32.onnx", threads=1)
    session.run({"pixels": np.zeros((1, 3, 32, 32), np.float32)})
    assert (tiny * np.float32(1)).tolist() == tiny.tolist() != [0.0]


def test_rows_that_divide_among_the_threads_run_side_by_side(made_bundle: Path) -> None:
    path = made_bundle / "image.fp32.onnx"
    pixels = np.random.default_rng(0).standard_normal((18, 3, 32, 32)).astype(np.float32)
    alone = OnnxRuntimeSession(path, threads=1)
    expected = alone.run({"pixels": pixels})
    session = OnnxRuntimeSession(path, threads=3, batches=True)
    for rows in (18, 17, 3):
        np.testing.assert_array_equal(session.run({"pixels": pixels[:rows]}), expected[:rows])
    assert list(session._sessions) == [1]
    np.testing.assert_array_equal(session.run({"pixels": pixels[:4]}), expected[:4])
    assert list(session._sessions) == [1, 3], "two threads of three would idle half of the time"


def test_a_second_copy_is_loaded_for_many_rows_only(made_bundle: Path) -> None:
    session = OnnxRuntimeSession(made_bundle / "image.fp32.onnx", threads=2)
    for rows, loaded in ((1, [2]), (2, [2]), (16, [2, 1])):
        assert len(session.run({"pixels": np.zeros((rows, 3, 32, 32), np.float32)})) == rows
        assert list(session._sessions) == loaded


def test_what_fails_in_a_part_is_told(made_bundle: Path) -> None:
    session = OnnxRuntimeSession(made_bundle / "image.fp32.onnx", threads=2, batches=True)
    with pytest.raises(BackendError, match=r"image\.fp32\.onnx failed in onnxruntime"):
        session.run({"pixels": np.zeros((16, 3, 31, 31), np.float32)})


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="peak memory is counted in other units elsewhere"
)
def test_more_runs_of_one_shape_take_no_more_memory_than_the_first() -> None:
    graph = BUILT_IN / "image.fp32.onnx"
    done = subprocess.run(
        [sys.executable, "-c", ONE_MORE_RUN, graph], capture_output=True, text=True, check=True, timeout=120
    )
    peaks = [int(line) for line in done.stdout.split()]
    assert peaks[2] - peaks[0] < 16, peaks
