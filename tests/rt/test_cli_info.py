from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from lrsclip_rt.cli import info
from lrsclip_rt.cpu import available_cpus, cpu_info, gpu_names
from lrsclip_rt.errors import BackendError, BundleError


def facts_of(*arguments: str) -> dict:
    result = CliRunner().invoke(info.command, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 1
    return json.loads(result.stdout)


def test_info_names_versions_cpu_and_every_backend_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = BackendError("no NVIDIA driver here")
    monkeypatch.setattr("lrsclip_rt.backends.tensorrt_backend.tensorrt_obstacle", lambda: missing)
    facts = facts_of()
    assert facts["versions"]["numpy"]
    assert facts["versions"]["onnxruntime"]
    assert isinstance(facts["gpus"], list)
    assert set(facts["cpu"]) == {"name", "architecture", "cpus", "instructions"}
    backends = {row["name"]: row for row in facts["backends"]}
    assert set(backends) == {"onnxruntime", "openvino", "tensorrt", "onnxruntime-cuda"}
    assert backends["onnxruntime"]["runs"]
    assert backends["onnxruntime"]["precisions"] == ["int8-cpu", "fp32"]
    assert "fp16" in backends["onnxruntime"]["refuses"]
    assert backends["tensorrt"]["devices"] == ["cuda"]
    assert backends["tensorrt"]["precisions"] == ["int8", "fp8", "fp16"]
    assert "no NVIDIA driver" in backends["tensorrt"]["reason"]
    assert "no engine has been built or run" in facts["proven"]["tensorrt"]
    assert "nothing of this version has run on a GPU" in facts["proven"]["gpu"]


def test_info_says_what_auto_would_choose_for_each_precision(made_bundle: Path) -> None:
    bundle = facts_of("-b", str(made_bundle))["bundle"]
    assert (bundle["name"], bundle["default_precision"], bundle["embed_dim"]) == ("handmade", "fp32", 16)
    assert bundle["precisions"]["int8-cpu"] == {"passed": True, "auto": "onnxruntime", "reason": None}
    assert bundle["precisions"]["fp16"]["auto"] is None
    assert "no backend here runs fp16" in bundle["precisions"]["fp16"]["reason"]
    assert len(bundle["identity"]) == 64
    assert bundle["auto_precision"] == "int8-cpu"


def test_a_missing_built_in_bundle_is_a_fact_and_a_named_one_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lrsclip_rt.bundle.BUILT_IN", tmp_path)
    assert "no built-in bundle" in facts_of()["bundle"]["error"]
    result = CliRunner().invoke(info.command, ["-b", str(tmp_path)])
    assert isinstance(result.exception, BundleError)


def test_both_wheels_of_onnxruntime_are_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    assert facts_of()["warnings"] == []
    monkeypatch.setattr(info, "_version", lambda name: "1.0")
    (warning,) = facts_of()["warnings"]
    assert "onnxruntime and onnxruntime-gpu are both installed" in warning


def test_the_table_for_people_holds_the_same_facts(
    made_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    facts = info.collect_facts(made_bundle)
    missing = {"runs": False, "reason": "Install it with: pip install 'lrsclip-rt[openvino]'"}
    facts["backends"][1].update(missing)
    facts["warnings"] = ["a warning"]
    facts["gpus"] = ["Orin [nvgpu]"]
    facts["cuda"] = {"driver": None, "device": None, "reason": "no NVIDIA driver here"}
    facts["jetson"] = {"board": "Orin Nano", "release": "R36.4.3", "power_mode": "MAXN_SUPER"}
    info._print(facts)
    shown = capsys.readouterr().out
    for part in (
        "handmade",
        "runs int8-cpu, fp32 on cpu",
        "lrsclip-rt[openvino]",
        "a warning",
        "Orin [nvgpu]: no NVIDIA driver here",
        "Orin Nano, L4T R36.4.3, power mode MAXN_SUPER",
    ):
        assert part in shown
    device = {"name": "NVIDIA H200", "capability": (9, 0)}
    facts["cuda"] = {"driver": "13.0", "device": device, "reason": None}
    info._print(facts)
    assert "NVIDIA H200, sm_90, driver for CUDA 13.0" in capsys.readouterr().out
    assert "int8-cpu" in shown
    assert "passed its gate; --backend auto: onnxruntime" in shown


def test_gpus_are_named_from_the_drivers_files(tmp_path: Path) -> None:
    for i, name in enumerate(["NVIDIA H200", "NVIDIA L4"]):
        (tmp_path / f"000{i}").mkdir()
        (tmp_path / f"000{i}" / "information").write_text(f"Model: \t\t {name}\nIRQ: 5\n")
    assert gpu_names(tmp_path) == ("NVIDIA H200", "NVIDIA L4")
    assert gpu_names(tmp_path / "absent") == ()


def test_the_cpus_counted_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert 1 <= available_cpus() == cpu_info().cpus
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    real = Path.read_text

    def quota(text: str) -> None:
        def read(self: Path, *args: object, **kwargs: object) -> str:
            return text if str(self) == "/sys/fs/cgroup/cpu.max" else real(self, *args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(Path, "read_text", read)

    for text, expected in (
        ("max 100000\n", 8),
        ("250000 100000\n", 2),
        ("50000 100000", 1),
        ("nonsense", 8),
        ("1 0", 8),
    ):
        quota(text)
        assert available_cpus() == expected, text
