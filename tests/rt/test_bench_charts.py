"""Pictures and page of `lrsclip bench`: what was measured is on them, and where."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from lrsclip_rt.bench_charts import latency_chart, parity_chart, stage_chart
from lrsclip_rt.errors import InputError
from lrsclip_rt.stage_timing import time_stages
from lrsclip_rt.start_timing import time_start

SVG = "{http://www.w3.org/2000/svg}"


def row(what, contender, p50_ms, batch=1, **more):
    return {"what": what, "contender": contender, "p50_ms": p50_ms, "batch": batch, **more}


def elements(drawing, tag):
    return list(ElementTree.fromstring(drawing).iter(f"{SVG}{tag}"))


def test_the_faster_one_stands_higher_and_the_nearer_one_more_to_the_left():
    checks = [
        {"contender": "near", "image": {"mean": 0.999999}},
        {"contender": "far", "image": {"mean": 0.99}},
    ]
    rows = [row("files", "near", 1.0, per_second=10.0), row("files", "far", 1.0, per_second=90.0)]
    near, far = elements(parity_chart(checks, rows), "circle")
    assert float(near.get("cx")) < float(far.get("cx"))
    assert float(near.get("cy")) > float(far.get("cy"))


def test_a_line_has_a_point_for_each_batch_in_order():
    rows = [
        row("image tower", "a", 80.0, 8),
        row("image tower", "a", 10.0, 1),
        row("image tower", "b", 9.0, 1),
    ]
    lines = elements(latency_chart(rows), "polyline")
    assert [len(line.get("points").split()) for line in lines] == [2, 1]
    (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in lines[0].get("points").split())
    assert x1 < x2
    assert y1 > y2


def test_a_bar_is_as_long_as_its_stages_together():
    rows = [row("stage: decode", "pillow", 40.0, 4), row("stage: tower", "a", 80.0, 4)]
    drawing = stage_chart(rows)
    bars = [rect for rect in elements(drawing, "rect") if rect.get("height") == "22"]
    decode, tower = (float(bar.get("width")) for bar in bars)
    assert tower == pytest.approx(2 * decode, rel=0.01)
    assert "30.00 ms" in "".join(ElementTree.fromstring(drawing).itertext())


def test_names_of_contenders_are_escaped():
    assert "<b>" not in latency_chart([row("image tower", "<b>", 1.0)])


@pytest.mark.parametrize("draw", [latency_chart, stage_chart, lambda rows: parity_chart(rows, rows)])
def test_nothing_to_draw_is_said(draw):
    with pytest.raises(InputError, match="draw"):
        draw([])


def test_stages_without_files_or_models_are_refused():
    with pytest.raises(InputError, match="one at least"):
        time_stages({}, [], batch=1, rounds=1)


def test_a_start_that_fails_says_why(made_bundle, tmp_path, cache_home):
    from lrsclip_rt.bundle import Bundle
    from lrsclip_rt.errors import WorkerError

    with pytest.raises(WorkerError, match=r"a start of fp32 on onnxruntime failed: .*missing\.jpg"):
        time_start(
            Bundle.open(made_bundle),
            backend="onnxruntime",
            precision="fp32",
            device=None,
            threads=1,
            image=tmp_path / "missing.jpg",
            batch=1,
        )
